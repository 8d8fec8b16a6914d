//! A region on its own: a new agent fills itself from another one, and says no more than that one knew.

use super::support::*;
use contexts::push::SyncVerdict;
use spoke_agent::agent::StartError;
use spoke_agent::clock::Clock;
use spoke_agent::peer::take::Peers;
use spoke_agent::store::redb::meta::FORMAT;
use spoke_agent::store::redb::tables::{CONTEXTS, META, OWNERS};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn content() -> contexts::bundle::Bundle {
    let mut gone = context("k", "gone", "0");
    gone.expires = Some(1);
    bundle(
        "t",
        vec![context("k", "a", "1"), context("l", "b", "2"), gone],
    )
}

async fn with_peers(dir: &Arc<TempDir>, peers: &[&Spoke]) -> Result<Spoke, StartError> {
    let mut config = config(dir.path());
    config.peers = peers
        .iter()
        .map(|peer| format!("http://{}", peer.push_addr()))
        .collect();
    Spoke::start_with(dir.clone(), config).await
}

fn folder() -> Arc<TempDir> {
    Arc::new(TempDir::new().expect("a directory"))
}

async fn answers(spoke: &Spoke, kind: &str, key: &str, wanted: u16) {
    let begin = Instant::now();
    loop {
        let (status, body) = spoke.look_up(kind, key).await;
        if status == wanted {
            return;
        }
        let waited = begin.elapsed();
        assert!(
            waited < Duration::from_secs(60),
            "{kind} {key}: {status} {body}, not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn age(spoke: &Spoke) -> f64 {
    let response = spoke.get("/v1/contexts/k/a").await;
    let age = response.headers()["x-context-age"].to_str().expect("text");
    age.parse().expect("a number")
}

#[tokio::test]
async fn a_new_agent_has_all_that_its_peer_has_and_goes_on_with_pushes() {
    let old = Spoke::start().await;
    let mut hub = old.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content()]).await;
    let verdict = hub.synced(&["k"], &[&content()]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    let state = hub.hello().await;

    let dir = folder();
    let new = with_peers(&dir, &[&old]).await.expect("starts");
    answers(&new, "k", "a", 200).await;
    answers(&new, "k", "none", 404).await;
    answers(&new, "l", "b", 200).await;
    answers(&new, "l", "none", 503).await;
    let (before, here) = (age(&old).await, age(&new).await);
    assert!(here >= before - 0.001, "{here} is no younger than {before}");
    // It is a store of its own, in the same state.
    let mut hub = new.hub_after(&hub);
    let theirs = hub.hello().await;
    assert_ne!(theirs.store, state.store);
    assert_eq!((theirs.root, theirs.granted), (state.root, state.granted));
    assert_eq!(
        (theirs.last_synced, theirs.position),
        (state.last_synced, state.position)
    );
    assert_eq!((theirs.contexts, theirs.bundles), (3, 1));

    // The same writer goes on at once; one that is older does not pass.
    let stale = new.hub(0).claim().await;
    assert!(stale.is_err(), "{stale:?}");
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("t", vec![context("k", "a", "5")])])
        .await;
    assert_eq!(new.look_up("k", "a").await, (200, "5".into()));
    // And it is there after a restart, whatever the peer has by then.
    old.stop().await;
    let dir = new.stop().await;
    let again = Spoke::start_in(dir).await.expect("starts");
    assert_eq!(again.look_up("k", "a").await, (200, "5".into()));
}

#[tokio::test]
async fn what_a_half_full_peer_does_not_know_its_copy_does_not_know() {
    let half = Spoke::start().await;
    let mut hub = half.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content()]).await;
    let new = with_peers(&folder(), &[&half]).await.expect("starts");
    answers(&new, "k", "a", 200).await;
    answers(&new, "k", "none", 503).await;
    let ready = new.get("/readyz").await.status();
    assert_eq!(ready, 503);
}

#[tokio::test]
async fn an_agent_whose_peers_have_nothing_waits_for_them_and_takes_what_a_hub_brings() {
    let empty = Spoke::start().await;
    let new = with_peers(&folder(), &[&empty]).await.expect("starts");
    answers(&new, "k", "a", 503).await;
    // That a hub has claimed a peer does not give it anything ...
    let mut hub = empty.hub(1);
    hub.claim().await.expect("granted");
    let (dir, addresses) = (folder(), vec![format!("http://{}", empty.push_addr())]);
    let (db, checked) = open_store(dir.path());
    let tls = hubcast_tls::client::ClientFiles::default();
    let peers = Peers::new(addresses, &tls, TOKEN.to_owned().into(), region()).expect("a client");
    let said = peers.fill(&db, &checked.meta, Clock::new()).await;
    let said = said.expect_err("there is nothing to take over");
    assert!(said[0].contains("it has nothing yet"), "{said:?}");
    // ... one that has something by then fills it ...
    hub.push(vec![content()]).await;
    answers(&new, "k", "a", 200).await;
    // ... and where none has, the hub does.
    let other = Spoke::start().await;
    let alone = with_peers(&folder(), &[&other]).await.expect("starts");
    let mut hub = alone.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content()]).await;
    assert_eq!(alone.look_up("k", "a").await.0, 200);
}

#[tokio::test]
async fn an_agent_with_a_store_asks_nobody() {
    let old = Spoke::start().await;
    let mut hub = old.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("t", vec![context("k", "a", "\"old\"")])])
        .await;
    let mine = Spoke::start().await;
    let mut hub = mine.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("t", vec![context("k", "a", "\"mine\"")])])
        .await;
    let dir = mine.stop().await;
    let mine = with_peers(&dir, &[&old]).await.expect("starts");
    answers(&mine, "k", "none", 503).await;
    assert_eq!(mine.look_up("k", "a").await, (200, "\"mine\"".into()));
}

