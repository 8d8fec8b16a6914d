//! The share of the primary's time that builds of changes may take. Pure. Single changes never notice: each build draws
//! on an allowance that fills up by itself, and only who changes more than it covers waits, and is then built in
//! larger batches, which cost less each.

use super::Millis;

/// Builds of changes take up to one third of one connection's time.
const SHARE: u64 = 3;
/// What may be used at once, after a quiet time.
const BURST: Millis = 60;

/// The longest that changes wait for their turn, in milliseconds.
const WAIT_MAX: i64 = 250;

/// An allowance of one lane.
#[derive(Debug)]
pub struct Pace {
    /// Build time that may be used, in milliseconds times [`SHARE`]; negative while it was overdrawn.
    allowance: i64,
    at: Millis,
}

impl Default for Pace {
    fn default() -> Self {
        let (allowance, at) = ((BURST * SHARE) as i64, 0);
        Self { allowance, at }
    }
}

impl Pace {
    /// Whether a build may begin; if not, when.
    pub fn wait(&mut self, now: Millis) -> Option<Millis> {
        let gained = now.saturating_sub(self.at) as i64;
        self.allowance = (self.allowance + gained).min((BURST * SHARE) as i64);
        self.at = self.at.max(now);
        (self.allowance < 0).then(|| now + self.allowance.unsigned_abs())
    }

    /// A build took so long. A slow one, whose tenant is to blame, does not keep the others waiting for as long.
    pub fn took(&mut self, ms: Millis) {
        self.allowance = (self.allowance - (ms * SHARE) as i64).max(-WAIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_take_a_third_of_the_time_and_a_single_one_never_waits() {
        let (mut pace, mut now, mut busy) = (Pace::default(), 1_000, 0);
        assert_eq!(pace.wait(now), None);
        while now < 61_000 {
            match pace.wait(now) {
                Some(at) => now = at,
                None => {
                    pace.took(20);
                    (now, busy) = (now + 20, busy + 20);
                }
            }
        }
        assert!((19_000..21_000).contains(&busy), "{busy} ms of a minute");
        assert_eq!(pace.wait(now + 1_000), None);
        pace.took(60_000);
        assert_eq!(pace.wait(now + 1_000), Some(now + 1_250));
    }
}
