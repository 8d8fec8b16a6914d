//! How scans begin, go on and end. The books are in [`super::scan`].

use super::budgets::Usage;
use super::building::unbuilt;
use super::built::{BuiltBatch, What};
use super::dirty::Lane;
use super::queue::{Sort, Unit};
use super::receipts::{HeldReport, RegionFilter};
use super::scan::{FAILURES_MAX, Outcome, Phase, Scan, Target};
use super::{Millis, Report, ScanId, ScanWish, StoreIx, Tick, Writer};
use contexts::name::{Kind, Region, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// A scan begins without the stores that have not answered by then.
const FIRST_ANSWERS_WITHIN: Millis = 7_000;

/// A store that failed in a scan is scanned again after a second, then after twice as long, up to this; and up to much
/// less if it only was not there, since it may stay now.
const REFUSED_AGAIN_WITHIN: Millis = 300_000;
const LOST_AGAIN_WITHIN: Millis = 15_000;

/// Tenants whose held contexts a summary names.
const HELD_NAMED: usize = 20;
/// Held contexts of a tenant that it names.
const HELD_NAMED_EACH: usize = 10;

/// What a summary says of a store that held up a scan for which others waited, and how long it lets them begin.
const GAVE_WAY: &str =
    "it takes what it gets slowly, and others waited for a scan: it goes on after them";
const GAVE_WAY_FOR: Millis = 1_000;
/// What a summary says if the guard holds something.
const GUARD_HOLDS: &str = "too many removals or changes at once are held: `publisher held` shows them, `publisher approve` \
                           lets them through, `publisher drop` keeps the old values";

/// How a scan went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanSummary {
    /// Its number within the writer's term.
    pub id: u64,
    /// Why it ran.
    pub cause: String,
    /// How long it took.
    pub ms: Millis,
    /// Tenants at the hub.
    pub tenants: usize,
    /// Contexts at the hub.
    pub contexts: u64,
    /// The kinds that it covered.
    pub kinds: BTreeSet<Kind>,
    /// What is wrong with the hub's own data, beside single tenants.
    pub problems: Vec<String>,
    /// What is odd there and stops nothing.
    pub warnings: Vec<String>,
    /// Tenants that are near a budget or over it.
    #[serde(default)]
    pub budget_tenants: usize,
    /// The first of them.
    #[serde(default)]
    pub budgets: BTreeMap<TenantId, Vec<Usage>>,
    /// Tenants of which something is held.
    pub held_tenants: usize,
    /// What is held of the first of them.
    #[serde(default)]
    pub held: BTreeMap<TenantId, Vec<HeldReport>>,
    /// How it went for each store.
    pub stores: Vec<StoreSummary>,
}

/// How a scan went for one store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreSummary {
    /// The store.
    pub store: String,
    /// Its region.
    pub region: Region,
    /// Whether it holds what the hub has.
    pub in_step: bool,
    /// If not, why not.
    pub why: Option<String>,
    /// Bundles that were written there.
    pub pushed: u64,
    /// Tenants that differed and were repaired.
    pub repaired: u64,
    /// The first of them.
    pub repaired_tenants: Vec<TenantId>,
    /// Whether it was empty and was filled.
    pub filled: bool,
    /// If it is a table: what it was paid while the scan ran, for whatever was done there meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitsUsed>,
}

/// Units of a table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UnitsUsed {
    /// Read units.
    pub read: f64,
    /// Write units.
    pub write: f64,
}

impl ScanSummary {
    /// Whether every store is in step and the hub's data has no problem that keeps something from being published.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.held_tenants == 0 && self.stores.iter().all(|s| s.in_step)
    }
}

impl Writer {
    /// Asks for a scan of the stores in some regions; it begins when none is running.
    pub fn request_scan(
        &mut self,
        cause: &str,
        regions: RegionFilter,
        reread: bool,
        allow: bool,
    ) -> ScanId {
        self.scans += 1;
        let id = ScanId(self.scans);
        self.wishes.push_back(ScanWish {
            id,
            cause: cause.to_owned(),
            regions,
            reread,
            allow,
        });
        id
    }

    /// Lets time pass: ends what is over, begins what is due.
    pub fn tick(&mut self, now: Millis) {
        self.keep_books_small(now);
        self.give_way(now);
        self.finish_scan(now);
        self.begin_scan(now);
        self.settle_waits(now);
        self.settle_questions(now);
        self.settle_recalls();
        self.tick_guard(now);
    }

