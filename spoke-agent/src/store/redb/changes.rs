//! The log of changes: which names each commit touched, so that whoever follows the store is told of these and no
//! others. It has names, never values: what is told is what the store holds by then, so a follower that was away is
//! told of ten changes of a key once.
//!
//! A commit has a number, one more than the last, and a *tag*, a hash over all before it. Both make a [`Cursor`]. A
//! cursor means something only if the store still has the commit with just that tag: a file that was restored, wiped or
//! mended went another way, and whoever comes with a cursor of the old one gets a full copy.
//!
//! The log is bounded by its bytes; what is older is forgotten.

use super::StoreError;
use super::rows;
use super::tables::{Bytes, Tables};
use contexts::delta;
use contexts::name::{Key, Kind, TenantId};
use contexts::push::Verdict;
use contexts::version::Version;
use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;

/// Bytes of names that the log keeps.
const KEPT_BYTES: u64 = 32 << 20;

/// A name within a store.
pub type Name = (Kind, Key);

/// What a commit touches, noted while it is made.
#[derive(Debug, Default)]
pub struct Notes {
    /// A name is noted again by whatever writes to it again.
    names: Vec<(TenantId, Name)>,
    /// Tenants whose head was written, and whether there was none.
    heads: Vec<(TenantId, bool)>,
    /// Tenants of which a bundle was applied, with its version.
    bundles: Vec<(TenantId, Version)>,
}

/// What a commit touched, or several that followed one another.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// By tenant.
    pub tenants: BTreeMap<TenantId, Changed>,
}

/// What a commit touched of one tenant.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    /// The version of the bundle that was applied.
    pub version: Option<Version>,
    /// Whether the store had nothing of it before.
    pub is_new: bool,
    /// Names whose records or owners were written, sorted.
    pub names: Vec<Name>,
}

impl Touched {
    /// Adds what a later commit touched.
    pub fn add(&mut self, later: Self) {
        for (tenant, later) in later.tenants {
            let changed = self.tenants.entry(tenant).or_default();
            changed.version = later.version.or(changed.version);
            changed.is_new |= later.is_new;
            changed.names.extend(later.names);
            changed.names.sort_unstable();
            changed.names.dedup();
        }
    }

    /// Names, and of each tenant at least one: none is free to look at again.
    pub fn names(&self) -> usize {
        let changed = self.tenants.values();
        changed.map(|changed| changed.names.len().max(1)).sum()
    }
}

impl Notes {
    /// A record or an owner of this name was written.
    pub fn name(&mut self, tenant: &TenantId, kind: &Kind, key: &Key) {
        let is_last = |(t, (n, k)): &(TenantId, Name)| k == key && n == kind && t == tenant;
        if !self.names.last().is_some_and(is_last) {
            let name = (kind.clone(), key.clone());
            self.names.push((tenant.clone(), name));
        }
    }

    /// The head of a tenant was written; `is_new` if there was none.
    pub fn head(&mut self, tenant: &TenantId, is_new: bool) {
        self.heads.push((tenant.clone(), is_new));
    }

    /// A push was applied.
    pub fn push(&mut self, push: &[delta::Change], verdicts: &[Verdict]) {
        let is_there = |v: &Verdict| matches!(v, Verdict::Applied | Verdict::AlreadyThere);
        let bundles = push.iter().zip(verdicts).filter(|(_, v)| is_there(v));
        let bundles = bundles.map(|(change, _)| (change.tenant().clone(), change.version()));
        self.bundles.extend(bundles);
    }

    /// All of it.
    pub fn touched(mut self) -> Touched {
        self.names.sort_unstable();
        self.names.dedup();
        let mut tenants: BTreeMap<TenantId, Changed> = BTreeMap::new();
        for (tenant, is_new) in self.heads {
            tenants.entry(tenant).or_default().is_new |= is_new;
        }
        for of_tenant in self.names.chunk_by(|a, b| a.0 == b.0) {
            let names = of_tenant.iter().map(|(_, name)| name.clone()).collect();
            let tenant = of_tenant[0].0.clone();
            tenants.entry(tenant).or_default().names = names;
        }
        for (tenant, version) in self.bundles {
            if let Some(changed) = tenants.get_mut(&tenant) {
                changed.version = Some(version);
            }
        }
        Touched { tenants }
    }
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The number of the commit.
    pub commit: u64,
    /// Which history it belongs to.
    pub tag: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.commit, self.tag)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (commit, tag) = text.split_once('-').ok_or(())?;
        Ok(Self {
            commit: commit.parse().map_err(|_| ())?,
            tag: u64::from_str_radix(tag, 16).map_err(|_| ())?,
        })
    }
}

/// What stands before the change in a row: its tag, and the bytes of all rows so far.
#[derive(Debug, Clone, Copy)]
struct Header {
    tag: u64,
    end: u64,
}

const HEADER: usize = 16;

