//! The age of a store's content: seconds since the moment up to which every change at the hub is here.
//!
//! Within one boot only the boot-time clock counts. After a reboot that clock says nothing, so the wall clock bridges
//! the gap, and whatever it says, the age is never below the one that was stored: it must not become smaller by a
//! restart.

use contexts::push::Reading;
use serde::{Deserialize, Serialize};

/// The moment up to which every change is here, on the boot-time clock of this boot. Negative if it lies before the
/// boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fresh(i64);

/// What a commit stores of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFresh {
    boot: u128,
    micros: i64,
    age_at_commit: i64,
    wall_at_commit: i64,
}

impl Fresh {
    /// The moment that the hub names in a *synced*: a reading that this process gave it.
    pub fn named(reading: Reading) -> Self {
        Self(reading.micros as i64)
    }

    /// The moment, in microseconds of this boot's clock.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// The moment that many microseconds after the boot.
    pub fn at(micros: i64) -> Self {
        Self(micros)
    }

    /// The moment that many seconds before now.
    pub fn before(now: Reading, age: f64) -> Self {
        Self((now.micros as i64).saturating_sub((age * 1e6) as i64))
    }

    /// Microseconds since then.
    pub fn micros_until(self, now: Reading) -> i64 {
        (now.micros as i64).saturating_sub(self.0).max(0)
    }

    /// Seconds since then.
    pub fn age(self, now: Reading) -> f64 {
        self.micros_until(now) as f64 / 1e6
    }

    /// What to store at a commit.
    pub fn to_stored(self, now: Reading, wall: i64) -> StoredFresh {
        StoredFresh {
            boot: now.boot,
            micros: self.0,
            age_at_commit: self.micros_until(now),
            wall_at_commit: wall,
        }
    }
}

impl StoredFresh {
    /// The same moment on this boot's clock.
    pub fn on_this_boot(self, now: Reading, wall: i64) -> Fresh {
        if self.boot == now.boot {
            return Fresh(self.micros);
        }
        let down = wall.saturating_sub(self.wall_at_commit).max(0);
        let age = self.age_at_commit.max(0).saturating_add(down);
        Fresh((now.micros as i64).saturating_sub(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u128, seconds: u64) -> Reading {
        Reading {
            boot,
            micros: seconds * 1_000_000,
        }
    }

    const SECOND: i64 = 1_000_000;

    #[test]
    fn within_a_boot_the_time_that_the_agent_was_down_counts() {
        let stored = Fresh::named(at(1, 100)).to_stored(at(1, 130), 0);
        let fresh = stored.on_this_boot(at(1, 190), -7 * SECOND);
        assert_eq!(fresh.age(at(1, 190)), 90.0);
    }

    #[test]
    fn after_a_reboot_the_wall_clock_counts_and_the_age_goes_on() {
        let stored = Fresh::named(at(1, 100)).to_stored(at(1, 130), 1_000 * SECOND);
        let fresh = stored.on_this_boot(at(2, 5), 1_060 * SECOND);
        assert_eq!(fresh.age(at(2, 5)), 90.0);
        assert_eq!(fresh.age(at(2, 6)), 91.0);
    }

    #[test]
    fn a_wall_clock_that_went_back_does_not_make_the_content_younger() {
        let stored = Fresh::named(at(1, 100)).to_stored(at(1, 130), 1_000 * SECOND);
        let fresh = stored.on_this_boot(at(2, 5), 10 * SECOND);
        assert_eq!(fresh.age(at(2, 5)), 30.0);
    }

    #[test]
    fn a_reading_from_the_future_is_no_negative_age() {
        assert_eq!(Fresh::named(at(1, 100)).age(at(1, 99)), 0.0);
    }
}
