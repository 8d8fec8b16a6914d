//! What the redo log and the store file are to one another: after a kill, after damage, and in other lives of the file.

use super::support::*;
use contexts::apply::apply_changes;
use contexts::bundle::Bundle;
use contexts::delta::Change;
use contexts::push::{Sent, SyncVerdict, Verdict};
use contexts::version::{Holder, Term};
use insta::assert_snapshot;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use spoke_agent::clock::Clock;
use spoke_agent::store::index::Lookup;
use spoke_agent::store::redb::changes::{self, Notes};
use spoke_agent::store::redb::db::Db;
use spoke_agent::store::redb::meta::{FORMAT, Meta};
use spoke_agent::store::redb::reader::Snapshot;
use spoke_agent::store::redb::replay::Record;
use spoke_agent::store::redb::tables::{BUNDLES, META, Tables};
use spoke_agent::store::redb::txn::Txn;
use spoke_agent::store::redb::{open, redo, rows};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn one(tenant: &str, key: &str, value: &str) -> Bundle {
    bundle(tenant, vec![context("k", key, value)])
}

/// A killed agent that was in step with `rotten` and `sound`, whose pushes that followed are in the log only.
async fn killed() -> Arc<TempDir> {
    let dir = TempDir::new().expect("a directory");
    let mut agent = Process::start(dir.path(), None);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    let (a, b) = (one("rotten", "a", "1"), one("sound", "b", "1"));
    hub.push(vec![a.clone(), b.clone()]).await;
    let verdict = hub.synced(&["k"], &[&a, &b]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    for n in 2..=5 {
        let (a, b) = (
            one("rotten", "a", &n.to_string()),
            one("sound", "b", &n.to_string()),
        );
        assert_eq!(
            hub.push(vec![a, b]).await,
            [Verdict::Applied, Verdict::Applied]
        );
    }
    agent.signal(Signal::KILL);
    agent.wait();
    Arc::new(dir)
}

fn log_of(dir: &TempDir) -> PathBuf {
    redo::path_of(&dir.path().join("store.redb"))
}

fn set_fact(dir: &Path, name: &str, bytes: &[u8]) {
    tamper(dir, |txn| {
        let mut table = txn.open_table(META).expect("opens");
        table.insert(name, bytes).expect("inserts");
    });
}

#[tokio::test]
async fn a_rotten_row_that_the_log_meets_costs_nobody_anything() {
    let dir = killed().await;
    tamper(dir.path(), |txn| {
        let place = (
            digest_key().bucket(&tenant("rotten")) as u16,
            b"rotten".as_slice(),
        );
        let mut table = txn.open_table(BUNDLES).expect("opens");
        table.insert(place, [0xff; 3].as_slice()).expect("inserts");
    });
    for _ in 0..2 {
        let spoke = Spoke::start_in(dir.clone()).await.expect("starts");
        assert_eq!(spoke.look_up("k", "a").await, (200, "5".into()));
        assert_eq!(spoke.look_up("k", "b").await, (200, "5".into()));
        assert_eq!(spoke.look_up("k", "none").await.0, 503, "it was mended");
        spoke.stop().await;
    }
}

#[tokio::test]
async fn an_unreadable_mark_costs_what_the_log_has_and_no_more() {
    let dir = killed().await;
    set_fact(dir.path(), "redo", &[]);
    let spoke = Spoke::start_in(dir).await.expect("starts");
    assert_eq!(spoke.look_up("k", "a").await, (200, "1".into()));
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    assert_eq!(
        hub.push(vec![one("rotten", "a", "6")]).await,
        [Verdict::Applied]
    );
    assert_eq!(spoke.look_up("k", "a").await, (200, "6".into()));
}

/// Another program, or another life of the file, granted it to somebody else: what the log has came before.
#[tokio::test]
async fn what_was_pushed_under_another_grant_is_not_applied() {
    let dir = killed().await;
    let other = Term {
        epoch: 2,
        holder: Holder(2),
    };
    let bytes = rows::encode(&other).expect("encodes");
    set_fact(dir.path(), "granted", &bytes);
    let spoke = Spoke::start_in(dir).await.expect("starts");
    assert_eq!(spoke.look_up("k", "a").await, (200, "1".into()));
    assert_eq!(
        spoke.look_up("k", "none").await.0,
        503,
        "a key may be missing"
    );
}

#[tokio::test]
async fn a_file_of_format_1_is_taken_over_by_the_first_claim() {
    let dir = killed().await;
    set_fact(
        dir.path(),
        "format",
        &rows::encode(&1_u32).expect("encodes"),
    );
    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(META).expect("opens");
        table.remove("redo").expect("removes");
    });
    let spoke = Spoke::start_in(dir.clone()).await.expect("starts");
    assert_eq!(spoke.look_up("k", "a").await, (200, "1".into()));
    spoke.hub(1).claim().await.expect("granted");
    spoke.stop().await;
    tamper(dir.path(), |txn| {
        let table = txn.open_table(META).expect("opens");
        let format = redb::ReadableTable::get(&table, "format").expect("reads");
        let bytes = format.expect("there").value().to_vec();
        assert_eq!(
            rows::decode::<u32>(&bytes, "format").expect("a number"),
            FORMAT
        );
    });
}

