//! The file decides like plain maps do: the same pushes, the same verdicts, the same state, step by step.

use super::support::*;
use contexts::apply::maps::Maps;
use contexts::apply::{Applied, StoreTxn, apply};
use contexts::bundle::{Bundle, Held, HeldKind, HoldReason};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::TenantId;
use contexts::push::Sent;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spoke_agent::clock::Clock;
use spoke_agent::store::index::{Index, Lookup};
use spoke_agent::store::redb::audit;
use spoke_agent::store::redb::changes::{self, Cursor, Notes, Touched};
use spoke_agent::store::redb::db::Db;
use spoke_agent::store::redb::meta::Meta;
use spoke_agent::store::redb::reader::Snapshot;
use spoke_agent::store::redb::tables::{SYNCED, Tables};
use spoke_agent::store::redb::txn::Txn;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use tempfile::TempDir;

const KINDS: [&str; 3] = ["a", "b", "c"];
const KEYS: u32 = 6;
const TENANTS: u32 = 5;
/// Keys that only one tenant ever has: enough of them for a bundle whose values do not carry their version.
const OWN: u32 = 20;

fn shared_names() -> impl Iterator<Item = (&'static str, String)> {
    let of_kind = |kind_| (0..KEYS).map(move |n| (kind_, format!("k{n}")));
    KINDS.into_iter().flat_map(of_kind)
}

fn own_names(tenant_: &TenantId) -> impl Iterator<Item = (&'static str, String)> {
    (0..OWN).map(move |n| (KINDS[n as usize % KINDS.len()], format!("{tenant_}-{n}")))
}

fn all_names() -> impl Iterator<Item = (&'static str, String)> {
    let tenants = (0..TENANTS).map(|n| tenant(&format!("t{n}")));
    shared_names().chain(tenants.flat_map(|t| own_names(&t).collect::<Vec<_>>()))
}

