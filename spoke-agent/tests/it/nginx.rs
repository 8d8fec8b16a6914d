//! A real nginx in front of a backend, with the configuration of `ops/examples` as it is: only addresses are put in.

use super::support::*;
use axum::Json;
use axum::http::HeaderMap;
use contexts::bundle::{Bundle, Context};
use contexts::push::SyncVerdict;
use reqwest::Response;
use reqwest::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use spoke_agent::config::{Layers, for_file_run};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;

const TOKEN_LINE: &str =
    r#"# proxy_set_header X-Hubcast-Token "the agent's read_token, if it has one";"#;

/// The program: `HUBCAST_NGINX`, or where distributions put it. Without one the test has to be left out, which it says
/// aloud; where `CI` is `true` nothing is left out.
fn find() -> Option<PathBuf> {
    if let Some(bin) = std::env::var_os("HUBCAST_NGINX").filter(|bin| !bin.is_empty()) {
        return Some(bin.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path);
    // Daemons are often not in the PATH of those who are not root.
    let dirs = dirs.chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = dirs
        .map(|dir| dir.join("nginx"))
        .find(|program| program.is_file());
    if found.is_none() {
        let missing = "there is no nginx: install it, or set HUBCAST_NGINX to its path";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        eprintln!("LEFT OUT, NOTHING WAS TESTED: {missing}");
    }
    found
}

fn ops(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../ops")
        .join(name)
}

/// An address that nobody listens on at the moment.
async fn free() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    free.local_addr().expect("an address")
}

