//! Snapshots for answers. Everything that one answer says comes from one of them.
//!
//! A snapshot must never be kept longer than an answer takes, or than the memory takes to be filled from it: it pins pages
//! of the file. "Absent" is said only where the snapshot itself says that the kind was in step and that no tenant's part
//! of it is missing.

use super::StoreError;
use super::changes::{self, Cursor, TenantChange, Touched};
use super::db::Db;
use super::meta;
use super::rows;
use super::tables::{
    BLIND, BUNDLES, BucketTenant, Bytes, CHANGES, CONTEXTS, OWNERS, One, SYNCED, Three, Two,
    each_of_tenant, is_blind,
};
use crate::store::index::known::{Known, State};
use crate::store::index::{Index, Lookup, Tenant, Versions, carried};
use contexts::apply::Head;
use contexts::digest::DigestKey;
use contexts::name::{Key, Kind, TenantId};
use contexts::push::{Listed, ReadTenant, TenantState, TenantsRead};
use contexts::version::Version;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata};
use std::collections::BTreeSet;

/// Names of a tenant up to which each is looked up by itself.
const FEW: usize = 4;

/// A value with the version that it carries, if it does.
fn carrying(known: Known, version: Option<Version>) -> Known {
    match version {
        Some(version) if known.state() == State::Value => known.with_version(version),
        _ => known,
    }
}

/// All that a store knows of one tenant.
#[derive(Debug, Clone)]
pub struct Whole {
    /// The tenant.
    pub tenant: TenantId,
    /// Its head; none if that is damaged.
    pub head: Option<Head>,
    /// Its records, sorted by kind and key.
    pub contexts: Vec<Known>,
}

/// One state of the store, as of one commit.
pub struct Snapshot {
    key: Option<DigestKey>,
    synced: ReadOnlyTable<One, ()>,
    bundles: ReadOnlyTable<BucketTenant, Bytes>,
    contexts: ReadOnlyTable<Three, Bytes>,
    owners: ReadOnlyTable<Two, Bytes>,
    blind: ReadOnlyTable<Two, ()>,
    changes: ReadOnlyTable<u64, Bytes>,
}

impl Snapshot {
    /// The state as of the last commit that is durable.
    ///
    /// # Errors
    /// If redb fails.
    pub fn take(db: &Db) -> Result<Self, StoreError> {
        Self::of(&*db.read()?)
    }

