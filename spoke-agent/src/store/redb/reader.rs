//! Snapshots for answers. Everything that one answer says comes from one of them.
//!
//! A snapshot must never be kept longer than an answer takes: it pins pages of the file. "Absent" is said only where
//! the snapshot itself says that the kind was in step and that no tenant's part of it is missing.

use super::StoreError;
use super::db::Db;
use super::meta;
use super::rows;
use super::tables::{
    BLIND, BUNDLES, BucketTenant, Bytes, CONTEXTS, OWNERS, One, SYNCED, Three, Two, each_of_tenant,
    is_blind,
};
use contexts::apply::{Head, Owner, Record};
use contexts::digest::{Digest, DigestKey};
use contexts::name::{Key, Kind, TenantId};
use contexts::push::{Listed, ReadTenant, TenantState, TenantsRead};
use contexts::version::Version;
use redb::ReadOnlyTable;
use std::sync::Arc;

/// What a store knows of one key.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// It has a value.
    Found(Found),
    /// The key exists at the hub, and no good value ever came.
    Held,
    /// It does not exist.
    Absent,
    /// The store cannot say.
    NotReady,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Whose it is.
    pub tenant: TenantId,
    /// The JSON text.
    pub value: Arc<str>,
    /// The digest of the value.
    pub digest: Digest,
    /// When readers stop answering it, in microseconds since 1970.
    pub expires: Option<i64>,
    /// The version that the value came with.
    pub version: Version,
    /// The version of its tenant's bundle; higher than `version` if the value is one that was kept.
    pub bundle: Version,
}

impl Found {
    /// Whether readers must not answer it any more.
    pub fn is_expired(&self, wall_micros: i64) -> bool {
        self.expires.is_some_and(|at| at <= wall_micros)
    }
}

/// One state of the store, as of one commit.
pub struct Snapshot {
    key: Option<DigestKey>,
    synced: ReadOnlyTable<One, ()>,
    bundles: ReadOnlyTable<BucketTenant, Bytes>,
    contexts: ReadOnlyTable<Three, Bytes>,
    owners: ReadOnlyTable<Two, Bytes>,
    blind: ReadOnlyTable<Two, ()>,
}

impl Snapshot {
    /// The state as of the last commit.
    ///
    /// # Errors
    /// If redb fails.
    pub fn take(db: &Db) -> Result<Self, StoreError> {
        let txn = db.read()?;
        Ok(Self {
            key: meta::digest_key_of(&txn)?,
            synced: txn.open_table(SYNCED)?,
            bundles: txn.open_table(BUNDLES)?,
            contexts: txn.open_table(CONTEXTS)?,
            owners: txn.open_table(OWNERS)?,
            blind: txn.open_table(BLIND)?,
        })
    }

    /// What the store knows of a key. Text that is no kind or no key is looked up like any other: it is not there.
    ///
    /// # Errors
    /// If redb fails.
    pub fn look_up(&self, kind: &str, key: &str) -> Result<Lookup, StoreError> {
        let owner = match self.owners.get((kind.as_bytes(), key.as_bytes()))? {
            Some(bytes) => rows::owner(bytes.value()),
            None if self.synced.get(kind.as_bytes())?.is_some()
                && !is_blind(&self.blind, kind)? =>
            {
                return Ok(Lookup::Absent);
            }
            None => return Ok(Lookup::NotReady),
        };
        match owner {
            Ok(owner) if owner.has_value => {
                let found = self.value(owner, kind, key)?;
                Ok(found.map_or(Lookup::NotReady, Lookup::Found))
            }
            Ok(_) => Ok(Lookup::Held),
            Err(_) => Ok(Lookup::NotReady),
        }
    }

    /// The value of an owned key; none if its rows are damaged.
    fn value(&self, owner: Owner, kind: &str, key: &str) -> Result<Option<Found>, StoreError> {
        let tenant = owner.tenant;
        let place = (tenant.as_str().as_bytes(), kind.as_bytes(), key.as_bytes());
        let Some(bytes) = self.contexts.get(place)? else {
            return Ok(None);
        };
        let (Ok(kind), Ok(key)) = (Kind::new(kind), Key::new(key)) else {
            return Ok(None);
        };
        let record = rows::record(kind, key, bytes.value());
        let head = self.head(&tenant)?;
        let (Some(head), Some(digest_key)) = (head, &self.key) else {
            return Ok(None);
        };
        if !record.is_sound(digest_key) {
            return Ok(None);
        }
        let Record { context, hash } = record;
        Ok(Some(Found {
            tenant,
            version: head.version_of(&context.kind, &context.key),
            bundle: head.version,
            value: context.value,
            digest: hash,
            expires: context.expires,
        }))
    }

    /// The head of a tenant; none if it has none or it cannot be read.
    ///
    /// # Errors
    /// If redb fails.
    pub fn head(&self, tenant: &TenantId) -> Result<Option<Head>, StoreError> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let place = (key.bucket(tenant) as u16, tenant.as_str().as_bytes());
        let bytes = self.bundles.get(place)?;
        Ok(bytes.and_then(|bytes| rows::head(bytes.value()).ok()))
    }

    /// The tenants in some buckets.
    ///
    /// # Errors
    /// If redb fails or a head is damaged.
    pub fn list(&self, buckets: &[u16]) -> Result<Vec<Listed>, StoreError> {
        let nothing: &[u8] = &[];
        let mut listed = Vec::new();
        for wanted in buckets {
            for row in self.bundles.range((*wanted, nothing)..)? {
                let (place, bytes) = row?;
                let (bucket, tenant) = place.value();
                if bucket != *wanted {
                    break;
                }
                let head = rows::head(bytes.value())?;
                listed.push(Listed {
                    tenant: rows::tenant(tenant)?,
                    digest: head.digest,
                    version: head.version,
                });
            }
        }
        Ok(listed)
    }

    /// All that the store holds of some tenants, and the owners of some keys.
    ///
    /// # Errors
    /// If redb fails or a name is damaged.
    pub fn tenants(&self, asked: &ReadTenant) -> Result<TenantsRead, StoreError> {
        let tenants = asked.tenants.iter().map(|tenant| self.tenant(tenant));
        let owner = |(kind, key): &(Kind, Key)| {
            let bytes = self
                .owners
                .get((kind.as_str().as_bytes(), key.as_str().as_bytes()))?;
            let owner = bytes.map(|bytes| rows::owner(bytes.value())).transpose()?;
            Ok::<_, StoreError>(owner.map(|owner| owner.tenant))
        };
        Ok(TenantsRead {
            tenants: tenants.collect::<Result<_, _>>()?,
            owners: asked
                .owners_of
                .iter()
                .map(owner)
                .collect::<Result<_, _>>()?,
        })
    }

    fn tenant(&self, tenant: &TenantId) -> Result<TenantState, StoreError> {
        let head = self.head(tenant)?;
        let mut contexts = Vec::new();
        each_of_tenant(&self.contexts, tenant.as_str(), |kind, key, bytes| {
            let record = rows::record(rows::kind(kind)?, rows::key(key)?, bytes);
            contexts.push(record.context);
            Ok::<(), StoreError>(())
        })?;
        let held = head.iter().flat_map(|head| &head.held);
        let held_kinds = head.iter().flat_map(|head| &head.held_kinds);
        Ok(TenantState {
            tenant: tenant.clone(),
            version: head.as_ref().map(|head| head.version),
            contexts,
            held: held.map(|h| (h.kind.clone(), h.key.clone())).collect(),
            held_kinds: held_kinds.map(|h| h.kind.clone()).collect(),
        })
    }
}
