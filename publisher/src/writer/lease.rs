//! Who may be the writer. Pure: the database row and the clock come from outside.
//!
//! Liveness only. Two writers at once are harmless, because every store listens to one (see [`contexts::gate`]); the
//! lease is there so that it is soon clear which.

use contexts::limits;
use contexts::version::Term;
use std::time::Duration;

/// The row `hubcast.writer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRow {
    /// The last term that was taken.
    pub term: Term,
    /// Raised by its holder every second.
    pub counter: u64,
    /// Whether its holder gave it back.
    pub released: bool,
}

/// What an observer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Take the lease, if the row is still as seen.
    Free,
    /// Wait: the holder was seen alive, or may be.
    Held,
}

/// Somebody who would like to be the writer. It believes only its own clock.
#[derive(Debug, Default)]
pub struct Observer {
    last: Option<(LeaseRow, Duration)>,
}

impl Observer {
    /// Takes note of the row as read at `now` on the observer's own monotonic clock.
    pub fn observe(&mut self, row: LeaseRow, now: Duration) -> Standing {
        if row.released {
            return Standing::Free;
        }
        match &self.last {
            Some((seen, since)) if *seen == row => {
                match now.saturating_sub(*since) >= limits::SILENCE {
                    true => Standing::Free,
                    false => Standing::Held,
                }
            }
            _ => {
                self.last = Some((row, now));
                Standing::Held
            }
        }
    }
}

/// A writer's own view of its lease.
#[derive(Debug)]
pub struct Tenure {
    renewed: Duration,
}

impl Tenure {
    /// After this long without a renewal the writer stops. Well before anybody else may take the lease.
    pub const STOP_AFTER: Duration = Duration::from_secs(3);

    /// After this long the term is over: a new one begins when the database is back.
    pub const OVER_AFTER: Duration = Duration::from_secs(15);

    /// A lease that was taken or renewed by a statement sent at `sent`.
    pub fn new(sent: Duration) -> Self {
        Self { renewed: sent }
    }

    /// A renewal succeeded whose statement was sent at `sent`.
    pub fn renewed(&mut self, sent: Duration) {
        self.renewed = self.renewed.max(sent);
    }

    /// Whether the term is over.
    pub fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.renewed) >= Self::OVER_AFTER
    }

    /// Whether the writer may still send.
    pub fn holds(&self, now: Duration) -> bool {
        now.saturating_sub(self.renewed) < Self::STOP_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contexts::version::Holder;

    fn row(counter: u64, released: bool) -> LeaseRow {
        LeaseRow {
            term: Term {
                epoch: 1,
                holder: Holder(1),
            },
            counter,
            released,
        }
    }

    #[test]
    fn a_lease_is_free_when_released_or_when_its_counter_stood_still_long_enough() {
        let s = Duration::from_secs;
        let mut observer = Observer::default();
        assert_eq!(observer.observe(row(1, false), s(0)), Standing::Held);
        assert_eq!(observer.observe(row(2, false), s(4)), Standing::Held);
        assert_eq!(observer.observe(row(2, false), s(8)), Standing::Held);
        assert_eq!(observer.observe(row(2, false), s(9)), Standing::Free);
        assert_eq!(
            Observer::default().observe(row(3, true), s(0)),
            Standing::Free
        );
    }

    #[test]
    fn a_writer_stops_before_anybody_may_take_over() {
        let mut tenure = Tenure::new(Duration::from_secs(0));
        tenure.renewed(Duration::from_secs(1));
        assert!(tenure.holds(Duration::from_millis(3900)));
        assert!(!tenure.holds(Duration::from_secs(4)));
        assert!(Tenure::STOP_AFTER < limits::SILENCE);
    }
}