#[tokio::test]
async fn without_its_log_a_store_has_what_it_has() {
    let dir = killed().await;
    std::fs::remove_file(log_of(&dir)).expect("removed");
    for _ in 0..2 {
        let spoke = Spoke::start_in(dir.clone()).await.expect("starts");
        assert_eq!(spoke.look_up("k", "a").await, (200, "1".into()));
        spoke.stop().await;
    }
}

#[tokio::test]
async fn a_log_that_is_none_is_refused_and_left_as_it_is() {
    let dir = killed().await;
    let log = file(dir.path(), "store.redb.redo", "letters");
    let refused = Spoke::start_in(dir.clone()).await.err().expect("refused");
    let refused = refused
        .to_string()
        .replace(&dir.path().display().to_string(), "DIR");
    assert_snapshot!(refused, @"data: DIR/store.redb cannot be opened: DIR/store.redb.redo: this is not the redo log of a spoke-agent; move it away, or name another file as `data`");
    let left = std::fs::read_to_string(&log).expect("there");
    assert_eq!(left, "letters");
}

#[tokio::test]
async fn a_log_of_another_length_is_read_all_the_same() {
    for length in [4 << 10, 4 << 20] {
        let dir = killed().await;
        let log = std::fs::OpenOptions::new().write(true).open(log_of(&dir));
        log.expect("opens").set_len(length).expect("sets");
        let spoke = Spoke::start_in(dir).await.expect("starts");
        assert_eq!(spoke.look_up("k", "a").await, (200, "5".into()));
    }
}

#[tokio::test]
async fn a_link_and_its_target_have_one_log() {
    let (dir, links) = (killed().await, TempDir::new().expect("a directory"));
    let link = links.path().join("store.redb");
    std::os::unix::fs::symlink(dir.path().join("store.redb"), &link).expect("links");
    let mut agent = Process::start(links.path(), None);
    assert_eq!(agent.look_up("k", "a").await, (200, "5".into()));
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![one("sound", "b", "6")]).await;
    agent.signal(Signal::KILL);
    agent.wait();
    let agent = Process::start(dir.path(), None);
    assert_eq!(agent.look_up("k", "b").await, (200, "6".into()));
    assert!(!redo::path_of(&link).exists());
}

#[tokio::test]
async fn a_beat_is_durable_and_leaves_the_store_file_alone() {
    let dir = TempDir::new().expect("a directory");
    let mut agent = Process::start(dir.path(), None);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    hub.synced(&[], &[]).await;
    let bytes = || std::fs::read(dir.path().join("store.redb")).expect("reads");
    let before = bytes();
    for beat in 1..=3 {
        let mut push = hub.next_push(vec![]);
        push.beat = Some(beat);
        let _: contexts::push::Pushed = hub.call("push", &push).await.expect("pushed");
    }
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(before == bytes(), "nothing to settle");
    agent.signal(Signal::KILL);
    agent.wait();
    let agent = Process::start(dir.path(), None);
    assert_eq!(agent.hub(1).hello().await.beat, 3);
}

#[tokio::test]
async fn a_push_is_in_the_store_file_soon_after() {
    let dir = TempDir::new().expect("a directory");
    let mut agent = Process::start(dir.path(), None);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![one("sound", "b", "6")]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    agent.signal(Signal::KILL);
    agent.wait();
    std::fs::remove_file(redo::path_of(&dir.path().join("store.redb"))).expect("removed");
    let agent = Process::start(dir.path(), None);
    assert_eq!(agent.look_up("k", "b").await, (200, "6".into()));
}

/// A store file whose one tenant has one context, a number that grows with each commit.
struct Counter {
    dir: TempDir,
    db: Db,
    meta: Meta,
    /// What was written last.
    last: u64,
    /// What readers saw last.
    shown: u64,
    /// The log as it was surely on the disk.
    log_on_disk: Vec<u8>,
}

