//! The redo log, a file beside the store file: pushes that were applied since the store file was last made durable. To
//! append to it takes one write and one flush of the disk; a durable commit of the store file takes a dozen and two.
//!
//! Its size is fixed and it is written over and over from its beginning, so that a flush has no metadata to write.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16, 16, 16 | magic, era (a random number of this log), checksum of both |
//! | 16, 4, n, 16 | per record: the link that it follows, length, what it says, checksum of all that; the checksum is its link |
//!
//! What must hold:
//! * A record is durable before what it says is readable, and so before it is acknowledged. The disk is at work while the
//!   commit is made ([`Redo::append`], then [`Redo::flush`]).
//! * Each commit of the store file, durable or not, carries a [`Mark`]: the link of the last record that it contains,
//!   or, if it is durable, a new random one, which the next record follows. So a record is found only by the very state
//!   that it was made for: what is left of earlier rounds follows nothing that is in the file, and what was written in
//!   another life of the file (a copy, another release) has links that this one never saw.
//! * The log begins anew only after a durable commit. A record that was not written to its end has the wrong checksum,
//!   and the next one takes its place.
//! * To open it for a file that opened before takes no room on the disk.

mod file;

use crate::random;
use file::Log;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Link and length.
const HEADER: usize = 16 + 4;
const CHECKSUM: usize = 16;
/// Records after which a durable commit is due: it takes longer the more there are, and everybody waits for it.
const RECORDS: usize = 250;

/// What a state of the store file contains of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    era: u128,
    link: u128,
}

/// A record that is ready to be appended.
#[derive(Debug)]
pub struct Record {
    /// The mark of a state that contains it.
    pub mark: Mark,
    bytes: Vec<u8>,
}

/// What the log has and a state of the store file has not.
#[derive(Debug)]
pub struct Missing {
    /// The records in their order, each with the mark of a state that contains it.
    pub records: Vec<(Mark, Vec<u8>)>,
    /// Whether the state was made with another log than this one, so that it may be missing more.
    pub is_of_another_log: bool,
    next: Option<Next>,
}

/// Where the next record goes, and what it follows.
#[derive(Debug, Clone, Copy)]
struct Next {
    at: usize,
    link: u128,
}

/// The log of a store file.
#[derive(Debug)]
pub struct Redo {
    /// None if it is closed, or if there was no room for it.
    log: Option<Log>,
    /// Whether it may have what the store file has not: then its place must not be taken.
    is_unread: bool,
    /// None until a durable commit says what the next record follows.
    next: Option<Next>,
    /// Since the last durable commit.
    records: usize,
    needs_settling: bool,
}

/// Where the log of a store file is.
pub fn path_of(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".redo");
    name.into()
}

impl Redo {
    /// One that takes nothing.
    pub fn closed() -> Self {
        Self {
            log: None,
            is_unread: true,
            next: None,
            records: 0,
            needs_settling: false,
        }
    }

    /// Opens the log of a store file, or creates an empty one. Nothing can be appended before [`Redo::resume`] or
    /// [`Redo::forget`].
    ///
    /// # Errors
    /// If the system refuses, or the file is another program's; the error names the file.
    pub fn open(store: &Path) -> io::Result<Self> {
        let log = Log::open(&path_of(store))?;
        Ok(Self {
            log,
            ..Self::closed()
        })
    }

    /// The log of a store file that is looked at and not changed; nothing can be appended to it. Its file may be missing.
    ///
    /// # Errors
    /// As [`Redo::open`].
    pub fn look(path: &Path) -> io::Result<Self> {
        let log = Log::look(path)?;
        Ok(Self {
            log,
            ..Self::closed()
        })
    }

    /// What a state of the store file with this mark does not contain. It is on the disk when this returns: the log may
    /// have been read from memory, after a flush of it failed.
    ///
    /// # Errors
    /// If the file cannot be read, or not be flushed.
    pub fn after(&self, mark: Option<Mark>) -> io::Result<Missing> {
        let missing = self.not_in(mark)?;
        if let (Some(log), Some(next), false) =
            (&self.log, missing.next, missing.records.is_empty())
        {
            log.write(&log.read()?[file::HEADER..next.at], file::HEADER)?;
            log.flush()?;
        }
        Ok(missing)
    }

