//! What comes in, beside what is there: a bundle with the digests of its contexts, and what the store has of the tenant. A
//! delta becomes the whole bundle that it stands for, so that what follows knows of no deltas; but for one that does nothing
//! but give contexts other values, which is far less to look at: see [`super::values`].

use super::outline::Outline;
use super::{Head, Record, StoreTxn};
use crate::bundle::{Bundle, Context};
use crate::delta::Delta;
use crate::digest::{Digest, DigestKey};
use crate::push::Sent;
use std::cmp::Ordering;
use std::sync::Arc;

/// A bundle that came, and what is there of its tenant.
pub(super) struct Incoming {
    pub(super) sent: Sent,
    /// The digest of each of its contexts, in their order.
    pub(super) digests: Vec<Digest>,
    /// The digest of all of it.
    pub(super) digest: Digest,
    /// The head in the store.
    pub(super) head: Option<Head>,
    /// The records there, sorted by kind and key.
    pub(super) old: Vec<Record>,
    /// What is to be remembered of it, if it came as a delta.
    pub(super) outline: Option<Outline>,
}

impl Incoming {
    /// A bundle that came whole.
    pub(super) fn whole<T: StoreTxn>(
        txn: &T,
        key: &DigestKey,
        sent: &Sent,
    ) -> Result<Self, T::Error> {
        let bundle = &sent.bundle;
        let digests = bundle.digests(key);
        Ok(Self {
            digest: bundle.digest_over(key, &digests),
            digests,
            head: txn.head(&bundle.tenant)?,
            old: txn.records(&bundle.tenant)?,
            sent: sent.clone(),
            outline: None,
        })
    }

    /// The bundle that a delta stands for; none if nothing with its digest comes of it.
    pub(super) fn rebuilt<T: StoreTxn>(
        txn: &T,
        key: &DigestKey,
        delta: &Delta,
    ) -> Result<Option<Self>, T::Error> {
        let (head, old) = (txn.head(&delta.tenant)?, txn.records(&delta.tenant)?);
        let (Some(before), Some(replaced)) = (&head, delta.replaced()) else {
            return Ok(None);
        };
        // What was kept for a held name was not in the bundle, and what is rotten is not what was.
        let placed = |context: &Context| key.place(&context.kind, &context.key);
        let stays = |(record, place): &(&Record, u32)| {
            let (kind, key_) = record.context.name();
            !before.keeps(kind, key_) && !replaced.has(*place) && record.is_sound(key)
        };
        let stay = old.iter().map(|r| (r, placed(&r.context))).filter(stays);
        let stay = stay.map(|(r, place)| (&r.context, (r.hash, place)));
        let come = delta.contexts.iter();
        let come = come.map(|c| (c, (c.digest(key), placed(c))));
        let (contexts, (digests, places)) = merged(stay, come);
        let bundle = Bundle {
            tenant: delta.tenant.clone(),
            contexts,
            held: delta.held.clone(),
            held_kinds: delta.held_kinds.clone(),
        };
        let digest = bundle.digest_over(key, &digests);
        let is_plain = bundle.is_plain();
        let outline = is_plain.then(|| Outline {
            digest,
            places,
            digests: digests.clone(),
        });
        let sent = Sent {
            version: delta.version,
            bundle: Arc::new(bundle),
        };
        Ok((digest == delta.digest).then_some(Self {
            sent,
            digests,
            digest,
            head,
            old,
            outline,
        }))
    }
}

/// Two sorted lists of contexts, each with its digest and its place, as one.
fn merged<'a>(
    a: impl Iterator<Item = (&'a Context, (Digest, u32))>,
    b: impl Iterator<Item = (&'a Context, (Digest, u32))>,
) -> (Vec<Context>, (Vec<Digest>, Vec<u32>)) {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(|| {
        let order = match (a.peek(), b.peek()) {
            (Some((a, _)), Some((b, _))) => a.name().cmp(&b.name()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => a.next(),
            _ => b.next(),
        }
    })
    .map(|(context, more)| (context.clone(), more))
    .unzip()
}
