//! A bundle: all contexts of one tenant that belong in one region, built from one database snapshot. It is the unit
//! of replication and of atomicity, and always whole.

use crate::digest::{Digest, DigestKey};
use crate::name::{Key, Kind, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// One key-value pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its kind.
    pub kind: Kind,
    /// Its key within the kind.
    pub key: Key,
    /// The value: JSON text, exactly as Postgres wrote it.
    pub value: Arc<str>,
    /// The moment after which readers stop answering it, in microseconds since 1970 (UTC).
    pub expires: Option<i64>,
}

impl Context {
    /// The digest of this context under `key`; also the hash that its record carries on disk.
    pub fn digest(&self, key: &DigestKey) -> Digest {
        key.context(&self.kind, &self.key, self.expires, &self.value)
    }

    /// What identifies it within a store.
    pub fn name(&self) -> (&Kind, &Key) {
        (&self.kind, &self.key)
    }

    /// Bytes that it costs to send, roughly.
    pub fn weight(&self) -> usize {
        self.kind.as_str().len() + self.key.as_str().len() + self.value.len() + 16
    }
}

/// Why the hub does not publish a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldReason {
    /// The value has more bytes than its kind allows.
    TooLarge {
        /// Bytes of the value.
        bytes: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The query returned the key more than once.
    Duplicate,
    /// The key belongs to this other tenant.
    KeyTaken {
        /// The tenant that keeps the key.
        owner: TenantId,
    },
    /// The query fails, or returns something that cannot be named, for this tenant.
    CannotBuild {
        /// What Postgres or the check said.
        why: String,
    },
    /// Somebody pressed the stop button for its region or kind.
    Paused,
    /// The hub has it no longer, and too much was removed at once: a person is asked.
    Removed,
    /// The hub has it no longer or has another value, and a person decided that it stays as it was all the same.
    Dropped,
    /// The hub has it no longer or has another value; what did that is still being counted.
    Undecided,
    /// The value is not as the schema of its kind says.
    BreaksSchema {
        /// Where in the value, as a JSON Pointer.
        at: String,
        /// What is wrong there, without the value.
        why: String,
    },
    /// The hub has another value, and too much was changed at once: a person is asked.
    Changed,
    /// Its tenant has more contexts of the kind than its budget, and this one was not there before.
    OverBudget {
        /// The budget.
        max: u64,
    },
}

/// Whether a store keeps its last good value for a held name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldClass {
    /// The last good value stays.
    Keeps = 1,
    /// Another tenant owns the key: nothing of ours stays.
    Yields = 2,
}

impl HoldReason {
    /// Whether the last good value stays.
    pub fn class(&self) -> HoldClass {
        match self {
            Self::KeyTaken { .. } => HoldClass::Yields,
            _ => HoldClass::Keeps,
        }
    }

    /// A word for it, for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Duplicate => "duplicate",
            Self::KeyTaken { .. } => "key_taken",
            Self::CannotBuild { .. } => "cannot_build",
            Self::Paused => "paused",
            Self::Removed => "removed",
            Self::Dropped => "dropped",
            Self::Undecided => "undecided",
            Self::BreaksSchema { .. } => "schema",
            Self::Changed => "changed",
            Self::OverBudget { .. } => "budget",
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, max } => {
                write!(f, "the value has {bytes} bytes, max_value_bytes is {max}")
            }
            Self::BreaksSchema { at, why } => write!(f, "the value breaks the schema at {at}: {why}"),
            Self::Duplicate => f.write_str("the query returns this key more than once"),
            Self::KeyTaken { owner } => {
                write!(f, "tenant {owner:?} has the same key and had it first")
            }
            Self::CannotBuild { why } => f.write_str(why),
            Self::Removed => f.write_str(
                "one of too many removals at once: `publisher approve` or `publisher drop`",
            ),
            Self::Changed => f.write_str(
                "one of too many changes at once: `publisher approve` or `publisher drop`",
            ),
            Self::OverBudget { max } => write!(
                f,
                "its tenant has more of this kind than max_contexts, {max}: it is let in once there is room, or by `publisher approve`"
            ),
            Self::Dropped => {
                f.write_str("removed or changed at the hub, and kept as it was because a person said so")
            }
            Self::Undecided => f.write_str(
                "removed or changed at the hub with others that are still being counted: it goes or is held within moments",
            ),
            Self::Paused => {
                f.write_str("paused: it keeps its value; `publisher status` says by whom and why")
            }
        }
    }
}

/// A context that exists at the hub and is not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: Key,
    /// Why.
    pub why: HoldReason,
}

