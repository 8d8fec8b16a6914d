//! What each tenant was when the hub built it last. A scan that finds another one has found *drift*, a change that no trigger
//! told of, and repairs it as soon as it has read everything, without asking each store for a list first.
//!
//! Nothing relies on it. Each store is compared as a whole after that, and what is wrong there still is listed. So whatever is
//! missing here, or untrue, costs time.

use super::regional::Regional;
use super::{StoreIx, Writer};
use contexts::digest::Digest;
use contexts::name::TenantId;
use std::collections::{BTreeSet, HashMap};

/// The digest of a tenant in each region; none where it is not.
pub type Presences = Regional<Option<Digest>>;

/// What was found last.
#[derive(Debug, Default)]
pub struct Found {
    tenants: HashMap<TenantId, Presences>,
}

impl Found {
    /// A scan has found all of this.
    pub fn by_scan(&mut self, tenants: HashMap<TenantId, Presences>) {
        self.tenants = tenants;
    }

    /// A build by name found this. Of a tenant that is gone there is nothing to compare.
    pub fn by_name(&mut self, tenant: &TenantId, digests: &[Option<Digest>]) {
        if digests.iter().all(Option::is_none) {
            self.tenants.remove(tenant);
            return;
        }
        let presences = Regional::of(digests.to_vec());
        self.tenants.insert(tenant.clone(), presences);
    }

    /// A scan comes to this tenant and has found these: what it was before, if that was something else.
    pub fn compare(&mut self, tenant: &TenantId, digests: &[Option<Digest>]) -> Option<Presences> {
        let before = self.tenants.remove(tenant)?;
        let is_same = digests
            .iter()
            .enumerate()
            .all(|(i, now)| before.at(i) == now);
        (!is_same).then_some(before)
    }

    /// Tenants that were there, and that no scan has come to.
    fn left(&mut self) -> impl Iterator<Item = (TenantId, Presences)> {
        let left = std::mem::take(&mut self.tenants);
        left.into_iter().filter(|(_, p)| p.any(Option::is_some))
    }
}

impl Writer {
    /// The scan has read everything: what drifted is built again for the stores that were in step before.
    pub(super) fn repair_drift(&mut self) {
        let Some(scan) = self.scan.as_mut() else {
            return;
        };
        let mut drifted = std::mem::take(&mut scan.drifted);
        let gone = self.found.left();
        drifted.extend(gone.filter(|(tenant, _)| !scan.has_seen(tenant)));
        if drifted.is_empty() {
            return;
        }
        let targets = scan.active().filter(|(_, target)| !target.filling);
        let targets: Vec<StoreIx> = targets.map(|(ix, _)| *ix).collect();
        for ix in targets {
            let store = &self.stores[ix.0];
            let Some(scan) = self.scan.as_ref().filter(|_| store.synced) else {
                continue;
            };
            let region = self.region_of(ix);
            let here = drifted
                .iter()
                .map(|(tenant, before)| (tenant, *before.at(region)));
            let differing = here.filter(|(tenant, before)| *before != scan.digest(tenant, region));
            let differing: BTreeSet<(TenantId, bool)> = differing
                .map(|(t, before)| (t.clone(), before.is_some()))
                .collect();
            self.repair(ix, differing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a tenant")
    }

    #[test]
    fn drift_is_what_a_scan_finds_otherwise_than_it_was_built_last() {
        let digest = |n| Some(Digest([n; 16]));
        let (a, b, c, d) = (tenant("a"), tenant("b"), tenant("c"), tenant("d"));
        let mut found = Found::default();
        let before = [&a, &b, &c, &d].map(|t| (t.clone(), Regional::of(vec![digest(1), None])));
        found.by_scan(before.into());
        found.by_name(&b, &[digest(2), None]);
        assert!(
            found.compare(&b, &[digest(2), None]).is_none(),
            "a build told of it"
        );
        let drift = found
            .compare(&a, &[digest(1), digest(1)])
            .expect("another region");
        assert_eq!(drift.each(2), [digest(1), None]);
        assert!(found.compare(&tenant("new"), &[digest(1), None]).is_none());
        found.by_name(&d, &[None, None]);
        let left: Vec<TenantId> = found.left().map(|(tenant, _)| tenant).collect();
        assert_eq!(left, [c], "what is known to be gone is no drift");
    }
}
