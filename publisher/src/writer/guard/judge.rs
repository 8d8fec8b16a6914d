//! What the guard decides: which causes may leave and which are held. It must never let a part of a large cause leave
//! because of a small one, beyond what may leave within ten minutes anyway.

use super::book::{self, Code};
use super::words::rank;
use super::{ALWAYS, Alert, Case, Cause, Guard, Hold, HoldName, Removals, Verdicts, WINDOW};
use crate::writer::Millis;
use contexts::name::{Kind, TenantId};
use std::collections::{BTreeMap, HashMap, HashSet};

impl Guard {
    /// Decides what can be decided: causes of which every tenant was built, and holds of which every name is known.
    pub fn decide(&mut self, now: Millis) -> Verdicts {
        let mut verdicts = Verdicts::default();
        self.free_strangers(&mut verdicts);
        self.free_shared(&mut verdicts);
        self.removed.retain(|r| now < r.until);
        if self.cases.is_empty() {
            self.told.clear();
        }
        // The smaller ones first: what they cannot answer for is handed to the larger ones.
        let complete = self.cases.iter().filter(|(_, case)| case.open.is_empty());
        let mut complete: Vec<_> = complete.map(|(c, case)| (rank(c, case.size), c)).collect();
        complete.sort_unstable();
        let complete: Vec<Cause> = complete.into_iter().map(|(_, c)| c.clone()).collect();
        for cause in complete {
            let shares = |case: &Case| case.shared.values().any(|larger| *larger == cause);
            if self.cases.values().any(shares) {
                continue;
            }
            let Some(mut case) = self.cases.remove(&cause) else {
                continue;
            };
            if case.over.is_empty() {
                self.hand_over(&cause, &mut case, &mut verdicts.alerts);
                if self.looks < case.looks + 2 && !self.may_pass(&cause, &case) {
                    self.cases.insert(cause, case);
                    continue;
                }
                self.judge(now, &cause, &mut case, &mut verdicts.alerts);
            }
            let asked = |(r, t): &(usize, TenantId)| self.asks.contains(&(*r, t.clone()));
            if case.over.is_empty() {
                self.again.extend(case.kept.keys().cloned());
                let kept = case.kept.into_keys();
                case.parked.into_iter().chain(kept).for_each(|tenant| {
                    self.free(tenant, &mut verdicts);
                });
            } else if case.lost.keys().any(asked) {
                self.cases.insert(cause, case);
            } else {
                let hold = self.write_down(&cause, case);
                verdicts.holds.push(hold);
            }
        }
        verdicts
    }

    /// A tenant waits for this decision no more, though perhaps for another one.
    pub(super) fn free(&mut self, tenant: TenantId, verdicts: &mut Verdicts) {
        if self.is_parked(&tenant) {
            return;
        }
        match self.again.remove(&tenant) {
            true => verdicts.again.insert(tenant),
            false => verdicts.free.insert(tenant),
        };
    }

    fn free_strangers(&mut self, verdicts: &mut Verdicts) {
        let strangers = self.strangers.iter();
        let known = strangers.filter(|t| !self.is_asked(t)).cloned();
        for tenant in known.collect::<Vec<TenantId>>() {
            self.strangers.remove(&tenant);
            verdicts.free.insert(tenant);
        }
    }

    /// Whether nothing of a cause would be held.
    fn may_pass(&self, cause: &Cause, case: &Case) -> bool {
        let allowed = matches!(cause, Cause::Scan(id) if self.allowed.contains(id));
        let passes = |((region, kind), count): (&(usize, u64), &usize)| {
            let early = case.early.get(&(*region, *kind)).copied().unwrap_or(0);
            early + count <= ALWAYS || self.fits(*region, *kind, *count)
        };
        allowed || self.limits.is_off() || counts(case.lost.iter()).iter().all(passes)
    }

