//! Makes a store of the file: looks at all of it, then writes its rows, then its facts.

use super::{DIGEST, FORMAT, Header, MAGIC, PortableError, Summary};
use crate::clock::{Clock, wall_micros};
use crate::peer::{Facts, Known, Part, PeerError, decode, take};
use crate::store::fresh::Fresh;
use crate::store::redb::db::Db;
use crate::store::redb::meta::Meta;
use crate::store::redb::open::{self, OpenError};
use crate::store::redb::tables::Tables;
use crate::store::redb::{redo, verify};
use contexts::name::Region;
use contexts::version::Version;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// What is to become of the file.
#[derive(Debug)]
pub struct Target<'a> {
    /// The store to make.
    pub data: &'a Path,
    /// The region that it is to serve; none for that of the file.
    pub region: Option<&'a Region>,
    /// Whether the file may be another region's.
    pub is_other_region_meant: bool,
    /// Memory for pages of the store file, in bytes.
    pub cache_bytes: usize,
}

/// Makes a store of the file at `from`.
///
/// # Errors
/// [`PortableError`]; there is no store then, or one that is as empty as before.
pub fn import(from: &Path, target: &Target<'_>) -> Result<Summary, PortableError> {
    let mut parts = Parts::open(from)?;
    let mut header: Header = parts.next()?;
    let region = target.region.unwrap_or(&header.region).clone();
    if region != header.region {
        if !target.is_other_region_meant {
            return Err(PortableError::Region {
                path: from.to_owned(),
                theirs: header.region,
                mine: region,
            });
        }
        header.facts = of_other_region(header.facts);
    }
    let is_new = !is_there(target)?;
    let filled = fill(&mut parts, header, &region, target);
    if filled.is_err() && is_new {
        // What is left has no facts; without the file nobody has to wonder about it.
        let _ = std::fs::remove_file(redo::path_of(target.data));
        let _ = std::fs::remove_file(target.data);
    }
    filled
}

/// Whether there is a store, which must be an empty one. It is looked at without a change to it.
fn is_there(target: &Target<'_>) -> Result<bool, PortableError> {
    let path = target.data.to_owned();
    match std::fs::metadata(target.data) {
        Ok(file) if file.is_file() && file.len() == 0 => return Ok(true),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            let why = error.to_string();
            return Err(OpenError::Refused { path, why }.into());
        }
    }
    let (db, verified) = verify::look(target.data, None, target.cache_bytes)?;
    let (txn, now) = (db.look()?, Clock::new().reading());
    let is_claimed = Meta::load(&txn, now, wall_micros())?.granted.is_some();
    match is_claimed || verified.contexts + verified.bundles > 0 || !verified.findings.is_empty() {
        true => Err(PortableError::NotEmpty { path }),
        false => Ok(true),
    }
}

/// What a store of one region knows, said of another: nothing but whom it obeys. Its contexts are shown, of unknown age,
/// and of no key can be said that it does not exist.
fn of_other_region(facts: Facts) -> Facts {
    let known = Known {
        last_synced: None,
        synced_kinds: Vec::new(),
        position: Version::default(),
        age: None,
        beat: 0,
        ..facts.known
    };
    Facts { known, lost: true }
}

fn fill(
    parts: &mut Parts<'_>,
    header: Header,
    region: &Region,
    target: &Target<'_>,
) -> Result<Summary, PortableError> {
    let clock = Clock::new();
    let (db, opened) = open::open(target.data, region, target.cache_bytes, &clock)?;
    let of_store = |error: PeerError| match error {
        PeerError::Storage(error) => PortableError::Store(error),
        other => parts_damaged(target.data, &other),
    };
    take::begin(&db).map_err(of_store)?;
    while !take_some(parts, &db)? {}
    parts.check_digest()?;
    let age = header.age(clock);
    let fresh = age.map(|age| Fresh::before(clock.reading(), age));
    let theirs = take::theirs(&opened.meta, header.facts, fresh);
    take::end(&db, &opened.meta.taken_from(theirs), clock).map_err(of_store)?;
    let (contexts, bundles) = Tables::counts_of(&db.look()?)?;
    Ok(Summary {
        region: header.region,
        contexts,
        bundles,
        age,
        is_log_missing: false,
    })
}

