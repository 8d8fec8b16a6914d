//! Pushes in the form in which the redo log keeps them, and what is done at an open with those that the store file has
//! not: they are applied again, in their order, by the same decisions.
//!
//! That must work on a full disk, so nothing of it is durable: until the writer settles it, the log has it.

use super::StoreError;
use super::audit;
use super::changes::{self, Notes};
use super::db::Db;
use super::meta::{self, Progress};
use super::redo::{Mark, Missing};
use super::rows;
use super::tables::Tables;
use super::txn::Txn;
use contexts::apply::apply_changes;
use contexts::delta::Change;
use contexts::digest::DigestKey;
use contexts::push::Sent;
use contexts::version::Term;
use serde::Deserialize;

/// The layouts of [`Record`]: all bundles whole, and some of them deltas. One with another layout is of another release.
const WHOLE: u8 = 2;
const CHANGES: u8 = 3;

/// What one commit applied: the bundles of each push, and where the store was with them.
#[derive(Debug)]
pub struct Record<'a> {
    /// The writer whose pushes they are.
    pub granted: Option<Term>,
    /// The bundles of each push. None of them was refused for a delta that was made for something else.
    pub pushes: Vec<&'a [Change]>,
    /// The facts that move with every commit.
    pub progress: &'a Progress,
}

#[derive(Deserialize)]
struct Read<C> {
    granted: Option<Term>,
    pushes: Vec<Vec<C>>,
    progress: Progress,
}

/// Records that were read, each with the mark of a state that contains it.
type Records = Vec<(Mark, Read<Change>)>;

impl Record<'_> {
    /// As the log keeps it.
    ///
    /// # Errors
    /// Never for the types of this crate; postcard can refuse others.
    pub fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let Self {
            granted, progress, ..
        } = self;
        match self.whole() {
            Some(pushes) => rows::encode(&(WHOLE, granted, pushes, progress)),
            None => rows::encode(&(CHANGES, granted, &self.pushes, progress)),
        }
    }

    /// The bundles, if all of them are whole: then an agent that knows no deltas can read the record.
    fn whole(&self) -> Option<Vec<Vec<&Sent>>> {
        fn whole(change: &Change) -> Option<&Sent> {
            match change {
                Change::Whole(sent) => Some(sent),
                Change::Delta(_) => None,
            }
        }
        let pushes = self.pushes.iter();
        pushes
            .map(|changes| changes.iter().map(whole).collect())
            .collect()
    }
}

fn decode(bytes: &[u8]) -> Option<Read<Change>> {
    match bytes.split_first()? {
        (&CHANGES, record) => postcard::from_bytes(record).ok(),
        (&WHOLE, record) => {
            let Read::<Sent> {
                granted,
                pushes,
                progress,
            } = postcard::from_bytes(record).ok()?;
            let pushes = pushes.into_iter();
            let pushes = pushes.map(|push| push.into_iter().map(Change::Whole).collect());
            Some(Read {
                granted,
                pushes: pushes.collect(),
                progress,
            })
        }
        _ => None,
    }
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
fn apply_mended(
    db: &Db,
    key: &DigestKey,
    records: &[(Mark, Read<Change>)],
) -> Result<usize, StoreError> {
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

fn apply_at_once(
    db: &Db,
    key: &DigestKey,
    records: &[(Mark, Read<Change>)],
) -> Result<(), StoreError> {
    let Some((last, _)) = records.last() else {
        return Ok(());
    };
    let write = db.write()?;
    let mut tables = Tables::open(&write)?;
    for (_, record) in records {
        let mut notes = Notes::default();
        for push in &record.pushes {
            let mut txn = Txn::new(&mut tables, key, &mut notes);
            // It was applied to this very state, so what it does not fit to has been damaged since.
            let applied = apply_changes(&mut txn, key, push)?;
            let applied = applied.map_err(|tenants| StoreError::Damaged {
                what: format!("what the redo log has a delta for, of {tenants:?}"),
            })?;
            notes.push(push, &applied.verdicts);
        }
        changes::append(&mut tables, &notes.touched())?;
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
