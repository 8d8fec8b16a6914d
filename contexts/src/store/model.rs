//! The reference: a store in plain maps, with nothing but the rules. It keeps nothing beyond its process and knows no
//! time, so nobody is ever silent there; tests compare every other store with it.

use super::{Answered, Store};
use crate::apply::apply;
use crate::apply::maps::Maps;
use crate::digest::{Buckets, Digest, DigestKey};
use crate::gate::{Gate, GateState};
use crate::name::{Region, TenantId};
use crate::push::{
    Ack, Claim, Granted, Heartbeat, Listed, Push, Pushed, ReadTenant, Reading, Refused, Release,
    Seen, StoreState, SyncVerdict, Synced, TenantState, TenantsRead,
};
use crate::version::{Incarnation, SessionId, StoreId, SyncId, Term, Version};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard};

/// A store in plain maps.
#[derive(Debug)]
pub struct Model {
    region: Region,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gate: Gate,
    sessions: u128,
    key: Option<DigestKey>,
    granted: Option<Term>,
    released: bool,
    last_synced: Option<SyncId>,
    position: Version,
    beat: u64,
    maps: Maps,
}

const STORE: StoreId = StoreId(1);
const READING: Reading = Reading { boot: 1, micros: 0 };

impl Model {
    /// An empty store of a region.
    pub fn new(region: Region) -> Self {
        let state = Mutex::default();
        Self { region, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The root over all tenants but some.
    pub fn root(&self, without: &[TenantId]) -> Digest {
        let state = self.state();
        let (key, buckets) = state.sums(without);
        key.root(&buckets)
    }

    fn right_region(&self, asked: &Region) -> Result<(), Refused> {
        match *asked == self.region {
            true => Ok(()),
            false => Err(Refused::Region {
                mine: self.region.clone(),
                asked: asked.clone(),
            }),
        }
    }

    fn granted(&self, claim: &Claim) -> Result<Granted, Refused> {
        let mut state = self.state();
        let known = state.key.as_ref();
        let term = {
            let now = GateState {
                region: &self.region,
                seen: state.seen(),
                released: state.released,
                other_deployment: known.is_some_and(|key| *key != claim.digest_key),
            };
            state.gate.claim(claim, &now)?
        };
        state.sessions += 1;
        let session = SessionId(state.sessions);
        state.key = Some(claim.digest_key.clone());
        (state.granted, state.released) = (Some(term), false);
        if !claim.known {
            state.position = Version::default();
        }
        state.gate.open(session);
        let state = state.told(&self.region);
        Ok(Granted { session, state })
    }

    fn pushed(&self, push: &Push) -> Result<Pushed, Refused> {
        self.right_region(&push.region)?;
        let mut state = self.state();
        state.gate.admit(push.session, push.number)?;
        let key = state.key();
        let Ok(applied) = apply(&mut state.maps, &key, &push.bundles);
        state.beat = state.beat.max(push.beat.unwrap_or(0));
        Ok(Pushed {
            verdicts: applied.verdicts,
            reading: READING,
        })
    }

    fn compared(&self, synced: &Synced) -> Result<SyncVerdict, Refused> {
        let mut state = self.state();
        state.gate.admit(synced.session, synced.number)?;
        let (key, buckets) = state.sums(&synced.in_flux);
        if key.root(&buckets) != synced.root {
            return Ok(SyncVerdict::Differs { buckets });
        }
        let before = synced.unsure.intersection(&state.maps.synced).cloned();
        state.maps.synced = before.chain(synced.kinds.iter().cloned()).collect();
        state.last_synced = Some(synced.id);
        state.position = state.position.max(synced.position);
        Ok(SyncVerdict::InStep { reading: READING })
    }
}

impl State {
    /// The key of the first claim; before it there is nothing to hash.
    fn key(&self) -> DigestKey {
        self.key.clone().unwrap_or(DigestKey([0; 32]))
    }

    fn seen(&self) -> Seen {
        Seen {
            store: STORE,
            granted: self.granted,
            last_synced: self.last_synced,
        }
    }

    fn sums(&self, without: &[TenantId]) -> (DigestKey, Buckets) {
        let (key, without) = (self.key(), without.iter().collect::<BTreeSet<_>>());
        let mut buckets = Buckets::default();
        for (tenant, head) in &self.maps.heads {
            if !without.contains(tenant) {
                buckets.add(&key, tenant, &head.digest);
            }
        }
        (key, buckets)
    }

    fn told(&self, region: &Region) -> StoreState {
        let records = self.maps.records.values();
        let (key, buckets) = self.sums(&[]);
        StoreState {
            store: STORE,
            incarnation: Incarnation(1),
            region: region.clone(),
            granted: self.granted,
            released: self.released,
            last_synced: self.last_synced,
            synced_kinds: self.maps.synced.clone(),
            position: self.position,
            bundles: self.maps.heads.len() as u64,
            contexts: records.map(|records| records.len() as u64).sum(),
            file_bytes: 0,
            root: self.key.as_ref().map(|_| key.root(&buckets)),
            reading: READING,
            age: None,
            beat: self.beat,
            release: "model".to_owned(),
        }
    }

    fn tenant(&self, tenant: &TenantId) -> TenantState {
        let head = self.maps.heads.get(tenant);
        let records = self.maps.records.get(tenant).into_iter().flatten();
        let held = head.into_iter().flat_map(|head| &head.held);
        let held_kinds = head.into_iter().flat_map(|head| &head.held_kinds);
        TenantState {
            tenant: tenant.clone(),
            version: head.map(|head| head.version),
            contexts: records.map(|(_, record)| record.context.clone()).collect(),
            held: held.map(|h| (h.kind.clone(), h.key.clone())).collect(),
            held_kinds: held_kinds.map(|h| h.kind.clone()).collect(),
        }
    }
}

impl Store for Model {
    type Error = Infallible;

    async fn hello(&self) -> Answered<StoreState, Infallible> {
        Ok(Ok(self.state().told(&self.region)))
    }

    async fn claim(&self, claim: &Claim) -> Answered<Granted, Infallible> {
        Ok(self.granted(claim))
    }

    async fn push(&self, push: &Push) -> Answered<Pushed, Infallible> {
        Ok(self.pushed(push))
    }

    async fn synced(&self, synced: &Synced) -> Answered<SyncVerdict, Infallible> {
        Ok(self.compared(synced))
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Answered<Ack, Infallible> {
        let mut state = self.state();
        let heard = state.gate.heard(heartbeat.session);
        Ok(heard.map(|()| {
            state.position = state.position.max(heartbeat.position.unwrap_or_default());
            Ack { reading: READING }
        }))
    }

    async fn release(&self, release: &Release) -> Answered<Ack, Infallible> {
        let mut state = self.state();
        let heard = state.gate.heard(release.session);
        Ok(heard.map(|()| {
            state.released = true;
            state.gate.end();
            Ack { reading: READING }
        }))
    }

    async fn buckets(&self, buckets: &[u16]) -> Answered<Vec<Listed>, Infallible> {
        let state = self.state();
        let key = state.key();
        let heads = state.maps.heads.iter();
        let asked = heads.filter(|(tenant, _)| buckets.contains(&(key.bucket(tenant) as u16)));
        let listed = asked.map(|(tenant, head)| Listed {
            tenant: tenant.clone(),
            digest: head.digest,
            version: head.version,
        });
        Ok(Ok(listed.collect()))
    }

    async fn read(&self, asked: &ReadTenant) -> Answered<TenantsRead, Infallible> {
        let state = self.state();
        let owner = |name: &_| {
            state
                .maps
                .owners
                .get(name)
                .map(|owner| owner.tenant.clone())
        };
        Ok(Ok(TenantsRead {
            tenants: asked.tenants.iter().map(|t| state.tenant(t)).collect(),
            owners: asked.owners_of.iter().map(owner).collect(),
        }))
    }
}
