//! The books of one scan. Pure.
//!
//! A scan reads every tenant in ranges, each in a snapshot of its own, and compares by digest with what the stores hold;
//! only an empty store is filled from the ranges directly. It ends per store with *synced*, which says two things:
//! the store holds what the hub has, and it has every change from before the scan began. Therefore, before *synced*:
//! * every range was read, and the expected digest of every tenant is known;
//! * every tenant that became dirty around its range was built after the scan began and acknowledged by the store at
//!   least once (`unconfirmed` is empty), and so was every tenant that still waits for the store. Tenants that became
//!   dirty again since are *in flux* and left out.
//!
//! A scan never deletes: a tenant that only the store has becomes dirty, and only its build can remove it.

use super::drift::Presences;
use super::regional::Regional;
use super::{Millis, ScanId, Snapshot, StoreIx, Tick};
use contexts::digest::{Buckets, Digest, DigestKey, Share};
use contexts::name::{Kind, Region, TenantId};
use contexts::push::Reading;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Tenants from `from` (inclusive) to `to` (exclusive), in the order of the tenant column's own type; open where none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRange {
    /// The lower bound, as text.
    pub from: Option<String>,
    /// The upper bound, as text.
    pub to: Option<String>,
}

/// How far a scan got.
#[derive(Debug)]
pub enum Phase {
    /// The bounds of the ranges are wanted.
    Bounds,
    /// The bounds are being read.
    ReadingBounds,
    /// Ranges are being read.
    Ranges {
        /// Not begun.
        waiting: VecDeque<TenantRange>,
        /// Under way.
        running: usize,
    },
    /// All ranges were read.
    Settling,
}

/// How a scan ended for one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// In step.
    Synced,
    /// Not in step, and why.
    Failed(String),
    /// It held up others, and goes on after them.
    GaveWay,
}

/// What a scan does for one store.
#[derive(Debug)]
pub struct Target {
    /// The store's clock when the scan began.
    pub fresh: Reading,
    /// The store was empty: what is read is sent.
    pub filling: bool,
    /// Tenants that must be acknowledged before *synced*.
    pub unconfirmed: HashSet<TenantId>,
    /// Tenants that were, by builds from after the beginning of the scan.
    pub confirmed: HashSet<TenantId>,
    /// How often the comparison found differences.
    pub rounds: u8,
    /// Buckets that differ and are to be listed.
    pub differing: Option<Vec<u16>>,
    /// Tenants that differed and were built again.
    pub repaired: BTreeSet<TenantId>,
    /// Bundles applied by the store since the scan began.
    pub pushed: u64,
    /// The end.
    pub outcome: Option<Outcome>,
}

impl Target {
    /// A store at the beginning of a scan.
    pub fn new(fresh: Reading, filling: bool, unconfirmed: HashSet<TenantId>) -> Self {
        Self {
            fresh,
            filling,
            unconfirmed,
            confirmed: HashSet::new(),
            rounds: 0,
            differing: None,
            repaired: BTreeSet::new(),
            pushed: 0,
            outcome: None,
        }
    }

    /// The store acknowledged a build from after the beginning.
    pub fn confirm(&mut self, tenant: &TenantId) {
        self.unconfirmed.remove(tenant);
        self.confirmed.insert(tenant.clone());
    }

    /// The tenant is dirty: unless it was confirmed already, the scan waits for it.
    pub fn doubt(&mut self, tenant: &TenantId) {
        if !self.confirmed.contains(tenant) {
            self.unconfirmed.insert(tenant.clone());
        }
    }
}

/// After so many comparisons that found differences a scan gives up on a store.
pub const ROUNDS_MAX: u8 = 8;
/// Lines about the hub's data that a scan keeps, of each sort.
const LINES_MAX: usize = 100;
/// After so many failures in a row a scan gives up.
pub const FAILURES_MAX: u32 = 5;

/// One scan.
#[derive(Debug)]
pub struct Scan {
    /// Its id.
    pub id: ScanId,
    /// Why it runs.
    pub cause: String,
    /// When it began, in the writer's order of events.
    pub started: Tick,
    /// When it began, on the writer's clock.
    pub started_at: Millis,
    /// The last look before it began: whatever had ended then is in all that it builds.
    pub looked: Option<Snapshot>,
    /// The query of each kind, by its hash, as its ranges found them.
    pub queries: Arc<BTreeMap<Kind, u64>>,
    /// How far it got.
    pub phase: Phase,
    /// Stores compare what is on their disk, read again.
    pub reread: bool,
    /// The stores.
    pub targets: BTreeMap<StoreIx, Target>,
    /// Stores that were asked for and cannot be reached.
    pub away: BTreeMap<StoreIx, String>,
    /// The definitions, as the first range found them.
    pub definitions: Option<(u128, BTreeSet<Kind>)>,
    /// Kinds of which not even the tenants could be read somewhere.
    pub unsure: BTreeSet<Kind>,
    /// Regions that were given up: their stores say of no key that it does not exist.
    pub closed: BTreeSet<Region>,
    /// Ranges in all, and read.
    pub ranges: (usize, usize),
    /// Contexts read.
    pub contexts: u64,
    /// Failures in a row.
    pub failures: u32,
    /// Not before this is the next build begun.
    pub retry_at: Millis,
    /// What was found wrong with the hub's own data.
    pub problems: BTreeSet<String>,
    /// What is odd there and stops nothing.
    pub warnings: BTreeSet<String>,
    /// Tenants of which its ranges found something else than was built last, and what that was.
    pub drifted: Vec<(TenantId, Presences)>,
    /// What each tenant is in each region.
    seen: HashMap<TenantId, Presences>,
    expected: Vec<Buckets>,
}