/// A whole kind of one tenant that could not be built: all of it keeps its last good state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKind {
    /// The kind.
    pub kind: Kind,
    /// Why.
    pub why: HoldReason,
}

/// All contexts of one tenant in one region. The fields are sorted and free of duplicates; [`Bundle::new`] sees to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The owner.
    pub tenant: TenantId,
    /// The good contexts, sorted by kind and key.
    pub contexts: Vec<Context>,
    /// The names that are held, sorted by kind and key.
    pub held: Vec<Held>,
    /// The kinds that are held as a whole, sorted.
    pub held_kinds: Vec<HeldKind>,
}

/// What is wrong with the parts of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBundle {
    /// A name stands twice, among the good contexts or the held ones.
    #[error("{kind} {key:?} stands twice in the bundle of tenant {tenant:?}")]
    Twice {
        /// Whose bundle.
        tenant: TenantId,
        /// The kind.
        kind: Kind,
        /// The key.
        key: Key,
    },
    /// A kind is held as a whole and has names all the same, other than such as it yields.
    #[error("kind {kind} is held in the bundle of tenant {tenant:?} and has names there")]
    HeldKindHasNames {
        /// Whose bundle.
        tenant: TenantId,
        /// The kind.
        kind: Kind,
    },
}

impl Bundle {
    /// Sorts the parts and checks that each name stands once.
    ///
    /// # Errors
    /// [`BadBundle`] names the first part that contradicts another.
    pub fn new(
        tenant: TenantId,
        mut contexts: Vec<Context>,
        mut held: Vec<Held>,
        mut held_kinds: Vec<HeldKind>,
    ) -> Result<Self, BadBundle> {
        contexts.sort_unstable_by(|a, b| a.name().cmp(&b.name()));
        held.sort_unstable_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
        held_kinds.sort_unstable_by(|a, b| a.kind.cmp(&b.kind));
        held_kinds.dedup_by(|a, b| a.kind == b.kind);
        let bundle = Self {
            tenant,
            contexts,
            held,
            held_kinds,
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// A bundle without anything: it removes the tenant.
    pub fn empty(tenant: TenantId) -> Self {
        Self {
            tenant,
            contexts: Vec::new(),
            held: Vec::new(),
            held_kinds: Vec::new(),
        }
    }

    /// Whether it removes the tenant.
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty() && self.is_plain()
    }

    /// Checks what [`Bundle::new`] promises, for a bundle that came over the network.
    ///
    /// # Errors
    /// [`BadBundle`] names the first part that is out of order or stands twice.
    pub fn check(&self) -> Result<(), BadBundle> {
        let twice = |kind: &Kind, key: &Key| BadBundle::Twice {
            tenant: self.tenant.clone(),
            kind: kind.clone(),
            key: key.clone(),
        };
        if let Some(pair) = self
            .contexts
            .windows(2)
            .find(|p| p[0].name() >= p[1].name())
        {
            return Err(twice(&pair[1].kind, &pair[1].key));
        }
        if let Some(pair) = self
            .held
            .windows(2)
            .find(|p| (&p[0].kind, &p[0].key) >= (&p[1].kind, &p[1].key))
        {
            return Err(twice(&pair[1].kind, &pair[1].key));
        }
        if let Some(held) = self.held.iter().find(|h| self.has(&h.kind, &h.key)) {
            return Err(twice(&held.kind, &held.key));
        }
        let kinds: BTreeSet<&Kind> = self.held_kinds.iter().map(|h| &h.kind).collect();
        let good = self.contexts.iter().map(|c| &c.kind);
        let held = self
            .held
            .iter()
            .filter(|h| h.why.class() == HoldClass::Keeps);
        let mut names = good.chain(held.map(|h| &h.kind));
        match names.find(|kind| kinds.contains(kind)) {
            None => Ok(()),
            Some(kind) => Err(BadBundle::HeldKindHasNames {
                tenant: self.tenant.clone(),
                kind: kind.clone(),
            }),
        }
    }

    /// Its good context of this name.
    pub fn context(&self, kind: &Kind, key: &Key) -> Option<&Context> {
        let place = self
            .contexts
            .binary_search_by(|c| c.name().cmp(&(kind, key)));
        place.ok().map(|at| &self.contexts[at])
    }

    /// Whether it has a good context of this name.
    pub fn has(&self, kind: &Kind, key: &Key) -> bool {
        self.context(kind, key).is_some()
    }

    /// Whether the tenant has this name at the hub, published or held (but for a name that it yields).
    pub fn mentions(&self, kind: &Kind, key: &Key) -> bool {
        match self.place_of_held(kind, key) {
            Ok(at) => self.held[at].why.class() == HoldClass::Keeps,
            Err(_) => self.has(kind, key) || self.keeps_kind(kind),
        }
    }

    /// Whether this name is held.
    pub fn holds(&self, kind: &Kind, key: &Key) -> bool {
        self.place_of_held(kind, key).is_ok()
    }

    fn place_of_held(&self, kind: &Kind, key: &Key) -> Result<usize, usize> {
        self.held
            .binary_search_by(|h| (&h.kind, &h.key).cmp(&(kind, key)))
    }

    /// Whether the whole kind is held.
    pub fn keeps_kind(&self, kind: &Kind) -> bool {
        self.held_kinds.iter().any(|h| h.kind == *kind)
    }

    /// The same bundle with a name that it has turned into a held one, whether it was good, held for another reason, or
    /// of a held kind.
    pub fn hold(mut self, kind: &Kind, key: &Key, why: HoldReason) -> Self {
        if !self.mentions(kind, key) {
            return self;
        }
        let good = self
            .contexts
            .binary_search_by(|c| c.name().cmp(&(kind, key)));
        if let Ok(at) = good {
            self.contexts.remove(at);
        }
        let held = Held {
            kind: kind.clone(),
            key: key.clone(),
            why,
        };
        match self.place_of_held(kind, key) {
            Ok(at) => self.held[at] = held,
            Err(at) => self.held.insert(at, held),
        }
        self
    }

    /// The digest of its content.
    pub fn digest(&self, key: &DigestKey) -> Digest {
        self.digest_over(key, &self.digests(key))
    }

    /// The digest of each of its contexts, in their order.
    pub fn digests(&self, key: &DigestKey) -> Vec<Digest> {
        self.contexts.iter().map(|c| c.digest(key)).collect()
    }

    /// The digest of its content, with those of its contexts at hand.
    pub fn digest_over(&self, key: &DigestKey, contexts: &[Digest]) -> Digest {
        key.bundle(
            contexts.iter(),
            self.held
                .iter()
                .map(|h| (&h.kind, &h.key, h.why.class() as u8)),
            self.held_kinds.iter().map(|h| &h.kind),
        )
    }

    /// Whether nothing of it is held.
    pub fn is_plain(&self) -> bool {
        self.held.is_empty() && self.held_kinds.is_empty()
    }

    /// Bytes that it costs to send, roughly.
    pub fn weight(&self) -> usize {
        64 + self.contexts.iter().map(Context::weight).sum::<usize>() + 128 * self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(kind: &str, key: &str) -> Context {
        Context {
            kind: Kind::new(kind).expect("kind"),
            key: Key::new(key).expect("key"),
            value: "{}".into(),
            expires: None,
        }
    }

    fn tenant() -> TenantId {
        TenantId::new("t").expect("tenant")
    }

    #[test]
    fn a_bundle_sorts_its_contexts_and_refuses_a_name_that_stands_twice() {
        let bundle = Bundle::new(
            tenant(),
            vec![context("k", "b"), context("k", "a")],
            vec![],
            vec![],
        )
        .expect("good");
        assert_eq!(bundle.contexts[0].key.as_str(), "a");
        let twice = Bundle::new(
            tenant(),
            vec![context("k", "a"), context("k", "a")],
            vec![],
            vec![],
        );
        assert!(matches!(twice, Err(BadBundle::Twice { .. })));
    }

    #[test]
    fn holding_a_context_changes_the_digest_and_keeps_the_order() {
        let key = DigestKey([1; 32]);
        let bundle = Bundle::new(
            tenant(),
            vec![context("k", "a"), context("k", "b")],
            vec![],
            vec![],
        )
        .expect("good");
        let before = bundle.digest(&key);
        let c = context("k", "a");
        let held = bundle.hold(&c.kind, &c.key, HoldReason::Duplicate);
        assert!(held.check().is_ok() && held.digest(&key) != before);
        assert!(!held.has(&c.kind, &c.key) && held.mentions(&c.kind, &c.key));
    }

    #[test]
    fn a_kind_cannot_be_held_and_have_names() {
        let held = vec![HeldKind {
            kind: Kind::new("k").expect("kind"),
            why: HoldReason::Duplicate,
        }];
        let wrong = Bundle::new(tenant(), vec![context("k", "a")], vec![], held);
        assert!(matches!(wrong, Err(BadBundle::HeldKindHasNames { .. })));
    }
}
