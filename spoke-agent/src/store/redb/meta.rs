//! What the store knows of itself: one row per fact, so that a later release can add facts without touching the rest.
//!
//! | name | value (postcard) |
//! | --- | --- |
//! | `format` | `u32`, [`FORMAT`] |
//! | `store` | `StoreId`, drawn when the file was created or wiped |
//! | `region` | `Region` |
//! | `digest_key` | `DigestKey`, from the first claim on |
//! | `granted` | `Term`, the last one granted |
//! | `released` | `bool`, whether its writer released the store |
//! | `last_synced` | `SyncId` |
//! | `position` | `Version` |
//! | `fresh` | [`StoredFresh`] |
//! | `lost` | `bool`, whether something may have been lost to damage since it was in step |
//! | `beat` | `u64`, the last beat of the hub |
//! | `redo` | [`Mark`], what this state contains of the redo log; from format 2 on |
//!
//! The digest key is a secret: it must not appear in logs.

use super::StoreError;
use super::redo::Mark;
use super::rows;
use super::tables::{Bytes, META, SYNCED, Tables};
use crate::store::fresh::{Fresh, StoredFresh};
use contexts::digest::DigestKey;
use contexts::name::{Kind, Region};
use contexts::push::Reading;
use contexts::version::{StoreId, SyncId, Term, Version};
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The format of the file that this release writes. It reads all before. Format 1 has no redo log, format 2 no log of
/// changes: a release that knows only those must refuse the file, since it would leave out what only the redo log has,
/// and leave its own changes out of the other.
pub const FORMAT: u32 = 3;

type MetaTable<'txn> = Table<'txn, &'static str, Bytes>;

/// The facts.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// The store file.
    pub store: StoreId,
    /// The region that it serves.
    pub region: Region,
    /// The deployment's digest key.
    pub digest_key: Option<DigestKey>,
    /// The writer that it granted last.
    pub granted: Option<Term>,
    /// Whether that writer released it.
    pub released: bool,
    /// The last *synced* that it accepted.
    pub last_synced: Option<SyncId>,
    /// The kinds for which it was in step.
    pub synced_kinds: Arc<BTreeSet<Kind>>,
    /// Whether something may have been lost to damage since it was in step: of no tenant it can say that it has all.
    pub lost: bool,
    /// The highest version of which nothing is under way to it.
    pub position: Version,
    /// The moment up to which every change is here.
    pub fresh: Option<Fresh>,
    /// The last beat of the hub of which everything before is here.
    pub beat: u64,
}

impl Meta {
    /// A store that nobody has written to.
    pub fn new(store: StoreId, region: Region) -> Self {
        Self {
            store,
            region,
            digest_key: None,
            granted: None,
            released: false,
            last_synced: None,
            synced_kinds: Arc::default(),
            lost: false,
            position: Version::default(),
            fresh: None,
            beat: 0,
        }
    }

    /// Reads all facts.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the first fact that cannot be read.
    pub fn load(txn: &ReadTransaction, now: Reading, wall: i64) -> Result<Self, StoreError> {
        let table = txn.open_table(META)?;
        let missing = |name: &str| StoreError::Damaged {
            what: format!("the fact {name:?} of the store"),
        };
        let mut kinds = BTreeSet::new();
        for row in txn.open_table(SYNCED)?.iter()? {
            kinds.insert(rows::kind(row?.0.value())?);
        }
        let stored: Option<StoredFresh> = get(&table, "fresh")?;
        Ok(Self {
            store: get(&table, "store")?.ok_or_else(|| missing("store"))?,
            region: get(&table, "region")?.ok_or_else(|| missing("region"))?,
            digest_key: get(&table, "digest_key")?,
            granted: get(&table, "granted")?,
            released: get(&table, "released")?.unwrap_or(false),
            last_synced: get(&table, "last_synced")?,
            synced_kinds: Arc::new(kinds),
            lost: get(&table, "lost")?.unwrap_or(false),
            position: get(&table, "position")?.unwrap_or_default(),
            fresh: stored.map(|fresh| fresh.on_this_boot(now, wall)),
            beat: get(&table, "beat")?.unwrap_or(0),
        })
    }

    /// What a new store of this identity takes over from another one: whom that obeyed and how far it was.
    pub fn taken_from(&self, theirs: Self) -> Self {
        Self {
            store: self.store,
            region: self.region.clone(),
            ..theirs
        }
    }

    /// Every change before this reading is here. One of another boot says nothing, and nothing makes the store older.
    pub fn freshen(&mut self, named: Option<Reading>, now: Reading) {
        let named = named.filter(|reading| reading.boot == now.boot);
        self.fresh = named
            .map(|reading| Fresh::named(reading.min(now)))
            .max(self.fresh);
    }

