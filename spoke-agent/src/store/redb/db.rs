//! The open file. After a failed write redb answers nothing more, reads included, until the file is opened again;
//! [`Db::reopen`] does that in place, so that a disk that was full for a moment costs a moment.
//!
//! Readers see a file that was opened only once it has what the redo log has: see [`Db::publish`]. From then on they see
//! the last commit that is durable, which is not always the last one: see [`Unseen`]. Only the writer thread, or one that
//! it waits for, may call anything but [`Db::read`].

use super::StoreError;
use super::meta;
use super::redo::{Mark, Missing, Redo};
use crate::failpoint;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageError,
    WriteTransaction,
};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The file, and redb while it is open, with its redo log.
pub struct Db {
    path: PathBuf,
    /// Where the path led at the open: a link and its target have one log.
    file: PathBuf,
    cache_bytes: usize,
    open: RwLock<Open>,
    redo: Mutex<Redo>,
}

struct Open {
    database: Option<Database>,
    /// What readers see.
    seen: Option<Arc<ReadTransaction>>,
}

impl Open {
    fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        let database = self.database.as_ref().ok_or(StoreError::Closed)?;
        Ok(database.begin_read()?)
    }
}

/// A write transaction. Dropped, it leaves everything as it was.
pub struct Write<'db> {
    db: &'db Db,
    txn: WriteTransaction,
    redo: MutexGuard<'db, Redo>,
}

/// A commit that may not be on the disk yet: the writer thread goes on from it, and readers see none of it before
/// [`Unseen::show`]. If that fails or never comes, the file is to be opened again.
#[must_use = "readers do not see it yet"]
pub struct Unseen<'db> {
    db: &'db Db,
    redo: MutexGuard<'db, Redo>,
}

impl Unseen<'_> {
    /// Waits until the commit is durable. From then on readers see it.
    ///
    /// # Errors
    /// If the system or redb fails. The commit may have reached the disk all the same.
    pub fn show(mut self) -> Result<(), StoreError> {
        self.redo.flush().map_err(StorageError::Io)?;
        self.db.show()
    }
}

impl Deref for Write<'_> {
    type Target = WriteTransaction;

    fn deref(&self) -> &WriteTransaction {
        &self.txn
    }
}

impl<'db> Write<'db> {
    /// Commits; the file is durable when this returns, needs no repair after a crash, and readers see the commit.
    ///
    /// # Errors
    /// If redb or the system fails. The commit may have reached the file all the same.
    pub fn commit(self) -> Result<(), StoreError> {
        let db = self.db;
        drop(self.commit_durably()?);
        db.show()
    }

    fn commit_durably(mut self) -> Result<MutexGuard<'db, Redo>, StoreError> {
        let mark = self.redo.new_mark().map_err(StorageError::Io)?;
        if let Some(mark) = mark {
            meta::begin_log(&self.txn, mark)?;
        }
        self.txn.commit()?;
        if let Some(mark) = mark {
            self.redo.begin(mark);
        }
        Ok(self.redo)
    }

    /// Commits as [`Write::commit`] does; whatever the redo log has is none of this file's from then on.
    ///
    /// # Errors
    /// As [`Write::commit`].
    pub fn commit_anew(mut self) -> Result<(), StoreError> {
        self.redo.forget();
        self.commit()
    }

    /// Commits what a record for the redo log says. The log has it then, or the file if the log is full. With `settle` the
    /// file is to be made durable once there is time; without, there is nothing to lose.
    ///
    /// # Errors
    /// If redb or the system fails. The commit may have reached the disk all the same.
    pub fn commit_logged(
        mut self,
        payload: &[u8],
        settle: bool,
    ) -> Result<Unseen<'db>, StoreError> {
        let Some(record) = self.redo.next(payload) else {
            let (db, redo) = (self.db, self.commit_durably()?);
            return Ok(Unseen { db, redo });
        };
        self.redo
            .append(&record, settle)
            .map_err(StorageError::Io)?;
        if settle {
            failpoint::hit(failpoint::AFTER_LOG);
        }
        self.commit_marked(record.mark)
    }

    /// Commits what the redo log has already, up to this mark. It takes no room on the disk.
    ///
    /// # Errors
    /// If redb fails.
    pub fn commit_as_logged(self, mark: Mark) -> Result<(), StoreError> {
        self.commit_marked(mark)?.show()
    }

    fn commit_marked(mut self, mark: Mark) -> Result<Unseen<'db>, StoreError> {
        meta::set_mark(&self.txn, mark)?;
        self.txn.set_durability(Durability::None)?;
        self.txn.set_quick_repair(false);
        self.txn.commit()?;
        let Self { db, redo, .. } = self;
        Ok(Unseen { db, redo })
    }
}

