//! All that a table holds of some tenants: for the hub's diff and its lookups, and for readers. Needs no session.
//!
//! The hub is told what is found, so that what is damaged shows as a difference and keeps nothing else from it. A reader is
//! told of a tenant as its head counts it, or nothing.

use crate::client::{Db, TableError};
use crate::layout::{BadItem, Item, Place, SETTLED, STAGED, StoredContext, StoredHead, staged_of};
use crate::read::Reads;
use crate::table::{Answered, Table};
use crate::working::{names_in_all, read_heads};
use contexts::apply::Name;
use contexts::digest::DigestKey;
use contexts::name::TenantId;
use contexts::push::{ReadTenant, TenantState, TenantsRead};
use std::collections::{BTreeMap, HashMap};

/// How often a tenant is read that is written meanwhile.
const TRIES: u32 = 5;

impl Table {
    /// All that the table holds of some tenants, and who owns some keys.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn read(&self, asked: &ReadTenant) -> Answered<TenantsRead> {
        let key = self.digest_key().await?;
        let mut read = TenantsRead {
            tenants: Vec::with_capacity(asked.tenants.len()),
            owners: Vec::new(),
        };
        for tenant in &asked.tenants {
            let whole = match &key {
                Some(key) => self.db().found(key, tenant).await?,
                None => None,
            };
            read.tenants
                .push(whole.map_or_else(|| nothing(tenant), told));
        }
        let names: Vec<Name> = asked.owners_of.clone();
        let stored = match &key {
            Some(key) => effective(self.db(), key, names.clone()).await?,
            None => BTreeMap::new(),
        };
        let owner = |name: &Name| stored.get(name).map(|stored| stored.owner.tenant.clone());
        read.owners = names.iter().map(owner).collect();
        Ok(Ok(read))
    }
}

fn nothing(tenant: &TenantId) -> TenantState {
    TenantState {
        tenant: tenant.clone(),
        version: None,
        contexts: Vec::new(),
        held: Vec::new(),
        held_kinds: Vec::new(),
    }
}

/// A tenant as of one build.
#[derive(Debug, Clone)]
pub struct WholeTenant {
    /// Its head.
    pub head: StoredHead,
    /// Its contexts.
    pub contexts: Vec<StoredContext>,
}

impl Db {
    /// All that the table holds of a tenant; none if that is nothing. It is read again if it is written meanwhile.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer, it is written each time, or it is not as its head says.
    pub async fn whole(
        &self,
        key: &DigestKey,
        tenant: &TenantId,
    ) -> Result<Option<WholeTenant>, TableError> {
        let found = self.found(key, tenant).await?;
        if let Some(WholeTenant { head, contexts }) = &found {
            let there = contexts.iter().filter(|s| s.record.is_some()).count() as u64;
            if head.is_in_doubt() || there != head.head.contexts {
                let why = format!(
                    "table {:?}: tenant {tenant:?} is damaged there; the next scan sends it again",
                    self.table
                );
                return Err(TableError::Rejected(why));
            }
        }
        Ok(found)
    }

    /// What there is of a tenant, less what is damaged.
    async fn found(
        &self,
        key: &DigestKey,
        tenant: &TenantId,
    ) -> Result<Option<WholeTenant>, TableError> {
        let head = async || {
            let read = read_heads(self, key, [tenant].into_iter()).await?;
            Ok::<_, TableError>(read.into_values().next())
        };
        for _ in 0..TRIES {
            let Some(head_) = head().await?.filter(|head| !head.is_gone) else {
                return Ok(None);
            };
            let names = names_in_all(self, [&head_], Reads::Strong).await?;
            let stored = effective(self, key, names.into_values().flatten().collect()).await?;
            let again = head().await?;
            if again.map(|again| again.build) != Some(head_.build) {
                continue;
            }
            let head = head_;
            let own = stored.into_values().filter(|s| s.owner.tenant == *tenant);
            let contexts = own.collect();
            return Ok(Some(WholeTenant { head, contexts }));
        }
        let why = format!("tenant {tenant:?} was written each time that it was read");
        Err(TableError::Lost(why))
    }
}

fn told(WholeTenant { head, contexts }: WholeTenant) -> TenantState {
    let records = contexts.into_iter().filter_map(|stored| stored.record);
    let (held, held_kinds) = (head.head.held.iter(), head.head.held_kinds.iter());
    TenantState {
        version: Some(head.head.version),
        contexts: records.map(|record| record.context).collect(),
        held: held.map(|h| (h.kind.clone(), h.key.clone())).collect(),
        held_kinds: held_kinds.map(|h| h.kind.clone()).collect(),
        tenant: head.tenant,
    }
}

/// Keys as they count now, those of a large build under way included. What is damaged is left out.
async fn effective(
    db: &Db,
    key: &DigestKey,
    names: Vec<Name>,
) -> Result<BTreeMap<Name, StoredContext>, TableError> {
    let both = |name: &Name| [SETTLED, STAGED].map(|sk| Place::context(name, sk));
    let both: Vec<Place> = names.iter().flat_map(both).collect();
    let items: HashMap<Place, Item> = db.get_all(both).await?;
    let staged = items.iter().filter(|(place, _)| place.sk == STAGED);
    let staged = staged.filter_map(|(_, item)| staged_of(item).ok());
    let by: Vec<TenantId> = staged.map(|staged| staged.by).collect();
    let heads = read_heads(db, key, by.iter()).await?;
    let counts = |name: &Name| -> Result<Option<StoredContext>, BadItem> {
        let mut item = items.get(&Place::context(name, SETTLED));
        if let Some(plus) = items.get(&Place::context(name, STAGED)) {
            let of = staged_of(plus)?;
            if heads.get(&of.by).is_some_and(|head| head.build == of.build) {
                item = (!of.is_gone).then_some(plus);
            }
        }
        item.map(|item| StoredContext::of(name, item)).transpose()
    };
    let mut stored = BTreeMap::new();
    for name in names {
        match counts(&name) {
            Ok(Some(read)) => _ = stored.insert(name, read),
            Ok(None) => {}
            Err(bad) => {
                let (place, why) = (bad.place, bad.why);
                tracing::warn!(table = %db.table, place, why, "a damaged item counts as not there");
            }
        }
    }
    Ok(stored)
}
