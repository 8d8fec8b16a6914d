//! The share of the primary that builds of changes may take. Pure. Single changes never notice: each build draws on an
//! allowance that fills up by itself, and only who changes more than it covers waits, and is then built in larger
//! batches, which cost less each.

use super::Millis;

/// A tenant draws so many milliseconds: a thousand in a second are built without a pause.
const PER_TENANT: u64 = 1;
/// A build draws at least so many times the time that it took: a third of one connection's time.
const PER_MILLISECOND: u64 = 3;
/// What may be drawn at once, after a quiet time.
const BURST: i64 = 1_000;
/// What a build that was slow draws at most: others do not wait long for one whose tenant is to blame.
const SLOW_MAX: u64 = 250;

/// An allowance of one lane.
#[derive(Debug)]
pub struct Pace {
    /// In milliseconds; negative while it is overdrawn.
    allowance: i64,
    at: Millis,
}

impl Default for Pace {
    fn default() -> Self {
        let (allowance, at) = (BURST, 0);
        Self { allowance, at }
    }
}

impl Pace {
    /// When a build may begin, if it has to wait.
    pub fn wait(&mut self, now: Millis) -> Option<Millis> {
        let gained = now.saturating_sub(self.at) as i64;
        self.allowance = (self.allowance + gained).min(BURST);
        self.at = self.at.max(now);
        (self.allowance < 0).then(|| now + self.allowance.unsigned_abs())
    }

    /// A build of so many tenants took so long.
    pub fn took(&mut self, tenants: usize, ms: Millis) {
        let time = (ms * PER_MILLISECOND).min(SLOW_MAX);
        self.allowance -= time.max(tenants as u64 * PER_TENANT) as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tenants that are built in a minute, in batches of `size` that take `ms` each, and the time that they take.
    fn a_minute(size: usize, ms: Millis) -> (usize, Millis) {
        let (mut pace, mut now, mut built, mut busy) = (Pace::default(), 0, 0, 0);
        while now < 60_000 {
            match pace.wait(now) {
                Some(at) => now = at,
                None => {
                    pace.took(size, ms);
                    (now, built, busy) = (now + ms, built + size, busy + ms);
                }
            }
        }
        (built, busy)
    }

    #[test]
    fn a_thousand_tenants_a_second_are_built_and_a_third_of_the_time_is_taken() {
        let (built, busy) = a_minute(100, 10);
        assert!(
            (60_000..62_500).contains(&built) && busy < 7_000,
            "{built} in {busy} ms"
        );
        let (_, busy) = a_minute(1, 20);
        assert!((19_000..22_000).contains(&busy), "{busy} ms");
    }

    #[test]
    fn two_hundred_changes_a_second_never_wait() {
        let (mut pace, mut now) = (Pace::default(), 0);
        for _ in 0..10_000 {
            assert_eq!(pace.wait(now), None);
            pace.took(1, 1);
            now += 5;
        }
    }

    #[test]
    fn one_slow_build_does_not_keep_others_waiting() {
        let mut pace = Pace::default();
        (0..10).for_each(|_| pace.took(1, 60_000));
        assert_eq!(pace.wait(0), Some(1_500));
        let mut pace = Pace::default();
        pace.took(1, 60_000);
        assert_eq!(pace.wait(0), None);
    }
}