    fn begin_scan(&mut self, now: Millis) {
        let early =
            now < self.born + FIRST_ANSWERS_WITHIN && self.stores.iter().any(|s| s.is_unresolved());
        // What is done to the triggers after a scan began has to show: the first look at them comes before it.
        let early = early || self.triggers.is_none();
        if self.scan.is_some() || self.suspended || self.closing || early {
            return;
        }
        let (wish, only_behind) = match self.wishes.pop_front() {
            Some(wish) => (wish, false),
            None => {
                let due = |ix: &StoreIx| self.is_due(now, *ix);
                let Some(first) = (0..self.stores.len()).map(StoreIx).find(due) else {
                    return;
                };
                let first = self.store(first);
                let why = first.behind.as_ref().map_or("", |b| &b.why);
                let cause = format!("{}: {why}", first.spec.name);
                self.scans += 1;
                (
                    ScanWish {
                        id: ScanId(self.scans),
                        cause,
                        regions: RegionFilter::All,
                        reread: false,
                        allow: false,
                    },
                    true,
                )
            }
        };
        let building: Vec<TenantId> = self.builds.iter().cloned().collect();
        if wish.allow {
            self.guard.allow(wish.id.0);
        }
        let started = self.now();
        let mut scan = Scan::new(
            wish.id,
            wish.cause,
            started,
            now,
            wish.reread,
            self.regions.len(),
        );
        scan.looked = self.capture.last().cloned();
        let in_doubt = self.dirty.iter().chain(&building).chain(self.guard.kept());
        let in_doubt: HashSet<TenantId> = in_doubt.cloned().collect();
        for (i, store) in self.stores.iter().enumerate() {
            let wanted = wish.regions.has(&store.spec.region)
                && (!only_behind || self.is_due(now, StoreIx(i)));
            match (wanted, store.session(), store.reading) {
                (false, ..) => {}
                (true, Some(_), Some(reading)) => {
                    scan.targets.insert(
                        StoreIx(i),
                        Target::new(reading, store.is_to_be_filled(), in_doubt.clone()),
                    );
                }
                _ if only_behind => {}
                _ => {
                    let why = store
                        .failure
                        .as_ref()
                        .map_or("it has not answered yet".to_owned(), |f| f.why.clone());
                    scan.away.insert(StoreIx(i), why);
                }
            }
        }
        self.scan = Some(scan);
        // A build under way may have begun before the scan; only one that begins now counts for it.
        building.iter().for_each(|t| self.mark(t, Lane::Repair));
    }

    /// Whether a store is to be scanned because it is behind, and can be.
    pub(super) fn is_due(&self, now: Millis, ix: StoreIx) -> bool {
        let store = self.store(ix);
        store.session().is_some() && store.behind.is_some() && store.scan_after <= now
    }

    /// Whether somebody asked for a scan that has not begun.
    pub(super) fn has_wish(&self) -> bool {
        !self.wishes.is_empty()
    }

    /// Whether so much waits for a store of the scan that nothing more should be read for it.
    pub(super) fn crowded(&self) -> bool {
        !self.crowded_stores().is_empty()
    }

    /// The stores for which so much waits.
    pub(super) fn crowded_stores(&self) -> Vec<StoreIx> {
        let targets = self.scan.iter().flat_map(|s| &s.targets);
        let active = targets.filter(|(_, t)| t.outcome.is_none());
        let stores = active.map(|(ix, _)| *ix);
        stores
            .filter(|ix| self.store(*ix).queue.bytes() > self.limits.fill_bytes)
            .collect()
    }

    /// Whether the scan that runs fills this store.
    pub(super) fn is_filled(&self, ix: StoreIx) -> bool {
        let target = self.scan.as_ref().and_then(|scan| scan.targets.get(&ix));
        target.is_some_and(|target| target.filling && target.outcome.is_none())
    }

    /// The next part of the scan to read.
    pub(super) fn next_scan_build(&mut self, now: Millis) -> Option<What> {
        let crowded = self.crowded();
        let scan = self.scan.as_mut()?;
        if now < scan.retry_at || scan.is_over() {
            return None;
        }
        match &mut scan.phase {
            Phase::Bounds => {
                scan.phase = Phase::ReadingBounds;
                Some(What::Bounds)
            }
            Phase::Ranges { waiting, running } if !crowded => {
                let range = waiting.pop_front()?;
                *running += 1;
                Some(What::Range(range))
            }
            _ => None,
        }
    }

    pub(super) fn bounds_read(&mut self, started: Tick, result: BuiltBatch) {
        if let Some(scan) = self.scan.as_mut().filter(|s| started >= s.started) {
            scan.failures = 0;
            scan.note(result.problems, result.warnings);
            scan.ranges = (result.ranges.len(), 0);
            let waiting = VecDeque::from(result.ranges);
            scan.phase = Phase::Ranges {
                waiting,
                running: 0,
            };
        }
    }

