//! The key of the cache, which is looked up by two borrowed texts: a hit allocates nothing.

use contexts::apply::Name;
use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// Kind and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named(pub(super) Name);

/// Two texts, wherever they are.
pub(super) trait Pair: Sync {
    /// The kind.
    fn kind(&self) -> &str;
    /// The key.
    fn key(&self) -> &str;
}

impl Pair for Named {
    fn kind(&self) -> &str {
        self.0.0.as_str()
    }

    fn key(&self) -> &str {
        self.0.1.as_str()
    }
}

impl Pair for (&str, &str) {
    fn kind(&self) -> &str {
        self.0
    }

    fn key(&self) -> &str {
        self.1
    }
}

impl<'a> Borrow<dyn Pair + 'a> for Named {
    fn borrow(&self) -> &(dyn Pair + 'a) {
        self
    }
}

impl Hash for dyn Pair + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind().hash(state);
        self.key().hash(state);
    }
}

impl PartialEq for dyn Pair + '_ {
    fn eq(&self, other: &Self) -> bool {
        (self.key(), self.kind()) == (other.key(), other.kind())
    }
}

impl Eq for dyn Pair + '_ {}

// A `Borrow` must hash like what it is borrowed from.
impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let pair: &dyn Pair = self;
        pair.hash(state);
    }
}