/// An nginx, gone with its handle.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    /// Starts one with the servers of a file in `ops`, with what `put` puts in for the address where it listens and
    /// another one. A port that another program takes meanwhile makes it end; then others are tried.
    async fn start(
        bin: &Path,
        file: &str,
        put: impl Fn(SocketAddr, SocketAddr) -> Vec<(&'static str, String)>,
    ) -> Self {
        let text = std::fs::read_to_string(ops(file)).expect("the file");
        Self::start_with(bin, |address, other| {
            let mut site = text.clone();
            for (written, real) in put(address, other) {
                assert!(site.contains(written), "{written}");
                site = site.replace(written, &real);
            }
            site
        })
        .await
    }

    /// Starts one with the servers that `site` makes of the address where it listens and another one.
    async fn start_with(bin: &Path, site: impl Fn(SocketAddr, SocketAddr) -> String) -> Self {
        for _ in 0..10 {
            let address = free().await;
            let site = site(address, free().await);
            if let Some(nginx) = Self::start_at(bin, address, &site).await {
                return nginx;
            }
        }
        panic!("nginx found no free port in ten attempts");
    }

    async fn start_at(bin: &Path, address: SocketAddr, site: &str) -> Option<Self> {
        let dir = TempDir::new().expect("a directory");
        file(dir.path(), "site.conf", site);
        let at = |name: &str| dir.path().join(name).display().to_string();
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp = temp
            .map(|name| format!("{name}_temp_path {};\n", at(name)))
            .concat();
        let main = format!(
            "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{temp}include {};\n}}\n",
            at("pid"),
            at("site.conf")
        );
        let main = file(dir.path(), "nginx.conf", &main);
        let mut command = Command::new(bin);
        command.arg("-p").arg(dir.path()).arg("-c").arg(main);
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let child = command.stderr(log).spawn().expect("nginx starts");
        let mut nginx = Self {
            child,
            address,
            _dir: dir,
        };
        // It writes its process id when it has its port.
        while !nginx._dir.path().join("pid").exists() {
            if nginx.child.try_wait().expect("can be asked").is_some() {
                let log = std::fs::read_to_string(nginx._dir.path().join("log"));
                let log = log.unwrap_or_default();
                assert!(log.contains("Address already in use"), "{log}");
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(nginx)
    }

    async fn ask(&self, key: Option<&str>) -> Response {
        let mut request = client().post(format!("http://{}/orders?n=1", self.address));
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        for name in [
            "x-tenant-id",
            "x-tenant-scopes",
            "x-cluster-id",
            "x-cluster-plan",
        ] {
            request = request.header(name, "forged");
        }
        request = request.header("x-hubcast-token", "forged");
        request.body("an order").send().await.expect("an answer")
    }

    async fn status(&self, key: &str) -> u16 {
        self.ask(Some(key)).await.status().as_u16()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend that answers with the headers that reached it and the body.
async fn backend() -> SocketAddr {
    let echo = async |headers: HeaderMap, body: String| {
        let headers = headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), Value::from(value))
        });
        let headers: serde_json::Map<String, Value> = headers.collect();
        Json(json!({ "headers": headers, "body": body }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let routes = axum::Router::new().fallback(echo);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

/// An agent with the policies of a file in `ops`, and a token. What that file leaves to the environment comes from there.
async fn spoke(file: &str, token: &str) -> Spoke {
    let env = [
        ("HUBCAST_EU_TOKEN", TOKEN),
        ("HUBCAST_AGENT_REGION", "eu-west-1"),
        ("HUBCAST_AGENT_DATA", "/nowhere"),
        ("HUBCAST_AGENT_PUSH_LISTEN", "127.0.0.1:0"),
        ("HUBCAST_AGENT_PUSH_TOKEN", TOKEN),
        ("HUBCAST_AGENT_READ_LISTEN", "127.0.0.1:0"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let layers = Layers::read(Some(&ops(file)), vec![], BTreeMap::from(env)).expect("the file");
    let dir = Arc::new(TempDir::new().expect("a directory"));
    let mut config = config(dir.path());
    config.authorize = for_file_run(&layers).expect("the file").authorize;
    config.read.token = Some(token.to_owned().into());
    Spoke::start_with(dir, config).await.expect("starts")
}

fn api_key(secret: &str, active: bool) -> Context {
    let value = format!(r#"{{"cluster_id":"c1","scopes":["read","write"],"active":{active}}}"#);
    context("api_key", &sha256(secret), &value)
}

fn content(active: bool) -> Bundle {
    let orphan = r#"{"cluster_id":"none","active":true}"#;
    let orphan = context("api_key", &sha256("orphan"), orphan);
    let bare = r#"{"cluster_id":"c2","active":true}"#;
    let bare = context("api_key", &sha256("bare"), bare);
    let clusters = [
        context("cluster", "c1", r#"{"plan":"gold"}"#),
        context("cluster", "c2", "{}"),
    ];
    let keys = [
        api_key("good", active),
        api_key("other", true),
        orphan,
        bare,
    ];
    bundle("acme", keys.into_iter().chain(clusters).collect())
}

/// A cache in front of an agent that keeps whatever it is allowed to keep: it never answers anything that the agent would
/// not answer at that moment.
#[tokio::test]
async fn a_cache_in_front_answers_what_the_agent_would() {
    let Some(bin) = find() else { return };
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let of = |value: &str| bundle("t", vec![context("k", "a", value)]);
    hub.push(vec![of("1")]).await;
    hub.synced(&["k"], &[&of("1")]).await;
    let (agent, kept) = (spoke.url(""), TempDir::new().expect("a directory"));
    let nginx = Nginx::start_with(&bin, |address, _| {
        format!(
            "proxy_cache_path {} keys_zone=kept:1m;\nserver {{\nlisten {address};\nlocation / {{\n\
             proxy_pass {agent};\nproxy_cache kept;\nproxy_cache_revalidate on;\n\
             proxy_cache_use_stale error timeout updating;\n}}\nlocation /kept/ {{\nproxy_pass {agent}/;\n\
             proxy_cache kept;\nproxy_cache_key $request_uri;\nproxy_ignore_headers Cache-Control;\n\
             proxy_cache_valid 200 1h;\n}}\n}}\n",
            kept.path().display()
        )
    })
    .await;
    let get = async |path: &str| {
        let url = format!("http://{}/{path}", nginx.address);
        client().get(url).send().await.expect("an answer")
    };
    let ask = async |key: &str| get(&format!("v1/contexts/k/{key}")).await;
    let text = async |key: &str| status_and_body(ask(key).await).await;
    // It is a cache: where it is told not to heed the agent, it answers what was.
    let of_cache = async || status_and_body(get("kept/v1/contexts/k/a").await).await.1;
    assert_eq!(of_cache().await, "1");
    let age = async || {
        let answer = ask("a").await;
        let age = answer.headers()["x-context-age"].to_str().expect("text");
        age.parse::<f64>().expect("seconds")
    };
    assert_eq!(text("a").await, (200, "1".into()));
    assert_eq!(text("a").await, (200, "1".into()));
    assert_eq!(text("b").await.0, 404);
    // The very next request after a push sees it: a value that changed, a key that came, and one that went.
    hub.push(vec![of("2")]).await;
    assert_eq!(text("a").await, (200, "2".into()));
    assert_eq!(of_cache().await, "1");
    let other = bundle("u", vec![context("k", "b", "3")]);
    hub.push(vec![other]).await;
    assert_eq!(text("b").await, (200, "3".into()));
    hub.push(vec![Bundle::empty(tenant("u"))]).await;
    assert_eq!(text("b").await.0, 404);
    // The hub is gone: values go on, and their age is that of the moment and not of the first answer.
    drop(hub);
    let (before, begin) = (age().await, Instant::now());
    while age().await <= before {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "it stays {before}"
        );
    }
    assert_eq!(text("a").await, (200, "2".into()));
    // Without the agent nobody says that a key does not exist, or what it was.
    spoke.stop().await;
    for key in ["a", "b"] {
        assert!(text(key).await.0 >= 500, "{key}");
    }
}

#[tokio::test]
async fn nginx_lets_through_whom_the_agent_allows_over_tcp() {
    let Some(bin) = find() else { return };
    let spoke = spoke("examples/agent.toml", "read-secret").await;
    let agent = spoke.url("").replace("http://", "");
    behind_nginx(&bin, &agent, spoke).await;
}

#[tokio::test]
async fn nginx_lets_through_whom_the_agent_allows_over_a_socket() {
    let Some(bin) = find() else { return };
    let spoke = spoke("examples/agent.toml", "read-secret").await;
    let agent = format!("unix:{}", spoke.dir.path().join("read.sock").display());
    behind_nginx(&bin, &agent, spoke).await;
}

async fn behind_nginx(bin: &Path, agent: &str, spoke: Spoke) {
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let backend = backend().await;
    let nginx = Nginx::start(bin, "examples/nginx.conf", |address, _| {
        let token = r#"proxy_set_header X-Hubcast-Token "read-secret";"#;
        vec![
            ("server 127.0.0.1:7521;", format!("server {agent};")),
            ("server 127.0.0.1:9000;", format!("server {backend};")),
            ("listen 127.0.0.1:8080;", format!("listen {address};")),
            (TOKEN_LINE, token.to_owned()),
        ]
    })
    .await;
    cannot_say(nginx.ask(Some("good")).await).await;

    hub.push(vec![content(true)]).await;
    cannot_say(nginx.ask(Some("unknown")).await).await;
    let verdict = hub.synced(&["api_key", "cluster"], &[&content(true)]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    reaches_the_backend(&nginx).await;
    is_refused(&nginx).await;

    // The very next request after the push is durable.
    hub.push(vec![content(false)]).await;
    assert_eq!(nginx.status("good").await, 403);
    assert_eq!(nginx.status("other").await, 200);
    hub.push(vec![Bundle::empty(tenant("acme"))]).await;
    assert_eq!(nginx.status("other").await, 401);

    spoke.stop().await;
    cannot_say(nginx.ask(Some("good")).await).await;
}

/// With the token that stands in the files of the sample.
#[tokio::test]
async fn the_gateway_of_the_sample_says_who_came_through() {
    let Some(bin) = find() else { return };
    let spoke = spoke("sample/agent.toml", "read-only-for-this-machine").await;
    let agent = spoke.url("").replace("http://", "");
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content(true)]).await;
    let verdict = hub.synced(&["api_key", "cluster"], &[&content(true)]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    let nginx = Nginx::start(&bin, "sample/nginx.conf", |address, backend| {
        vec![
            ("server agent-us:7521;", format!("server {agent};")),
            ("listen 8080;", format!("listen {address};")),
            ("127.0.0.1:9000", backend.to_string()),
        ]
    })
    .await;
    let answer = nginx.ask(Some("good")).await;
    let expected = (200, "{\"tenant\":\"acme\",\"plan\":\"gold\"}\n".to_owned());
    assert_eq!(status_and_body(answer).await, expected);
    assert_eq!(nginx.status("unknown").await, 401);
    assert_eq!(nginx.status("orphan").await, 403);
    spoke.stop().await;
    assert_eq!(nginx.status("good").await, 503);
}

async fn reaches_the_backend(nginx: &Nginx) {
    let response = nginx.ask(Some("good")).await;
    assert_eq!(response.status(), 200);
    let seen: Value = response.json().await.expect("JSON");
    assert_eq!(seen["body"], "an order");
    for (name, value) in [
        ("x-tenant-id", Value::from("acme")),
        ("x-tenant-scopes", "read,write".into()),
        ("x-cluster-id", "c1".into()),
        ("x-cluster-plan", "gold".into()),
        ("x-api-key", Value::Null),
    ] {
        assert_eq!(seen["headers"][name], value, "{name}");
    }
    let seen: Value = nginx.ask(Some("bare")).await.json().await.expect("JSON");
    assert_eq!(seen["headers"]["x-tenant-id"], "acme");
    for absent in ["x-tenant-scopes", "x-cluster-plan"] {
        assert_eq!(
            seen["headers"][absent],
            Value::Null,
            "{absent} of the client"
        );
    }
}

async fn is_refused(nginx: &Nginx) {
    for key in [None, Some("unknown")] {
        let response = nginx.ask(key).await;
        assert_eq!(response.headers().get(WWW_AUTHENTICATE), None);
        let expected = (401, r#"{"error":"unauthorized"}"#.to_owned());
        assert_eq!(status_and_body(response).await, expected, "{key:?}");
    }
    let response = nginx.ask(Some("orphan")).await;
    let expected = (403, r#"{"error":"forbidden"}"#.to_owned());
    assert_eq!(status_and_body(response).await, expected);
    let inside = client().get(format!("http://{}/_authorize", nginx.address));
    assert_eq!(inside.send().await.expect("an answer").status(), 404);
}

/// Neither a refusal, after which a client would drop its key, nor a 500.
async fn cannot_say(response: Response) {
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    let expected = (503, r#"{"error":"unavailable"}"#.to_owned());
    assert_eq!(status_and_body(response).await, expected);
}
