//! A file that cannot grow: the push is refused, what was acked is served, and the agent goes on without a restart.

use super::support::*;
use contexts::push::{Pushed, Refused, Verdict};
use rustix::process::Signal;
use spoke_agent::store::redb::tables::BUNDLES;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Blocks of 512 bytes: enough for all that the tests do, and less than anything that redb writes but its header.
const ROOM: u32 = 1 << 20;
const FULL: u32 = 128;

#[tokio::test]
async fn a_full_disk_costs_the_push_and_the_session_and_nothing_else() {
    let dir = TempDir::new().expect("a directory");
    // 4 MiB: enough for a new file and little more.
    let agent = Process::start_with_limit(dir.path(), 8192);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    let small = bundle("t", vec![context("k", "small", "1")]);
    assert_eq!(hub.push(vec![small.clone()]).await, [Verdict::Applied]);

    let large = format!("\"{}\"", "x".repeat(8 << 20));
    let too_large = hub.next_push(vec![bundle("t", vec![context("k", "large", &large)])]);
    let refused = hub.call::<Pushed>("push", &too_large).await;
    assert!(
        matches!(refused, Err(Refused::Storage { .. })),
        "{refused:?}"
    );
    assert_eq!(
        hub.heartbeat(None).await,
        Err(Refused::Session),
        "the hub has to compare"
    );

    assert_eq!(agent.look_up("k", "small").await, (200, "1".into()));
    assert_eq!(agent.look_up("k", "large").await.0, 503);
    let state = hub.claim().await.expect("granted again");
    assert_eq!(state.root, Some(digest_key().root(&buckets_of(&[&small]))));
    let next = bundle("t", vec![context("k", "small", "2")]);
    assert_eq!(hub.push(vec![next]).await, [Verdict::Applied]);
    assert_eq!(agent.look_up("k", "small").await, (200, "2".into()));
}

/// An agent with some content, on a disk that is full from then on but for what the redo log has already.
async fn on_a_full_disk(dir: &TempDir) -> (Process, Hub) {
    let agent = Process::start_with_limit(dir.path(), ROOM);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    let many = |n| context("k", &format!("k{n}"), &format!("\"{}\"", "x".repeat(500)));
    hub.push(vec![bundle("many", (0..3000).map(many).collect())])
        .await;
    hub.synced(&[], &[]).await;
    agent.limit(u64::from(FULL));
    (agent, hub)
}

/// Pushes numbers until one is refused, and returns the last that was not.
async fn push_until(hub: &mut Hub, numbers: std::ops::Range<u32>) -> u32 {
    let mut acked = 0;
    for n in numbers {
        let number = bundle("t", vec![context("k", "n", &n.to_string())]);
        let push = hub.next_push(vec![number]);
        match hub.call::<Pushed>("push", &push).await {
            Ok(_) => acked = n,
            Err(_) => break,
        }
    }
    acked
}

/// Reads for a while: not always an answer, but never an older one.
async fn reads_nothing_before(agent: &Process, acked: u32, seconds: u64) {
    let (end, mut answers) = (Instant::now() + Duration::from_secs(seconds), 0);
    // On a busy machine it takes longer until enough are answered.
    while Instant::now() < end || answers <= 10 {
        let (status, body) = agent.look_up("k", "n").await;
        if status == 200 {
            assert_eq!(body, acked.to_string());
            answers += 1;
        } else {
            assert!(body.contains("storage"), "{status} {body}");
        }
    }
    assert_eq!(agent.look_up("k", "n").await, (200, acked.to_string()));
}

#[tokio::test]
async fn what_was_acked_is_served_and_kept_on_a_full_disk() {
    let dir = TempDir::new().expect("a directory");
    let (mut agent, mut hub) = on_a_full_disk(&dir).await;
    let acked = push_until(&mut hub, 1..50).await;
    assert!(acked > 10, "the redo log has room: {acked}");
    // Meanwhile the agent tries to make the file durable, and has to open it again.
    reads_nothing_before(&agent, acked, 3).await;
    assert_eq!(
        hub.heartbeat(None).await,
        Err(Refused::Session),
        "it failed"
    );
    let refused = hub.claim().await;
    assert!(matches!(refused, Err(Refused::Storage { .. })));
    reads_nothing_before(&agent, acked, 1).await;

    for _ in 0..2 {
        agent.signal(Signal::KILL);
        agent.wait();
        agent = Process::start_with_limit(dir.path(), FULL);
        reads_nothing_before(&agent, acked, 1).await;
    }
    agent.limit(u64::from(ROOM));
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    let acked = push_until(&mut hub, 100..150).await;
    assert_eq!(acked, 149);
    agent.signal(Signal::KILL);
    agent.wait();
    let agent = Process::start(dir.path(), None);
    reads_nothing_before(&agent, acked, 1).await;
}

#[tokio::test]
async fn damage_that_a_full_disk_does_not_let_mend_is_a_full_disk() {
    let dir = TempDir::new().expect("a directory");
    let (mut agent, _) = on_a_full_disk(&dir).await;
    agent.signal(Signal::KILL);
    agent.wait();
    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(BUNDLES).expect("opens");
        table.retain(|_, _| false).expect("removes");
    });
    let agent = Process::start_with_limit(dir.path(), FULL);
    assert_eq!(agent.look_up("k", "k1").await.0, 503);
    let mut hub = agent.hub(2);
    let refused = hub.claim().await.expect_err("nothing can be mended yet");
    let why = format!("{refused:?}");
    assert!(matches!(refused, Refused::Storage { .. }), "{why}");
    assert!(
        !why.contains("damaged"),
        "nothing that makes a person move it away: {why}"
    );

    agent.limit(u64::from(ROOM));
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut granted = hub.claim().await;
    while let Err(Refused::Busy { .. }) = granted {
        assert!(Instant::now() < deadline, "the store stays busy");
        tokio::time::sleep(Duration::from_millis(100)).await;
        granted = hub.claim().await;
    }
    assert_eq!(granted.expect("granted").bundles, 0, "mended");
    let next = bundle("t", vec![context("k", "k1", "2")]);
    assert_eq!(hub.push(vec![next]).await, [Verdict::Applied]);
    assert_eq!(agent.look_up("k", "k1").await, (200, "2".into()));
}
