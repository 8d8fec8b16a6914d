//! The guard against removing too much at once: what was published, what a build would remove of it, and whether that
//! may leave. Pure: no clock, no database, no network.
//!
//! What must hold:
//! * What is removed is counted per region, kind and *cause* before any of it leaves. A cause is a transaction of the
//!   outbox; what a scan finds is one cause; what nobody explains is a cause of its own tenant.
//! * A cause that removes at most [`ALWAYS`] contexts of a kind in a region passes, whatever was removed before.
//! * A larger one passes as a whole while it and what was removed within [`WINDOW`] stay under the limit. Beyond it all
//!   of its removals of that kind and region are held, and nothing else of its tenants is.
//! * A context that moves to another tenant within a cause is not removed.
//! * A hold is a row in the database before its tenant is built again: no memory of this module keeps a value alive.
//!
//! The *book* has the names of what was published, as hashes, eight bytes each. It is filled by scans; a tenant that it
//! does not know yet is asked of a store, so that a new writer is as careful as the last one.

mod words;

pub use words::{Cause, GuardLimits, HoldName};

use super::Millis;
use contexts::bundle::{Bundle, HoldClass};
use contexts::name::{Key, Kind, Region, TenantId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Removals of a kind in a region by one cause that always pass.
pub const ALWAYS: usize = 20;
/// How long a removal counts.
pub const WINDOW: Millis = 600_000;

/// The hash of a name, below the number of its kind.
type Code = u64;
const KIND_BITS: u32 = 12;

/// The names of a tenant in a region, sorted.
type Names = Arc<[Code]>;

/// What one tenant's build would do in a region.
#[derive(Debug, Default)]
struct Difference {
    lost: Vec<Code>,
    gained: Vec<Code>,
}

/// A cause of which not every tenant was built yet, or that waits for names.
#[derive(Debug, Default)]
struct Case {
    /// Tenants that were not built since.
    open: HashSet<TenantId>,
    /// Of those that were: what they lose, by region.
    lost: BTreeMap<(usize, TenantId), Vec<Code>>,
    /// And what they gain.
    gained: HashSet<(usize, Code)>,
    /// Tenants that wait for the decision.
    parked: BTreeSet<TenantId>,
    /// Decided: these kinds of these regions are held, and the names of what they lose are being asked for.
    over: BTreeMap<(usize, u64), String>,
}

/// A limit that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Whether the removals are held; else they are few, and leave.
    pub is_held: bool,
    /// What happened, for a person.
    pub line: String,
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// They may be built again, or go on.
    pub free: BTreeSet<TenantId>,
    /// These are to be written down; then their tenants are free.
    pub holds: Vec<Hold>,
    /// Limits that were reached.
    pub alerts: Vec<Alert>,
}

/// Names to be written down together, before these tenants are built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// What removes so much.
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
    kinds: Vec<Kind>,
    /// By region: what is published. `true`: for sure; else as a scan read it at the hub, which counts once the region
    /// was found in step.
    book: Vec<HashMap<TenantId, (Names, bool)>>,
    in_step: Vec<bool>,
    causes: HashMap<TenantId, Cause>,
    cases: BTreeMap<Cause, Case>,
    /// Tenants whose names are to be asked of a store of a region.
    pub(super) asks: BTreeSet<(usize, TenantId)>,
    /// Tenants that wait for that and nothing else.
    strangers: BTreeSet<TenantId>,
    /// Names that stores told of tenants of which something is to be held.
    told: Vec<HoldName>,
    /// The names of the builds that were kept back in this step.
    latest: HashMap<TenantId, Vec<(usize, Names)>>,
    /// What was removed: when, where, the kind, how many.
    removed: VecDeque<(Millis, usize, u64, usize)>,
    /// Scans whose removals a person approved beforehand.
    allowed: BTreeSet<u64>,
}

