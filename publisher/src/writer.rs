//! The writer's decisions: from dirty tenants to acknowledged bundles, for every store at once.
//!
//! Pure: no clock, no database, no network. The engine (or the simulation) asks [`Writer::next_build`] and
//! [`Writer::next_request`] what to do, does it, and reports back with [`Writer::built`] and [`Writer::answered`].
//! Whatever caused a change (a scan, a request, a store that came back) goes through the one set of dirty tenants.
//!
//! What must hold (each line has an assertion in the simulation):
//! * Builds of one tenant follow one another: while one is under way no other begins, and the range of a scan does not
//!   count for tenants that were dirty or being built when it began or became dirty since.
//! * A bundle is sent to a store only if its build began after the answer that opened the session arrived, so its
//!   snapshot is newer than anything an earlier writer, or this one in an earlier session, can have sent.
//! * One message at a time is under way to a store. After a lost answer nothing is sent again: the session is over, the
//!   store is claimed anew, and the tenants concerned are built again.
//! * A delta is made for what a store confirmed in its session, and if the store has something else the bundle goes whole.
//! * A version that a store was not given, or did not acknowledge, keeps its position down until a later build of the
//!   tenant is acknowledged or a scan found the two in step: a reader may have seen it in another store.
//! * A store that may have missed something is either marked *behind* (and scanned) or has those tenants remembered.

mod beat;
mod budgets;
mod building;
mod built;
mod capture;
mod clash;
mod deltas;
mod dirty;
mod drift;
mod gone;
mod guard;
mod guarding;
mod held_back;
pub mod lease;
mod look;
mod outbox;
mod pace;
mod push_size;
mod queue;
mod recall;
mod receipts;
mod regional;
mod retry;
mod scan;
mod scanning;
mod settling;
mod snapshot;
mod store;
mod talk;
mod turns;
mod visible;

pub use budgets::{BudgetNews, Budgets, Level, Usage};
pub use building::Batch;
pub use built::{BuildRequest, Built, BuiltBatch, BuiltBundle, Replaced, What};
pub use deltas::DeltaOutcome;
pub use gone::{Gone, WhyGone};
pub use guard::{
    ANY_VALUE, Act, Alert, GuardLimits, Hold, HoldName, Over, Passed, Settled, Told, Withheld,
    value_of,
};
pub use guarding::HoldWork;
pub use look::{AckRequest, Change, LookId, LookRequest, Looked};
pub use receipts::{Delivery, HeldReport, Receipt, RegionFilter, Republished};
pub use retry::Retry;
pub use scan::{Phase, TenantRange};
pub use scanning::{ScanSummary, StoreSummary, UnitsUsed};
pub use snapshot::Snapshot;
pub use store::{Behind, Failure, FailureSort, Link, Store, StoreSpec};
pub use talk::{Answer, Request};
pub use visible::{Visible, VisibleAt};

use beat::Beats;
use building::BuildQueue;
use capture::Capture;
use clash::{Clashes, Suspicion};
use contexts::delta::Cut;
use contexts::digest::DigestKey;
use contexts::limits;
use contexts::name::{Region, TenantId};
use contexts::push::Verdict;
use contexts::version::{Term, Version};
use dirty::{Dirty, Lane, Sending};
use drift::Found;
use guard::Guard;
use guarding::Holding;
use pace::Pace;
use recall::Recalls;
use receipts::Waits;
use retry::Retries;
use scan::Scan;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use visible::Questions;

/// Milliseconds on the writer's own monotonic clock.
pub type Millis = u64;

/// A moment in the writer's own order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

/// A store, by its place among the writer's stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreIx(pub usize);

/// A build under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// A scan, numbered within the writer's term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct ScanId(pub u64);

/// Something that was asked for and waits for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Bounds of the writer's own making.
#[derive(Debug, Clone)]
pub struct WriterLimits {
    /// Tenants built in one snapshot.
    pub batch_tenants: usize,
    /// Builds of dirty tenants at once.
    pub builds: usize,
    /// Ranges of a scan read at once.
    pub ranges: usize,
    /// Bytes of one push, unless a single bundle is larger.
    pub push_bytes: usize,
    /// Bytes that may wait for a store; with more it falls behind at the next build.
    pub queue_bytes: usize,
    /// Bytes that may wait for a store; with more no scan reads on and nothing is repaired.
    pub fill_bytes: usize,
    /// How long a scan goes on, in milliseconds, for stores that hold it up while somebody waits for another one.
    pub scan_turn: Millis,
    /// From which size on bundles may go as deltas.
    pub cut: Cut,
}

