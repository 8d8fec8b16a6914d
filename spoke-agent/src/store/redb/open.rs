//! From a path to an open store, and from that to a checked one: create, open, or say in one line why not.
//!
//! A file of another program, of another region or of a newer release is refused and left as it is. A file whose facts
//! are damaged is wiped and filled again by the hub: what it holds cannot be trusted, and holding on to it would keep
//! the region down until a person comes.

use super::StoreError;
use super::audit::{self, Audited};
use super::changes;
use super::db::{Db, unless_rotten};
use super::meta::{self, FORMAT, Meta};
use super::replay;
use super::tables::{self, CHANGES, META, Tables};
use crate::clock::{self, Clock};
use crate::random;
use contexts::digest::Buckets;
use contexts::limits;
use contexts::name::Region;
use contexts::version::StoreId;
use redb::{
    DatabaseError, ReadTransaction, ReadableTableMetadata, StorageError, TableError, TableHandle,
};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a file is not opened. Every message names it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data: {} is in use by another process; each agent needs a file of its own", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error("data: {} is not the store of a spoke-agent ({why}); name another file, or move this one away", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        why: String,
    },
    /// It serves another region.
    #[error("data: {} is the store of region {theirs:?}, this agent serves {mine:?}; correct `region` or `data`", path.display())]
    Region {
        /// The file.
        path: PathBuf,
        /// The file's region.
        theirs: Region,
        /// The configured region.
        mine: Region,
    },
    /// A newer release wrote it.
    #[error("data: {} has format {format}, this release knows {FORMAT}; use the release that wrote it, or move the file away and let the hub fill a new one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// The operating system refuses.
    #[error("data: {} cannot be opened: {why}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// redb cannot read it.
    #[error("data: {} is damaged beyond mending ({why}); move it away and the hub fills a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb says.
        why: String,
    },
}

/// A store that is open.
pub struct Opened {
    /// Its facts.
    pub meta: Meta,
    /// Its records.
    pub contexts: u64,
    /// Its heads.
    pub bundles: u64,
}

/// What is known of a store once its rows are checked.
pub struct Checked {
    /// Its facts.
    pub meta: Meta,
    /// Its digests.
    pub buckets: Buckets,
    /// Its records.
    pub contexts: u64,
    /// Its heads.
    pub bundles: u64,
}

/// Opens or creates the file at `path` for `region`. Its rows are not checked yet, see [`check`].
///
/// # Errors
/// [`OpenError`] says in one line why not.
pub fn open(
    path: &Path,
    region: &Region,
    cache_bytes: usize,
    clock: &Clock,
) -> Result<(Db, Opened), OpenError> {
    create_if_missing(path).map_err(|error| OpenError::Refused {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    let opening = || {
        let db = Db::open(path, cache_bytes).map_err(|error| why_not(path, error))?;
        check_kind_of_file(&db, Some(region))?;
        let opened = db.open_log().and_then(|()| load(&db, region, clock));
        let opened = opened.map_err(|error| not_loaded(path, error))?;
        Ok((db, opened))
    };
    unless_rotten(opening).unwrap_or_else(|why| {
        let path = path.to_owned();
        Err(OpenError::Damaged { path, why })
    })
}

/// Damage is for a person to move away, with all that the file and its log hold. What the system does not do at the
/// moment must never look like it.
pub(super) fn not_loaded(path: &Path, error: StoreError) -> OpenError {
    let path = path.to_owned();
    match error {
        // A file that ends too early stays so.
        StoreError::Medium(redb::Error::Io(io)) if io.kind() != io::ErrorKind::UnexpectedEof => {
            let why = io.to_string();
            OpenError::Refused { path, why }
        }
        error @ (StoreError::Closed
        | StoreError::Medium(redb::Error::PreviousIo | redb::Error::DatabaseClosed)) => {
            let why = error.to_string();
            OpenError::Refused { path, why }
        }
        error => {
            let why = error.to_string();
            OpenError::Damaged { path, why }
        }
    }
}

/// Creates an empty file that only its owner can read (it will hold the digest key), and makes its name durable.
fn create_if_missing(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        let why = format!("the directory {} does not exist", parent.display());
        return Err(io::Error::other(why));
    }
    let mut new = OpenOptions::new();
    match new.write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => File::open(parent)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn why_not(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::Locked { path }
        }
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData => OpenError::NotAStore {
                path,
                why: "it is no redb file".into(),
            },
            _ => OpenError::Refused {
                path,
                why: error.to_string(),
            },
        },
        DatabaseError::UpgradeRequired(format) => OpenError::NotAStore {
            path,
            why: format!("redb file format {format}"),
        },
        other => OpenError::Damaged {
            path,
            why: other.to_string(),
        },
    }
}

/// Refuses what is no store, or not of this region. A file without any table is a new one.
pub(super) fn check_kind_of_file(db: &Db, region: Option<&Region>) -> Result<(), OpenError> {
    let path = db.path().to_owned();
    let damaged = |error: StoreError| not_loaded(db.path(), error);
    let txn = db.look().map_err(damaged)?;
    let Some(is_store) = has_tables(&txn).map_err(damaged)? else {
        return Ok(());
    };
    if !is_store {
        let why = "a redb file with other tables".into();
        return Err(OpenError::NotAStore { path, why });
    }
    // Facts that cannot be read are damage, which `load` deals with.
    match meta::format_of(&txn) {
        Ok(Some(format)) if format > FORMAT => return Err(OpenError::Newer { path, format }),
        _ => {}
    }
    match (meta::region_of(&txn), region) {
        (Ok(Some(theirs)), Some(mine)) if theirs != *mine => Err(OpenError::Region {
            path,
            theirs,
            mine: mine.clone(),
        }),
        _ => Ok(()),
    }
}

