//! How a scan ends for a store: *synced* is sent when nothing speaks against it, and what differs is built again.

use super::dirty::Lane;
use super::guard::Cause;
use super::scan::{Outcome, Phase, ROUNDS_MAX, Target};
use super::store::Outstanding;
use super::talk::Request;
use super::{Millis, ScanId, StoreIx, Tick, Writer};
use contexts::digest::Buckets;
use contexts::name::{Kind, TenantId};
use contexts::push::{ListBuckets, Listed, SyncVerdict, Synced};
use contexts::version::SyncId;
use std::collections::{BTreeSet, HashSet};

/// Tenants in flux that one *synced* may name; with more, it waits.
const IN_FLUX_MAX: usize = 50_000;
/// Tenants that a repair sends in one commit; more go in several.
const TOGETHER_MAX: usize = 50;

impl Writer {
    /// What the scan wants of this store now: a listing of buckets, or *synced*.
    pub(super) fn next_scan_step(
        &mut self,
        ix: StoreIx,
        draw: &mut dyn FnMut() -> u128,
    ) -> Option<Request> {
        let position = self.reached(ix);
        let region = self.region_of(ix);
        let scan = self.scan.as_mut()?;
        let target = scan.targets.get_mut(&ix).filter(|t| t.outcome.is_none())?;
        let store = &mut self.stores[ix.0];
        if let Some(buckets) = target.differing.take() {
            store.outstanding = Some(Outstanding::Buckets(scan.id, buckets.clone()));
            return Some(Request::ListBuckets(ListBuckets { buckets }));
        }
        let settled = matches!(scan.phase, Phase::Settling) && target.unconfirmed.is_empty();
        // What waited when the scan began is older than the age that *synced* stands for.
        let old = |t: &TenantId| !target.confirmed.contains(t);
        if !settled || store.queue.has_fill() || store.queue.tenants().any(old) {
            return None;
        }
        let in_flux: HashSet<TenantId> = self
            .dirty
            .iter()
            .chain(self.builds.iter())
            .chain(store.queue.tenants())
            .cloned()
            .collect();
        if in_flux.len() > IN_FLUX_MAX {
            return None;
        }
        let (fresh, reread) = (target.fresh, scan.reread);
        let expected = scan.expected(&self.key, region, &in_flux);
        let is_closed = scan.closed.contains(&store.spec.region);
        let mut unsure = scan.unsure.clone();
        let defined = scan.definitions.iter().flat_map(|(_, kinds)| kinds);
        let known = |kind: &&Kind| !is_closed && !unsure.contains(*kind);
        let kinds = defined.filter(known).cloned().collect();
        if is_closed {
            unsure.clear();
        }
        let (session, number) = store.next_number()?;
        // In order, so that the same events give the same message.
        let mut left_out: Vec<TenantId> = in_flux.into_iter().collect();
        left_out.sort_unstable();
        let synced = Synced {
            session,
            number,
            id: SyncId(draw()),
            kinds,
            unsure,
            root: self.key.root(&expected),
            in_flux: left_out,
            fresh,
            position,
            reread,
        };
        store.outstanding = Some(Outstanding::Synced(scan.id, Box::new(expected)));
        Some(Request::Synced(Box::new(synced)))
    }

    /// An answer counts only while its scan goes on for this store: one that was given up meanwhile may have been given
    /// up because the store misses something.
    pub(super) fn synced(
        &mut self,
        ix: StoreIx,
        now: Millis,
        scan: ScanId,
        expected: &Buckets,
        verdict: SyncVerdict,
    ) {
        let store = &mut self.stores[ix.0];
        let scan = self.scan.as_mut().filter(|s| s.id == scan);
        let started = scan.as_ref().map_or(Tick(0), |s| s.started);
        let looked = scan.as_ref().and_then(|s| s.looked.clone());
        let queries = scan.as_ref().map(|s| s.queries.clone());
        let target = scan.and_then(|s| s.targets.get_mut(&ix));
        let Some(target) = target.filter(|t| t.outcome.is_none()) else {
            return;
        };
        match verdict {
            SyncVerdict::InStep { reading } => {
                (store.reading, store.synced, store.synced_at) = (Some(reading), true, Some(now));
                store.scanned = looked;
                store.behind = store.behind.take().filter(|b| b.since > started);
                target.outcome = Some(Outcome::Synced);
                let under_way = self.dirty.iter().chain(self.builds.iter());
                let in_flux = under_way.chain(store.queue.tenants()).cloned().collect();
                store.compared(&in_flux);
                self.capture.strike_before(now, ix, started);
                let region = self.region_of(ix);
                self.guard.in_step(region, &queries.unwrap_or_default());
            }
            SyncVerdict::Differs { buckets } => {
                target.rounds += 1;
                target.differing = Some(expected.differing(&buckets));
                if target.rounds > ROUNDS_MAX {
                    let why = format!("it still differs after {ROUNDS_MAX} comparisons");
                    target.outcome.get_or_insert(Outcome::Failed(why));
                }
            }
        }
    }

