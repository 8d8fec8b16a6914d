//! Pushes in the form in which the redo log keeps them, and what is done at an open with those that the store file has
//! not: they are applied again, in their order, by the same decisions.
//!
//! That must work on a full disk, so nothing of it is durable: until the writer settles it, the log has it.

use super::StoreError;
use super::audit;
use super::changes::{self, Touched};
use super::db::Db;
use super::meta::{self, Progress};
use super::redo::{Mark, Missing};
use super::rows;
use super::tables::Tables;
use super::txn::Txn;
use contexts::apply::apply;
use contexts::digest::DigestKey;
use contexts::push::Sent;
use contexts::version::Term;
use serde::{Deserialize, Serialize};

/// The layout of [`Record`]. One with another layout is of another release.
const LAYOUT: u8 = 2;

/// What one commit applied: the bundles of each push, and where the store was with them.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// The writer whose pushes they are.
    pub granted: Option<Term>,
    /// The bundles of each push.
    pub pushes: Vec<&'a [Sent]>,
    /// The facts that move with every commit.
    pub progress: &'a Progress,
}

#[derive(Deserialize)]
struct Read {
    granted: Option<Term>,
    pushes: Vec<Vec<Sent>>,
    progress: Progress,
}

/// Records that were read, each with the mark of a state that contains it.
type Records = Vec<(Mark, Read)>;

impl Record<'_> {
    /// As the log keeps it.
    ///
    /// # Errors
    /// Never for the types of this crate; postcard can refuse others.
    pub fn encode(&self) -> Result<Vec<u8>, StoreError> {
        rows::encode(&(LAYOUT, self))
    }
}

fn decode(bytes: &[u8]) -> Option<Read> {
    let (layout, record) = bytes.split_first()?;
    (*layout == LAYOUT).then(|| postcard::from_bytes(record).ok())?
}

/// Applies what the log has and the file has not. Readers must not see the file before this returns.
///
/// # Errors
/// If redb or the system fails, or a fact of the store cannot be read.
pub fn run(db: &Db) -> Result<(), StoreError> {
    let missing = db.logged_after(mark_of(db)?)?;
    if missing.is_of_another_log {
        tracing::warn!(
            file = %db.path().display(),
            "the redo log that belongs to the store is gone or another one is in its place; pushes that were acknowledged \
             shortly before the agent ended may be missing until the hub's next scan"
        );
    }
    if let Some((last, _)) = missing.records.last() {
        apply_all(db, &missing, *last)?;
    }
    db.resume_log(&missing);
    Ok(())
}

fn mark_of(db: &Db) -> Result<Option<Mark>, StoreError> {
    match meta::mark_of(&db.look()?) {
        Err(StoreError::Damaged { what }) => {
            tracing::warn!(
                file = %db.path().display(), error = what,
                "pushes of the redo log may be missing until the hub's next scan"
            );
            Ok(None)
        }
        mark => mark,
    }
}

/// Applies what can be applied of a log, without mending the rows that it meets. Returns how many commits are left.
///
/// # Errors
/// If redb fails, or a fact of the store cannot be read.
pub fn apply_unmended(db: &Db, missing: &Missing) -> Result<usize, StoreError> {
    let (key, records) = fitting(db, missing)?;
    let mut applied = 0;
    for record in &records {
        let Some(key) = &key else { break };
        match apply_at_once(db, key, std::slice::from_ref(record)) {
            Err(StoreError::Damaged { .. }) => break,
            other => other?,
        }
        applied += 1;
    }
    Ok(missing.records.len() - applied)
}

/// The records at the beginning that are of this state of the file, and the key to apply them with.
fn fitting(db: &Db, missing: &Missing) -> Result<(Option<DigestKey>, Records), StoreError> {
    let snapshot = db.look()?;
    let (key, granted) = (
        meta::digest_key_of(&snapshot)?,
        meta::granted_of(&snapshot)?,
    );
    // A record of another grant is not of this state, whatever its link says: every claim is durable before its pushes.
    let fitting = |bytes: &[u8]| decode(bytes).filter(|read| read.granted == granted);
    let marked = |(mark, bytes): &(Mark, Vec<u8>)| Some((*mark, fitting(bytes)?));
    Ok((key, missing.records.iter().map_while(marked).collect()))
}

fn apply_all(db: &Db, missing: &Missing, last: Mark) -> Result<(), StoreError> {
    let (key, records) = fitting(db, missing)?;
    let applied = match &key {
        Some(key) => apply_mended(db, key, &records)?,
        None => 0,
    };
    tracing::info!(file = %db.path().display(), applied, "pushes of the redo log were applied");
    match missing.records.len() - applied {
        0 => Ok(()),
        left => give_up(db, left, last),
    }
}

/// Applies records, if need be with the rows mended that they meet. Returns how many could be applied.
fn apply_mended(db: &Db, key: &DigestKey, records: &[(Mark, Read)]) -> Result<usize, StoreError> {
    match apply_at_once(db, key, records) {
        Ok(()) => return Ok(records.len()),
        Err(StoreError::Damaged { what }) => tracing::warn!(
            file = %db.path().display(), error = what,
            "the redo log meets damage in the store, which is mended first"
        ),
        Err(other) => return Err(other),
    }
    audit::run(db, key)?;
    for (applied, record) in records.iter().enumerate() {
        match apply_at_once(db, key, std::slice::from_ref(record)) {
            Err(StoreError::Damaged { .. }) => return Ok(applied),
            other => other?,
        }
    }
    Ok(records.len())
}

fn apply_at_once(db: &Db, key: &DigestKey, records: &[(Mark, Read)]) -> Result<(), StoreError> {
    let Some((last, _)) = records.last() else {
        return Ok(());
    };
    let write = db.write()?;
    let mut tables = Tables::open(&write)?;
    for (_, record) in records {
        let mut touched = Touched::default();
        for bundles in &record.pushes {
            apply(&mut Txn::new(&mut tables, key, &mut touched), key, bundles)?;
            touched.by(bundles);
        }
        changes::append(&mut tables, &touched)?;
        record.progress.save(&mut tables.meta)?;
    }
    drop(tables);
    write.commit_as_logged(*last)
}

/// Goes on without the last records. They may have brought keys, so the store no longer knows of any that it is absent.
fn give_up(db: &Db, left: usize, last: Mark) -> Result<(), StoreError> {
    tracing::warn!(
        file = %db.path().display(), left,
        "pushes of the redo log cannot be applied, and are missing until the hub's next scan"
    );
    let write = db.write()?;
    let mut tables = Tables::open(&write)?;
    tables.synced.retain(|_, ()| false)?;
    meta::set_lost(&mut tables.meta)?;
    changes::append_everything(&mut tables)?;
    drop(tables);
    write.commit_as_logged(last)
}
