//! Named points at which a test can kill or stop the process: `HUBCAST_FAILPOINT="name[:nth]=kill|stop"`.
//!
//! Active in debug builds only; a release build compiles [`hit`] to nothing.

/// A push is decoded, nothing is written.
pub const AFTER_DECODE: &str = "agent.after_decode";
/// Everything is written, nothing is committed.
pub const BEFORE_COMMIT: &str = "agent.before_commit";
/// The push is in the redo log, perhaps not yet on the disk, and not readable.
pub const AFTER_LOG: &str = "agent.after_log";
/// The commit is durable and readable, nothing is answered.
pub const AFTER_COMMIT: &str = "agent.after_commit";

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        nth: u64,
        signal: rustix::process::Signal,
        hits: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn parse(text: &str) -> Option<Armed> {
        let (point, action) = text.split_once('=')?;
        let (name, nth) = match point.split_once(':') {
            Some((name, nth)) => (name, nth.parse().ok()?),
            None => (point, 1),
        };
        let signal = match action {
            "kill" => rustix::process::Signal::KILL,
            "stop" => rustix::process::Signal::STOP,
            _ => return None,
        };
        Some(Armed {
            name: name.to_owned(),
            nth,
            signal,
            hits: AtomicU64::new(0),
        })
    }

    fn from_environment() -> Option<Armed> {
        let text = std::env::var("HUBCAST_FAILPOINT").ok()?;
        let armed = parse(&text);
        if armed.is_none() {
            tracing::error!(
                text,
                "HUBCAST_FAILPOINT is not NAME[:NTH]=kill|stop; ignored"
            );
        }
        armed
    }

    /// Sends the signal at the armed hit.
    pub fn hit(name: &'static str) {
        let Some(armed) = ARMED.get_or_init(from_environment) else {
            return;
        };
        if armed.name == name && armed.hits.fetch_add(1, Ordering::SeqCst) + 1 == armed.nth {
            let sent = rustix::process::kill_process(rustix::process::getpid(), armed.signal);
            if let Err(error) = sent {
                tracing::error!(name, %error, "the signal of the failpoint was not sent");
            }
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::hit;

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn hit(_name: &'static str) {}