fn parts_damaged(path: &Path, why: &dyn std::fmt::Display) -> PortableError {
    PortableError::Damaged {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

/// Writes some rows; whether they were the last ones.
fn take_some(parts: &mut Parts<'_>, db: &Db) -> Result<bool, PortableError> {
    let mut some = Vec::with_capacity(take::ROWS);
    let mut is_end = false;
    while !is_end && some.len() < take::ROWS {
        match parts.next()? {
            Part::End(count) if count + 1 == parts.count => is_end = true,
            Part::End(_) => return Err(parts.damaged("rows are missing")),
            part => some.push(part),
        }
    }
    match take::write(db.write()?, some) {
        Ok(()) => Ok(is_end),
        Err(PeerError::Storage(error)) => Err(error.into()),
        Err(other) => Err(parts.damaged(&other.to_string())),
    }
}

/// The parts of a file that was read once to its end and has the right digest.
struct Parts<'a> {
    path: &'a Path,
    file: BufReader<io::Take<File>>,
    digest: blake3::Hasher,
    expected: [u8; DIGEST],
    count: u64,
}

impl<'a> Parts<'a> {
    fn open(path: &'a Path) -> Result<Self, PortableError> {
        let unread = |error: io::Error| PortableError::Unread {
            path: path.to_owned(),
            why: error.to_string(),
        };
        let cut = || parts_damaged(path, &"it ends too early");
        let file = File::open(path).map_err(unread)?;
        let length = file.metadata().map_err(unread)?.len();
        let mut file = BufReader::with_capacity(256 << 10, file);
        let mut begin = [0; MAGIC.len() + 4];
        let there = (length as usize).min(begin.len());
        file.read_exact(&mut begin[..there]).map_err(unread)?;
        let (magic, format) = begin.split_at(MAGIC.len());
        let named = there.min(MAGIC.len());
        if named == 0 || magic[..named] != MAGIC[..named] {
            let path = path.to_owned();
            return Err(PortableError::NotAnExport { path });
        }
        let rest = length.checked_sub((begin.len() + DIGEST) as u64);
        let rest = rest.ok_or_else(cut)?;
        let format = format.iter().rfold(0, |n, byte| n << 8 | u32::from(*byte));
        if format > FORMAT {
            let path = path.to_owned();
            return Err(PortableError::Newer { path, format });
        }
        let mut digest = blake3::Hasher::new();
        digest.update(&begin);
        let begun = digest.clone();
        io::copy(&mut (&mut file).take(rest), &mut digest).map_err(unread)?;
        let mut expected = [0; DIGEST];
        file.read_exact(&mut expected).map_err(|_| cut())?;
        if digest.finalize() != expected {
            return Err(parts_damaged(path, &"its digest is another one"));
        }
        // The same file once more: it may have been replaced under its name.
        let mut file = file.into_inner();
        io::Seek::seek(&mut file, io::SeekFrom::Start(begin.len() as u64)).map_err(unread)?;
        Ok(Self {
            path,
            file: BufReader::with_capacity(256 << 10, file.take(rest)),
            digest: begun,
            expected,
            count: 0,
        })
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<T, PortableError> {
        let mut length = [0; 4];
        self.exactly(&mut length)?;
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > take::PART {
            return Err(self.damaged("a part is too long"));
        }
        let mut part = vec![0; bytes];
        self.exactly(&mut part)?;
        self.count += 1;
        decode(&part).map_err(|why| self.damaged(&why))
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), PortableError> {
        let read = self.file.read_exact(bytes);
        read.map_err(|error| self.damaged(&error.to_string()))?;
        self.digest.update(bytes);
        Ok(())
    }

    /// Whether what was taken is what was looked at, and all of it.
    fn check_digest(&self) -> Result<(), PortableError> {
        match self.digest.finalize() == self.expected {
            true => Ok(()),
            false => Err(self.damaged("it changed while it was read")),
        }
    }

    fn damaged(&self, why: &str) -> PortableError {
        parts_damaged(self.path, &why)
    }
}
