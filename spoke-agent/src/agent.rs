//! The agent as a whole: store, writer, two listeners, and an orderly end.
//!
//! The order of the start is: store (a locked or foreign file ends it), writer, listeners. The order of the stop is
//! the reverse: no request is cut off, and what was taken into the writer's queue is committed before the file closes.

use crate::clock::Clock;
use crate::config::{Run, RunConfig};
use crate::listen::{self, ListenError, Listeners, Secure, Socket, listen, until};
use crate::peer::take::Peers;
use crate::reader::Options;
use crate::reader::embedded::Embedded;
use crate::reader::follower::FollowError;
use crate::receive::{self, Receive};
use crate::reload::Reload;
use crate::serve::gate::Gate;
use crate::serve::watch::Watches;
use crate::serve::{self, Parts};
use crate::store::redb::open::{self, OpenError};
use crate::store::redb::writer::{self, Writer, WriterHandle};
use crate::store::view::Views;
use crate::{metrics, random};
use contexts::version::Incarnation;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the writer is told that the process ran.
const TICK: Duration = Duration::from_millis(100);

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store file.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An address or a socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The table of the region.
    #[error("{0}")]
    Table(String),
    /// What a follower follows, or its file.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The system refuses something that every program needs.
    #[error("the agent cannot start: {0}")]
    System(String),
}

impl StartError {
    /// Whether the configuration is at fault rather than the moment.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Store(_) | Self::Follow(_) | Self::Listen(ListenError::NotASocket { .. })
        )
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
        let reload = Reload::of(&Run::File(config.clone()));
        Box::pin(Self::start_with(config, &reload)).await
    }

    /// The same with what can be replaced while it runs, which must be of this configuration.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_with(config: RunConfig, reload: &Reload) -> Result<Self, StartError> {
        let system = |error: &dyn std::fmt::Display| StartError::System(error.to_string());
        let metrics = metrics::install(config.region.as_str()).map_err(|error| system(&error))?;
        metrics::begin_store();
        let clock = Clock::new();
        let (path, region) = (config.data.clone(), config.region.clone());
        let opening = move || open::open(&path, &region, config.cache_bytes, &clock);
        let opened = tokio::task::spawn_blocking(opening).await;
        let (db, opened) = opened.map_err(|error| system(&error))??;
        let views = Views::new(Arc::new(db));

        let push_listener = listen("push_listen", config.push_listen).await?;
        let push_addr = push_listener.local_addr().map_err(|error| system(&error))?;
        let mut read = Listeners::open(&config.read).await?;

        let incarnation = Incarnation(random::id().map_err(|error| system(&error))?);
        let token = config.push_token.shown();
        let peers = Peers::new(
            config.peers,
            &config.peers_tls,
            token,
            config.region.clone(),
        );
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
        let push_tls = config
            .push_tls
            .as_ref()
            .map(|files| Secure::new("push", files));
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
        let gathering = watches.clone().gather(views.clone(), live.clone(), clock);
        let read_routes = serve::routes(Parts {
            gate: Gate::new(config.read.token),
            policies: reload.policies(),
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
        listen::push(&mut tasks, push_listener, push_tls, push_routes, &stopped);
        read.serve(&mut tasks, read_routes, &stopped);
        let (read_listen, read_socket) = read.names();
        tracing::info!(
            region = %config.region,
            file = %config.data.display(),
            push_listen = %push_addr,
            read_listen,
            read_socket,
            "ready"
        );
        Ok(Self {
            push_addr,
            read_addr: read.address,
            views,
            watches,
            clock,
            writer: handle,
            writer_thread: thread,
            stop,
            tasks,
            socket: read.socket.take(),
        })
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
        listen::end(&mut self.tasks, self.socket.as_ref()).await;
        // A request that is cut may hold the way to the writer still, so that it would wait for ever.
        let _ = self.writer.stop().await;
        let thread = self.writer_thread;
        let joined = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
        if !joined.unwrap_or(false) {
            tracing::error!("the writer did not end in order");
        }
    }
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
