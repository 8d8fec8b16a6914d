//! Which snapshot a bundle that travels was built from. The shipped code does not carry this, so the simulation
//! remembers each bundle that a build made, by address, and finds one that was changed by a hold by its content, when it is
//! sent for the first time: a later build may have the same content. What the guard keeps while it counts is named in what is
//! sent, beside the content of the snapshot.

use crate::store::Origin;
use contexts::bundle::{Bundle, HoldReason};
use contexts::name::TenantId;
use contexts::push::Sent;
use contexts::version::Version;
use publisher::writer::BuiltBatch;
use std::collections::HashMap;
use std::sync::Arc;

/// A run of a publisher's process.
type Run = (usize, u64);

/// The bundles of a tenant that a run built.
type Made = Vec<(Arc<Bundle>, Origin)>;

/// The bundles that were built.
#[derive(Default)]
pub struct Origins {
    by_address: HashMap<usize, Origin>,
    /// By the place of the region among those of the build.
    by_tenant: HashMap<(Run, TenantId, usize), Made>,
    /// What was sent: each build has a version of its own.
    by_version: HashMap<(Run, TenantId, usize, Version), Origin>,
}

impl Origins {
    /// Remembers the bundles of a build.
    pub fn remember(&mut self, run: Run, batch: &BuiltBatch, origin: Origin) {
        for built in &batch.tenants {
            for (region, bundle) in built.bundles.iter().enumerate() {
                let address = Arc::as_ptr(&bundle.bundle) as usize;
                self.by_address.insert(address, origin);
                let place = (run, built.tenant.clone(), region);
                let all = self.by_tenant.entry(place).or_default();
                all.push((bundle.bundle.clone(), origin));
            }
        }
    }

    /// The origin of a bundle that a run sends to a region.
    pub fn of(&mut self, run: Run, region: usize, sent: &Sent) -> Option<Origin> {
        let bundle = &sent.bundle;
        let version = (run, bundle.tenant.clone(), region, sent.version);
        if let Some(origin) = self.by_version.get(&version) {
            return Some(*origin);
        }
        let address = Arc::as_ptr(bundle) as usize;
        let found = self.by_address.get(&address).copied().or_else(|| {
            let all = self.by_tenant.get(&(run, bundle.tenant.clone(), region))?;
            let found = all.iter().rev().find(|(b, _)| came_from(bundle, b));
            found.map(|(_, origin)| *origin)
        })?;
        self.by_version.insert(version, found);
        Some(found)
    }
}

/// Whether a bundle is another one with some keys held for a clash, or kept by the guard.
fn came_from(sent: &Bundle, built: &Bundle) -> bool {
    let clashes = sent
        .held
        .iter()
        .filter(|h| matches!(h.why, HoldReason::KeyTaken { .. }));
    let held = clashes.fold(built.clone(), |bundle, h| {
        bundle.hold(&h.kind, &h.key, h.why.clone())
    });
    let mut sent = sent.clone();
    sent.held.retain(|h| h.why != HoldReason::Undecided);
    held == sent
}
