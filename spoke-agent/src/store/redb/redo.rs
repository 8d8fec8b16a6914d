//! The redo log, a file beside the store file: pushes that were applied since the store file was last made durable. To
//! append to it takes one write and one flush of the disk; a durable commit of the store file takes a dozen and two.
//!
//! Its size is fixed and it is written over and over from its beginning, so that a flush has no metadata to write.
//! What must hold:
//! * A record is durable before what it says is readable, and so before it is acknowledged.
//! * Each commit of the store file, durable or not, carries the [`Mark`] of the last record that it contains. Whatever
//!   state the file comes back with, its mark says which records are missing in it, and none is applied twice.
//! * The log begins anew only after a durable commit. What is left of earlier rounds has lower numbers, what is left of
//!   earlier runs of the agent has another era, and a record that was not written to its end has the wrong checksum.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of the file. A record that finds no room makes for a durable commit instead.
const SIZE: usize = 1 << 20;
/// Era, number and length.
const HEADER: usize = 16 + 8 + 4;
const CHECKSUM: usize = 16;

/// The last record that a state of the store file contains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    era: u128,
    number: u64,
}

impl Mark {
    /// Before the first record of an era, a random number that no other run of an agent has.
    pub fn of_era(era: u128) -> Self {
        Self { era, number: 0 }
    }

    fn next(self) -> Self {
        let (era, number) = (self.era, self.number + 1);
        Self { era, number }
    }
}

/// The open log.
#[derive(Debug)]
pub struct Redo {
    file: File,
    /// Of the last record.
    mark: Mark,
    /// Where the next one goes.
    end: usize,
}

/// Where the log of a store file is.
pub fn path_of(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".redo");
    name.into()
}

impl Redo {
    /// Opens the log of a store file, or creates an empty one. Nothing can be appended before [`Redo::begin`].
    ///
    /// # Errors
    /// If the system refuses; the error names the file.
    pub fn open(store: &Path) -> io::Result<Self> {
        let path = path_of(store);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let file = open_whole(&path).map_err(named)?;
        Ok(Self {
            file,
            mark: Mark::default(),
            end: 0,
        })
    }

    /// The records that a state of the store file with this mark does not contain, in their order.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn after(&self, mark: Mark) -> io::Result<Vec<Vec<u8>>> {
        let mut bytes = vec![0; SIZE];
        self.file.read_exact_at(&mut bytes, 0)?;
        let (mut rest, mut last, mut missing) = (bytes.as_slice(), mark, Vec::new());
        while let Some((found, payload, behind)) = first_of(rest) {
            let is_old = found.era == mark.era && found.number <= mark.number;
            if !is_old && found != last.next() {
                break;
            }
            if !is_old {
                last = found;
                missing.push(payload.to_vec());
            }
            rest = behind;
        }
        Ok(missing)
    }

    /// The store file is durable and has this mark: records follow it, from the beginning of the file.
    pub fn begin(&mut self, mark: Mark) {
        (self.mark, self.end) = (mark, 0);
    }

    /// The store file is durable with all that is here.
    pub fn rewind(&mut self) {
        self.end = 0;
    }

    /// Whether the store file is durable with all that is here.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// The mark that the next record gets, if there is room for it.
    pub fn next(&self, payload: &[u8]) -> Option<Mark> {
        let begun = self.mark != Mark::default();
        let room = self.end + HEADER + payload.len() + CHECKSUM <= SIZE;
        (begun && room).then(|| self.mark.next())
    }

    /// Appends a record; it is durable when this returns. It must have room.
    ///
    /// # Errors
    /// If the system fails. The record may be there all the same.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let mark = self.mark.next();
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(HEADER + payload.len() + CHECKSUM);
        record.extend(mark.era.to_le_bytes());
        record.extend(mark.number.to_le_bytes());
        record.extend(length.to_le_bytes());
        record.extend(payload);
        record.extend(checksum(&record));
        self.file.write_all_at(&record, self.end as u64)?;
        self.file.sync_data()?;
        self.mark = mark;
        self.end += record.len();
        Ok(())
    }
}