impl Default for WriterLimits {
    fn default() -> Self {
        Self {
            batch_tenants: 500,
            builds: 4,
            ranges: 2,
            push_bytes: limits::PUSH_BYTES,
            queue_bytes: 64 << 20,
            fill_bytes: 16 << 20,
            scan_turn: 300_000,
            cut: Cut::default(),
        }
    }
}

/// Something that happened, for logs, metrics and whoever waits.
#[derive(Debug)]
pub enum Report {
    /// A store obeys us.
    Opened {
        /// Which.
        store: StoreIx,
    },
    /// A store cannot be used.
    Closed {
        /// Which.
        store: StoreIx,
        /// Why.
        failure: Failure,
    },
    /// A push was answered.
    Pushed {
        /// By which store.
        store: StoreIx,
        /// Bundles that are there now.
        applied: usize,
        /// Milliseconds from sending to the answer.
        ms: Millis,
    },
    /// A store answered to deltas.
    Delta {
        /// Which.
        store: StoreIx,
        /// What.
        outcome: DeltaOutcome,
        /// To how many.
        count: usize,
    },
    /// A store has made a bundle durable; told only while somebody follows.
    Gone {
        /// Which store.
        store: StoreIx,
        /// What.
        gone: Gone,
    },
    /// A store refused a bundle.
    Refused {
        /// Which store.
        store: StoreIx,
        /// Whose bundle.
        tenant: TenantId,
        /// Why.
        verdict: Verdict,
    },
    /// What is held of a tenant changed.
    Held {
        /// Of whom.
        tenant: TenantId,
        /// All that is held of it now.
        held: Vec<HeldReport>,
    },
    /// A tenant came near a budget, over it, or has room again.
    Budget(BudgetNews),
    /// A build failed as a whole and will be tried again.
    BuildFailed {
        /// Why.
        why: String,
    },
    /// So much was removed or changed at once that the guard held it, or would have.
    Guarded(Alert),
    /// A scan ended.
    ScanEnded(ScanSummary),
    /// A republish request has all its receipts.
    Republished(Republished),
    /// Nothing is under way any more that was built before a recall.
    Recalled {
        /// Which recall.
        ticket: Ticket,
    },
    /// A question where a transaction is visible is answered.
    Visible(Visible),
    /// The change triggers can be relied on again, or not any more, and why.
    Capturing {
        /// Why not.
        gap: Option<String>,
    },
    /// A beat is durable at a store.
    Beat {
        /// Which store.
        store: StoreIx,
        /// Milliseconds since its commit.
        ms: Millis,
    },
}

/// A scan that was asked for and has not begun.
#[derive(Debug)]
struct ScanWish {
    id: ScanId,
    cause: String,
    regions: RegionFilter,
    reread: bool,
    allow: bool,
}

/// Tenants of which what is held is remembered; those beyond are reported again by every scan, and not counted.
const HELD_MAX: usize = 10_000;

/// The state of a writer in its term.
#[derive(Debug)]
pub struct Writer {
    term: Term,
    key: DigestKey,
    limits: WriterLimits,
    regions: Vec<Region>,
    /// Those of them that were given up: what is removed there is meant.
    closed: BTreeSet<Region>,
    stores: Vec<Store>,
    tick: u64,
    n: u64,
    dirty: Dirty,
    builds: BuildQueue,
    clashes: Clashes,
    /// By who wants the key.
    suspicions: BTreeMap<TenantId, Vec<Suspicion>>,
    budgets: Budgets,
    scan: Option<Scan>,
    found: Found,
    /// Tenants that are marked and to be read as a whole: somebody doubts what was found of them.
    whole: BTreeSet<TenantId>,
    wishes: VecDeque<ScanWish>,
    scans: u64,
    waits: Waits,
    capture: Capture,
    questions: Questions,
    beats: Beats,
    retries: Retries,
    recalls: Recalls,
    guard: Guard,
    holding: Holding,
    /// Of changes, and of bulk changes.
    paces: [Pace; 2],
    /// The triggers as they were looked at last, and why they cannot be relied on.
    triggers: Option<String>,
    gap: Option<String>,
    /// Triggers had stopped writing, and room was made by this transaction: those before it may have changed anything.
    overflow: Option<u64>,
    /// How many statements are known to have found no room, and how many the database is to be told are made up for.
    missed: Option<i64>,
    mended: Option<i64>,
    /// A person decided that the stores are to be taken from whoever has them.
    force: bool,
    everyone_at: Option<Millis>,
    held: BTreeMap<TenantId, Vec<HeldReport>>,
    /// Of how many of them because of their data.
    held_by_data: usize,
    reports: VecDeque<Report>,
    is_followed: bool,
    suspended: bool,
    closing: bool,
    born: Millis,
}

