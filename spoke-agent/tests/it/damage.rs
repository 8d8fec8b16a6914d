//! Files that something else has changed: what is mended, what is refused, and what is never said of them.

use super::support::*;
use contexts::push::{SyncVerdict, Verdict};
use contexts::version::{Holder, Term};
use insta::assert_snapshot;
use redb::ReadableTable;
use spoke_agent::agent::StartError;
use spoke_agent::store::redb::rows;
use spoke_agent::store::redb::scrub::Scrub;
use spoke_agent::store::redb::tables::{BUNDLES, CONTEXTS, META, OWNERS};
use std::sync::Arc;
use tempfile::TempDir;

type Row = (&'static [u8], &'static [u8], &'static [u8]);
const ROW: Row = (b"t", b"k", b"a");

/// A stopped agent that was in step, with two contexts of one tenant.
async fn stopped() -> Arc<TempDir> {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content()]).await;
    let verdict = hub.synced(&["k"], &[&content()]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    spoke.stop().await
}

fn content() -> contexts::bundle::Bundle {
    bundle(
        "t",
        vec![context("k", "a", "\"good\""), context("k", "b", "2")],
    )
}

/// Changes the bytes of one record.
fn edit(dir: &TempDir, change: impl FnOnce(&mut Vec<u8>)) {
    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(CONTEXTS).expect("opens");
        let mut bytes = table
            .get(ROW)
            .expect("reads")
            .expect("there")
            .value()
            .to_vec();
        change(&mut bytes);
        table.insert(ROW, bytes.as_slice()).expect("inserts");
    });
}

/// What differs is seen by the hub, is not served meanwhile, and is right again after a push.
async fn is_seen_and_healed(dir: Arc<TempDir>) {
    let spoke = Spoke::start_in(dir).await.expect("starts");
    assert_eq!(
        spoke.look_up("k", "a").await,
        (503, r#"{"error":"not_ready"}"#.into())
    );
    let mut hub = spoke.hub(1);
    let state = hub.claim().await.expect("granted");
    assert_ne!(
        state.root,
        Some(digest_key().root(&buckets_of(&[&content()]))),
        "the hub sees it"
    );
    assert_eq!(hub.push(vec![content()]).await, [Verdict::Applied]);
    let verdict = hub.synced(&["k"], &[&content()]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    assert_eq!(spoke.look_up("k", "a").await, (200, "\"good\"".into()));
    assert_eq!(spoke.look_up("k", "none").await.0, 404);
}

#[tokio::test]
async fn a_scrub_finds_rot_wherever_it_is_and_rests_in_between() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let many = (0..1_200).map(|n| context("k", &format!("k{n:04}"), "\"good\""));
    hub.push(vec![bundle("t", many.collect())]).await;
    let dir = spoke.stop().await;
    for rotten in ["k0000", "k0500", "k0501", "k1199"] {
        let (db, _) = open_store(dir.path());
        let mut scrub = Scrub::default();
        let pass = |scrub: &mut Scrub, from: u64| {
            let steps = (from..from + 5).map(|at| scrub.step(&db, &digest_key(), at));
            steps
                .filter(|found| *found.as_ref().expect("reads"))
                .count()
        };
        assert_eq!(pass(&mut scrub, 0), 0, "nothing is wrong yet");
        let flip = || {
            let txn = db.write().expect("begins");
            let mut table = txn.open_table(CONTEXTS).expect("opens");
            let row: Row = (b"t", b"k", rotten.as_bytes());
            let mut record = table
                .get(row)
                .expect("reads")
                .expect("there")
                .value()
                .to_vec();
            *record.last_mut().expect("bytes") ^= 1;
            table.insert(row, record.as_slice()).expect("inserts");
            drop(table);
            txn.commit().expect("commits");
        };
        flip();
        assert_eq!(pass(&mut scrub, 100), 0, "it rests");
        assert_eq!(
            pass(&mut scrub, 3_600_000_000),
            1,
            "{rotten} is found, once in a pass"
        );
        flip();
    }
}

#[tokio::test]
async fn an_edited_value_is_not_served_and_shows_in_the_buckets() {
    let dir = stopped().await;
    edit(&dir, |bytes| *bytes.last_mut().expect("bytes") ^= 1);
    let spoke = Spoke::start_in(dir).await.expect("starts");
    assert_eq!(spoke.look_up("k", "b").await.0, 200, "its neighbour is");
    // Another start must not take the edit for the truth.
    is_seen_and_healed(spoke.stop().await).await;
}

#[tokio::test]
async fn an_edited_hash_is_treated_like_an_edited_value() {
    let dir = stopped().await;
    edit(&dir, |bytes| bytes[0] ^= 1);
    is_seen_and_healed(dir).await;
}

#[tokio::test]
async fn a_record_that_is_cut_off_is_not_served() {
    let dir = stopped().await;
    edit(&dir, |bytes| bytes.truncate(3));
    is_seen_and_healed(dir).await;
}

#[tokio::test]
async fn a_lost_record_is_not_ready_rather_than_absent() {
    let dir = stopped().await;
    tamper(dir.path(), |txn| {
        txn.open_table(CONTEXTS)
            .expect("opens")
            .remove(ROW)
            .expect("removes");
    });
    is_seen_and_healed(dir).await;
}

#[tokio::test]
async fn a_lost_head_takes_its_records_along_and_the_knowledge_of_absence() {
    let dir = stopped().await;
    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(BUNDLES).expect("opens");
        table.retain(|_, _| false).expect("removes");
    });
    is_seen_and_healed(dir).await;
}

