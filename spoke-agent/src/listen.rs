//! Listeners: over TCP, with TLS or without, and over a Unix socket, until they are stopped. It knows nothing of what is
//! answered. Connections of gateways are served by hyper itself: what axum lays around each request costs a good part of
//! the time in which a get is answered.

mod pieces;

use crate::config::ReadConfig;
use crate::metrics;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use axum::routing::future::RouteFuture;
use axum::serve::{Listener, ListenerExt};
use axum::{BoxError, Router, middleware};
use futures_util::future::{AbortHandle, AbortRegistration, Abortable, poll_immediate};
use hubcast_tls::server::{
    Counted, Peer, Secured, Server, ServerFiles, ends_with_its_certificate, server,
};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use pieces::InPieces;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that a connection gathers before it writes, and the most that the head of a request may have.
const BUFFER: usize = 64 << 10;

/// How long open connections may take to end at a stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why nothing can listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address.
    #[error("{key}: cannot listen on {address}: {why}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: String,
        /// What the system says.
        why: String,
    },
    /// Something that is no socket stands where the socket should be.
    #[error("read_socket: {} exists and is not a socket; name another path or remove it", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

/// TLS for a listener.
pub struct Secure {
    server: Server,
    counted: Counted,
}

impl Secure {
    /// For the listener with this name, from these files, which are read again when they change.
    pub fn new(listener: &'static str, files: &ServerFiles) -> Self {
        let server = server(listener, files);
        metrics::watch(server.certificate());
        let metric = metrics::HANDSHAKES_REFUSED;
        let counted = Counted { metric, listener };
        Self { server, counted }
    }

    fn over(self, listener: TcpListener) -> Secured {
        Secured::new(listener, self.server, self.counted)
    }
}

/// What answers to gateways.
pub trait Answers:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
    /// The bodies of its answers.
    type Body: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static;
}

impl<S, B> Answers for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Body = B;
}

/// Answers by these routes.
#[derive(Clone)]
pub struct Routes(pub Router);

impl Service<Request<Incoming>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // A router is always ready.
        tower_service::Service::call(&mut self.0.clone(), request.map(Body::new))
    }
}

/// Takes what the hub pushes until it is stopped. Its connections end with their certificates.
pub fn push(
    tasks: &mut JoinSet<()>,
    listener: TcpListener,
    tls: Option<Secure>,
    routes: Router,
    stopped: &watch::Receiver<bool>,
) {
    let stopped = until(stopped.clone());
    match tls {
        None => tasks.spawn(async {
            let routes = routes.into_make_service();
            let served = axum::serve(no_delay(listener), routes);
            ended(served.with_graceful_shutdown(stopped).await);
        }),
        Some(tls) => tasks.spawn(async {
            let routes = routes.layer(middleware::from_fn(ends_with_its_certificate));
            let routes = routes.into_make_service_with_connect_info::<Peer>();
            let served = axum::serve(tls.over(listener), routes);
            ended(served.with_graceful_shutdown(stopped).await);
        }),
    };
}

fn ended(served: io::Result<()>) {
    if let Err(error) = served {
        tracing::error!(%error, "a listener ended");
    }
}

/// The listeners of the read side.
pub struct Listeners {
    tcp: Option<(TcpListener, Option<Secure>)>,
    unix: Option<UnixListener>,
    /// Where it listens; the real port if the configuration asks for any.
    pub address: Option<SocketAddr>,
    /// The file of the Unix socket.
    pub socket: Option<Socket>,
}

impl Listeners {
    /// Opens those of the configuration.
    ///
    /// # Errors
    /// [`ListenError`] says what is in the way.
    pub async fn open(config: &ReadConfig) -> Result<Self, ListenError> {
        let tcp = match config.listen {
            Some(address) => Some(listen("read_listen", address).await?),
            None => None,
        };
        let address = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
        let tls = config.tls.as_ref().map(|files| Secure::new("read", files));
        let tcp = tcp.map(|listener| (listener, tls));
        let (unix, socket) = match &config.socket {
            Some(path) => {
                let (listener, socket) = Socket::open(path)?;
                (Some(listener), Some(socket))
            }
            None => (None, None),
        };
        Ok(Self {
            tcp,
            address,
            unix,
            socket,
        })
    }

    /// Answers on all of them until it is stopped.
    pub fn serve(
        &mut self,
        tasks: &mut JoinSet<()>,
        answers: impl Answers,
        stopped: &watch::Receiver<bool>,
    ) {
        match self.tcp.take() {
            Some((listener, None)) => {
                tasks.spawn(answer(no_delay(listener), answers.clone(), stopped.clone()));
            }
            Some((listener, Some(tls))) => {
                tasks.spawn(answer(tls.over(listener), answers.clone(), stopped.clone()));
            }
            None => {}
        }
        if let Some(listener) = self.unix.take() {
            tasks.spawn(answer(listener, answers, stopped.clone()));
        }
    }

