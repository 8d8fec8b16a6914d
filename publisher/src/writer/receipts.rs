//! Republish requests and their receipts: per tenant and store, what was delivered, or why not.

use super::dirty::Lane;
use super::store::Store;
use super::{Built, Millis, Report, StoreIx, Tick, Ticket, Writer};
use contexts::bundle::{Bundle, Held, HoldReason};
use contexts::name::{Key, Kind, Region, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Tenants that a request sends in one commit; more go in several.
const TOGETHER_MAX: usize = 50;

/// Which regions a request concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegionFilter {
    /// All of them.
    All,
    /// These.
    Only(BTreeSet<Region>),
}

impl RegionFilter {
    /// Whether a region is meant.
    pub fn has(&self, region: &Region) -> bool {
        match self {
            Self::All => true,
            Self::Only(regions) => regions.contains(region),
        }
    }
}

/// Held names of one tenant that are reported; its bundles have all of them.
const HELD_EACH: usize = 20;

/// Something that is held, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReport {
    /// The kind.
    pub kind: Kind,
    /// The key; none if the whole kind is held.
    pub key: Option<Key>,
    /// Why, as a word.
    #[serde(default)]
    pub reason: String,
    /// Why, for a person.
    pub why: String,
}

impl HeldReport {
    /// What is held of a tenant in any region, each once, the first of them.
    pub fn of_all(built: &Built) -> Vec<Self> {
        Self::of(built.bundles.iter().map(|b| &*b.bundle))
    }

    /// What these bundles of a tenant hold, each once, the first of it.
    pub fn of<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> Vec<Self> {
        let mut all: BTreeMap<(Kind, Option<Key>), &HoldReason> = BTreeMap::new();
        for bundle in bundles {
            // What a person dropped is as it should be.
            let held = bundle.held.iter();
            for Held { kind, key, why } in held.filter(|h| h.why != HoldReason::Dropped) {
                // A pause is told once for its kind.
                let key = (*why != HoldReason::Paused).then(|| key.clone());
                all.insert((kind.clone(), key), why);
            }
            for whole in &bundle.held_kinds {
                all.insert((whole.kind.clone(), None), &whole.why);
            }
        }
        let first = all.into_iter().take(HELD_EACH);
        let report = |((kind, key), why): ((Kind, Option<Key>), &HoldReason)| Self {
            kind,
            key,
            reason: why.word().to_owned(),
            why: why.to_string(),
        };
        first.map(report).collect()
    }

    /// Whether the guard holds it, and a person is asked.
    pub fn is_of_guard(&self) -> bool {
        ["removed", "changed"].contains(&self.reason.as_str())
    }

    /// Whether changes stop here, good ones as well: a person or the guard holds them, or the query of the kind fails.
    pub fn is_stop(&self) -> bool {
        self.is_pause() || self.is_of_guard() || self.reason == "cannot_build"
    }

    /// Whether this is held because somebody wants it so.
    pub fn is_pause(&self) -> bool {
        self.reason == "paused"
    }

    /// Whether it is held because the tenant has too many of the kind.
    pub fn is_of_budget(&self) -> bool {
        self.reason == "budget"
    }

    /// Whether the row or the query is to be mended: neither somebody nor the guard wants it held.
    pub fn is_of_data(&self) -> bool {
        !self.is_pause() && !self.is_of_guard() && !self.is_of_budget()
    }
}

/// What became of one tenant at one store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Delivery {
    /// Durable and readable there.
    Delivered {
        /// The build.
        version: String,
        /// Contexts of the tenant that the hub publishes there.
        contexts: usize,
        /// Names of it that are held: if the store has a value from before, it keeps it.
        #[serde(default)]
        held: usize,
        /// The store held exactly this before.
        already_there: bool,
    },
    /// The store cannot be reached or refuses; a scan repairs it when it returns.
    Behind {
        /// Why.
        why: String,
    },
    /// No answer came in time; it is still being tried.
    TimedOut,
}

/// One receipt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The tenant.
    pub tenant: TenantId,
    /// The region.
    pub region: Region,
    /// The store.
    pub store: String,
    /// What became of it.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// Milliseconds since the request.
    pub ms: Millis,
}

/// A republish request with all its receipts.
#[derive(Debug, Clone, PartialEq)]
pub struct Republished {
    /// The request.
    pub ticket: Ticket,
    /// Its receipts.
    pub receipts: Vec<Receipt>,
    /// What is held of its tenants.
    pub held: BTreeMap<TenantId, Vec<HeldReport>>,
}

#[derive(Debug)]
struct Wait {
    ticket: Ticket,
    since: Tick,
    asked_at: Millis,
    deadline: Millis,
    tenants: Vec<TenantId>,
    pending: BTreeMap<(TenantId, StoreIx), ()>,
    done: Vec<(TenantId, StoreIx, Delivery, Millis)>,
}

impl Wait {
    fn settle(&mut self, tenant: &TenantId, ix: StoreIx, delivery: Delivery, now: Millis) {
        if self.pending.remove(&(tenant.clone(), ix)).is_some() {
            self.done.push((
                tenant.clone(),
                ix,
                delivery,
                now.saturating_sub(self.asked_at),
            ));
        }
    }
}