#[tokio::test]
async fn a_copy_needs_the_token_the_region_and_the_format() {
    let old = Spoke::start().await;
    let mut hub = old.hub(1);
    hub.claim().await.expect("granted");
    let wanted = |region: &str| spoke_agent::peer::Copy {
        region: contexts::name::Region::new(region).expect("a region"),
    };
    let body = |region| contexts::push::encode(&wanted(region)).expect("encodes");
    for (token, region, status) in [
        ("wrong", REGION, 401),
        (TOKEN, "elsewhere", 409),
        (TOKEN, REGION, 200),
    ] {
        let response = hub
            .post("copy", token, body(region))
            .await
            .expect("an answer");
        assert_eq!(response.status(), status, "{token} {region}");
    }
    // Rows of another release would be of no use to the one who asks.
    for (format, status) in [(FORMAT - 1, 409), (FORMAT, 200), (FORMAT + 1, 409)] {
        let call = format!("copy?form=2&format={format}");
        let response = hub.post(&call, TOKEN, body(REGION)).await;
        assert_eq!(response.expect("an answer").status(), status, "{format}");
    }
}

/// What a copy that was cut leaves: rows, and no facts.
fn cut(dir: &Path) {
    tamper(dir, |txn| {
        let record: &[u8] = &[0; 40];
        let mut contexts = txn.open_table(CONTEXTS).expect("opens");
        let place: (&[u8], &[u8], &[u8]) = (b"t", b"k", b"ghost");
        contexts.insert(place, record).expect("inserts");
        let mut owners = txn.open_table(OWNERS).expect("opens");
        let place: (&[u8], &[u8]) = (b"k", b"ghost");
        owners
            .insert(place, &b"\x01\x01\x00t"[..])
            .expect("inserts");
    });
}

#[tokio::test]
async fn a_copy_that_was_cut_leaves_nothing() {
    let spoke = Spoke::start().await;
    let dir = spoke.stop().await;
    cut(dir.path());
    let spoke = Spoke::start_in(dir).await.expect("starts");
    let mut hub = spoke.hub(1);
    let state = hub.claim().await.expect("granted");
    assert_eq!((state.contexts, state.bundles), (0, 0));
    hub.push(vec![bundle("u", vec![context("k", "ghost", "1")])])
        .await;
    assert_eq!(spoke.look_up("k", "ghost").await, (200, "1".into()));
}

/// An agent as one of a release that does not look at the form that is asked for: what is before it takes that away.
async fn of_older_release(spoke: &Spoke) -> String {
    let hub = Arc::new(spoke.hub(1));
    let copy = move |body: axum::body::Bytes| {
        let hub = hub.clone();
        async move {
            let answer = hub.post("copy", TOKEN, body.to_vec()).await;
            let answer = answer.expect("an answer");
            let status = answer.status();
            (status, answer.bytes().await.expect("a body"))
        }
    };
    let routes = axum::Router::new().route("/push/v1/copy", axum::routing::post(copy));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
    let listener = listener.await.expect("listens");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(axum::serve(listener, routes).into_future());
    format!("http://{address}")
}

/// Whether it says that it has all contexts of a tenant.
async fn lists(spoke: &Spoke) -> u16 {
    spoke.get("/v1/tenants/t/contexts").await.status().as_u16()
}

/// Would catch a copy that says of a list that it is complete where its giver would not, or could not, whatever
/// releases the two are of.
#[tokio::test]
async fn a_copy_never_says_that_nothing_was_lost_where_its_giver_does_not() {
    let old = Spoke::start().await;
    let mut hub = old.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content()]).await;
    hub.synced(&["k", "l"], &[&content()]).await;
    let whole = with_peers(&folder(), &[&old]).await.expect("starts");
    answers(&whole, "k", "none", 404).await;
    assert_eq!(lists(&whole).await, 200);

    // One of a release that cannot say so may have lost something.
    let dir = folder();
    let mut asking = config(dir.path());
    asking.peers = vec![of_older_release(&old).await];
    let unsure = Spoke::start_with(dir, asking).await.expect("starts");
    answers(&unsure, "k", "none", 404).await;
    assert_eq!(lists(&unsure).await, 503);
    let mut hub = unsure.hub_after(&hub);
    hub.claim().await.expect("granted");
    hub.synced(&["k", "l"], &[&content()]).await;
    assert_eq!(lists(&unsure).await, 200, "the hub's scan has settled it");

    // Who lost something says it to whoever understands, and gives nothing to others.
    let dir = old.stop().await;
    tamper(dir.path(), |txn| {
        let mut meta = txn.open_table(META).expect("opens");
        meta.insert("lost", &b"\x01"[..]).expect("inserts");
    });
    let old = Spoke::start_in(dir).await.expect("starts");
    let new = with_peers(&folder(), &[&old]).await.expect("starts");
    answers(&new, "k", "none", 404).await;
    assert_eq!(lists(&new).await, 503);
    let body = contexts::push::encode(&spoke_agent::peer::Copy { region: region() });
    let answer = old.hub(1).post("copy", TOKEN, body.expect("encodes")).await;
    let (status, said) = status_and_body(answer.expect("an answer")).await;
    assert_eq!(status, 409);
    assert!(
        said.starts_with("this agent may have lost contexts to damage"),
        "{said}"
    );
}
