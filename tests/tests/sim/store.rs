//! What a store has on disk, as plain maps, and the transaction that `contexts::apply` works on. A commit replaces the
//! whole state at once, so a crash is simply not to do so.

use crate::agent::Message;
use crate::state::Name;
use contexts::apply::{Head, Outline, Owner, Record, StoreTxn};
use contexts::delta::Change;
use contexts::digest::{Buckets, Digest, DigestKey};
use contexts::name::{Key, Kind, TenantId};
use contexts::version::{StoreId, SyncId, Term, Version};
use publisher::writer::Request;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// Where a bundle came from; the simulation's own note, which no shipped code sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The database.
    pub db: usize,
    /// The commit whose snapshot it was built from.
    pub commit: usize,
}

/// The state on disk.
#[derive(Debug, Clone)]
pub struct Durable {
    /// The store file.
    pub id: StoreId,
    /// Brought by the first claim.
    pub key: Option<DigestKey>,
    /// The writer that was granted last.
    pub granted: Option<Term>,
    /// Whether it released the store.
    pub released: bool,
    /// The last *synced*.
    pub last_synced: Option<SyncId>,
    /// The kinds of which absence is known.
    pub kinds: BTreeSet<Kind>,
    /// As the writer said last.
    pub position: Version,
    /// The highest version that was applied; what an answer of absence has for its version.
    pub highest: Version,
    /// The moment up to which every change is here.
    pub fresh: Option<u64>,
    /// The last beat.
    pub beat: u64,
    /// Position and age as the last commit wrote them; heartbeats move them in memory.
    saved: (Version, Option<u64>, usize),
    /// A head per tenant.
    pub heads: BTreeMap<TenantId, Head>,
    /// The records.
    pub records: BTreeMap<TenantId, BTreeMap<Name, Record>>,
    /// Who owns a key.
    pub owners: BTreeMap<Name, Owner>,
    /// Kinds of tenants that the store is blind for.
    pub blind: BTreeSet<(Kind, TenantId)>,
    /// Not on disk: what the process remembers of large tenants.
    outlines: BTreeMap<TenantId, Outline>,
    /// Note: the database of the writer that named the moment.
    pub fresh_db: usize,
    /// Note: the database of the last scan that ended here with *synced*, and the moment when it began.
    pub scanned: Option<(usize, u64)>,
    /// Note: which disk that was.
    pub scanned_line: Option<u64>,
    /// Note: the origin of what is shown of each tenant, also where that is nothing.
    pub origins: BTreeMap<TenantId, Origin>,
    /// Note: tenants with a record that was edited by hand and not rewritten since.
    pub edited: BTreeSet<TenantId>,
    /// Note: the database whose writer was granted the store last.
    pub owner: Option<usize>,
    /// Note: the database for which somebody took the store by force.
    pub forced: Option<usize>,
}

/// Whose bundles a message brings.
pub fn pushed(request: &Request) -> Vec<&TenantId> {
    match request {
        Request::Push(push) => push.bundles.iter().map(|s| &s.bundle.tenant).collect(),
        Request::PushDelta(push) => push.changes.iter().map(Change::tenant).collect(),
        _ => Vec::new(),
    }
}

/// What a store was before a message, as far as the checks ask.
#[derive(Debug)]
pub struct Before {
    /// The origin of each bundle of a push.
    pub origins: Vec<Option<Origin>>,
    pub granted: Option<Term>,
    pub last_synced: Option<SyncId>,
    pub owner: Option<usize>,
    pub forced: Option<usize>,
    pub fresh: Option<u64>,
}

impl Durable {
    /// What the checks ask for after a message.
    pub fn before(&self, message: &Message) -> Before {
        let origins = match message {
            Message::Request(request, _) => {
                let tenants = pushed(request).into_iter();
                tenants.map(|t| self.origins.get(t).copied()).collect()
            }
            Message::Heartbeat(_) => Vec::new(),
        };
        Before {
            origins,
            granted: self.granted,
            last_synced: self.last_synced,
            owner: self.owner,
            forced: self.forced,
            fresh: self.fresh,
        }
    }

    /// An empty file.
    pub fn new(id: StoreId) -> Self {
        Self {
            id,
            key: None,
            granted: None,
            released: false,
            last_synced: None,
            kinds: BTreeSet::new(),
            position: Version::default(),
            highest: Version::default(),
            fresh: None,
            beat: 0,
            saved: (Version::default(), None, 0),
            heads: BTreeMap::new(),
            records: BTreeMap::new(),
            owners: BTreeMap::new(),
            blind: BTreeSet::new(),
            outlines: BTreeMap::new(),
            fresh_db: 0,
            scanned: None,
            scanned_line: None,
            origins: BTreeMap::new(),
            edited: BTreeSet::new(),
            owner: None,
            forced: None,
        }
    }

    /// A commit writes position and age too.
    pub fn save(&mut self) {
        self.saved = (self.position, self.fresh, self.fresh_db);
    }

