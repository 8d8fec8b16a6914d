//! The contexts of a store in memory, in front of the file: what gateways read.
//!
//! | module | is about |
//! | --- | --- |
//! | [`trie`] | a map that is cheap to copy |
//! | [`known`] | what is known of one key, packed |
//!
//! An [`Index`] is one state of the store, as of one commit. The writer fills it from the file, changes its own copy by
//! what each commit touched, and publishes that once the commit is done. Whoever reads keeps the state that he took.
//! It must never hold what the file does not: all of it is read from a snapshot of the file, also after a change.

pub mod known;
pub mod trie;

use contexts::apply::Head;
use contexts::name::{Kind, TenantId};
use contexts::version::Version;
use known::{Known, State};
use std::hash::RandomState;
use std::sync::Arc;
use trie::{Entry, Trie};

/// One state of the store in memory.
#[derive(Debug, Clone, Default)]
pub struct Index {
    contexts: Trie<Known>,
    tenants: Trie<Tenant>,
    /// Kinds of which an unknown key does not exist.
    complete: Arc<[Kind]>,
    commit: u64,
    position: Version,
    bytes: usize,
    is_whole: bool,
}

/// Contexts up to which a tenant's values carry their version themselves, which saves a look for each answer and costs
/// that all of them are packed anew with each version.
const SMALL: u64 = 16;

/// The version that each value of a tenant with this head carries itself; none if it is to be looked up by the tenant.
pub fn carried(head: &Head) -> Option<Version> {
    (head.contexts <= SMALL && !keeps(head)).then_some(head.version)
}

/// Whether some values are older than the bundle.
fn keeps(head: &Head) -> bool {
    head.held.iter().any(|held| held.kept.is_some())
        || head.held_kinds.iter().any(|kind| kind.kept.is_some())
}

/// What the index needs of a tenant's head where its values do not carry it: of nearly all of them the version and the
/// name, in one allocation.
#[derive(Debug, Clone)]
pub struct Tenant(TenantState);

#[derive(Debug, Clone)]
enum TenantState {
    /// Every value is of the bundle; its version, then the name.
    Plain(Arc<[u8]>),
    /// Some values are older than the bundle.
    Keeps(Arc<(Box<str>, Head)>),
}

impl Tenant {
    /// A tenant with this head.
    pub fn new(name: &TenantId, head: Head) -> Self {
        let name = name.as_str();
        Self(match keeps(&head) {
            true => TenantState::Keeps(Arc::new((name.into(), head))),
            false => {
                let version = known::version_bytes(head.version);
                TenantState::Plain([&version, name.as_bytes()].concat().into())
            }
        })
    }

    /// The versions of one of its values.
    fn versions(&self, known: &Known) -> Option<Versions> {
        let (value, bundle) = match &self.0 {
            TenantState::Plain(bytes) => {
                let version = known::version_from(bytes)?;
                (version, version)
            }
            TenantState::Keeps(keeps) => {
                let head = &keeps.1;
                (head.version_of(known.kind(), known.key()), head.version)
            }
        };
        Some(Versions { value, bundle })
    }

    /// Bytes of memory, roughly.
    pub fn weight(&self) -> usize {
        // The counts of the `Arc`, the allocator's own, and the entry's part of the map.
        let beside = 16 + 16 + 40;
        match &self.0 {
            TenantState::Plain(bytes) => bytes.len() + beside,
            TenantState::Keeps(keeps) => {
                let (name, head) = &**keeps;
                let names = head.held.len() + head.held_kinds.len();
                name.len() + 160 + 96 * names + beside
            }
        }
    }
}

impl Entry for Tenant {
    type Name<'a> = &'a [u8];

    fn name(&self) -> &[u8] {
        match &self.0 {
            TenantState::Plain(bytes) => &bytes[known::VERSION..],
            TenantState::Keeps(keeps) => keeps.0.as_bytes(),
        }
    }

    fn is(&self, name: &[u8]) -> bool {
        self.name() == name
    }
}

/// The versions of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    /// The version that the value came with.
    pub value: Version,
    /// The version of its tenant's bundle; higher if the value is one that was kept.
    pub bundle: Version,
}

impl Index {
    /// All of a store, or as much as was read of it before the bound on memory (`is_whole` is false then).
    pub fn of(contexts: Vec<Known>, tenants: Vec<Tenant>, is_whole: bool) -> Self {
        let mut bytes: usize = contexts.iter().map(Known::weight).sum();
        bytes += tenants.iter().map(Tenant::weight).sum::<usize>();
        Self {
            contexts: Trie::of(contexts, RandomState::new()),
            tenants: Trie::of(tenants, RandomState::new()),
            bytes,
            is_whole,
            ..Self::default()
        }
    }