    /// The state that a read transaction sees.
    ///
    /// # Errors
    /// If redb fails.
    pub fn of(txn: &ReadTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            key: meta::digest_key_of(txn)?,
            synced: txn.open_table(SYNCED)?,
            bundles: txn.open_table(BUNDLES)?,
            contexts: txn.open_table(CONTEXTS)?,
            owners: txn.open_table(OWNERS)?,
            blind: txn.open_table(BLIND)?,
            changes: txn.open_table(CHANGES)?,
        })
    }

    /// What the store knows of a key, with what an answer needs beside.
    ///
    /// # Errors
    /// If redb fails.
    pub fn look_up(&self, kind: &str, key: &str) -> Result<Lookup, StoreError> {
        let Some(known) = self.known(kind, key)? else {
            let is_complete = self.is_complete(kind)?;
            return Ok(Lookup::of(None, None, || is_complete));
        };
        let tenant = TenantId::new(known.tenant()).ok();
        let head = tenant.map(|tenant| self.head(&tenant)).transpose()?;
        let versions = head.flatten().map(|head| Versions {
            value: head.version_of(kind, key),
            bundle: head.version,
        });
        Ok(Lookup::of(Some(&known), versions, || false))
    }

    /// What the store knows of a key; none if it has no row of it. Text that is no kind or no key is looked up like any
    /// other: it is not there.
    ///
    /// # Errors
    /// If redb fails.
    pub fn known(&self, kind: &str, key: &str) -> Result<Option<Known>, StoreError> {
        let Some(bytes) = self.owners.get((kind.as_bytes(), key.as_bytes()))? else {
            return Ok(None);
        };
        let damaged = || Some(Known::nothing(kind, key, true));
        let owner = match rows::owner(bytes.value()) {
            Ok(owner) if owner.has_value => owner,
            Ok(_) => return Ok(Some(Known::nothing(kind, key, false))),
            Err(_) => return Ok(damaged()),
        };
        let tenant = owner.tenant.as_str();
        let place = (tenant.as_bytes(), kind.as_bytes(), key.as_bytes());
        let Some(bytes) = self.contexts.get(place)? else {
            return Ok(damaged());
        };
        Ok(Some(self.record(tenant, kind, key, bytes.value())))
    }

    fn record(&self, tenant: &str, kind: &str, key: &str, bytes: &[u8]) -> Known {
        let sound = self
            .key
            .as_ref()
            .and_then(|digest_key| rows::sound(digest_key, kind, key, bytes));
        match sound {
            Some((digest, expires, value)) => {
                Known::value(kind, key, tenant, value, digest, expires)
            }
            None => Known::nothing(kind, key, true),
        }
    }

    /// Whether an unknown key of this kind does not exist: the store was in step for it, and misses no tenant's part.
    ///
    /// # Errors
    /// If redb fails.
    pub fn is_complete(&self, kind: &str) -> Result<bool, StoreError> {
        let is_synced = self.synced.get(kind.as_bytes())?.is_some();
        Ok(is_synced && !is_blind(&self.blind, kind)?)
    }

    /// All kinds of which an unknown key does not exist.
    ///
    /// # Errors
    /// If redb fails or a kind is damaged.
    pub fn complete_kinds(&self) -> Result<Vec<Kind>, StoreError> {
        let mut complete = Vec::new();
        for row in self.synced.iter()? {
            let kind = rows::kind(row?.0.value())?;
            if self.is_complete(kind.as_str())? {
                complete.push(kind);
            }
        }
        Ok(complete)
    }

    /// Where the log of changes ends in this state.
    ///
    /// # Errors
    /// If redb fails or the log is damaged.
    pub fn end(&self) -> Result<Cursor, StoreError> {
        changes::end(&self.changes)
    }

    /// What changed behind a cursor; none if the log cannot say.
    ///
    /// # Errors
    /// If redb fails or the log is damaged.
    pub fn changes_after(
        &self,
        cursor: Cursor,
    ) -> Result<Option<Vec<(Cursor, TenantChange)>>, StoreError> {
        changes::after(&self.changes, cursor)
    }

    /// The next tenants behind `last` in the order of their names, until `enough` says so, each with all that is known of
    /// it.
    ///
    /// # Errors
    /// If redb fails or a name is damaged.
    pub fn tenants_after(
        &self,
        last: Option<&TenantId>,
        mut enough: impl FnMut(&Whole) -> bool,
    ) -> Result<Vec<Whole>, StoreError> {
        let nothing: &[u8] = &[];
        let mut found: Vec<Whole> = Vec::new();
        let begin = last.map_or(nothing, |last| last.as_str().as_bytes());
        for row in self.contexts.range((begin, nothing, nothing)..)? {
            let (name, row) = row?;
            let (tenant, kind, key) = name.value();
            if last.is_some() && tenant == begin {
                continue;
            }
            let is_next = found
                .last()
                .is_none_or(|w| w.tenant.as_str().as_bytes() != tenant);
            if is_next {
                if found.last().is_some_and(&mut enough) {
                    return Ok(found);
                }
                found.push(self.empty(rows::tenant(tenant)?)?);
            }
            if let Some(whole) = found.last_mut() {
                let (kind, key) = (rows::text(kind)?, rows::text(key)?);
                let known = self.record(whole.tenant.as_str(), kind, key, row.value());
                whole.contexts.push(known);
            }
        }
        Ok(found)
    }

    /// All that is known of one tenant; none if nothing is.
    ///
    /// # Errors
    /// If redb fails or a name is damaged.
    pub fn whole(&self, tenant: &TenantId) -> Result<Option<Whole>, StoreError> {
        let mut whole = self.empty(tenant.clone())?;
        each_of_tenant(&self.contexts, tenant.as_str(), |kind, key, bytes| {
            let (kind, key) = (rows::text(kind)?, rows::text(key)?);
            whole
                .contexts
                .push(self.record(tenant.as_str(), kind, key, bytes));
            Ok::<(), StoreError>(())
        })?;
        let is_there = whole.head.is_some() || !whole.contexts.is_empty();
        Ok(is_there.then_some(whole))
    }

    fn empty(&self, tenant: TenantId) -> Result<Whole, StoreError> {
        Ok(Whole {
            head: self.head(&tenant)?,
            contexts: Vec::new(),
            tenant,
        })
    }

    /// Whether the store never had a whole bundle of some kind of some tenant.
    ///
    /// # Errors
    /// If redb fails.
    pub fn is_blind_somewhere(&self) -> Result<bool, StoreError> {
        Ok(!self.blind.is_empty()?)
    }

    /// The names that exist at the hub and have no value here, each with a tenant that has it there. Heads are looked at,
    /// of which there are far fewer than names.
    ///
    /// # Errors
    /// If redb fails, or a head or an owner is damaged: its names must not be taken for unknown.
    pub fn valueless(&self) -> Result<Vec<(TenantId, Known)>, StoreError> {
        let mut names = BTreeSet::new();
        for row in self.bundles.iter()? {
            names.extend(rows::head(row?.1.value())?.valueless());
        }
        let mut held = Vec::new();
        for (kind, key) in names {
            let (kind, key) = (kind.as_str(), key.as_str());
            if let Some(owner) = self.owners.get((kind.as_bytes(), key.as_bytes()))? {
                let owner = rows::owner(owner.value())?;
                if !owner.has_value {
                    held.push((owner.tenant, Known::nothing(kind, key, false)));
                }
            }
        }
        Ok(held)
    }

    /// All of the store as an index, or as much as `most` bytes of memory take. The rows must agree with one another.
    ///
    /// # Errors
    /// If redb fails or a name is damaged.
    pub fn index(&self, most: usize) -> Result<Index, StoreError> {
        let (mut contexts, mut tenants) = (Vec::new(), Vec::new());
        let (mut bytes, mut is_whole) = (0, true);
        let mut last: Option<(TenantId, Option<Version>)> = None;
        for row in self.contexts.iter()? {
            let (name, row) = row?;
            let (tenant, kind, key) = name.value();
            if bytes > most {
                is_whole = false;
                break;
            }
            let (kind, key) = (rows::text(kind)?, rows::text(key)?);
            let (owner, version) = match last.take() {
                Some(last) if last.0.as_str().as_bytes() == tenant => last,
                _ => {
                    let next = rows::tenant(tenant)?;
                    let head = self.head(&next)?;
                    let version = head.as_ref().and_then(carried);
                    if let Some(head) = head.filter(|_| version.is_none()) {
                        let looked_up = Tenant::new(&next, head);
                        bytes += looked_up.weight();
                        tenants.push(looked_up);
                    }
                    (next, version)
                }
            };
            let known = self.record(owner.as_str(), kind, key, row.value());
            let known = carrying(known, version);
            last = Some((owner, version));
            bytes += known.weight();
            contexts.push(known);
        }
        contexts.extend(self.valueless()?.into_iter().map(|(_, held)| held));
        let mut index = Index::of(contexts, tenants, is_whole);
        index.as_of(self.end()?.commit, &self.complete_kinds()?);
        Ok(index)
    }

    /// Brings an index to this state, which is the next one after its own.
    ///
    /// # Errors
    /// If redb fails or a name is damaged.
    pub fn carry_on(
        &self,
        index: &mut Index,
        touched: &Touched,
        most: usize,
    ) -> Result<(), StoreError> {
        for (tenant, changed) in &touched.tenants {
            let head = self.head(tenant)?.filter(|head| head.contexts > 0);
            let version = head.as_ref().and_then(carried);
            // All values change with the version that they carry, and when they no longer carry one.
            let all = version.is_some() || head.is_some() && !index.has_tenant(tenant);
            let head = head.filter(|_| version.is_none());
            index.set_tenant(tenant, head.map(|head| Tenant::new(tenant, head)));
            // A whole tenant is read at once, in the order in which it is stored; a few names one by one.
            let whole = match all || changed.names.len() > FEW {
                true => self.whole(tenant)?.map_or_else(Vec::new, |w| w.contexts),
                false => Vec::new(),
            };
            let names = changed.names.iter();
            let names: Vec<(&str, &str)> = names.map(|(k, n)| (k.as_str(), n.as_str())).collect();
            for (kind, key) in &names {
                let here = whole.binary_search_by(|w| (w.kind(), w.key()).cmp(&(*kind, *key)));
                if here.is_ok() {
                    continue;
                }
                match self.known(kind, key)? {
                    None => index.remove(kind, key),
                    // Whoever has it now was touched as well, or had it before.
                    Some(known) if known.is_of_another(tenant.as_str()) => {}
                    Some(known) => index.put(carrying(known, version), most),
                }
            }
            for known in whole {
                if all || names.binary_search(&(known.kind(), known.key())).is_ok() {
                    index.put(carrying(known, version), most);
                }
            }
        }
        index.as_of(self.end()?.commit, &self.complete_kinds()?);
        Ok(())
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
