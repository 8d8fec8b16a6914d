//! A store as plain maps. A store without transactions of its own reads what a push concerns into one, applies the push
//! to a copy and writes the difference; and tests compare every other store with it.

use super::{Head, Name, Owner, Record, StoreTxn};
use crate::name::{Key, Kind, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// A store, or the part of one that was read.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Maps {
    /// A head per tenant.
    pub heads: BTreeMap<TenantId, Head>,
    /// The records of each tenant, by name.
    pub records: BTreeMap<TenantId, BTreeMap<Name, Record>>,
    /// Who has which key.
    pub owners: BTreeMap<Name, Owner>,
    /// The kinds that were in step.
    pub synced: BTreeSet<Kind>,
    /// The kinds of tenants that the store is blind for.
    pub blind: BTreeSet<(Kind, TenantId)>,
}

impl StoreTxn for Maps {
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

    fn put_record(&mut self, tenant: &TenantId, record: &Record) -> Result<(), Infallible> {
        let (kind, key) = record.context.name();
        let records = self.records.entry(tenant.clone()).or_default();
        records.insert((kind.clone(), key.clone()), record.clone());
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
        Ok(self.synced.contains(kind))
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