/// None if there are no tables; else whether the facts of a store are among them.
pub(super) fn has_tables(txn: &ReadTransaction) -> Result<Option<bool>, StoreError> {
    let names: Vec<String> = txn
        .list_tables()?
        .map(|table| table.name().to_owned())
        .collect();
    let facts = META.name();
    Ok((!names.is_empty()).then(|| names.iter().any(|name| name == facts)))
}

/// Applies what only the redo log has, shows the file to readers and reads the facts; a new file gets its first facts, a
/// damaged one new ones.
///
/// # Errors
/// If redb fails.
pub fn load(db: &Db, region: &Region, clock: &Clock) -> Result<Opened, StoreError> {
    let meta = match has_tables(&db.look()?)? {
        None => begin(db, region, clock)?,
        Some(_) => or_begin(load_existing(db, clock), db, region, clock)?,
    };
    let (contexts, bundles) = Tables::counts_of(&db.look()?)?;
    Ok(Opened {
        meta,
        contexts,
        bundles,
    })
}

/// What there is of a store, or that of a new one if it is damaged.
fn or_begin(
    loaded: Result<Meta, StoreError>,
    db: &Db,
    region: &Region,
    clock: &Clock,
) -> Result<Meta, StoreError> {
    match loaded {
        Err(StoreError::Damaged { what }) => {
            metrics::counter!(crate::metrics::DAMAGE, "finding" => "store_emptied").increment(1);
            tracing::error!(
                file = %db.path().display(), error = what,
                "the store is damaged and is emptied; it is not ready until the hub has filled it"
            );
            begin(db, region, clock)
        }
        other => other,
    }
}

fn load_existing(db: &Db, clock: &Clock) -> Result<Meta, StoreError> {
    replay::run(db)?;
    begin_changes(db)?;
    db.publish()?;
    read_facts(db, clock)
}

/// Gives a file of an older release its log of changes.
fn begin_changes(db: &Db) -> Result<(), StoreError> {
    match db.look()?.open_table(CHANGES) {
        Ok(changes) if !changes.is_empty()? => return Ok(()),
        Ok(_) | Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let txn = db.write()?;
    let mut tables = Tables::open(&txn)?;
    changes::append_everything(&mut tables)?;
    drop(tables);
    txn.commit()
}

/// Audits the rows of an open store, mends what does not agree, and sums up. Until then it cannot say what it does not
/// have.
///
/// # Errors
/// If redb fails.
pub fn check(db: &Db, region: &Region, clock: &Clock) -> Result<Checked, StoreError> {
    let meta = or_begin(read_facts(db, clock), db, region, clock)?;
    let nothing = |meta| Checked {
        meta,
        buckets: Buckets::default(),
        contexts: 0,
        bundles: 0,
    };
    let Some(key) = &meta.digest_key else {
        return match Tables::counts_of(&db.look()?)? {
            (0, 0) => Ok(nothing(meta)),
            // A copy of another agent that did not come to its end.
            _ => begin(db, region, clock).map(nothing),
        };
    };
    let audited = match audit::run(db, key) {
        Ok(audited) => audited,
        Err(error @ StoreError::Damaged { .. }) => {
            return or_begin(Err(error), db, region, clock).map(nothing);
        }
        Err(other) => return Err(other),
    };
    report(db, &audited);
    Ok(Checked {
        // Mending may have taken back what the store knew.
        meta: read_facts(db, clock)?,
        buckets: audited.buckets,
        contexts: audited.contexts,
        bundles: audited.bundles,
    })
}

fn read_facts(db: &Db, clock: &Clock) -> Result<Meta, StoreError> {
    let meta = Meta::load(&db.look()?, clock.reading(), clock::wall_micros())?;
    match meta.granted {
        Some(granted) if granted.epoch > limits::EPOCH_MAX => Err(StoreError::Damaged {
            what: format!("the granted epoch ({})", granted.epoch),
        }),
        _ => Ok(meta),
    }
}

/// Says what an audit found, once per kind of finding.
pub fn report(db: &Db, audited: &Audited) {
    for (finding, count) in &audited.findings {
        metrics::counter!(crate::metrics::DAMAGE, "finding" => *finding).increment(*count);
        tracing::warn!(
            file = %db.path().display(), finding, count,
            "the audit of the store found damage; what differs from the hub is sent again by its next scan"
        );
    }
}

/// Empties the file and writes the facts of a new store.
fn begin(db: &Db, region: &Region, clock: &Clock) -> Result<Meta, StoreError> {
    let id = random::id()
        .map_err(|error| StoreError::Medium(StorageError::Io(io::Error::other(error)).into()))?;
    let meta = Meta::new(StoreId(id), region.clone());
    let txn = db.write()?;
    tables::wipe(&txn)?;
    let mut tables = Tables::open(&txn)?;
    meta.save_whole(&mut tables, clock.reading(), clock::wall_micros())?;
    changes::append_everything(&mut tables)?;
    drop(tables);
    txn.commit_anew()?;
    db.publish()?;
    Ok(meta)
}
