//! The agent as a whole: store, writer, two listeners, and an orderly end.
//!
//! The order of the start is: store (a locked or foreign file ends it), writer, listeners. The order of the stop is
//! the reverse: no request is cut off, and what was taken into the writer's queue is committed before the file closes.

use crate::clock::Clock;
use crate::config::{ReadConfig, RunConfig};
use crate::peer::take::Peers;
use crate::reader::Options;
use crate::reader::embedded::Embedded;
use crate::receive::{self, Receive};
use crate::serve::watch::Watches;
use crate::serve::{self, Parts};
use crate::store::redb::open::{self, OpenError};
use crate::store::redb::writer::{self, Writer, WriterHandle};
use crate::store::view::Views;
use crate::{metrics, random};
use axum::Router;
use axum::serve::ListenerExt;
use contexts::version::Incarnation;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the writer is told that the process ran.
const TICK: Duration = Duration::from_millis(100);
/// How long open connections may take to end at a stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store file.
    #[error(transparent)]
    Store(#[from] OpenError),
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
    /// The system refuses something that every program needs.
    #[error("the agent cannot start: {0}")]
    System(String),
}

impl StartError {
    /// Whether the configuration is at fault rather than the moment.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Store(_) | Self::NotASocket { .. })
    }
}

/// An agent that answers.
pub struct Agent {
    /// Where the hub writes; the real port if the configuration asks for any.
    pub push_addr: SocketAddr,
    /// Where gateways read.
    pub read_addr: Option<SocketAddr>,
    views: Views,
    watches: Watches,
    clock: Clock,
    writer: WriterHandle,
    writer_thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    socket: Option<Socket>,
}

impl Agent {
    /// Opens the store and both listeners.
    ///
    /// # Errors
    /// [`StartError`] says in one line what is in the way.
    pub async fn start(config: RunConfig) -> Result<Self, StartError> {
        let system = |error: &dyn std::fmt::Display| StartError::System(error.to_string());
        let metrics = metrics::install().map_err(|error| system(&error))?;
        let clock = Clock::new();
        let (path, region) = (config.data.clone(), config.region.clone());
        let opening = move || open::open(&path, &region, config.cache_bytes, &clock);
        let opened = tokio::task::spawn_blocking(opening).await;
        let (db, opened) = opened.map_err(|error| system(&error))??;
        let views = Views::new(Arc::new(db));

        let push_listener = listen("push_listen", config.push_listen).await?;
        let push_addr = push_listener.local_addr().map_err(|error| system(&error))?;
        let read = Listeners::open(&config.read).await?;

        let incarnation = Incarnation(random::id().map_err(|error| system(&error))?);
        let token = config.push_token.clone();
        let peers = Peers::new(config.peers, token, config.region.clone());
        let peers = peers.map_err(StartError::System)?;
        let peers = (!peers.is_empty()).then(|| (peers, Handle::current()));
        let started = Writer::start(
            views.clone(),
            config.memory_bytes,
            opened,
            clock,
            incarnation,
            peers,
        );
        let writer::Running {
            handle,
            live,
            thread,
        } = started.map_err(|error| system(&error))?;
        let push_routes = receive::routes(Receive {
            token: config.push_token,
            region: config.region.clone(),
            writer: handle.clone(),
            live: live.clone(),
            db: views.db().clone(),
            clock,
        });
        let (stop, stopped) = watch::channel(false);
        let watches = Watches::new(stopped.clone());
        let gathering = watches.clone().gather(views.clone(), live.clone());
        let read_routes = serve::routes(Parts {
            token: config.read.token,
            policies: config.authorize.into(),
            views: views.clone(),
            watches: watches.clone(),
            live,
            writer: handle.clone(),
            clock,
            gets: serve::counts_of_gets(),
            metrics,
        });

        let mut tasks = JoinSet::new();
        tasks.spawn(gathering);
        tasks.spawn(tick(handle.clone(), stopped.clone()));
        tasks.spawn(answer(
            no_delay(push_listener),
            push_routes,
            stopped.clone(),
        ));
        let (read_addr, socket) = (read.address, read.socket);
        if let Some(listener) = read.tcp {
            tasks.spawn(answer(
                no_delay(listener),
                read_routes.clone(),
                stopped.clone(),
            ));
        }
        if let Some(listener) = read.unix {
            tasks.spawn(answer(listener, read_routes, stopped));
        }
        let agent = Self {
            push_addr,
            read_addr,
            views,
            watches,
            clock,
            writer: handle,
            writer_thread: thread,
            stop,
            tasks,
            socket,
        };
        agent.say_ready(&config.data, config.region.as_str());
        Ok(agent)
    }

