//! What comes in, beside what is there: a bundle with the digests of its contexts, and what the store has of the tenant. A
//! delta becomes the whole bundle that it stands for, so that what follows knows of no deltas.

use super::{Head, Record, StoreTxn};
use crate::bundle::{Bundle, Context};
use crate::delta::{Change, Delta};
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
        let stays = |record: &&Record| {
            let (kind, key_) = record.context.name();
            !before.keeps(kind, key_)
                && !replaced.has(key.place(kind, key_))
                && record.is_sound(key)
        };
        let stay = old.iter().filter(stays).map(|r| (&r.context, r.hash));
        let come = delta.contexts.iter().map(|c| (c, c.digest(key)));
        let (contexts, digests) = merged(stay, come);
        let bundle = Bundle {
            tenant: delta.tenant.clone(),
            contexts,
            held: delta.held.clone(),
            held_kinds: delta.held_kinds.clone(),
        };
        let digest = bundle.digest_over(key, &digests);
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
        }))
    }

    /// A bundle in either form; none if it is a delta of which nothing with its digest comes.
    pub(super) fn of<T: StoreTxn>(
        txn: &T,
        key: &DigestKey,
        change: &Change,
    ) -> Result<Option<Self>, T::Error> {
        match change {
            Change::Whole(sent) => Self::whole(txn, key, sent).map(Some),
            Change::Delta(delta) => Self::rebuilt(txn, key, delta),
        }
    }
}

/// Two sorted lists of contexts with their digests as one.
fn merged<'a>(
    a: impl Iterator<Item = (&'a Context, Digest)>,
    b: impl Iterator<Item = (&'a Context, Digest)>,
) -> (Vec<Context>, Vec<Digest>) {
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
    .map(|(context, digest)| (context.clone(), digest))
    .unzip()
}
