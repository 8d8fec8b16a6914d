//! Places at which a test makes the process die or stop, to see what survives. Does nothing in a release build.
//!
//! `HUBCAST_FAILPOINT=NAME[:NTH]=kill|stop` sends SIGKILL or SIGSTOP to the process itself at the NTH passage.

/// A build's snapshot was read, its result was not handed over.
pub const AFTER_SNAPSHOT: &str = "publisher.after_snapshot";
/// Bundles are about to be sent.
pub const BEFORE_PUSH: &str = "publisher.before_push";
/// Bundles were acknowledged, which nobody was told.
pub const AFTER_ACK: &str = "publisher.after_ack";

/// Passes the place `name`.
#[cfg(debug_assertions)]
pub fn pass(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: OnceLock<Option<(String, u64, Signal)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("HUBCAST_FAILPOINT").ok()?;
        let (place, action) = text.split_once('=')?;
        let (name, nth) = place.split_once(':').unwrap_or((place, "1"));
        let signal = if action == "stop" {
            Signal::STOP
        } else {
            Signal::KILL
        };
        Some((name.to_owned(), nth.parse().ok()?, signal))
    });
    if let Some((_, nth, signal)) = wanted.as_ref().filter(|(wanted, ..)| wanted == name)
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        let _ = kill_process(getpid(), *signal);
    }
}

/// Passes the place `name`: nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn pass(_name: &str) {}
