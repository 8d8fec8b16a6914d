//! `spoke-agent follow`: a gateway at its socket is answered what the agent would answer, with the agent or without it, and
//! nobody is told that a key does not exist of which the follower was told nothing.

use super::support::*;
use contexts::bundle::Bundle;
use contexts::push::SyncVerdict;
use insta::assert_snapshot;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const POLICY: &str = "[[authorize]]\nname = \"api\"\nheader = \"x-api-key\"\nkind = \"k\"\n\
                      tenant_header = \"x-tenant\"\nthen = { kind = \"l\", key = \"of\" }\n";

fn content() -> Bundle {
    let mut over = context("k", "over", "1");
    over.expires = Some(1);
    let contexts = vec![
        context("k", "a", "{\"n\": 1.50, \"of\": \"b\"}"),
        context("k", "a/b c", "[\"ü\"]"),
        context("l", "b", "2"),
        over,
    ];
    Bundle::new(tenant("té/1"), contexts, vec![held("k", "held")], vec![]).expect("a bundle")
}

fn other() -> Bundle {
    bundle("u", vec![context("k", "u", "3")])
}

/// Has an agent that was claimed by nobody in step for both kinds.
async fn fill(agent: &Process) -> Hub {
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content(), other()]).await;
    let verdict = hub.synced(&["k", "l"], &[&content(), &other()]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    hub
}

/// An agent that gateways ask for a token, with a policy.
fn agent(dir: &Path) -> Process {
    let config = file(
        dir,
        "agent.toml",
        &format!("read_token = \"gateways\"\n{POLICY}"),
    );
    let mut command = program_on(dir);
    command.arg("--config").arg(config);
    Process::spawn(command)
}

