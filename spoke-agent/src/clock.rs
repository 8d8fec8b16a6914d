//! Time as the agent sees it: a boot-time clock for everything that is measured, the wall clock for `expires` and for
//! the one case in which the boot-time clock says nothing, a reboot.
//!
//! It must never compare its readings with another machine's; a [`Reading`] carries the boot that it belongs to so
//! that nobody does by accident.

use contexts::push::Reading;
use std::time::{Duration, SystemTime};

/// The boot-time clock of this machine. It runs on while the machine sleeps, and starts anew with each boot.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    boot: u128,
}

impl Clock {
    /// A clock that knows which boot it belongs to. Where the system does not say, the process counts as a boot of its
    /// own, so that a restart is treated like a reboot.
    pub fn new() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok());
        Self {
            boot: boot.unwrap_or_else(|| crate::random::id().unwrap_or(1)),
        }
    }

    /// The moment.
    pub fn reading(&self) -> Reading {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let since_boot = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32);
        Reading {
            boot: self.boot,
            micros: since_boot.as_micros() as u64,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Microseconds since 1970 by the wall clock, for `expires` and across reboots only.
pub fn wall_micros() -> i64 {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    }
}
