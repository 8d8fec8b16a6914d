//! The book: what is published, as hashes of names, eight bytes each, and, where changes are counted, of values, as many
//! again. It is filled by scans; of a tenant that it does not know a store is asked. Nothing is decided by it alone.

use super::words::{ANY_VALUE, Act, HoldName, Told, Withheld, value_of};
use crate::writer::regional::Regional;
use crate::writer::{BuiltBundle, Replaced};
use contexts::bundle::{Bundle, HoldClass, HoldReason};
use contexts::digest::Digest;
use contexts::name::{Key, Kind, TenantId};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

/// The hash of a name, below the number of its kind. The last bit says what is done to it: 1 that its value changes. What
/// is published has 0 there.
pub type Code = u64;
const KIND_BITS: u32 = 12;
const CHANGE: Code = 1;

/// What is counted together: a kind, by its number, and what is done to its contexts.
pub type Sort = (u64, Act);

/// The number of the kind of a name.
pub fn kind_of(code: Code) -> u64 {
    code >> (64 - KIND_BITS)
}

/// What a code is counted as.
pub fn sort_of(code: Code) -> Sort {
    let act = match code & CHANGE {
        0 => Act::Removed,
        _ => Act::Changed,
    };
    (kind_of(code), act)
}

/// The code of a name, as that of its change.
pub fn change_of(code: Code) -> Code {
    code | CHANGE
}

/// A bundle as a build found it.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The content.
    pub bundle: &'a Bundle,
    /// Its digest, if it is so large that it may be made from another one, or another one from it.
    digest: Option<Digest>,
    from: Option<&'a Replaced>,
}

impl<'a> Found<'a> {
    /// That of a build.
    pub fn of(built: &'a BuiltBundle) -> Self {
        let is_plain = built.bundle.is_plain();
        Self {
            bundle: &built.bundle,
            digest: Some(built.digest).filter(|_| is_plain && built.parts.is_some()),
            from: built.from.as_deref(),
        }
    }

    /// A small one.
    #[cfg(test)]
    pub fn small(bundle: &'a Bundle) -> Self {
        Self {
            bundle,
            digest: None,
            from: None,
        }
    }
}

/// The names of a tenant in a region, sorted, and their values, or none where changes are not counted. Cheap to clone:
/// regions that have the same share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    listed: Arc<Listed>,
    /// The digest of the bundle that they are of, if it is a large one, and they are all of it.
    of: Option<Digest>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    codes: Box<[Code]>,
    values: Box<[u64]>,
}

impl Names {
    fn of(mut pairs: Vec<(Code, u64)>, with_values: bool) -> Self {
        // Of a name that stands twice the value that is known.
        pairs.sort_unstable_by_key(|(code, value)| (*code, *value == ANY_VALUE));
        pairs.dedup_by_key(|(code, _)| *code);
        Self::sorted(&pairs, with_values)
    }

    fn sorted(pairs: &[(Code, u64)], with_values: bool) -> Self {
        let values = pairs.iter().filter(|_| with_values).map(|(_, v)| *v);
        let listed = Listed {
            values: values.collect(),
            codes: pairs.iter().map(|(code, _)| *code).collect(),
        };
        Self {
            listed: Arc::new(listed),
            of: None,
        }
    }

    /// The names.
    pub fn codes(&self) -> &[Code] {
        &self.listed.codes
    }

    /// Whether a name is among them.
    pub fn has(&self, code: Code) -> bool {
        self.listed.codes.binary_search(&code).is_ok()
    }

    /// The value of a name, or [`ANY_VALUE`].
    pub fn value(&self, code: Code) -> u64 {
        let at = self.listed.codes.binary_search(&code).ok();
        let value = at.and_then(|at| self.listed.values.get(at));
        value.copied().unwrap_or(ANY_VALUE)
    }

    /// Whether both are one list, so that nothing differs.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listed, &other.listed)
    }

    /// All names, in their order, with their values.
    pub fn pairs(&self) -> impl Iterator<Item = (Code, u64)> {
        let values = self.listed.values.iter().copied();
        let values = values.chain(std::iter::repeat(ANY_VALUE));
        self.listed.codes.iter().copied().zip(values)
    }
}

/// What is known of a tenant in a region.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Page {
    names: Names,
    /// None: for sure. Else as a scan read it at the hub, which counts once the region was found in step so often.
    counts_at: Option<NonZeroU64>,
}

