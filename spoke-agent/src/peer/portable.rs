//! A store as one portable file: what `spoke-agent export` writes, and `spoke-agent import` makes a store of. For a region
//! that lost every agent while the hub is away, and for moving or seeding one.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | `MAGIC` |
//! | 4 | `FORMAT`, little-endian |
//! | many | parts as in a copy, each after its length (4 bytes): `Header`, the rows, how many parts came before |
//! | 32 | BLAKE3 of all before |
//!
//! It must never make a part of a file count: the digest is compared before the first row is taken, and the facts are
//! written last. An imported store says what a copy from a peer says, and no more. The file has the digest key, so only
//! its owner can read it.

mod reading;
mod writing;

pub use reading::{Target, import};
pub use writing::{export, export_running};

use super::{Facts, PeerError};
use crate::clock::{Clock, wall_micros};
use crate::store::redb::StoreError;
use crate::store::redb::open::OpenError;
use contexts::name::Region;
use contexts::push::Reading;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How such a file begins.
const MAGIC: &[u8; 16] = b"hubcast-export\n\0";
/// The format that this release writes.
const FORMAT: u32 = 1;
/// Bytes of the digest.
const DIGEST: usize = 32;

/// The first part.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    region: Region,
    /// When the age in the facts was true, by the clock of the boot and by the wall clock, in microseconds.
    taken: Reading,
    wall: i64,
    facts: Facts,
}

impl Header {
    fn new(region: Region, facts: Facts, taken: Reading) -> Self {
        Self {
            region,
            taken,
            wall: wall_micros(),
            facts,
        }
    }

    /// Seconds since the moment up to which every change is in the file. On another machine, or after a reboot, only the
    /// wall clock can say; one that is before the export says nothing, so the age is not known then.
    fn age(&self, clock: Clock) -> Option<f64> {
        let now = clock.reading();
        let since = match self.taken.boot == now.boot {
            true => i64::try_from(now.micros.saturating_sub(self.taken.micros)).ok()?,
            false => wall_micros().checked_sub(self.wall)?,
        };
        let age = self.facts.known.age?;
        (since >= 0).then(|| age + since as f64 / 1e6)
    }
}

/// What is in such a file.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The region that it was exported from.
    pub region: Region,
    /// Records.
    pub contexts: u64,
    /// Tenants.
    pub bundles: u64,
    /// Seconds since the moment up to which every change is in it.
    pub age: Option<f64>,
    /// Whether pushes of the last moments may be missing, since the redo log was not beside the store.
    pub is_log_missing: bool,
}

/// Why nothing was exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    /// There is a file already.
    #[error("out: {} exists already; name another file, or move this one away", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system does not take it.
    #[error("out: {} cannot be written: {why}", path.display())]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system does not give it.
    #[error("from: {} cannot be read: {why}", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is something else.
    #[error("from: {} is not an export of a spoke-agent; name the file that `spoke-agent export` wrote", path.display())]
    NotAnExport {
        /// The file.
        path: PathBuf,
    },
    /// A newer release wrote it.
    #[error("from: {} has format {format}, this release knows {FORMAT}; use the release that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// It is not what was written.
    #[error("from: {} is damaged or cut ({why}); nothing of it was taken: copy it again, or export again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No writer ever claimed the store.
    #[error("there is nothing to export: no hub has ever filled {what}")]
    Nothing {
        /// The file or the agent.
        what: String,
    },
    /// The store is damaged.
    #[error("data: {} is damaged ({count} findings, see `spoke-agent verify`); start its agent, which mends what it can, and export then", path.display())]
    Unsound {
        /// The file.
        path: PathBuf,
        /// How much is wrong.
        count: usize,
    },
    /// There is something in the store.
    #[error("data: {} is not empty; an import makes a new store: name another file, or move this one and its redo log away", path.display())]
    NotEmpty {
        /// The file.
        path: PathBuf,
    },
    /// Another region's.
    #[error("from: {} was exported from region {theirs:?}, this agent serves {mine:?}; correct `region`, or say --other-region if that is meant: contexts that only {theirs:?} may have are then here until the hub's next scan", path.display())]
    Region {
        /// The file.
        path: PathBuf,
        /// The file's region.
        theirs: Region,
        /// The configured region.
        mine: Region,
    },
    /// The running agent gives nothing.
    #[error("the running agent at {address} cannot be exported: {why}")]
    Agent {
        /// Its push listener.
        address: String,
        /// Why.
        why: PeerError,
    },
    /// The store file.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The store file, while rows are written or read.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

impl PortableError {
    /// Whether the command was called wrongly; else it failed.
    pub fn is_misuse(&self) -> bool {
        match self {
            Self::Open(error) => !matches!(error, OpenError::Damaged { .. }),
            Self::Exists { .. }
            | Self::NotAnExport { .. }
            | Self::Newer { .. }
            | Self::NotEmpty { .. }
            | Self::Region { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Known;
    use contexts::digest::DigestKey;
    use contexts::version::{Holder, Term, Version};

    fn header(boot: u128, wall: i64) -> Header {
        let known = Known {
            digest_key: DigestKey([1; 32]),
            granted: Term {
                epoch: 1,
                holder: Holder(1),
            },
            released: false,
            last_synced: None,
            synced_kinds: Vec::new(),
            position: Version::default(),
            age: Some(5.0),
            beat: 0,
        };
        let facts = Facts { known, lost: false };
        Header {
            region: Region::new("r").expect("a region"),
            taken: Reading { boot, micros: 0 },
            wall,
            facts,
        }
    }

    /// Would catch an age that begins anew with the import, and one that a wrong clock makes younger.
    #[test]
    fn the_age_counts_from_the_export_or_is_not_known() {
        let clock = Clock::new();
        let now = clock.reading();
        let same = header(now.boot, i64::MAX).age(clock).expect("known");
        assert!(same >= 5.0 + now.micros as f64 / 1e6, "{same}");
        let hour = 3_600_000_000;
        let other = header(now.boot ^ 1, wall_micros() - hour).age(clock);
        assert!(other.is_some_and(|age| age >= 3_605.0), "{other:?}");
        let future = header(now.boot ^ 1, wall_micros() + hour).age(clock);
        assert_eq!(future, None);
    }
}
