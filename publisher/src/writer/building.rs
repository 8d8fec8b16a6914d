//! Builds: which are wanted, which are under way, and what becomes of their results.

use super::built::{BuildRequest, Built, BuiltBatch, BuiltBundle, What};
use super::dirty::{Lane, Sending};
use super::queue::{Queued, Sort, Unit};
use super::receipts::Delivery;
use super::{BatchId, Millis, Report, StoreIx, Tick, Writer};
use contexts::bundle::{Bundle, HoldReason};
use contexts::name::TenantId;
use contexts::push::Sent;
use contexts::version::Version;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A build under way.
#[derive(Debug)]
pub struct Batch {
    pub(super) what: What,
    pub(super) started: Tick,
    pub(super) sending: Sending,
    pub(super) lane: Lane,
    begun_at: Millis,
    /// For ranges: tenants that the range does not speak for.
    overtaken: HashSet<TenantId>,
}

/// The builds under way.
#[derive(Debug, Default)]
pub struct BuildQueue {
    batches: BTreeMap<BatchId, Batch>,
    building: HashMap<TenantId, BatchId>,
    next: u64,
    failures: u32,
    retry_at: Millis,
}

impl BuildQueue {
    /// Tenants being built (those of ranges are not known yet).
    pub fn tenants(&self) -> usize {
        self.building.len()
    }

    /// Whether nothing is being built.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether this tenant is being built by name.
    pub fn has(&self, tenant: &TenantId) -> bool {
        self.building.contains_key(tenant)
    }

    /// The tenants being built by name.
    pub fn iter(&self) -> impl Iterator<Item = &TenantId> {
        self.building.keys()
    }

    /// A tenant became dirty: ranges under way do not speak for it.
    pub fn overtake(&mut self, tenant: &TenantId) {
        let ranges = self
            .batches
            .values_mut()
            .filter(|b| matches!(b.what, What::Range(_)));
        for batch in ranges {
            batch.overtaken.insert(tenant.clone());
        }
    }

    fn count(&self, wanted: impl Fn(&What) -> bool) -> usize {
        self.batches.values().filter(|b| wanted(&b.what)).count()
    }

    /// When the last of the builds of changes began that are under way.
    pub(super) fn change_begun(&self) -> Option<Millis> {
        let is_change = |b: &&Batch| matches!(b.what, What::Tenants(_)) && b.lane == Lane::Change;
        self.batches
            .values()
            .filter(is_change)
            .map(|b| b.begun_at)
            .max()
    }

    /// Whether tenants are being built that others should not have to wait for.
    fn has_slow(&self) -> bool {
        self.batches
            .values()
            .any(|b| matches!(b.what, What::Tenants(_)) && b.lane != Lane::Change)
    }

    fn begin(&mut self, batch: Batch) -> BuildRequest {
        self.next += 1;
        let (id, what) = (BatchId(self.next), batch.what.clone());
        if let What::Tenants(tenants) = &what {
            self.building
                .extend(tenants.iter().map(|t| (t.clone(), id)));
        }
        self.batches.insert(id, batch);
        BuildRequest::new(id, what)
    }

    fn end(&mut self, id: BatchId) -> Option<Batch> {
        let batch = self.batches.remove(&id)?;
        if let What::Tenants(tenants) = &batch.what {
            for tenant in tenants {
                self.building.remove(tenant);
            }
        }
        Some(batch)
    }
}

