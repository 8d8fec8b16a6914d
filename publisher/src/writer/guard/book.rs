//! The book: what is published, as hashes of names, eight bytes each. It is filled by scans; of a tenant that it does not
//! know a store is asked. It never says what a value is, and nothing is decided by it alone.

use contexts::bundle::{Bundle, HoldClass};
use contexts::name::{Key, Kind, TenantId};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The hash of a name, below the number of its kind.
pub type Code = u64;
const KIND_BITS: u32 = 12;

/// The names of a tenant in a region, sorted.
pub type Names = Arc<[Code]>;

/// The number of the kind of a name.
pub fn kind_of(code: Code) -> u64 {
    code >> (64 - KIND_BITS)
}

/// The book.
#[derive(Debug)]
pub struct Book {
    kinds: Vec<Kind>,
    /// By region: what is published. `true`: for sure; else as a scan read it at the hub, which counts once the region
    /// was found in step.
    regions: Vec<HashMap<TenantId, (Names, bool)>>,
    in_step: Vec<bool>,
}

impl Book {
    /// An empty book of so many regions.
    pub fn new(regions: usize) -> Self {
        Self {
            kinds: Vec::new(),
            regions: vec![HashMap::new(); regions],
            in_step: vec![false; regions],
        }
    }

    /// Nothing is known.
    pub fn clear(&mut self) {
        self.regions.iter_mut().for_each(HashMap::clear);
        self.in_step.fill(false);
    }

    /// A scan read this at the hub.
    pub fn read(&mut self, tenant: &TenantId, region: usize, bundle: &Bundle) {
        let known = self.regions[region]
            .get(tenant)
            .is_some_and(|(_, sure)| *sure);
        if !known {
            let names = self.codes(bundle, None);
            self.regions[region].insert(tenant.clone(), (names, false));
        }
    }

    /// A store of the region was found to hold what the hub has.
    pub fn in_step(&mut self, region: usize) {
        self.in_step[region] = true;
    }

    /// What is published of a tenant, if that is known.
    pub fn published(&self, region: usize, tenant: &TenantId) -> Option<Names> {
        match self.regions[region].get(tenant) {
            Some((names, sure)) if *sure || self.in_step[region] => Some(names.clone()),
            Some(_) => None,
            None => self.in_step[region].then(Names::default),
        }
    }

    /// This is published of a tenant, for sure.
    pub fn put(&mut self, region: usize, tenant: &TenantId, names: Names) {
        self.regions[region].insert(tenant.clone(), (names, true));
    }

    /// A store told what it has of a tenant.
    pub fn told(&mut self, region: usize, tenant: &TenantId, names: &[(Kind, Key)]) {
        let told = names.iter().map(|(kind, key)| (kind, key));
        let mut codes: Vec<Code> = told.map(|(kind, key)| self.code(kind, key)).collect();
        codes.extend(self.published(region, tenant).iter().flat_map(|n| n.iter()));
        codes.sort_unstable();
        codes.dedup();
        self.put(region, tenant, codes.into());
    }

    /// Takes names of a tenant out.
    pub fn strike(&mut self, region: usize, tenant: &TenantId, gone: &HashSet<Code>) {
        let there = self.regions[region].get_mut(tenant);
        if let Some((names, _)) = there.filter(|_| !gone.is_empty()) {
            let left = names.iter().filter(|c| !gone.contains(*c));
            *names = left.copied().collect();
        }
    }

    /// Contexts of a kind in a region, as far as they are known.
    pub fn total(&self, region: usize, kind: u64) -> usize {
        let (from, to) = (kind << (64 - KIND_BITS), (kind + 1) << (64 - KIND_BITS));
        let count = |names: &Names| {
            let below = names.partition_point(|code| *code < from);
            names.partition_point(|code| *code < to || to == 0) - below
        };
        let names = self.regions[region].values();
        names.map(|(names, _)| count(names)).sum()
    }

    /// The names of a bundle. Of a kind that cannot be built the names from before count: the stores keep them.
    pub fn codes(&mut self, bundle: &Bundle, before: Option<&[Code]>) -> Names {
        let held = bundle.held.iter();
        let held = held.filter(|h| h.why.class() == HoldClass::Keeps);
        let names = bundle.contexts.iter().map(|c| (&c.kind, &c.key));
        let mut codes: Vec<Code> = names
            .chain(held.map(|h| (&h.kind, &h.key)))
            .map(|(kind, key)| self.code(kind, key))
            .collect();
        for whole in &bundle.held_kinds {
            let kind = self.number(&whole.kind);
            let kept = before.into_iter().flatten();
            codes.extend(kept.filter(|code| kind_of(**code) == kind));
        }
        codes.sort_unstable();
        codes.dedup();
        codes.into()
    }

    /// The hash of a name, if its kind is known.
    pub fn code_of_known(&self, kind: &Kind, key: &Key) -> Option<Code> {
        let at = self.kinds.iter().position(|k| k == kind)?;
        Some(hash(at as u64 % (1 << KIND_BITS), kind, key))
    }

    /// A kind by its number.
    pub fn kind(&self, number: u64) -> &str {
        let kind = usize::try_from(number).ok().and_then(|n| self.kinds.get(n));
        kind.map_or("", |k| k.as_str())
    }

    /// The number of a kind.
    pub fn number(&mut self, kind: &Kind) -> u64 {
        let known = self.kinds.iter().position(|k| k == kind);
        let at = known.unwrap_or_else(|| {
            self.kinds.push(kind.clone());
            self.kinds.len() - 1
        });
        // Of more than 4,096 kinds some are counted together.
        at as u64 % (1 << KIND_BITS)
    }

    fn code(&mut self, kind: &Kind, key: &Key) -> Code {
        let number = self.number(kind);
        hash(number, kind, key)
    }
}

fn hash(number: u64, kind: &Kind, key: &Key) -> Code {
    let mut hasher = DefaultHasher::new();
    (kind.as_str(), key.as_str()).hash(&mut hasher);
    number << (64 - KIND_BITS) | hasher.finish() >> KIND_BITS
}
