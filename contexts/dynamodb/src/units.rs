//! Read and write units, as the service counts them: what a table costs, and what for.

use crate::caps::Cap;
use aws_sdk_dynamodb::types::{ConsumedCapacity, ReturnConsumedCapacity};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

tokio::task_local! {
    static CAUSE: Cause;
}

/// What units are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Bundles.
    Change,
    /// The comparison at the end of a scan.
    Scan,
    /// Whatever else: signs of life, claims, questions.
    Other,
}

impl Cause {
    /// All of them, with what metrics call them.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Change, "change"),
        (Self::Scan, "scan"),
        (Self::Other, "other"),
    ];

    /// Counts what is used meanwhile for this.
    pub(crate) async fn of<T>(self, work: impl Future<Output = T>) -> T {
        CAUSE.scope(self, work).await
    }
}

/// Units used since the start, and how many may be used in a second. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Units {
    counts: Arc<[Counts; 3]>,
    read_cap: Option<Cap>,
    write_cap: Option<Cap>,
}

/// In tenths, since units come in halves.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    write: AtomicU64,
}

/// Units used at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Used {
    /// Read units.
    pub read: f64,
    /// Write units.
    pub write: f64,
}

impl std::ops::Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            read: self.read - before.read,
            write: self.write - before.write,
        }
    }
}

impl Units {
    /// What a call asks for so that its answer can be counted.
    pub(crate) const ASKED: ReturnConsumedCapacity = ReturnConsumedCapacity::Total;

    /// The same, with at most so many read and write units a second.
    pub(crate) fn capped(self, read: Option<u32>, write: Option<u32>) -> Self {
        Self {
            read_cap: read.map(Cap::new),
            write_cap: write.map(Cap::new),
            ..self
        }
    }

    /// Units used up to now.
    pub fn used(&self) -> Used {
        let all = Cause::ALL.map(|(cause, _)| self.used_for(cause));
        all.into_iter().fold(Used::default(), |sum, used| Used {
            read: sum.read + used.read,
            write: sum.write + used.write,
        })
    }

    /// Units used up to now for this.
    pub fn used_for(&self, cause: Cause) -> Used {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64 / 10.0;
        let counts = &self.counts[cause as usize];
        Used {
            read: of(&counts.read),
            write: of(&counts.write),
        }
    }

    /// Waits until something may be read.
    pub(crate) async fn turn_to_read(&self) {
        if let Some(cap) = &self.read_cap {
            cap.wait().await;
        }
    }

    /// Waits until something may be written.
    pub(crate) async fn turn_to_write(&self) {
        if let Some(cap) = &self.write_cap {
            cap.wait().await;
        }
    }

    pub(crate) fn read<'a>(&self, consumed: impl IntoIterator<Item = &'a ConsumedCapacity>) {
        let tenths = tenths(consumed);
        self.now().read.fetch_add(tenths, Ordering::Relaxed);
        if let Some(cap) = &self.read_cap {
            cap.pay(tenths as f64 / 10.0);
        }
    }

    pub(crate) fn write<'a>(&self, consumed: impl IntoIterator<Item = &'a ConsumedCapacity>) {
        let tenths = tenths(consumed);
        self.now().write.fetch_add(tenths, Ordering::Relaxed);
        if let Some(cap) = &self.write_cap {
            cap.pay(tenths as f64 / 10.0);
        }
    }

    fn now(&self) -> &Counts {
        let cause = CAUSE.try_with(|cause| *cause).unwrap_or(Cause::Other);
        &self.counts[cause as usize]
    }
}

fn tenths<'a>(consumed: impl IntoIterator<Item = &'a ConsumedCapacity>) -> u64 {
    let units = consumed.into_iter().filter_map(|c| c.capacity_units());
    (units.sum::<f64>() * 10.0).round() as u64
}
