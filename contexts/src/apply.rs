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
//! * A delta does what the push of the whole bundle does, or nothing is applied of what it came with.

mod contention;
mod head;
mod incoming;
pub mod maps;
mod outline;
mod owners;
mod values;

pub use head::{Head, HeldName, HeldWhole};
pub use outline::Outline;
pub use owners::Owner;

use crate::bundle::{Bundle, Context};
use crate::delta::Change;
use crate::digest::{Digest, DigestKey};
use crate::name::{Key, Kind, TenantId};
use crate::push::{Sent, Verdict};
use contention::settle_ownership;
use incoming::Incoming;
use owners::{leave, take, take_free, wait};
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use values::Values;

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
    /// The record of a name of a tenant.
    fn record(
        &self,
        tenant: &TenantId,
        kind: &Kind,
        key: &Key,
    ) -> Result<Option<Record>, Self::Error>;
    /// Takes what is remembered of a very large tenant out of memory, if anything is.
    fn outline(&mut self, _tenant: &TenantId) -> Option<Outline> {
        None
    }
    /// This is to be remembered of a tenant, or not.
    fn remember(&mut self, _tenant: &TenantId, _outline: Outline) {}
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

/// What a bundle means for the store, before anything is written.
struct Draft<'a> {
    came: &'a Incoming,
    /// Keys that it takes over, with their present owners.
    wants: Vec<(Name, TenantId)>,
    /// Keys that it has and nobody had.
    claims: Vec<Name>,
    /// The contexts to be written, by their place in the bundle.
    writes: Vec<(usize, Before)>,
    /// Records that go.
    gone: Vec<&'a Record>,
    /// Records of held names, which stay without being in the bundle.
    kept: Vec<&'a Record>,
    verdict: Option<Verdict>,
}

/// What there is of a name that a bundle writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A record of this tenant.
    Record,
    /// No record of this tenant; some tenant has the key.
    Owner,
    /// Nobody has the key.
    Nothing,
}

impl Draft<'_> {
    fn bundle(&self) -> &Bundle {
        &self.came.sent.bundle
    }

    fn tenant(&self) -> &TenantId {
        &self.came.sent.bundle.tenant
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
    let came = bundles.iter().map(|sent| Incoming::whole(txn, key, sent));
    let came = came.map(|came| came.map(Came::Bundle));
    let came = came.collect::<Result<Vec<_>, _>>()?;
    apply_all(txn, key, came)
}

/// Applies what came as deltas, or together with some, likewise. The tenants of which the store does not have what a delta
/// was made for are an answer of their own; nothing is written then.
///
/// # Errors
/// As [`apply`].
pub fn apply_changes<T: StoreTxn>(
    txn: &mut T,
    key: &DigestKey,
    changes: &[Change],
) -> Result<Result<Applied, Vec<TenantId>>, T::Error> {
    let (mut came, mut differ) = (Vec::with_capacity(changes.len()), Vec::new());
    for change in changes {
        let delta = match change {
            Change::Whole(sent) => {
                came.push(Came::Bundle(Incoming::whole(txn, key, sent)?));
                continue;
            }
            Change::Delta(delta) => delta,
        };
        if let Some(values) = Values::of(txn, key, delta)? {
            came.push(Came::Values(values));
        } else if let Some(incoming) = Incoming::rebuilt(txn, key, delta)? {
            came.push(Came::Bundle(incoming));
        } else {
            differ.push(change.tenant().clone());
        }
    }
    match differ.is_empty() {
        true => apply_all(txn, key, came).map(Ok),
        false => Ok(Err(differ)),
    }
}

/// What a push brings of one tenant.
enum Came {
    Bundle(Incoming),
    Values(Values),
}

impl Came {
    fn tenant(&self) -> &TenantId {
        match self {
            Self::Bundle(incoming) => &incoming.sent.bundle.tenant,
            Self::Values(values) => &values.tenant,
        }
    }
}