impl Page {
    /// Whether it counts, now that its region was found in step so often.
    fn is_published(&self, in_step: u64) -> bool {
        self.counts_at.is_none_or(|at| at.get() <= in_step)
    }
}

/// The book.
#[derive(Debug)]
pub struct Book {
    kinds: Vec<Kind>,
    /// What is known of each tenant in each region, if anything is.
    pages: HashMap<TenantId, Regional<Option<Page>>>,
    /// How often each region was found in step.
    in_step: Vec<u64>,
    /// Whether it has values.
    with_values: bool,
}

impl Book {
    /// An empty book of so many regions.
    pub fn new(regions: usize) -> Self {
        Self {
            kinds: Vec::new(),
            pages: HashMap::new(),
            in_step: vec![0; regions],
            with_values: false,
        }
    }

    /// Nothing is known. From now on with values, or without.
    pub fn clear(&mut self, with_values: bool) {
        self.pages.clear();
        self.in_step.fill(0);
        self.with_values = with_values;
    }

    /// A scan read these at the hub, by region. What is published already is not what the scan read.
    pub fn read<'a>(&mut self, tenant: &TenantId, bundles: impl Iterator<Item = &'a Bundle>) {
        let known = self.pages.get(tenant);
        let is_published = |(region, in_step): (usize, &u64)| {
            let page = known.and_then(|pages| pages.at(region).as_ref());
            page.is_some_and(|page| page.is_published(*in_step))
        };
        if self.in_step.iter().enumerate().all(is_published) {
            return;
        }
        let mut last: Option<(&Bundle, Names)> = None;
        let mut pages = self.of(tenant);
        for (region, bundle) in bundles.enumerate() {
            let in_step = self.in_step[region];
            if pages[region]
                .as_ref()
                .is_some_and(|page| page.is_published(in_step))
            {
                continue;
            }
            let names = match &last {
                Some((same, names)) if std::ptr::eq(*same, bundle) => names.clone(),
                _ => self.names(bundle, None),
            };
            last = Some((bundle, names.clone()));
            let counts_at = NonZeroU64::new(in_step + 1);
            pages[region] = Some(Page { names, counts_at });
        }
        self.pages.insert(tenant.clone(), Regional::of(pages));
    }

    /// What is known of a tenant, by region.
    fn of(&self, tenant: &TenantId) -> Vec<Option<Page>> {
        let regions = self.in_step.len();
        let known = self.pages.get(tenant);
        known.map_or_else(|| vec![None; regions], |pages| pages.each(regions))
    }

    fn set(&mut self, region: usize, tenant: &TenantId, page: Page) {
        let mut pages = self.of(tenant);
        pages[region] = Some(page);
        self.pages.insert(tenant.clone(), Regional::of(pages));
    }

    /// A store of the region was found to hold what the hub has.
    pub fn in_step(&mut self, region: usize) {
        self.in_step[region] += 1;
    }

    /// What is published of a tenant, if that is known.
    pub fn published(&self, region: usize, tenant: &TenantId) -> Option<Names> {
        let in_step = self.in_step[region];
        let page = self.pages.get(tenant).map(|pages| pages.at(region));
        match page.and_then(Option::as_ref) {
            Some(page) => page.is_published(in_step).then(|| page.names.clone()),
            None => (in_step > 0).then(Names::default),
        }
    }

    /// This is published of a tenant, for sure.
    pub fn put(&mut self, region: usize, tenant: &TenantId, names: Names) {
        let page = Page {
            names,
            counts_at: None,
        };
        self.set(region, tenant, page);
    }

    /// A store told what it has of a tenant. What is known already is known better.
    pub fn told(&mut self, region: usize, tenant: &TenantId, told: &[Told]) {
        let known = self.published(region, tenant).unwrap_or_default();
        let told = told.iter().map(|t| (self.code(&t.kind, &t.key), t.value));
        let told: Vec<_> = told.filter(|(code, _)| !known.has(*code)).collect();
        let all = known.pairs().chain(told).collect();
        self.put(region, tenant, Names::of(all, self.with_values));
    }

    /// Takes names of a tenant out, or, where their values change, forgets these.
    pub fn strike(&mut self, region: usize, tenant: &TenantId, gone: &HashSet<Code>) {
        let page = self
            .pages
            .get(tenant)
            .and_then(|pages| pages.at(region).clone());
        if let Some(mut page) = page.filter(|_| !gone.is_empty()) {
            let left = page.names.pairs().filter(|(code, _)| !gone.contains(code));
            let left = left.map(|(code, value)| match gone.contains(&change_of(code)) {
                true => (code, ANY_VALUE),
                false => (code, value),
            });
            page.names = Names::of(left.collect(), self.with_values);
            self.set(region, tenant, page);
        }
    }

    /// Contexts of a kind in a region, as far as they are known.
    pub fn total(&self, region: usize, kind: u64) -> usize {
        let (from, to) = (kind << (64 - KIND_BITS), (kind + 1) << (64 - KIND_BITS));
        let count = |names: &Names| {
            let codes = names.codes();
            let below = codes.partition_point(|code| *code < from);
            codes.partition_point(|code| *code < to || to == 0) - below
        };
        let pages = self
            .pages
            .values()
            .filter_map(|pages| pages.at(region).as_ref());
        pages.map(|page| count(&page.names)).sum()
    }

    /// The names of a bundle. What the stores keep has its value from before: held names, and all of a kind that cannot be
    /// built. What is beyond a budget is there only if it was before.
    pub fn names(&mut self, bundle: &Bundle, before: Option<&Names>) -> Names {
        let value = |code| before.map_or(ANY_VALUE, |names| names.value(code));
        let mut pairs = Vec::with_capacity(bundle.contexts.len());
        for context in &bundle.contexts {
            let hash = match self.with_values {
                true => value_of(context),
                false => ANY_VALUE,
            };
            pairs.push((self.code(&context.kind, &context.key), hash));
        }
        let held = bundle.held.iter();
        for held in held.filter(|h| h.why.class() == HoldClass::Keeps) {
            let code = self.code(&held.kind, &held.key);
            let is_beyond = matches!(held.why, HoldReason::OverBudget { .. });
            if !is_beyond || before.is_some_and(|names| names.has(code)) {
                pairs.push((code, value(code)));
            }
        }
        for whole in &bundle.held_kinds {
            let kind = self.number(&whole.kind);
            let kept = before.into_iter().flat_map(Names::pairs);
            pairs.extend(kept.filter(|(code, _)| kind_of(*code) == kind));
        }
        Names::of(pairs, self.with_values)
    }

    /// The names of a bundle that a build found. Of one that was made from that of which the names are known, nothing is looked
    /// at but what was replaced.
    pub fn names_of(&mut self, found: &Found<'_>, before: &Names) -> Names {
        let from = found.from.filter(|from| before.of == Some(from.before));
        let names = match (found.digest, from) {
            (Some(_), Some(from)) => self.replaced(found.bundle, from, before),
            _ => self.names(found.bundle, Some(before)),
        };
        Names {
            of: found.digest,
            ..names
        }
    }

    fn replaced(&mut self, bundle: &Bundle, from: &Replaced, before: &Names) -> Names {
        let mut pairs: Option<Vec<(Code, u64)>> = None;
        for (kind, key) in &from.names {
            let context = bundle.context(kind, key);
            let (code, was) = (self.code(kind, key), before.has(self.code(kind, key)));
            if was == context.is_some() && !self.with_values {
                continue;
            }
            let pairs = pairs.get_or_insert_with(|| before.pairs().collect());
            let at = pairs.binary_search_by_key(&code, |(code, _)| *code);
            match (at, context.map(value_of)) {
                (Ok(at), Some(value)) => pairs[at].1 = value,
                (Ok(at), None) => drop(pairs.remove(at)),
                (Err(at), Some(value)) => pairs.insert(at, (code, value)),
                (Err(_), None) => {}
            }
        }
        match pairs {
            Some(pairs) => Names::sorted(&pairs, self.with_values),
            None => before.clone(),
        }
    }

    /// The hash of a name, if its kind is known.
    pub fn code_of_known(&self, kind: &Kind, key: &Key) -> Option<Code> {
        let at = self.kinds.iter().position(|k| k == kind)?;
        Some(hash(at as u64 % (1 << KIND_BITS), kind, key))
    }

    /// What is counted of a name that is held, if its kind is known and anything is.
    pub fn code_of_hold(&self, name: &HoldName) -> Option<Code> {
        let code = self.code_of_known(&name.kind, &name.key)?;
        match name.what {
            Withheld::Removal => Some(code),
            Withheld::Change(_) => Some(change_of(code)),
            Withheld::Beyond => None,
        }
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
    (number << (64 - KIND_BITS) | hasher.finish() >> KIND_BITS) & !CHANGE
}
