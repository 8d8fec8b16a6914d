//! Who has a key in a store: one tenant with a value, and any number that have it at the hub and no value here. A key is
//! known to be absent only if it has no owner at all.

use super::{Name, StoreTxn};
use crate::name::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Who has a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// Whether there is a value; without one the key exists at the hub but is held.
    pub has_value: bool,
    /// Other tenants that have the key at the hub and no value here. The key stays known when the first one gives it up.
    pub waiting: BTreeSet<TenantId>,
}

/// The tenant gets the value of a key that nobody has a value of.
pub fn take<T: StoreTxn>(txn: &mut T, tenant: &TenantId, name: &Name) -> Result<(), T::Error> {
    let mut waiting = BTreeSet::new();
    if let Some(before) = txn.owner(&name.0, &name.1)? {
        waiting = before.waiting;
        waiting.insert(before.tenant);
        waiting.remove(tenant);
    }
    has_value(txn, tenant, name, waiting)
}

/// The tenant gets the value of a key that nobody has, not even to wait for it.
pub fn take_free<T: StoreTxn>(txn: &mut T, tenant: &TenantId, name: &Name) -> Result<(), T::Error> {
    has_value(txn, tenant, name, BTreeSet::new())
}

fn has_value<T: StoreTxn>(
    txn: &mut T,
    tenant: &TenantId,
    name: &Name,
    waiting: BTreeSet<TenantId>,
) -> Result<(), T::Error> {
    let owner = Owner {
        tenant: tenant.clone(),
        has_value: true,
        waiting,
    };
    txn.set_owner(&name.0, &name.1, Some(&owner))
}

/// The tenant has the key at the hub, and no value here.
pub fn wait<T: StoreTxn>(txn: &mut T, tenant: &TenantId, name: &Name) -> Result<(), T::Error> {
    let owner = match txn.owner(&name.0, &name.1)? {
        Some(owner) if owner.tenant == *tenant => return Ok(()),
        Some(mut owner) => {
            owner.waiting.insert(tenant.clone());
            owner
        }
        None => Owner {
            tenant: tenant.clone(),
            has_value: false,
            waiting: BTreeSet::new(),
        },
    };
    txn.set_owner(&name.0, &name.1, Some(&owner))
}

/// The tenant gives up a key, or the value of it.
pub fn leave<T: StoreTxn>(txn: &mut T, tenant: &TenantId, name: &Name) -> Result<(), T::Error> {
    let Some(mut owner) = txn.owner(&name.0, &name.1)? else {
        return Ok(());
    };
    if owner.tenant != *tenant {
        return match owner.waiting.remove(tenant) {
            true => txn.set_owner(&name.0, &name.1, Some(&owner)),
            false => Ok(()),
        };
    }
    let mut waiting = owner.waiting;
    let next = waiting.pop_first().map(|tenant| Owner {
        tenant,
        has_value: false,
        waiting,
    });
    txn.set_owner(&name.0, &name.1, next.as_ref())
}