fn apply_all<T: StoreTxn>(
    txn: &mut T,
    key: &DigestKey,
    came: Vec<Came>,
) -> Result<Applied, T::Error> {
    let mut tenants = BTreeSet::new();
    let is_first: Vec<bool> = came
        .iter()
        .map(|came| tenants.insert(came.tenant().clone()))
        .collect();
    let twice = || "the push has two bundles of this tenant".to_owned();
    let mut drafts = Vec::with_capacity(came.len());
    for (came, is_first) in came.iter().zip(&is_first) {
        let Came::Bundle(came) = came else {
            continue;
        };
        let why = match came.sent.bundle.check() {
            Err(why) => Some(why.to_string()),
            Ok(()) => (!is_first).then(twice),
        };
        drafts.push(draft(txn, key, came, why)?);
    }
    settle_ownership(&mut drafts);

    let mut applied = Applied::default();
    let accepted = || drafts.iter().filter(|d| d.verdict.is_none());
    for draft in accepted() {
        remove_old(txn, draft)?;
    }
    // All before the first head: a head may have its tenant wait for a key of which the draft says that nobody has it.
    for draft in accepted() {
        put_records(txn, draft)?;
    }
    let mut outcomes = HashMap::new();
    for draft in accepted() {
        let outcome = put_head(txn, draft, &mut applied)?;
        outcomes.insert(draft.tenant().clone(), outcome);
    }
    let verdicts = drafts.into_iter().map(|d| match d.verdict {
        Some(verdict) => (verdict, false),
        None => (
            outcomes.remove(d.tenant()).unwrap_or(Verdict::AlreadyThere),
            true,
        ),
    });
    let mut verdicts = verdicts.collect::<Vec<_>>().into_iter();
    for (came, is_first) in came.into_iter().zip(is_first) {
        let verdict = match came {
            Came::Values(_) if !is_first => Verdict::Invalid { why: twice() },
            Came::Values(values) => values.put(txn, &mut applied.moved)?,
            Came::Bundle(incoming) => {
                let (verdict, is_there) = verdicts.next().unwrap_or((Verdict::AlreadyThere, false));
                if let Some(outline) = incoming.outline.filter(|_| is_there) {
                    txn.remember(&incoming.sent.bundle.tenant, outline);
                }
                verdict
            }
        };
        applied.verdicts.push(verdict);
    }
    Ok(applied)
}

/// Compares what came with what is there; both are sorted, unless `invalid` says why the bundle is none.
fn draft<'a, T: StoreTxn>(
    txn: &T,
    key: &DigestKey,
    came: &'a Incoming,
    invalid: Option<String>,
) -> Result<Draft<'a>, T::Error> {
    let mut draft = Draft {
        came,
        wants: Vec::new(),
        claims: Vec::new(),
        writes: Vec::new(),
        gone: Vec::new(),
        kept: Vec::new(),
        verdict: invalid.map(|why| Verdict::Invalid { why }),
    };
    if draft.verdict.is_some() {
        return Ok(draft);
    }
    let bundle: &Bundle = &came.sent.bundle;
    let (mut old, mut at) = (came.old.iter().peekable(), 0);
    loop {
        let new = bundle.contexts.get(at);
        let order = match (old.peek(), new) {
            (None, None) => return Ok(draft),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.context.name().cmp(&new.name()),
        };
        match (order, new) {
            (Ordering::Less, _) | (_, None) => {
                let record = old.next();
                let (kept, gone) = (&mut draft.kept, &mut draft.gone);
                record
                    .into_iter()
                    .for_each(|r| match keeps(bundle, r, key) {
                        true => kept.push(r),
                        false => gone.push(r),
                    });
                continue;
            }
            (Ordering::Equal, Some(new)) => {
                let is_same = |r: &Record| r.hash == came.digests[at] && r.context == *new;
                if !old.next().is_some_and(is_same) {
                    draft.writes.push((at, Before::Record));
                }
            }
            (Ordering::Greater, Some(new)) => {
                let name = (new.kind.clone(), new.key.clone());
                let owner = txn.owner(&name.0, &name.1)?;
                let before = owner.as_ref().map_or(Before::Nothing, |_| Before::Owner);
                draft.writes.push((at, before));
                match owner {
                    Some(owner) if owner.has_value && owner.tenant != bundle.tenant => {
                        draft.wants.push((name, owner.tenant));
                    }
                    _ => draft.claims.push(name),
                }
            }
        }
        at += 1;
    }
}

/// Whether a record survives of which the bundle has no context.
fn keeps(bundle: &Bundle, record: &Record, key: &DigestKey) -> bool {
    let (kind, key_) = record.context.name();
    bundle.mentions(kind, key_) && record.is_sound(key)
}

