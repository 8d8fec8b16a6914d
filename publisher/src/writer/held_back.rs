//! What of each tenant one store does not get although the hub has it, as its bundles say: for whoever asks where a change is
//! visible. Pure.
//!
//! What is held back counts from the build on that holds it back, and until a bundle without it is in the store.

use super::receipts::HeldReport;
use contexts::bundle::Bundle;
use contexts::name::TenantId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tenants that are remembered for one store.
const TENANTS_MAX: usize = 10_000;

/// What is held back from one store.
#[derive(Debug, Default)]
pub struct HeldBack {
    tenants: BTreeMap<TenantId, Arc<[HeldReport]>>,
    /// Whether there were more tenants than are remembered.
    is_partial: bool,
}

/// What is known of some tenants at one store.
#[derive(Debug, Default)]
pub struct Holds {
    /// What is held back of them, by tenant.
    pub held: BTreeMap<TenantId, Vec<HeldReport>>,
    /// Why their changes may not be there, if they may not.
    pub why: Option<String>,
}

impl HeldBack {
    /// A build of a tenant for the store began to withhold this, if it is anything.
    pub fn built(&mut self, tenant: &TenantId, held: &Arc<[HeldReport]>) {
        if held.is_empty() {
            return;
        }
        match self.tenants.len() < TENANTS_MAX || self.tenants.contains_key(tenant) {
            true => drop(self.tenants.insert(tenant.clone(), held.clone())),
            false => self.is_partial = true,
        }
    }

    /// The store has this bundle.
    pub fn delivered(&mut self, bundle: &Bundle) {
        if HeldReport::of([bundle]).is_empty() {
            self.tenants.remove(&bundle.tenant);
            self.is_partial &= !self.tenants.is_empty();
        }
    }

    /// What is held back of these tenants; of no one knows whom, if that is not known any more.
    pub fn of(&self, tenants: Option<&[&TenantId]>) -> Holds {
        let Some(tenants) = tenants else {
            let is_stopped = |held: &Arc<[HeldReport]>| held.iter().any(HeldReport::is_stop);
            let may_be = self.is_partial || self.tenants.values().any(is_stopped);
            let why =
                "something is held there, and what this transaction changed is not known any more";
            return Holds {
                held: BTreeMap::new(),
                why: may_be.then(|| why.to_owned()),
            };
        };
        let named = tenants
            .iter()
            .filter_map(|t| Some(((*t).clone(), self.tenants.get(*t)?.to_vec())));
        let held: BTreeMap<TenantId, Vec<HeldReport>> = named.collect();
        let stopped = held.iter().find_map(|(tenant, held)| {
            let stop = held.iter().find(|held| held.is_stop())?;
            let key = stop
                .key
                .as_ref()
                .map_or_else(|| "all".to_owned(), ToString::to_string);
            Some(format!(
                "held: {} {key} of tenant {tenant}: {}",
                stop.kind, stop.why
            ))
        });
        let unknown = self.is_partial && !tenants.iter().all(|t| held.contains_key(*t));
        let unknown = unknown
            .then(|| "so much is held there that it is not known tenant by tenant".to_owned());
        Holds {
            why: stopped.or(unknown),
            held,
        }
    }
}