impl Writer {
    /// The next build to begin now, if one is wanted and there is room for it.
    pub fn next_build(&mut self, now: Millis) -> Option<BuildRequest> {
        if self.suspended || self.closing || now < self.builds.retry_at {
            return None;
        }
        if self.builds.count(|w| matches!(w, What::Tenants(_))) < self.limits.builds {
            let (builds, guard, max) = (&self.builds, &self.guard, self.limits.batch_tenants);
            // Bulk changes and repairs are many at once: one batch at a time, and repairs only while the stores keep up.
            let (slow, crowded) = (builds.has_slow(), self.crowded());
            let paces = &mut self.paces;
            let due = [paces[0].wait(now).is_none(), paces[1].wait(now).is_none()];
            let open = |lane| match lane {
                Lane::Change => due[0],
                Lane::Bulk => due[1] && !slow,
                Lane::Repair => !slow && !crowded,
            };
            let taken = self
                .dirty
                .take(max, open, |t| builds.has(t), |t| guard.counts(t));
            if let Some(taken) = taken {
                let started = self.now();
                taken.tenants.iter().for_each(|t| self.guard.begun(t));
                let whole = taken.tenants.iter().filter_map(|t| self.whole.take(t));
                let whole = whole.collect();
                let request = self.builds.begin(Batch {
                    what: What::Tenants(taken.tenants),
                    started,
                    sending: taken.sending,
                    lane: taken.lane,
                    begun_at: now,
                    overtaken: HashSet::new(),
                });
                return Some(BuildRequest { whole, ..request });
            }
        }
        if std::mem::take(&mut self.beats.wanted) {
            let started = self.now();
            return Some(self.builds.begin(Batch {
                what: What::Beat,
                started,
                sending: Sending::Singly,
                lane: Lane::Change,
                begun_at: now,
                overtaken: HashSet::new(),
            }));
        }
        let running = self
            .builds
            .count(|w| !matches!(w, What::Tenants(_) | What::Beat));
        if running >= self.limits.ranges {
            return None;
        }
        let what = self.next_scan_build(now)?;
        let started = self.now();
        let overtaken = self
            .dirty
            .iter()
            .chain(self.builds.iter())
            .cloned()
            .collect();
        Some(self.builds.begin(Batch {
            what,
            started,
            sending: Sending::Singly,
            lane: Lane::Repair,
            begun_at: now,
            overtaken,
        }))
    }

    /// The result of a build. An error concerns the database as a whole; whatever is wrong with single tenants is in
    /// their bundles.
    pub fn built(&mut self, now: Millis, id: BatchId, result: Result<BuiltBatch, String>) {
        let Some(batch) = self.builds.end(id) else {
            return;
        };
        if let What::Tenants(tenants) = &batch.what
            && batch.lane != Lane::Repair
        {
            let ms = now.saturating_sub(batch.begun_at);
            self.paces[batch.lane as usize].took(tenants.len(), ms);
        }
        match result {
            Err(why) => self.build_failed(now, batch, why),
            Ok(_) if is_content(&batch.what) && self.is_recalled(batch.started) => {
                self.build_again(batch)
            }
            Ok(result) => {
                (self.builds.failures, self.builds.retry_at) = (0, 0);
                match batch.what {
                    What::Bounds => self.bounds_read(batch.started, result),
                    What::Beat => result.beat.into_iter().for_each(|n| self.beat_read(n)),
                    What::Range(_) => self.range_read(now, batch.started, &batch.overtaken, result),
                    What::Tenants(_) => self.tenants_built(now, &batch, result),
                }
            }
        }
    }

    fn build_failed(&mut self, now: Millis, batch: Batch, why: String) {
        self.builds.failures += 1;
        self.builds.retry_at = now + (100_u64 << self.builds.failures.min(6)).min(5_000);
        self.reports
            .push_back(Report::BuildFailed { why: why.clone() });
        match batch.what {
            What::Tenants(tenants) => self.mark_again(tenants, batch.lane, batch.sending),
            What::Beat => self.beats.wanted = true,
            what => self.scan_build_failed(now, batch.started, what, &why),
        }
    }