impl Writer {
    /// A writer at the beginning of its term: every store is unknown to it, and so in need of a scan.
    pub fn new(
        term: Term,
        key: DigestKey,
        stores: Vec<StoreSpec>,
        limits: WriterLimits,
        now: Millis,
    ) -> Self {
        let mut regions: Vec<Region> = Vec::new();
        for spec in &stores {
            if !regions.contains(&spec.region) {
                regions.push(spec.region.clone());
            }
        }
        Self {
            term,
            key,
            limits,
            capture: Capture::new(stores.len()),
            questions: Questions::default(),
            beats: Beats::default(),
            retries: Retries::default(),
            recalls: Recalls::default(),
            guard: Guard::new(&regions),
            holding: Holding::default(),
            paces: Default::default(),
            triggers: None,
            gap: Some("the triggers were not looked at yet".into()),
            overflow: None,
            missed: None,
            mended: None,
            force: false,
            everyone_at: None,
            stores: stores.into_iter().map(Store::new).collect(),
            tick: 0,
            n: 0,
            dirty: Dirty::default(),
            builds: BuildQueue::default(),
            clashes: Clashes::default(),
            suspicions: BTreeMap::new(),
            budgets: Budgets::default(),
            scan: None,
            found: Found::default(),
            whole: BTreeSet::new(),
            wishes: VecDeque::new(),
            scans: 0,
            waits: Waits::default(),
            held: BTreeMap::new(),
            held_by_data: 0,
            reports: VecDeque::new(),
            is_followed: false,
            suspended: false,
            closing: false,
            born: now,
            regions,
            closed: BTreeSet::new(),
        }
    }

    /// Takes the stores also from a writer that is alive, and from one that the database does not know.
    pub fn force(&mut self) {
        self.force = true;
    }

    /// What may be removed at once, as the database has it at the beginning of the term; builds say it again.
    pub fn guard_by(&mut self, limits: GuardLimits) {
        self.guard.limits(limits);
    }

    /// What passed while earlier writers counted, within the guard's window, and under which queries they found regions in
    /// step.
    pub fn resume_guard(&mut self, passed: &[Passed], settled: &[Settled]) {
        self.guard.resume(passed);
        self.guard.resume_settled(settled);
    }

    /// Tenants that an earlier writer could not build.
    pub fn resume_retries(&mut self, known: Vec<(TenantId, Retry)>) {
        self.retries.resume(known);
    }

    /// The regions, in the order in which [`Built`] has its bundles.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The stores.
    pub fn stores(&self) -> impl Iterator<Item = (StoreIx, &Store)> {
        self.stores.iter().enumerate().map(|(i, s)| (StoreIx(i), s))
    }

