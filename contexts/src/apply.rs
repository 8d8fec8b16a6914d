//! What a store does with bundles. Written against [`StoreTxn`], which redb implements in the agent and plain maps
//! ([`maps::Maps`]) elsewhere; everything here happens within one transaction of it.
//!
//! What must hold after every call:
//! * A tenant is as its bundle says, or exactly as before (all or nothing).
//! * `(kind, key)` has one owner. A bundle takes a key only if nobody has it, or if the bundle of its owner in the same
//!   push gives it up and is applied too. A bundle removes a key only while its tenant owns it.
//! * A held name keeps its last good value, with the version that it came with; without one, the store remembers that
//!   the key exists but is held, for every tenant that holds it. A kind that could not be built keeps all that is there,
//!   its held names too.
//! * The digest in a head is that of the records as they are.

mod head;
pub mod maps;
mod owners;

pub use head::{Head, HeldName, HeldWhole};
pub use owners::Owner;

use crate::bundle::{Bundle, Context};
use crate::digest::{Digest, DigestKey};
use crate::name::{Key, Kind, TenantId};
use crate::push::{Sent, Verdict};
use owners::{leave, take, wait};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A context with the hash that its record carries. They disagree if the record is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The context.
    pub context: Context,
    /// Its hash when it was written.
    pub hash: Digest,
}

impl Record {
    /// A record of `context`.
    pub fn new(context: Context, key: &DigestKey) -> Self {
        let hash = context.digest(key);
        Self { context, hash }
    }

    /// Whether the bytes are those that were written.
    pub fn is_sound(&self, key: &DigestKey) -> bool {
        self.context.digest(key) == self.hash
    }
}

/// One transaction of a store. Reads see the writes before them; nothing is readable or durable before the commit.
pub trait StoreTxn {
    /// What can go wrong with the medium.
    type Error;
    /// The head of a tenant.
    fn head(&self, tenant: &TenantId) -> Result<Option<Head>, Self::Error>;
    /// Sets or removes the head of a tenant.
    fn set_head(&mut self, tenant: &TenantId, head: Option<&Head>) -> Result<(), Self::Error>;
    /// The records of a tenant, sorted by kind and key.
    fn records(&self, tenant: &TenantId) -> Result<Vec<Record>, Self::Error>;
    /// Writes a record of a tenant.
    fn put_record(&mut self, tenant: &TenantId, record: &Record) -> Result<(), Self::Error>;
    /// Removes a record of a tenant.
    fn remove_record(
        &mut self,
        tenant: &TenantId,
        kind: &Kind,
        key: &Key,
    ) -> Result<(), Self::Error>;
    /// The owner of a key.
    fn owner(&self, kind: &Kind, key: &Key) -> Result<Option<Owner>, Self::Error>;
    /// Sets or removes the owner of a key.
    fn set_owner(
        &mut self,
        kind: &Kind,
        key: &Key,
        owner: Option<&Owner>,
    ) -> Result<(), Self::Error>;
    /// Whether the store was in step for a kind once.
    fn is_synced(&self, kind: &Kind) -> Result<bool, Self::Error>;
    /// Remembers whether the store is blind for a kind of a tenant.
    fn set_blind(&mut self, kind: &Kind, tenant: &TenantId, blind: bool)
    -> Result<(), Self::Error>;
}

/// A tenant whose bundle digest changed: what to take out of the buckets and what to put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The tenant.
    pub tenant: TenantId,
    /// Its digest before.
    pub before: Option<Digest>,
    /// Its digest now.
    pub after: Option<Digest>,
}

/// The outcome of [`apply`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// One verdict per bundle, in their order.
    pub verdicts: Vec<Verdict>,
    /// What it means for the buckets once the transaction is committed.
    pub moved: Vec<Moved>,
    /// Records now minus records before.
    pub contexts: i64,
}

/// What identifies a context within a store.
pub type Name = (Kind, Key);

struct Draft<'a> {
    sent: &'a Sent,
    head: Option<Head>,
    old: BTreeMap<Name, Record>,
    /// Keys that it takes over, with their present owners.
    wants: Vec<(Name, TenantId)>,
    /// Keys that it has and nobody had.
    claims: Vec<Name>,
    verdict: Option<Verdict>,
}

impl Draft<'_> {
    fn tenant(&self) -> &TenantId {
        &self.sent.bundle.tenant
    }
}