impl Guard {
    /// A guard that knows nothing yet, and holds nothing before a build tells the limits.
    pub fn new(regions: &[Region]) -> Self {
        Self {
            limits: GuardLimits::OFF,
            regions: regions.to_vec(),
            kinds: Vec::new(),
            book: vec![HashMap::new(); regions.len()],
            in_step: vec![false; regions.len()],
            causes: HashMap::new(),
            cases: BTreeMap::new(),
            asks: BTreeSet::new(),
            strangers: BTreeSet::new(),
            told: Vec::new(),
            latest: HashMap::new(),
            removed: VecDeque::new(),
            allowed: BTreeSet::new(),
        }
    }

    /// The limits as a build found them. What the book missed while the guard was off is not relied on.
    pub fn limits(&mut self, limits: GuardLimits) {
        if self.limits.is_off() != limits.is_off() {
            self.causes.clear();
            self.asks.clear();
            for case in self.cases.values_mut() {
                case.open.clear();
                case.over.clear();
            }
            self.book.iter_mut().for_each(HashMap::clear);
            self.in_step.fill(false);
        }
        self.limits = limits;
    }

    /// Whether nothing is held.
    pub fn is_off(&self) -> bool {
        self.limits.is_off()
    }

    /// The removals of a scan are approved beforehand.
    pub fn allow(&mut self, scan: u64) {
        self.allowed.insert(scan);
    }

    /// A tenant was changed by this. Of several causes the one with the most tenants counts, since what a tenant loses
    /// cannot be told apart any more.
    pub fn caused(&mut self, tenant: &TenantId, cause: Cause) {
        if self.is_off() {
            return;
        }
        if let Some(before) = self.causes.get(tenant).filter(|before| **before != cause) {
            let size = |cause: &Cause| self.cases.get(cause).map_or(0, |case| case.open.len());
            if size(before) > size(&cause) {
                return;
            }
            if let Some(case) = self.cases.get_mut(before) {
                case.open.remove(tenant);
            }
        }
        let case = self.cases.entry(cause.clone()).or_default();
        case.open.insert(tenant.clone());
        self.causes.insert(tenant.clone(), cause);
    }

    /// A scan read this tenant at the hub. It is what is published once the region was found in step.
    pub fn read(&mut self, tenant: &TenantId, region: usize, bundle: &Bundle) {
        if self.is_off() {
            return;
        }
        let known = self.book[region].get(tenant).is_some_and(|(_, sure)| *sure);
        if !known {
            let names = self.codes(bundle, None);
            self.book[region].insert(tenant.clone(), (names, false));
        }
    }

    /// A store of the region was found to hold what the hub has.
    pub fn in_step(&mut self, region: usize) {
        self.in_step[region] = true;
    }

    /// A build of a tenant, and whether it may go on: not while its names are unknown, and not while it loses something
    /// of a cause that is not decided. `open` says in which regions a store listens, `excused` what may leave.
    pub fn built(
        &mut self,
        tenant: &TenantId,
        bundles: &[&Bundle],
        open: &[bool],
        excused: &[HoldName],
    ) -> bool {
        let cause = self.causes.remove(tenant);
        let cause = cause.unwrap_or_else(|| Cause::Alone(tenant.clone()));
        let regions: Vec<usize> = (0..bundles.len()).filter(|r| open[*r]).collect();
        let strange: Vec<usize> = regions
            .iter()
            .copied()
            .filter(|r| self.published(*r, tenant).is_none())
            .collect();
        if !strange.is_empty() {
            self.asks
                .extend(strange.into_iter().map(|r| (r, tenant.clone())));
            self.strangers.insert(tenant.clone());
            self.caused(tenant, cause);
            return false;
        }
        let mut differences = Vec::new();
        for region in regions {
            let before = self.published(region, tenant).unwrap_or_default();
            let now = self.codes(bundles[region], Some(&before));
            let excused = self.excused(region, excused);
            let lost = |code: &&Code| now.binary_search(code).is_err() && !excused.contains(*code);
            let difference = Difference {
                lost: before.iter().filter(lost).copied().collect(),
                gained: now
                    .iter()
                    .filter(|code| before.binary_search(code).is_err())
                    .copied()
                    .collect(),
            };
            differences.push((region, now, difference));
        }
        let loses = differences.iter().any(|(_, _, d)| !d.lost.is_empty());
        let case = self.cases.entry(cause).or_default();
        case.open.remove(tenant);
        for (region, now, difference) in differences {
            let gained = difference.gained.into_iter().map(|code| (region, code));
            case.gained.extend(gained);
            if loses {
                let latest = self.latest.entry(tenant.clone()).or_default();
                latest.push((region, now));
                case.lost.insert((region, tenant.clone()), difference.lost);
            } else {
                self.book[region].insert(tenant.clone(), (now, true));
            }
        }
        if loses {
            case.parked.insert(tenant.clone());
        }
        !loses
    }

