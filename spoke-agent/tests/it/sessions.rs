//! The push side: tokens, claims, sessions, numbers, *synced*.

use super::support::*;
use contexts::bundle::Bundle;
use contexts::digest::DigestKey;
use contexts::name::Region;
use contexts::push::{Ack, Claim, Granted, Hello, Pushed, Refused, SyncVerdict, Verdict, encode};

#[tokio::test]
async fn a_wrong_token_a_wrong_body_and_another_protocol_are_told_apart() {
    let spoke = Spoke::start().await;
    let hub = spoke.hub(1);
    let hello = encode(&Hello).expect("encodes");
    let status = async |token: &str, body: Vec<u8>| {
        hub.post("hello", token, body)
            .await
            .expect("an answer")
            .status()
            .as_u16()
    };
    assert_eq!(status("wrong", hello.clone()).await, 401);
    assert_eq!(status("", vec![]).await, 401);
    assert_eq!(status(TOKEN, vec![]).await, 400);
    assert_eq!(status(TOKEN, vec![1, 9, 9]).await, 400);
    assert_eq!(status(TOKEN, vec![200, 0]).await, 426);
    assert_eq!(status(TOKEN, hello).await, 200);
}

#[tokio::test]
async fn a_grant_is_kept_over_a_restart_and_its_session_is_not() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(4);
    let before = hub.claim().await.expect("granted");
    assert!(before.root.is_some() && before.granted == Some(hub.term));
    let spoke = spoke.restart().await;
    let (session, number) = (hub.session, hub.number);
    hub = spoke.hub(4);
    (hub.session, hub.number) = (session, number);
    let after = hub.hello().await;
    assert_eq!((after.granted, after.store), (before.granted, before.store));
    assert_ne!(after.incarnation, before.incarnation);
    let push = hub.next_push(vec![]);
    assert_eq!(
        hub.call::<Pushed>("push", &push).await,
        Err(Refused::Session)
    );
    assert_eq!(hub.heartbeat(None).await, Err(Refused::Session));
    hub.claim().await.expect("the same holder need not wait");
    let mut older = spoke.hub(3);
    assert!(matches!(older.claim().await, Err(Refused::Fenced { .. })));
}

#[tokio::test]
async fn another_writer_waits_for_silence_unless_the_store_was_released() {
    let spoke = Spoke::start().await;
    let mut first = spoke.hub(1);
    first.claim().await.expect("granted");
    let mut second = spoke.hub(2);
    assert!(matches!(second.claim().await, Err(Refused::Busy { .. })));
    first.release().await.expect("released");
    assert!(second.hello().await.released);
    let state = second.claim().await.expect("granted at once");
    assert!(!state.released);
    assert_eq!(first.heartbeat(None).await, Err(Refused::Session));
    assert_eq!(first.release().await, Err(Refused::Session));
}

#[tokio::test]
async fn a_claim_for_another_region_deployment_or_state_is_refused() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    let seen = hub.hello().await.seen();
    hub.claim().await.expect("granted");
    hub.release().await.expect("released");
    let claim = Claim {
        region: region(),
        term: spoke.hub(2).term,
        seen: hub.hello().await.seen(),
        digest_key: digest_key(),
        force: false,
        known: true,
    };
    let elsewhere = Claim {
        region: Region::new("us-east-1").expect("a region"),
        ..claim.clone()
    };
    let refused = hub.call::<Granted>("claim", &elsewhere).await;
    assert!(matches!(refused, Err(Refused::Region { .. })));
    let foreign = Claim {
        digest_key: DigestKey([8; 32]),
        ..claim.clone()
    };
    assert_eq!(
        hub.call::<Granted>("claim", &foreign).await,
        Err(Refused::Deployment)
    );
    let stale = Claim { seen, ..claim };
    assert_eq!(
        hub.call::<Granted>("claim", &stale).await,
        Err(Refused::Changed)
    );
}

#[tokio::test]
async fn numbers_go_one_by_one_and_a_push_for_another_region_uses_none() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let content = bundle("t", vec![context("k", "a", "1")]);
    assert_eq!(hub.push(vec![content.clone()]).await, [Verdict::Applied]);
    assert_eq!(
        hub.push(vec![content.clone()]).await,
        [Verdict::AlreadyThere]
    );
    let mut elsewhere = hub.next_push(vec![content.clone()]);
    elsewhere.region = Region::new("us-east-1").expect("a region");
    let refused = hub.call::<Pushed>("push", &elsewhere).await;
    assert!(matches!(refused, Err(Refused::Region { .. })));
    elsewhere.region = region();
    assert!(hub.call::<Pushed>("push", &elsewhere).await.is_ok());
    let again = hub.call::<Pushed>("push", &elsewhere).await;
    assert_eq!(
        again,
        Err(Refused::Number {
            expected: 4,
            got: 3
        })
    );
}

