//! A delta: a large bundle as what differs from the one that a store has. Of a tenant with very many contexts that is little,
//! and the bundle is much.
//!
//! A large bundle is thought of as *parts*: a context is in part `hash(kind, key) mod n`, where n is a power of two and a part
//! has a few contexts. The *sum* of a part is that of the digests of its contexts. The hub remembers the sums of what a store
//! confirmed last, compares them with those of what it has built, and sends the parts that differ, whole. The store puts them
//! into its own bundle and compares the digest of all of it with the one that was sent along.
//!
//! What must hold: a delta does in a store exactly what the push of the whole bundle would have done, or nothing. So whatever
//! the hub believes of the store, and whatever was done to the store meanwhile, costs at most another push. Nothing here may
//! rely on two sums being equal only if the parts are: the digest decides.

use crate::bundle::{Bundle, Context, Held, HeldKind};
use crate::digest::{Digest, DigestKey};
use crate::limits;
use crate::name::{Key, Kind, Region, TenantId};
use crate::push::{Push, Pushed, Reading, Sent};
use crate::version::{SessionId, Version};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// A bundle as what differs from the one that the store has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The tenant.
    pub tenant: TenantId,
    /// The version of the build.
    pub version: Version,
    /// The digest of the whole bundle that has to come of it.
    pub digest: Digest,
    /// How many parts both bundles are thought of.
    pub parts: u32,
    /// The parts that are replaced, sorted.
    pub replaced: Vec<u32>,
    /// All contexts of these parts, sorted by kind and key.
    pub contexts: Vec<Context>,
    /// The names that are held, of the whole bundle.
    pub held: Vec<Held>,
    /// The kinds that are held, of the whole bundle.
    pub held_kinds: Vec<HeldKind>,
}

/// A bundle on its way, in one of two forms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// All of it.
    Whole(Sent),
    /// What differs.
    Delta(Delta),
}

/// A push of which some bundles are deltas. All of it is applied, as [`crate::push::Push`] would be, or nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushDelta {
    /// The region that they were built for.
    pub region: Region,
    /// The session.
    pub session: SessionId,
    /// One more than that of the last push or *synced* of the session.
    pub number: u64,
    /// At most one per tenant.
    pub changes: Vec<Change>,
    /// As in a push.
    pub fresh: Option<Reading>,
    /// As in a push.
    pub beat: Option<u64>,
}

impl From<Push> for PushDelta {
    fn from(push: Push) -> Self {
        Self {
            region: push.region,
            session: push.session,
            number: push.number,
            changes: push.bundles.into_iter().map(Change::Whole).collect(),
            fresh: push.fresh,
            beat: push.beat,
        }
    }
}

/// The answer to [`PushDelta`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PushedDelta {
    /// As to a push of whole bundles.
    Pushed(Pushed),
    /// The store does not have what these tenants' deltas were made for. Nothing was applied.
    Differs {
        /// The tenants.
        tenants: Vec<TenantId>,
        /// The store's clock at the answer.
        reading: Reading,
    },
}

/// From which size on bundles are cut into parts, how large these are, and when what differs is sent instead of all.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Bytes of a bundle, roughly, from which it has parts.
    pub from_bytes: usize,
    /// Bytes of a part, roughly, at most; a single context may be larger.
    pub part_bytes: usize,
    /// How many times as large as a delta the bundle has to be.
    pub times: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            from_bytes: limits::DELTA_FROM_BYTES,
            part_bytes: limits::DELTA_PART_BYTES,
            times: 2,
        }
    }
}

/// The sums of the parts of a bundle; their number is a power of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(Box<[u64]>);

impl Sums {
    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        size_of_val::<[u64]>(&self.0)
    }

    /// The sums of half as many parts, a quarter, and so on: two parts become one.
    fn of_parts(&self, parts: usize) -> Cow<'_, [u64]> {
        if parts == self.0.len() {
            return Cow::Borrowed(&self.0);
        }
        let mut sums = vec![0_u64; parts];
        for (part, sum) in self.0.iter().enumerate() {
            let sum_of = &mut sums[part & (parts - 1)];
            *sum_of = sum_of.wrapping_add(*sum);
        }
        Cow::Owned(sums)
    }

    /// How many parts two bundles are compared by, and which of them differ.
    fn differing(&self, other: &Self) -> (usize, Vec<u32>) {
        let parts = self.0.len().min(other.0.len());
        let (ours, theirs) = (self.of_parts(parts), other.of_parts(parts));
        let both = ours.iter().zip(theirs.iter()).zip(0..);
        let differing = both.filter(|((a, b), _)| a != b).map(|(_, part)| part);
        (parts, differing.collect())
    }
}

/// A bundle's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The sums of them.
    pub sums: Arc<Sums>,
    /// Where each context is, in their order: in the part of this number modulo the number of parts.
    places: Vec<u32>,
    /// The digests of the contexts, in their order.
    digests: Vec<Digest>,
    /// What the bundle weighs: see [`Bundle::weight`]. To add it up takes longer than all else that a delta takes.
    weight: usize,
    /// See [`Cut::times`].
    times: usize,
}

