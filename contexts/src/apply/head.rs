//! What a store remembers of a tenant beside its contexts: the version, the digest, and what is held.

use crate::bundle::{HoldClass, HoldReason};
use crate::digest::{Digest, DigestKey};
use crate::name::{Key, Kind};
use crate::version::Version;
use serde::{Deserialize, Serialize};

/// What a store knows of a tenant beside its contexts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the bundle.
    pub version: Version,
    /// The digest of the bundle.
    pub digest: Digest,
    /// Records in the store, kept ones included.
    pub contexts: u64,
    /// The names that are held, sorted by kind and key; of a held kind also those that were held when it was whole.
    pub held: Vec<HeldName>,
    /// The kinds that are held.
    pub held_kinds: Vec<HeldWhole>,
}

/// A held name as a store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldName {
    /// The kind.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// Why.
    pub why: HoldReason,
    /// The version that the kept value came with; none if there is no value.
    pub kept: Option<Version>,
}

/// A held kind as a store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldWhole {
    /// The kind.
    pub kind: Kind,
    /// Why.
    pub why: HoldReason,
    /// The version of the last bundle in which it was whole; none if the store never had it: then it is *blind* there
    /// and cannot say of any key of the kind that it does not exist.
    pub kept: Option<Version>,
}

impl Head {
    /// The version that a value came with: that of the bundle, unless the value is an older one that was kept.
    pub fn version_of(&self, kind: &str, key: &str) -> Version {
        let named = self.held.iter();
        let mut named = named.filter(|h| h.kind.as_str() == kind && h.key.as_str() == key);
        let whole = || {
            let mut whole = self.held_kinds.iter().filter(|h| h.kind.as_str() == kind);
            whole.find_map(|h| h.kept)
        };
        let name = named.find_map(|h| h.kept);
        name.or_else(whole).unwrap_or(self.version)
    }

    /// Whether a record of this name is a kept one, outside of the bundle's digest.
    pub fn keeps(&self, kind: &Kind, key: &Key) -> bool {
        let place = |h: &HeldName| (&h.kind, &h.key).cmp(&(kind, key));
        self.keeps_kind(kind) || self.held.binary_search_by(place).is_ok()
    }

    /// The digest that this head should have over the given records, as hashed from their bytes, sorted by name.
    pub fn digest_of<'a>(
        &self,
        key: &DigestKey,
        records: impl Iterator<Item = (&'a Kind, &'a Key, &'a Digest)>,
    ) -> Digest {
        key.bundle(
            records
                .filter(|(kind, key, _)| !self.keeps(kind, key))
                .map(|(_, _, digest)| digest),
            self.held
                .iter()
                .filter(|h| h.why.class() == HoldClass::Yields || !self.keeps_kind(&h.kind))
                .map(|h| (&h.kind, &h.key, h.why.class() as u8)),
            self.held_kinds.iter().map(|h| &h.kind),
        )
    }

    fn keeps_kind(&self, kind: &Kind) -> bool {
        self.held_kinds.iter().any(|h| h.kind == *kind)
    }

    /// The held names of which there is no value.
    pub fn valueless(&self) -> impl Iterator<Item = (Kind, Key)> {
        let names = self.held.iter().filter(|h| h.kept.is_none());
        names.map(|h| (h.kind.clone(), h.key.clone()))
    }
}
