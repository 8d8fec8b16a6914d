//! What is wrong with the file of a stopped agent, row by row. What the redo log has and the file has not is applied
//! first, as at an open.
//!
//! It must change nothing, and nothing of it may mend: the file is seen through an [`Overlay`], and what an open would
//! repair is reported. While it looks no agent can open the file, and it opens none that an agent has.

use super::audit::{self, Finding};
use super::db::Db;
use super::meta::{self, Meta};
use super::open::{self, OpenError};
use super::overlay::Overlay;
use super::redo::Redo;
use super::replay;
use super::tables::Tables;
use super::{StoreError, redo};
use crate::clock::{self, Clock};
use contexts::name::Region;
use redb::{Builder, Database, DatabaseError};
use std::io;
use std::path::Path;

/// What a file holds, and what is wrong with it.
#[derive(Debug)]
pub struct Verified {
    /// Records.
    pub contexts: u64,
    /// Heads, one per tenant.
    pub bundles: u64,
    /// Commits of which only the redo log knows.
    pub logged: usize,
    /// Whether the log that belongs to the file is not there.
    pub is_log_missing: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Looks at the file at `path`, which must be a store, and one of `region` if that is named.
///
/// # Errors
/// [`OpenError`] if there is nothing to look at.
pub fn verify(
    path: &Path,
    region: Option<&Region>,
    cache_bytes: usize,
) -> Result<Verified, OpenError> {
    look(path, region, cache_bytes).map(|(_, verified)| verified)
}

/// The same with the file as it was seen, what only the redo log has included. What is written to it is lost.
///
/// # Errors
/// As [`verify`].
pub fn look(
    path: &Path,
    region: Option<&Region>,
    cache_bytes: usize,
) -> Result<(Db, Verified), OpenError> {
    let (db, is_intact) = look_at(path, cache_bytes)?;
    open::check_kind_of_file(&db, region)?;
    let mut findings = Vec::new();
    if !is_intact {
        findings.push(Finding::of_file(
            "pages of the file disagree with their checksums",
        ));
    }
    let has_tables = db.look().and_then(|txn| open::has_tables(&txn));
    let has_tables = has_tables.map_err(|error| open::not_loaded(path, error))?;
    if has_tables.is_none() {
        let why = "nothing was ever stored in it".into();
        let path = path.to_owned();
        return Err(OpenError::NotAStore { path, why });
    }
    let verified = rows(&db, findings).map_err(|error| open::not_loaded(path, error))?;
    Ok((db, verified))
}

/// The file with redb over it, and whether its pages agree with their checksums.
fn look_at(path: &Path, cache_bytes: usize) -> Result<(Db, bool), OpenError> {
    let refused = |why: String| {
        let path = path.to_owned();
        OpenError::Refused { path, why }
    };
    match std::fs::metadata(path) {
        Ok(there) if there.is_dir() => return Err(refused("it is a directory".into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refused("there is no such file".into()));
        }
        Err(error) => return Err(refused(error.to_string())),
    }
    let why_not = |error: DatabaseError| open::why_not(path, error);
    let overlay = Overlay::open(path).map_err(why_not)?;
    let mut builder = Builder::new();
    let builder = builder.set_cache_size(cache_bytes);
    let mut database: Database = builder.create_with_backend(overlay).map_err(why_not)?;
    let is_intact = database.check_integrity().map_err(why_not)?;
    let db = Db::borrowed(path, database, cache_bytes).map_err(|e| refused(e.to_string()))?;
    Ok((db, is_intact))
}

fn rows(db: &Db, mut findings: Vec<Finding>) -> Result<Verified, StoreError> {
    let mut verified = Verified {
        contexts: 0,
        bundles: 0,
        logged: 0,
        is_log_missing: false,
        findings: Vec::new(),
    };
    replayed(db, &mut verified, &mut findings)?;
    let txn = db.look()?;
    if let Err(StoreError::Damaged { what }) =
        Meta::load(&txn, Clock::new().reading(), clock::wall_micros())
    {
        findings.push(Finding::of_file(format!("{what} cannot be read")));
    }
    (verified.contexts, verified.bundles) = Tables::counts_of(&txn)?;
    // Before the first claim there is no key, and nothing that it could have hashed.
    match meta::digest_key_of(&txn) {
        Ok(Some(key)) => findings.extend(audit::findings(&txn, &key)?),
        Ok(None) if verified.contexts > 0 => findings.push(Finding::of_file(
            "the digest key is missing, so that no record can be checked",
        )),
        // What cannot be read was reported with the facts.
        Ok(None) | Err(_) => {}
    }
    verified.findings = findings;
    Ok(verified)
}

/// Applies what only the log has, to what is in memory of the file.
fn replayed(
    db: &Db,
    verified: &mut Verified,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    let mark = match meta::mark_of(&db.look()?) {
        Ok(mark) => mark,
        // Reported with the facts.
        Err(StoreError::Damaged { .. }) => return Ok(()),
        Err(other) => return Err(other),
    };
    let log = Redo::look(&redo::path_of(db.file())).map_err(redb::StorageError::Io)?;
    let missing = log.not_in(mark).map_err(redb::StorageError::Io)?;
    verified.is_log_missing = missing.is_of_another_log;
    verified.logged = missing.records.len();
    let left = match replay::apply_unmended(db, &missing) {
        // Reported with the facts.
        Err(StoreError::Damaged { .. }) => return Ok(()),
        left => left?,
    };
    if left > 0 {
        findings.push(Finding::of_file(format!(
            "the last {left} commits of the redo log cannot be applied to it"
        )));
    }
    Ok(())
}