#[tokio::test]
async fn synced_compares_and_changes_nothing_if_anything_differs() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let (a, b) = (
        bundle("a", vec![context("k", "a", "1")]),
        bundle("b", vec![context("k", "b", "1")]),
    );
    hub.push(vec![a.clone(), b.clone()]).await;
    match hub.synced(&["k"], &[&a]).await {
        SyncVerdict::Differs { buckets } => {
            assert_eq!(buckets, buckets_of(&[&a, &b]));
            assert_eq!(
                buckets.differing(&buckets_of(&[&a])),
                [digest_key().bucket(&b.tenant) as u16]
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(hub.hello().await.last_synced, None);
    let began = hub.hello().await;
    let mut without_b = hub.next_synced(&["k"], &buckets_of(&[&a]), &began);
    without_b.in_flux = vec![tenant("b"), tenant("b"), tenant("nobody")];
    let verdict: SyncVerdict = hub.call("synced", &without_b).await.expect("answered");
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    let state = hub.hello().await;
    assert_eq!(state.last_synced, Some(without_b.id));
    assert_eq!(
        (state.position, state.synced_kinds),
        (version(1, 1), without_b.kinds)
    );
    assert!(state.age.is_some_and(|age| age < 60.0));
}

#[tokio::test]
async fn a_writer_whose_database_is_another_one_begins_without_an_age() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    assert!(matches!(
        hub.synced(&["k"], &[]).await,
        SyncVerdict::InStep { .. }
    ));
    hub.claim().await.expect("granted again");
    let state = hub.hello().await;
    assert!(state.age.is_some());
    let claim = Claim {
        region: region(),
        term: spoke.hub(2).term,
        seen: state.seen(),
        digest_key: digest_key(),
        force: true,
        known: false,
    };
    let taken: Granted = hub.call("claim", &claim).await.expect("granted");
    assert_eq!((taken.state.age, hub.hello().await.age), (None, None));
}

#[tokio::test]
async fn what_was_synced_is_still_known_after_a_restart_without_the_hub() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let content = bundle("t", vec![context("k", "a", "1")]);
    hub.push(vec![content.clone()]).await;
    hub.synced(&["k"], &[&content]).await;
    hub.heartbeat(Some(version(1, 7))).await.expect("alive");
    let before = hub.hello().await;
    let spoke = spoke.restart().await;
    let after = spoke.hub(1).hello().await;
    assert_eq!(
        after.position,
        version(1, 7),
        "what only a heartbeat said is written at the stop"
    );
    assert_eq!(
        (after.root, after.contexts, after.bundles),
        (before.root, 1, 1)
    );
    assert!(
        after.age >= before.age,
        "{:?} then {:?}",
        before.age,
        after.age
    );
    assert_eq!(spoke.look_up("k", "a").await.0, 200);
    assert_eq!(spoke.look_up("k", "b").await.0, 404);
    assert_eq!(spoke.get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn the_hub_can_list_and_read_what_is_there() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let content = bundle("t", vec![context("k", "a", "1"), context("k", "b", "2")]);
    hub.push(vec![content.clone()]).await;
    let listed = hub.list().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].digest, content.digest(&digest_key()));
    assert_eq!(
        (listed[0].version, &listed[0].tenant),
        (version(1, 1), &content.tenant)
    );
    let read = hub.read(&["t", "nobody"], &[("k", "a"), ("k", "c")]).await;
    assert_eq!(read.tenants[0].contexts, content.contexts);
    assert_eq!(
        (read.tenants[1].version, read.tenants[1].contexts.len()),
        (None, 0)
    );
    assert_eq!(read.owners, [Some(tenant("t")), None]);
}

#[tokio::test]
async fn a_key_that_moves_in_one_push_is_never_absent_and_one_that_is_taken_is_named() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("old", vec![context("k", "a", "1")])])
        .await;
    let taken = hub
        .push(vec![bundle("new", vec![context("k", "a", "2")])])
        .await;
    assert!(matches!(&taken[..], [Verdict::KeyTaken { owner, .. }] if *owner == tenant("old")));
    let moved = vec![
        bundle("new", vec![context("k", "a", "2")]),
        Bundle::empty(tenant("old")),
    ];
    assert_eq!(hub.push(moved).await, [Verdict::Applied, Verdict::Applied]);
    let response = spoke.get("/v1/contexts/k/a").await;
    assert_eq!(response.headers()["x-context-tenant"], "new");
    assert_eq!(status_and_body(response).await, (200, "2".into()));
}

#[tokio::test]
async fn heartbeats_move_the_position_forward_only() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(2);
    hub.claim().await.expect("granted");
    for (sent, expected) in [
        (Some(version(2, 5)), version(2, 5)),
        (None, version(2, 5)),
        (Some(version(1, 9)), version(2, 5)),
    ] {
        let answered: Result<Ack, Refused> = hub.heartbeat(sent).await;
        assert!(answered.is_ok());
        assert_eq!(hub.hello().await.position, expected);
    }
}