    fn say_ready(&self, data: &Path, region: &str) {
        let read = self.read_addr.map(|address| address.to_string());
        let socket = self
            .socket
            .as_ref()
            .map(|socket| socket.path.display().to_string());
        tracing::info!(
            region = %region,
            data = %data.display(),
            push_listen = %self.push_addr,
            read_listen = %read.unwrap_or_else(|| "none".into()),
            read_socket = %socket.unwrap_or_else(|| "none".into()),
            "ready"
        );
    }

    /// Reads this agent from within its own process.
    pub fn reader(&self, options: Options) -> Embedded {
        Embedded::new(
            self.views.clone(),
            self.watches.clone(),
            self.clock,
            options,
        )
    }

    /// Returns if the writer ends without being asked to: the agent cannot go on then.
    pub async fn failed(&self) {
        self.writer.closed().await;
    }

    /// Stops listening, lets open requests end, commits what is queued and closes the file.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all_ended).await.is_err() {
            tracing::warn!("connections that did not end in time are cut");
            self.tasks.shutdown().await;
        }
        if let Some(socket) = &self.socket {
            socket.remove();
        }
        // A request that is cut may hold the way to the writer still, so that it would wait for ever.
        let _ = self.writer.stop().await;
        let thread = self.writer_thread;
        let joined = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
        if !joined.unwrap_or(false) {
            tracing::error!("the writer did not end in order");
        }
    }
}

/// The listeners of the read side.
struct Listeners {
    tcp: Option<TcpListener>,
    address: Option<SocketAddr>,
    unix: Option<UnixListener>,
    socket: Option<Socket>,
}

impl Listeners {
    async fn open(config: &ReadConfig) -> Result<Self, StartError> {
        let tcp = match config.listen {
            Some(address) => Some(listen("read_listen", address).await?),
            None => None,
        };
        let address = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
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
}

/// The file of a Unix socket, by its inode: a path can be another's by the time of the stop.
struct Socket {
    path: PathBuf,
    inode: Option<u64>,
}

impl Socket {
    fn open(path: &Path) -> Result<(UnixListener, Self), StartError> {
        let listen_error = |error: io::Error| StartError::Listen {
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
                    return Err(StartError::Listen {
                        key: "read_socket",
                        address,
                        why,
                    });
                }
                std::fs::remove_file(path).map_err(listen_error)?;
            }
            Ok(_) => {
                return Err(StartError::NotASocket {
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

    fn remove(&self) {
        let there = std::fs::symlink_metadata(&self.path)
            .ok()
            .map(|file| file.ino());
        if there.is_some() && there == self.inode {
            // If it stays, the next start removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Listen {
            key,
            address: address.to_string(),
            why: match error.kind() {
                io::ErrorKind::AddrInUse => "another program uses it".into(),
                _ => error.to_string(),
            },
        })
}

fn no_delay(listener: TcpListener) -> impl axum::serve::Listener<Addr = SocketAddr> {
    listener.tap_io(|stream| {
        // Without it answers are only later, not wrong.
        let _ = stream.set_nodelay(true);
    })
}

async fn answer<L>(listener: L, routes: Router, stopped: watch::Receiver<bool>)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let served = axum::serve(listener, routes)
        .with_graceful_shutdown(until(stopped))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "a listener ended");
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the agent itself is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Tells the writer how long the process ran, by the real time between two ticks.
async fn tick(writer: WriterHandle, stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let end = until(stopped);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            _ = ticks.tick() => {
                let now = Instant::now();
                writer.ran(now - last);
                last = now;
            }
        }
    }
}
