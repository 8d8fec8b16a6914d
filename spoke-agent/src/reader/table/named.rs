//! The key of the cache, one text, which is looked up by two borrowed ones: a hit allocates nothing and follows one pointer.

use contexts::apply::Name;
use contexts::name::{Key, Kind};
use quick_cache::Equivalent;
use std::hash::{Hash, Hasher};

/// Kind and key, wherever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pair<'a> {
    /// The kind.
    pub(super) kind: &'a str,
    /// The key.
    pub(super) key: &'a str,
}

/// Kind and key, both of which can be stored.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// The kind, and behind it the key.
    both: Box<str>,
    /// Bytes of the kind.
    kind: usize,
}

impl Named {
    /// A name, if such a one can be stored.
    pub(super) fn new(kind: &str, key: &str) -> Option<Self> {
        (Kind::is_one(kind) && Key::is_one(key)).then(|| Self {
            both: [kind, key].concat().into(),
            kind: kind.len(),
        })
    }

    /// Both, borrowed.
    pub(super) fn pair(&self) -> Pair<'_> {
        let (kind, key) = self.both.split_at(self.kind);
        Pair { kind, key }
    }

    /// Bytes of both.
    pub(super) fn len(&self) -> usize {
        self.both.len()
    }

    /// The name under which it is stored.
    pub(super) fn name(&self) -> Option<Name> {
        let Pair { kind, key } = self.pair();
        Some((Kind::new(kind).ok()?, Key::new(key).ok()?))
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl Eq for Named {}

// Whoever looks it up by a pair must come to the same hash.
impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pair().hash(state);
    }
}

impl Equivalent<Named> for Pair<'_> {
    fn equivalent(&self, name: &Named) -> bool {
        *self == name.pair()
    }
}