    /// Passes what may pass: it is out of the book, so that the next build of its tenants removes nothing. What may not
    /// is left in `over`, and its names are asked for.
    fn judge(&mut self, now: Millis, cause: &Cause, case: &mut Case, alerts: &mut Vec<Alert>) {
        let allowed = matches!(cause, Cause::Scan(id) if self.allowed.contains(id));
        for ((region, kind), count) in counts(case.lost.iter()) {
            let before = self.removed_before(region, kind);
            let early = case.early.get(&(region, kind)).copied().unwrap_or(0);
            let (r, k) = (&self.regions[region], self.book.kind(kind).to_owned());
            if allowed || self.limits.is_off() || self.fits(region, kind, count) {
                self.leave(now, region, kind, count);
            } else if early + count <= ALWAYS {
                alerts.push(Alert::passed(format!(
                    "{count} removals of kind {k} in region {r} pass, since they are few; with them {} left within ten minutes",
                    before + count
                )));
                self.leave(now, region, kind, count);
            } else {
                let line = format!("{cause}: {count} removals of kind {k} in region {r} at once");
                alerts.push(Alert::held(format!("{line}: held; see `publisher held`")));
                case.over.insert((region, kind), line);
            }
        }
        for ((region, tenant), lost) in &mut case.lost {
            let over = |code: &Code| case.over.contains_key(&(*region, book::kind_of(*code)));
            let gone = lost.iter().copied().filter(|code| !over(code)).collect();
            self.book.strike(*region, tenant, &gone);
            lost.retain(over);
            if !lost.is_empty() {
                self.asks.insert((*region, tenant.clone()));
            }
        }
        case.lost.retain(|_, lost| !lost.is_empty());
    }

    /// Tenants that a larger cause changed too, before they were built: what each of the two took cannot be told apart.
    /// It passes for the smaller one if it is few and would fit in any case; else it is the larger one's.
    fn hand_over(&mut self, cause: &Cause, case: &mut Case, alerts: &mut Vec<Alert>) {
        // What another tenant of the cause has now is moved, not removed.
        for ((region, tenant), lost) in &mut case.lost {
            let is_moved = |code: &Code| case.gained.contains(&(*region, *code));
            let moved = lost.iter().copied().filter(is_moved).collect();
            self.book.strike(*region, tenant, &moved);
            lost.retain(|code| !moved.contains(code));
        }
        let shared = std::mem::take(&mut case.shared);
        let few = |((region, kind), count): (&(usize, u64), &usize)| {
            *count <= ALWAYS && self.fits(*region, *kind, *count)
        };
        let passes = self.limits.is_off() || counts(case.lost.iter()).iter().all(few);
        for (tenant, larger) in shared {
            let Some(other) = self.cases.get_mut(&larger) else {
                continue;
            };
            let mine = case.lost.iter().filter(|((_, t), _)| *t == tenant);
            if passes {
                for (place, count) in counts(mine) {
                    *other.early.entry(place).or_default() += count;
                }
                continue;
            }
            alerts.push(Alert::held(format!(
                "{cause} removed something of tenant {tenant} that cannot be told from what {larger} removed: it waits for that"
            )));
            for (region, _) in self.regions.iter().enumerate() {
                if let Some(lost) = case.lost.remove(&(region, tenant.clone())) {
                    other.lost.insert((region, tenant.clone()), lost);
                }
            }
            case.parked.remove(&tenant);
            let seen = case.seen.remove(&tenant).flatten();
            other.seen.insert(tenant.clone(), seen);
            other.parked.insert(tenant);
        }
    }

    fn leave(&mut self, now: Millis, region: usize, kind: u64, count: usize) {
        self.removed.push_back(Removed {
            until: now + WINDOW,
            region,
            kind,
            count,
        });
        *self.unwritten.entry((region, kind)).or_default() += count;
    }

    /// What left while an earlier writer counted.
    pub fn resume(&mut self, removals: &[Removals]) {
        for removed in removals {
            let region = self.regions.iter().position(|r| *r == removed.region);
            if let Some(region) = region.filter(|_| removed.ago < WINDOW) {
                self.removed.push_back(Removed {
                    until: WINDOW - removed.ago,
                    region,
                    kind: self.book.number(&removed.kind),
                    count: removed.count,
                });
            }
        }
    }

