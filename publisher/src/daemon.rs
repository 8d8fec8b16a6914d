//! `publisher run`: stands by until it is the writer, is the writer until it is not, and stands by again. The API
//! listens all the time; a database that is down is waited for.
//!
//! A configuration that is read again ([`crate::reload`]) ends the term as a stop does, and the next one begins with what
//! is new: a term knows one set of stores and kinds from its first claim to its last. What was not acknowledged is still
//! in the outbox then, and what was asked and not answered still among the requests.

use crate::api::{self, Api, Setup};
use crate::ask::{Ask, Orders};
use crate::candidate::{Candidate, Look};
use crate::config::Config;
use crate::console::pane::{self, Pane};
use crate::console::session::Sessions;
use crate::engine::{EngineView, Parts, TermEnd};
use crate::reload::{self, Origin};
use crate::source::SourceError;
use crate::supervisor;
use crate::writer::RegionFilter;
use axum::Router;
use hubcast_tls::server::{self, Counted, Peer, Secured, ServerFiles};
use metrics_exporter_prometheus::PrometheusHandle;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_cron_scheduler::{Job, JobScheduler};

const LOOK_AT_LEASE: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long the database may take to answer.
const DATABASE_WITHIN: Duration = Duration::from_secs(15);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Something is wrong that waiting does not mend.
    #[error("{0}")]
    Misconfigured(String),
    /// Something failed.
    #[error("{0}")]
    Failed(String),
}

