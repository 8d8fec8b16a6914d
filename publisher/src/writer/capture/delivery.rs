//! What one store has got of what looks found, and since when it has all of it.

use crate::writer::StoreIx;
use crate::writer::look::LookId;
use contexts::push::Reading;
use std::collections::{BTreeMap, VecDeque};

/// A set of stores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stores(Vec<u64>);

impl Stores {
    pub(super) fn insert(&mut self, ix: StoreIx) {
        if self.0.len() <= ix.0 / 64 {
            self.0.resize(ix.0 / 64 + 1, 0);
        }
        self.0[ix.0 / 64] |= 1 << (ix.0 % 64);
    }

    pub(super) fn remove(&mut self, ix: StoreIx) -> bool {
        let Some(word) = self.0.get_mut(ix.0 / 64) else {
            return false;
        };
        let there = *word & (1 << (ix.0 % 64)) != 0;
        *word &= !(1 << (ix.0 % 64));
        there
    }

    pub(super) fn contains(&self, ix: StoreIx) -> bool {
        let word = self.0.get(ix.0 / 64);
        word.is_some_and(|w| w & (1 << (ix.0 % 64)) != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }
}

/// A reading of a store's clock from before a look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) look: LookId,
    pub(super) reading: Reading,
}

/// Marks that are kept per store. Beyond, every other one is dropped: the age is then a little older than it need be.
pub(super) const MARKS_MAX: usize = 256;

/// What is known of one store.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Entries that it has not got, by look.
    pub(super) missing: BTreeMap<LookId, usize>,
    pub(super) marks: VecDeque<Mark>,
    pub(super) fresh: Option<Reading>,
}

impl Delivery {
    pub(super) fn got(&mut self, look: LookId) {
        if let Some(count) = self.missing.get_mut(&look) {
            *count -= 1;
            if *count == 0 {
                self.missing.remove(&look);
            }
        }
    }

    /// Moves up to the last mark of which every look up to it is complete and delivered.
    pub(super) fn advance(&mut self, complete: LookId) {
        let lowest = self.missing.keys().next().copied();
        while let Some(mark) = self.marks.front() {
            if mark.look > complete || lowest.is_some_and(|l| l <= mark.look) {
                return;
            }
            self.fresh = Some(mark.reading);
            self.marks.pop_front();
        }
    }
}