    pub(super) fn range_read(
        &mut self,
        now: Millis,
        started: Tick,
        overtaken: &HashSet<TenantId>,
        result: BuiltBatch,
    ) {
        let Some(scan) = self.scan.as_mut().filter(|s| started >= s.started) else {
            return;
        };
        let found = (result.definitions, result.kinds);
        if scan.definitions.get_or_insert_with(|| found.clone()).0 != found.0 {
            return self.definitions_changed();
        }
        scan.failures = 0;
        scan.queries = result.queries.clone();
        scan.contexts += result.contexts;
        scan.unsure.extend(result.unsure);
        scan.closed.extend(result.closed.iter().cloned());
        self.closed.extend(result.closed);
        scan.note(result.problems, result.warnings);
        // Who is over a budget is not sent before the guard has seen a build.
        let over = result.over.keys().filter(|t| !overtaken.contains(*t));
        let over: Vec<TenantId> = over.cloned().collect();
        over.iter().for_each(|t| self.mark(t, Lane::Repair));
        let mut tenants: Vec<_> = result
            .tenants
            .into_iter()
            .filter(|t| !overtaken.contains(&t.tenant) && !result.over.contains_key(&t.tenant))
            .collect();
        tenants
            .iter_mut()
            .for_each(|t| self.keep_undecided(t, &result.excused));
        tenants.iter_mut().for_each(|t| self.withhold_clashes(t));
        self.void_holds(result.void);
        self.guard.limits(result.guards);
        self.guard.queries(&result.queries);
        self.note_budgets(&tenants, &result.budgets);
        for built in &tenants {
            let bundles = built.bundles.iter().map(|b| &*b.bundle);
            self.guard.read(&built.tenant, bundles);
        }
        for built in &tenants {
            self.note_held(built);
            self.retries.built(&built.tenant, unbuilt(built), now);
        }
        let Some(scan) = self.scan.as_mut() else {
            return;
        };
        for built in &tenants {
            let presences = built.presences();
            scan.record(&self.key, &built.tenant, &presences);
            let before = self.found.compare(&built.tenant, &presences);
            scan.drifted
                .extend(before.map(|before| (built.tenant.clone(), before)));
        }
        if let Phase::Ranges { waiting, running } = &mut scan.phase {
            *running -= 1;
            scan.ranges.1 += 1;
            if waiting.is_empty() && *running == 0 {
                scan.phase = Phase::Settling;
                // Whoever has a clash and no rows any more has ended it; no store may remember that it was there.
                let clashing = self.clashes.tenants().filter(|t| !scan.has_seen(t));
                let gone: BTreeSet<TenantId> = clashing.cloned().collect();
                gone.iter().for_each(|t| self.mark(t, Lane::Repair));
            }
        }
        let Some(scan) = self.scan.as_mut() else {
            return;
        };
        let is_read = matches!(scan.phase, Phase::Settling);
        let filling: Vec<StoreIx> = scan
            .active()
            .filter(|(_, t)| t.filling)
            .map(|(ix, _)| *ix)
            .collect();
        self.fill(now, started, &filling, &tenants);
        if is_read {
            self.repair_drift();
        }
    }

    fn fill(&mut self, now: Millis, started: Tick, stores: &[StoreIx], tenants: &[super::Built]) {
        let first = self.n + 1;
        if stores.is_empty() {
            return;
        }
        self.n += tenants.len() as u64;
        let filled: BTreeSet<usize> = stores.iter().map(|ix| self.region_of(*ix)).collect();
        for ix in (0..self.stores.len()).map(StoreIx) {
            if !stores.contains(&ix) && filled.contains(&self.region_of(ix)) {
                self.stores[ix.0].filled_beside(first);
            }
        }
        for ix in stores {
            let region = self.region_of(*ix);
            if self.stores[ix.0]
                .session()
                .is_none_or(|s| s.opened > started)
            {
                continue;
            }
            let there = tenants
                .iter()
                .enumerate()
                .filter(|(_, t)| t.bundles[region].presence().is_some());
            let bundles = there
                .map(|(i, t)| self.queued(&t.bundles[region], first + i as u64, started))
                .collect();
            let unit = Unit {
                bundles,
                atomic: false,
                sort: Sort::Fill,
            };
            self.enqueue(now, *ix, unit);
        }
    }

    fn definitions_changed(&mut self) {
        let why = "the definitions were changed while it ran";
        let since = self.now();
        let Some(scan) = &mut self.scan else { return };
        scan.end_all(why);
        for ix in scan.targets.keys() {
            self.stores[ix.0].set_behind("the definitions were changed".into(), since);
        }
    }