fn random_bundle(random: &mut StdRng, tenant_: TenantId) -> Bundle {
    let mut held_kinds: Vec<HeldKind> = Vec::new();
    for kind_ in KINDS {
        if random.random_ratio(1, 12) {
            held_kinds.push(held_kind(kind_));
        }
    }
    let (mut contexts, mut names): (Vec<_>, Vec<Held>) = (Vec::new(), Vec::new());
    let is_whole = |kind_: &str| held_kinds.iter().any(|held| held.kind.as_str() == kind_);
    for (kind_, name) in shared_names() {
        match random.random_range(0..10) {
            0..=2 if !is_whole(kind_) => {
                let value = random.random_range(0..3_u32).to_string();
                let mut made = context(kind_, &name, &value);
                let expires = random.random_range(0..i64::from(KEYS));
                made.expires = random.random_ratio(1, 4).then_some(expires);
                contexts.push(made);
            }
            3 => {
                let mut made = held(kind_, &name);
                // A held kind keeps all its names; only what belongs to others may stand beside it.
                if is_whole(kind_) || random.random_ratio(1, 3) {
                    let owner = tenant("t0");
                    made.why = HoldReason::KeyTaken { owner };
                }
                names.push(made);
            }
            _ => {}
        }
    }
    if random.random_ratio(1, 3) {
        for (kind_, name) in own_names(&tenant_).filter(|(kind_, _)| !is_whole(kind_)) {
            match random.random_range(0..30) {
                0 => names.push(held(kind_, &name)),
                1..4 => {}
                value => contexts.push(context(kind_, &name, &(value % 2).to_string())),
            }
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
    for (kind_, name) in all_names() {
        let (kind_, key_) = (kind(kind_), key(&name));
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

/// Memory for all of the store, for about the half of it, and for nothing.
const BOUNDS: [usize; 3] = [usize::MAX, 4_000, 0];

/// The indexes that follow the file, those of an earlier state with all that was touched since, and what the file said at
/// each commit.
struct Memory {
    indexes: Vec<Index>,
    late: Vec<Index>,
    missed: Touched,
    said: Vec<(Cursor, Said)>,
}

/// What the file says of each name.
type Said = BTreeMap<(String, String), Lookup>;

fn snapshot(db: &Db) -> Snapshot {
    Snapshot::of(&db.look().expect("opens")).expect("opens")
}

fn all_said(snapshot: &Snapshot) -> Said {
    let look = |(kind, key): (&str, String)| {
        let found = snapshot.look_up(kind, &key).expect("reads");
        ((kind.to_owned(), key), found)
    };
    all_names().map(look).collect()
}

/// What tells two answers apart for whoever follows: the version of a bundle may rise alone.
fn content(lookup: &Lookup) -> String {
    match lookup {
        Lookup::Found(known, _) => format!("{:?} {:?}", known.tenant(), known.bytes()),
        Lookup::Held => "held".to_owned(),
        Lookup::Absent | Lookup::NotReady => "not there".to_owned(),
    }
}

/// The same answer with a value that carries its version, which the file keeps elsewhere.
fn carrying(lookup: &Lookup) -> Lookup {
    match lookup {
        Lookup::Found(known, versions) => {
            Lookup::Found(known.with_version(versions.value), *versions)
        }
        other => other.clone(),
    }
}

/// Brings indexes to the state of the file; they say then what it says.
fn carry_on(snapshot: &Snapshot, indexes: &mut [Index], touched: &Touched, said: &Said, at: &str) {
    for (index, most) in indexes.iter_mut().zip(BOUNDS) {
        snapshot.carry_on(index, touched, most).expect("reads");
        let anew = snapshot.index(most).expect("reads");
        assert_eq!(index.commit(), anew.commit(), "{at}");
        if most == usize::MAX {
            assert!(index.is_whole());
            assert_eq!(
                (index.len(), index.bytes()),
                (anew.len(), anew.bytes()),
                "{at}"
            );
        }
        for ((kind, key), said) in said {
            let known = index.get(kind, key);
            if known.is_none() && !index.is_whole() {
                continue;
            }
            let versions = known.and_then(|known| index.versions(known));
            let answer = Lookup::of(known, versions, || index.is_complete(kind));
            assert_eq!(
                carrying(&answer),
                carrying(said),
                "{at}: {kind} {key} within {most} bytes"
            );
        }
    }
}

impl Memory {
    fn of(db: &Db) -> Self {
        let snapshot = snapshot(db);
        let indexes = BOUNDS.map(|most| snapshot.index(most).expect("reads"));
        Self {
            indexes: indexes.to_vec(),
            late: indexes.to_vec(),
            missed: Touched::default(),
            said: vec![(snapshot.end().expect("has an end"), all_said(&snapshot))],
        }
    }

    fn follow(&mut self, db: &Db, touched: Touched, catches_up: bool, at: &str) {
        let snapshot = snapshot(db);
        let said = all_said(&snapshot);
        carry_on(&snapshot, &mut self.indexes, &touched, &said, at);
        self.missed.add(touched);
        if catches_up {
            let missed = std::mem::take(&mut self.missed);
            let at = format!("{at}, late");
            carry_on(&snapshot, &mut self.late, &missed, &said, &at);
        }
        self.said.push((snapshot.end().expect("has an end"), said));
    }

    fn is_told_of_all_changes(&self, db: &Db, at: &str) {
        let snapshot = snapshot(db);
        let now = all_said(&snapshot);
        for (cursor, then) in &self.said {
            let changes = snapshot.changes_after(*cursor).expect("reads");
            let changes = changes.expect("the log goes that far back");
            for (name, said) in &now {
                if content(&then[name]) == content(said) {
                    continue;
                }
                let is_told = changes.iter().any(|(_, change)| match &change.names {
                    None => matches!(said, Lookup::Found(known, _) if known.tenant() == change.tenant.as_str())
                        || matches!(said, Lookup::Held),
                    Some(names) => names
                        .iter()
                        .any(|(kind, key)| (kind.as_str(), key.as_str()) == (&*name.0, &*name.1)),
                });
                assert!(is_told, "{at}: nobody is told of {name:?} since {cursor}");
            }
            let elsewhere = Cursor {
                tag: cursor.tag ^ 1,
                ..*cursor
            };
            assert!(snapshot.changes_after(elsewhere).expect("reads").is_none());
        }
    }
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().expect("a directory");
    let db = new_file(&dir);
    let key_ = digest_key();
    let (mut buckets, mut contexts) = (Buckets::default(), 0_i64);
    let mut maps = Maps::default();
    maps.synced.insert(kind(KINDS[0]));
    let mut memory = Memory::of(&db);
    for n in 1..=60 {
        let at = format!("seed {seed}, push {n}");
        let push = random_push(&mut random, n);
        let txn = db.write().expect("begins");
        let mut tables = Tables::open(&txn).expect("opens");
        let mut notes = Notes::default();
        let mut file = Txn::new(&mut tables, &key_, &mut notes);
        let applied = apply(&mut file, &key_, &push).expect("applies");
        let mut after = maps.clone();
        assert_eq!(
            applied,
            apply(&mut after, &key_, &push).expect("reads"),
            "{at}"
        );
        assert_same(&file, &after, &at);
        let touched = notes.touched();
        changes::append(&mut tables, &touched).expect("appends");
        drop(tables);
        if random.random_ratio(1, 5) {
            drop(txn);
            continue;
        }
        txn.commit().expect("commits");
        maps = after;
        follow(&mut buckets, &key_, &applied);
        contexts += applied.contexts;
        memory.follow(&db, touched, random.random_ratio(1, 5), &at);
    }
    memory.is_told_of_all_changes(&db, &format!("seed {seed}"));
    drop(memory);
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
