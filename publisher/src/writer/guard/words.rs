//! What the guard speaks of: limits, names and causes.

use crate::writer::Millis;
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
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            max_delete_share: 0.2,
            max_delete_count: 100,
        }
    }
}

impl GuardLimits {
    /// Nothing is held.
    pub const OFF: Self = Self {
        max_delete_share: 1.0,
        max_delete_count: 0,
    };

    /// Whether nothing is ever held.
    pub fn is_off(&self) -> bool {
        self.max_delete_share >= 1.0
    }

    /// How many removals of a kind of which a region has `total` may leave within the window.
    pub(super) fn most(&self, total: usize) -> usize {
        let share = (total as f64 * self.max_delete_share) as usize;
        share.max(usize::try_from(self.max_delete_count).unwrap_or(usize::MAX))
    }
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
}

/// So many contexts of a kind left a region at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removals {
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