    /// Writes all facts but the synced kinds.
    ///
    /// # Errors
    /// If redb fails.
    pub fn save(
        &self,
        table: &mut MetaTable<'_>,
        now: Reading,
        wall: i64,
    ) -> Result<(), StoreError> {
        put(table, "format", &FORMAT)?;
        put(table, "store", &self.store)?;
        put(table, "region", &self.region)?;
        put_option(table, "digest_key", self.digest_key.as_ref())?;
        put_option(table, "granted", self.granted.as_ref())?;
        put(table, "released", &self.released)?;
        put(table, "lost", &self.lost)?;
        put_option(table, "last_synced", self.last_synced.as_ref())?;
        self.progress(now, wall).save(table)
    }

    /// The facts that move with every commit.
    pub fn progress(&self, now: Reading, wall: i64) -> Progress {
        Progress {
            position: self.position,
            beat: self.beat,
            fresh: self.fresh.map(|fresh| fresh.to_stored(now, wall)),
        }
    }

    /// Writes all facts, the synced kinds too.
    ///
    /// # Errors
    /// If redb fails.
    pub fn save_whole(
        &self,
        tables: &mut Tables<'_>,
        now: Reading,
        wall: i64,
    ) -> Result<(), StoreError> {
        tables.synced.retain(|kind, ()| {
            rows::kind(kind).is_ok_and(|kind| self.synced_kinds.contains(&kind))
        })?;
        for kind in self.synced_kinds.iter() {
            tables.synced.insert(kind.as_str().as_bytes(), ())?;
        }
        self.save(&mut tables.meta, now, wall)
    }
}

/// The facts that move with every commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    position: Version,
    beat: u64,
    fresh: Option<StoredFresh>,
}

impl Progress {
    /// Writes them.
    ///
    /// # Errors
    /// If redb fails.
    pub fn save(&self, table: &mut MetaTable<'_>) -> Result<(), StoreError> {
        put(table, "position", &self.position)?;
        put(table, "beat", &self.beat)?;
        put_option(table, "fresh", self.fresh.as_ref())
    }
}

/// Something may have been lost.
///
/// # Errors
/// If redb fails.
pub fn set_lost(table: &mut MetaTable<'_>) -> Result<(), StoreError> {
    put(table, "lost", &true)
}

/// Sets what a transaction contains of the redo log.
///
/// # Errors
/// If redb fails.
pub fn set_mark(txn: &WriteTransaction, mark: Mark) -> Result<(), StoreError> {
    put(&mut txn.open_table(META)?, "redo", &mark)
}

/// Sets the mark that the next records follow, and the format that has them.
///
/// # Errors
/// If redb fails.
pub fn begin_log(txn: &WriteTransaction, mark: Mark) -> Result<(), StoreError> {
    put(&mut txn.open_table(META)?, "format", &FORMAT)?;
    set_mark(txn, mark)
}

/// What a state of the file contains of the redo log; none if the file never had a log.
///
/// # Errors
/// If redb fails or the fact cannot be read.
pub fn mark_of(txn: &ReadTransaction) -> Result<Option<Mark>, StoreError> {
    get(&txn.open_table(META)?, "redo")
}

/// The format of a file; none if the fact is missing.
///
/// # Errors
/// If redb fails or the fact cannot be read.
pub fn format_of(txn: &ReadTransaction) -> Result<Option<u32>, StoreError> {
    get(&txn.open_table(META)?, "format")
}

/// The region of a file; none if the fact is missing.
///
/// # Errors
/// If redb fails or the fact cannot be read.
pub fn region_of(txn: &ReadTransaction) -> Result<Option<Region>, StoreError> {
    get(&txn.open_table(META)?, "region")
}

/// The digest key of a file; none before the first claim.
///
/// # Errors
/// If redb fails or the fact cannot be read.
pub fn digest_key_of(txn: &ReadTransaction) -> Result<Option<DigestKey>, StoreError> {
    get(&txn.open_table(META)?, "digest_key")
}

/// The writer that a state of the file granted last.
///
/// # Errors
/// If redb fails or the fact cannot be read.
pub fn granted_of(txn: &ReadTransaction) -> Result<Option<Term>, StoreError> {
    get(&txn.open_table(META)?, "granted")
}

fn get<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, Bytes>,
    name: &str,
) -> Result<Option<T>, StoreError> {
    match table.get(name)? {
        None => Ok(None),
        Some(bytes) => {
            rows::decode(bytes.value(), &format!("the fact {name:?} of the store")).map(Some)
        }
    }
}

fn put<T: Serialize>(table: &mut MetaTable<'_>, name: &str, value: &T) -> Result<(), StoreError> {
    table.insert(name, rows::encode(value)?.as_slice())?;
    Ok(())
}

fn put_option<T: Serialize>(
    table: &mut MetaTable<'_>,
    name: &str,
    value: Option<&T>,
) -> Result<(), StoreError> {
    match value {
        Some(value) => put(table, name, value),
        None => {
            table.remove(name)?;
            Ok(())
        }
    }
}