/// The requests that wait.
#[derive(Debug, Default)]
pub struct Waits {
    waits: Vec<Wait>,
    next: u64,
    now: Millis,
}

impl Waits {
    /// A store has a build of a tenant.
    pub fn delivered(
        &mut self,
        ix: StoreIx,
        tenant: &TenantId,
        started: Tick,
        delivery: &Delivery,
        now: Millis,
    ) {
        for wait in self.waits.iter_mut().filter(|w| started >= w.since) {
            wait.settle(tenant, ix, delivery.clone(), now);
        }
    }

    /// Tenants whose delivery to a store somebody waits for.
    pub fn pending_at(&self, ix: StoreIx) -> BTreeSet<TenantId> {
        let pending = self.waits.iter().flat_map(|wait| wait.pending.keys());
        pending
            .filter(|(_, store)| *store == ix)
            .map(|(tenant, _)| tenant.clone())
            .collect()
    }

    /// Whether somebody waits for a receipt of this tenant.
    pub fn awaits(&self, ix: StoreIx, tenant: &TenantId) -> bool {
        let name = (tenant.clone(), ix);
        self.waits
            .iter()
            .any(|wait| wait.pending.contains_key(&name))
    }

    /// A build could not be given to a store because it is away.
    pub fn undelivered<'a>(
        &mut self,
        ix: StoreIx,
        store: &Store,
        tenants: impl Iterator<Item = &'a TenantId>,
    ) {
        if store.is_unresolved() || self.waits.is_empty() {
            return;
        }
        let why = store
            .failure
            .as_ref()
            .map_or("it is away".to_owned(), |f| f.why.clone());
        for tenant in tenants {
            for wait in &mut self.waits {
                wait.settle(tenant, ix, Delivery::Behind { why: why.clone() }, self.now);
            }
        }
    }
}

impl Writer {
    /// Rebuilds these tenants and sends their whole bundles whatever the stores are known to hold. The receipts come as
    /// [`Report::Republished`], at the latest `timeout` milliseconds from now.
    pub fn republish(
        &mut self,
        now: Millis,
        tenants: Vec<TenantId>,
        regions: &RegionFilter,
        timeout: Millis,
    ) -> Ticket {
        let since = self.now();
        self.waits.next += 1;
        let ticket = Ticket(self.waits.next);
        let mut pending = BTreeMap::new();
        for tenant in &tenants {
            for (i, store) in self.stores.iter_mut().enumerate() {
                store.forget(tenant);
                store.confirmed.forget(tenant);
                if regions.has(&store.spec.region) {
                    pending.insert((tenant.clone(), StoreIx(i)), ());
                }
            }
        }
        self.whole.extend(tenants.iter().cloned());
        // In one snapshot and one commit, so that a key which moved between them is never absent in between.
        match tenants.len() {
            2..=TOGETHER_MAX => self.mark_together(tenants.clone()),
            _ => tenants.iter().for_each(|t| self.mark(t, Lane::Change)),
        }
        let deadline = now + timeout;
        self.waits.waits.push(Wait {
            ticket,
            since,
            asked_at: now,
            deadline,
            tenants,
            pending,
            done: Vec::new(),
        });
        ticket
    }

    /// Hands out the requests that are complete or out of time.
    pub(super) fn settle_waits(&mut self, now: Millis) {
        self.waits.now = now;
        for (i, store) in self.stores.iter().enumerate() {
            let away = store.session().is_none() && !store.is_unresolved();
            let Some(failure) = store.failure.as_ref().filter(|_| away) else {
                continue;
            };
            for wait in &mut self.waits.waits {
                let here: Vec<TenantId> = wait
                    .pending
                    .keys()
                    .filter(|(_, ix)| ix.0 == i)
                    .map(|(t, _)| t.clone())
                    .collect();
                for tenant in here {
                    wait.settle(
                        &tenant,
                        StoreIx(i),
                        Delivery::Behind {
                            why: failure.why.clone(),
                        },
                        now,
                    );
                }
            }
        }
        for wait in self.waits.waits.iter_mut().filter(|w| now >= w.deadline) {
            let late: Vec<(TenantId, StoreIx)> = wait.pending.keys().cloned().collect();
            late.iter()
                .for_each(|(tenant, ix)| wait.settle(tenant, *ix, Delivery::TimedOut, now));
        }
        let (ready, waiting) = std::mem::take(&mut self.waits.waits)
            .into_iter()
            .partition(|w| w.pending.is_empty());
        self.waits.waits = waiting;
        let ready: Vec<Wait> = ready;
        for wait in ready {
            let republished = self.receipts(wait);
            self.reports.push_back(Report::Republished(republished));
        }
    }

    fn receipts(&self, mut wait: Wait) -> Republished {
        wait.done.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let receipt = |(tenant, ix, delivery, ms): (TenantId, StoreIx, Delivery, Millis)| {
            let spec = &self.stores[ix.0].spec;
            Receipt {
                tenant,
                region: spec.region.clone(),
                store: spec.name.clone(),
                delivery,
                ms,
            }
        };
        let held = wait
            .tenants
            .iter()
            .filter_map(|t| self.held.get(t).map(|h| (t.clone(), h.clone())));
        Republished {
            ticket: wait.ticket,
            held: held.collect(),
            receipts: wait.done.into_iter().map(receipt).collect(),
        }
    }
}