    /// A tenant goes on with the build that was kept back a moment ago: what that gained is published too.
    pub fn goes_on(&mut self, tenant: &TenantId) {
        for (region, names) in self.latest.remove(tenant).into_iter().flatten() {
            self.book[region].insert(tenant.clone(), (names, true));
        }
    }

    /// The others are built again before they go on.
    pub fn forget_latest(&mut self) {
        self.latest.clear();
    }

    /// Decides what can be decided: causes of which every tenant was built, and holds of which every name is known.
    pub fn decide(&mut self, now: Millis) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let waits = |asks: &BTreeSet<(usize, TenantId)>, t: &TenantId| {
            (0..self.regions.len()).any(|r| asks.contains(&(r, t.clone())))
        };
        let known: Vec<TenantId> = self
            .strangers
            .iter()
            .filter(|t| !waits(&self.asks, t))
            .cloned()
            .collect();
        for tenant in known {
            self.strangers.remove(&tenant);
            verdicts.free.insert(tenant);
        }
        while self
            .removed
            .front()
            .is_some_and(|(at, ..)| at + WINDOW <= now)
        {
            self.removed.pop_front();
        }
        if self.cases.is_empty() {
            self.told.clear();
        }
        let complete: Vec<Cause> = self
            .cases
            .iter()
            .filter(|(_, case)| case.open.is_empty())
            .map(|(cause, _)| cause.clone())
            .collect();
        for cause in complete {
            let Some(mut case) = self.cases.remove(&cause) else {
                continue;
            };
            if case.over.is_empty() {
                self.judge(now, &cause, &mut case, &mut verdicts.alerts);
            }
            let asked = |(r, t): &(usize, TenantId)| self.asks.contains(&(*r, t.clone()));
            if case.over.is_empty() {
                verdicts.free.append(&mut case.parked);
            } else if case.lost.keys().any(asked) {
                self.cases.insert(cause, case);
            } else {
                let hold = self.write_down(&cause, case);
                verdicts.holds.push(hold);
            }
        }
        verdicts
    }

    /// What a store of a region holds of tenants that were asked for.
    pub fn named(&mut self, region: usize, tenant: &TenantId, names: &[(Kind, Key)]) {
        let place = (region, tenant.clone());
        self.asks.remove(&place);
        if self
            .cases
            .values()
            .any(|case| case.lost.contains_key(&place))
        {
            let here = self.regions[region].clone();
            self.told.extend(names.iter().map(|(kind, key)| HoldName {
                tenant: tenant.clone(),
                kind: kind.clone(),
                key: key.clone(),
                region: here.clone(),
            }));
        }
        let mut codes: Vec<Code> = names
            .iter()
            .map(|(kind, key)| self.code(kind, key))
            .collect();
        if let Some(before) = self.published(region, tenant) {
            codes.extend(before.iter());
        }
        codes.sort_unstable();
        codes.dedup();
        self.book[region].insert(tenant.clone(), (codes.into(), true));
    }

    /// No store of the region listens: nothing is asked there, and nothing waits for it. A scan finds what it misses.
    pub fn region_away(&mut self, region: usize) {
        if self.asks.is_empty() && self.cases.is_empty() {
            return;
        }
        self.asks.retain(|(r, _)| *r != region);
        for case in self.cases.values_mut() {
            case.over.retain(|(r, _), _| *r != region);
            case.lost.retain(|(r, _), _| *r != region);
        }
    }

    /// Whether nothing waits for a decision.
    pub fn is_idle(&self) -> bool {
        self.strangers.is_empty() && self.cases.is_empty()
    }

    /// Passes what may pass: it is out of the book, so that the next build of its tenants removes nothing. What may not
    /// is left in `over`, and its names are asked for.
    fn judge(&mut self, now: Millis, cause: &Cause, case: &mut Case, alerts: &mut Vec<Alert>) {
        let mut counts: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        for ((region, _), lost) in &mut case.lost {
            lost.retain(|code| !case.gained.contains(&(*region, *code)));
            for code in lost.iter() {
                *counts
                    .entry((*region, code >> (64 - KIND_BITS)))
                    .or_default() += 1;
            }
        }
        let allowed = matches!(cause, Cause::Scan(id) if self.allowed.contains(id));
        for ((region, kind), count) in counts {
            let before: usize = self
                .removed
                .iter()
                .filter(|(_, r, k, _)| (*r, *k) == (region, kind))
                .map(|(.., n)| n)
                .sum();
            let fits = || before + count <= self.limits.most(self.total(region, kind));
            let (r, k) = (&self.regions[region], self.kind_of(kind));
            if allowed || self.limits.is_off() || fits() {
                self.removed.push_back((now, region, kind, count));
            } else if count <= ALWAYS {
                let line = format!(
                    "{count} removals of kind {k} in region {r} pass, since they are few; with them {} left within ten minutes",
                    before + count
                );
                alerts.push(Alert {
                    is_held: false,
                    line,
                });
                self.removed.push_back((now, region, kind, count));
            } else {
                let line = format!("{cause}: {count} removals of kind {k} in region {r} at once");
                alerts.push(Alert {
                    is_held: true,
                    line: format!("{line}: held; see `publisher held`"),
                });
                case.over.insert((region, kind), line);
            }
        }
        let over =
            |region: usize, code: Code| case.over.contains_key(&(region, code >> (64 - KIND_BITS)));
        for ((region, tenant), lost) in &mut case.lost {
            let gone: HashSet<Code> = lost
                .iter()
                .copied()
                .filter(|c| !over(*region, *c))
                .collect();
            strike(&mut self.book[*region], tenant, &gone);
            lost.retain(|code| over(*region, *code));
            if !lost.is_empty() {
                self.asks.insert((*region, tenant.clone()));
            }
        }
        case.lost.retain(|_, lost| !lost.is_empty());
    }

    /// The names of what is held. Of a name that no store has there is nothing to keep, so it is out of the book.
    fn write_down(&mut self, cause: &Cause, case: Case) -> Hold {
        let mut wanted: HashSet<(usize, TenantId, Code)> = HashSet::new();
        for ((region, tenant), lost) in &case.lost {
            wanted.extend(lost.iter().map(|code| (*region, tenant.clone(), *code)));
        }
        let (mut names, mut told) = (Vec::new(), std::mem::take(&mut self.told));
        told.retain(|name| {
            let region = self.regions.iter().position(|r| *r == name.region);
            let code = self.code_of_known(&name.kind, &name.key);
            let found = region
                .zip(code)
                .is_some_and(|(r, code)| wanted.remove(&(r, name.tenant.clone(), code)));
            if found {
                names.push(name.clone());
            }
            !found
        });
        self.told = told;
        let mut nowhere: BTreeMap<(usize, TenantId), HashSet<Code>> = BTreeMap::new();
        for (region, tenant, code) in wanted {
            nowhere.entry((region, tenant)).or_default().insert(code);
        }
        for ((region, tenant), codes) in &nowhere {
            strike(&mut self.book[*region], tenant, codes);
        }
        let lines: Vec<String> = case.over.into_values().collect();
        let cause = match lines.is_empty() {
            true => cause.to_string(),
            false => lines.join("; "),
        };
        Hold {
            cause,
            names,
            tenants: case.parked,
        }
    }

    fn published(&self, region: usize, tenant: &TenantId) -> Option<Names> {
        match self.book[region].get(tenant) {
            Some((names, sure)) if *sure || self.in_step[region] => Some(names.clone()),
            Some(_) => None,
            None => self.in_step[region].then(Names::default),
        }
    }

    /// Contexts of a kind in a region, as far as they are known.
    fn total(&self, region: usize, kind: u64) -> usize {
        let (from, to) = (kind << (64 - KIND_BITS), (kind + 1) << (64 - KIND_BITS));
        let count = |names: &Names| {
            let below = names.partition_point(|code| *code < from);
            names.partition_point(|code| *code < to || to == 0) - below
        };
        self.book[region]
            .values()
            .map(|(names, _)| count(names))
            .sum()
    }

    /// The names of a bundle. Of a kind that cannot be built the names from before count: the stores keep them.
    fn codes(&mut self, bundle: &Bundle, before: Option<&[Code]>) -> Names {
        let held = bundle
            .held
            .iter()
            .filter(|h| h.why.class() == HoldClass::Keeps);
        let names = bundle.contexts.iter().map(|c| (&c.kind, &c.key));
        let mut codes: Vec<Code> = names
            .chain(held.map(|h| (&h.kind, &h.key)))
            .map(|(kind, key)| self.code(kind, key))
            .collect();
        for whole in &bundle.held_kinds {
            let kind = self.number(&whole.kind);
            let kept = before.into_iter().flatten();
            codes.extend(kept.filter(|code| **code >> (64 - KIND_BITS) == kind));
        }
        codes.sort_unstable();
        codes.dedup();
        codes.into()
    }

    fn excused(&self, region: usize, excused: &[HoldName]) -> HashSet<Code> {
        let here = &self.regions[region];
        let mine = excused.iter().filter(|n| n.region == *here);
        mine.filter_map(|n| self.code_of_known(&n.kind, &n.key))
            .collect()
    }

    fn number(&mut self, kind: &Kind) -> u64 {
        let known = self.kinds.iter().position(|k| k == kind);
        let at = known.unwrap_or_else(|| {
            self.kinds.push(kind.clone());
            self.kinds.len() - 1
        });
        // Of more than 4,096 kinds some are counted together.
        at as u64 % (1 << KIND_BITS)
    }

    fn kind_of(&self, number: u64) -> &str {
        let kind = usize::try_from(number).ok().and_then(|n| self.kinds.get(n));
        kind.map_or("", |k| k.as_str())
    }

    fn code(&mut self, kind: &Kind, key: &Key) -> Code {
        let number = self.number(kind);
        hash(number, kind, key)
    }

    fn code_of_known(&self, kind: &Kind, key: &Key) -> Option<Code> {
        let at = self.kinds.iter().position(|k| k == kind)?;
        Some(hash(at as u64 % (1 << KIND_BITS), kind, key))
    }
}

fn hash(number: u64, kind: &Kind, key: &Key) -> Code {
    let mut hasher = DefaultHasher::new();
    (kind.as_str(), key.as_str()).hash(&mut hasher);
    number << (64 - KIND_BITS) | hasher.finish() >> KIND_BITS
}

/// Takes names of a tenant out of the book.
fn strike(book: &mut HashMap<TenantId, (Names, bool)>, tenant: &TenantId, gone: &HashSet<Code>) {
    if let Some((names, _)) = book.get_mut(tenant).filter(|_| !gone.is_empty()) {
        *names = names
            .iter()
            .filter(|c| !gone.contains(*c))
            .copied()
            .collect();
    }
}

#[cfg(test)]
mod tests;
