//! Epochs, writers and versions. Order between writers is the order of their epochs; order within one writer is the
//! order of its builds.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:08x})", stringify!($name), self.0 >> 96)
            }
        }
    };
}

random_id!(
    /// A publisher process in one term as writer: random, never used twice.
    Holder
);
random_id!(
    /// What a store's grant opens. Kept in memory only, so that a restart ends it.
    SessionId
);
random_id!(
    /// One *synced* message, recorded in the hub's database before it is sent.
    SyncId
);
random_id!(
    /// One store file, drawn when it is created.
    StoreId
);
random_id!(
    /// One run of a store's process.
    Incarnation
);

/// A writer's term: who may write, in the order of `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// Raised by one with every change of writer.
    pub epoch: u64,
    /// Who took it.
    pub holder: Holder,
}

/// `(epoch, n)`: the version of a bundle; n counts the writer's builds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Version {
    /// The writer's epoch.
    pub epoch: u64,
    /// The build within it.
    pub n: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

impl FromStr for Version {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a version; one looks like 3.128 (EPOCH.N)");
        let (epoch, n) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self {
            epoch: epoch.parse().map_err(|_| wrong())?,
            n: n.parse().map_err(|_| wrong())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_epoch_then_build() {
        let v = |s: &str| s.parse::<Version>().expect("a version");
        assert!(v("2.1") > v("1.900"));
        assert!(v("2.10") > v("2.9"));
        assert_eq!(v("2.10").to_string(), "2.10");
        assert!("2".parse::<Version>().is_err() && "2.x".parse::<Version>().is_err());
    }
}
