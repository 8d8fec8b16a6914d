//! What the guard decides: which causes may leave and which are held. It must never let a part of a large cause leave
//! because of a small one, beyond what may leave within ten minutes anyway.

use super::book::{self, Code, Sort};
use super::words::rank;
use super::{
    ALWAYS, ANY_VALUE, Act, Alert, Case, Cause, Guard, Hold, HoldName, Passed, Verdicts, WINDOW,
    Withheld,
};
use crate::writer::Millis;
use contexts::name::{Kind, TenantId};
use std::collections::{BTreeMap, HashMap, HashSet};

impl Guard {
    /// Decides what can be decided: causes of which every tenant was built, and holds of which every name is known.
    pub fn decide(&mut self, now: Millis) -> Verdicts {
        let mut verdicts = Verdicts::default();
        self.free_strangers(&mut verdicts);
        self.free_shared(&mut verdicts);
        verdicts.holds.append(&mut self.beyond);
        self.passed.retain(|p| now < p.until);
        if self.cases.is_nothing_weighed() {
            self.told.clear();
            self.news.clear();
        }
        // The smaller ones first: what they cannot answer for is handed to the larger ones.
        let complete = self.cases.weighed().filter(|(_, case)| case.is_complete());
        let mut complete: Vec<_> = complete.map(|(c, case)| (rank(c, case.size), c)).collect();
        complete.sort_unstable();
        let complete: Vec<Cause> = complete.into_iter().map(|(_, c)| c.clone()).collect();
        let sharing = self.cases.weighed().filter(|(_, c)| !c.shared.is_empty());
        let sharing: Vec<Cause> = sharing.map(|(c, _)| c.clone()).collect();
        let waiting = complete
            .iter()
            .filter(|cause| self.hand_over_to(cause, &sharing).next().is_some());
        let waiting = waiting.filter_map(|cause| self.cases.get(cause));
        let waiting: HashSet<TenantId> = waiting
            .flat_map(|case| case.parked.iter().cloned())
            .collect();
        for cause in complete {
            let smaller: Vec<Cause> = self.hand_over_to(&cause, &sharing).cloned().collect();
            let waits_too = |smaller: &Cause| {
                let case = self.cases.get(smaller);
                case.is_some_and(|case| case.waits_for_one_of(&waiting))
            };
            // One that itself waits for a tenant which waits for such a decision would never come to its own.
            if !smaller.iter().all(waits_too) {
                continue;
            }
            for smaller in &smaller {
                self.give_up_to(&cause, smaller, &mut verdicts.alerts);
            }
            let Some(mut case) = self.cases.take(&cause) else {
                continue;
            };
            if case.over.is_empty() {
                self.hand_over(&cause, &mut case, &mut verdicts.alerts);
                if self.looks < case.looks + 2 && !self.may_pass(&cause, &case) {
                    self.cases.put_back(cause, case);
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
                self.cases.put_back(cause, case);
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
        let passes = |((region, sort), count): (&(usize, Sort), &usize)| {
            let early = case.early.get(&(*region, *sort)).copied().unwrap_or(0);
            let allowed = allowed && sort.1 == Act::Removed;
            allowed || early + count <= ALWAYS || self.fits(*region, *sort, *count)
        };
        counts(case.lost.iter()).iter().all(passes)
    }

    /// Passes what may pass: it is out of the book, so that the next build of its tenants removes nothing. What may not
    /// is left in `over`, and its names are asked for.
    fn judge(&mut self, now: Millis, cause: &Cause, case: &mut Case, alerts: &mut Vec<Alert>) {
        let allowed = matches!(cause, Cause::Scan(id) if self.allowed.contains(id));
        for ((region, sort), count) in counts(case.lost.iter()) {
            let before = self.passed_before(region, sort);
            let early = case.early.get(&(region, sort)).copied().unwrap_or(0);
            let (kind, act) = sort;
            let (r, k) = (&self.regions[region], self.book.kind(kind).to_owned());
            let allowed = allowed && act == Act::Removed;
            if allowed || self.fits(region, sort, count) {
                self.leave(now, region, sort, count);
            } else if early + count <= ALWAYS {
                // That values change one by one is nothing unusual.
                if act == Act::Removed {
                    alerts.push(Alert::passed(format!(
                        "{count} removals of kind {k} in region {r} pass, since they are few; with them {} left within ten minutes",
                        before + count
                    )));
                }
                self.leave(now, region, sort, count);
            } else {
                let line = format!("{cause}: {count} {act} of kind {k} in region {r} at once");
                alerts.push(Alert::held(format!("{line}: held; see `publisher held`")));
                case.over.insert((region, sort), line);
            }
        }
        for ((region, tenant), lost) in &mut case.lost {
            let over = |code: &Code| case.over.contains_key(&(*region, book::sort_of(*code)));
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
        let few = |((region, sort), count): (&(usize, Sort), &usize)| {
            *count <= ALWAYS && self.fits(*region, *sort, *count)
        };
        let passes = counts(case.lost.iter()).iter().all(few);
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
            self.give(cause, case, tenant, &larger, alerts);
        }
    }

    /// Those of some causes that hand over to a larger one what they cannot answer for.
    fn hand_over_to<'a>(
        &self,
        larger: &Cause,
        some: &'a [Cause],
    ) -> impl Iterator<Item = &'a Cause> {
        some.iter().filter(move |smaller| {
            let case = self.cases.get(smaller);
            case.is_some_and(|case| case.shared.values().any(|to| to == larger))
        })
    }

    /// A smaller cause hands over all that it shares with a larger one, whether or not it could answer for it.
    fn give_up_to(&mut self, larger: &Cause, smaller: &Cause, alerts: &mut Vec<Alert>) {
        let Some(mut case) = self.cases.take(smaller) else {
            return;
        };
        let shared = case.shared.iter().filter(|(_, to)| *to == larger);
        let shared: Vec<TenantId> = shared.map(|(tenant, _)| tenant.clone()).collect();
        for tenant in shared {
            case.shared.remove(&tenant);
            self.give(smaller, &mut case, tenant, larger, alerts);
        }
        self.cases.put_back(smaller.clone(), case);
    }

    /// What a tenant loses by a cause is counted with a larger one.
    fn give(
        &mut self,
        cause: &Cause,
        case: &mut Case,
        tenant: TenantId,
        larger: &Cause,
        alerts: &mut Vec<Alert>,
    ) {
        let Some(other) = self.cases.get_mut(larger) else {
            return;
        };
        alerts.push(Alert::held(format!(
            "{cause} did something to tenant {tenant} that cannot be told from what {larger} did: it waits for that"
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

    fn leave(&mut self, now: Millis, region: usize, sort: Sort, count: usize) {
        self.passed.push_back(Counted {
            until: now + WINDOW,
            region,
            sort,
            count,
        });
        *self.unwritten.entry((region, sort)).or_default() += count;
    }

    /// What passed while an earlier writer counted.
    pub fn resume(&mut self, passed: &[Passed]) {
        for passed in passed {
            let region = self.regions.iter().position(|r| *r == passed.region);
            if let Some(region) = region.filter(|_| passed.ago < WINDOW) {
                self.passed.push_back(Counted {
                    until: WINDOW - passed.ago,
                    region,
                    sort: (self.book.number(&passed.kind), passed.act),
                    count: passed.count,
                });
            }
        }
    }

    /// What passed and was not written down yet; it is taken.
    pub fn take_unwritten(&mut self) -> Vec<Passed> {
        let unwritten = std::mem::take(&mut self.unwritten).into_iter();
        let named = unwritten.filter_map(|((region, (kind, act)), count)| {
            Some(Passed {
                act,
                region: self.regions[region].clone(),
                kind: Kind::new(self.book.kind(kind)).ok()?,
                count,
                ago: 0,
            })
        });
        named.collect()
    }

    /// It could not be written down.
    pub fn put_back(&mut self, passed: &[Passed]) {
        for passed in passed {
            let region = self.regions.iter().position(|r| *r == passed.region);
            if let Some(region) = region {
                let sort = (self.book.number(&passed.kind), passed.act);
                *self.unwritten.entry((region, sort)).or_default() += passed.count;
            }
        }
    }

    /// Whether something passed that was not written down.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    fn fits(&self, region: usize, sort: Sort, count: usize) -> bool {
        let (kind, act) = sort;
        if !self.limits.counts(act) {
            return true;
        }
        let most = self.limits.most(act, self.book.total(region, kind));
        self.passed_before(region, sort) + count <= most
    }

    fn passed_before(&self, region: usize, sort: Sort) -> usize {
        let here = |p: &&Counted| (p.region, p.sort) == (region, sort);
        self.passed.iter().filter(here).map(|p| p.count).sum()
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
            let Some((region, code)) = region.zip(code) else {
                return true;
            };
            let mut is_wanted = |code| wanted.remove(&(region, name.tenant.clone(), code));
            let what = if is_wanted(code) {
                Withheld::Removal
            } else if is_wanted(book::change_of(code)) {
                let value = self.news.get(&(region, code));
                Withheld::Change(value.copied().unwrap_or(ANY_VALUE))
            } else {
                return true;
            };
            names.push(HoldName {
                what,
                ..name.clone()
            });
            false
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

/// So much passed in a region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    until: Millis,
    region: usize,
    sort: Sort,
    count: usize,
}

/// How much it is, by region, kind and what is done.
fn counts<'a>(
    lost: impl Iterator<Item = (&'a (usize, TenantId), &'a Vec<Code>)>,
) -> BTreeMap<(usize, Sort), usize> {
    let mut counts = BTreeMap::new();
    for ((region, _), codes) in lost {
        for code in codes {
            *counts.entry((*region, book::sort_of(*code))).or_default() += 1;
        }
    }
    counts
}
