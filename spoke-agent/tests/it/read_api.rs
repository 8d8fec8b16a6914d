//! What gateways are answered, status by status.

use super::support::*;
use contexts::bundle::Bundle;
use contexts::push::SyncVerdict;
use contexts::version::Version;
use reqwest::StatusCode;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use serde_json::{Value, json};
use spoke_agent::clock::wall_micros;

/// An agent in step for `cluster` and `api_key`.
async fn synced(bundles: Vec<Bundle>) -> (Spoke, Hub) {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(3);
    hub.claim().await.expect("granted");
    hub.push(bundles.clone()).await;
    let expected: Vec<&Bundle> = bundles.iter().collect();
    let verdict = hub.synced(&["cluster", "api_key"], &expected).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    (spoke, hub)
}

#[tokio::test]
async fn a_context_is_answered_as_it_is_with_its_headers() {
    let number = r#"{"n": 123456789012345678901234567890.10}"#;
    let (spoke, _hub) = synced(vec![bundle(
        "té/1",
        vec![context("cluster", "a/b c+ü", number)],
    )])
    .await;
    let response = spoke.get("/v1/contexts/cluster/a%2Fb%20c+%C3%BC").await;
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["x-context-tenant"], "t%C3%A9%2F1");
    assert_eq!(headers["x-context-version"], "3.1");
    let age: f64 = headers["x-context-age"]
        .to_str()
        .expect("text")
        .parse()
        .expect("a number");
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(headers["etag"].to_str().expect("text").starts_with('"'));
    assert_eq!(response.text().await.expect("a body"), number);
}

