//! I3: the books of a store agree with its records after every commit.

use crate::state::Name;
use crate::world::{Checked, World, violated};
use contexts::name::TenantId;
use std::collections::{BTreeMap, BTreeSet};

impl World {
    /// One owner per key; owners, heads, digests, counts and buckets as the records say.
    pub fn check_books(&self, s: usize) -> Checked {
        let d = &self.agents[s].durable;
        let fail =
            |what: String| violated("I3 one owner, true books", format!("store {s}: {what}"));
        let mut values: BTreeMap<&Name, &TenantId> = BTreeMap::new();
        for (tenant, records) in &d.records {
            for name in records.keys() {
                if let Some(other) = values.insert(name, tenant) {
                    return fail(format!("{other} and {tenant} both have {name:?}"));
                }
                let found = d.owners.get(name);
                if !found.is_some_and(|o| o.has_value && o.tenant == *tenant) {
                    return fail(format!("{name:?} of {tenant} is owned by {found:?}"));
                }
            }
        }
        for (name, owner) in &d.owners {
            let holds = |tenant: &TenantId| {
                let held = d.heads.get(tenant).into_iter().flat_map(|h| &h.held);
                held.filter(|h| h.kept.is_none())
                    .any(|h| (&h.kind, &h.key) == (&name.0, &name.1))
            };
            let first = match owner.has_value {
                true => values.contains_key(name),
                false => holds(&owner.tenant),
            };
            let right = first && owner.waiting.iter().all(holds);
            if !right {
                return fail(format!("{name:?} has the owner {owner:?} and nothing else"));
            }
        }
        let Some(key) = &d.key else { return Ok(()) };
        let mut blind = BTreeSet::new();
        for (tenant, head) in &d.heads {
            if head.digest != d.true_digest(key, tenant, head) {
                return fail(format!("the digest of {tenant} is not that of its records"));
            }
            let records = d.records.get(tenant).map_or(0, |r| r.len() as u64);
            if head.contexts != records {
                return fail(format!("{tenant} counts {}, has {records}", head.contexts));
            }
            let whole = head.held_kinds.iter().filter(|h| h.kept.is_none());
            blind.extend(whole.map(|h| (h.kind.clone(), tenant.clone())));
        }
        if blind != d.blind {
            return fail(format!("blind for {:?}, should be {blind:?}", d.blind));
        }
        match &self.agents[s].memory {
            Some(memory) if memory.buckets != d.buckets(&BTreeSet::new()) => {
                fail("the buckets are not those of the heads".into())
            }
            Some(memory) if memory.contexts != d.contexts() => fail("contexts miscounted".into()),
            _ => Ok(()),
        }
    }
}