/// Opens a file that has its full size on disk, written, not only promised.
fn open_whole(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // Only for its owner: it holds what the store holds.
    let file = options.mode(0o600).open(path)?;
    if file.metadata()?.len() != SIZE as u64 {
        file.set_len(0)?;
        file.write_all_at(&vec![0; SIZE], 0)?;
        file.sync_all()?;
        let parent = path.parent().filter(|p| *p != Path::new(""));
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(file)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    blake3::Hasher::new()
        .update(bytes)
        .finalize_xof()
        .fill(&mut sum);
    sum
}

/// The record that bytes begin with, if it is whole: its mark, what it says, and the bytes behind it.
fn first_of(bytes: &[u8]) -> Option<(Mark, &[u8], &[u8])> {
    let (era, rest) = bytes.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (payload, rest) = rest.split_at_checked(length)?;
    let (sum, rest) = rest.split_first_chunk()?;
    let mark = Mark {
        era: u128::from_le_bytes(*era),
        number: u64::from_le_bytes(*number),
    };
    (checksum(&bytes[..HEADER + length]) == *sum).then_some((mark, payload, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const ERA: Mark = Mark { era: 7, number: 0 };

    fn at(number: u64) -> Mark {
        Mark { number, ..ERA }
    }

    /// A log with records that say their own number.
    fn log(dir: &TempDir, numbers: std::ops::RangeInclusive<u64>) -> Redo {
        let mut log = Redo::open(&dir.path().join("s")).expect("opens");
        log.begin(at(numbers.start() - 1));
        numbers.for_each(|n| append(&mut log, n));
        log
    }

    fn append(log: &mut Redo, n: u64) {
        let payload = vec![n as u8; 100];
        assert_eq!(log.next(&payload), Some(at(n)));
        log.append(&payload).expect("appends");
    }

    fn numbers(log: &Redo, mark: Mark) -> Vec<u64> {
        let records = log.after(mark).expect("reads");
        records.iter().map(|r| u64::from(r[0])).collect()
    }

    #[test]
    fn what_a_state_does_not_contain_is_told_in_order() {
        let dir = TempDir::new().expect("a directory");
        drop(log(&dir, 1..=5));
        let log = Redo::open(&dir.path().join("s")).expect("opens again");
        assert_eq!(numbers(&log, ERA), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(&log, at(3)), [4, 5]);
        assert_eq!(numbers(&log, at(5)), [0; 0]);
    }

    #[test]
    fn another_era_and_a_gap_are_no_continuation() {
        let dir = TempDir::new().expect("a directory");
        let log = log(&dir, 4..=6);
        assert_eq!(numbers(&log, Mark::of_era(8)), [0; 0]);
        assert_eq!(numbers(&log, at(2)), [0; 0], "3 is not there");
        assert_eq!(numbers(&log, at(9)), [0; 0]);
    }

    #[test]
    fn of_a_round_before_nothing_is_told() {
        let dir = TempDir::new().expect("a directory");
        let mut log = log(&dir, 1..=5);
        log.rewind();
        assert!(log.is_empty());
        assert_eq!(numbers(&log, at(5)), [0; 0]);
        append(&mut log, 6);
        append(&mut log, 7);
        assert_eq!(numbers(&log, at(5)), [6, 7]);
    }

    #[test]
    fn a_record_that_was_not_written_to_its_end_is_not_there() {
        let dir = TempDir::new().expect("a directory");
        let log = log(&dir, 1..=3);
        let third = 2 * (log.end / 3);
        for byte in third..log.end {
            let mut was = [0];
            log.file
                .read_exact_at(&mut was, byte as u64)
                .expect("reads");
            log.file
                .write_all_at(&[!was[0]], byte as u64)
                .expect("writes");
            assert_eq!(numbers(&log, ERA), [1, 2], "byte {byte}");
            log.file.write_all_at(&was, byte as u64).expect("writes");
        }
        assert_eq!(numbers(&log, ERA), [1, 2, 3]);
    }

    #[test]
    fn a_full_log_and_one_that_has_not_begun_take_nothing() {
        let dir = TempDir::new().expect("a directory");
        let mut log = Redo::open(&dir.path().join("s")).expect("opens");
        assert_eq!(log.next(b"x"), None);
        log.begin(ERA);
        let half = vec![1; SIZE / 2];
        log.append(&half).expect("appends");
        assert_eq!(log.next(&half), None);
        assert_eq!(log.next(b"x"), Some(at(2)));
    }
}
