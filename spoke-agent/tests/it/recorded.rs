//! What an agent of a release gave to others, as it was recorded in `fixtures`: the copy that another agent of its region fills
//! itself from, and the stream that a follower mirrors. They are what another release gives and gets.
//!
//! Would catch a part, a row or an event that changed while its format keeps its number, and one of a newer release that is read
//! as something else. Who changes the rows of a file raises `FORMAT` and records the copy anew
//! (`cargo test -p spoke-agent --test it recorded -- --ignored`).

use super::support::*;
use axum::Router;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use contexts::bundle::Bundle;
use contexts::push::SyncVerdict;
use futures_util::StreamExt;
use spoke_agent::clock::Clock;
use spoke_agent::peer::Copy;
use spoke_agent::peer::take::Peers;
use spoke_agent::reader::follower::{Follower, FollowerConfig};
use spoke_agent::reader::{Answer, ContextReader, Options};
use spoke_agent::store::redb::meta::FORMAT;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a follower asks for.
const FOLLOWED: &str = "/v1/watch?follow=true";

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

/// The form in which this release gives a copy; it takes the one before as well.
const FORM: u8 = 2;

fn copy_file(form: u8) -> PathBuf {
    fixture(&format!("copy-format-{FORMAT}-form-{form}.txt"))
}

/// What the recorded agent held: something of everything.
fn content() -> Bundle {
    let mut gone = context("k", "gone", "0");
    gone.expires = Some(1);
    let contexts = vec![context("k", "a", "{\"n\":1}"), context("l", "b", "2"), gone];
    Bundle::new(
        tenant("t"),
        contexts,
        vec![held("k", "held")],
        vec![held_kind("m")],
    )
    .expect("a bundle")
}

async fn filled() -> Spoke {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content()]).await;
    let verdict = hub.synced(&["k", "l"], &[&content()]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    spoke
}

