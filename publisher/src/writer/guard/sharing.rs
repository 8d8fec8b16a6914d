//! Tenants that a small cause changed while they wait for a large one: the large one's removals are kept by name until
//! they are decided, and everything else of the tenant goes on. Nothing here decides what may leave.

use super::judge::nowhere;
use super::words::rank;
use super::{Case, Cause, Guard, HoldName, Reasons, Verdicts, Withheld, value_of};
use contexts::bundle::{Bundle, Context, Held, HoldReason};
use contexts::name::{Key, Kind, TenantId};
use std::collections::HashSet;

/// The good context of a name, if a bundle has one.
fn good<'a>(bundle: &'a Bundle, name: &HoldName) -> Option<&'a Context> {
    let by_name = |c: &Context| c.name().cmp(&(&name.kind, &name.key));
    let at = bundle.contexts.binary_search_by(by_name).ok()?;
    bundle.contexts.get(at)
}

impl Guard {
    /// A small cause changed a tenant. If that waits for a larger one, what that takes from it is known; its names are
    /// asked for, and then the tenant goes on without them. Unless the small one was there already when it was built.
    pub fn share(&mut self, tenant: &TenantId) {
        let Some((larger, case)) = self.waits_with(tenant) else {
            return;
        };
        let seen = case.seen.get(tenant).and_then(Option::as_ref);
        let was_there = |cause: &&Cause| match (cause, seen) {
            (Cause::Transaction(xid), Some(seen)) => seen.sees(*xid),
            (Cause::Transaction(_), None) => true,
            _ => false,
        };
        let reasons = self.causes.get(tenant);
        let small = reasons.and_then(|r| r.iter().find(was_there).cloned());
        if let Some(small) = small {
            let larger = larger.clone();
            return self.count_with(tenant, &small, larger);
        }
        let lost = case.lost.keys().filter(|(_, t)| t == tenant);
        let lost: Vec<_> = lost.cloned().collect();
        self.asks.extend(lost);
        self.sharing.insert(tenant.clone());
    }

    /// What a tenant loses is counted with a smaller cause.
    fn count_with(&mut self, tenant: &TenantId, small: &Cause, larger: Cause) {
        let Some(mut other) = self.cases.take(&larger) else {
            return;
        };
        let is_smaller = rank(small, self.cases.size(small)) < rank(&larger, other.size);
        if *small != larger && is_smaller {
            let case = self.cases.weigh(small);
            for region in 0..self.regions.len() {
                let place = (region, tenant.clone());
                if let Some(lost) = other.lost.remove(&place) {
                    case.lost.insert(place, lost);
                }
            }
            other.parked.remove(tenant);
            let seen = other.seen.remove(tenant).flatten();
            case.seen.insert(tenant.clone(), seen);
            case.parked.insert(tenant.clone());
            let largest = other.shared.remove(tenant);
            let largest = largest.unwrap_or_else(|| larger.clone());
            case.shared.insert(tenant.clone(), largest);
        }
        // It is built again for the others only.
        self.cases.put_back(larger, other);
        self.cases.close(small, tenant);
        let reasons = self.causes.remove(tenant);
        let others = reasons
            .iter()
            .flat_map(Reasons::iter)
            .filter(|c| *c != small);
        if let Some(other) = others.last() {
            self.causes
                .insert(tenant.clone(), Reasons::of(other.clone()));
        }
    }

    /// The cause that a tenant waits for and that is not decided.
    fn waits_with(&self, tenant: &TenantId) -> Option<(&Cause, &Case)> {
        let waits = |case: &Case| case.parked.contains(tenant) && case.over.is_empty();
        self.cases.weighed().find(|(_, case)| waits(case))
    }