impl Header {
    fn split(row: &[u8]) -> Result<(Self, &[u8]), StoreError> {
        let wrong = || StoreError::Damaged {
            what: "a row of the log of changes".into(),
        };
        let (tag, rest) = row.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (end, change) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (tag, end) = (u64::from_le_bytes(*tag), u64::from_le_bytes(*end));
        Ok((Self { tag, end }, change))
    }

    fn before(self, change: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEADER + change.len());
        row.extend(self.tag.to_le_bytes());
        row.extend(self.end.to_le_bytes());
        row.extend(change);
        row
    }
}

/// What a commit changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Change {
    /// These tenants.
    Tenants(Vec<TenantChange>),
    /// Something else than a push changed the file: nobody knows what.
    Everything,
}

/// What a commit changed of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantChange {
    /// The tenant.
    pub tenant: TenantId,
    /// The version of the bundle that was applied; none if it was that of another tenant.
    pub version: Option<Version>,
    /// The names; none if the tenant was new, so that all that it has is meant.
    pub names: Option<Vec<Name>>,
}

/// Writes down what a commit touched.
///
/// # Errors
/// If redb fails.
pub fn append(tables: &mut Tables<'_>, touched: &Touched) -> Result<(), StoreError> {
    let changed = touched.tenants.iter().filter(|(_, c)| !c.names.is_empty());
    let tenants = changed.map(|(tenant, changed)| TenantChange {
        tenant: tenant.clone(),
        version: changed.version,
        names: (!changed.is_new).then(|| changed.names.clone()),
    });
    let tenants: Vec<TenantChange> = tenants.collect();
    match tenants.is_empty() {
        true => Ok(()),
        false => append_row(tables, Change::Tenants(tenants)),
    }
}

/// Writes down that the file was changed by something else than a push.
///
/// # Errors
/// If redb fails.
pub fn append_everything(tables: &mut Tables<'_>) -> Result<(), StoreError> {
    append_row(tables, Change::Everything)
}

fn append_row(tables: &mut Tables<'_>, change: Change) -> Result<(), StoreError> {
    let last = match tables.changes.last()? {
        None => None,
        Some((commit, row)) => match Header::split(row.value()) {
            Ok((header, _)) => Some((commit.value(), header)),
            Err(_) => None,
        },
    };
    let (commit, last) = match last {
        Some(last) => last,
        None => {
            // The first row, or one behind damage: a history that nobody has a cursor of.
            tables.changes.retain(|_, _| false)?;
            let tag = crate::random::id().map_err(|error| io::Error::other(error.to_string()));
            let tag = tag.map_err(redb::StorageError::Io)? as u64;
            (0, Header { tag, end: 0 })
        }
    };
    let change = rows::encode(&change)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&last.tag.to_le_bytes()).update(&change);
    let mut tag = [0; 8];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    let header = Header {
        tag: u64::from_le_bytes(tag),
        end: last.end + change.len() as u64,
    };
    let row = header.before(&change);
    tables.changes.insert(commit + 1, row.as_slice())?;
    forget(tables, header.end)
}

/// Removes what the log has too much of, the oldest first.
fn forget(tables: &mut Tables<'_>, end: u64) -> Result<(), StoreError> {
    loop {
        let is_too_old = match tables.changes.first()? {
            None => false,
            Some((_, row)) => match Header::split(row.value()) {
                Ok((oldest, _)) => end.saturating_sub(oldest.end) > KEPT_BYTES,
                Err(_) => true,
            },
        };
        if !is_too_old {
            return Ok(());
        }
        tables.changes.pop_first()?;
    }
}

/// Where the log ends.
///
/// # Errors
/// If redb fails, or the log is empty or damaged.
pub fn end(changes: &impl ReadableTable<u64, Bytes>) -> Result<Cursor, StoreError> {
    let Some((commit, row)) = changes.last()? else {
        return Err(StoreError::Damaged {
            what: "the log of changes".into(),
        });
    };
    let (header, _) = Header::split(row.value())?;
    Ok(Cursor {
        commit: commit.value(),
        tag: header.tag,
    })
}

/// What changed behind a cursor, oldest first, each with its place; none if the log cannot say.
///
/// # Errors
/// If redb fails or a row is damaged.
pub fn after(
    changes: &impl ReadableTable<u64, Bytes>,
    cursor: Cursor,
) -> Result<Option<Vec<(Cursor, TenantChange)>>, StoreError> {
    let mut kept = changes.range(cursor.commit..)?;
    let is_known = match kept.next() {
        None => false,
        Some(row) => {
            let (commit, row) = row?;
            let (header, _) = Header::split(row.value())?;
            commit.value() == cursor.commit && header.tag == cursor.tag
        }
    };
    if !is_known {
        return Ok(None);
    }
    let mut found = Vec::new();
    for row in kept {
        let (commit, row) = row?;
        let (Header { tag, .. }, change) = Header::split(row.value())?;
        match rows::decode(change, "a row of the log of changes")? {
            Change::Everything => return Ok(None),
            Change::Tenants(tenants) => {
                let commit = commit.value();
                let cursor = Cursor { commit, tag };
                found.extend(tenants.into_iter().map(|change| (cursor, change)));
            }
        }
    }
    Ok(Some(found))
}
