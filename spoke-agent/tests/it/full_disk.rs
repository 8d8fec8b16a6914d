//! A file that cannot grow: the push is refused, what was acked is served, and the agent goes on without a restart.

use super::support::*;
use contexts::push::{Pushed, Refused, Verdict};
use tempfile::TempDir;

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