fn open_file(path: &Path, cache_bytes: usize) -> Result<Database, DatabaseError> {
    let open = || Builder::new().set_cache_size(cache_bytes).create(path);
    unless_rotten(open).unwrap_or_else(|why| Err(StorageError::Corrupted(why).into()))
}

/// Does something with a file. redb gives up on some damage with a panic: then the file is bad, not the program, and what
/// it said is returned.
pub(super) fn unless_rotten<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        text.unwrap_or("redb gave up").to_owned()
    })
}

impl Db {
    /// Opens the file, or creates an empty one; not yet its log, and not yet for readers.
    ///
    /// # Errors
    /// As redb says: another process has it, or it is no redb file.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, DatabaseError> {
        let database = open_file(path, cache_bytes)?;
        let file = path.canonicalize().map_err(StorageError::Io)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            cache_bytes,
            open: RwLock::new(Open {
                database: Some(database),
                seen: None,
            }),
            redo: Mutex::new(Redo::closed()),
        })
    }

    /// A file that is looked at and not changed: what `database` writes must not reach it. It has no log.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn borrowed(path: &Path, database: Database, cache_bytes: usize) -> std::io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: path.canonicalize()?,
            cache_bytes,
            open: RwLock::new(Open {
                database: Some(database),
                seen: None,
            }),
            redo: Mutex::new(Redo::closed()),
        })
    }

    /// Opens the redo log. Who has the file has the log; so the file must be open, and known to be a store.
    ///
    /// # Errors
    /// If the system refuses, or it is another program's file.
    pub fn open_log(&self) -> Result<(), StoreError> {
        let opened = Redo::open(&self.file).map_err(StorageError::Io)?;
        *self.redo() = opened;
        Ok(())
    }

    fn redo(&self) -> MutexGuard<'_, Redo> {
        self.redo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the redo log has and a state of the file with this mark has not.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn logged_after(&self, mark: Option<Mark>) -> Result<Missing, StoreError> {
        Ok(self.redo().after(mark).map_err(StorageError::Io)?)
    }

    /// The file has what it was missing: the log goes on behind that.
    pub fn resume_log(&self, missing: &Missing) {
        self.redo().resume(missing);
    }

    /// Whether the file should be made durable once there is time.
    pub fn needs_settling(&self) -> bool {
        self.redo().needs_settling()
    }

    /// Readers see what is committed, and from now on each commit once it is durable.
    ///
    /// # Errors
    /// If redb fails or the file is closed after a failure.
    pub fn publish(&self) -> Result<(), StoreError> {
        let mut open = self.change();
        open.seen = Some(Arc::new(open.begin_read()?));
        Ok(())
    }

    /// Readers see what is committed, if they see anything.
    fn show(&self) -> Result<(), StoreError> {
        let is_published = self.opened().seen.is_some();
        match is_published {
            true => self.publish(),
            false => Ok(()),
        }
    }

    /// For readers: the last commit that is durable.
    ///
    /// # Errors
    /// If the file is closed after a failure or does not have again yet what readers saw of it before.
    pub fn read(&self) -> Result<Arc<ReadTransaction>, StoreError> {
        self.opened().seen.clone().ok_or(StoreError::Closed)
    }

    /// For the writer thread: a snapshot of what is committed, whether or not readers see it.
    ///
    /// # Errors
    /// If redb fails or the file is closed after a failure.
    pub fn look(&self) -> Result<ReadTransaction, StoreError> {
        self.opened().begin_read()
    }

    /// A write transaction.
    ///
    /// # Errors
    /// If redb fails or the file is closed after a failure.
    pub fn write(&self) -> Result<Write<'_>, StoreError> {
        let open = self.opened();
        let database = open.database.as_ref().ok_or(StoreError::Closed)?;
        let mut txn = database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(true);
        let redo = self.redo();
        Ok(Write {
            db: self,
            txn,
            redo,
        })
    }

    /// Closes the file, with its log, whoever reads it still: snapshots that are open fail from then on.
    ///
    /// # Errors
    /// If redb fails, as it does on a file that failed before. It is closed all the same.
    pub fn close(&self) -> Result<(), StoreError> {
        let database = {
            let mut open = self.change();
            open.seen = None;
            open.database.take()
        };
        *self.redo() = Redo::closed();
        // It may take long, and readers are refused meanwhile, not held up.
        database.map_or(Ok(()), |database| Ok(database.close()?))
    }

    /// Closes the file and opens it again, with its log. Snapshots that are still open fail from then on, and there are
    /// no new ones before [`Db::publish`].
    ///
    /// # Errors
    /// If it cannot be opened; it stays closed then, and the next call tries again.
    pub fn reopen(&self) -> Result<(), StoreError> {
        // What closing says of the failed file is what is known already.
        let _ = self.close();
        let database = open_file(&self.file, self.cache_bytes)?;
        self.open_log()?;
        self.change().database = Some(database);
        Ok(())
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.file).map_or(0, |file| file.len())
    }

    /// Where the path led at the open.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
