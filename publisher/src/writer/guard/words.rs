//! What the guard speaks of: limits, names and causes.

use crate::writer::Millis;
use contexts::bundle::Context;
use contexts::name::{Key, Kind, Region, TenantId};
use serde::{Deserialize, Serialize};

/// The limits, as the database has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardLimits {
    /// Of a kind's contexts in a region.
    pub max_delete_share: f64,
    /// And more than this many.
    pub max_delete_count: u64,
    /// Changed values of a kind, as a share of its contexts in a region.
    pub max_change_share: f64,
    /// Whether a kind has a budget, so that what is published has to be known.
    #[serde(skip)]
    pub budgets: bool,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            max_delete_share: 0.2,
            max_delete_count: 100,
            max_change_share: 1.0,
            budgets: false,
        }
    }
}

impl GuardLimits {
    /// Nothing is held.
    pub const OFF: Self = Self {
        max_delete_share: 1.0,
        max_delete_count: 0,
        max_change_share: 1.0,
        budgets: false,
    };

    /// Whether nothing is ever held.
    pub fn is_off(&self) -> bool {
        !self.counts(Act::Removed) && !self.counts(Act::Changed) && !self.budgets
    }

    /// Whether there is a limit.
    pub fn counts(&self, act: Act) -> bool {
        match act {
            Act::Removed => self.max_delete_share < 1.0,
            Act::Changed => self.max_change_share < 1.0,
        }
    }

    /// How many contexts of a kind of which a region has `total` may be removed, or changed, within the window.
    pub(super) fn most(&self, act: Act, total: usize) -> usize {
        let part = |share: f64| (total as f64 * share) as usize;
        match act {
            _ if !self.counts(act) => usize::MAX,
            Act::Removed => {
                let count = usize::try_from(self.max_delete_count).unwrap_or(usize::MAX);
                part(self.max_delete_share).max(count)
            }
            Act::Changed => part(self.max_change_share),
        }
    }
}

/// What is counted within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Contexts that leave a region.
    Removed,
    /// Contexts that stay there and get another value.
    Changed,
}

impl Act {
    /// The word that the database has for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Removed => "removals",
            Self::Changed => "changes",
        })
    }
}

/// What of a context is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Withheld {
    /// That it is gone.
    Removal,
    /// This value, by [`value_of`]; [`ANY_VALUE`] for whatever the hub has.
    Change(u64),
    /// The context itself, which was never published: its tenant has more of the kind than its budget.
    Beyond,
}

/// A value that is not known, or whichever it is.
pub const ANY_VALUE: u64 = 0;

/// What tells two values of a context apart; never [`ANY_VALUE`].
pub fn value_of(context: &Context) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(context.value.as_bytes());
    hasher.update(&context.expires.unwrap_or(i64::MAX).to_le_bytes());
    let hash = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first) | 1
}

/// A tenant that has more contexts of a kind than its budget, in a region, beside those that are held for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// The region, by its place in the writer's order.
    pub region: usize,
    /// The kind.
    pub kind: Kind,
    /// The budget.
    pub max: u64,
    /// By how many it is too much.
    pub excess: usize,
    /// Those that were not let in by a person, in the order of their keys.
    pub keys: Vec<Key>,
}

/// What a store has of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The kind.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// The value, by [`value_of`].
    pub value: u64,
}

/// The query with which a region was found in step, of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The region.
    pub region: Region,
    /// The kind.
    pub kind: Kind,
    /// The query, by its hash; 0 if another one has been at work since.
    pub query: u64,
}

/// A context of a region, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldName {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: Key,
    /// The region.
    pub region: Region,
    /// What of it is held.
    pub what: Withheld,
}

/// So many contexts of a kind were removed from a region, or changed there, at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// What was done.
    pub act: Act,
    /// The region.
    pub region: Region,
    /// The kind.
    pub kind: Kind,
    /// How many.
    pub count: usize,
    /// How long ago.
    pub ago: Millis,
}

/// Why some tenants changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A transaction, by its number.
    Transaction(u64),
    /// A scan, by its number; everything that it finds.
    Scan(u64),
    /// Nobody said: somebody asked for this tenant, or it is tried again.
    Alone(TenantId),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transaction(xid) => write!(f, "transaction {xid}"),
            Self::Scan(_) => f.write_str("found by a scan"),
            Self::Alone(tenant) => write!(f, "a build of tenant {tenant}"),
        }
    }
}

/// The order of causes from small to large, which does not change while they are counted: a scan is the largest.
pub(super) fn rank(cause: &Cause, tenants: usize) -> (u8, usize, &Cause) {
    let sort = match cause {
        Cause::Alone(_) => 0,
        Cause::Transaction(_) => 1,
        Cause::Scan(_) => 2,
    };
    let tenants = match cause {
        Cause::Transaction(_) => tenants,
        Cause::Alone(_) | Cause::Scan(_) => 0,
    };
    (sort, tenants, cause)
}
