//! Where the guard stands: between a build and the stores. The counting is in [`super::guard`].
//!
//! A tenant that is kept back is *parked* among the dirty ones: nothing of it is sent, no scan ends without it, and it is
//! built again once its removals are decided. So a decision needs no second way to a store.
//!
//! A group leaves whole or not at all, so it waits for each of its tenants that is parked; and a decision waits for every
//! tenant of its cause. If one of these is in the group, it is built to be counted alone, and not sent: else the two would
//! wait for one another.

use super::building::Batch;
use super::built::{Built, BuiltBundle};
use super::dirty::{Lane, Sending};
use super::guard::{Found, Hold, HoldName, Over, Passed, Settled, Told};
use super::store::Outstanding;
use super::talk::Request;
use super::{Millis, Report, Snapshot, StoreIx, Writer};
use contexts::name::TenantId;
use contexts::push::ReadTenant;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tenants whose names are asked for at a time: a store answers with all that it has of them.
const NAMED_AT_ONCE: usize = 50;
/// What left is written down so often: a new writer may miss that much.
const COUNT_EVERY: Millis = 1_000;
/// Holds that could not be written are written again after this.
const WRITE_AGAIN: Millis = 1_000;

/// What is to be written into the database about holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldWork {
    /// What is to be held.
    pub hold: Option<Hold>,
    /// Holds that are over.
    pub void: Vec<HoldName>,
    /// What left, so that the next writer goes on counting.
    pub passed: Vec<Passed>,
    /// Under which queries regions were found in step.
    pub settled: Vec<Settled>,
}

/// What waits to be written, and what is being written.
#[derive(Debug, Default)]
pub struct Holding {
    holds: Vec<Hold>,
    void: BTreeSet<HoldName>,
    writing: Option<HoldWork>,
    not_before: Millis,
    /// What left is written down no sooner than this.
    count_at: Millis,
}

impl Writer {
    /// The tenants of a build that may go on. The others are parked.
    pub(super) fn pass_guard(
        &mut self,
        now: Millis,
        batch: &Batch,
        tenants: Vec<Built>,
        seen: Option<&Arc<Snapshot>>,
        excused: &BTreeMap<TenantId, Vec<HoldName>>,
        over: &BTreeMap<TenantId, Vec<Over>>,
    ) -> Vec<Built> {
        if self.guard.is_off() && batch.sending != Sending::Counted {
            return tenants;
        }
        let open = self.open_regions();
        let mut back = BTreeSet::new();
        for built in &tenants {
            let bundles: Vec<Found<'_>> = built.bundles.iter().map(|b| Found::of(b)).collect();
            let excused = excused.get(&built.tenant).map_or(&[][..], Vec::as_slice);
            let over = over.get(&built.tenant).map_or(&[][..], Vec::as_slice);
            let passes = self
                .guard
                .built(&built.tenant, &bundles, &open, excused, seen, over);
            if !passes {
                back.insert(built.tenant.clone());
            }
        }
        let (again, elsewhere): (BTreeSet<_>, BTreeSet<_>) = self
            .settle_guard(now, &mut back)
            .into_iter()
            .partition(|t| back.contains(t));
        elsewhere.iter().for_each(|tenant| self.unpark(tenant));
        if back.is_empty() && batch.sending != Sending::Counted {
            return tenants;
        }
        for tenant in &back {
            let since = self.dirty.park(tenant, batch.lane);
            self.overtake(tenant);
            if again.contains(tenant) {
                self.unpark(tenant);
            } else if since == Some(Lane::Change) {
                self.guard.share(tenant);
            }
        }
        let (parked, passed): (Vec<Built>, Vec<Built>) =
            tenants.into_iter().partition(|t| back.contains(&t.tenant));
        if batch.sending == Sending::Singly {
            return passed;
        }
        // One commit or none: they wait for those that are parked.
        let all = parked.iter().chain(&passed).map(|t| t.tenant.clone());
        self.mark_together(all.collect());
        Vec::new()
    }

    /// Regions in which a store listens, and of which removals are counted.
    fn open_regions(&self) -> Vec<bool> {
        let listens = |region: &contexts::name::Region| {
            let mut stores = self.stores.iter().filter(|_| !self.closed.contains(region));
            stores.any(|s| s.spec.region == *region && s.session().is_some())
        };
        self.regions.iter().map(listens).collect()
    }

    /// Lets time pass for the guard.
    pub(super) fn tick_guard(&mut self, now: Millis) {
        if self.guard.is_idle() {
            return;
        }
        for (region, open) in self.open_regions().into_iter().enumerate() {
            if !open {
                self.guard.region_away(region);
            }
        }
        for tenant in self.settle_guard(now, &mut BTreeSet::new()) {
            self.unpark(&tenant);
        }
    }

