//! What is on disk against what is said of it: at every open, and when the hub asks for it in a *synced*.
//!
//! Digests are computed from the bytes of the records, never taken as stored, so whatever changed a value without the
//! agent shows in the buckets and the hub sends the bundle again. A record that disagrees with its own hash is left in
//! place (readers answer "not ready" for it) and counted so that its bundle differs from any that the hub can have.
//!
//! Mending must never turn damage into knowledge: wherever a key may have been lost, the kind is no longer synced, and
//! its unknown keys are "not ready" until the next *synced*.

mod findings;
mod survey;

pub use findings::{Finding, findings};

use super::StoreError;
use super::changes;
use super::db::Db;
use super::meta;
use super::rows;
use super::tables::Tables;
use contexts::apply::{Head, Owner};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::TenantId;
use redb::ReadableTable;
use std::collections::BTreeMap;

/// Rounds of mending after which a file is given up. Each round mends what the one before laid open.
const ROUNDS: usize = 8;

/// A store whose rows agree with one another.
#[derive(Debug)]
pub struct Audited {
    /// The sums over all bundles.
    pub buckets: Buckets,
    /// Records.
    pub contexts: u64,
    /// Heads.
    pub bundles: u64,
    /// What was found, with counts.
    pub findings: BTreeMap<&'static str, u64>,
}

/// What one look found.
#[derive(Default)]
struct Survey {
    buckets: Buckets,
    contexts: u64,
    bundles: u64,
    /// Records that disagree with their hash; they stay.
    unsound: u64,
    fixes: Vec<(&'static str, Fix)>,
}

type Name = (Vec<u8>, Vec<u8>);

/// One change that makes the rows agree.
enum Fix {
    DropHead {
        bucket: u16,
        tenant: Vec<u8>,
    },
    SetHead {
        tenant: TenantId,
        head: Head,
    },
    DropRecord {
        tenant: Vec<u8>,
        name: Name,
        lost: bool,
    },
    DropOwner {
        name: Name,
    },
    SetOwner {
        name: Name,
        owner: Owner,
    },
    DropBlind {
        kind: Vec<u8>,
        tenant: Vec<u8>,
    },
    SetBlind {
        kind: Vec<u8>,
        tenant: Vec<u8>,
    },
}

/// Looks at every row, mends, and looks again until nothing is left to mend.
///
/// # Errors
/// If redb fails, or [`StoreError::Damaged`] if the rows do not come to agree.
pub fn run(db: &Db, key: &DigestKey) -> Result<Audited, StoreError> {
    let mut findings = BTreeMap::new();
    for _ in 0..ROUNDS {
        let survey = survey::look(&db.look()?, key, &mut |_, _, _| {})?;
        if survey.fixes.is_empty() {
            if survey.unsound > 0 {
                findings.insert("record_disagrees_with_its_hash", survey.unsound);
            }
            return Ok(Audited {
                buckets: survey.buckets,
                contexts: survey.contexts,
                bundles: survey.bundles,
                findings,
            });
        }
        for (finding, _) in &survey.fixes {
            *findings.entry(finding).or_insert(0) += 1;
        }
        mend(db, key, &survey.fixes)?;
    }
    Err(StoreError::Damaged {
        what: "the file (its rows contradict one another)".into(),
    })
}

fn mend(db: &Db, key: &DigestKey, fixes: &[(&'static str, Fix)]) -> Result<(), StoreError> {
    let txn = db.write()?;
    let mut tables = Tables::open(&txn)?;
    for (_, fix) in fixes {
        mend_one(&mut tables, key, fix)?;
    }
    changes::append_everything(&mut tables)?;
    drop(tables);
    txn.commit()
}

fn mend_one(tables: &mut Tables<'_>, key: &DigestKey, fix: &Fix) -> Result<(), StoreError> {
    match fix {
        Fix::DropHead { bucket, tenant } => {
            meta::set_lost(&mut tables.meta)?;
            tables.bundles.remove((*bucket, tenant.as_slice()))?;
        }
        Fix::SetHead { tenant, head } => {
            let place = (key.bucket(tenant) as u16, tenant.as_str().as_bytes());
            let before = tables.bundles.get(place)?;
            let before = before.and_then(|bytes| rows::head(bytes.value()).ok());
            if before.is_none_or(|before| before.contexts > head.contexts) {
                meta::set_lost(&mut tables.meta)?;
            }
            tables
                .bundles
                .insert(place, rows::encode(head)?.as_slice())?;
        }
        Fix::DropRecord {
            tenant,
            name: (kind, name),
            lost,
        } => {
            let place = (tenant.as_slice(), kind.as_slice(), name.as_slice());
            tables.contexts.remove(place)?;
            if *lost {
                forget_synced(tables, kind)?;
            }
        }
        Fix::DropOwner { name: (kind, name) } => {
            tables.owners.remove((kind.as_slice(), name.as_slice()))?;
            forget_synced(tables, kind)?;
        }
        Fix::SetOwner {
            name: (kind, name),
            owner,
        } => {
            let place = (kind.as_slice(), name.as_slice());
            tables
                .owners
                .insert(place, rows::owner_bytes(owner).as_slice())?;
        }
        Fix::DropBlind { kind, tenant } => {
            tables.blind.remove((kind.as_slice(), tenant.as_slice()))?;
            forget_synced(tables, kind)?;
        }
        Fix::SetBlind { kind, tenant } => {
            tables
                .blind
                .insert((kind.as_slice(), tenant.as_slice()), ())?;
        }
    }
    Ok(())
}

/// The store no longer knows which keys of the kind do not exist; of no kind, if the name itself is damaged.
fn forget_synced(tables: &mut Tables<'_>, kind: &[u8]) -> Result<(), StoreError> {
    meta::set_lost(&mut tables.meta)?;
    match rows::kind(kind) {
        Ok(_) => {
            tables.synced.remove(kind)?;
        }
        Err(_) => tables.synced.retain(|_, ()| false)?,
    }
    Ok(())
}
