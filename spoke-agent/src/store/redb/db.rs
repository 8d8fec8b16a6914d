//! The open file. After a failed write redb answers nothing more, reads included, until the file is opened again;
//! [`Db::reopen`] does that in place, so that a disk that was full for a moment costs a moment.
//!
//! Only the writer thread may call [`Db::write`] and [`Db::reopen`].

use super::StoreError;
use super::meta;
use super::redo::{Mark, Redo};
use crate::failpoint;
use crate::random;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageError,
    WriteTransaction,
};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

/// The file, and redb while it is open, with its redo log.
pub struct Db {
    path: PathBuf,
    cache_bytes: usize,
    open: RwLock<Option<Database>>,
    redo: Mutex<Redo>,
}

/// A write transaction. Dropped, it leaves everything as it was.
pub struct Write<'db> {
    txn: WriteTransaction,
    redo: MutexGuard<'db, Redo>,
}

impl Deref for Write<'_> {
    type Target = WriteTransaction;

    fn deref(&self) -> &WriteTransaction {
        &self.txn
    }
}

impl Write<'_> {
    /// Commits; the file is durable when this returns, and needs no repair after a crash.
    ///
    /// # Errors
    /// If redb fails. The commit may have reached the file all the same.
    pub fn commit(mut self) -> Result<(), StoreError> {
        self.txn.commit()?;
        self.redo.rewind();
        Ok(())
    }

    /// Commits what a record for the redo log says. It is durable when this returns, in the log or, if that has no room,
    /// in the file.
    ///
    /// # Errors
    /// If redb or the system fails. The commit may have reached the disk all the same.
    pub fn commit_logged(mut self, record: &[u8]) -> Result<(), StoreError> {
        let Some(mark) = self.redo.next(record) else {
            return self.commit();
        };
        meta::set_mark(&self.txn, mark)?;
        self.redo.append(record).map_err(StorageError::Io)?;
        failpoint::hit(failpoint::AFTER_LOG);
        self.txn.set_durability(Durability::None)?;
        self.txn.set_quick_repair(false);
        Ok(self.txn.commit()?)
    }

    /// Commits as [`Write::commit`] does; whatever the redo log holds is none of this file's from then on.
    ///
    /// # Errors
    /// As [`Write::commit`].
    pub fn commit_in_new_era(mut self) -> Result<(), StoreError> {
        let era = random::id().map_err(|e| StorageError::Io(io::Error::other(e)))?;
        let mark = Mark::of_era(era);
        meta::set_mark(&self.txn, mark)?;
        self.txn.commit()?;
        self.redo.begin(mark);
        Ok(())
    }
}

fn open_file(path: &Path, cache_bytes: usize) -> Result<Database, DatabaseError> {
    Builder::new().set_cache_size(cache_bytes).create(path)
}

impl Db {
    /// Opens the file, or creates an empty one.
    ///
    /// # Errors
    /// As redb says: another process has it, or it is no redb file; or if the redo log cannot be opened.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, DatabaseError> {
        // In this order: who has the file has the log.
        let database = open_file(path, cache_bytes)?;
        let redo = Redo::open(path).map_err(StorageError::Io)?;
        Ok(Self {
            path: path.to_owned(),
            cache_bytes,
            open: RwLock::new(Some(database)),
            redo: Mutex::new(redo),
        })
    }

    fn redo(&self) -> MutexGuard<'_, Redo> {
        self.redo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the redo log has and a state of the file with this mark has not.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn logged_after(&self, mark: Mark) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.redo().after(mark).map_err(StorageError::Io)?)
    }

    /// Whether the redo log holds what the file would lose in a crash.
    pub fn is_ahead(&self) -> bool {
        !self.redo().is_empty()
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

    /// A write transaction.
    ///
    /// # Errors
    /// If redb fails or the file is closed after a failure.
    pub fn write(&self) -> Result<Write<'_>, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or(StoreError::Closed)?;
        let mut txn = database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(true);
        let redo = self.redo();
        Ok(Write { txn, redo })
    }

    /// Closes the file and opens it again. Snapshots that are still open fail from then on.
    ///
    /// # Errors
    /// If it cannot be opened; it stays closed then, and the next call tries again.
    pub fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // What closing says of the failed file is what is known already.
        drop(open.take().map(Database::close));
        let database = open_file(&self.path, self.cache_bytes)?;
        *self.redo() = Redo::open(&self.path).map_err(StorageError::Io)?;
        *open = Some(database);
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
