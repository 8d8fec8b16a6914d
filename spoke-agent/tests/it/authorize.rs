//! What a gateway that asks `/v1/authorize/{policy}` is answered, status by status.

use super::support::*;
use contexts::bundle::{Bundle, Context};
use contexts::push::SyncVerdict;
use redb::ReadableTable;
use reqwest::header::{AUTHORIZATION, CACHE_CONTROL, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Method, Response};
use spoke_agent::clock::wall_micros;
use spoke_agent::store::redb::tables::CONTEXTS;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// One policy of each sort.
const POLICIES: &str = r#"
[[authorize]]
name = "api"
header = "X-Api-Key"
hash = "sha256"
kind = "api_key"
require = ["active"]
headers = { "x-scopes" = "scopes", "x-limit" = "limits.rate", "x-limits" = "limits", "x-label" = "label" }
tenant_header = "x-tenant-id"

[[authorize]]
name = "bearer"
header = "authorization"
scheme = "Bearer"
kind = "api_key"

[[authorize]]
name = "two"
header = "x-api-key"
kind = "api_key"
headers = { "x-of-key" = "n" }
[authorize.then]
kind = "cluster"
key = "cluster_id"
require = ["enabled"]
headers = { "x-of-cluster" = "n" }

[[authorize]]
name = "anyone"
header = "x-api-key"
kind = "api_key"
[authorize.then]
kind = "cluster"
key = "cluster_id"
same_tenant = false

[[authorize]]
name = "fresh"
header = "x-api-key"
kind = "api_key"
max_age = 3600

[[authorize]]
name = "fresher"
header = "x-api-key"
kind = "api_key"
max_age = 0.000001
"#;

async fn spoke_in(dir: Arc<TempDir>, memory_bytes: usize) -> Spoke {
    let mut config = config(dir.path());
    config.authorize = policies(POLICIES);
    config.memory_bytes = memory_bytes;
    Spoke::start_with(dir, config).await.expect("starts")
}

async fn empty() -> (Spoke, Hub) {
    let dir = Arc::new(TempDir::new().expect("a directory"));
    let spoke = spoke_in(dir, usize::MAX).await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    (spoke, hub)
}

async fn sync(hub: &mut Hub, bundles: &[Bundle]) {
    let expected: Vec<&Bundle> = bundles.iter().collect();
    let verdict = hub.synced(&["cluster", "api_key"], &expected).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
}

/// An agent in step.
async fn synced(bundles: Vec<Bundle>) -> (Spoke, Hub) {
    let (spoke, mut hub) = empty().await;
    hub.push(bundles.clone()).await;
    sync(&mut hub, &bundles).await;
    (spoke, hub)
}

fn api_key(secret: &str, value: &str) -> Context {
    context("api_key", &sha256(secret), value)
}

fn expiring(mut context: Context, micros: i64) -> Context {
    context.expires = Some(wall_micros() + micros);
    context
}

async fn ask_with(spoke: &Spoke, policy: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = client().get(spoke.url(&format!("/v1/authorize/{policy}")));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("an answer");
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    response
}

async fn ask(spoke: &Spoke, policy: &str, key: &str) -> Response {
    ask_with(spoke, policy, &[("x-api-key", key)]).await
}

/// Status and error.
async fn refused(response: Response) -> (u16, String) {
    let (status, body) = status_and_body(response).await;
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let error = body["error"].as_str().expect("an error").to_owned();
    (status, error)
}

async fn refusal(spoke: &Spoke, policy: &str, key: &str) -> (u16, String) {
    let response = ask(spoke, policy, key).await;
    let shown = format!("{:?}", response.headers());
    assert!(!shown.contains(key), "{shown}");
    refused(response).await
}

fn is(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let value = all.next()?;
    assert!(all.next().is_none(), "{name} is there once");
    Some(value.to_str().expect("text"))
}