impl Counter {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let (db, checked) = open_store(dir.path());
        let meta = Meta {
            digest_key: Some(digest_key()),
            ..checked.meta
        };
        let txn = db.write().expect("begins");
        let mut tables = Tables::open(&txn).expect("opens");
        let saved = meta.save_whole(&mut tables, Clock::new().reading(), 0);
        saved.expect("saves");
        drop(tables);
        txn.commit().expect("commits");
        let log_on_disk = std::fs::read(log_of(&dir)).expect("a log");
        Self {
            dir,
            db,
            meta,
            last: 0,
            shown: 0,
            log_on_disk,
        }
    }

    /// Writes the next number as a push does; readers see it if it `is_shown`.
    fn push(&mut self, is_shown: bool) {
        self.last += 1;
        let bundle = Arc::new(one("t", "a", &self.last.to_string()));
        let changes = [Change::Whole(Sent {
            version: version(1, self.last),
            bundle,
        })];
        let txn = self.db.write().expect("begins");
        let mut tables = Tables::open(&txn).expect("opens");
        let mut notes = Notes::default();
        let digest_key = digest_key();
        let mut view = Txn::new(&mut tables, &digest_key, &mut notes);
        let applied = apply_changes(&mut view, &digest_key, &changes).expect("applies");
        assert_eq!(applied.expect("fits").verdicts, [Verdict::Applied]);
        changes::append(&mut tables, &notes.touched()).expect("appends");
        let progress = &self.meta.progress(Clock::new().reading(), 0);
        progress.save(&mut tables.meta).expect("saves");
        drop(tables);
        let record = Record {
            granted: None,
            pushes: vec![&changes],
            progress,
        };
        let record = record.encode().expect("encodes");
        let unseen = txn.commit_logged(&record, true).expect("commits");
        if is_shown {
            unseen.show().expect("is durable");
            self.is_shown();
        }
    }

    fn settle(&mut self) {
        self.db.write().expect("begins").commit().expect("commits");
        self.is_shown();
    }

    fn is_shown(&mut self) {
        self.shown = self.last;
        self.log_on_disk = std::fs::read(log_of(&self.dir)).expect("a log");
    }

    /// Opens the file again, as the writer does after a failure.
    fn reopen(&mut self) {
        self.db.reopen().expect("opens");
        open::load(&self.db, &region(), &Clock::new()).expect("loads");
        let now = self.read();
        assert!((self.shown..=self.last).contains(&now), "{now}");
        self.last = now;
        self.is_shown();
    }

    /// The disk has of the log what was flushed.
    fn lose_what_was_not_flushed(&self) {
        std::fs::write(log_of(&self.dir), &self.log_on_disk).expect("written");
    }

    fn read(&self) -> u64 {
        number_in(&Snapshot::take(&self.db).expect("reads"))
    }

    /// What another process finds if this one is killed now.
    fn read_after_a_kill(&self) -> u64 {
        let dir = TempDir::new().expect("a directory");
        for name in ["store.redb", "store.redb.redo"] {
            let copied = std::fs::copy(self.dir.path().join(name), dir.path().join(name));
            copied.expect("copied");
        }
        let (db, _) = opened_store(dir.path());
        number_in(&Snapshot::take(&db).expect("reads"))
    }
}

fn number_in(snapshot: &Snapshot) -> u64 {
    match snapshot.look_up("k", "a").expect("reads") {
        Lookup::Found(found, _) => String::from_utf8_lossy(found.bytes())
            .parse()
            .expect("a number"),
        _ => 0,
    }
}

/// Would catch a reader of the file that sees what a crash may still take back, a commit that is lost although somebody saw
/// it, and a record that follows one that never reached the disk.
#[test]
fn what_is_readable_is_durable_whatever_becomes_of_a_flush() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..20 {
        let mut counter = Counter::new();
        for _ in 0..60 {
            match random.random_range(0..20) {
                0..12 => counter.push(true),
                12..14 => counter.settle(),
                14..16 => counter.reopen(),
                fails => {
                    counter.push(false);
                    assert_eq!(counter.read(), counter.shown, "nobody sees it yet");
                    if fails < 18 {
                        counter.lose_what_was_not_flushed();
                    }
                    counter.reopen();
                }
            }
            assert_eq!(counter.read(), counter.shown);
            if random.random_ratio(1, 6) {
                assert_eq!(counter.read_after_a_kill(), counter.shown);
            }
        }
    }
}
