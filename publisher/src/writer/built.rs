//! What a build is asked for and what it gives: bundles of tenants, each with what is computed from it once for every store.

use super::budgets::Usage;
use super::guard::{GuardLimits, HoldName, Over};
use super::scan::TenantRange;
use super::{BatchId, Snapshot};
use contexts::bundle::{Bundle, Context};
use contexts::delta::{Cut, Parts};
use contexts::digest::{Digest, DigestKey};
use contexts::name::{Key, Kind, Region, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A build to be done now, in one snapshot that begins after this request was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// To be named with the result.
    pub id: BatchId,
    /// What to build.
    pub what: What,
    /// Tenants of it that are to be read as a whole, whatever was found of them before.
    pub whole: BTreeSet<TenantId>,
}

impl BuildRequest {
    /// A build in which nobody is doubted.
    pub fn new(id: BatchId, what: What) -> Self {
        let whole = BTreeSet::new();
        Self { id, what, whole }
    }
}

/// What a build covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// No build: the bounds of the ranges of a scan.
    Bounds,
    /// No build: the number of the newest beat.
    Beat,
    /// Every tenant that has rows in a range.
    Range(TenantRange),
    /// These tenants, whether they have rows or not.
    Tenants(Vec<TenantId>),
}

/// A bundle with what is computed from it once and used for every store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltBundle {
    /// The content.
    pub bundle: Arc<Bundle>,
    /// Its digest.
    pub digest: Digest,
    /// Its parts, if it is large.
    pub parts: Option<Arc<Parts>>,
    /// Its size, roughly, in bytes.
    pub weight: usize,
    /// What was done to another one to make it, if it was made like that.
    pub from: Option<Arc<Replaced>>,
}

/// What makes one bundle of another.
#[derive(Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The digest of the other one.
    pub before: Digest,
    /// The names of which it has other contexts, or has none instead of one, or one instead of none.
    pub names: Vec<(Kind, Key)>,
}

impl BuiltBundle {
    /// Computes digest, parts and size.
    pub fn new(bundle: Bundle, key: &DigestKey) -> Self {
        Self::with_cut(bundle, key, Cut::default())
    }

    /// The same, with parts of another size.
    pub fn with_cut(bundle: Bundle, key: &DigestKey, cut: Cut) -> Self {
        let digests = bundle.digests(key);
        Self::of(bundle, digests, key, cut)
    }

    /// The same, with the digests of its contexts at hand.
    pub fn of(bundle: Bundle, digests: Vec<Digest>, key: &DigestKey, cut: Cut) -> Self {
        debug_assert_eq!(digests, bundle.digests(key));
        Self {
            digest: bundle.digest_over(key, &digests),
            parts: Parts::of(&bundle, digests, key, cut).map(Arc::new),
            weight: bundle.weight(),
            bundle: Arc::new(bundle),
            from: None,
        }
    }

    /// Replaces the contexts of some names, each by one or by none. A large bundle is not looked at beside them.
    pub fn replace<'a>(
        &mut self,
        contexts: impl Iterator<Item = ((&'a Kind, &'a Key), Option<Context>)>,
        key: &DigestKey,
    ) {
        let (before, mut names) = (self.digest, Vec::new());
        let contexts =
            contexts.inspect(|((kind, key), _)| names.push(((*kind).clone(), (*key).clone())));
        self.replace_all(contexts, key);
        self.from = Some(Arc::new(Replaced { before, names }));
    }

    fn replace_all<'a>(
        &mut self,
        contexts: impl Iterator<Item = ((&'a Kind, &'a Key), Option<Context>)>,
        key: &DigestKey,
    ) {
        let bundle = Arc::make_mut(&mut self.bundle);
        let Some(parts) = self.parts.as_mut().map(Arc::make_mut) else {
            let mut all: BTreeMap<_, _> = std::mem::take(&mut bundle.contexts)
                .into_iter()
                .map(|context| ((context.kind.clone(), context.key.clone()), context))
                .collect();
            for ((kind, name), context) in contexts {
                let name = (kind.clone(), name.clone());
                match context {
                    Some(context) => all.insert(name, context),
                    None => all.remove(&name),
                };
            }
            bundle.contexts = all.into_values().collect();
            *self = Self::new(
                std::mem::replace(bundle, Bundle::empty(bundle.tenant.clone())),
                key,
            );
            return;
        };
        for (name, context) in contexts {
            parts.replace(bundle, name, context, key);
        }
        self.weight = parts.weight();
        self.digest = parts.digest(bundle, key);
    }

    /// The digest, or none if the tenant is not in the region.
    pub fn presence(&self) -> Option<Digest> {
        (!self.bundle.is_empty()).then_some(self.digest)
    }
}

/// One tenant as a build found it: a bundle per region, in the order of [`super::Writer::regions`], empty where it is not.
#[derive(Debug, Clone)]
pub struct Built {
    /// The tenant.
    pub tenant: TenantId,
    /// Its bundles.
    pub bundles: Vec<Arc<BuiltBundle>>,
}

impl Built {
    /// The digest of each bundle; none where the tenant is not.
    pub fn presences(&self) -> Vec<Option<Digest>> {
        self.bundles.iter().map(|b| b.presence()).collect()
    }
}

/// The result of a build.
#[derive(Debug, Clone)]
pub struct BuiltBatch {
    /// For [`What::Bounds`]: the ranges.
    pub ranges: Vec<TenantRange>,
    /// For [`What::Beat`]: its number.
    pub beat: Option<u64>,
    /// For the others: the tenants.
    pub tenants: Vec<Built>,
    /// The snapshot that they were read in.
    pub seen: Option<Arc<Snapshot>>,
    /// Contexts that were read, each counted once however many regions it goes to.
    pub contexts: u64,
    /// The definitions in the snapshot, by fingerprint.
    pub definitions: u128,
    /// Their kinds.
    pub kinds: BTreeSet<Kind>,
    /// Regions that were given up: they get nothing.
    pub closed: BTreeSet<Region>,
    /// The limits of the guard in the snapshot.
    pub guards: GuardLimits,
    /// The query of each kind, by its hash.
    pub queries: Arc<BTreeMap<Kind, u64>>,
    /// What a person let through.
    pub excused: BTreeMap<TenantId, Vec<HoldName>>,
    /// Holds that are over.
    pub void: Vec<HoldName>,
    /// Tenants that are over a budget, and something of them is not held.
    pub over: BTreeMap<TenantId, Vec<Over>>,
    /// Tenants that are near a budget or over it.
    pub budgets: BTreeMap<TenantId, Vec<Usage>>,
    /// Kinds of which not even the tenants could be read: nobody may conclude that a key of theirs does not exist.
    pub unsure: BTreeSet<Kind>,
    /// What is wrong with the hub's data beside single tenants.
    pub problems: Vec<String>,
    /// What is odd there and stops nothing.
    pub warnings: Vec<String>,
}

impl Default for BuiltBatch {
    /// Nothing, of a hub without guards.
    fn default() -> Self {
        Self {
            ranges: Vec::new(),
            beat: None,
            tenants: Vec::new(),
            seen: None,
            contexts: 0,
            definitions: 0,
            kinds: BTreeSet::new(),
            closed: BTreeSet::new(),
            guards: GuardLimits::OFF,
            queries: Arc::default(),
            excused: BTreeMap::new(),
            void: Vec::new(),
            over: BTreeMap::new(),
            budgets: BTreeMap::new(),
            unsure: BTreeSet::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }
}