impl Parts {
    /// The parts of a bundle with these digests of its contexts; none if it is too small for that.
    pub fn of(bundle: &Bundle, digests: Vec<Digest>, key: &DigestKey, cut: Cut) -> Option<Self> {
        let weight = bundle.weight();
        if weight < cut.from_bytes || bundle.contexts.is_empty() {
            return None;
        }
        let wanted = (weight / cut.part_bytes.max(1)).min(bundle.contexts.len());
        let parts = wanted.clamp(1, limits::DELTA_PARTS).next_power_of_two();
        let mut sums = vec![0_u64; parts];
        let mut places = Vec::with_capacity(bundle.contexts.len());
        for (context, digest) in bundle.contexts.iter().zip(&digests) {
            let place = key.place(&context.kind, &context.key);
            let sum = &mut sums[place as usize & (parts - 1)];
            *sum = sum.wrapping_add(short(digest));
            places.push(place);
        }
        Some(Self {
            sums: Arc::new(Sums(sums.into())),
            places,
            digests,
            weight,
            times: cut.times,
        })
    }

    /// Replaces the context of a name in a bundle and in its parts, or adds or removes it, without a look at the others.
    /// The digest of the bundle is [`Parts::digest`] after that.
    pub fn replace(
        &mut self,
        bundle: &mut Bundle,
        (kind, name): (&Kind, &Key),
        context: Option<Context>,
        key: &DigestKey,
    ) {
        let contexts = &mut bundle.contexts;
        let at = contexts.binary_search_by(|c| c.name().cmp(&(kind, name)));
        let digest = context.as_ref().map(|context| context.digest(key));
        let place = match at {
            Ok(at) => self.places[at],
            Err(_) => key.place(kind, name),
        };
        self.weight += context.as_ref().map_or(0, Context::weight);
        self.weight -= at.map_or(0, |at| contexts[at].weight());
        let sums = &mut Arc::make_mut(&mut self.sums).0;
        let sum = &mut sums[place as usize & (sums.len() - 1)];
        if let Ok(at) = at {
            *sum = sum.wrapping_sub(short(&self.digests[at]));
        }
        if let Some(digest) = &digest {
            *sum = sum.wrapping_add(short(digest));
        }
        match (at, context.zip(digest)) {
            (Ok(at), Some((context, digest))) => {
                (contexts[at], self.digests[at]) = (context, digest);
            }
            (Ok(at), None) => {
                contexts.remove(at);
                self.digests.remove(at);
                self.places.remove(at);
            }
            (Err(at), Some((context, digest))) => {
                contexts.insert(at, context);
                self.digests.insert(at, digest);
                self.places.insert(at, place);
            }
            (Err(_), None) => {}
        }
    }

    /// The weight of the bundle whose parts these are.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The digest of the bundle whose parts these are.
    pub fn digest(&self, bundle: &Bundle, key: &DigestKey) -> Digest {
        bundle.digest_over(key, &self.digests)
    }
}

/// What a context counts for in the sum of its part.
fn short(digest: &Digest) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.0[..8]);
    u64::from_le_bytes(bytes)
}

impl Delta {
    /// What differs between a bundle and one of which only the sums are known; none if that is not much less to send than
    /// the bundle.
    pub fn of(sent: &Sent, digest: Digest, parts: &Parts, known: &Sums) -> Option<Self> {
        let bundle = &*sent.bundle;
        let (count, replaced) = parts.sums.differing(known);
        let is_replaced = Replaced::of(count, &replaced);
        let placed = bundle.contexts.iter().zip(&parts.places);
        let contexts = placed.filter(|(_, place)| is_replaced.has(**place));
        let mut delta = Self {
            tenant: bundle.tenant.clone(),
            version: sent.version,
            digest,
            parts: count as u32,
            contexts: Vec::new(),
            held: Vec::new(),
            held_kinds: bundle.held_kinds.clone(),
            replaced,
        };
        let most = parts.weight.checked_div(parts.times);
        let most = most.unwrap_or(usize::MAX);
        let mut weight = delta.weight() + weight_of_held(&bundle.held);
        for (context, _) in contexts {
            weight += context.weight();
            if weight > most {
                break;
            }
            delta.contexts.push(context.clone());
        }
        (weight <= most).then(|| {
            delta.held = bundle.held.clone();
            delta
        })
    }

    /// Bytes that it costs to send, roughly.
    pub fn weight(&self) -> usize {
        let contexts: usize = self.contexts.iter().map(Context::weight).sum();
        128 + 4 * self.replaced.len() + contexts + weight_of_held(&self.held)
    }

    /// Which parts it replaces; none if it makes no sense.
    pub(crate) fn replaced(&self) -> Option<Replaced> {
        let parts = self.parts as usize;
        let is_sound = parts.is_power_of_two()
            && parts <= limits::DELTA_PARTS
            && self.replaced.iter().all(|part| (*part as usize) < parts);
        is_sound.then(|| Replaced::of(parts, &self.replaced))
    }
}

/// As [`Bundle::weight`] counts them.
fn weight_of_held(held: &[Held]) -> usize {
    128 * held.len()
}

/// Some of the parts of a bundle.
pub(crate) struct Replaced {
    parts: Vec<bool>,
}

impl Replaced {
    fn of(count: usize, replaced: &[u32]) -> Self {
        let mut parts = vec![false; count];
        replaced
            .iter()
            .for_each(|part| parts[*part as usize] = true);
        Self { parts }
    }

    /// Whether what has this place is in one of them.
    pub(crate) fn has(&self, place: u32) -> bool {
        self.parts[place as usize & (self.parts.len() - 1)]
    }
}

impl Change {
    /// Whose bundle it is.
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Whole(sent) => &sent.bundle.tenant,
            Self::Delta(delta) => &delta.tenant,
        }
    }

    /// The version of its build.
    pub fn version(&self) -> Version {
        match self {
            Self::Whole(sent) => sent.version,
            Self::Delta(delta) => delta.version,
        }
    }
}