#[tokio::test]
async fn absence_is_said_only_of_kinds_that_are_synced() {
    let spoke = Spoke::start().await;
    let not_ready = (503, r#"{"error":"not_ready"}"#.to_owned());
    assert_eq!(spoke.look_up("cluster", "c").await, not_ready);
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let content = bundle("t", vec![context("cluster", "c", "{}")]);
    hub.push(vec![content.clone()]).await;
    assert_eq!(spoke.look_up("cluster", "c").await, (200, "{}".into()));
    assert_eq!(spoke.look_up("cluster", "d").await, not_ready);
    hub.synced(&["cluster"], &[&content]).await;
    let response = spoke.get("/v1/contexts/cluster/d").await;
    assert_eq!(response.headers()["x-context-version"], "1.1");
    assert!(response.headers().contains_key("x-context-age"));
    assert_eq!(
        status_and_body(response).await,
        (404, r#"{"error":"not_found"}"#.into())
    );
    for (kind, key) in [("api_key", "c"), ("no-kind", "c"), ("Cluster", "c")] {
        assert_eq!(spoke.look_up(kind, key).await, not_ready, "{kind}");
    }
    let long = "x".repeat(5_000);
    assert_eq!(spoke.look_up("cluster", &long).await.0, 404);
}

#[tokio::test]
async fn a_held_key_without_a_value_is_neither_found_nor_absent_and_with_one_keeps_its_version() {
    let (spoke, mut hub) = synced(vec![bundle("t", vec![context("cluster", "old", "1")])]).await;
    let holds = vec![held("cluster", "new"), held("cluster", "old")];
    let other = vec![context("api_key", "k", "2")];
    hub.push(vec![
        Bundle::new(tenant("t"), other, holds, vec![]).expect("a bundle"),
    ])
    .await;
    assert_eq!(
        spoke.look_up("cluster", "new").await,
        (503, r#"{"error":"held"}"#.into())
    );
    let kept = spoke.get("/v1/contexts/cluster/old").await;
    assert_eq!(kept.headers()["x-context-version"], "3.1");
    assert_eq!(status_and_body(kept).await, (200, "1".into()));
    let fresh = spoke.get("/v1/contexts/api_key/k").await;
    assert_eq!(fresh.headers()["x-context-version"], "3.2");
}

#[tokio::test]
async fn a_tenant_whose_kind_never_came_makes_absence_of_that_kind_unknown() {
    let (spoke, mut hub) = synced(vec![]).await;
    assert_eq!(spoke.look_up("cluster", "c").await.0, 404);
    let blind = Bundle::new(tenant("new"), vec![], vec![], vec![held_kind("cluster")]);
    hub.push(vec![blind.expect("a bundle")]).await;
    assert_eq!(spoke.look_up("cluster", "c").await.0, 503);
    assert_eq!(spoke.look_up("api_key", "c").await.0, 404);
    hub.push(vec![Bundle::empty(tenant("new"))]).await;
    assert_eq!(spoke.look_up("cluster", "c").await.0, 404);
}

#[tokio::test]
async fn an_expired_context_is_gone_and_says_so() {
    let mut over = context("cluster", "over", "1");
    over.expires = Some(wall_micros() - 1);
    let mut valid = context("cluster", "valid", "1");
    valid.expires = Some(wall_micros() + 3_600_000_000);
    let (spoke, _hub) = synced(vec![bundle("t", vec![over, valid])]).await;
    assert_eq!(
        spoke.look_up("cluster", "over").await,
        (404, r#"{"error":"expired"}"#.into())
    );
    assert_eq!(spoke.look_up("cluster", "valid").await.0, 200);
    let contexts = batch(&spoke, &[("cluster", "over"), ("cluster", "valid")])
        .await
        .1;
    assert!(contexts["contexts"][0].is_null() && contexts["contexts"][1].is_object());
}

#[tokio::test]
async fn a_known_etag_is_answered_without_the_value() {
    let (spoke, _hub) = synced(vec![bundle("t", vec![context("cluster", "c", "1")])]).await;
    let etag = spoke.get("/v1/contexts/cluster/c").await.headers()[ETAG].clone();
    let etag = etag.to_str().expect("text");
    let ask = async |tags: &str| {
        let request = client().get(spoke.url("/v1/contexts/cluster/c"));
        request
            .header(IF_NONE_MATCH, tags)
            .send()
            .await
            .expect("an answer")
    };
    for tags in [etag, "*", &format!("\"x\", {etag}"), &format!("W/{etag}")] {
        let response = ask(tags).await;
        assert_eq!(response.status(), 304, "{tags}");
        assert_eq!(response.headers()[ETAG], etag);
        assert!(response.headers().contains_key("x-context-version"));
        assert_eq!(response.text().await.expect("a body"), "");
    }
    for tags in ["\"x\"", etag.trim_matches('"')] {
        assert_eq!(ask(tags).await.status(), 200, "{tags}");
    }
}

/// Would catch a store that says of another database's keys that they do not exist, up to a version of the one before.
#[tokio::test]
async fn a_store_that_another_database_took_is_behind_until_it_is_in_step() {
    let (spoke, hub) = synced(vec![bundle("t", vec![context("cluster", "c", "1")])]).await;
    let ask = async || {
        let request = client().get(spoke.url("/v1/contexts/cluster/absent"));
        let request = request.header("X-Context-Min-Version", "3.1");
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(ask().await, 404);
    hub.release().await.expect("released");
    let mut other = spoke.hub(4);
    let state = other.claim_as(false).await.expect("granted");
    assert_eq!(state.position, Version::default());
    assert_eq!(ask().await, 412);
    other.release().await.expect("released");
    spoke.hub(5).claim().await.expect("granted");
    assert_eq!(ask().await, 412, "it is written down");
}

#[tokio::test]
async fn a_reader_that_asks_for_more_than_is_here_is_told_so() {
    let (spoke, hub) = synced(vec![bundle("t", vec![context("cluster", "c", "1")])]).await;
    let ask = async |key: &str, least: &str| {
        let request = client().get(spoke.url(&format!("/v1/contexts/cluster/{key}")));
        let request = request.header("X-Context-Min-Version", least);
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(ask("c", "3.1").await, 200);
    assert_eq!(ask("c", "2.900").await, 200);
    assert_eq!(ask("c", "3.2").await, 412);
    assert_eq!(ask("absent", "3.1").await, 404);
    assert_eq!(ask("absent", "4.0").await, 412);
    assert_eq!(ask("c", "three").await, 400);
    hub.heartbeat(Some(version(3, 9))).await.expect("alive");
    assert_eq!(ask("c", "3.9").await, 200);
    assert_eq!(ask("absent", "3.9").await, 404);
}

async fn batch(spoke: &Spoke, keys: &[(&str, &str)]) -> (StatusCode, Value) {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(kind, key)| json!({"kind": kind, "key": key}))
        .collect();
    let request = client().post(spoke.url("/v1/contexts/batch-get"));
    let response = request
        .body(json!({ "keys": keys }).to_string())
        .send()
        .await
        .expect("an answer");
    let status = response.status();
    (status, response.json().await.expect("JSON"))
}

#[tokio::test]
async fn batch_get_answers_in_order_and_refuses_as_a_whole_what_it_cannot_say() {
    let value = r#"{"n": 1.50}"#;
    let content = Bundle::new(
        tenant("t"),
        vec![context("cluster", "a", value), context("cluster", "b", "2")],
        vec![held("cluster", "h")],
        vec![],
    );
    let (spoke, _hub) = synced(vec![content.expect("a bundle")]).await;
    let keys = [
        ("cluster", "b"),
        ("cluster", "none"),
        ("cluster", "h"),
        ("cluster", "b"),
    ];
    let b = json!({"kind": "cluster", "key": "b", "tenant": "t", "version": "3.1", "value": 2});
    let h = json!({"kind": "cluster", "key": "h", "error": "held"});
    let expected = json!({ "contexts": [b, null, h, b] });
    assert_eq!(batch(&spoke, &keys).await, (StatusCode::OK, expected));

    let not_ready = json!({ "error": "not_ready" });
    let unknown = [("cluster", "a"), ("other", "x")];
    assert_eq!(
        batch(&spoke, &unknown).await,
        (StatusCode::SERVICE_UNAVAILABLE, not_ready)
    );

    let raw = client().post(spoke.url("/v1/contexts/batch-get"));
    let raw = raw
        .body(r#"{"keys":[{"kind":"cluster","key":"a"}]}"#)
        .send()
        .await
        .expect("an answer");
    assert_eq!(raw.headers()["x-context-version"], "3.1");
    let text = raw.text().await.expect("a body");
    assert!(text.contains(value), "the value keeps its form: {text}");
}

#[tokio::test]
async fn batch_get_takes_many_keys_but_not_any_number_and_no_nonsense() {
    let (spoke, _hub) = synced(vec![]).await;
    let (status, answer) = batch(&spoke, &vec![("cluster", "x"); 10_000]).await;
    assert_eq!(
        (status, answer["contexts"].as_array().map(Vec::len)),
        (StatusCode::OK, Some(10_000))
    );
    let (status, answer) = batch(&spoke, &vec![("cluster", "x"); 10_001]).await;
    assert_eq!(
        (status, &answer["error"]),
        (StatusCode::BAD_REQUEST, &json!("bad_request"))
    );
    for wrong in ["", "{", "[]", r#"{"keys":[{"kind":1}]}"#] {
        let request = client()
            .post(spoke.url("/v1/contexts/batch-get"))
            .body(wrong);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 400, "{wrong}");
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body["error"], "bad_request");
    }
}

#[tokio::test]
async fn a_path_that_is_no_key_is_not_answered_like_an_absent_key() {
    let (spoke, _hub) = synced(vec![]).await;
    for path in [
        "/v1/contexts/cluster/a/b",
        "/v1/contexts/cluster/",
        "/v1/contexts/cluster/%ff",
    ] {
        assert_eq!(spoke.get(path).await.status(), 400, "{path}");
    }
    let (status, body) = status_and_body(spoke.get("/v2").await).await;
    assert_eq!(
        (status, body.as_str()),
        (404, r#"{"error":"no_such_route"}"#)
    );
}

#[tokio::test]
async fn the_read_token_guards_contexts_and_not_the_probes() {
    let dir = std::sync::Arc::new(tempfile::TempDir::new().expect("a directory"));
    let mut config = config(dir.path());
    config.read.token = Some("read-secret".to_owned().into());
    let spoke = Spoke::start_with(dir, config).await.expect("starts");
    let ask = async |path: &str, token: &str| {
        let request = client().get(spoke.url(path)).bearer_auth(token);
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(ask("/v1/contexts/k/x", "wrong").await, 401);
    assert_eq!(ask("/v1/contexts/k/x", "read-secret").await, 503);
    assert_eq!(ask("/v1/status", "").await, 401);
    assert_eq!(ask("/healthz", "").await, 200);
    assert_eq!(ask("/metrics", "").await, 200);
}

#[tokio::test]
async fn status_and_readiness_follow_the_store() {
    let spoke = Spoke::start().await;
    assert_eq!(spoke.get("/readyz").await.status(), 503);
    assert_eq!(spoke.get("/healthz").await.status(), 200);
    let mut hub = spoke.hub(5);
    hub.claim().await.expect("granted");
    let content = bundle("t", vec![context("cluster", "c", "1")]);
    hub.push(vec![content.clone()]).await;
    hub.synced(&["cluster"], &[&content]).await;
    assert_eq!(spoke.get("/readyz").await.status(), 200);
    assert_eq!(spoke.get("/readyz?max_age=3600").await.status(), 200);
    assert_eq!(spoke.get("/readyz?max_age=0").await.status(), 503);
    assert_eq!(spoke.get("/readyz?max_age=soon").await.status(), 400);
    let status: Value = spoke.get("/v1/status").await.json().await.expect("JSON");
    let expected = json!({
        "region": REGION, "ready": true, "synced": true, "synced_kinds": ["cluster"], "granted_epoch": 5,
        "position": "5.1", "contexts": 1, "bundles": 1, "released": false,
    });
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&status[name], value, "{name}");
    }
    assert!(status["age_seconds"].is_number() && status["last_push_seconds"].is_number());
    let text = spoke.get("/metrics").await.text().await.expect("text");
    assert!(text.contains("hubcast_agent_requests_total"), "{text}");
}

#[tokio::test]
async fn the_unix_socket_has_the_same_routes_and_a_stale_one_is_replaced() {
    let (spoke, _hub) = synced(vec![bundle("t", vec![context("cluster", "c", "1")])]).await;
    let dir = spoke.stop().await;
    let path = dir.path().join("read.sock");
    assert!(!path.exists(), "removed at the stop");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
    let _spoke = Spoke::start_in(dir.clone()).await.expect("starts over it");
    client();
    let over_socket = reqwest::Client::builder()
        .no_proxy()
        .unix_socket(path.as_path());
    let over_socket = over_socket.build().expect("a client");
    let response = over_socket
        .get("http://agent/v1/contexts/cluster/c")
        .send()
        .await;
    assert_eq!(
        status_and_body(response.expect("an answer")).await,
        (200, "1".into())
    );
}