/// Applies the bundles of one push, in one transaction, each as a whole or not at all.
///
/// # Errors
/// Only those of the medium; the caller then drops the transaction.
pub fn apply<T: StoreTxn>(
    txn: &mut T,
    key: &DigestKey,
    bundles: &[Sent],
) -> Result<Applied, T::Error> {
    let mut drafts = Vec::with_capacity(bundles.len());
    let mut tenants = BTreeSet::new();
    for sent in bundles {
        let mut draft = draft(txn, sent)?;
        if let Err(why) = sent.bundle.check() {
            draft.verdict = Some(Verdict::Invalid {
                why: why.to_string(),
            });
        } else if !tenants.insert(&sent.bundle.tenant) {
            draft.verdict = Some(Verdict::Invalid {
                why: "the push has two bundles of this tenant".into(),
            });
        }
        drafts.push(draft);
    }
    settle_ownership(&mut drafts);

    let mut applied = Applied::default();
    let accepted = || drafts.iter().filter(|d| d.verdict.is_none());
    let mut removed = HashMap::new();
    for draft in accepted() {
        removed.insert(draft.tenant().clone(), remove_old(txn, key, draft)?);
    }
    let mut outcomes = HashMap::new();
    for draft in accepted() {
        let gone = removed.get(draft.tenant()).copied().unwrap_or(0);
        outcomes.insert(
            draft.tenant().clone(),
            put_new(txn, key, draft, gone, &mut applied)?,
        );
    }
    applied.verdicts = drafts
        .into_iter()
        .map(|d| match d.verdict {
            Some(verdict) => verdict,
            None => outcomes
                .remove(&d.sent.bundle.tenant)
                .unwrap_or(Verdict::AlreadyThere),
        })
        .collect();
    Ok(applied)
}

fn draft<'a, T: StoreTxn>(txn: &T, sent: &'a Sent) -> Result<Draft<'a>, T::Error> {
    let bundle: &Bundle = &sent.bundle;
    let head = txn.head(&bundle.tenant)?;
    let old: BTreeMap<Name, Record> = txn
        .records(&bundle.tenant)?
        .into_iter()
        .map(|r| ((r.context.kind.clone(), r.context.key.clone()), r))
        .collect();
    let (mut wants, mut claims) = (Vec::new(), Vec::new());
    for context in &bundle.contexts {
        let name = (context.kind.clone(), context.key.clone());
        if old.contains_key(&name) {
            continue;
        }
        match txn.owner(&name.0, &name.1)? {
            Some(owner) if owner.has_value && owner.tenant != bundle.tenant => {
                wants.push((name, owner.tenant))
            }
            _ => claims.push(name),
        }
    }
    Ok(Draft {
        sent,
        head,
        old,
        wants,
        claims,
        verdict: None,
    })
}

