//! The monotonic clock of one machine: it begins where no other one does, and is a little fast or slow. The world's time
//! is for the database and the checks alone: publishers and stores are told what their own clocks show.

use rand::Rng;
use rand::rngs::SmallRng;
use std::time::Duration;

/// A machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What it showed when the world began, in milliseconds.
    origin: u64,
    /// Thousandths of a second that it counts in a second.
    per_mille: u64,
}

impl Clock {
    /// That of some machine.
    pub fn random(rng: &mut SmallRng) -> Self {
        Self {
            origin: rng.random_range(0..10_000_000),
            per_mille: rng.random_range(970..=1_030),
        }
    }

    /// What it shows, in whole milliseconds.
    pub fn millis(self, now: u64) -> u64 {
        self.origin + now * self.per_mille / 1_000
    }

    /// What it shows, in microseconds.
    pub fn micros(self, now: u64) -> u64 {
        self.origin * 1_000 + now * self.per_mille
    }

    /// The moment when it showed so many microseconds.
    pub fn when(self, micros: u64) -> u64 {
        micros.saturating_sub(self.origin * 1_000) / self.per_mille
    }

    /// How much time it counts between two moments.
    pub fn between(self, since: u64, now: u64) -> Duration {
        Duration::from_micros((now - since) * self.per_mille)
    }
}