/// Waits until a follower answers a path with this status.
async fn becomes(sidecar: &Sidecar, path: &str, wanted: u16) {
    let begin = Instant::now();
    loop {
        let (status, body) = sidecar.get(path).await;
        if status == wanted {
            return;
        }
        let waited = begin.elapsed();
        assert!(waited < Duration::from_secs(30), "{path}: {status} {body}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Everything of an answer that the same question has at each of them. Ages differ, and so do tags, which each computes
/// with a key of its own.
async fn said(response: Response) -> String {
    let mut lines = vec![response.status().as_u16().to_string()];
    let headers = response.headers().iter();
    let telling =
        headers.filter(|(name, _)| !["date", "etag", "x-context-age"].contains(&name.as_str()));
    lines.extend(telling.map(|(name, value)| format!("{name}: {value:?}")));
    lines.sort();
    lines.push(response.text().await.expect("a body"));
    lines.join("\n")
}

/// What gateways ask.
fn questions() -> Vec<(Method, &'static str, &'static str)> {
    let batch = |key| match key {
        "known" => {
            r#"{"keys":[{"kind":"k","key":"a"},{"kind":"k","key":"none"},{"kind":"k","key":"held"}]}"#
        }
        _ => r#"{"keys":[{"kind":"k","key":"a"},{"kind":"m","key":"none"}]}"#,
    };
    let mut all = vec![
        (Method::POST, "/v1/contexts/batch-get", batch("known")),
        (Method::POST, "/v1/contexts/batch-get", batch("unknown")),
        (Method::POST, "/v1/contexts/batch-get", "{}"),
    ];
    let paths = [
        "/v1/contexts/k/a",
        "/v1/contexts/k/a%2Fb%20c",
        "/v1/contexts/l/b",
        "/v1/contexts/k/none",
        "/v1/contexts/k/over",
        "/v1/contexts/k/held",
        "/v1/contexts/m/none",
        "/v1/contexts/k/%ff",
        "/v1/contexts/k/a/b",
        "/v1/authorize/api/whatever",
        "/v1/authorize/none",
        "/v1/nothing",
    ];
    all.extend(paths.map(|path| (Method::GET, path, "")));
    all
}

/// Asks both of them everything, with every bound and every credential.
async fn agree(agent: &Process, sidecar: &Sidecar) {
    let gateway = client();
    for (method, path, body) in questions() {
        for (name, value) in [
            ("accept", "*/*"),
            ("x-context-min-version", "1.1"),
            ("x-context-min-version", "7.1"),
            ("x-api-key", "a"),
            ("x-api-key", "u"),
            ("x-api-key", "none"),
            ("x-api-key", "held"),
        ] {
            let asked = |request: RequestBuilder| request.header(name, value).body(body).send();
            let url = format!("http://{}{path}", agent.read);
            let at_agent = gateway.request(method.clone(), url).bearer_auth("gateways");
            let at_sidecar = sidecar.request(method.clone(), path).bearer_auth("own");
            let at_agent = said(asked(at_agent).await.expect("an answer")).await;
            let at_sidecar = said(asked(at_sidecar).await.expect("an answer")).await;
            assert_eq!(at_sidecar, at_agent, "{method} {path} with {name}: {value}");
        }
    }
}

async fn status(sidecar: &Sidecar) -> Value {
    let (_, body) = sidecar.get("/v1/status").await;
    serde_json::from_str(&body).expect("JSON")
}

/// Would catch an answer that says another thing than the agent's, one from before there is a copy, and a token or a
/// policy that a follower has not.
#[tokio::test]
async fn a_follower_answers_what_its_agent_answers() {
    let dir = TempDir::new().expect("a directory");
    let agent = agent(dir.path());
    let own = file(
        dir.path(),
        "follow.toml",
        &format!("read_token = \"own\"\nfrom_token = \"gateways\"\n{POLICY}"),
    );
    let from = format!("http://{}", agent.read);
    let socket = dir.path().join("follow.sock");
    let own = own.display().to_string();
    let sidecar = Sidecar::start(&from, &socket, &["--config", &own]);
    assert_eq!(sidecar.get("/v1/contexts/k/a").await.0, 401);
    assert_eq!(sidecar.get("/readyz").await.0, 503);
    let early = sidecar
        .request(Method::GET, "/v1/contexts/k/none")
        .bearer_auth("own");
    let early = status_and_body(early.send().await.expect("an answer")).await;
    assert_eq!(early, (503, r#"{"error":"not_ready"}"#.into()));

    let hub = fill(&agent).await;
    becomes(&sidecar, "/readyz", 200).await;
    agree(&agent, &sidecar).await;

    // A hub that has nothing more to say moves the position, which is told as well.
    hub.heartbeat(Some(version(1, 9))).await.expect("heard");
    let begin = Instant::now();
    loop {
        let bounded = sidecar
            .request(Method::GET, "/v1/contexts/k/none")
            .bearer_auth("own");
        let bounded = bounded.header("x-context-min-version", "1.9").send().await;
        if bounded.expect("an answer").status() == 404 {
            break;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "the position is not told"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agree(&agent, &sidecar).await;
}

/// Would catch a follower that is down with its agent, one that gets younger, and one that forgets over a restart.
#[tokio::test]
async fn it_goes_on_without_the_agent_and_after_a_restart_from_its_file() {
    let dir = TempDir::new().expect("a directory");
    let agent = Process::start(dir.path(), None);
    fill(&agent).await;
    let (from, socket) = (
        format!("http://{}", agent.read),
        dir.path().join("follow.sock"),
    );
    let mirror = dir.path().join("mirror").display().to_string();
    let start = || Sidecar::start(&from, &socket, &["--data", &mirror]);
    let sidecar = start();
    becomes(&sidecar, "/v1/contexts/k/a", 200).await;
    drop(agent);

    let answers = async |sidecar: &Sidecar| {
        let value = "{\"n\": 1.50, \"of\": \"b\"}";
        assert_eq!(sidecar.get("/v1/contexts/k/a").await, (200, value.into()));
        assert_eq!(sidecar.get("/v1/contexts/k/none").await.0, 404);
        assert_eq!(sidecar.get("/v1/contexts/m/none").await.0, 503);
        assert_eq!(sidecar.get("/readyz").await.0, 200);
        let status = status(sidecar).await;
        assert_eq!(status["position"], "1.1");
        status["age_seconds"].as_f64().expect("an age")
    };
    let mut age = answers(&sidecar).await;
    let begin = Instant::now();
    while age < 3.0 {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{age} s old, and no older"
        );
        let now = answers(&sidecar).await;
        assert!(now >= age, "{now} after {age}");
        age = now;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sidecar.get("/readyz?max_age=2").await.0, 503);
    sidecar.stop();
    assert!(!socket.exists());

    let sidecar = start();
    assert!(answers(&sidecar).await >= age, "no younger by a restart");
}

/// Would catch a 404 for what is not subscribed to.
#[tokio::test]
async fn what_is_not_subscribed_to_is_unknown_and_never_absent() {
    let dir = TempDir::new().expect("a directory");
    let agent = Process::start(dir.path(), None);
    fill(&agent).await;
    assert_eq!(agent.look_up("l", "none").await.0, 404);
    let from = format!("http://{}", agent.read);
    for (args, keys) in [
        (
            ["--kinds", "k"],
            [
                ("k", "a", 200),
                ("k", "u", 200),
                ("k", "none", 404),
                ("l", "b", 503),
                ("l", "none", 503),
            ],
        ),
        (
            ["--tenants", "té/1"],
            [
                ("k", "a", 200),
                ("k", "u", 503),
                ("k", "none", 503),
                ("l", "b", 200),
                ("l", "none", 503),
            ],
        ),
    ] {
        let socket = dir.path().join(format!("{}.sock", &args[0][2..]));
        let sidecar = Sidecar::start(&from, &socket, &args);
        becomes(&sidecar, "/readyz", 200).await;
        for (kind, key, wanted) in keys {
            let (status, body) = sidecar.get(&format!("/v1/contexts/{kind}/{key}")).await;
            assert_eq!(status, wanted, "{args:?}: {kind} {key}: {body}");
        }
        let batch = sidecar.request(Method::POST, "/v1/contexts/batch-get");
        let batch = batch.body(r#"{"keys":[{"kind":"k","key":"a"},{"kind":"l","key":"none"}]}"#);
        assert_eq!(
            batch.send().await.expect("an answer").status(),
            503,
            "{args:?}"
        );
    }
}

/// Would catch a route that is missing, and a 404 where an agent has something that a follower has not.
#[tokio::test]
async fn what_it_has_not_is_501_and_it_says_what_it_is() {
    let dir = TempDir::new().expect("a directory");
    let agent = Process::start(dir.path(), None);
    fill(&agent).await;
    let from = format!("http://{}", agent.read);
    let sidecar = Sidecar::start(&from, &dir.path().join("follow.sock"), &[]);
    becomes(&sidecar, "/readyz", 200).await;
    let (status, body) = sidecar.get("/v1/watch").await;
    assert_eq!(status, 501);
    assert_snapshot!(body, @r#"{"error":"not_here","message":"a follower passes no changes on: watch the agent that it follows"}"#);
    let (status, body) = sidecar.get("/v1/tenants/u/contexts").await;
    assert_eq!(status, 501);
    assert_snapshot!(body, @r#"{"error":"not_here","message":"a follower has contexts by their keys and no list of a tenant: ask the agent that it follows"}"#);
    assert_eq!(sidecar.get("/healthz").await, (200, "ok\n".into()));
    assert_eq!(sidecar.get("/v1/openapi.json").await.0, 200);
    let status = self::status(&sidecar).await;
    assert_eq!(status["follows"][0], from);
    assert_eq!(status["synced_kinds"], serde_json::json!(["k", "l"]));
    let (_, metrics) = sidecar.get("/metrics").await;
    for line in [
        "hubcast_agent_ready{region=\"eu-west-1\"} 1",
        "hubcast_agent_contexts{region=\"eu-west-1\"} 6",
        "hubcast_agent_age_seconds{region=\"eu-west-1\"} ",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}