fn remove_old<T: StoreTxn>(txn: &mut T, draft: &Draft<'_>) -> Result<(), T::Error> {
    for record in &draft.gone {
        let name = (record.context.kind.clone(), record.context.key.clone());
        txn.remove_record(draft.tenant(), &name.0, &name.1)?;
        leave(txn, draft.tenant(), &name)?;
    }
    for name in draft.came.head.iter().flat_map(Head::valueless) {
        leave(txn, draft.tenant(), &name)?;
    }
    Ok(())
}

fn put_records<T: StoreTxn>(txn: &mut T, draft: &Draft<'_>) -> Result<(), T::Error> {
    for (at, before) in &draft.writes {
        let record = Record {
            context: draft.bundle().contexts[*at].clone(),
            hash: draft.came.digests[*at],
        };
        txn.put_record(draft.tenant(), &record)?;
        let name = (record.context.kind, record.context.key);
        match before {
            Before::Record => {}
            Before::Owner => take(txn, draft.tenant(), &name)?,
            Before::Nothing => take_free(txn, draft.tenant(), &name)?,
        }
    }
    Ok(())
}

fn put_head<T: StoreTxn>(
    txn: &mut T,
    draft: &Draft<'_>,
    applied: &mut Applied,
) -> Result<Verdict, T::Error> {
    let (tenant, before) = (draft.tenant(), &draft.came.head);
    let head = new_head(txn, draft)?;
    for whole in before.iter().flat_map(|h| &h.held_kinds) {
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
    let same = match (before, &head) {
        (None, None) => true,
        (Some(before), Some(after)) => same_but_version(before, after),
        _ => false,
    };
    txn.set_head(tenant, head.as_ref())?;
    let is_new = |before: Before| before != Before::Record;
    let added = draft.writes.iter().filter(|(_, b)| is_new(*b)).count();
    applied.contexts += added as i64 - draft.gone.len() as i64;
    let (before, after) = (before.as_ref().map(|h| h.digest), head.map(|h| h.digest));
    if before != after {
        applied.moved.push(Moved {
            tenant: tenant.clone(),
            before,
            after,
        });
    }
    Ok(
        match same && draft.writes.is_empty() && draft.gone.is_empty() {
            true => Verdict::AlreadyThere,
            false => Verdict::Applied,
        },
    )
}

fn new_head<T: StoreTxn>(txn: &T, draft: &Draft<'_>) -> Result<Option<Head>, T::Error> {
    let bundle = draft.bundle();
    if bundle.is_empty() {
        return Ok(None);
    }
    let mut held_kinds = Vec::with_capacity(bundle.held_kinds.len());
    for whole in &bundle.held_kinds {
        let kept = match &draft.came.head {
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
    Ok(Some(Head {
        version: draft.came.sent.version,
        digest: draft.came.digest,
        contexts: (bundle.contexts.len() + draft.kept.len()) as u64,
        held: held_names(draft),
        held_kinds,
    }))
}

/// The held names of the new head: those of the bundle, and of a held kind those that were held before.
fn held_names(draft: &Draft<'_>) -> Vec<HeldName> {
    let (bundle, before) = (draft.bundle(), draft.came.head.as_ref());
    let kept_version = |kind: &Kind, key: &Key| {
        let kept = &draft.kept;
        let at = kept.binary_search_by(|r| r.context.name().cmp(&(kind, key)));
        let version = || before.map(|h| h.version_of(kind.as_str(), key.as_str()));
        at.is_ok().then(|| version().unwrap_or_default())
    };
    let named = bundle.held.iter().map(|h| HeldName {
        kind: h.kind.clone(),
        key: h.key.clone(),
        why: h.why.clone(),
        kept: kept_version(&h.kind, &h.key),
    });
    // Of a held kind the names that were held stay so, under the reason of the kind.
    let silent = before.iter().flat_map(|h| &h.held);
    let silent = silent.filter(|h| !bundle.holds(&h.kind, &h.key));
    let still = silent.filter_map(|h| {
        let whole = bundle.held_kinds.iter().find(|k| k.kind == h.kind)?;
        Some(HeldName {
            kind: h.kind.clone(),
            key: h.key.clone(),
            why: whole.why.clone(),
            kept: kept_version(&h.kind, &h.key),
        })
    });
    let mut held: Vec<HeldName> = named.chain(still).collect();
    held.sort_unstable_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
    held
}