/// Refuses bundles until every key that remains wanted is given up by an accepted bundle, and is wanted once.
fn settle_ownership(drafts: &mut [Draft<'_>]) {
    loop {
        let accepted: HashMap<TenantId, usize> = drafts
            .iter()
            .enumerate()
            .filter(|(_, d)| d.verdict.is_none())
            .map(|(i, d)| (d.tenant().clone(), i))
            .collect();
        let mut first: HashMap<&Name, &TenantId> = HashMap::new();
        let mut refused: Option<(usize, Verdict)> = None;
        'drafts: for (i, draft) in drafts
            .iter()
            .enumerate()
            .filter(|(_, d)| d.verdict.is_none())
        {
            let taken = |(kind, key): &Name, owner: &TenantId| Verdict::KeyTaken {
                kind: kind.clone(),
                key: key.clone(),
                owner: owner.clone(),
            };
            for (name, owner) in &draft.wants {
                let given_up = accepted
                    .get(owner)
                    .is_some_and(|o| !drafts[*o].sent.bundle.mentions(&name.0, &name.1));
                if !given_up {
                    refused = Some((i, taken(name, owner)));
                    break 'drafts;
                }
            }
            for name in draft
                .claims
                .iter()
                .chain(draft.wants.iter().map(|(name, _)| name))
            {
                if let Some(other) = first.insert(name, draft.tenant()) {
                    refused = Some((i, taken(name, other)));
                    break 'drafts;
                }
            }
        }
        match refused {
            None => return,
            Some((i, verdict)) => drafts[i].verdict = Some(verdict),
        }
    }
}

/// Whether the old record of this name survives without being in the bundle.
fn keeps(bundle: &Bundle, name: &Name, record: &Record, key: &DigestKey) -> bool {
    !bundle.has(&name.0, &name.1) && bundle.mentions(&name.0, &name.1) && record.is_sound(key)
}

fn remove_old<T: StoreTxn>(
    txn: &mut T,
    key: &DigestKey,
    draft: &Draft<'_>,
) -> Result<u64, T::Error> {
    let bundle: &Bundle = &draft.sent.bundle;
    let mut gone = 0;
    for (name, record) in &draft.old {
        if bundle.has(&name.0, &name.1) || keeps(bundle, name, record, key) {
            continue;
        }
        txn.remove_record(draft.tenant(), &name.0, &name.1)?;
        leave(txn, draft.tenant(), name)?;
        gone += 1;
    }
    for name in draft.head.iter().flat_map(Head::valueless) {
        leave(txn, draft.tenant(), &name)?;
    }
    Ok(gone)
}

fn put_new<T: StoreTxn>(
    txn: &mut T,
    key: &DigestKey,
    draft: &Draft<'_>,
    gone: u64,
    applied: &mut Applied,
) -> Result<Verdict, T::Error> {
    let (bundle, tenant) = (&*draft.sent.bundle, draft.tenant());
    let (mut written, mut added) = (0_u64, 0_u64);
    let mut digests = Vec::with_capacity(bundle.contexts.len());
    for context in &bundle.contexts {
        let record = Record::new(context.clone(), key);
        digests.push(record.hash);
        let old = draft.old.get(&(context.kind.clone(), context.key.clone()));
        if old == Some(&record) {
            continue;
        }
        txn.put_record(tenant, &record)?;
        written += 1;
        if old.is_none() {
            added += 1;
            take(txn, tenant, &(context.kind.clone(), context.key.clone()))?;
        }
    }
    let head = new_head(txn, key, draft, &digests)?;
    for whole in draft.head.iter().flat_map(|h| &h.held_kinds) {
        txn.set_blind(&whole.kind, tenant, false)?;
    }
    for whole in head
        .iter()
        .flat_map(|h| &h.held_kinds)
        .filter(|h| h.kept.is_none())
    {
        txn.set_blind(&whole.kind, tenant, true)?;
    }
    for name in head.iter().flat_map(Head::valueless) {
        wait(txn, tenant, &name)?;
    }
    let same_but_version = |a: &Head, b: &Head| {
        a.digest == b.digest
            && a.contexts == b.contexts
            && a.held == b.held
            && a.held_kinds == b.held_kinds
    };
    let same = match (&draft.head, &head) {
        (None, None) => true,
        (Some(before), Some(after)) => same_but_version(before, after),
        _ => false,
    };
    txn.set_head(tenant, head.as_ref())?;
    applied.contexts += added as i64 - gone as i64;
    let (before, after) = (
        draft.head.as_ref().map(|h| h.digest),
        head.map(|h| h.digest),
    );
    if before != after {
        applied.moved.push(Moved {
            tenant: tenant.clone(),
            before,
            after,
        });
    }
    Ok(if same && written == 0 && gone == 0 {
        Verdict::AlreadyThere
    } else {
        Verdict::Applied
    })
}

fn new_head<T: StoreTxn>(
    txn: &T,
    key: &DigestKey,
    draft: &Draft<'_>,
    digests: &[Digest],
) -> Result<Option<Head>, T::Error> {
    let bundle: &Bundle = &draft.sent.bundle;
    if bundle.is_empty() {
        return Ok(None);
    }
    let held = held_names(draft, key);
    let mut held_kinds = Vec::with_capacity(bundle.held_kinds.len());
    for whole in &bundle.held_kinds {
        let kept = match &draft.head {
            None => None,
            Some(before) => match before.held_kinds.iter().find(|h| h.kind == whole.kind) {
                Some(already) => already.kept,
                None => txn.is_synced(&whole.kind)?.then_some(before.version),
            },
        };
        held_kinds.push(HeldWhole {
            kind: whole.kind.clone(),
            why: whole.why.clone(),
            kept,
        });
    }
    let kept_count = draft
        .old
        .iter()
        .filter(|(name, record)| keeps(bundle, name, record, key))
        .count();
    Ok(Some(Head {
        version: draft.sent.version,
        digest: key.bundle(
            digests.iter(),
            bundle
                .held
                .iter()
                .map(|h| (&h.kind, &h.key, h.why.class() as u8)),
            bundle.held_kinds.iter().map(|h| &h.kind),
        ),
        contexts: (bundle.contexts.len() + kept_count) as u64,
        held,
        held_kinds,
    }))
}

/// The held names of the new head: those of the bundle, and of a held kind those that were held before.
fn held_names(draft: &Draft<'_>, key: &DigestKey) -> Vec<HeldName> {
    let bundle: &Bundle = &draft.sent.bundle;
    let kept_record = |kind: &Kind, k: &Key| {
        let name = (kind.clone(), k.clone());
        let kept = draft
            .old
            .get(&name)
            .is_some_and(|r| keeps(bundle, &name, r, key));
        kept.then(|| {
            draft
                .head
                .as_ref()
                .map(|h| h.version_of(kind.as_str(), k.as_str()))
                .unwrap_or_default()
        })
    };
    let named = bundle.held.iter().map(|h| HeldName {
        kind: h.kind.clone(),
        key: h.key.clone(),
        why: h.why.clone(),
        kept: kept_record(&h.kind, &h.key),
    });
    // Of a held kind the names that were held stay so, under the reason of the kind.
    let before = draft.head.iter().flat_map(|h| &h.held);
    let silent = before.filter(|h| {
        !bundle
            .held
            .iter()
            .any(|b| (&b.kind, &b.key) == (&h.kind, &h.key))
    });
    let still = silent.filter_map(|h| {
        let whole = bundle.held_kinds.iter().find(|k| k.kind == h.kind)?;
        Some(HeldName {
            kind: h.kind.clone(),
            key: h.key.clone(),
            why: whole.why.clone(),
            kept: kept_record(&h.kind, &h.key),
        })
    });
    let mut held: Vec<HeldName> = named.chain(still).collect();
    held.sort_unstable_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
    held
}
