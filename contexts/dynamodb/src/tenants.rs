//! All that a table holds of some tenants: for the hub's diff and its lookups, and for readers. Needs no session.

use crate::client::{Db, TableError};
use crate::layout::{Item, Place, SETTLED, STAGED, StoredContext, StoredHead, staged_of};
use crate::table::{Answered, Table};
use crate::working::{names_in, read_heads};
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
                Some(key) => self.db().whole(key, tenant).await?,
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
    /// [`TableError`] if there is no answer, or it is written each time.
    pub async fn whole(
        &self,
        key: &DigestKey,
        tenant: &TenantId,
    ) -> Result<Option<WholeTenant>, TableError> {
        for _ in 0..TRIES {
            let head = self.head(key, tenant).await?;
            let Some(head) = head.filter(|head| !head.is_gone) else {
                return Ok(None);
            };
            let names = names_in(self, &head).await?;
            let stored = effective(self, key, names).await?;
            let again = self.head(key, tenant).await?;
            if again.map(|again| again.build) != Some(head.build) {
                continue;
            }
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

/// Keys as they count now, those of a large build under way included.
async fn effective(
    db: &Db,
    key: &DigestKey,
    names: Vec<Name>,
) -> Result<BTreeMap<Name, StoredContext>, TableError> {
    let both = |name: &Name| [SETTLED, STAGED].map(|sk| Place::context(name, sk));
    let both: Vec<Place> = names.iter().flat_map(both).collect();
    let items: HashMap<Place, Item> = db.get_all(both).await?;
    let staged = items.iter().filter(|(place, _)| place.sk == STAGED);
    let staged: Result<Vec<_>, _> = staged.map(|(_, item)| staged_of(item)).collect();
    let staged = staged?;
    let by: Vec<&TenantId> = staged.iter().map(|s| &s.by).collect();
    let heads = read_heads(db, key, by.iter().copied()).await?;
    let mut stored = BTreeMap::new();
    for name in names {
        let mut item = items.get(&Place::context(&name, SETTLED));
        if let Some(plus) = items.get(&Place::context(&name, STAGED)) {
            let of = staged_of(plus)?;
            if heads.get(&of.by).is_some_and(|head| head.build == of.build) {
                item = (!of.is_gone).then_some(plus);
            }
        }
        if let Some(item) = item {
            let read = StoredContext::of(&name, item)?;
            stored.insert(name, read);
        }
    }
    Ok(stored)
}
