//! One look at every row. It changes nothing; it says what would have to change.

use super::{Fix, Name, StoreError, Survey, rows};
use crate::store::redb::tables::{
    BLIND, BUNDLES, BucketTenant, Bytes, CONTEXTS, OWNERS, Three, Two, each_of_tenant,
};
use contexts::apply::{Head, Owner};
use contexts::digest::{Digest, DigestKey};
use contexts::name::{Key, Kind, TenantId};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTableMetadata};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

/// Is told of each record that disagrees with its hash.
type EachUnsound<'a> = &'a mut dyn FnMut(&TenantId, &Kind, &Key);

struct Look<'a> {
    key: &'a DigestKey,
    each_unsound: EachUnsound<'a>,
    bundles: ReadOnlyTable<BucketTenant, Bytes>,
    contexts: ReadOnlyTable<Three, Bytes>,
    owners: ReadOnlyTable<Two, Bytes>,
    blind: ReadOnlyTable<Two, ()>,
    hashers: [RandomState; 2],
    /// The names of the records that have a head.
    records: Names,
    found: Survey,
}

/// A set of names: how many, and a sum over their hashes that no order changes. Two different sets have the same sum by
/// chance only, and nobody can choose names for it, since the hashes have random keys.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    count: u64,
    sums: [u64; 2],
}

impl Names {
    fn add(&mut self, hashers: &[RandomState; 2], name: (&[u8], &[u8], &[u8])) {
        self.count += 1;
        for (sum, hasher) in self.sums.iter_mut().zip(hashers) {
            *sum = sum.wrapping_add(hasher.hash_one(name));
        }
    }
}

/// Looks at every row.
pub(super) fn look(
    txn: &ReadTransaction,
    key: &DigestKey,
    each_unsound: EachUnsound<'_>,
) -> Result<Survey, StoreError> {
    let mut look = Look {
        key,
        each_unsound,
        bundles: txn.open_table(BUNDLES)?,
        contexts: txn.open_table(CONTEXTS)?,
        owners: txn.open_table(OWNERS)?,
        blind: txn.open_table(BLIND)?,
        hashers: [RandomState::new(), RandomState::new()],
        records: Names::default(),
        found: Survey::default(),
    };
    look.found.contexts = look.contexts.len()?;
    look.found.bundles = look.bundles.len()?;
    let owned = look.owners()?;
    let headed = look.heads()?;
    look.blinds()?;
    // Names in `owners` are unique. With the same names on both sides every owner has its record, and no record lacks
    // one; to look each of them up would take most of the time of a start.
    if owned != look.records {
        look.owners_without_record()?;
    }
    if owned != look.records || headed != look.found.contexts {
        look.records()?;
    }
    Ok(look.found)
}

