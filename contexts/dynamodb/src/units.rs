//! Read and write units, as the service counts them: what a table costs.

use aws_sdk_dynamodb::types::{ConsumedCapacity, ReturnConsumedCapacity};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Units used since the start. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Units(Arc<Counts>);

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

impl Units {
    /// What a call asks for so that its answer can be counted.
    pub(crate) const ASKED: ReturnConsumedCapacity = ReturnConsumedCapacity::Total;

    /// Units used up to now.
    pub fn used(&self) -> Used {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64 / 10.0;
        Used {
            read: of(&self.0.read),
            write: of(&self.0.write),
        }
    }

    pub(crate) fn read<'a>(&self, consumed: impl IntoIterator<Item = &'a ConsumedCapacity>) {
        self.0.read.fetch_add(tenths(consumed), Ordering::Relaxed);
    }

    pub(crate) fn write<'a>(&self, consumed: impl IntoIterator<Item = &'a ConsumedCapacity>) {
        self.0.write.fetch_add(tenths(consumed), Ordering::Relaxed);
    }
}

fn tenths<'a>(consumed: impl IntoIterator<Item = &'a ConsumedCapacity>) -> u64 {
    let units = consumed.into_iter().filter_map(|c| c.capacity_units());
    (units.sum::<f64>() * 10.0).round() as u64
}
