//! Pushes in the form in which the redo log keeps them, and what is done at an open with those that the store file has
//! not: they are applied again, in their order, by the same decisions.

use super::StoreError;
use super::db::Db;
use super::meta::{self, Progress};
use super::rows;
use super::tables::Tables;
use super::txn::Txn;
use contexts::apply::apply;
use contexts::push::Sent;
use serde::{Deserialize, Serialize};

/// The layout of [`Record`]. One with another layout is of another release.
const LAYOUT: u8 = 1;

/// What one commit applied: the bundles of each push, and where the store was with them.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// The bundles of each push.
    pub pushes: Vec<&'a [Sent]>,
    /// The facts that move with every commit.
    pub progress: &'a Progress,
}

#[derive(Deserialize)]
struct Read {
    pushes: Vec<Vec<Sent>>,
    progress: Progress,
}

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

/// Applies what the log has and the file has not, and begins a new era of the log.
///
/// # Errors
/// If redb or the system fails, or a row cannot be read.
pub fn run(db: &Db) -> Result<(), StoreError> {
    let snapshot = db.read()?;
    let (mark, key) = (meta::mark_of(&snapshot)?, meta::digest_key_of(&snapshot)?);
    drop(snapshot);
    let records = match mark {
        Some(mark) => db.logged_after(mark)?,
        None => Vec::new(),
    };
    let write = db.write()?;
    if let Some(key) = key.filter(|_| !records.is_empty()) {
        let mut tables = Tables::open(&write)?;
        let mut applied = 0;
        for record in records.iter().map_while(|bytes| decode(bytes)) {
            for bundles in &record.pushes {
                apply(&mut Txn::new(&mut tables, &key), &key, bundles)?;
            }
            record.progress.save(&mut tables.meta)?;
            applied += 1;
        }
        tracing::info!(file = %db.path().display(), applied, "pushes of the redo log were applied");
        if applied < records.len() {
            let left = records.len() - applied;
            tracing::warn!(
                file = %db.path().display(), left,
                "the redo log is of another release; what it had is sent again by the hub's next scan"
            );
        }
    }
    write.commit_in_new_era()
}
