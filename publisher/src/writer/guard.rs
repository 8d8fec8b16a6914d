//! The guard against removing or changing too much at once: what was published, what a build would do to it, and whether
//! that may leave. Pure: no clock, no database, no network.
//!
//! What must hold, of removals and, where they have a limit, of changed values, each counted for itself:
//! * What is removed is counted per region, kind and *cause* before any of it leaves. A cause is a transaction of the
//!   outbox; what a scan finds is one cause; what nobody explains is a cause of its own tenant.
//! * A cause that removes at most [`ALWAYS`] contexts of a kind in a region passes, whatever was removed before.
//! * A change is another value of a context that is published. It counts once a scan has found the region in step under the
//!   query that its kind has ([`settled`]): a first fill, a new kind and a query that was changed on purpose are none.
//! * A larger one passes as a whole while it and what was removed within [`WINDOW`] stay under the limit. Beyond it all
//!   of its removals of that kind and region are held, and nothing else of its tenants is.
//! * A context that moves to another tenant within a cause is not removed.
//! * A hold is a row in the database before its tenant is built again: no memory of this module keeps a value alive for
//!   longer than a cause is being counted.
//! * **What a small cause removes never waits until a large one is counted**, though both changed the same tenant:
//!   - *Large, built, small.* The tenant waits, and what the large one takes from it is known. That is kept by name, and
//!     everything else goes on ([`sharing`]).
//!   - *Large, being built, small.* The snapshot of the build says whether it has the small one.
//!   - *Both, built*, whether or not the small one was known by then. Nothing tells them apart. The tenant is counted with the small one,
//!     whose removals pass at once while they are few and fit under the limit; so all that leaves in this way is no more
//!     than may leave within [`WINDOW`] without asking. Beyond it, the tenant waits for the large one, and an alert says so.
//!   - *Small, built, large.* The small one has left.
//!   - *Both, built, large one held, small one known.* Cannot be: nothing is held before a look at the outbox that began
//!     after the last build of the cause has come back.
//!
//! A tenant that has more contexts of a kind than its *budget* is another matter, and needs no counting: what was published
//! stays and goes on, of the others those that come first in the order of their keys are let in while there is room
//! ([`budget`]).
//!
//! The *book* has the names of what was published. A tenant that it does not know yet is asked of a store, so that a new
//! writer is as careful as the last one.

mod book;
mod budget;
mod cases;
mod difference;
mod judge;
mod settled;
mod sharing;
mod words;

pub use book::Found;
pub use words::{
    ANY_VALUE, Act, Cause, GuardLimits, HoldName, Over, Passed, Settled, Told, Withheld, value_of,
};

use super::{Millis, Snapshot};
use book::{Book, Code, Names, Sort};
use cases::{Case, Cases};
use contexts::bundle::Bundle;
use contexts::name::{Kind, Region, TenantId};
use judge::Counted;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use words::rank;

/// Removals of a kind in a region by one cause that always pass, and changes.
pub const ALWAYS: usize = 20;
/// How long a removal or a change counts.
pub const WINDOW: Millis = 600_000;

/// Why a tenant changed: the smallest cause and, if there are several, the largest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reasons {
    small: Cause,
    large: Option<Cause>,
}