impl Scan {
    /// A scan at its beginning.
    pub fn new(
        id: ScanId,
        cause: String,
        started: Tick,
        started_at: Millis,
        reread: bool,
        regions: usize,
    ) -> Self {
        Self {
            id,
            cause,
            started,
            started_at,
            looked: None,
            queries: Arc::default(),
            phase: Phase::Bounds,
            reread,
            targets: BTreeMap::new(),
            away: BTreeMap::new(),
            definitions: None,
            unsure: BTreeSet::new(),
            closed: BTreeSet::new(),
            ranges: (0, 0),
            contexts: 0,
            failures: 0,
            retry_at: 0,
            problems: BTreeSet::new(),
            warnings: BTreeSet::new(),
            drifted: Vec::new(),
            seen: HashMap::new(),
            expected: vec![Buckets::default(); regions],
        }
    }

    /// Tenants seen so far.
    pub fn tenants(&self) -> usize {
        self.seen
            .values()
            .filter(|there| there.any(Option::is_some))
            .count()
    }

    /// A tenant's digests, one per region, are now these; none where the tenant is not.
    pub fn record(&mut self, key: &DigestKey, tenant: &TenantId, digests: &[Option<Digest>]) {
        let now = Regional::of(digests.to_vec());
        let before = self.seen.insert(tenant.clone(), now);
        // Most tenants are the same everywhere.
        let mut last: Option<(Digest, Share)> = None;
        for (region, buckets) in self.expected.iter_mut().enumerate() {
            let (old, new) = (before.as_ref().and_then(|b| *b.at(region)), digests[region]);
            if old == new {
                continue;
            }
            old.iter().for_each(|d| buckets.remove(key, tenant, d));
            if let Some(digest) = new {
                let share = match last {
                    Some((of, share)) if of == digest => share,
                    _ => key.share(tenant, &digest),
                };
                last = Some((digest, share));
                buckets.add_share(share);
            }
        }
    }

    /// What a store of this region should hold, without the tenants in flux.
    pub fn expected(&self, key: &DigestKey, region: usize, in_flux: &HashSet<TenantId>) -> Buckets {
        let mut buckets = self.expected[region].clone();
        for tenant in in_flux {
            if let Some(digest) = self.digest(tenant, region) {
                buckets.remove(key, tenant, &digest);
            }
        }
        buckets
    }

    /// What a store of this region should hold of a tenant.
    pub fn digest(&self, tenant: &TenantId, region: usize) -> Option<Digest> {
        self.seen.get(tenant).and_then(|there| *there.at(region))
    }

    /// What it found, at its end, if it has read everything.
    pub fn take_found(&mut self) -> Option<HashMap<TenantId, Presences>> {
        let is_read = matches!(self.phase, Phase::Settling);
        is_read.then(|| std::mem::take(&mut self.seen))
    }

    /// Whether a range or a build since the scan began had this tenant.
    pub fn has_seen(&self, tenant: &TenantId) -> bool {
        self.seen.contains_key(tenant)
    }

    /// The tenants that should be in some buckets of a store of this region.
    pub fn in_buckets<'a>(
        &'a self,
        key: &'a DigestKey,
        region: usize,
        buckets: &'a HashSet<usize>,
    ) -> impl Iterator<Item = &'a TenantId> {
        self.seen.iter().filter_map(move |(tenant, there)| {
            let there = there.at(region).is_some() && buckets.contains(&key.bucket(tenant));
            there.then_some(tenant)
        })
    }

    /// Takes note of what is wrong or odd at the hub, up to a hundred lines of each.
    pub fn note(&mut self, problems: Vec<String>, warnings: Vec<String>) {
        for (lines, noted) in [
            (problems, &mut self.problems),
            (warnings, &mut self.warnings),
        ] {
            let room = LINES_MAX.saturating_sub(noted.len());
            noted.extend(lines.into_iter().take(room));
        }
    }

    /// Ends the scan for a store, unless it has ended there.
    pub fn end(&mut self, store: StoreIx, outcome: Outcome) {
        if let Some(target) = self.targets.get_mut(&store) {
            target.outcome.get_or_insert(outcome);
        }
    }

    /// Ends it for every store.
    pub fn end_all(&mut self, why: &str) {
        for target in self.targets.values_mut() {
            target
                .outcome
                .get_or_insert_with(|| Outcome::Failed(why.to_owned()));
        }
    }

    /// Whether it has ended for every store.
    pub fn is_over(&self) -> bool {
        self.targets.values().all(|t| t.outcome.is_some())
    }

    /// The targets that it has not ended for.
    pub fn active(&mut self) -> impl Iterator<Item = (&StoreIx, &mut Target)> {
        self.targets.iter_mut().filter(|(_, t)| t.outcome.is_none())
    }
}

impl Scan {
    /// Progress, from 0 to 1, for a person.
    pub fn progress(&self) -> f64 {
        match (&self.phase, self.ranges) {
            (Phase::Settling, _) => 1.0,
            (_, (0, _)) => 0.0,
            (_, (all, read)) => read as f64 / all as f64,
        }
    }
}