    /// Where it listens, for the log.
    pub fn names(&self) -> (String, String) {
        let address = self.address.map(|address| address.to_string());
        let socket = self.socket.as_ref();
        let path = socket.map(|socket| socket.path.display().to_string());
        let none = || "none".to_owned();
        (address.unwrap_or_else(none), path.unwrap_or_else(none))
    }
}

/// The read side of whatever has no store of its own: it answers until it is stopped.
pub struct Serving {
    /// Where it listens over TCP.
    pub address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    socket: Option<Socket>,
}

impl Serving {
    /// Begins to answer on these listeners.
    pub fn start(mut listeners: Listeners, answers: impl Answers) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        listeners.serve(&mut tasks, answers, &stopped);
        Self {
            address: listeners.address,
            stop,
            tasks,
            socket: listeners.socket.take(),
        }
    }

    /// Stops listening and lets open requests end.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        end(&mut self.tasks, self.socket.as_ref()).await;
    }
}

/// Waits until all that was stopped has ended, cuts what does not end in time, and removes the socket.
pub async fn end(tasks: &mut JoinSet<()>, socket: Option<&Socket>) {
    let all_ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all_ended).await.is_err() {
        tracing::warn!("connections that did not end in time are cut");
        tasks.shutdown().await;
    }
    if let Some(socket) = socket {
        socket.remove();
    }
}

/// The file of a Unix socket, by its inode: a path can be another's by the time of the stop.
pub struct Socket {
    /// Its path.
    pub path: PathBuf,
    inode: Option<u64>,
}

impl Socket {
    fn open(path: &Path) -> Result<(UnixListener, Self), ListenError> {
        let listen_error = |error: io::Error| ListenError::Listen {
            key: "read_socket",
            address: path.display().to_string(),
            why: error.to_string(),
        };
        match std::fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => {
                // One that answers belongs to an agent that runs; only a stale one is ours to remove.
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    let why = "another process listens there".to_owned();
                    let address = path.display().to_string();
                    return Err(ListenError::Listen {
                        key: "read_socket",
                        address,
                        why,
                    });
                }
                std::fs::remove_file(path).map_err(listen_error)?;
            }
            Ok(_) => {
                return Err(ListenError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(listen_error)?;
        let inode = std::fs::symlink_metadata(path).ok().map(|file| file.ino());
        let path = path.to_owned();
        Ok((listener, Self { path, inode }))
    }

    /// Removes it, if it is this one still.
    pub fn remove(&self) {
        let there = std::fs::symlink_metadata(&self.path)
            .ok()
            .map(|file| file.ino());
        if there.is_some() && there == self.inode {
            // If it stays, the next start removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens on an address.
///
/// # Errors
/// [`ListenError`] names the key of the configuration.
pub async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ListenError::Listen {
            key,
            address: address.to_string(),
            why: match error.kind() {
                io::ErrorKind::AddrInUse => "another program uses it".into(),
                _ => error.to_string(),
            },
        })
}

/// Connections whose small answers are sent at once.
fn no_delay(listener: TcpListener) -> impl Listener<Addr = SocketAddr> {
    listener.tap_io(|stream| {
        // Without it answers are only later, not wrong.
        let _ = stream.set_nodelay(true);
    })
}

/// Answers until it is stopped; open requests end in order.
async fn answer<L: Listener>(
    mut listener: L,
    answers: impl Answers,
    stopped: watch::Receiver<bool>,
) {
    let (mut connections, mut open) = (JoinSet::new(), HashMap::new());
    let mut is_stopped = pin!(until(stopped));
    loop {
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut is_stopped => break,
        };
        // One for each: to look at what all of them share would cost each request more.
        let (stop, stopping) = AbortHandle::new_pair();
        let task = connections.spawn(serve(io, answers.clone(), stopping));
        open.insert(task.id(), stop);
        while let Some(ended) = connections.try_join_next_with_id() {
            open.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
        }
    }
    drop(listener);
    open.values().for_each(AbortHandle::abort);
    while connections.join_next().await.is_some() {}
}

/// Answers on one connection until it is closed, or the request that is open at the stop has its answer.
async fn serve<I>(io: I, answers: impl Answers, stopping: AbortRegistration)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    // Most answers are small: to copy them behind their headers costs less than to write both as they are.
    http.writev(false).max_buf_size(BUFFER);
    let connection = http.serve_connection(TokioIo::new(io), InPieces(answers));
    let mut connection = pin!(connection);
    // What breaks off a connection is the affair of whoever connected.
    let is_stopped = Abortable::new(connection.as_mut(), stopping).await.is_err();
    // A request that has arrived by then is read first, and answered.
    if is_stopped && poll_immediate(connection.as_mut()).await.is_none() {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// Waits until it is stopped.
pub async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the agent itself is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