fn recorded_copy(form: u8) -> Vec<u8> {
    let text = std::fs::read_to_string(copy_file(form)).expect("a record of this format");
    let hex: String = text.lines().filter(|l| !l.starts_with('#')).collect();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn recorded_watch() -> String {
    std::fs::read_to_string(fixture("watch-1.txt")).expect("a record")
}

/// Somebody who answers these bytes to whoever asks for a copy or watches, and then waits.
async fn somebody(copy: Vec<u8>, watch: String) -> String {
    let stream = move || {
        let text = watch.clone();
        async move {
            let said = futures_util::stream::once(async { Ok::<_, std::io::Error>(text) });
            let body = axum::body::Body::from_stream(said.chain(futures_util::stream::pending()));
            ([("content-type", "text/event-stream")], body).into_response()
        }
    };
    let routes = Router::new()
        .route("/push/v1/copy", post(move || async { copy }))
        .route("/v1/watch", get(stream));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

#[tokio::test]
#[ignore = "writes the files of a new format; those that are there stay as they were"]
async fn record_what_this_release_gives() {
    let spoke = filled().await;
    if !copy_file(FORM).exists() {
        let body = contexts::push::encode(&Copy { region: region() }).expect("encodes");
        let call = format!("copy?form={FORM}&format={FORMAT}");
        let response = spoke
            .hub(1)
            .post(&call, TOKEN, body)
            .await
            .expect("an answer");
        let bytes = response.bytes().await.expect("a copy");
        let mut text = format!(
            "# What an agent whose file has format {FORMAT} gave to another one, in form {FORM}. Never changed: see tests/it/recorded.rs.\n"
        );
        for line in bytes.chunks(64) {
            line.iter().for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            });
            text.push('\n');
        }
        std::fs::write(copy_file(FORM), text).expect("written");
    }
    if !fixture("watch-1.txt").exists() {
        let mut response = spoke.get(FOLLOWED).await;
        let mut text = String::new();
        while !text.contains("event: sync") || !text.ends_with("\n\n") {
            let chunk = response.chunk().await.expect("a stream").expect("more");
            text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
        std::fs::write(fixture("watch-1.txt"), text).expect("written");
    }
}

async fn status(spoke: &Spoke, kind: &str, key: &str) -> u16 {
    spoke.look_up(kind, key).await.0
}

#[tokio::test]
async fn recorded_copies_fill_an_agent_which_then_knows_exactly_that() {
    for form in [FORM - 1, FORM] {
        fills(recorded_copy(form)).await;
    }
}

async fn fills(copy: Vec<u8>) {
    let dir = Arc::new(TempDir::new().expect("a directory"));
    let mut config = config(dir.path());
    config.peers = vec![somebody(copy, String::new()).await];
    let spoke = Spoke::start_with(dir, config).await.expect("starts");
    let began = Instant::now();
    while status(&spoke, "k", "a").await != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "not filled");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(spoke.look_up("k", "a").await, (200, "{\"n\":1}".into()));
    assert_eq!(spoke.look_up("l", "b").await, (200, "2".into()));
    for (kind, key, wanted) in [
        ("k", "gone", 404),
        ("k", "held", 503),
        ("k", "none", 404),
        ("m", "none", 503),
    ] {
        let began = Instant::now();
        // "Does not exist" is said once all of it was checked.
        while status(&spoke, kind, key).await != wanted {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{kind} {key} is not {wanted}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // The hub finds what it would have pushed itself.
    let mut hub = spoke.hub(1);
    let state = hub.claim().await.expect("granted");
    assert_eq!(
        state.root,
        Some(digest_key().root(&buckets_of(&[&content()])))
    );
}

/// What filling an empty store from such a peer says.
async fn refusal(copy: Vec<u8>) -> String {
    let dir = TempDir::new().expect("a directory");
    let (db, checked) = open_store(dir.path());
    let tls = hubcast_tls::client::ClientFiles::default();
    let addresses = vec![somebody(copy, String::new()).await];
    let peers = Peers::new(addresses, &tls, TOKEN.to_owned().into(), region()).expect("a client");
    let said = peers.fill(&db, &checked.meta, Clock::new()).await;
    said.expect_err("it is not a copy").join(" ")
}

#[tokio::test]
async fn a_copy_with_other_fields_or_parts_is_no_copy() {
    let copy = recorded_copy(FORM);
    let first = u32::from_le_bytes(copy[..4].try_into().expect("four bytes")) as usize;
    let part = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    // One more field in the first part.
    let longer = [
        &part(&[&copy[4..4 + first], &[1]].concat()),
        &copy[4 + first..],
    ]
    .concat();
    assert!(refusal(longer).await.contains("of another release"));
    // A part that only a newer release knows.
    let unknown = [&copy[..4 + first], &part(&[7, 0]), &copy[4 + first..]].concat();
    assert!(refusal(unknown).await.contains("not a whole copy"));
    // One that ends early.
    assert!(
        refusal(copy[..copy.len() - 6].to_vec())
            .await
            .contains("breaks off")
    );
}

async fn follower(watch: String) -> Follower {
    let agents = [somebody(Vec::new(), watch).await];
    Follower::start(FollowerConfig::new(agents), Options::default())
        .await
        .expect("starts")
}

/// What a follower of this stream answers once it is filled.
async fn followed(watch: String) -> Vec<String> {
    let follower = follower(watch).await;
    tokio::time::timeout(Duration::from_secs(30), follower.filled())
        .await
        .expect("it is filled");
    let mut said = Vec::new();
    for (kind, key) in [
        ("k", "a"),
        ("l", "b"),
        ("k", "gone"),
        ("k", "held"),
        ("k", "none"),
        ("m", "none"),
    ] {
        said.push(match follower.get(kind, key).await.answer {
            Answer::Found(found) => String::from_utf8_lossy(found.bytes()).into_owned(),
            other => format!("{other:?}"),
        });
    }
    said
}

#[tokio::test]
async fn a_recorded_stream_fills_a_mirror_and_what_it_does_not_know_changes_nothing() {
    let wanted = ["{\"n\":1}", "2", "Expired", "Held", "Absent", "NotReady"];
    assert_eq!(followed(recorded_watch()).await, wanted);
    // A newer agent: an event and fields of which nobody has heard.
    let newer = recorded_watch().replace(
        "event: put\n",
        "event: news\ndata: {\"of\":\"tomorrow\"}\n\nevent: put\n",
    );
    let newer = newer.replace("data: {\"", "data: {\"tomorrow\":{\"x\":[1]},\"");
    assert_ne!(newer, recorded_watch());
    assert_eq!(followed(newer).await, wanted);
    // A reason of which nobody has heard: it is there, and nobody can say more.
    let withheld = recorded_watch().replace("\"why\":\"held\"", "\"why\":\"tomorrow\"");
    assert_eq!(followed(withheld).await[3], "NotReady");
}

#[tokio::test]
async fn a_stream_that_lacks_what_is_needed_fills_nothing() {
    let nameless = recorded_watch().replacen("\"key\":", "\"name\":", 1);
    assert_ne!(nameless, recorded_watch());
    let follower = follower(nameless).await;
    let filled = tokio::time::timeout(Duration::from_secs(1), follower.filled()).await;
    assert!(filled.is_err(), "it believed half of it");
    assert!(matches!(
        follower.get("k", "a").await.answer,
        Answer::NotReady
    ));
}
