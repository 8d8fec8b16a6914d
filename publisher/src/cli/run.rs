//! `publisher run`.

use super::{Context, Exit, Stop};
use crate::daemon::{self, DaemonError, Signals};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

pub(super) async fn run(context: Context) -> Result<Exit, Stop> {
    let metrics = crate::metrics::install().map_err(Stop::Failed)?;
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Stop::Failed(e.to_string()))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        stop.send_replace(true);
    });
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| Stop::Failed(e.to_string()))?;
    // Asked twice before it is read is asked once.
    let (ask, reload) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = ask.try_send(());
        }
    });
    let signals = Signals {
        stop: stopped,
        reload,
    };
    let Context {
        config,
        parts,
        origin,
        ..
    } = context;
    // A task of its own, not the main thread's: the engine then goes on where an answer arrived, and no other thread
    // has to be woken for it.
    match tokio::spawn(daemon::run(parts, config, origin, metrics, signals)).await {
        Ok(Ok(())) => Ok(Exit::Done),
        Ok(Err(DaemonError::Misconfigured(why))) => Err(Stop::Usage(why)),
        Ok(Err(DaemonError::Failed(why))) => Err(Stop::Failed(why)),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
