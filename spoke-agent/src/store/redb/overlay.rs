//! A store file that is looked at and never changed: what redb writes (a repair after a crash, the pushes of the redo
//! log, its own books) goes into memory and is gone with it.
//!
//! redb can also open a file for reading only. That refuses one whose agent was killed, which is the very one that
//! people want to look at, and gives no way to apply the redo log; a copy would need as much room on the disk again.
//!
//! It must never write to the file. It takes redb's own locks, but shared: an agent has the file or looks have it, and
//! looks do not disturb one another.

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend, StorageError};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are kept together.
const PAGE: u64 = 4096;

/// A file, and over it what was written since.
#[derive(Debug)]
pub struct Overlay {
    file: FileBackend,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    /// Bytes as redb sees them.
    len: u64,
    /// Bytes of the file that are seen still; a file that was cut shows zeros behind the cut.
    seen: u64,
    pages: HashMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Over an existing file, which is opened for reading only.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let file = File::open(path).map_err(StorageError::Io)?;
        let len = file.metadata().map_err(StorageError::Io)?.len();
        Ok(Self {
            file: FileBackend::new(file)?,
            over: Mutex::new(Over {
                len,
                seen: len,
                pages: HashMap::new(),
            }),
        })
    }

    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Over {
    /// A page as it is now.
    fn page(&self, file: &FileBackend, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = self.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize];
        let there = self.seen.saturating_sub(number * PAGE).min(PAGE) as usize;
        file.read(number * PAGE, &mut page[..there])?;
        Ok(page)
    }
}

/// Where a range of bytes touches pages: number, begin within the page, and length, in order.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + length as u64;
    std::iter::successors(Some(offset), |at| Some((at / PAGE + 1) * PAGE))
        .take_while(move |at| *at < end)
        .map(move |at| {
            let begin = (at % PAGE) as usize;
            (at / PAGE, begin, (PAGE - at % PAGE).min(end - at) as usize)
        })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        let end = offset + out.len() as u64;
        if end > over.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = over.seen.saturating_sub(offset).min(out.len() as u64) as usize;
        self.file.read(offset, &mut out[..there])?;
        out[there..].fill(0);
        let mut at = 0;
        for (number, begin, length) in pieces(offset, out.len()) {
            if let Some(page) = over.pages.get(&number) {
                out[at..at + length].copy_from_slice(&page[begin..begin + length]);
            }
            at += length;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over();
        if len < over.len {
            let number = len / PAGE;
            let mut last = over.page(&self.file, number)?;
            last[(len % PAGE) as usize..].fill(0);
            over.pages.retain(|page, _| *page < number);
            over.pages.insert(number, last);
            over.seen = over.seen.min(len);
        }
        over.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        let mut at = 0;
        for (number, begin, length) in pieces(offset, data.len()) {
            let mut page = over.page(&self.file, number)?;
            page[begin..begin + length].copy_from_slice(&data[at..at + length]);
            over.pages.insert(number, page);
            at += length;
        }
        over.len = over.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// Would catch a read that mixes up file and memory, and a write that reaches the file.
    #[test]
    fn it_reads_what_was_written_and_the_file_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let mut random = StdRng::seed_from_u64(1);
        let before: Vec<u8> = (0..20_000).map(|_| random.random()).collect();
        std::fs::write(&path, &before).expect("written");
        let overlay = Overlay::open(&path).expect("opens");
        let mut model = before.clone();
        for _ in 0..2_000 {
            let at = random.random_range(0..model.len());
            let length = random.random_range(0..=(model.len() - at).min(9_000));
            match random.random_range(0..8) {
                0 => {
                    let len = random.random_range(1..40_000);
                    model.resize(len, 0);
                    overlay.set_len(len as u64).expect("resized");
                }
                1..4 => {
                    let data: Vec<u8> = (0..length).map(|_| random.random()).collect();
                    model[at..at + length].copy_from_slice(&data);
                    overlay.write(at as u64, &data).expect("written");
                }
                _ => {
                    let mut out = vec![7; length];
                    overlay.read(at as u64, &mut out).expect("read");
                    assert_eq!(out, model[at..at + length]);
                }
            }
        }
        assert_eq!(std::fs::read(&path).expect("read"), before);
    }
}
