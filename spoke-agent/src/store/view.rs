//! Where answers come from: the index in memory where there is one, the file where there is none yet or it is not
//! whole. Everything that one answer says comes from one state of the store.

use super::fresh::Fresh;
use super::index::{Index, Lookup};
use super::redb::StoreError;
use super::redb::db::Db;
use super::redb::reader::Snapshot;
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use contexts::version::Version;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The store, for whoever answers. Cheap to clone.
#[derive(Clone)]
pub struct Views {
    db: Arc<Db>,
    index: Arc<ArcSwapOption<Index>>,
    is_checked: Arc<AtomicBool>,
    reach: Arc<ArcSwap<Reach>>,
}

/// How far a store is, as its writer published it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reach {
    /// The highest version of which nothing is under way to it.
    pub position: Version,
    /// The moment up to which every change is here.
    pub fresh: Option<Fresh>,
}

/// One state of the store.
pub enum View {
    /// All of it is in memory.
    Memory(Arc<Index>),
    /// Some of it is in memory: as much as the file has of the same commit.
    Part(Arc<Index>, Box<Snapshot>),
    /// In the file.
    File(Box<Snapshot>),
    /// In the file, which is not checked yet, so that nobody can say what is not there.
    Unchecked(Box<Snapshot>),
}

impl Views {
    /// Of this file, without anything in memory yet.
    pub fn new(db: Arc<Db>) -> Self {
        Self {
            db,
            index: Arc::default(),
            is_checked: Arc::default(),
            reach: Arc::default(),
        }
    }

    /// For the writer: how far the store is. What it speaks of was published before.
    pub fn set_reach(&self, reach: Reach) {
        self.reach.store(Arc::new(reach));
    }

    /// How far the store is. To be taken before what it is to speak of.
    pub fn reach(&self) -> Reach {
        **self.reach.load()
    }

    /// The file.
    pub fn db(&self) -> &Arc<Db> {
        &self.db
    }

    /// For the writer: what readers see in memory from now on.
    pub fn publish(&self, index: Option<Index>) {
        self.index.store(index.map(Arc::new));
    }

    /// For the writer: whether the rows of the file are checked. To take it back comes before the file is opened anew,
    /// and to say it after the check.
    pub fn set_checked(&self, is_checked: bool) {
        self.is_checked.store(is_checked, Ordering::SeqCst);
    }

    /// Whether the rows of the file are checked.
    pub fn is_checked(&self) -> bool {
        self.is_checked.load(Ordering::SeqCst)
    }

    /// What is in memory, without a count that readers on all processors would share.
    pub fn guard(&self) -> Guard<Option<Arc<Index>>> {
        self.index.load()
    }

    /// What is in memory.
    pub fn memory(&self) -> Option<Arc<Index>> {
        self.index.load_full()
    }

    /// The state as of now.
    ///
    /// # Errors
    /// If the file is needed and cannot be read.
    pub fn take(&self) -> Result<View, StoreError> {
        let index = self.memory();
        if let Some(index) = &index
            && index.is_whole()
        {
            return Ok(View::Memory(index.clone()));
        }
        let snapshot = Box::new(Snapshot::take(&self.db)?);
        if !self.is_checked() {
            return Ok(View::Unchecked(snapshot));
        }
        // A commit is in the file before it is in memory. Where all came to be in memory meanwhile, what the next look finds
        // there must not be older than what this one found in the file.
        let index = match self.memory() {
            Some(now) if now.is_whole() => return Ok(View::Memory(now)),
            _ => index,
        };
        Ok(match index {
            Some(index) if index.commit() == snapshot.end()?.commit => View::Part(index, snapshot),
            _ => View::File(snapshot),
        })
    }

    /// What the store knows of one key as of now. Where all is in memory it counts no references, which the readers of other
    /// processors would wait for.
    ///
    /// # Errors
    /// If the file is needed and cannot be read.
    pub fn look_up(&self, kind: &str, key: &str) -> Result<Lookup, StoreError> {
        match self.guard().as_ref() {
            Some(index) if index.is_whole() => Ok(index.look_up(kind, key)),
            _ => self.take()?.look_up(kind, key),
        }
    }

    /// Whether [`Views::take`] reads the file.
    pub fn reads_file(&self) -> bool {
        !self
            .index
            .load()
            .as_ref()
            .is_some_and(|index| index.is_whole())
    }
}

impl View {
    /// What the store knows of a key. Text that is no kind or no key is looked up like any other: it is not there.
    ///
    /// # Errors
    /// If the file is needed and cannot be read.
    pub fn look_up(&self, kind: &str, key: &str) -> Result<Lookup, StoreError> {
        let index = match self {
            Self::File(snapshot) => return snapshot.look_up(kind, key),
            Self::Unchecked(snapshot) => {
                return Ok(match snapshot.look_up(kind, key)? {
                    Lookup::Absent => Lookup::NotReady,
                    found => found,
                });
            }
            Self::Memory(index) | Self::Part(index, _) => index,
        };
        match self {
            Self::Part(_, snapshot) if index.get(kind, key).is_none() => {
                snapshot.look_up(kind, key)
            }
            _ => Ok(index.look_up(kind, key)),
        }
    }
}