    /// What a state of the store file with this mark does not contain, whether or not it is on the disk.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn not_in(&self, mark: Option<Mark>) -> io::Result<Missing> {
        let mut missing = Missing {
            records: Vec::new(),
            is_of_another_log: false,
            next: None,
        };
        let Some(mark) = mark else {
            return Ok(missing);
        };
        let Some(log) = &self.log else {
            missing.is_of_another_log = true;
            return Ok(missing);
        };
        let bytes = log.read()?;
        let (mut at, mut link) = (file::HEADER, mark.link);
        for found in chain(&bytes) {
            if !missing.records.is_empty() || found.follows == mark.link {
                let (era, payload) = (log.era, found.payload.to_vec());
                (at, link) = (found.end, found.link);
                missing.records.push((Mark { era, link }, payload));
            }
        }
        missing.is_of_another_log = missing.records.is_empty() && log.era != mark.era;
        missing.next = Some(Next { at, link });
        Ok(missing)
    }

    /// The store file contains what it was missing, if not durably; records follow it.
    pub fn resume(&mut self, missing: &Missing) {
        self.is_unread = false;
        self.next = missing.next;
        self.records = missing.records.len();
        self.needs_settling = !missing.records.is_empty();
    }

    /// Whatever it has is of no use.
    pub fn forget(&mut self) {
        self.is_unread = false;
        self.next = None;
    }

    /// The mark for a durable commit. None if the file's mark must stay as it is: the log has not been read yet, or
    /// there is none.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new_mark(&self) -> io::Result<Option<Mark>> {
        let log = self.log.as_ref().filter(|_| !self.is_unread);
        log.map(|log| {
            let link = random::id().map_err(io::Error::other)?;
            Ok(Mark { era: log.era, link })
        })
        .transpose()
    }

    /// The store file is durable with this mark and all that is here: records follow it, from the beginning.
    pub fn begin(&mut self, mark: Mark) {
        self.next = Some(Next {
            at: file::HEADER,
            link: mark.link,
        });
        self.records = 0;
        self.needs_settling = false;
    }

    /// A record that says `payload`; none if it is time for a durable commit instead.
    pub fn next(&self, payload: &[u8]) -> Option<Record> {
        let (log, next) = (self.log.as_ref()?, self.next?);
        let length = u32::try_from(payload.len()).ok()?;
        let has_room = next.at + HEADER + payload.len() + CHECKSUM <= log.size;
        if !has_room || self.records >= RECORDS {
            return None;
        }
        let mut bytes = Vec::with_capacity(HEADER + payload.len() + CHECKSUM);
        bytes.extend(next.link.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        let mark = Mark {
            era: log.era,
            link: u128::from_le_bytes(checksum),
        };
        Some(Record { mark, bytes })
    }

    /// Appends the record that [`Redo::next`] made; [`Redo::flush`] makes it durable. With `settle` the store file is to be
    /// made durable once there is time.
    ///
    /// # Errors
    /// If the system fails. The record may be there all the same.
    pub fn append(&mut self, record: &Record, settle: bool) -> io::Result<()> {
        let (Some(log), Some(next)) = (&self.log, &mut self.next) else {
            return Err(io::Error::other("the redo log is closed"));
        };
        log.write(&record.bytes, next.at)?;
        next.at += record.bytes.len();
        next.link = record.mark.link;
        self.records += 1;
        self.needs_settling |= settle;
        Ok(())
    }

    /// Waits until what was appended is durable.
    ///
    /// # Errors
    /// If the system fails. Then nobody knows what of it is on the disk, and the log takes nothing more before it is opened
    /// again.
    pub fn flush(&mut self) -> io::Result<()> {
        let flushed = self.log.as_ref().map_or(Ok(()), Log::flush);
        if flushed.is_err() {
            *self = Self::closed();
        }
        flushed
    }

    /// Whether it has something for which the store file should be made durable.
    pub fn needs_settling(&self) -> bool {
        self.needs_settling
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    blake3::Hasher::new()
        .update(bytes)
        .finalize_xof()
        .fill(&mut sum);
    sum
}

/// A record in the bytes of a log.
struct Found<'a> {
    follows: u128,
    payload: &'a [u8],
    link: u128,
    end: usize,
}

/// The records at the beginning of a log that follow one another.
fn chain(bytes: &[u8]) -> impl Iterator<Item = Found<'_>> {
    let first = record_at(bytes, file::HEADER);
    std::iter::successors(first, |last| {
        record_at(bytes, last.end).filter(|found| found.follows == last.link)
    })
}

/// The record at a place, if it is whole.
fn record_at(bytes: &[u8], at: usize) -> Option<Found<'_>> {
    let record = bytes.get(at..)?;
    let (follows, rest) = record.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (payload, rest) = rest.split_at_checked(length)?;
    let (sum, _) = rest.split_first_chunk()?;
    (checksum(&record[..HEADER + length]) == *sum).then_some(Found {
        follows: u128::from_le_bytes(*follows),
        payload,
        link: u128::from_le_bytes(*sum),
        end: at + HEADER + length + CHECKSUM,
    })
}

#[cfg(test)]
mod tests;
