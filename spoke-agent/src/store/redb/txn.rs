//! A write transaction as the shared decisions see it: [`contexts::apply`] over redb's tables.

use super::StoreError;
use super::changes::Notes;
use super::outlines::Outlines;
use super::rows;
use super::tables::{Tables, each_of_tenant};
use contexts::apply::{Head, Outline, Owner, Record, StoreTxn};
use contexts::digest::DigestKey;
use contexts::name::{Key, Kind, TenantId};
use redb::ReadableTable;

/// The tables of one write transaction, with the key that says in which bucket a tenant is. It notes what it changes.
pub struct Txn<'a, 'txn> {
    tables: &'a mut Tables<'txn>,
    key: &'a DigestKey,
    notes: &'a mut Notes,
    outlines: Option<&'a mut Outlines>,
}

impl<'a, 'txn> Txn<'a, 'txn> {
    /// Over these tables.
    pub fn new(tables: &'a mut Tables<'txn>, key: &'a DigestKey, notes: &'a mut Notes) -> Self {
        Self {
            tables,
            key,
            notes,
            outlines: None,
        }
    }

    /// With what is remembered of very large tenants.
    pub fn with_outlines(self, outlines: &'a mut Outlines) -> Self {
        Self {
            outlines: Some(outlines),
            ..self
        }
    }

    fn bucket(&self, tenant: &TenantId) -> u16 {
        self.key.bucket(tenant) as u16
    }
}

fn context_key<'a>(
    tenant: &'a TenantId,
    kind: &'a Kind,
    key: &'a Key,
) -> (&'a [u8], &'a [u8], &'a [u8]) {
    let (tenant, kind, key) = (tenant.as_str(), kind.as_str(), key.as_str());
    (tenant.as_bytes(), kind.as_bytes(), key.as_bytes())
}

impl StoreTxn for Txn<'_, '_> {
    type Error = StoreError;

    fn head(&self, tenant: &TenantId) -> Result<Option<Head>, StoreError> {
        let place = (self.bucket(tenant), tenant.as_str().as_bytes());
        let bytes = self.tables.bundles.get(place)?;
        bytes.map(|bytes| rows::head(bytes.value())).transpose()
    }

    fn set_head(&mut self, tenant: &TenantId, head: Option<&Head>) -> Result<(), StoreError> {
        let place = (self.bucket(tenant), tenant.as_str().as_bytes());
        let before = match head {
            Some(head) => {
                let bytes = rows::encode(head)?;
                self.tables.bundles.insert(place, bytes.as_slice())?
            }
            None => self.tables.bundles.remove(place)?,
        };
        self.notes.head(tenant, before.is_none());
        Ok(())
    }

    fn records(&self, tenant: &TenantId) -> Result<Vec<Record>, StoreError> {
        let mut records: Vec<Record> = Vec::new();
        each_of_tenant(
            &self.tables.contexts,
            tenant.as_str(),
            |kind, key, bytes| {
                // A tenant has few kinds, and each stands together.
                let last = records.last().map(|record| &record.context.kind);
                let kind = match last.filter(|last| last.as_str().as_bytes() == kind) {
                    Some(last) => last.clone(),
                    None => rows::kind(kind)?,
                };
                records.push(rows::record(kind, rows::key(key)?, bytes));
                Ok::<(), StoreError>(())
            },
        )?;
        Ok(records)
    }

    fn record(
        &self,
        tenant: &TenantId,
        kind: &Kind,
        key: &Key,
    ) -> Result<Option<Record>, StoreError> {
        let bytes = self.tables.contexts.get(context_key(tenant, kind, key))?;
        Ok(bytes.map(|bytes| rows::record(kind.clone(), key.clone(), bytes.value())))
    }

    fn outline(&mut self, tenant: &TenantId) -> Option<Outline> {
        self.outlines.as_mut()?.take(tenant)
    }

    fn remember(&mut self, tenant: &TenantId, outline: Outline) {
        if let Some(outlines) = &mut self.outlines {
            outlines.put(tenant, outline);
        }
    }

    fn put_record(&mut self, tenant: &TenantId, record: &Record) -> Result<(), StoreError> {
        let (kind, key) = record.context.name();
        let bytes = rows::record_bytes(record);
        let place = context_key(tenant, kind, key);
        self.tables.contexts.insert(place, bytes.as_slice())?;
        self.notes.name(tenant, kind, key);
        Ok(())
    }

    fn remove_record(
        &mut self,
        tenant: &TenantId,
        kind: &Kind,
        key: &Key,
    ) -> Result<(), StoreError> {
        self.tables
            .contexts
            .remove(context_key(tenant, kind, key))?;
        self.notes.name(tenant, kind, key);
        Ok(())
    }

    fn owner(&self, kind: &Kind, key: &Key) -> Result<Option<Owner>, StoreError> {
        let place = (kind.as_str().as_bytes(), key.as_str().as_bytes());
        let bytes = self.tables.owners.get(place)?;
        bytes.map(|bytes| rows::owner(bytes.value())).transpose()
    }

    fn set_owner(
        &mut self,
        kind: &Kind,
        key: &Key,
        owner: Option<&Owner>,
    ) -> Result<(), StoreError> {
        let place = (kind.as_str().as_bytes(), key.as_str().as_bytes());
        match owner {
            Some(owner) => {
                let bytes = rows::owner_bytes(owner);
                self.tables.owners.insert(place, bytes.as_slice())?;
                self.notes.name(&owner.tenant, kind, key);
            }
            None => {
                let before = self.tables.owners.remove(place)?;
                if let Some(before) = before.and_then(|bytes| rows::owner(bytes.value()).ok()) {
                    self.notes.name(&before.tenant, kind, key);
                }
            }
        }
        Ok(())
    }

    fn is_synced(&self, kind: &Kind) -> Result<bool, StoreError> {
        Ok(self.tables.synced.get(kind.as_str().as_bytes())?.is_some())
    }

    fn set_blind(&mut self, kind: &Kind, tenant: &TenantId, blind: bool) -> Result<(), StoreError> {
        let place = (kind.as_str().as_bytes(), tenant.as_str().as_bytes());
        match blind {
            true => {
                self.tables.blind.insert(place, ())?;
            }
            false => {
                self.tables.blind.remove(place)?;
            }
        }
        Ok(())
    }
}
