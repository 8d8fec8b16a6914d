//! A listener with TLS. A handshake holds up no other one and has a limit of time; what is refused is counted each time
//! and logged once per reason and hour.
//!
//! TLS looks at certificates only in a handshake, and the hub keeps its connections for days. So where clients show
//! certificates, a connection ends with them ([`ends_with_its_certificate`]): once the client's or the listener's own has
//! expired, or once the files were replaced, so that the next handshake decides by what is there now. Sessions are not
//! resumed there, since a resumed one shows no certificate.

use crate::files::{Identity, always, expires, identity, roots};
use crate::reload::Reloading;
use crate::trouble::{self, BROKE, SILENT, Trouble};
use crate::{now, provider};
use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long whoever is refused has to read why.
const LINGER: Duration = Duration::from_secs(1);
/// The same refusal is logged once in this time.
const AGAIN: Duration = Duration::from_secs(3600);

/// As whom a listener answers, and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// What it shows.
    pub identity: Identity,
    /// Who connects must show a certificate from this CA.
    pub client_ca: Option<PathBuf>,
}

/// What a listener works with, as its files are now.
pub type Server = Reloading<Arc<ServerConfig>>;

/// The configuration of a listener, made again when its files change.
pub fn server(name: &str, files: &ServerFiles) -> Server {
    let Identity { cert, key } = files.identity.clone();
    let mut paths = vec![cert, key];
    paths.extend(files.client_ca.clone());
    Reloading::start(name, paths, true, |read| {
        let [cert, key, ca @ ..] = read else {
            unreachable!("a certificate and a key were read");
        };
        let (certified, ends) = identity(cert, key)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| crate::files::bad(&cert.path, error.to_string()))?;
        let builder = match ca.first() {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(roots(ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = verifier.build();
                let verifier =
                    verifier.map_err(|error| crate::files::bad(&ca.path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(always(certified));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !ca.is_empty() {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok((Arc::new(config), Some(ends)))
    })
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    under: Option<Arc<Under>>,
}

/// What a connection was made under.
#[derive(Debug)]
struct Under {
    server: Server,
    number: u64,
    ends: Option<i64>,
}

impl Connected<IncomingStream<'_, Secured>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Secured>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Where refusals are counted: a counter with the labels `listener` and `reason`.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// The name of the metric.
    pub metric: &'static str,
    /// A word for the listener.
    pub listener: &'static str,
}

/// A listener with TLS.
pub struct Secured {
    tcp: TcpListener,
    server: Server,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, Peer)>>,
    refusals: Arc<Refusals>,
}

impl Secured {
    /// What comes to `tcp` from now on is TLS.
    pub fn new(tcp: TcpListener, server: Server, counted: Counted) -> Self {
        for reason in trouble::REASONS {
            counted.count(reason, 0);
        }
        Self {
            tcp,
            server,
            handshakes: JoinSet::new(),
            refusals: Arc::new(Refusals {
                counted,
                said: Mutex::default(),
            }),
        }
    }
}

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (stream, address) = Listener::accept(&mut self.tcp) => {
                    let shaking = handshake(stream, address, self.server.clone(), self.refusals.clone());
                    self.handshakes.spawn(shaking);
                }
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        let address = self.tcp.local_addr()?;
        let under = None;
        Ok(Peer { address, under })
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    server: Server,
    refusals: Arc<Refusals>,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    // Without it answers are only later, not wrong.
    let _ = stream.set_nodelay(true);
    let made = server.now();
    // Without a certificate there is nobody to be; the log has said why.
    let config = made.it.clone().ok()?;
    let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
    match timeout(HANDSHAKE, accepting).await {
        Ok(Ok(stream)) => {
            let shown = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|all| all.first());
            let ends = [shown.and_then(expires), made.ends]
                .into_iter()
                .flatten()
                .min();
            let number = made.number;
            let under = Some(Arc::new(Under {
                server,
                number,
                ends,
            }));
            Some((stream, Peer { address, under }))
        }
        Ok(Err((error, stream))) => {
            refusals.note(trouble::of(&error).unwrap_or(BROKE), address);
            let _ = timeout(LINGER, let_read(stream)).await;
            None
        }
        Err(_) => {
            refusals.note(SILENT, address);
            None
        }
    }
}

/// Waits until the other side closes: whoever closes first, with bytes unread, takes back the reason that was sent.
async fn let_read(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Layer of a listener whose clients show certificates: nothing is taken over a connection whose certificates have
/// expired, and after the files were replaced each connection ends with its next answer. The status is 421, upon which
/// a client may send the same again over another connection.
pub async fn ends_with_its_certificate(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let Some(under) = peer.and_then(|peer| peer.0.under.clone()) else {
        return next.run(request).await;
    };
    let close = HeaderValue::from_static("close");
    if under.ends.is_some_and(|ends| ends < now()) {
        let why = "the certificate under which this connection was made has expired\n";
        let headers = [(CONNECTION, close)];
        return (StatusCode::MISDIRECTED_REQUEST, headers, why).into_response();
    }
    let mut response = next.run(request).await;
    if under.server.now().number != under.number {
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// Counts refusals, and logs news.
struct Refusals {
    counted: Counted,
    said: Mutex<HashMap<&'static str, Instant>>,
}

impl Counted {
    fn count(self, reason: &'static str, times: u64) {
        let counter =
            metrics::counter!(self.metric, "listener" => self.listener, "reason" => reason);
        counter.increment(times);
    }
}

impl Refusals {
    fn note(&self, trouble: Trouble, from: SocketAddr) {
        self.counted.count(trouble.reason, 1);
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let last = said.insert(trouble.reason, now);
        if let Some(last) = last.filter(|last| now - *last < AGAIN) {
            // The hour counts from the line, not from the last refusal.
            said.insert(trouble.reason, last);
            return;
        }
        drop(said);
        let (listener, reason, error) = (self.counted.listener, trouble.reason, trouble.text);
        let peer = from.ip();
        tracing::warn!(listener, reason, error, %peer, "a connection was refused; further ones for this reason are counted");
    }
}
