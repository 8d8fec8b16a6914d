//! The file of a redo log: whose it is, and that it has its full size on the disk.

use super::{CHECKSUM, checksum};
use crate::random;
use rustix::fs::{Advice, fadvise};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of the file. A record that finds no room makes for a durable commit of the store file instead.
pub(super) const SIZE: usize = 1 << 20;
/// Magic, era and checksum.
pub(super) const HEADER: usize = 16 + 16 + CHECKSUM;
const MAGIC: [u8; 16] = *b"hubcast redo 1\n\0";

const FOREIGN: &str =
    "this is not the redo log of a spoke-agent; move it away, or name another file as `data`";

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    /// The random number of this log.
    pub(super) era: u128,
    /// Bytes that are there to be written over.
    pub(super) size: usize,
}

/// What a file begins with.
enum Header {
    Ours(u128),
    /// Ours, and its era is lost.
    Damaged,
    Empty,
    Foreign,
}

impl Log {
    /// Opens or creates a log. What it has stays, however long it is. None if the disk has no room for a new one; the
    /// store works without.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let opened = Self::open_unnamed(path).map_err(named);
        match opened {
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "no room for the redo log; every push is committed to the store file instead");
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    fn open_unnamed(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // Only for its owner: it holds what the store holds.
        let file = options.mode(0o600).open(path)?;
        let era = match header_of(&file)? {
            Header::Ours(era) => era,
            Header::Empty => begin(&file)?,
            Header::Damaged => {
                tracing::warn!(file = %path.display(), "the redo log is damaged and begins anew");
                begin(&file)?
            }
            Header::Foreign => {
                return Err(io::Error::new(ErrorKind::InvalidInput, FOREIGN));
            }
        };
        match extend(&file) {
            Err(error) if is_full(&error) => {
                tracing::warn!(file = %path.display(), %error, "the redo log stays short");
            }
            extended => extended?,
        }
        // A log whose name is lost in a crash is lost; nobody knows whether it was new when this failed the last time.
        let parent = path.parent().filter(|p| *p != Path::new(""));
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let size = size.min(SIZE);
        Ok(Self { file, era, size })
    }

    /// An existing log that is not written to; none if there is none, or nothing of it can be read.
    pub(super) fn look(path: &Path) -> io::Result<Option<Self>> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(named)?,
        };
        match header_of(&file).map_err(named)? {
            Header::Ours(era) => Ok(Some(Self { file, era, size: 0 })),
            Header::Damaged | Header::Empty => Ok(None),
            Header::Foreign => Err(named(io::Error::new(ErrorKind::InvalidInput, FOREIGN))),
        }
    }

    /// All of it.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.file.metadata()?.len() as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Writes, and asks the system to bring it to the disk; it is durable when [`Log::flush`] returns.
    pub(super) fn write(&self, bytes: &[u8], at: usize) -> io::Result<()> {
        let at = at as u64;
        self.file.write_all_at(bytes, at)?;
        // Linux begins to write out what it is told that nobody will read. It is only a hint: what goes wrong with it, the
        // flush finds.
        let _ = fadvise(
            &self.file,
            at,
            NonZeroU64::new(bytes.len() as u64),
            Advice::DontNeed,
        );
        Ok(())
    }

    /// Waits until all that was written is on the disk.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A disk, a quota or a limit that lets nothing grow.
fn is_full(error: &io::Error) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn header_of(file: &File) -> io::Result<Header> {
    let length = file.metadata()?.len();
    let mut header = Vec::new();
    file.take(HEADER as u64).read_to_end(&mut header)?;
    if header.starts_with(&MAGIC) {
        return Ok(era_in(&header).map_or(Header::Damaged, Header::Ours));
    }
    // Zeros are what a crash leaves of a log that was being created.
    let mut rest = Vec::new();
    file.take(SIZE as u64).read_to_end(&mut rest)?;
    let is_zero = header.iter().chain(&rest).all(|byte| *byte == 0);
    Ok(match length <= SIZE as u64 && is_zero {
        true => Header::Empty,
        false => Header::Foreign,
    })
}

fn era_in(header: &[u8]) -> Option<u128> {
    let (named, sum) = header.split_first_chunk::<32>()?;
    let (_, era) = named.split_last_chunk()?;
    (checksum(named) == *sum).then_some(u128::from_le_bytes(*era))
}

/// Makes it a log with a new era.
fn begin(file: &File) -> io::Result<u128> {
    let era = random::id().map_err(io::Error::other)?;
    let mut header = Vec::from(MAGIC);
    header.extend(era.to_le_bytes());
    header.extend(checksum(&header));
    file.write_all_at(&header, 0)?;
    file.sync_all()?;
    Ok(era)
}

/// Gives it its full size on the disk: written, not only promised.
fn extend(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let Some(short) = (SIZE as u64).checked_sub(length).filter(|short| *short > 0) else {
        return Ok(());
    };
    file.write_all_at(&vec![0; short as usize], length)?;
    file.sync_all()
}
