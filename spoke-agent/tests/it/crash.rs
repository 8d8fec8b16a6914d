//! A process that is killed at the worst moments, and one that is asked to end.

use super::support::*;
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
async fn after_the_commit_a_kill_loses_the_answer_only() {
    let dir = push_into_a_kill("agent.after_commit:2=kill").await;
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