    fn tenants_built(&mut self, now: Millis, batch: &Batch, result: BuiltBatch) {
        let (started, mut tenants) = (batch.started, result.tenants);
        tenants
            .iter_mut()
            .for_each(|t| self.keep_undecided(t, &result.excused));
        self.settle_suspicions(&tenants);
        tenants.iter_mut().for_each(|t| self.withhold_clashes(t));
        self.void_holds(result.void);
        self.guard.limits(result.guards);
        self.guard.queries(&result.queries);
        self.note_budgets(&tenants, &result.budgets);
        self.closed.extend(result.closed);
        let (seen, excused) = (result.seen.as_ref(), &result.excused);
        let tenants = self.pass_guard(now, batch, tenants, seen, excused, &result.over);
        for built in &tenants {
            self.note_held(built);
            self.retries.built(&built.tenant, unbuilt(built), now);
            let presences = built.presences();
            if let Some(scan) = self.scan.as_mut().filter(|s| started >= s.started) {
                scan.record(&self.key, &built.tenant, &presences);
            }
            self.found.by_name(&built.tenant, &presences);
        }
        let first = self.n + 1;
        self.n += tenants.len() as u64;
        for ix in (0..self.stores.len()).map(StoreIx) {
            self.offer(now, ix, batch, first, &tenants);
        }
    }

    /// What one store gets of a build: what it is not known to hold.
    fn offer(&mut self, now: Millis, ix: StoreIx, batch: &Batch, first: u64, tenants: &[Built]) {
        let (started, sending) = (batch.started, batch.sending);
        let atomic = sending == Sending::Together;
        let region = self.region_of(ix);
        let opened = self.stores[ix.0].session().map(|s| s.opened);
        let Some(opened) = opened else {
            let store = &mut self.stores[ix.0];
            if store.behind.is_none() {
                numbered(first, tenants).for_each(|(n, t)| store.owe(&t.tenant, n));
            }
            store.lose(tenants.iter().map(|t| (&t.tenant, batch.lane)));
            self.waits
                .undelivered(ix, store, tenants.iter().map(|t| &t.tenant));
            return;
        };
        if opened > started {
            let store = &mut self.stores[ix.0];
            numbered(first, tenants).for_each(|(n, t)| store.owe(&t.tenant, n));
            let again = tenants.iter().map(|t| t.tenant.clone()).collect();
            self.mark_again(again, batch.lane, sending);
            return;
        }
        let mut unit = Unit {
            bundles: Vec::new(),
            atomic,
            sort: match batch.lane {
                Lane::Change => Sort::Change,
                Lane::Bulk | Lane::Repair => Sort::Bulk,
            },
        };
        for (n, built) in numbered(first, tenants) {
            let bundle = &built.bundles[region];
            // An atomic unit goes whole: another member may need the keys that this one gives up.
            if !atomic && self.stores[ix.0].holds(&built.tenant, &bundle.digest) {
                let version = Version {
                    epoch: self.term.epoch,
                    n,
                };
                self.delivered(now, ix, &bundle.bundle, started, version, true);
                continue;
            }
            self.stores[ix.0].owe(&built.tenant, n);
            unit.bundles.push(self.queued(bundle, n, started));
        }
        self.enqueue(now, ix, unit);
    }

    pub(super) fn queued(&self, bundle: &BuiltBundle, n: u64, started: Tick) -> Queued {
        let version = Version {
            epoch: self.term.epoch,
            n,
        };
        Queued {
            sent: Sent {
                version,
                bundle: bundle.bundle.clone(),
            },
            digest: bundle.digest,
            parts: bundle.parts.clone(),
            weight: bundle.weight,
            started,
            is_urgent: false,
            is_joined: false,
        }
    }

    pub(super) fn enqueue(&mut self, now: Millis, ix: StoreIx, unit: Unit) {
        if unit.bundles.is_empty() {
            return;
        }
        let store = &mut self.stores[ix.0];
        // Looked at before the unit is added: one that is larger than the bound has to pass as well. What fills a store
        // does not count: its ranges wait for the store (see `next_scan_build`), not the other way round.
        let full = unit.sort != Sort::Fill && store.queue.bytes() > self.limits.queue_bytes;
        let unfilled = store.queue.push(unit, &|q| store.confirmed.cost(q));
        if full {
            let why = format!(
                "more than {} MiB waited for it",
                self.limits.queue_bytes >> 20
            );
            self.give_up_changes(now, ix, &why);
            if let Some(scan) = &mut self.scan {
                scan.end(
                    ix,
                    super::scan::Outcome::Failed("the store cannot keep up".into()),
                );
            }
            // The scan that follows sends only what differs: whoever waits for a receipt gets a build.
            for tenant in self.waits.pending_at(ix) {
                self.mark(&tenant, Lane::Change);
            }
        } else if let Some(target) = self.scan.as_mut().and_then(|s| s.targets.get_mut(&ix)) {
            unfilled.iter().for_each(|t| target.doubt(t));
        }
    }

