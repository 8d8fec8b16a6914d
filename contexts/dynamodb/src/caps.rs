//! How much a table may cost in a second: a bucket of units for reads and one for writes.
//!
//! What a call costs is known when it is answered, so a call may begin while there is anything left in the bucket, and what
//! it takes beyond that is a debt which has to be filled up before the next one. On average a table gets so many units a
//! second; at once it gets what is left, and the calls that were under way.
//!
//! What keeps the session alive is counted and never waits: a writer that saves must not look dead.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A bucket that fills by so many units a second, and holds those of one second. Clones share it.
#[derive(Debug, Clone)]
pub struct Cap(Arc<Mutex<Bucket>>);

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    /// Below zero is a debt.
    units: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self {
            per_second,
            units: per_second,
            at: now,
        }
    }

    /// How long to wait until there is anything in it; nothing if there is.
    fn debt(&mut self, now: Instant) -> Duration {
        let filled = (now - self.at).as_secs_f64() * self.per_second;
        self.units = (self.units + filled).min(self.per_second);
        self.at = now;
        match self.units > 0.0 {
            true => Duration::ZERO,
            // A little more, so that rounding does not leave it empty.
            false => Duration::from_secs_f64(-self.units / self.per_second) + LITTLE,
        }
    }
}

const LITTLE: Duration = Duration::from_millis(1);

impl Cap {
    /// So many units a second.
    pub fn new(per_second: u32) -> Self {
        let bucket = Bucket::new(per_second, Instant::now());
        Self(Arc::new(Mutex::new(bucket)))
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        // Every change of it is a whole one, so what a panicked task left can be used.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until there is anything in the bucket.
    pub(crate) async fn wait(&self) {
        loop {
            let debt = self.bucket().debt(Instant::now());
            if debt.is_zero() {
                return;
            }
            tokio::time::sleep(debt).await;
        }
    }

    /// Takes out what was paid.
    pub(crate) fn pay(&self, units: f64) {
        self.bucket().units -= units;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds that so many calls take that cost so much each, beginning after `idle`, on a clock of their own.
    fn seconds(per_second: u32, idle: Duration, calls: usize, units: f64) -> f64 {
        let born = Instant::now();
        let mut bucket = Bucket::new(per_second, born);
        let begin = born + idle;
        let mut now = begin;
        for _ in 0..calls {
            now += bucket.debt(now);
            assert!(bucket.debt(now).is_zero(), "who waited may go on");
            bucket.units -= units;
        }
        now += bucket.debt(now);
        (now - begin).as_secs_f64()
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_second_is_free_and_the_rest_comes_at_the_rate() {
        // 1,000 units, of which 100 were there; each wait is a little longer than it must be, and fills by that.
        let took = seconds(100, Duration::ZERO, 1_000, 1.0);
        assert!((9.0..9.1).contains(&took), "{took}");
    }

    #[test]
    fn a_call_that_costs_more_than_a_second_has_is_paid_off() {
        let took = seconds(10, Duration::ZERO, 1, 100.0);
        assert!((9.0..9.1).contains(&took), "{took}");
    }

    #[test]
    fn what_is_not_used_is_not_saved_up() {
        let took = seconds(10, HOUR, 10, 10.0);
        assert!((9.0..9.1).contains(&took), "{took}");
    }

    #[test]
    fn who_stays_below_the_rate_never_waits() {
        let born = Instant::now();
        let mut bucket = Bucket::new(10, born);
        for second in 0..100 {
            let now = born + Duration::from_secs(second);
            assert!(bucket.debt(now).is_zero());
            bucket.units -= 10.0;
        }
    }
}