    /// The state as of this commit, in which an unknown key of these kinds does not exist.
    pub fn as_of(&mut self, commit: u64, complete: &[Kind]) {
        self.commit = commit;
        if *self.complete != *complete {
            self.complete = complete.into();
        }
    }

    /// Of a mirror: the highest version of which nothing was under way to what it mirrors. The position of a store is told by
    /// its writer.
    pub fn reaches(&mut self, position: Version) {
        self.position = position;
    }

    /// What [`Index::reaches`] said last.
    pub fn position(&self) -> Version {
        self.position
    }

    /// What is known of a key, and what it means if nothing is. Of a part this is the answer only for what is in it.
    pub fn look_up(&self, kind: &str, key: &str) -> Lookup {
        let known = self.get(kind, key);
        let versions = known.and_then(|known| self.versions(known));
        Lookup::of(known, versions, || self.is_complete(kind))
    }

    /// What is known of a key.
    pub fn get(&self, kind: &str, key: &str) -> Option<&Known> {
        self.contexts.get((kind.as_bytes(), key.as_bytes()))
    }

    /// The versions of what is known of a key.
    pub fn versions(&self, known: &Known) -> Option<Versions> {
        if let Some(version) = known.version() {
            return Some(Versions {
                value: version,
                bundle: version,
            });
        }
        self.tenants.get(known.tenant_bytes())?.versions(known)
    }

    /// Whether the versions of a tenant's values are looked up by the tenant.
    pub fn has_tenant(&self, name: &TenantId) -> bool {
        self.tenants.get(name.as_str().as_bytes()).is_some()
    }

    /// The kinds of which an unknown key does not exist.
    pub fn complete(&self) -> &[Kind] {
        &self.complete
    }

    /// Whether an unknown key of this kind does not exist.
    pub fn is_complete(&self, kind: &str) -> bool {
        self.complete
            .iter()
            .any(|complete| complete.as_str() == kind)
    }

    /// Sets what is known of a key. What takes more than before, beyond `most` bytes of all, stays outside, and the index is
    /// no longer whole.
    pub fn put(&mut self, known: Known, most: usize) {
        let before = self.get(known.kind(), known.key());
        let freed = before.map_or(0, Known::weight);
        let is_more = known.weight() > freed;
        if is_more && self.bytes - freed + known.weight() > most {
            self.is_whole = false;
            self.remove(known.kind(), known.key());
            return;
        }
        self.bytes = self.bytes - freed + known.weight();
        self.contexts.insert(known);
    }

    /// Removes what is known of a key.
    pub fn remove(&mut self, kind: &str, key: &str) {
        let removed = self.contexts.remove((kind.as_bytes(), key.as_bytes()));
        self.bytes -= removed.as_ref().map_or(0, Known::weight);
    }

    /// Sets or removes a tenant: one whose values do not carry their version.
    pub fn set_tenant(&mut self, name: &TenantId, tenant: Option<Tenant>) {
        self.bytes += tenant.as_ref().map_or(0, Tenant::weight);
        let removed = match tenant {
            None => self.tenants.remove(name.as_str().as_bytes()),
            Some(tenant) => self.tenants.insert(tenant),
        };
        self.bytes -= removed.as_ref().map_or(0, Tenant::weight);
    }

    /// Calls `each` with all that is known, in no order that means anything.
    pub fn for_each<'a>(&'a self, each: impl FnMut(&'a Known)) {
        self.contexts.for_each(each);
    }

    /// The commit that it is the state of.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// Whether it has all of the store.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Names that it knows.
    pub fn len(&self) -> usize {
        self.contexts.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// Bytes of memory, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What is known of a key with what an answer needs beside.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// It has a value.
    Found(Known, Versions),
    /// The key exists at the hub, and no good value ever came.
    Held,
    /// It does not exist.
    Absent,
    /// The store cannot say.
    NotReady,
}

impl Lookup {
    /// From what is known, the versions of it, and whether an unknown key of its kind does not exist. A value without
    /// a head is damage.
    pub fn of(
        known: Option<&Known>,
        versions: Option<Versions>,
        is_complete: impl FnOnce() -> bool,
    ) -> Self {
        match (known, versions) {
            (None, _) if is_complete() => Self::Absent,
            (None, _) => Self::NotReady,
            (Some(known), versions) => match (known.state(), versions) {
                (State::Held, _) => Self::Held,
                (State::Value, Some(versions)) => Self::Found(known.clone(), versions),
                (State::Value, None) | (State::Damaged, _) => Self::NotReady,
            },
        }
    }
}
