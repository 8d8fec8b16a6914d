//! Calling back what was built before a moment: after the stop button, nothing may leave that was built without it.
//!
//! What waits is dropped, a build under way counts for nothing, and the tenants of both are dirty again: they are built
//! anew, and whatever shapes content now shapes them. What is under way to a store cannot be called back; it is waited for.

use super::building::Batch;
use super::built::What;
use super::scan::Phase;
use super::store::{Outstanding, of_queued};
use super::{Report, Store, StoreIx, Tick, Ticket, Writer};

/// The last moment of which everything older was called back, and who waits for it.
#[derive(Debug, Default)]
pub struct Recalls {
    since: Option<Tick>,
    waits: Vec<(Ticket, Tick)>,
    next: u64,
}

impl Writer {
    /// Calls back everything that was built before now. [`Report::Recalled`] says when nothing of it is under way.
    pub fn recall(&mut self) -> Ticket {
        let since = self.now();
        self.recalls.since = Some(since);
        for ix in (0..self.stores.len()).map(StoreIx) {
            let waiting = self.stores[ix.0].queue.clear();
            let waiting = waiting.iter().map(of_queued);
            waiting.for_each(|(tenant, lane)| self.mark(tenant, lane));
        }
        self.recalls.next += 1;
        let ticket = Ticket(self.recalls.next);
        self.recalls.waits.push((ticket, since));
        ticket
    }

    /// Whether what a build that began then found was called back.
    pub(super) fn is_recalled(&self, started: Tick) -> bool {
        self.recalls.since.is_some_and(|since| started < since)
    }

    /// A build ended that was called back while it was under way: it is done again.
    pub(super) fn build_again(&mut self, batch: Batch) {
        match batch.what {
            What::Tenants(tenants) => self.mark_again(tenants, batch.lane, batch.sending),
            What::Range(range) => {
                let scan = self.scan.as_mut();
                let Some(scan) = scan.filter(|s| batch.started >= s.started) else {
                    return;
                };
                if let Phase::Ranges { waiting, running } = &mut scan.phase {
                    *running -= 1;
                    waiting.push_front(range);
                }
            }
            // They say nothing of contents, so they count all the same.
            What::Bounds | What::Beat => {}
        }
    }

    /// Tells who waits that nothing is under way any more that was built before.
    pub(super) fn settle_recalls(&mut self) {
        let stores = &self.stores;
        let (done, waits) = std::mem::take(&mut self.recalls.waits)
            .into_iter()
            .partition(|(_, since)| !stores.iter().any(|s| is_under_way(s, *since)));
        self.recalls.waits = waits;
        let done: Vec<(Ticket, Tick)> = done;
        let reports = done
            .into_iter()
            .map(|(ticket, _)| Report::Recalled { ticket });
        self.reports.extend(reports);
    }
}

fn is_under_way(store: &Store, since: Tick) -> bool {
    matches!(&store.outstanding, Some(Outstanding::Push { bundles, .. })
        if bundles.iter().any(|q| q.started < since))
}
