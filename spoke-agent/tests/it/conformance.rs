//! The file decides like plain maps do: the same pushes, the same verdicts, the same state, step by step.

use super::support::*;
use contexts::apply::{Applied, Head, Owner, Record, StoreTxn, apply};
use contexts::bundle::{Bundle, Held, HeldKind, HoldReason};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::{Key, Kind, TenantId};
use contexts::push::Sent;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spoke_agent::clock::Clock;
use spoke_agent::store::redb::audit;
use spoke_agent::store::redb::db::Db;
use spoke_agent::store::redb::meta::Meta;
use spoke_agent::store::redb::tables::{SYNCED, Tables};
use spoke_agent::store::redb::txn::Txn;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use tempfile::TempDir;

const KINDS: [&str; 3] = ["a", "b", "c"];
const KEYS: u32 = 6;
const TENANTS: u32 = 5;

type Name = (Kind, Key);

/// The model: what a store is, without a file.
#[derive(Default, Clone)]
struct Maps {
    heads: BTreeMap<TenantId, Head>,
    records: BTreeMap<(TenantId, Kind, Key), Record>,
    owners: BTreeMap<Name, Owner>,
    synced: BTreeSet<Kind>,
    blind: BTreeSet<(Kind, TenantId)>,
}

impl StoreTxn for Maps {
    type Error = Infallible;

    fn head(&self, tenant: &TenantId) -> Result<Option<Head>, Infallible> {
        Ok(self.heads.get(tenant).cloned())
    }

    fn set_head(&mut self, tenant: &TenantId, head: Option<&Head>) -> Result<(), Infallible> {
        match head {
            Some(head) => self.heads.insert(tenant.clone(), head.clone()),
            None => self.heads.remove(tenant),
        };
        Ok(())
    }

    fn records(&self, tenant: &TenantId) -> Result<Vec<Record>, Infallible> {
        let all = self
            .records
            .iter()
            .filter(|((owner, _, _), _)| owner == tenant);
        Ok(all.map(|(_, record)| record.clone()).collect())
    }

    fn put_record(&mut self, tenant: &TenantId, record: &Record) -> Result<(), Infallible> {
        let (kind, key) = record.context.name();
        let place = (tenant.clone(), kind.clone(), key.clone());
        self.records.insert(place, record.clone());
        Ok(())
    }

    fn remove_record(
        &mut self,
        tenant: &TenantId,
        kind: &Kind,
        key: &Key,
    ) -> Result<(), Infallible> {
        self.records
            .remove(&(tenant.clone(), kind.clone(), key.clone()));
        Ok(())
    }

    fn owner(&self, kind: &Kind, key: &Key) -> Result<Option<Owner>, Infallible> {
        Ok(self.owners.get(&(kind.clone(), key.clone())).cloned())
    }

    fn set_owner(
        &mut self,
        kind: &Kind,
        key: &Key,
        owner: Option<&Owner>,
    ) -> Result<(), Infallible> {
        let name = (kind.clone(), key.clone());
        match owner {
            Some(owner) => self.owners.insert(name, owner.clone()),
            None => self.owners.remove(&name),
        };
        Ok(())
    }

    fn is_synced(&self, kind: &Kind) -> Result<bool, Infallible> {
        Ok(self.synced.contains(kind))
    }

    fn set_blind(&mut self, kind: &Kind, tenant: &TenantId, blind: bool) -> Result<(), Infallible> {
        let entry = (kind.clone(), tenant.clone());
        match blind {
            true => self.blind.insert(entry),
            false => self.blind.remove(&entry),
        };
        Ok(())
    }
}

fn random_bundle(random: &mut StdRng, tenant_: TenantId) -> Bundle {
    let mut held_kinds: Vec<HeldKind> = Vec::new();
    for kind_ in KINDS {
        if random.random_ratio(1, 12) {
            held_kinds.push(held_kind(kind_));
        }
    }
    let (mut contexts, mut names): (Vec<_>, Vec<Held>) = (Vec::new(), Vec::new());
    for (kind_, number) in KINDS
        .iter()
        .flat_map(|kind_| (0..KEYS).map(move |n| (kind_, n)))
    {
        let whole = held_kinds.iter().any(|held| held.kind.as_str() == *kind_);
        match random.random_range(0..10) {
            0..=2 if !whole => {
                let value = random.random_range(0..3_u32).to_string();
                let mut made = context(kind_, &format!("k{number}"), &value);
                made.expires = random.random_ratio(1, 4).then_some(i64::from(number));
                contexts.push(made);
            }
            3 => {
                let mut made = held(kind_, &format!("k{number}"));
                // A held kind keeps all its names; only what belongs to others may stand beside it.
                if whole || random.random_ratio(1, 3) {
                    let owner = tenant("t0");
                    made.why = HoldReason::KeyTaken { owner };
                }
                names.push(made);
            }
            _ => {}
        }
    }
    match random.random_ratio(1, 8) {
        true => Bundle::empty(tenant_),
        false => Bundle::new(tenant_, contexts, names, held_kinds).expect("a bundle"),
    }
}

