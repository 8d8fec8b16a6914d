//! The causes that are not decided. Under a burst there are thousands, of which nearly none takes anything away; so those
//! are kept apart, are gone with the build of their last tenant, and nothing ever looks through them.

use super::book::{Code, Sort};
use super::words::{Cause, HoldName};
use crate::writer::Snapshot;
use contexts::name::TenantId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A cause of which not every tenant was built yet, or that waits for names.
#[derive(Debug, Default)]
pub(super) struct Case {
    /// Tenants that it changed.
    pub size: usize,
    /// Tenants that were not built since.
    open: HashSet<TenantId>,
    /// Of those that were: what they lose or change, by region.
    pub lost: BTreeMap<(usize, TenantId), Vec<Code>>,
    /// And what they gain.
    pub gained: HashSet<(usize, Code)>,
    /// Tenants that wait for the decision.
    pub parked: BTreeSet<TenantId>,
    /// What the snapshots saw in which they were built.
    pub seen: BTreeMap<TenantId, Option<Arc<Snapshot>>>,
    /// How many looks had ended when the last of them was built.
    pub looks: u64,
    /// Tenants that go on while what they lose is kept by name.
    pub kept: BTreeMap<TenantId, Vec<HoldName>>,
    /// Tenants that this larger cause changed too before they were built.
    pub shared: BTreeMap<TenantId, Cause>,
    /// What of it left with a smaller cause.
    pub early: BTreeMap<(usize, Sort), usize>,
    /// Decided: these kinds of these regions are held, and the names of what they lose are being asked for.
    pub over: BTreeMap<(usize, Sort), String>,
}

impl Case {
    /// Whether every tenant was built.
    pub fn is_complete(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a build of one of these tenants is waited for.
    pub fn waits_for_one_of(&self, tenants: &HashSet<TenantId>) -> bool {
        self.open.iter().any(|tenant| tenants.contains(tenant))
    }
}

/// The causes, each in one of two places.
#[derive(Debug, Default)]
pub(super) struct Cases {
    /// Nothing that was built takes anything, and no other cause is to hand anything over. Each has a tenant that was not
    /// built.
    harmless: HashMap<Cause, Case>,
    /// They take something, or answer for a smaller one: they stay until they are decided.
    weighed: BTreeMap<Cause, Case>,
}

impl Cases {
    /// How many tenants a cause changed.
    pub fn size(&self, cause: &Cause) -> usize {
        let case = self.harmless.get(cause);
        case.or_else(|| self.weighed.get(cause))
            .map_or(0, |case| case.size)
    }

    /// A tenant was changed by this, so that a build of it is waited for.
    pub fn open(&mut self, cause: &Cause, tenant: &TenantId) {
        let case = match self.weighed.get_mut(cause) {
            Some(case) => case,
            None => self.harmless.entry(cause.clone()).or_default(),
        };
        case.size += usize::from(case.open.insert(tenant.clone()));
    }

    /// A build of the tenant is waited for no more.
    pub fn close(&mut self, cause: &Cause, tenant: &TenantId) {
        if let Some(case) = self.weighed.get_mut(cause) {
            case.open.remove(tenant);
        } else if let Some(case) = self.harmless.get_mut(cause) {
            case.open.remove(tenant);
            if case.is_complete() {
                self.harmless.remove(cause);
            }
        }
    }

    /// A tenant of the cause was built when so many looks had ended, and has this that was not there.
    pub fn built(
        &mut self,
        cause: &Cause,
        tenant: &TenantId,
        looks: u64,
        gained: impl Iterator<Item = (usize, Code)>,
    ) {
        let weighed = self.weighed.get_mut(cause);
        if let Some(case) = weighed.or_else(|| self.harmless.get_mut(cause)) {
            case.looks = looks;
            case.gained.extend(gained);
        }
        self.close(cause, tenant);
    }

    /// No build is waited for, and nothing that was decided stands.
    pub fn forget_decisions(&mut self) {
        self.harmless.clear();
        for case in self.weighed.values_mut() {
            case.open.clear();
            case.over.clear();
        }
    }

    /// A cause that takes something, or answers for one that does.
    pub fn weigh(&mut self, cause: &Cause) -> &mut Case {
        let case = self.harmless.remove(cause);
        let weighed = self.weighed.entry(cause.clone());
        weighed.or_insert_with(|| case.unwrap_or_default())
    }

    /// Whether nothing is undecided.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.harmless.is_empty() && self.weighed.is_empty()
    }

    /// Whether no cause takes anything.
    pub fn is_nothing_weighed(&self) -> bool {
        self.weighed.is_empty()
    }

    /// Those that take something, or answer for one that does.
    pub fn weighed(&self) -> impl Iterator<Item = (&Cause, &Case)> {
        self.weighed.iter()
    }

    /// The same, to be changed.
    pub fn weighed_mut(&mut self) -> impl Iterator<Item = &mut Case> {
        self.weighed.values_mut()
    }

    /// One of these, if it is not decided.
    pub fn get(&self, cause: &Cause) -> Option<&Case> {
        self.weighed.get(cause)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, cause: &Cause) -> Option<&mut Case> {
        self.weighed.get_mut(cause)
    }

    /// One of these, out of its place, to be decided or to be put back.
    pub fn take(&mut self, cause: &Cause) -> Option<Case> {
        self.weighed.remove(cause)
    }

    /// It is not decided yet.
    pub fn put_back(&mut self, cause: Cause, case: Case) {
        self.weighed.insert(cause, case);
    }
}
