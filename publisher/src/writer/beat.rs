//! The beat: a row that the writer itself changes every few seconds. It takes the path of every other change (commit,
//! trigger, outbox, snapshot, push, durable), so that the lag of each store is measured rather than believed.

use super::{Millis, Report, StoreIx, Writer};
use std::collections::BTreeMap;

/// Beats under way.
#[derive(Debug, Default)]
pub struct Beats {
    /// When each was committed, for those that not every store has.
    committed: BTreeMap<u64, Millis>,
    /// One was seen in the outbox and is to be read.
    pub wanted: bool,
}

/// Beats that are remembered.
const BEATS_MAX: usize = 1_000;

impl Writer {
    /// A beat was committed.
    pub fn beat_committed(&mut self, n: u64, at: Millis) {
        self.beats.committed.insert(n, at);
        while self.beats.committed.len() > BEATS_MAX {
            self.beats.committed.pop_first();
        }
    }

    /// A snapshot showed this beat: it goes to every store.
    pub(super) fn beat_read(&mut self, n: u64) {
        let open = self.stores.iter_mut().filter(|s| s.session().is_some());
        open.for_each(|store| store.beat = Some(n));
    }

    /// A store has a beat on disk.
    pub(super) fn beat_arrived(&mut self, now: Millis, ix: StoreIx, n: u64) {
        if let Some(at) = self.beats.committed.get(&n) {
            let ms = now.saturating_sub(*at);
            self.stores[ix.0].lag = Some(ms);
            self.reports.push_back(Report::Beat { store: ix, ms });
        }
    }
}
