//! A process that is killed at the worst moments, and one that is asked to end.

use super::support::*;
use contexts::push::Verdict;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use tempfile::TempDir;

async fn push_into_a_kill(failpoint: &str) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let mut agent = Process::start(dir.path(), Some(failpoint));
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("t", vec![context("k", "acked", "1")])])
        .await;
    let push = hub.next_push(vec![bundle("t", vec![context("k", "new", "2")])]);
    let body = contexts::push::encode(&push).expect("encodes");
    assert!(
        hub.post("push", TOKEN, body).await.is_err(),
        "nobody answers"
    );
    assert_eq!(agent.wait().signal(), Some(9));
    dir
}

#[tokio::test]
async fn before_the_commit_a_kill_loses_the_push_and_nothing_that_was_acked() {
    for failpoint in ["agent.after_decode:2=kill", "agent.before_commit:2=kill"] {
        let dir = push_into_a_kill(failpoint).await;
        let agent = Process::start(dir.path(), None);
        assert_eq!(
            agent.look_up("k", "acked").await,
            (200, "1".into()),
            "{failpoint}"
        );
        assert_eq!(agent.look_up("k", "new").await.0, 503, "{failpoint}");
    }
}

#[tokio::test]
async fn once_it_is_durable_a_kill_loses_the_answer_only() {
    for failpoint in ["agent.after_log:2=kill", "agent.after_commit:2=kill"] {
        the_push_is_there(push_into_a_kill(failpoint).await).await;
    }
}

async fn the_push_is_there(dir: TempDir) {
    let agent = Process::start(dir.path(), None);
    assert_eq!(agent.look_up("k", "new").await, (200, "2".into()));
    assert_eq!(agent.look_up("k", "acked").await.0, 503);
    let mut hub = agent.hub(1);
    let state = hub.claim().await.expect("the same holder claims again");
    let expected = bundle("t", vec![context("k", "new", "2")]);
    assert_eq!(
        state.root,
        Some(digest_key().root(&buckets_of(&[&expected])))
    );
}

/// Pushes of `size` bytes each until `to`, each to the same key.
async fn push_numbers(hub: &mut Hub, numbers: std::ops::RangeInclusive<u32>, size: usize) {
    for n in numbers {
        let value = format!("[{n},\"{}\"]", "x".repeat(size));
        let pushed = hub.push(vec![bundle("t", vec![context("k", "n", &value)])]);
        assert_eq!(pushed.await, [Verdict::Applied], "{n}");
    }
}

async fn number(agent: &Process) -> u32 {
    let (status, body) = agent.look_up("k", "n").await;
    assert_eq!(status, 200, "{body}");
    let digits = body.trim_start_matches('[').split(',').next();
    digits.and_then(|d| d.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_kill_after_many_pushes_loses_none() {
    // Each is more than the redo log takes before a durable commit; one push of the third is.
    for (pushes, size) in [(600, 10), (80, 50_000), (3, 2_000_000)] {
        let dir = TempDir::new().expect("a directory");
        let mut agent = Process::start(dir.path(), None);
        let mut hub = agent.hub(1);
        hub.claim().await.expect("granted");
        push_numbers(&mut hub, 1..=pushes, size).await;
        for again in [1, 2] {
            agent.signal(Signal::KILL);
            agent.wait();
            agent = Process::start(dir.path(), None);
            assert_eq!(number(&agent).await, pushes, "{size} bytes, start {again}");
        }
        let mut hub = agent.hub(1);
        hub.claim().await.expect("granted again");
        push_numbers(&mut hub, pushes + 1..=pushes + 5, size).await;
        assert_eq!(number(&agent).await, pushes + 5);
    }
}

#[tokio::test]
async fn a_store_file_from_a_copy_takes_nothing_from_the_log_of_a_later_one() {
    let dir = TempDir::new().expect("a directory");
    let (store, copy) = (dir.path().join("store.redb"), dir.path().join("copy"));
    let mut agent = Process::start(dir.path(), None);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    push_numbers(&mut hub, 1..=7, 10).await;
    agent.signal(Signal::TERM);
    agent.wait();
    std::fs::copy(&store, &copy).expect("copies");
    agent = Process::start(dir.path(), None);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    push_numbers(&mut hub, 8..=20, 10).await;
    agent.signal(Signal::KILL);
    agent.wait();
    std::fs::copy(&copy, &store).expect("puts back");
    let agent = Process::start(dir.path(), None);
    assert_eq!(number(&agent).await, 7);
}

#[tokio::test]
async fn asked_to_end_it_ends_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = TempDir::new().expect("a directory");
        let mut agent = Process::start(dir.path(), None);
        agent.hub(1).claim().await.expect("granted");
        agent.signal(signal);
        assert_eq!(agent.wait().code(), Some(0));
    }
}