#[tokio::test]
async fn who_is_known_and_allowed_gets_the_fields_as_headers() {
    let number = "123456789012345678901234567890.10";
    let value = format!(
        r#"{{"active": true, "scopes": ["read", "a,b", 5, true, null, "ü"], "label": "grün\n",
            "limits": {{"rate": {number}}}}}"#
    );
    let plain = r#"{"active": true, "scopes": [], "limits": [{"rate": 1}], "label": "as it is"}"#;
    let bare = r#"{"active": true, "scopes": null}"#;
    let keys = vec![
        api_key("all", &value),
        api_key("plain", plain),
        api_key("bare", bare),
    ];
    let (spoke, _hub) = synced(vec![bundle("té/1", keys)]).await;

    let response = ask(&spoke, "api", "all").await;
    let headers = response.headers().clone();
    assert_eq!(status_and_body(response).await, (200, String::new()));
    assert_eq!(
        header(&headers, "x-scopes"),
        Some("read,a%2Cb,5,true,%C3%BC")
    );
    assert_eq!(header(&headers, "x-limit"), Some(number));
    let limits = format!(r#"{{"rate": {number}}}"#);
    assert_eq!(header(&headers, "x-limits"), Some(limits.as_str()));
    assert_eq!(header(&headers, "x-label"), Some("gr%C3%BCn%0A"));
    assert_eq!(header(&headers, "x-tenant-id"), Some("t%C3%A9%2F1"));
    assert_eq!(header(&headers, "x-envoy-auth-headers-to-remove"), None);
    assert!(headers.contains_key("x-context-age"));

    let headers = ask(&spoke, "api", "plain").await.headers().clone();
    assert_eq!(header(&headers, "x-scopes"), Some(""));
    assert_eq!(header(&headers, "x-limits"), Some(r#"[{"rate": 1}]"#));
    assert_eq!(header(&headers, "x-label"), Some("as it is"));

    let headers = ask(&spoke, "api", "bare").await.headers().clone();
    for absent in ["x-scopes", "x-limit", "x-limits", "x-label"] {
        assert_eq!(header(&headers, absent), None);
    }
}

#[tokio::test]
async fn a_credential_that_is_missing_malformed_unknown_or_expired_is_401() {
    let keys = vec![
        context("api_key", "good", "{}"),
        expiring(context("api_key", "over", "{}"), -1),
        expiring(context("api_key", "valid", "{}"), 3_600_000_000),
    ];
    let (spoke, _hub) = synced(vec![bundle("t", keys)]).await;
    assert_eq!(
        ask(&spoke, "two", "none")
            .await
            .headers()
            .get(WWW_AUTHENTICATE),
        None
    );
    assert_eq!(
        refusal(&spoke, "two", "none").await,
        is(401, "unknown_credential")
    );
    assert_eq!(
        refusal(&spoke, "two", "over").await,
        is(401, "expired_credential")
    );
    let none = ask_with(&spoke, "two", &[]).await;
    assert_eq!(refused(none).await, is(401, "no_credential"));
    let both = [("x-api-key", "good"), ("x-api-key", "valid")];
    let both = ask_with(&spoke, "two", &both).await;
    assert_eq!(refused(both).await, is(401, "malformed_credential"));

    let bearer = async |text: &str| {
        let response = ask_with(&spoke, "bearer", &[(AUTHORIZATION.as_str(), text)]).await;
        let challenge = header(response.headers(), "www-authenticate").map(str::to_owned);
        (status_and_body(response).await, challenge)
    };
    for good in ["Bearer good", "bearer  good", "BEARER valid"] {
        assert_eq!(bearer(good).await, ((200, String::new()), None), "{good}");
    }
    let invalid = Some(r#"Bearer error="invalid_token""#.to_owned());
    for (text, error) in [
        ("Basic good", "malformed_credential"),
        ("good", "malformed_credential"),
        ("Bearergood", "malformed_credential"),
        ("Bearer good valid", "unknown_credential"),
        ("Bearer over", "expired_credential"),
    ] {
        let ((status, body), challenge) = bearer(text).await;
        assert_eq!(
            (status, body),
            (401, format!(r#"{{"error":"{error}"}}"#)),
            "{text}"
        );
        assert_eq!(challenge, invalid, "{text}");
    }
    let ((status, body), challenge) = bearer("Bearer ").await;
    assert_eq!(
        (status, body.as_str()),
        (401, r#"{"error":"no_credential"}"#)
    );
    assert_eq!(challenge.as_deref(), Some("Bearer"));
    let long = "x".repeat(5_000);
    assert_eq!(
        refusal(&spoke, "two", &long).await,
        is(401, "unknown_credential")
    );
}

#[tokio::test]
async fn an_allowed_credential_stops_working_at_its_expiry() {
    let soon = expiring(context("api_key", "soon", "{}"), 1_000_000);
    let end = soon.expires.expect("it expires");
    let (spoke, _hub) = synced(vec![bundle("t", vec![soon])]).await;
    loop {
        let began = wall_micros();
        let response = ask(&spoke, "fresh", "soon").await;
        let allowed = response.status() == 200;
        assert!(allowed || wall_micros() >= end, "refused too early");
        assert!(!allowed || began < end, "allowed too late");
        if !allowed {
            assert_eq!(refused(response).await, is(401, "expired_credential"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_is_known_and_not_allowed_is_403() {
    let keys = vec![
        api_key("is-false", r#"{"active": false}"#),
        api_key("is-text", r#"{"active": "true"}"#),
        api_key("is-one", r#"{"active": 1}"#),
        api_key("is-absent", "{}"),
        api_key("is-scalar", "true"),
        context("api_key", "to-nobody", r#"{"cluster_id": "none"}"#),
        context("api_key", "to-nothing", r#"{"cluster_id": null}"#),
        context("api_key", "to-an-object", r#"{"cluster_id": {}}"#),
        context("api_key", "to-old", r#"{"cluster_id": "old"}"#),
        context("api_key", "to-theirs", r#"{"cluster_id": "theirs"}"#),
        context("api_key", "to-off", r#"{"cluster_id": "off"}"#),
        context("api_key", "to-7", r#"{"cluster_id": 7, "n": 1}"#),
        expiring(context("cluster", "old", r#"{"enabled": true}"#), -1),
        context("cluster", "off", r#"{"enabled": false}"#),
        context("cluster", "7", r#"{"enabled": true, "n": 2}"#),
    ];
    let theirs = vec![context("cluster", "theirs", r#"{"enabled": true}"#)];
    let (spoke, _hub) = synced(vec![bundle("t", keys), bundle("other", theirs)]).await;
    for key in ["is-false", "is-text", "is-one", "is-absent", "is-scalar"] {
        assert_eq!(
            refusal(&spoke, "api", key).await,
            is(403, "not_allowed"),
            "{key}"
        );
    }
    for (key, error) in [
        ("to-nobody", "second_not_found"),
        ("to-nothing", "second_not_found"),
        ("to-an-object", "second_not_found"),
        ("to-old", "second_expired"),
        ("to-theirs", "other_tenant"),
        ("to-off", "not_allowed"),
    ] {
        assert_eq!(refusal(&spoke, "two", key).await, is(403, error), "{key}");
    }
    assert_eq!(ask(&spoke, "anyone", "to-theirs").await.status(), 200);
    let headers = ask(&spoke, "two", "to-7").await.headers().clone();
    assert_eq!(header(&headers, "x-of-key"), Some("1"));
    assert_eq!(header(&headers, "x-of-cluster"), Some("2"));
}

#[tokio::test]
async fn a_policy_that_does_not_exist_lets_nobody_through_and_is_not_404() {
    let (spoke, _hub) = synced(vec![]).await;
    for path in [
        "",
        "/",
        "/none",
        "/none/api",
        "//api",
        "/Api",
        "/api%2F",
        "/%ff",
    ] {
        let url = spoke.url(&format!("/v1/authorize{path}"));
        let request = client().get(url).header("x-api-key", "k");
        let response = request.send().await.expect("an answer");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(refused(response).await, is(403, "no_such_policy"), "{path}");
    }
}

#[tokio::test]
async fn the_method_and_what_follows_the_policy_make_no_difference() {
    let key = api_key("good", r#"{"active": true}"#);
    let (spoke, _hub) = synced(vec![bundle("t", vec![key])]).await;
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND",
    ] {
        for path in [
            "",
            "/",
            "/v1/orders/7?x=%00",
            "//a/../b",
            "/%ff%2F",
            "/v1/contexts/k/x",
        ] {
            let url = spoke.url(&format!("/v1/authorize/api{path}"));
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let request = client().request(method.clone(), url).body("a body");
            let good = request
                .try_clone()
                .expect("a copy")
                .header("x-api-key", "good");
            let response = good.send().await.expect("an answer");
            assert_eq!(response.status(), 200, "{method} {path}");
            assert_eq!(header(response.headers(), "x-tenant-id"), Some("t"));
            let bad = request.header("x-api-key", "bad").send().await;
            assert_eq!(bad.expect("an answer").status(), 401, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_the_store_cannot_say_is_503_and_never_no() {
    let (spoke, mut hub) = empty().await;
    assert_eq!(refusal(&spoke, "two", "key").await, is(503, "not_ready"));
    let contexts = vec![context("api_key", "key", r#"{"cluster_id": "c"}"#)];
    let content = Bundle::new(
        tenant("t"),
        contexts,
        vec![held("api_key", "kept-back"), held("cluster", "c")],
        vec![],
    );
    hub.push(vec![content.expect("a bundle")]).await;
    assert_eq!(refusal(&spoke, "two", "none").await, is(503, "not_ready"));
    assert_eq!(refusal(&spoke, "two", "kept-back").await, is(503, "held"));
    assert_eq!(
        refusal(&spoke, "two", "key").await,
        is(503, "held"),
        "the second"
    );

    let content = bundle(
        "t",
        vec![context("api_key", "key", r#"{"cluster_id": "c"}"#)],
    );
    hub.push(vec![content.clone()]).await;
    let of_keys = hub.synced(&["api_key"], &[&content]).await;
    assert!(matches!(of_keys, SyncVerdict::InStep { .. }));
    assert_eq!(
        refusal(&spoke, "two", "none").await,
        is(401, "unknown_credential")
    );
    assert_eq!(
        refusal(&spoke, "two", "key").await,
        is(503, "not_ready"),
        "the second"
    );
    sync(&mut hub, &[content]).await;
    assert_eq!(
        refusal(&spoke, "two", "key").await,
        is(403, "second_not_found")
    );
}

#[tokio::test]
async fn a_damaged_context_is_not_ready() {
    let (spoke, _hub) = synced(vec![bundle("t", vec![context("api_key", "key", "[7]")])]).await;
    let dir = spoke.stop().await;
    let row: (&[u8], &[u8], &[u8]) = (b"t", b"api_key", b"key");
    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(CONTEXTS).expect("opens");
        let stored = table.get(row).expect("reads").expect("there");
        let mut bytes = stored.value().to_vec();
        drop(stored);
        *bytes.last_mut().expect("bytes") ^= 1;
        table.insert(row, bytes.as_slice()).expect("inserts");
    });
    let spoke = spoke_in(dir, usize::MAX).await;
    assert_eq!(refusal(&spoke, "two", "key").await, is(503, "not_ready"));
}

#[tokio::test]
async fn a_policy_may_refuse_a_store_that_is_too_old_or_does_not_know_its_age() {
    let (spoke, mut hub) = empty().await;
    let content = bundle("t", vec![context("api_key", "key", "{}")]);
    hub.push(vec![content.clone()]).await;
    assert_eq!(refusal(&spoke, "fresh", "key").await, is(503, "stale"));
    let none = ask_with(&spoke, "fresh", &[]).await;
    assert_eq!(refused(none).await, is(401, "no_credential"));
    sync(&mut hub, &[content]).await;
    assert_eq!(ask(&spoke, "fresh", "key").await.status(), 200);
    assert_eq!(
        refusal(&spoke, "fresh", "none").await,
        is(401, "unknown_credential")
    );
    assert_eq!(refusal(&spoke, "fresher", "key").await, is(503, "stale"));
}

/// Would catch a decision whose two look-ups see two states of the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_contexts_of_a_decision_come_from_one_state() {
    for memory_bytes in [usize::MAX, 0] {
        let dir = Arc::new(TempDir::new().expect("a directory"));
        let spoke = Arc::new(spoke_in(dir, memory_bytes).await);
        let mut hub = spoke.hub(1);
        hub.claim().await.expect("granted");
        let content = |n: u32| {
            let key = format!(r#"{{"n": {n}, "cluster_id": "c{n}"}}"#);
            let cluster = format!(r#"{{"n": {n}, "enabled": true}}"#);
            let cluster = context("cluster", &format!("c{n}"), &cluster);
            bundle("t", vec![context("api_key", "key", &key), cluster])
        };
        hub.push(vec![content(0)]).await;
        sync(&mut hub, &[content(0)]).await;
        let done = Arc::new(AtomicBool::new(false));
        let (asked, ended) = (spoke.clone(), done.clone());
        let asking = tokio::spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                let response = ask(&asked, "two", "key").await;
                assert_eq!(response.status(), 200);
                let headers = response.headers();
                let n = header(headers, "x-of-key").map(str::to_owned);
                assert_eq!(n.as_deref(), header(headers, "x-of-cluster"));
                seen.insert(n);
            }
            seen.len()
        });
        for n in 1..=200 {
            hub.push(vec![content(n)]).await;
        }
        done.store(true, Ordering::Relaxed);
        assert!(asking.await.expect("no panic") > 1, "it saw changes");
    }
}

#[tokio::test]
async fn a_response_header_comes_from_the_store_and_never_from_the_request() {
    let key = api_key("good", r#"{"active": true, "scopes": ["read"]}"#);
    let (spoke, _hub) = synced(vec![bundle("t", vec![key])]).await;
    let forged = |key| {
        [
            ("x-api-key", key),
            ("x-tenant-id", "forged"),
            ("x-scopes", "forged"),
            ("x-label", "forged"),
            ("x-limit", "forged"),
            ("x-other", "forged"),
            ("x-context-age", "forged"),
            ("x-envoy-auth-headers-to-remove", "x-forged"),
        ]
    };
    let response = ask_with(&spoke, "api", &forged("good")).await;
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    assert!(!format!("{headers:?}").contains("forged"), "{headers:?}");
    assert_eq!(header(&headers, "x-tenant-id"), Some("t"));
    assert_eq!(header(&headers, "x-scopes"), Some("read"));
    let mut removed: Vec<&str> = header(&headers, "x-envoy-auth-headers-to-remove")
        .expect("there is no label and no limit")
        .split(',')
        .collect();
    removed.sort_unstable();
    assert_eq!(removed, ["x-label", "x-limit", "x-limits"]);
    let refused = ask_with(&spoke, "api", &forged("bad")).await;
    assert_eq!(refused.status(), 401);
    assert!(!format!("{:?}", refused.headers()).contains("forged"));
}

#[tokio::test]
async fn the_read_token_may_stand_beside_the_credential() {
    let dir = Arc::new(TempDir::new().expect("a directory"));
    let mut config = config(dir.path());
    config.authorize = policies(POLICIES);
    config.read.token = Some("read-secret".to_owned().into());
    let spoke = Spoke::start_with(dir, config).await.expect("starts");
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("t", vec![context("api_key", "key", "{}")])])
        .await;

    let credential = (AUTHORIZATION.as_str(), "Bearer key");
    for (headers, expected) in [
        (vec![credential, ("x-hubcast-token", "read-secret")], 200),
        (vec![credential, ("x-hubcast-token", "read-secre")], 401),
        (
            vec![credential, ("x-hubcast-token", "Bearer read-secret")],
            401,
        ),
        (vec![credential, ("x-hubcast-token", "")], 401),
        (vec![credential], 401),
    ] {
        let response = ask_with(&spoke, "bearer", &headers).await;
        assert_eq!(response.status(), expected, "{headers:?}");
        if expected == 401 {
            assert_eq!(
                refused(response).await,
                is(401, "unauthorized"),
                "{headers:?}"
            );
        }
    }
    let as_elsewhere = [
        ("x-api-key", "key"),
        (AUTHORIZATION.as_str(), "Bearer read-secret"),
    ];
    let response = ask_with(&spoke, "fresh", &as_elsewhere).await;
    assert_eq!(
        refused(response).await,
        is(503, "stale"),
        "the token is good"
    );
    let other = client().get(spoke.url("/v1/contexts/api_key/key"));
    let other = other.header("x-hubcast-token", "read-secret").send().await;
    assert_eq!(
        other.expect("an answer").status(),
        401,
        "elsewhere it is none"
    );
}

#[tokio::test]
async fn decisions_are_counted_by_policy_and_outcome() {
    let (spoke, _hub) = synced(vec![bundle("t", vec![context("api_key", "key", "{}")])]).await;
    assert_eq!(ask(&spoke, "fresh", "key").await.status(), 200);
    ask(&spoke, "fresh", "none").await;
    ask(&spoke, "fresher", "key").await;
    ask(&spoke, "never-heard-of", "key").await;
    let text = spoke.get("/metrics").await.text().await.expect("text");
    for (policy, outcome) in [
        ("fresh", "allowed"),
        ("fresh", "unknown_credential"),
        ("fresher", "stale"),
        ("none", "no_such_policy"),
    ] {
        let line = format!(r#"policy="{policy}",outcome="{outcome}""#);
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert!(
        !text.contains("never-heard-of"),
        "names from outside are no labels"
    );
    assert!(text.contains(r#"route="authorize""#));
}