    /// A new process knows what the last commit wrote.
    pub fn load(&mut self) {
        (self.position, self.fresh, self.fresh_db) = self.saved;
        self.outlines.clear();
    }

    /// The records of a tenant, with digests of their bytes.
    fn hashed(&self, key: &DigestKey, tenant: &TenantId) -> Vec<(Kind, Key, Digest)> {
        let records = self.records.get(tenant).into_iter().flatten();
        records
            .map(|((kind, k), r)| (kind.clone(), k.clone(), r.context.digest(key)))
            .collect()
    }

    /// The digest that a tenant's head should have.
    pub fn true_digest(&self, key: &DigestKey, tenant: &TenantId, head: &Head) -> Digest {
        let hashed = self.hashed(key, tenant);
        head.digest_of(key, hashed.iter().map(|(kind, k, d)| (kind, k, d)))
    }

    /// Computes every digest from the bytes, as opening the file does.
    pub fn reopen(&mut self) {
        self.outlines.clear();
        let Some(key) = self.key.clone() else { return };
        let tenants: Vec<TenantId> = self.heads.keys().cloned().collect();
        for tenant in tenants {
            let digest = self.true_digest(&key, &tenant, &self.heads[&tenant]);
            if let Some(head) = self.heads.get_mut(&tenant) {
                head.digest = digest;
            }
        }
    }

    /// The bucket sums over the heads, but for some tenants.
    pub fn buckets(&self, without: &BTreeSet<TenantId>) -> Buckets {
        let mut buckets = Buckets::default();
        if let Some(key) = &self.key {
            for (tenant, head) in self.heads.iter().filter(|(t, _)| !without.contains(*t)) {
                buckets.add(key, tenant, &head.digest);
            }
        }
        buckets
    }

    /// How many records there are.
    pub fn contexts(&self) -> u64 {
        self.records.values().map(|r| r.len() as u64).sum()
    }
}

impl StoreTxn for Durable {
    type Error = Infallible;

    fn head(&self, tenant: &TenantId) -> Result<Option<Head>, Infallible> {
        Ok(self.heads.get(tenant).cloned())
    }

    fn set_head(&mut self, tenant: &TenantId, head: Option<&Head>) -> Result<(), Infallible> {
        match head {
            Some(head) => self.heads.insert(tenant.clone(), head.clone()),
            None => self.heads.remove(tenant),
        };
        Ok(())
    }

    fn records(&self, tenant: &TenantId) -> Result<Vec<Record>, Infallible> {
        let records = self.records.get(tenant).into_iter().flatten();
        Ok(records.map(|(_, record)| record.clone()).collect())
    }

    fn record(
        &self,
        tenant: &TenantId,
        kind: &Kind,
        key: &Key,
    ) -> Result<Option<Record>, Infallible> {
        let name = (kind.clone(), key.clone());
        let record = self.records.get(tenant).and_then(|r| r.get(&name));
        Ok(record.cloned())
    }

    fn outline(&mut self, tenant: &TenantId) -> Option<Outline> {
        self.outlines.remove(tenant)
    }

    fn remember(&mut self, tenant: &TenantId, outline: Outline) {
        self.outlines.insert(tenant.clone(), outline);
    }

    fn put_record(&mut self, tenant: &TenantId, record: &Record) -> Result<(), Infallible> {
        let name = (record.context.kind.clone(), record.context.key.clone());
        self.records
            .entry(tenant.clone())
            .or_default()
            .insert(name, record.clone());
        Ok(())
    }

    fn remove_record(
        &mut self,
        tenant: &TenantId,
        kind: &Kind,
        key: &Key,
    ) -> Result<(), Infallible> {
        if let Some(records) = self.records.get_mut(tenant) {
            records.remove(&(kind.clone(), key.clone()));
            if records.is_empty() {
                self.records.remove(tenant);
            }
        }
        Ok(())
    }

    fn owner(&self, kind: &Kind, key: &Key) -> Result<Option<Owner>, Infallible> {
        Ok(self.owners.get(&(kind.clone(), key.clone())).cloned())
    }

    fn set_owner(
        &mut self,
        kind: &Kind,
        key: &Key,
        owner: Option<&Owner>,
    ) -> Result<(), Infallible> {
        let name = (kind.clone(), key.clone());
        match owner {
            Some(owner) => self.owners.insert(name, owner.clone()),
            None => self.owners.remove(&name),
        };
        Ok(())
    }

    fn is_synced(&self, kind: &Kind) -> Result<bool, Infallible> {
        Ok(self.kinds.contains(kind))
    }

    fn set_blind(&mut self, kind: &Kind, tenant: &TenantId, blind: bool) -> Result<(), Infallible> {
        let place = (kind.clone(), tenant.clone());
        match blind {
            true => self.blind.insert(place),
            false => self.blind.remove(&place),
        };
        Ok(())
    }
}
