//! What an item has no room for: such a bundle is refused whole, with a reason, before anything is written.

use crate::layout::{BadItem, ITEM_BYTES, StoredContext, staged, weight};
use crate::transaction::ACTIONS;
use crate::working::{Changed, Group};
use contexts::digest::DigestKey;
use contexts::limits::TENANT_BYTES;
use contexts::name::TenantId;
use std::collections::{BTreeMap, BTreeSet};

/// Tenants whose bundles have no room, with the reasons.
pub(crate) type Refused = BTreeMap<TenantId, String>;

/// The tenants of these groups whose bundles have no room. Without these the difference is another one, and may have none either.
pub(crate) fn without_room(key: &DigestKey, groups: &[Group]) -> Result<Refused, BadItem> {
    let mut refused = Refused::new();
    for group in groups {
        heads(key, group, &mut refused)?;
        for changed in &group.contexts {
            context(group, changed, &mut refused);
        }
    }
    Ok(refused)
}

fn heads(key: &DigestKey, group: &Group, refused: &mut Refused) -> Result<(), BadItem> {
    for changed in &group.heads {
        let (tenant, head) = (&changed.stored.tenant, &changed.stored.head);
        // Nothing else makes a head large, or many items.
        if head.held.is_empty() && head.held_kinds.is_empty() && group.blind.is_empty() {
            continue;
        }
        let bytes = weight(&changed.stored.to_item(key, 0)?);
        let blind = group.blind.iter().filter(|(_, of, _)| of == tenant).count();
        if bytes > ITEM_BYTES {
            let why = format!(
                "the names of {} held contexts and {} held kinds have {bytes} bytes with their reasons, and an item of \
                 DynamoDB has room for 400 KB: mend or drop what is held of the tenant (`publisher status`)",
                head.held.len(),
                head.held_kinds.len()
            );
            refused.insert(tenant.clone(), why);
        } else if blind + 2 > ACTIONS {
            let why = format!(
                "{blind} kinds of the tenant are held before any of them was ever there, or not any more, and a transaction \
                 of DynamoDB has {ACTIONS} actions: mend the queries of some first"
            );
            refused.insert(tenant.clone(), why);
        }
    }
    Ok(())
}

fn context(group: &Group, changed: &Changed, refused: &mut Refused) {
    let Some(stored) = &changed.stored else {
        return;
    };
    let value = stored.record.as_ref().map_or(0, |r| r.context.value.len());
    // Only what is large by itself is counted to the byte.
    if value + stored.owner.waiting.len() * TENANT_BYTES <= ITEM_BYTES / 2 {
        return;
    }
    let weigh = |stored: &StoredContext| {
        let staged = staged(&changed.name, group.build, &changed.by, Some(stored));
        // It may be staged by another tenant the next time.
        weight(&staged) + TENANT_BYTES - changed.by.as_str().len()
    };
    let mut bytes = weigh(stored);
    if bytes <= ITEM_BYTES {
        return;
    }
    let (kind, key) = &changed.name;
    let concerned: BTreeSet<&TenantId> = group.heads.iter().map(|h| &h.stored.tenant).collect();
    let mut alone = stored.clone();
    alone.owner.waiting.clear();
    if weigh(&alone) <= ITEM_BYTES {
        let waiting = stored.owner.waiting.iter().rev();
        for tenant in waiting.filter(|tenant| concerned.contains(tenant)) {
            if bytes <= ITEM_BYTES {
                return;
            }
            bytes -= 1 + tenant.as_str().len();
            let why = format!(
                "{kind} {key:?} is held for {} other tenants too, and an item of DynamoDB has room for 400 KB with all of \
                 their names: see to it that one tenant has it",
                stored.owner.waiting.len()
            );
            refused.insert(tenant.clone(), why);
        }
        if bytes <= ITEM_BYTES {
            return;
        }
    }
    let owner = concerned.get(&stored.owner.tenant).copied();
    let why = format!(
        "{kind} {key:?} has {value} bytes, and an item of DynamoDB has room for 400 KB with its names: set \
         max_value_bytes of the kind so that the hub holds such values"
    );
    refused.insert(owner.unwrap_or(&changed.by).clone(), why);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Build, Names, StoredHead};
    use crate::working::ChangedHead;
    use contexts::apply::{Head, Owner, Record};
    use contexts::bundle::Context;
    use contexts::digest::Digest;
    use contexts::name::{Key, Kind};
    use std::collections::HashMap;

    /// A key with a value of so many bytes, for which so many wait, of which the last one and the owner are written now.
    fn refused(bytes: usize, waiting: usize) -> Vec<String> {
        let tenant = |n: usize| TenantId::new(&format!("{n:0>500}")).expect("a tenant");
        let kind = Kind::new("a").expect("a kind");
        let key = Key::new("k").expect("a key");
        let context = Context {
            kind: kind.clone(),
            key: key.clone(),
            value: "x".repeat(bytes).into(),
            expires: None,
        };
        let stored = StoredContext {
            build: Build(1),
            version: Default::default(),
            owner: Owner {
                tenant: tenant(0),
                has_value: true,
                waiting: (1..=waiting).map(tenant).collect(),
            },
            record: Some(Record {
                context,
                hash: Digest([0; 16]),
            }),
        };
        let head = |tenant| ChangedHead {
            stored: StoredHead {
                tenant,
                build: Build(1),
                head: Head {
                    version: Default::default(),
                    digest: Digest([0; 16]),
                    contexts: 1,
                    held: vec![],
                    held_kinds: vec![],
                },
                is_gone: false,
                names: Names::Nowhere,
                sum: 0,
            },
            seen: None,
            before: Names::Nowhere,
            is_renamed: false,
        };
        let group = Group {
            build: Build(1),
            heads: vec![head(tenant(0)), head(tenant(waiting))],
            contexts: vec![Changed {
                name: (kind, key),
                stored: Some(stored),
                by: tenant(0),
            }],
            names: HashMap::new(),
            blind: vec![],
        };
        let refused = without_room(&DigestKey([7; 32]), &[group]).expect("can be weighed");
        let names = refused
            .keys()
            .map(|tenant| tenant.as_str().trim_start_matches('0').to_owned());
        names.collect()
    }

    #[test]
    fn who_makes_an_item_too_large_is_refused_alone() {
        let nobody: [&str; 0] = [];
        assert_eq!(refused(400_000, 1), nobody);
        assert_eq!(
            refused(420_000, 1),
            [""],
            "the value by itself is too large"
        );
        assert_eq!(refused(56_000, 700), nobody);
        assert_eq!(
            refused(57_500, 700),
            ["700"],
            "one too many waits for the key"
        );
    }
}