    /// Tenants of the listed buckets that are not as expected, and of which nothing is under way, are built again.
    pub(super) fn compare(&mut self, ix: StoreIx, buckets: &[u16], listed: &[Listed]) {
        let region = self.region_of(ix);
        let Some(scan) = &self.scan else { return };
        let wanted: HashSet<usize> = buckets.iter().map(|b| usize::from(*b)).collect();
        let held: HashSet<&TenantId> = listed.iter().map(|l| &l.tenant).collect();
        let confirmed = &mut self.stores[ix.0].confirmed;
        for found in listed {
            confirmed.compare(&found.tenant, Some(found.digest));
        }
        let missing = scan
            .in_buckets(&self.key, region, &wanted)
            .filter(|t| !held.contains(t))
            .map(|t| (t.clone(), false));
        let wrong = listed
            .iter()
            .filter(|l| scan.digest(&l.tenant, region) != Some(l.digest))
            .map(|l| (l.tenant.clone(), true));
        let differing = missing.chain(wrong).collect();
        self.repair(ix, differing);
    }

    /// Builds tenants again of which a store has something else than it should, each with whether it has anything; but for those
    /// that are under way already.
    pub(super) fn repair(&mut self, ix: StoreIx, differing: BTreeSet<(TenantId, bool)>) {
        let Some(scan) = &self.scan else { return };
        let scan_id = scan.id.0;
        let elsewhere: BTreeSet<&TenantId> =
            scan.targets.values().flat_map(|t| &t.repaired).collect();
        let store = &self.stores[ix.0];
        let under_way =
            |t: &TenantId| self.dirty.contains(t) || self.builds.has(t) || store.queue.contains(t);
        // Sorted, so that what follows does not depend on the order of a hash map.
        let (waiting, differing): (BTreeSet<_>, BTreeSet<_>) =
            differing.into_iter().partition(|(t, _)| under_way(t));
        // What another store of the scan was found to need is a repair here too.
        let shared: Vec<TenantId> = waiting
            .into_iter()
            .map(|(tenant, _)| tenant)
            .filter(|t| elsewhere.contains(t))
            .collect();
        if let Some(target) = self.scan.as_mut().and_then(|s| s.targets.get_mut(&ix)) {
            target.repaired.extend(shared);
        }
        // Few enough go in one commit, so that a key which moved between them is never absent in between.
        let caused = differing
            .iter()
            .map(|(t, _)| (t.clone(), Cause::Scan(scan_id)));
        self.guard.caused(&caused.collect::<Vec<_>>());
        // Whatever was found of them before may be what is wrong.
        self.whole.extend(differing.iter().map(|(t, _)| t.clone()));
        let together = (2..=TOGETHER_MAX).contains(&differing.len());
        for (tenant, is_there) in &differing {
            self.stores[ix.0].forget(tenant);
            if !is_there {
                self.stores[ix.0].confirmed.forget(tenant);
            }
            if !together {
                self.mark(tenant, Lane::Repair);
            }
        }
        if together {
            self.mark_together(differing.iter().map(|(t, _)| t.clone()).collect());
        }
        for (tenant, _) in differing {
            if let Some(target) = self.scan.as_mut().and_then(|s| s.targets.get_mut(&ix)) {
                distrust(target, tenant);
            }
        }
    }
}

/// The store was found to differ: earlier confirmations do not count.
fn distrust(target: &mut Target, tenant: TenantId) {
    target.confirmed.remove(&tenant);
    target.unconfirmed.insert(tenant.clone());
    target.repaired.insert(tenant);
}