    /// What of a tenant is still being decided is held by name.
    pub(super) fn keep_undecided(
        &mut self,
        built: &mut Built,
        excused: &BTreeMap<TenantId, Vec<HoldName>>,
    ) {
        if !self.guard.keeps(&built.tenant) {
            return;
        }
        let excused = excused.get(&built.tenant).map_or(&[][..], Vec::as_slice);
        for (region, bundle) in built.bundles.iter_mut().enumerate() {
            if let Some(kept) = self.guard.keep(region, &bundle.bundle, excused) {
                *bundle = Arc::new(BuiltBundle::with_cut(kept, &self.key, self.limits.cut));
            }
        }
    }

    /// Takes what is decided: out of `back` what was built just now and may go on, and returns all that is to be built
    /// again.
    fn settle_guard(&mut self, now: Millis, back: &mut BTreeSet<TenantId>) -> Vec<TenantId> {
        let verdicts = self.guard.decide(now);
        self.holding.holds.extend(verdicts.holds);
        let alerts = verdicts.alerts.into_iter();
        self.reports.extend(alerts.map(Report::Guarded));
        let free = verdicts.free.into_iter();
        let (go_on, mut again): (Vec<TenantId>, Vec<TenantId>) =
            free.partition(|t| back.contains(t));
        again.extend(verdicts.again);
        for tenant in &go_on {
            back.remove(tenant);
            self.guard.goes_on(tenant);
        }
        self.guard.forget_latest();
        again
    }

    /// A tenant is built again: one that waited for it, or one that went on meanwhile.
    fn unpark(&mut self, tenant: &TenantId) {
        let lane = self.dirty.unpark(tenant).unwrap_or(Lane::Bulk);
        self.mark(tenant, lane);
    }

    /// The next tenants whose names a store is to tell.
    pub(super) fn next_names(&mut self, ix: StoreIx) -> Option<Request> {
        if self.guard.asks.is_empty() {
            return None;
        }
        let region = self.region_of(ix);
        let others = self.stores.iter().enumerate().filter(|(i, s)| {
            *i != ix.0 && s.spec.region == self.stores[ix.0].spec.region && s.session().is_some()
        });
        // One of them tells, and rather one that was found in step.
        let mine = self.stores[ix.0].synced;
        for (_, other) in others {
            let asked = matches!(other.outstanding, Some(Outstanding::Names(_)));
            if asked || (other.synced && !mine) {
                return None;
            }
        }
        let asks = self.guard.asks.iter().filter(|(r, _)| *r == region);
        let tenants: Vec<TenantId> = asks.take(NAMED_AT_ONCE).map(|(_, t)| t.clone()).collect();
        if tenants.is_empty() {
            return None;
        }
        self.stores[ix.0].outstanding = Some(Outstanding::Names(tenants.clone()));
        let owners_of = Vec::new();
        Some(Request::Names(ReadTenant { tenants, owners_of }))
    }

    /// A store told the names of some tenants.
    pub(super) fn names_told(
        &mut self,
        ix: StoreIx,
        asked: &[TenantId],
        told: &[(TenantId, Vec<Told>)],
    ) {
        let region = self.region_of(ix);
        for tenant in asked {
            let names = told.iter().find(|(t, _)| t == tenant);
            let names = names.map_or(&[][..], |(_, names)| names.as_slice());
            self.guard.named(region, tenant, names);
        }
    }

    /// Holds are over: what was held is there again, has changed again, or is let in.
    pub(super) fn void_holds(&mut self, void: Vec<HoldName>) {
        self.holding.void.extend(void);
    }

    /// What is to be written about holds now, unless something is being written.
    pub fn next_hold_work(&mut self, now: Millis) -> Option<HoldWork> {
        let Holding {
            holds,
            void,
            writing,
            not_before,
            count_at,
        } = &mut self.holding;
        let counts = self.guard.has_unwritten() || self.guard.has_unsettled();
        let counts = counts && (now >= *count_at || self.closing);
        let nothing = holds.is_empty() && void.is_empty() && !counts;
        if self.suspended || writing.is_some() || nothing || now < *not_before {
            return None;
        }
        let work = HoldWork {
            hold: holds.pop(),
            void: std::mem::take(void).into_iter().collect(),
            passed: self.guard.take_unwritten(),
            settled: self.guard.take_unsettled(),
        };
        *count_at = now + COUNT_EVERY;
        *writing = Some(work.clone());
        Some(work)
    }

    /// It was written, or not. Only then are the tenants built again: their builds find the holds.
    pub fn hold_work_done(&mut self, now: Millis, written: bool) {
        let Some(work) = self.holding.writing.take() else {
            return;
        };
        match written {
            true => {
                for tenant in work.hold.into_iter().flat_map(|h| h.tenants) {
                    if self.guard.may_build(&tenant) {
                        self.unpark(&tenant);
                    }
                }
            }
            false => {
                self.holding.holds.extend(work.hold);
                self.holding.void.extend(work.void);
                self.guard.put_back(&work.passed);
                self.guard.put_back_settled(work.settled);
                self.holding.not_before = now + WRITE_AGAIN;
            }
        }
    }

    /// Tenants that wait until it is decided whether what they lose may leave.
    pub fn guarded(&self) -> usize {
        self.dirty.parked()
    }
}
