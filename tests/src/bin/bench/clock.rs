//! Waiting to the point, and the way out by Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use system_tests::Result;

/// How much the kernel may be late when it wakes a thread: its default slack, and a little.
const SLACK: Duration = Duration::from_micros(60);

static STOP: AtomicBool = AtomicBool::new(false);

/// Ends every measurement at its next step.
pub fn stop() {
    STOP.store(true, Ordering::Relaxed);
}

/// An error after [`stop`].
pub fn go_on() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        Err("interrupted".into())
    } else {
        Ok(())
    }
}

/// Waits until a moment: sleeps for most of it, so that the processor is left to what is measured, and spins the rest.
#[expect(
    clippy::disallowed_methods,
    reason = "measuring threads block, no task runs on them"
)]
pub fn wait_until(moment: Instant) {
    let left = moment.saturating_duration_since(Instant::now());
    if left > SLACK {
        std::thread::sleep(left - SLACK);
    }
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
}