    fn settle_suspicions(&mut self, tenants: &[Built]) {
        if self.suspicions.is_empty() {
            return;
        }
        let by_name: HashMap<&TenantId, &Built> = tenants.iter().map(|t| (&t.tenant, t)).collect();
        let theirs = tenants
            .iter()
            .filter_map(|t| self.suspicions.remove(&t.tenant));
        for suspicion in theirs.flatten().collect::<Vec<_>>() {
            let (owner, tenant) = (
                by_name.get(&suspicion.owner),
                by_name.get(&suspicion.tenant),
            );
            let region = self.regions.iter().position(|r| *r == suspicion.region);
            match (owner, tenant, region) {
                (Some(owner), Some(tenant), Some(region)) => {
                    self.clashes.settle(
                        &suspicion,
                        &owner.bundles[region].bundle,
                        &tenant.bundles[region].bundle,
                    );
                }
                _ => {
                    let theirs = self.suspicions.entry(suspicion.tenant.clone());
                    theirs.or_default().push(suspicion);
                }
            }
        }
    }

    /// Replaces good contexts by held ones where their keys belong to others, and frees keys that were given up.
    pub(super) fn withhold_clashes(&mut self, built: &mut Built) {
        if self.clashes.is_empty() || !self.clashes.concerns(&built.tenant) {
            return;
        }
        for (region, bundle) in self.regions.clone().iter().zip(&mut built.bundles) {
            for freed in self.clashes.settled_by(region, &bundle.bundle) {
                self.mark(&freed, Lane::Change);
            }
            let held = self.clashes.hold(region, (*bundle.bundle).clone());
            if held != *bundle.bundle {
                *bundle = Arc::new(BuiltBundle::with_cut(held, &self.key, self.limits.cut));
            }
        }
    }

    /// A store has this build of a tenant, durably.
    pub(super) fn delivered(
        &mut self,
        now: Millis,
        ix: StoreIx,
        bundle: &Bundle,
        started: Tick,
        version: Version,
        already_there: bool,
    ) {
        let tenant = &bundle.tenant;
        self.stores[ix.0].paid(tenant, version.n);
        // What is still being decided is not there, and the tenant is built again for it.
        let whole = !bundle.held.iter().any(|h| h.why == HoldReason::Undecided);
        if whole {
            self.stores[ix.0].held_back.delivered(bundle);
            self.capture.delivered(now, ix, tenant, started);
        }
        if let Some(scan) = self.scan.as_mut().filter(|s| whole && started >= s.started)
            && let Some(target) = scan.targets.get_mut(&ix)
        {
            target.confirm(tenant);
        }
        let delivery = Delivery::Delivered {
            version: version.to_string(),
            contexts: bundle.contexts.len(),
            held: bundle.held.len(),
            already_there,
        };
        self.waits.delivered(ix, tenant, started, &delivery, now);
    }
}

fn is_content(what: &What) -> bool {
    matches!(what, What::Tenants(_) | What::Range(_))
}

/// Why a kind of a tenant cannot be built, if one cannot.
pub(super) fn unbuilt(built: &Built) -> Option<String> {
    let held = built.bundles.iter().flat_map(|b| &b.bundle.held_kinds);
    held.map(|h| format!("kind {}: {}", h.kind, h.why)).next()
}

/// The tenants of a build, each with the n of its version.
fn numbered(first: u64, tenants: &[Built]) -> impl Iterator<Item = (u64, &Built)> {
    (first..).zip(tenants)
}
