//! What systemd is told, where it asked to be (`NOTIFY_SOCKET`): that the program answers, that it stops, and that it lives
//! (`WatchdogSec=`). Must never decide or hold up anything: systemd not hearing is no reason to stop.

use crate::engine::EngineView;
use sd_notify::NotifyState;
use tokio::sync::watch;

/// Signs of life in the time in which systemd waits for one.
const EACH: u32 = 3;

/// The listeners answer.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The program was asked to stop.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::debug!(error = %e, "systemd cannot be told");
    }
}

/// Gives signs of life as long as the runtime runs its tasks and, on the writer, its steps follow one another: each shows
/// itself in the view, many times a second.
pub async fn keep_alive(mut view: watch::Receiver<Option<EngineView>>) {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(within / EACH);
    loop {
        ticks.tick().await;
        let went_on = view.has_changed().unwrap_or(false);
        if view.borrow_and_update().is_none() || went_on {
            tell(NotifyState::Watchdog);
        }
    }
}