    pub(super) fn scan_build_failed(&mut self, now: Millis, started: Tick, what: What, why: &str) {
        let Some(scan) = self.scan.as_mut().filter(|s| started >= s.started) else {
            return;
        };
        scan.failures += 1;
        scan.retry_at = now + (100_u64 << scan.failures.min(6));
        match (what, &mut scan.phase) {
            (What::Range(range), Phase::Ranges { waiting, running }) => {
                *running -= 1;
                waiting.push_front(range);
            }
            (What::Bounds, phase) => *phase = Phase::Bounds,
            _ => {}
        }
        if scan.failures >= FAILURES_MAX {
            scan.end_all(why);
        }
    }

    fn held_of_first(&self, tenants: usize) -> BTreeMap<TenantId, Vec<HeldReport>> {
        let named = |held: &Vec<HeldReport>| held.iter().take(HELD_NAMED_EACH).cloned().collect();
        let first = self.held.iter().take(tenants);
        first.map(|(t, held)| (t.clone(), named(held))).collect()
    }

    fn finish_scan(&mut self, now: Millis) {
        if !self.scan.as_ref().is_some_and(Scan::is_over) {
            return;
        }
        let Some(mut scan) = self.scan.take() else {
            return;
        };
        let since = self.now();
        let mut stores = Vec::new();
        for (ix, target) in &scan.targets {
            let store = &mut self.stores[ix.0];
            let why = match &target.outcome {
                Some(Outcome::Failed(why)) => Some(why.clone()),
                Some(Outcome::GaveWay) => Some(GAVE_WAY.to_owned()),
                _ => None,
            };
            match &why {
                None => (store.scans_failed, store.scan_after) = (0, 0),
                Some(why) if target.outcome == Some(Outcome::GaveWay) => {
                    store.set_behind(why.clone(), since);
                    store.scan_after = now + GAVE_WAY_FOR;
                }
                Some(why) => {
                    store.set_behind(why.clone(), since);
                    let was_there = store.session().is_some_and(|s| s.opened <= scan.started);
                    store.scan_after = now + again_after(store.scans_failed, was_there);
                    store.scans_failed += 1;
                }
            }
            stores.push(StoreSummary {
                store: store.spec.name.clone(),
                region: store.spec.region.clone(),
                in_step: why.is_none(),
                why,
                pushed: target.pushed,
                repaired: target.repaired.len() as u64,
                repaired_tenants: target.repaired.iter().take(20).cloned().collect(),
                filled: target.filling,
                units: None,
            });
        }
        for (ix, why) in &scan.away {
            let spec = &self.stores[ix.0].spec;
            let (store, region) = (spec.name.clone(), spec.region.clone());
            let (pushed, repaired, repaired_tenants) = (0, 0, Vec::new());
            let why = Some(why.clone());
            stores.push(StoreSummary {
                store,
                region,
                in_step: false,
                why,
                pushed,
                repaired,
                repaired_tenants,
                filled: false,
                units: None,
            });
        }
        if self.closing && stores.iter().any(|s| !s.in_step) {
            // Broken off by the end of the term, it says nothing about a store; whoever asked for it asks the next writer.
            return;
        }
        let mut problems: Vec<String> = scan.problems.iter().cloned().collect();
        let by_guard = |held: &Vec<HeldReport>| held.iter().any(HeldReport::is_of_guard);
        if self.held.values().any(by_guard) {
            problems.push(GUARD_HOLDS.to_owned());
        }
        self.reports.push_back(Report::ScanEnded(ScanSummary {
            id: scan.id.0,
            ms: now.saturating_sub(scan.started_at),
            tenants: scan.tenants(),
            contexts: scan.contexts,
            kinds: scan
                .definitions
                .as_ref()
                .map(|(_, kinds)| kinds.clone())
                .unwrap_or_default(),
            problems,
            warnings: scan.warnings.iter().cloned().collect(),
            held_tenants: self.held.len(),
            budget_tenants: self.budgets.tenants(),
            budgets: self.budgets.first(HELD_NAMED),
            held: self.held_of_first(HELD_NAMED),
            stores,
            cause: std::mem::take(&mut scan.cause),
        }));
        if let Some(found) = scan.take_found() {
            self.found.by_scan(found);
        }
    }
}

/// How long after a failed scan a store is scanned again.
fn again_after(failed_before: u32, was_there: bool) -> Millis {
    let most = match was_there {
        true => REFUSED_AGAIN_WITHIN,
        false => LOST_AGAIN_WITHIN,
    };
    (1_000_u64 << failed_before.min(9)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_lost_in_a_scan_does_not_wait_for_minutes() {
        let waits = |was_there| [0, 3, 9, 99].map(|failed| again_after(failed, was_there));
        assert_eq!(waits(true), [1_000, 8_000, 300_000, 300_000]);
        assert_eq!(waits(false), [1_000, 8_000, 15_000, 15_000]);
    }
}