impl Reasons {
    fn of(cause: Cause) -> Self {
        Self {
            small: cause,
            large: None,
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Cause> {
        [&self.small].into_iter().chain(&self.large)
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Whether what was counted is held, or waits for others; else it is few, and leaves.
    pub is_held: bool,
    /// What happened, for a person.
    pub line: String,
}

impl Alert {
    fn passed(line: String) -> Self {
        let is_held = false;
        Self { is_held, line }
    }

    fn held(line: String) -> Self {
        let is_held = true;
        Self { is_held, line }
    }
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// They may be built again, or go on.
    pub free: BTreeSet<TenantId>,
    /// They are to be built again, whatever they were built as.
    pub again: BTreeSet<TenantId>,
    /// These are to be written down; then their tenants are free.
    pub holds: Vec<Hold>,
    /// Limits that were reached.
    pub alerts: Vec<Alert>,
}

/// Names to be written down together, before these tenants are built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// What removes or changes so much.
    pub cause: String,
    /// What is held.
    pub names: Vec<HoldName>,
    /// Whose builds wait for it.
    pub tenants: BTreeSet<TenantId>,
}

/// The guard.
#[derive(Debug)]
pub struct Guard {
    limits: GuardLimits,
    regions: Vec<Region>,
    book: Book,
    /// Why tenants are to be built, and why those that are being built are.
    causes: HashMap<TenantId, Reasons>,
    building: HashMap<TenantId, Reasons>,
    cases: Cases,
    /// Tenants whose names are to be asked of a store of a region.
    pub(super) asks: BTreeSet<(usize, TenantId)>,
    /// Tenants that wait for that and nothing else.
    strangers: BTreeSet<TenantId>,
    /// Tenants that go on once the names are known of what is to be kept of them.
    sharing: BTreeSet<TenantId>,
    /// Tenants that are built again whenever they need not wait any more.
    again: BTreeSet<TenantId>,
    /// Kept by name: it is written down, and no build of the tenant has found that yet.
    written: BTreeMap<TenantId, Vec<HoldName>>,
    /// Names that stores told of tenants of which something is to be held or kept.
    told: Vec<HoldName>,
    /// The names of the builds that were kept back in this step.
    latest: HashMap<TenantId, Vec<(usize, Names)>>,
    /// The values that changes bring which are being counted.
    news: HashMap<(usize, Code), u64>,
    /// Tenants that are over a budget: their holds are to be written down.
    beyond: Vec<Hold>,
    /// What passed, and what of it is not written down yet.
    passed: VecDeque<Counted>,
    unwritten: BTreeMap<(usize, Sort), usize>,
    /// The query of each kind as the last build found it, and those with which each region was found in step.
    queries: Arc<BTreeMap<Kind, u64>>,
    settled: BTreeMap<(usize, Kind), u64>,
    /// What of that is not written down yet.
    unsettled: BTreeSet<(usize, Kind)>,
    /// Scans whose removals a person approved beforehand.
    allowed: BTreeSet<u64>,
    /// Looks at the outbox that have ended.
    looks: u64,
}

impl Guard {
    /// A guard that knows nothing yet, and holds nothing before a build tells the limits.
    pub fn new(regions: &[Region]) -> Self {
        Self {
            limits: GuardLimits::OFF,
            regions: regions.to_vec(),
            book: Book::new(regions.len()),
            causes: HashMap::new(),
            building: HashMap::new(),
            cases: Cases::default(),
            asks: BTreeSet::new(),
            strangers: BTreeSet::new(),
            sharing: BTreeSet::new(),
            again: BTreeSet::new(),
            written: BTreeMap::new(),
            told: Vec::new(),
            latest: HashMap::new(),
            news: HashMap::new(),
            beyond: Vec::new(),
            passed: VecDeque::new(),
            unwritten: BTreeMap::new(),
            queries: Arc::default(),
            settled: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            allowed: BTreeSet::new(),
            looks: 0,
        }
    }

    /// The limits as a build found them. What the book missed while the guard was off is not relied on.
    pub fn limits(&mut self, limits: GuardLimits) {
        let changes = |limits: &GuardLimits| limits.counts(Act::Changed);
        if self.limits.is_off() != limits.is_off() || changes(&self.limits) != changes(&limits) {
            self.causes.clear();
            self.building.clear();
            self.asks.clear();
            self.sharing.clear();
            self.written.clear();
            self.cases.forget_decisions();
            self.book.clear(changes(&limits));
        }
        self.limits = limits;
    }

    /// Whether nothing is held.
    pub fn is_off(&self) -> bool {
        self.limits.is_off()
    }

    /// The removals of a scan are approved beforehand; what it finds changed is not.
    pub fn allow(&mut self, scan: u64) {
        self.allowed.insert(scan);
    }

    /// A look at the outbox has ended; what it found is told by [`Guard::caused`].
    pub fn looked(&mut self) {
        self.looks += 1;
    }

    /// Tenants were changed, each by this. All that one look found is told at once, so that causes are known whole.
    pub fn caused(&mut self, changes: &[(TenantId, Cause)]) {
        if self.is_off() {
            return;
        }
        for (tenant, cause) in changes {
            self.cases.open(cause, tenant);
        }
        for (tenant, cause) in changes {
            let mut reasons = Reasons::of(cause.clone());
            if let Some(before) = self.causes.remove(tenant) {
                reasons = self.join(tenant, before, reasons);
            }
            self.causes.insert(tenant.clone(), reasons);
        }
    }

    /// The smallest and the largest of some causes; the others do not wait for the tenant.
    fn join(&mut self, tenant: &TenantId, a: Reasons, b: Reasons) -> Reasons {
        let mut all: Vec<&Cause> = a.iter().chain(b.iter()).collect();
        let size = |cause: &Cause| self.cases.size(cause);
        all.sort_unstable_by(|x, y| rank(x, size(x)).cmp(&rank(y, size(y))));
        all.dedup();
        let others: Vec<Cause> = all.iter().skip(1).map(|c| (*c).clone()).collect();
        let mut reasons = Reasons::of(all[0].clone());
        if let Some((large, between)) = others.split_last() {
            for cause in between {
                self.cases.close(cause, tenant);
            }
            reasons.large = Some(large.clone());
        }
        reasons
    }

    /// A build of a tenant begins: it is of what was known until now. One that did not come to its end is made up for.
    pub fn begun(&mut self, tenant: &TenantId) {
        let Some(mut reasons) = self.causes.remove(tenant) else {
            return;
        };
        if let Some(before) = self.building.remove(tenant) {
            reasons = self.join(tenant, before, reasons);
        }
        self.building.insert(tenant.clone(), reasons);
    }

    /// A scan read this tenant at the hub, by region. It is what is published once the region was found in step.
    pub fn read<'a>(&mut self, tenant: &TenantId, bundles: impl Iterator<Item = &'a Bundle>) {
        if !self.is_off() {
            self.book.read(tenant, bundles);
        }
    }

    /// A build of a tenant, and whether it may go on: not while its names are unknown, and not while it loses something
    /// of a cause that is not decided, nor while it is over a budget. `open` says in which regions a store listens,
    /// `excused` what may leave, `seen` what the build's snapshot saw, `over` where there is too much.
    pub fn built(
        &mut self,
        tenant: &TenantId,
        bundles: &[Found<'_>],
        open: &[bool],
        excused: &[HoldName],
        seen: Option<&Arc<Snapshot>>,
        over: &[Over],
    ) -> bool {
        let reasons = self.building.remove(tenant);
        let reasons = reasons.unwrap_or_else(|| Reasons::of(Cause::Alone(tenant.clone())));
        let regions: Vec<usize> = (0..bundles.len()).filter(|r| open[*r]).collect();
        let strange = |r: &&usize| self.book.published(**r, tenant).is_none();
        let strange: Vec<usize> = regions.iter().filter(strange).copied().collect();
        if !strange.is_empty() {
            let asks = strange.into_iter().map(|r| (r, tenant.clone()));
            self.asks.extend(asks);
            self.strangers.insert(tenant.clone());
            self.not_yet(tenant, reasons);
            return false;
        }
        if self.is_beyond(tenant, over, open) {
            self.not_yet(tenant, reasons);
            return false;
        }
        let mut differences = Vec::new();
        let mut last: Option<(&Bundle, Names, Names)> = None;
        for region in regions {
            let (found, before) = (&bundles[region], self.book.published(region, tenant));
            let before = before.unwrap_or_default();
            let now = match &last {
                Some((same, as_before, now))
                    if std::ptr::eq(*same, found.bundle) && *as_before == before =>
                {
                    now.clone()
                }
                _ => self.book.names_of(found, &before),
            };
            let difference = self.difference(region, &before, &now, excused);
            last = Some((found.bundle, before, now.clone()));
            differences.push((region, now, difference));
        }
        let loses = differences.iter().any(|(_, _, d)| !d.lost.is_empty());
        for cause in reasons.iter() {
            if loses {
                self.cases.weigh(cause);
            }
            let gained = differences.iter().flat_map(|(region, _, difference)| {
                let gained = difference.gained.iter();
                gained.map(|code| (*region, *code))
            });
            self.cases.built(cause, tenant, self.looks, gained);
        }
        if !loses {
            for (region, now, _) in differences {
                self.book.put(region, tenant, now);
            }
            return true;
        }
        let case = self.cases.weigh(&reasons.small);
        let latest = self.latest.entry(tenant.clone()).or_default();
        for (region, now, difference) in differences {
            latest.push((region, now));
            case.lost.insert((region, tenant.clone()), difference.lost);
        }
        case.parked.insert(tenant.clone());
        case.seen.insert(tenant.clone(), seen.cloned());
        if let Some(large) = reasons.large {
            case.shared.insert(tenant.clone(), large);
        }
        false
    }

    /// A tenant goes on with the build that was kept back a moment ago: what that gained is published too.
    pub fn goes_on(&mut self, tenant: &TenantId) {
        for (region, names) in self.latest.remove(tenant).into_iter().flatten() {
            self.book.put(region, tenant, names);
        }
    }

    /// The others are built again before they go on.
    pub fn forget_latest(&mut self) {
        self.latest.clear();
    }

    /// What a store of a region holds of tenants that were asked for.
    pub fn named(&mut self, region: usize, tenant: &TenantId, told: &[Told]) {
        let place = (region, tenant.clone());
        self.asks.remove(&place);
        let loses = |case: &Case| case.lost.contains_key(&place);
        if self.cases.weighed().any(|(_, case)| loses(case)) {
            let here = self.regions[region].clone();
            self.told.extend(told.iter().map(|told| HoldName {
                tenant: tenant.clone(),
                kind: told.kind.clone(),
                key: told.key.clone(),
                region: here.clone(),
                what: Withheld::Removal,
            }));
        }
        self.book.told(region, tenant, told);
    }

    /// No store of the region listens: nothing is asked there, and nothing waits for it. A scan finds what it misses.
    pub fn region_away(&mut self, region: usize) {
        self.asks.retain(|(r, _)| *r != region);
        for case in self.cases.weighed_mut() {
            case.over.retain(|(r, _), _| *r != region);
            case.lost.retain(|(r, _), _| *r != region);
        }
    }

    /// Whether a build of this tenant is waited for: what it loses has to be counted.
    pub fn counts(&self, tenant: &TenantId) -> bool {
        self.causes.contains_key(tenant) || self.building.contains_key(tenant)
    }

    /// Whether nothing waits for a decision.
    pub fn is_idle(&self) -> bool {
        self.strangers.is_empty() && self.cases.is_nothing_weighed()
    }

    /// A hold was written: whether its tenant may be built again now. If not, it is once another cause is decided.
    pub fn may_build(&mut self, tenant: &TenantId) -> bool {
        let waits = self.is_parked(tenant);
        if waits {
            self.again.insert(tenant.clone());
        }
        !waits
    }

    /// Whether the tenant waits for a decision, so that nothing of it is sent.
    fn is_parked(&self, tenant: &TenantId) -> bool {
        let mut weighed = self.cases.weighed();
        weighed.any(|(_, case)| case.parked.contains(tenant))
    }

    fn is_asked(&self, tenant: &TenantId) -> bool {
        (0..self.regions.len()).any(|r| self.asks.contains(&(r, tenant.clone())))
    }
}

#[cfg(test)]
mod tests;
