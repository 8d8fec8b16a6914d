//! A delta that gives contexts of a very large tenant other values, and adds and removes none: no key changes hands, so nothing but
//! these contexts is looked at. That it is one, and that all of the tenant is what the hub says after it, is found out with
//! the [`Outline`] that the store remembers.

use super::outline::Outline;
use super::{Head, Moved, Record, StoreTxn};
use crate::delta::Delta;
use crate::digest::DigestKey;
use crate::name::TenantId;
use crate::push::Verdict;

/// Such a delta, before anything is written.
pub(super) struct Values {
    pub(super) tenant: TenantId,
    before: Head,
    after: Head,
    changed: Vec<Record>,
    outline: Outline,
}

impl Values {
    /// A delta as one of these; none if it is another, or nothing is remembered.
    pub(super) fn of<T: StoreTxn>(
        txn: &mut T,
        key: &DigestKey,
        delta: &Delta,
    ) -> Result<Option<Self>, T::Error> {
        let is_plain = |head: &Head| head.held.is_empty() && head.held_kinds.is_empty();
        let (Some(before), Some(replaced)) = (txn.head(&delta.tenant)?, delta.replaced()) else {
            return Ok(None);
        };
        let outline = txn.outline(&delta.tenant);
        let outline = outline.filter(|outline| outline.digest == before.digest);
        let Some(mut outline) = outline else {
            return Ok(None);
        };
        if !is_plain(&before) || !delta.held.is_empty() || !delta.held_kinds.is_empty() {
            return Ok(None);
        }
        let places = outline.places.iter().enumerate();
        let places = places.filter(|(_, place)| replaced.has(**place));
        let places: Vec<usize> = places.map(|(at, _)| at).collect();
        if places.len() != delta.contexts.len() {
            return Ok(None);
        }
        // As many different names of these parts as there are records in them, each of which has one: they are the same, and
        // both in order.
        let is_sorted = delta.contexts.is_sorted_by(|a, b| a.name() < b.name());
        let mut changed = Vec::new();
        for (at, context) in places.into_iter().zip(&delta.contexts) {
            let there = txn.record(&delta.tenant, &context.kind, &context.key)?;
            let there = there.filter(|record| record.hash == outline.digests[at]);
            let is_here = replaced.has(key.place(&context.kind, &context.key));
            let Some(there) = there.filter(|_| is_sorted && is_here) else {
                return Ok(None);
            };
            let record = Record::new(context.clone(), key);
            // Also what rotted under a hash that did not.
            if record != there {
                outline.digests[at] = record.hash;
                changed.push(record);
            }
        }
        outline.digest = key.bundle(
            outline.digests.iter(),
            std::iter::empty(),
            std::iter::empty(),
        );
        let after = Head {
            version: delta.version,
            digest: outline.digest,
            ..before.clone()
        };
        Ok((outline.digest == delta.digest).then_some(Self {
            tenant: delta.tenant.clone(),
            before,
            after,
            changed,
            outline,
        }))
    }

    /// Writes the values.
    pub(super) fn put<T: StoreTxn>(
        self,
        txn: &mut T,
        moved: &mut Vec<Moved>,
    ) -> Result<Verdict, T::Error> {
        for record in &self.changed {
            txn.put_record(&self.tenant, record)?;
        }
        txn.set_head(&self.tenant, Some(&self.after))?;
        txn.remember(&self.tenant, self.outline);
        if self.before.digest != self.after.digest {
            moved.push(Moved {
                tenant: self.tenant,
                before: Some(self.before.digest),
                after: Some(self.after.digest),
            });
        }
        Ok(match self.changed.is_empty() {
            true => Verdict::AlreadyThere,
            false => Verdict::Applied,
        })
    }
}