fn random_push(random: &mut StdRng, n: u64) -> Vec<Sent> {
    let count = random.random_range(1..=3);
    let mut sent = Vec::new();
    for _ in 0..count {
        let tenant_ = tenant(&format!("t{}", random.random_range(0..TENANTS)));
        let bundle = Arc::new(random_bundle(random, tenant_));
        sent.push(Sent {
            version: version(1, n),
            bundle,
        });
    }
    sent
}

fn assert_same<T: StoreTxn>(file: &T, maps: &Maps, at: &str)
where
    T::Error: Debug,
{
    for number in 0..TENANTS {
        let tenant_ = tenant(&format!("t{number}"));
        assert_eq!(
            file.head(&tenant_).expect("reads"),
            maps.head(&tenant_).expect("reads"),
            "{at}: head of {tenant_}"
        );
        assert_eq!(
            file.records(&tenant_).expect("reads"),
            maps.records(&tenant_).expect("reads"),
            "{at}: {tenant_}"
        );
    }
    for (kind_, number) in KINDS
        .iter()
        .flat_map(|kind_| (0..KEYS).map(move |n| (kind_, n)))
    {
        let (kind_, key_) = (kind(kind_), key(&format!("k{number}")));
        let (ours, theirs) = (
            file.owner(&kind_, &key_).expect("reads"),
            maps.owner(&kind_, &key_).expect("reads"),
        );
        assert_eq!(ours, theirs, "{at}: owner of {kind_} {key_}");
    }
}

fn follow(buckets: &mut Buckets, key_: &DigestKey, applied: &Applied) {
    for moved in &applied.moved {
        if let Some(before) = &moved.before {
            buckets.remove(key_, &moved.tenant, before);
        }
        if let Some(after) = &moved.after {
            buckets.add(key_, &moved.tenant, after);
        }
    }
}

/// A new file that has its digest key, and is synced for the first kind.
fn new_file(dir: &TempDir) -> Db {
    let (db, loaded) = open_store(dir.path());
    let claimed = Meta {
        digest_key: Some(digest_key()),
        synced_kinds: Arc::new([kind(KINDS[0])].into()),
        ..loaded.meta
    };
    let txn = db.write().expect("begins");
    let mut tables = Tables::open(&txn).expect("opens");
    claimed
        .save_whole(&mut tables, Clock::new().reading(), 0)
        .expect("saves");
    drop(tables);
    txn.commit().expect("commits");
    db
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().expect("a directory");
    let db = new_file(&dir);
    let key_ = digest_key();
    let (mut buckets, mut contexts) = (Buckets::default(), 0_i64);
    let mut maps = Maps::default();
    maps.synced.insert(kind(KINDS[0]));
    for n in 1..=60 {
        let at = format!("seed {seed}, push {n}");
        let push = random_push(&mut random, n);
        let txn = db.write().expect("begins");
        let mut tables = Tables::open(&txn).expect("opens");
        let mut file = Txn::new(&mut tables, &key_);
        let applied = apply(&mut file, &key_, &push).expect("applies");
        let mut after = maps.clone();
        assert_eq!(
            applied,
            apply(&mut after, &key_, &push).expect("reads"),
            "{at}"
        );
        assert_same(&file, &after, &at);
        drop(tables);
        if random.random_ratio(1, 5) {
            drop(txn);
            continue;
        }
        txn.commit().expect("commits");
        maps = after;
        follow(&mut buckets, &key_, &applied);
        contexts += applied.contexts;
    }
    drop(db);
    let (db, loaded) = open_store(dir.path());
    assert_eq!(
        loaded.buckets, buckets,
        "seed {seed}: what was kept in memory is what the file says"
    );
    assert_eq!(
        (loaded.contexts, loaded.bundles),
        (contexts as u64, maps.heads.len() as u64)
    );
    let audited = audit::run(&db, &key_).expect("audits");
    assert_eq!(audited.findings, BTreeMap::new(), "seed {seed}");
    let txn = db.write().expect("begins");
    let still_synced = txn.open_table(SYNCED).expect("opens");
    let synced = redb::ReadableTableMetadata::len(&still_synced).expect("counted");
    assert_eq!(
        synced, 1,
        "seed {seed}: an audit of a sound file takes nothing back"
    );
}

#[test]
fn the_file_decides_like_plain_maps() {
    (0..12).for_each(run);
}