#[tokio::test]
async fn an_edited_head_is_computed_again_and_an_unreadable_one_is_dropped() {
    let dir = stopped().await;
    let place = (digest_key().bucket(&tenant("t")) as u16, b"t".as_slice());
    let change = |change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        tamper(dir.path(), |txn| {
            let mut table = txn.open_table(BUNDLES).expect("opens");
            let bytes = table
                .get(place)
                .expect("reads")
                .expect("there")
                .value()
                .to_vec();
            table
                .insert(place, change(bytes).as_slice())
                .expect("inserts");
        });
    };
    change(&|bytes| {
        let mut head = rows::head(&bytes).expect("a head");
        (head.digest.0[3], head.contexts) = (head.digest.0[3] ^ 1, 77);
        rows::encode(&head).expect("encodes")
    });
    let (db, loaded) = open_store(dir.path());
    assert_eq!(
        (loaded.buckets, loaded.contexts),
        (buckets_of(&[&content()]), 2)
    );
    drop(db);
    change(&|_| vec![0xff; 3]);
    is_seen_and_healed(dir).await;
}

#[tokio::test]
async fn a_lost_owner_is_found_again_from_its_record() {
    let dir = stopped().await;
    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(OWNERS).expect("opens");
        table
            .remove((b"k".as_slice(), b"a".as_slice()))
            .expect("removes");
    });
    let spoke = Spoke::start_in(dir).await.expect("starts");
    // That there is no such key it says once it has checked its file; until then it does not know of this one either.
    while spoke.look_up("k", "none").await.0 != 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(spoke.look_up("k", "a").await, (200, "\"good\"".into()));
}

#[tokio::test]
async fn damage_while_it_runs_is_found_when_the_hub_asks_for_it() {
    let dir = stopped().await;
    let spoke = Spoke::start_in(dir).await.expect("starts");
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let began = hub.hello().await;
    let mut reread = hub.next_synced(&["k"], &buckets_of(&[&content()]), &began);
    reread.reread = true;
    let verdict: SyncVerdict = hub.call("synced", &reread).await.expect("answered");
    assert!(
        matches!(verdict, SyncVerdict::InStep { .. }),
        "nothing is wrong: {verdict:?}"
    );
}

#[tokio::test]
async fn an_impossible_epoch_or_an_unreadable_fact_empties_the_store() {
    let impossible = Term {
        epoch: (1 << 48) + 1,
        holder: Holder(1),
    };
    let facts = [
        ("granted", rows::encode(&impossible).expect("encodes")),
        ("digest_key", vec![1]),
    ];
    for (name, bytes) in facts {
        let dir = stopped().await;
        let before = open_store(dir.path()).1.meta.store;
        tamper(dir.path(), |txn| {
            let mut table = txn.open_table(META).expect("opens");
            table.insert(name, bytes.as_slice()).expect("inserts");
        });
        let spoke = Spoke::start_in(dir).await.expect("starts");
        assert_eq!(spoke.look_up("k", "a").await.0, 503, "{name}");
        let state = spoke.hub(1).hello().await;
        assert_eq!(
            (state.granted, state.bundles, state.last_synced),
            (None, 0, None),
            "{name}"
        );
        assert_ne!(state.store, before, "{name}");
    }
}

fn refusal(spoke: Result<Spoke, StartError>, dir: &TempDir) -> String {
    let error = spoke.err().expect("does not start");
    assert!(error.is_configuration());
    error
        .to_string()
        .replace(&dir.path().display().to_string(), "DIR")
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused_and_left_as_they_are() {
    let dir = stopped().await;
    let first = Spoke::start_in(dir.clone()).await.expect("starts");
    let locked = refusal(Spoke::start_in(dir.clone()).await, &dir);
    assert_snapshot!(locked, @"data: DIR/store.redb is in use by another process; each agent needs a file of its own");
    drop(first.stop().await);

    let mut elsewhere = config(dir.path());
    elsewhere.region = contexts::name::Region::new("us-east-1").expect("a region");
    let other_region = refusal(Spoke::start_with(dir.clone(), elsewhere).await, &dir);
    assert_snapshot!(other_region, @r#"data: DIR/store.redb is the store of region "eu-west-1", this agent serves "us-east-1"; correct `region` or `data`"#);

    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(META).expect("opens");
        let format = rows::encode(&99_u32).expect("encodes");
        table.insert("format", format.as_slice()).expect("inserts");
    });
    assert_snapshot!(refusal(Spoke::start_in(dir.clone()).await, &dir), @"data: DIR/store.redb has format 99, this release knows 3; use the release that wrote it, or move the file away and let the hub fill a new one");

    let log = file(dir.path(), "store.redb.redo", "not a log");
    file(dir.path(), "store.redb", "not a database");
    assert_snapshot!(refusal(Spoke::start_in(dir.clone()).await, &dir), @"data: DIR/store.redb is not the store of a spoke-agent (it is no redb file); name another file, or move this one away");
    let left = std::fs::read_to_string(dir.path().join("store.redb")).expect("there");
    assert_eq!(left, "not a database");
    let left = std::fs::read_to_string(log).expect("there");
    assert_eq!(left, "not a log", "beside a file that is not ours");

    std::fs::remove_file(dir.path().join("store.redb")).expect("removed");
    let foreign = redb::Database::create(dir.path().join("store.redb")).expect("created");
    let txn = foreign.begin_write().expect("begins");
    let definition: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("other");
    txn.open_table(definition).expect("opens");
    txn.commit().expect("commits");
    drop(foreign);
    assert_snapshot!(refusal(Spoke::start_in(dir.clone()).await, &dir), @"data: DIR/store.redb is not the store of a spoke-agent (a redb file with other tables); name another file, or move this one away");
}