impl Look<'_> {
    fn fix(&mut self, finding: &'static str, fix: Fix) {
        self.found.fixes.push((finding, fix));
    }

    fn head(&self, tenant: &TenantId) -> Result<Option<Head>, StoreError> {
        let place = (self.key.bucket(tenant) as u16, tenant.as_str().as_bytes());
        let bytes = self.bundles.get(place)?;
        Ok(bytes.and_then(|bytes| rows::head(bytes.value()).ok()))
    }

    /// The names that have an owner with a value. Owners that cannot be read, or that wait for what no head holds, are
    /// noted.
    fn owners(&mut self) -> Result<Names, StoreError> {
        let mut owned = Names::default();
        for row in self.owners.range::<(&[u8], &[u8])>(..)? {
            let (name, bytes) = row?;
            let (kind, key) = name.value();
            let agrees = match rows::owner(bytes.value()) {
                Err(_) => false,
                Ok(owner) if owner.has_value => {
                    owned.add(&self.hashers, (owner.tenant.as_str().as_bytes(), kind, key));
                    true
                }
                Ok(owner) => self.head(&owner.tenant)?.is_some_and(|head| {
                    head.held.iter().any(|held| {
                        held.kept.is_none()
                            && held.kind.as_str().as_bytes() == kind
                            && held.key.as_str().as_bytes() == key
                    })
                }),
            };
            if !agrees {
                let name = (kind.to_vec(), key.to_vec());
                self.fix("owner_without_record", Fix::DropOwner { name });
            }
        }
        Ok(owned)
    }

    /// Owners without what they own.
    fn owners_without_record(&mut self) -> Result<(), StoreError> {
        for row in self.owners.range::<(&[u8], &[u8])>(..)? {
            let (name, bytes) = row?;
            let (kind, key) = name.value();
            let Ok(owner) = rows::owner(bytes.value()) else {
                continue;
            };
            let place = (owner.tenant.as_str().as_bytes(), kind, key);
            if owner.has_value && self.contexts.get(place)?.is_none() {
                let name = (kind.to_vec(), key.to_vec());
                self.fix("owner_without_record", Fix::DropOwner { name });
            }
        }
        Ok(())
    }

    /// Heads that disagree with their records; the sums. Returns how many records have a head.
    fn heads(&mut self) -> Result<u64, StoreError> {
        let mut headed = 0;
        for row in self.bundles.range::<(u16, &[u8])>(..)? {
            let (place, bytes) = row?;
            let (bucket, name) = place.value();
            let tenant = rows::tenant(name).ok();
            let tenant = tenant.filter(|tenant| self.key.bucket(tenant) == usize::from(bucket));
            match (tenant, rows::head(bytes.value())) {
                (Some(tenant), Ok(head)) => headed += self.bundle(&tenant, head)?,
                _ => {
                    let tenant = name.to_vec();
                    self.fix("head_unreadable", Fix::DropHead { bucket, tenant });
                }
            }
        }
        Ok(headed)
    }

    fn bundle(&mut self, tenant: &TenantId, head: Head) -> Result<u64, StoreError> {
        // Names matter to the digest only where some are held. Of a million records they would cost most of the time.
        let holds = !head.held.is_empty() || !head.held_kinds.is_empty();
        let (mut digests, mut names): (Vec<Digest>, Vec<(Kind, Key)>) = Default::default();
        let (mut count, mut unsound, mut unnamed) = (0, 0, Vec::new());
        let owner = tenant.as_str().as_bytes();
        each_of_tenant(&self.contexts, tenant.as_str(), |kind, key, bytes| {
            count += 1;
            self.records.add(&self.hashers, (owner, kind, key));
            let Some((kind_text, key_text)) = rows::name(kind, key) else {
                unnamed.push((kind.to_vec(), key.to_vec()));
                return Ok::<(), StoreError>(());
            };
            let (real, stored) = rows::hashes(self.key, kind_text, key_text, bytes);
            if real != stored {
                unsound += 1;
                (self.each_unsound)(tenant, &rows::kind(kind)?, &rows::key(key)?);
            }
            digests.push(match real == stored {
                true => real,
                false => mark(real, stored),
            });
            if holds {
                names.push((rows::kind(kind)?, rows::key(key)?));
            }
            Ok(())
        })?;
        for name in unnamed {
            let tenant = tenant.as_str().as_bytes().to_vec();
            let fix = Fix::DropRecord {
                tenant,
                name,
                lost: true,
            };
            self.fix("record_unreadable", fix);
        }
        self.found.unsound += unsound;
        let digest = match holds {
            true => {
                let named = names.iter().zip(&digests);
                head.digest_of(self.key, named.map(|((kind, key), d)| (kind, key, d)))
            }
            false => self
                .key
                .bundle(digests.iter(), std::iter::empty(), std::iter::empty()),
        };
        self.found.buckets.add(self.key, tenant, &digest);
        for whole in head.held_kinds.iter().filter(|whole| whole.kept.is_none()) {
            let (kind, name) = (whole.kind.as_str().as_bytes(), tenant.as_str().as_bytes());
            if self.blind.get((kind, name))?.is_none() {
                let (kind, tenant) = (kind.to_vec(), name.to_vec());
                self.fix("blind_entry_missing", Fix::SetBlind { kind, tenant });
            }
        }
        if digest != head.digest || count != head.contexts {
            let head = Head {
                digest,
                contexts: count,
                ..head
            };
            let tenant = tenant.clone();
            self.fix("head_disagrees_with_records", Fix::SetHead { tenant, head });
        }
        Ok(count)
    }

    /// Blind entries that no head asks for.
    fn blinds(&mut self) -> Result<(), StoreError> {
        for row in self.blind.range::<(&[u8], &[u8])>(..)? {
            let row = row?.0;
            let (kind, name) = row.value();
            let head = match rows::tenant(name) {
                Ok(tenant) => self.head(&tenant)?,
                Err(_) => None,
            };
            let asked = head.is_some_and(|head| {
                head.held_kinds
                    .iter()
                    .any(|whole| whole.kept.is_none() && whole.kind.as_str().as_bytes() == kind)
            });
            if !asked {
                let (kind, tenant) = (kind.to_vec(), name.to_vec());
                self.fix("blind_entry_without_cause", Fix::DropBlind { kind, tenant });
            }
        }
        Ok(())
    }

    /// Records without a head or an owner. Looked at only if the counts say that there are some.
    fn records(&mut self) -> Result<(), StoreError> {
        for row in self.contexts.range::<(&[u8], &[u8], &[u8])>(..)? {
            let row = row?.0;
            let (tenant_bytes, kind, key) = row.value();
            let name: Name = (kind.to_vec(), key.to_vec());
            let tenant = rows::tenant(tenant_bytes).ok();
            let headed = match &tenant {
                Some(tenant) => self.head(tenant)?.is_some(),
                None => false,
            };
            let owner = self.owners.get((kind, key))?;
            let owner = owner.and_then(|bytes| rows::owner(bytes.value()).ok());
            let Some(tenant) = tenant.filter(|_| headed) else {
                let tenant = tenant_bytes.to_vec();
                let fix = Fix::DropRecord {
                    tenant,
                    name,
                    lost: true,
                };
                self.fix("record_without_head", fix);
                continue;
            };
            let other = owner.as_ref().filter(|o| o.has_value && o.tenant != tenant);
            let other_has_it = match other {
                Some(o) => {
                    let place = (o.tenant.as_str().as_bytes(), kind, key);
                    self.contexts.get(place)?.is_some()
                }
                None => false,
            };
            if other_has_it {
                let tenant = tenant_bytes.to_vec();
                let fix = Fix::DropRecord {
                    tenant,
                    name,
                    lost: false,
                };
                self.fix("record_of_another_owner", fix);
            } else if owner
                .as_ref()
                .is_none_or(|o| !o.has_value || o.tenant != tenant)
            {
                let mut waiting = BTreeSet::new();
                if let Some(before) = owner {
                    waiting = before.waiting;
                    waiting.insert(before.tenant);
                    waiting.remove(&tenant);
                }
                let owner = Owner {
                    tenant,
                    has_value: true,
                    waiting,
                };
                self.fix("record_without_owner", Fix::SetOwner { name, owner });
            }
        }
        Ok(())
    }
}

/// What a record that disagrees with its hash counts as: neither what was written nor what is there, so that its
/// bundle differs from any that the hub can have, whichever of the two was damaged.
fn mark(real: Digest, stored: Digest) -> Digest {
    let mut mixed = real.0;
    mixed
        .iter_mut()
        .zip(stored.0)
        .for_each(|(byte, other)| *byte ^= other);
    Digest(mixed)
}