    /// Lets go on whose names are known.
    pub(super) fn free_shared(&mut self, verdicts: &mut Verdicts) {
        let sharing = self.sharing.iter();
        let known = sharing.filter(|t| !self.is_asked(t)).cloned();
        for tenant in known.collect::<Vec<TenantId>>() {
            self.sharing.remove(&tenant);
            // Otherwise it was decided meanwhile, or is about to be.
            let Some(cause) = self.waits_with(&tenant).map(|(cause, _)| cause.clone()) else {
                continue;
            };
            let Some(mut case) = self.cases.take(&cause) else {
                continue;
            };
            let mut wanted = HashSet::new();
            for ((region, _), lost) in case.lost.iter().filter(|((_, t), _)| *t == tenant) {
                wanted.extend(lost.iter().map(|code| (*region, tenant.clone(), *code)));
            }
            let names = self.names_of(&mut wanted);
            // Of a name that no store has there is nothing to keep.
            for ((region, tenant), gone) in nowhere(wanted) {
                self.book.strike(region, &tenant, &gone);
                if let Some(lost) = case.lost.get_mut(&(region, tenant)) {
                    lost.retain(|code| !gone.contains(code));
                }
            }
            // They are asked for once more if they are to be written down.
            case.parked.remove(&tenant);
            case.kept.entry(tenant.clone()).or_default().extend(names);
            self.cases.put_back(cause, case);
            self.free(tenant, verdicts);
        }
    }

    /// The bundle of a tenant with what is kept of it by name; none if nothing is. What the hub has again or changed again,
    /// what a person let through and what the bundle holds already is kept no longer.
    pub fn keep(&mut self, region: usize, bundle: &Bundle, excused: &[HoldName]) -> Option<Bundle> {
        let (tenant, here) = (&bundle.tenant, &self.regions[region]);
        let settled = |name: &HoldName| {
            let held = bundle.held.iter();
            let mut held = held.filter(|h| (&h.kind, &h.key) == (&name.kind, &name.key));
            let good = good(bundle, name);
            let is_other = match name.what {
                Withheld::Change(value) => good.is_none_or(|context| value_of(context) != value),
                Withheld::Removal | Withheld::Beyond => good.is_some(),
            };
            is_other || held.next().is_some() || excused.contains(name)
        };
        let mut kept = Vec::new();
        for case in self.cases.weighed_mut() {
            let Some(names) = case.kept.get_mut(tenant) else {
                continue;
            };
            let lost = case.lost.get_mut(&(region, tenant.clone()));
            let back = names.iter().filter(|n| n.region == *here && settled(n));
            let back: HashSet<_> = back.filter_map(|n| self.book.code_of_hold(n)).collect();
            lost.into_iter()
                .for_each(|l| l.retain(|c| !back.contains(c)));
            names.retain(|n| n.region != *here || !settled(n));
            kept.extend(names.iter().filter(|n| n.region == *here).cloned());
        }
        if let Some(names) = self.written.get_mut(tenant) {
            names.retain(|n| n.region != *here || !settled(n));
            kept.extend(names.iter().filter(|n| n.region == *here).cloned());
            if names.is_empty() {
                self.written.remove(tenant);
            }
        }
        kept.retain(|name| !bundle.keeps_kind(&name.kind));
        if kept.is_empty() {
            return None;
        }
        let mut bundle = bundle.clone();
        let changed = |n: &HoldName| matches!(n.what, Withheld::Change(_));
        let changed: HashSet<(&Kind, &Key)> = kept
            .iter()
            .filter(|n| changed(n))
            .map(|n| (&n.kind, &n.key))
            .collect();
        bundle.contexts.retain(|c| !changed.contains(&c.name()));
        bundle.held.extend(kept.iter().map(|name| Held {
            kind: name.kind.clone(),
            key: name.key.clone(),
            why: HoldReason::Undecided,
        }));
        let name = |h: &Held| (h.kind.clone(), h.key.clone());
        bundle.held.sort_unstable_by_key(name);
        bundle.held.dedup_by_key(|h| name(h));
        Some(bundle)
    }

    /// Whether something of a tenant is kept by name.
    pub fn keeps(&self, tenant: &TenantId) -> bool {
        self.written.contains_key(tenant)
            || (self.cases.weighed()).any(|(_, case)| case.kept.contains_key(tenant))
    }

    /// The tenants of which something is kept by name.
    pub fn kept(&self) -> impl Iterator<Item = &TenantId> {
        let weighed = self.cases.weighed();
        let undecided = weighed.flat_map(|(_, case)| case.kept.keys());
        undecided.chain(self.written.keys())
    }
}