/// What is asked of a daemon from outside.
#[derive(Debug)]
pub struct Signals {
    /// To stop.
    pub stop: watch::Receiver<bool>,
    /// To read the configuration again.
    pub reload: mpsc::Receiver<()>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// [`DaemonError`] if it cannot start, or if the configuration and the database contradict each other.
pub async fn run(
    parts: Parts,
    config: Config,
    origin: Origin,
    metrics: PrometheusHandle,
    signals: Signals,
) -> Result<(), DaemonError> {
    let Signals { mut stop, reload } = signals;
    let listen = config.hub.listen;
    let listener = TcpListener::bind(listen).await.map_err(|e| {
        DaemonError::Failed(format!(
            "hub.listen: cannot listen on {listen}: {e}; is another publisher running here?"
        ))
    })?;
    let listen = listener
        .local_addr()
        .map_err(|e| DaemonError::Failed(e.to_string()))?;
    let (orders, mut incoming) = Orders::new();
    let (view, seen) = watch::channel(None);
    let tail = parts.tail.clone();
    let mut now = Setup {
        parts: Arc::new(parts),
        config: Arc::new(config),
    };
    let (setups, setup) = watch::channel(now.clone());
    let living = tokio::spawn(supervisor::keep_alive(seen.clone()));
    let mut scheduler = schedule(&now.config.hub.scan, orders.clone(), seen.clone()).await?;
    let api = Api {
        setup: setup.clone(),
        orders: orders.clone(),
        view: seen.clone(),
        tail,
        metrics,
        scans: AtomicU64::new(0),
        sessions: Sessions::default(),
        pane: Pane::default(),
        stopped: stop.clone(),
    };
    let api = Arc::new(api);
    let watching = tokio::spawn(pane::keep(api.clone(), stop.clone()));
    let mut stopped = stop.clone();
    let (ending, mut ended) = watch::channel(false);
    let end = async move {
        tokio::select! {
            _ = stopped.wait_for(|s| *s) => {}
            _ = ended.wait_for(|e| *e) => {}
        }
    };
    let serving = serve(
        listener,
        now.config.hub.tls.as_ref(),
        api::router(api.clone()),
        end,
    );
    tracing::info!(listen = %listen, schedule = now.config.hub.scan, regions = now.config.spokes.len(), "publisher started");
    let (ready, mut next) = mpsc::channel(1);
    let reading = tokio::spawn(reload::keep(origin, setup, reload, ready));
    // A database that is down is waited for; that is no reason not to be there.
    supervisor::ready();
    let mut agreed = false;
    let end = loop {
        let turn = Turn {
            setup: &now,
            stop: &mut stop,
            next: &mut next,
            agreed: &mut agreed,
        };
        let new = match Box::pin(turn.take(&mut incoming, &view)).await {
            Ok(Some(new)) => new,
            end => break end.map(drop),
        };
        // A tick of the new one is not missed, at worst there is one of each.
        let begun = schedule(&new.config.hub.scan, orders.clone(), seen.clone()).await;
        match begun {
            Ok(begun) => end_of(std::mem::replace(&mut scheduler, begun)).await,
            Err(error) => {
                tracing::error!(%error, "the schedule from before goes on");
            }
        }
        if !reload::same_tokens(&now.config, &new.config) {
            api.sessions.end();
        }
        setups.send_replace(new.clone());
        now = new;
        tracing::info!(
            schedule = now.config.hub.scan,
            regions = now.config.spokes.len(),
            kinds = now.config.contexts.len(),
            "the new configuration is in force"
        );
    };
    supervisor::stopping();
    reading.abort();
    end_of(scheduler).await;
    watching.abort();
    living.abort();
    ending.send_replace(true);
    // Requests under way get a moment; the process ends with or without them.
    let _ = tokio::time::timeout(Duration::from_secs(2), serving).await;
    tracing::info!("publisher stopped");
    end
}

/// Serves the API until `end`. Whoever stays out because of a certificate stays out of the API, and nothing else waits.
fn serve(
    listener: TcpListener,
    tls: Option<&ServerFiles>,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<std::io::Result<()>> {
    let Some(files) = tls else {
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let serving = axum::serve(listener, service).with_graceful_shutdown(end);
        return tokio::spawn(serving.into_future());
    };
    let server = server::server("hub.tls", files);
    crate::metrics::watch(server.certificate());
    let counted = Counted {
        metric: crate::metrics::HANDSHAKES_REFUSED,
        listener: "api",
    };
    let service = routes.into_make_service_with_connect_info::<Peer>();
    let listener = Secured::new(listener, server, counted);
    let serving = axum::serve(listener, service).with_graceful_shutdown(end);
    tokio::spawn(serving.into_future())
}

/// Asks for a scan at every tick of the schedule, unless one is running that began since the last tick. One that began
/// before is held up by a store, and gives way.
async fn schedule(
    cron: &str,
    orders: Orders,
    view: watch::Receiver<Option<EngineView>>,
) -> Result<JobScheduler, DaemonError> {
    let failed = |e| DaemonError::Failed(format!("hub.scan: {e}"));
    let scheduler = JobScheduler::new().await.map_err(failed)?;
    let running_at_last = Arc::new(Mutex::new(None));
    let job = Job::new_async(cron, move |_, _| {
        let (orders, view) = (orders.clone(), view.clone());
        let running_at_last = running_at_last.clone();
        Box::pin(async move {
            let running = match &*view.borrow() {
                None => return,
                Some(engine) => engine.scan.as_ref().map(|scan| (engine.epoch, scan.id)),
            };
            let mut last = running_at_last.lock().await;
            let before = std::mem::replace(&mut *last, running);
            drop(last);
            if running.is_none() || running == before {
                let cause = "schedule".to_owned();
                orders
                    .ask(Ask::Scan {
                        cause,
                        regions: RegionFilter::All,
                        reread: false,
                        allow_mass_delete: false,
                    })
                    .await;
            }
        })
    });
    scheduler.add(job.map_err(failed)?).await.map_err(failed)?;
    scheduler.start().await.map_err(failed)?;
    Ok(scheduler)
}

async fn end_of(mut scheduler: JobScheduler) {
    if let Err(error) = scheduler.shutdown().await {
        tracing::warn!(%error, "a schedule could not be ended");
    }
}

/// The time with one configuration.
struct Turn<'a> {
    setup: &'a Setup,
    stop: &'a mut watch::Receiver<bool>,
    next: &'a mut mpsc::Receiver<Setup>,
    /// Whether configuration and database ever agreed.
    agreed: &'a mut bool,
}

impl Turn<'_> {
    /// Works until there is another configuration, which is returned, or until it is told to stop.
    async fn take(
        self,
        orders: &mut mpsc::Receiver<crate::ask::Order>,
        view: &watch::Sender<Option<EngineView>>,
    ) -> Result<Option<Setup>, DaemonError> {
        let Setup { parts, config } = self.setup;
        let (over, mut is_over) = watch::channel(false);
        let standing = stand_by(parts, config, orders, view, &mut is_over, self.agreed);
        tokio::pin!(standing);
        let new = tokio::select! {
            end = &mut standing => return end.map(|()| None),
            _ = self.stop.wait_for(|stop| *stop) => None,
            Some(new) = self.next.recv() => Some(new),
        };
        over.send_replace(true);
        standing.await?;
        Ok(new)
    }
}

