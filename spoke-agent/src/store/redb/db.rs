//! The open file. After a failed write redb answers nothing more, reads included, until the file is opened again;
//! [`Db::reopen`] does that in place, so that a disk that was full for a moment costs a moment.
//!
//! Only the writer thread may call [`Db::write`] and [`Db::reopen`].

use super::StoreError;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase,
    WriteTransaction,
};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// The file, and redb while it is open.
pub struct Db {
    path: PathBuf,
    cache_bytes: usize,
    open: RwLock<Option<Database>>,
}

fn open_file(path: &Path, cache_bytes: usize) -> Result<Database, DatabaseError> {
    Builder::new().set_cache_size(cache_bytes).create(path)
}

impl Db {
    /// Opens the file, or creates an empty one.
    ///
    /// # Errors
    /// As redb says: another process has it, or it is no redb file.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, DatabaseError> {
        let database = open_file(path, cache_bytes)?;
        Ok(Self {
            path: path.to_owned(),
            cache_bytes,
            open: RwLock::new(Some(database)),
        })
    }

    /// A snapshot of what is committed.
    ///
    /// # Errors
    /// If redb fails or the file is closed after a failure.
    pub fn read(&self) -> Result<ReadTransaction, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or(StoreError::Closed)?;
        Ok(database.begin_read()?)
    }

    /// A write transaction whose commit is on disk when it returns, and whose file needs no repair after a crash.
    ///
    /// # Errors
    /// If redb fails or the file is closed after a failure.
    pub fn write(&self) -> Result<WriteTransaction, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or(StoreError::Closed)?;
        let mut txn = database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(true);
        Ok(txn)
    }

    /// Closes the file and opens it again. Snapshots that are still open fail from then on.
    ///
    /// # Errors
    /// If it cannot be opened; it stays closed then, and the next call tries again.
    pub fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // What closing says of the failed file is what is known already.
        drop(open.take().map(Database::close));
        *open = Some(open_file(&self.path, self.cache_bytes)?);
        Ok(())
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