    /// What left and was not written down yet; it is taken.
    pub fn take_unwritten(&mut self) -> Vec<Removals> {
        let unwritten = std::mem::take(&mut self.unwritten).into_iter();
        let named = unwritten.filter_map(|((region, kind), count)| {
            Some(Removals {
                region: self.regions[region].clone(),
                kind: Kind::new(self.book.kind(kind)).ok()?,
                count,
                ago: 0,
            })
        });
        named.collect()
    }

    /// It could not be written down.
    pub fn put_back(&mut self, removals: &[Removals]) {
        for removed in removals {
            let region = self.regions.iter().position(|r| *r == removed.region);
            if let Some(region) = region {
                let place = (region, self.book.number(&removed.kind));
                *self.unwritten.entry(place).or_default() += removed.count;
            }
        }
    }

    /// Whether something left that was not written down.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    fn fits(&self, region: usize, kind: u64, count: usize) -> bool {
        let most = self.limits.most(self.book.total(region, kind));
        self.removed_before(region, kind) + count <= most
    }

    fn removed_before(&self, region: usize, kind: u64) -> usize {
        let here = |r: &&Removed| (r.region, r.kind) == (region, kind);
        self.removed.iter().filter(here).map(|r| r.count).sum()
    }

    /// The names of what is held. Of a name that no store has there is nothing to keep, so it is out of the book.
    fn write_down(&mut self, cause: &Cause, case: Case) -> Hold {
        let mut wanted: HashSet<(usize, TenantId, Code)> = HashSet::new();
        for ((region, tenant), lost) in &case.lost {
            wanted.extend(lost.iter().map(|code| (*region, tenant.clone(), *code)));
        }
        let names = self.names_of(&mut wanted);
        for ((region, tenant), codes) in nowhere(wanted) {
            self.book.strike(region, &tenant, &codes);
        }
        // Until a build finds the rows, what is kept by name goes on being kept.
        for (tenant, mut kept) in case.kept.clone() {
            kept.retain(|name| names.contains(name));
            self.written.entry(tenant).or_default().extend(kept);
        }
        let lines: Vec<String> = case.over.into_values().collect();
        let cause = match lines.is_empty() {
            true => cause.to_string(),
            false => lines.join("; "),
        };
        let mut tenants = case.parked;
        tenants.extend(case.kept.into_keys());
        Hold {
            cause,
            names,
            tenants,
        }
    }

    /// The names that stores told of these, which are taken out.
    pub(super) fn names_of(
        &mut self,
        wanted: &mut HashSet<(usize, TenantId, Code)>,
    ) -> Vec<HoldName> {
        let mut names = Vec::new();
        let mut told = std::mem::take(&mut self.told);
        told.retain(|name| {
            let region = self.regions.iter().position(|r| *r == name.region);
            let code = self.book.code_of_known(&name.kind, &name.key);
            let found = region
                .zip(code)
                .is_some_and(|(r, code)| wanted.remove(&(r, name.tenant.clone(), code)));
            if found {
                names.push(name.clone());
            }
            !found
        });
        self.told = told;
        names
    }
}

/// Names by tenant and region.
pub(super) fn nowhere(
    wanted: HashSet<(usize, TenantId, Code)>,
) -> HashMap<(usize, TenantId), HashSet<Code>> {
    let mut by_tenant: HashMap<(usize, TenantId), HashSet<Code>> = HashMap::new();
    for (region, tenant, code) in wanted {
        by_tenant.entry((region, tenant)).or_default().insert(code);
    }
    by_tenant
}

/// So many contexts of a kind were removed from a region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removed {
    until: Millis,
    region: usize,
    kind: u64,
    count: usize,
}

/// Removals by region and kind.
fn counts<'a>(
    lost: impl Iterator<Item = (&'a (usize, TenantId), &'a Vec<Code>)>,
) -> BTreeMap<(usize, u64), usize> {
    let mut counts = BTreeMap::new();
    for ((region, _), codes) in lost {
        for code in codes {
            *counts.entry((*region, book::kind_of(*code))).or_default() += 1;
        }
    }
    counts
}
