//! What the writer publishes after each commit: the part of a store's state that answers need and no record holds.
//!
//! A reader takes it *before* it opens its snapshot. What it says of the store is then true of the snapshot, which can
//! only be later.

use super::fresh::Fresh;
use contexts::digest::Digest;
use contexts::name::{Kind, Region};
use contexts::push::{Reading, StoreState};
use contexts::version::{Incarnation, StoreId, SyncId, Term, Version};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The release of this program.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The store as of its last commit (the position: as of the last heartbeat).
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// The store file.
    pub store: StoreId,
    /// This run of the process.
    pub incarnation: Incarnation,
    /// The region that it serves.
    pub region: Region,
    /// The writer that it granted last.
    pub granted: Option<Term>,
    /// Whether that writer released it.
    pub released: bool,
    /// The last *synced* that it accepted.
    pub last_synced: Option<SyncId>,
    /// The kinds for which it answers "no such key".
    pub synced_kinds: Arc<BTreeSet<Kind>>,
    /// The kinds of which an unknown key does not exist: those, where no tenant's part is missing.
    pub complete: Arc<Vec<Kind>>,
    /// Whether something may have been lost to damage since it was in step.
    pub lost: bool,
    /// The highest version of which nothing is under way to it.
    pub position: Version,
    /// Tenants in the store.
    pub bundles: u64,
    /// Contexts in the store.
    pub contexts: u64,
    /// The digest of all of it.
    pub root: Option<Digest>,
    /// The moment up to which every change is here.
    pub fresh: Option<Fresh>,
    /// The last beat of the hub of which everything before is here.
    pub beat: u64,
    /// The last commit that changed contexts.
    pub commit: u64,
    /// When the last push was committed in this run.
    pub last_push: Option<Reading>,
}

impl Live {
    /// Whether it can answer: it was in step once. A store that took back what it knew of a kind (see the audit) still
    /// has values to answer, which beats being down.
    pub fn is_ready(&self) -> bool {
        self.last_synced.is_some()
    }

    /// Seconds since the moment up to which every change is here.
    pub fn age(&self, now: Reading) -> Option<f64> {
        self.fresh.map(|fresh| fresh.age(now))
    }

    /// What the hub is told.
    pub fn to_state(&self, reading: Reading, file_bytes: u64) -> StoreState {
        StoreState {
            store: self.store,
            incarnation: self.incarnation,
            region: self.region.clone(),
            granted: self.granted,
            released: self.released,
            last_synced: self.last_synced,
            synced_kinds: (*self.synced_kinds).clone(),
            position: self.position,
            bundles: self.bundles,
            contexts: self.contexts,
            file_bytes,
            root: self.root,
            reading,
            age: self.age(reading),
            beat: self.beat,
            release: RELEASE.to_owned(),
        }
    }
}
