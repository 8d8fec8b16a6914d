//! Writes the file, from the store of a stopped agent or from one that runs.

use super::{FORMAT, Header, MAGIC, PortableError, Summary};
use crate::clock::{Clock, wall_micros};
use crate::peer::take::Peers;
use crate::peer::{Facts, Part, PeerError, give};
use crate::store::redb::db::Db;
use crate::store::redb::meta::Meta;
use crate::store::redb::rows;
use crate::store::redb::verify::Verified;
use contexts::name::Region;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Exports the store of a stopped agent, as [`crate::store::redb::verify::look`] saw it.
///
/// # Errors
/// [`PortableError`]; there is no file then.
pub fn export(db: &Db, verified: &Verified, out: &Path) -> Result<Summary, PortableError> {
    let nothing = || PortableError::Nothing {
        what: db.path().display().to_string(),
    };
    match verified.findings.len() {
        0 => {}
        count => {
            let path = db.path().to_owned();
            return Err(PortableError::Unsound { path, count });
        }
    }
    let txn = db.look()?;
    let taken = Clock::new().reading();
    let meta = Meta::load(&txn, taken, wall_micros())?;
    let region = meta.region.clone();
    let facts = Facts::of(meta, taken).ok_or_else(nothing)?;
    let header = Header::new(region, facts, taken);
    let mut summary = Outlet::write(out, header, |outlet| {
        give::every_row(&txn, |part| outlet.row(part))
    })?;
    summary.is_log_missing = verified.is_log_missing;
    Ok(summary)
}

/// Exports the store of the agent of `region` that runs at `address`, asked as a peer asks it.
///
/// # Errors
/// [`PortableError`]; there is no file then.
pub async fn export_running(
    peers: &Peers,
    address: &str,
    region: Region,
    out: &Path,
) -> Result<Summary, PortableError> {
    let agent = |why: PeerError| PortableError::Agent {
        address: address.to_owned(),
        why,
    };
    // What the agent says of its age was true after this.
    let taken = Clock::new().reading();
    let (facts, mut parts) = peers.ask(address).await.map_err(agent)?;
    let header = Header::new(region, *facts, taken);
    let mut outlet = Outlet::begin(out, &header)?;
    loop {
        match parts.next().await.map_err(agent)? {
            Some(Part::End(count)) if count + 1 == parts.count => break,
            Some(Part::End(_)) => {
                return Err(agent(PeerError::Nonsense("rows are missing".into())));
            }
            Some(part) => outlet.row(&part)?,
            None => return Err(agent(PeerError::Unreachable("it breaks off".into()))),
        }
    }
    outlet.end(header)
}

/// The file while it is written. One that is not ended is removed.
struct Outlet {
    path: PathBuf,
    file: BufWriter<File>,
    digest: blake3::Hasher,
    parts: u64,
    contexts: u64,
    bundles: u64,
    is_whole: bool,
}

impl Outlet {
    fn write(
        path: &Path,
        header: Header,
        rows: impl FnOnce(&mut Self) -> Result<(), PortableError>,
    ) -> Result<Summary, PortableError> {
        let mut outlet = Self::begin(path, &header)?;
        rows(&mut outlet)?;
        outlet.end(header)
    }

    fn begin(path: &Path, header: &Header) -> Result<Self, PortableError> {
        let mut new = OpenOptions::new();
        let created = new.write(true).create_new(true).mode(0o600).open(path);
        let path = path.to_owned();
        let file = match created {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(PortableError::Exists { path });
            }
            Err(error) => {
                let why = error.to_string();
                return Err(PortableError::Unwritten { path, why });
            }
        };
        let mut outlet = Self {
            path,
            file: BufWriter::with_capacity(256 << 10, file),
            digest: blake3::Hasher::new(),
            parts: 0,
            contexts: 0,
            bundles: 0,
            is_whole: false,
        };
        outlet.bytes(MAGIC)?;
        outlet.bytes(&FORMAT.to_le_bytes())?;
        outlet.part(header)?;
        Ok(outlet)
    }

    fn row(&mut self, row: &Part) -> Result<(), PortableError> {
        match row {
            Part::Head(..) => self.bundles += 1,
            Part::Context(..) => self.contexts += 1,
            _ => {}
        }
        self.part(row)
    }

    fn part(&mut self, part: &impl Serialize) -> Result<(), PortableError> {
        let bytes = rows::encode(part)?;
        self.bytes(&(bytes.len() as u32).to_le_bytes())?;
        self.bytes(&bytes)?;
        self.parts += 1;
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), PortableError> {
        self.digest.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(|error| self.unwritten(&error))
    }

    fn end(mut self, header: Header) -> Result<Summary, PortableError> {
        self.part(&Part::End(self.parts))?;
        let digest = self.digest.finalize();
        let written = self.file.write_all(digest.as_bytes());
        let written = written.and_then(|()| self.file.flush());
        let synced = written.and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|error| self.unwritten(&error))?;
        self.is_whole = true;
        Ok(Summary {
            region: header.region,
            contexts: self.contexts,
            bundles: self.bundles,
            age: header.facts.known.age,
            is_log_missing: false,
        })
    }

    fn unwritten(&self, error: &io::Error) -> PortableError {
        PortableError::Unwritten {
            path: self.path.clone(),
            why: error.to_string(),
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.is_whole {
            // It would be refused anyway.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