    /// One store.
    pub fn store(&self, ix: StoreIx) -> &Store {
        &self.stores[ix.0]
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The scan that is running.
    pub fn scan(&self) -> Option<&Scan> {
        self.scan.as_ref()
    }

    /// Tenants that wait to be built or are being built.
    pub fn dirty(&self) -> usize {
        self.dirty.len() + self.builds.tenants()
    }

    /// Whether a tenant waits to be built or is being built.
    pub fn is_dirty(&self, tenant: &TenantId) -> bool {
        self.dirty.contains(tenant) || self.builds.has(tenant)
    }

    /// What is held at present, by tenant.
    pub fn held(&self) -> &BTreeMap<TenantId, Vec<HeldReport>> {
        &self.held
    }

    /// Tenants of which something is held because of their data, and not because somebody or the guard wants it so.
    pub fn held_by_data(&self) -> usize {
        self.held_by_data
    }

    /// Keys that two tenants have.
    pub fn clashes(&self) -> usize {
        self.clashes.len()
    }

    /// The next thing that happened.
    pub fn next_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// The lease is not renewed: nothing is sent but farewells until [`Writer::resume`].
    pub fn suspend(&mut self) {
        self.suspended = true;
    }

    /// The lease is renewed and nobody else had it.
    pub fn resume(&mut self) {
        self.suspended = false;
    }

    /// Whether the writer is suspended.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Ends the term: stores are released as soon as nothing is under way to them.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether every store was released or cannot be.
    pub fn is_closed(&self) -> bool {
        self.closing
            && self
                .stores
                .iter()
                .all(|s| s.session().is_none() && s.outstanding.is_none())
    }

    /// Whether nothing is left to do: no scan, nothing dirty, nothing waiting for a store that listens.
    pub fn is_idle(&self) -> bool {
        let idle = |s: &Store| s.queue.is_empty() && s.outstanding.is_none() && !s.is_unresolved();
        self.scan.is_none()
            && self.capture.is_idle()
            && self.wishes.is_empty()
            && self.dirty.is_empty()
            && self.builds.is_empty()
            && self.stores.iter().all(idle)
    }

    /// Whatever any store shows in a version at or below this, the store shows the same or newer; none before its first
    /// *synced* here, and while it is behind.
    pub fn position(&self, ix: StoreIx) -> Option<Version> {
        let store = &self.stores[ix.0];
        (store.synced && store.behind.is_none()).then(|| self.reached(ix))
    }

    fn reached(&self, ix: StoreIx) -> Version {
        let n = self.stores[ix.0]
            .lowest_owed()
            .map_or(self.n, |lowest| lowest - 1);
        Version {
            epoch: self.term.epoch,
            n,
        }
    }

    fn now(&mut self) -> Tick {
        self.tick += 1;
        Tick(self.tick)
    }

    fn region_of(&self, ix: StoreIx) -> usize {
        let region = &self.stores[ix.0].spec.region;
        self.regions.iter().position(|r| r == region).unwrap_or(0)
    }

    fn mark(&mut self, tenant: &TenantId, lane: Lane) {
        self.dirty.mark(tenant, lane);
        self.overtake(tenant);
    }

    fn mark_together(&mut self, tenants: Vec<TenantId>) {
        tenants.iter().for_each(|t| self.overtake(t));
        self.dirty.mark_together(tenants);
    }

    /// Marks tenants of a build that came to nothing, as they were.
    fn mark_again(&mut self, tenants: Vec<TenantId>, lane: Lane, sending: Sending) {
        self.whole.extend(tenants.iter().cloned());
        match sending {
            Sending::Singly => tenants.iter().for_each(|t| self.mark(t, lane)),
            Sending::Together | Sending::Counted => self.mark_together(tenants),
        }
    }

    /// Ranges under way no longer speak for this tenant, and a scan waits for its build.
    fn overtake(&mut self, tenant: &TenantId) {
        self.builds.overtake(tenant);
        if let Some(scan) = &mut self.scan {
            scan.targets.values_mut().for_each(|t| t.doubt(tenant));
        }
    }

    fn note_held_back(&mut self, built: &Built) {
        let bundles = built.bundles.iter();
        let by_region: Vec<Arc<[HeldReport]>> = bundles
            .map(|b| HeldReport::of([&*b.bundle]).into())
            .collect();
        for ix in (0..self.stores.len()).map(StoreIx) {
            let held = &by_region[self.region_of(ix)];
            self.stores[ix.0].held_back.built(&built.tenant, held);
        }
    }

    fn note_held(&mut self, built: &Built) {
        if !built.bundles.iter().all(|b| b.bundle.is_plain()) {
            self.note_held_back(built);
        }
        let (tenant, held) = (&built.tenant, HeldReport::of_all(built));
        let changed = match self.held.get(tenant) {
            Some(before) => *before != held,
            None => !held.is_empty(),
        };
        if !changed {
            return;
        }
        let by_data = |held: &Vec<HeldReport>| held.iter().any(HeldReport::is_of_data);
        let (before, mut now) = (self.held.get(tenant).is_some_and(by_data), false);
        if held.is_empty() {
            self.held.remove(tenant);
        } else if self.held.len() < HELD_MAX || self.held.contains_key(tenant) {
            now = by_data(&held);
            self.held.insert(tenant.clone(), held.clone());
        }
        self.held_by_data = self.held_by_data + usize::from(now) - usize::from(before);
        self.reports.push_back(Report::Held {
            tenant: tenant.clone(),
            held,
        });
    }
}