async fn stand_by(
    parts: &Parts,
    config: &Config,
    orders: &mut mpsc::Receiver<crate::ask::Order>,
    view: &watch::Sender<Option<EngineView>>,
    stop: &mut watch::Receiver<bool>,
    agreed: &mut bool,
) -> Result<(), DaemonError> {
    let mut candidate = Candidate::default();
    let mut wait = LOOK_AT_LEASE;
    let mut said = String::new();
    let mut say = |line: String| {
        if said != line {
            tracing::info!("{line}");
            said = line;
        }
    };
    while !*stop.borrow() {
        match once(parts, config, &mut candidate, orders, view, stop, agreed).await {
            Ok(Some(host)) => {
                crate::metrics::database_answered();
                wait = LOOK_AT_LEASE;
                say(format!("standing by: the writer is {host}"));
            }
            Ok(None) => wait = LOOK_AT_LEASE,
            Err(Trouble::Stop(why)) => return Err(DaemonError::Misconfigured(why)),
            // Of a database that was good before it is no mistake: it is being restored, or its password changes.
            Err(Trouble::Database(error)) if error.is_final() && !*agreed => {
                return Err(DaemonError::Misconfigured(error.to_string()));
            }
            Err(Trouble::Database(error)) => {
                crate::metrics::database_failed();
                say(format!("waiting: {error}"));
                wait = (wait * 2).min(RETRY_MAX);
            }
            Err(Trouble::Differs(why)) => {
                say(format!("waiting: {why}, and read it again (SIGHUP)"))
            }
        }
        // Orders that came while there was no writer here are dropped: whoever sent them asks the writer that there is.
        while orders.try_recv().is_ok() {}
        let _ = tokio::time::timeout(wait, stop.wait_for(|s| *s)).await;
    }
    candidate.leave_standby(parts).await;
    Ok(())
}

enum Trouble {
    Database(SourceError),
    /// Somebody ran `migrate` with another configuration while this publisher ran with the one from before.
    Differs(String),
    Stop(String),
}

impl From<SourceError> for Trouble {
    fn from(e: SourceError) -> Self {
        Self::Database(e)
    }
}

/// Looks once; if the lease is free, is the writer until that ends. Else says who is.
async fn once(
    parts: &Parts,
    config: &Config,
    candidate: &mut Candidate,
    orders: &mut mpsc::Receiver<crate::ask::Order>,
    view: &watch::Sender<Option<EngineView>>,
    stop: &mut watch::Receiver<bool>,
    agreed: &mut bool,
) -> Result<Option<String>, Trouble> {
    let definitions = parts.source.definitions();
    let definitions = parts.source.within(DATABASE_WITHIN, definitions).await?;
    if let Some(why) = definitions.refusal(config) {
        return Err(Trouble::Stop(why));
    }
    let differences = definitions.differences(config);
    if let Some(first) = differences.first() {
        let why = format!(
            "{first}: run `publisher migrate`, or use the configuration that it was run with"
        );
        return Err(match *agreed {
            true => Trouble::Differs(why),
            false => Trouble::Stop(why),
        });
    }
    *agreed = true;
    match parts
        .source
        .within(DATABASE_WITHIN, candidate.look(parts))
        .await?
    {
        Look::Held(info) => {
            let standing = candidate.stand_by(parts);
            parts.source.within(DATABASE_WITHIN, standing).await?;
            Ok(Some(info.host))
        }
        Look::Taken(lease) => {
            candidate.leave_standby(parts).await;
            match candidate.serve(parts, lease, orders, view, stop).await? {
                TermEnd::Stopped => {}
                TermEnd::Lost(why) => {
                    tracing::warn!(error = why, "this publisher is no longer the writer");
                }
            }
            Ok(None)
        }
    }
}
