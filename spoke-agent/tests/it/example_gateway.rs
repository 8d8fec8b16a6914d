//! The example gateway against an agent: the statuses that its table promises.

use super::support::*;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

struct Gateway {
    child: Child,
    address: String,
}

impl Gateway {
    /// Cargo builds examples with the tests, beside them.
    fn start(agent: &str) -> Self {
        let mut path: PathBuf = std::env::current_exe().expect("a path");
        path.pop();
        path.set_file_name("examples");
        let mut command = Command::new(path.join("gateway"));
        command
            .args(["--listen", "127.0.0.1:0", "--agent", agent])
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .expect("the example is built with the tests");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let line = lines.next().expect("a line").expect("text");
        let address = line
            .split([' ', ','])
            .nth(3)
            .expect("an address")
            .to_owned();
        Self { child, address }
    }

    async fn ask(&self, key: Option<&str>) -> (u16, Option<String>, Value) {
        let mut request = client().get(format!("http://{}/anything", self.address));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.expect("an answer");
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().expect("text").to_owned())
        };
        let extra = header("x-context-age").or(header("retry-after"));
        (
            response.status().as_u16(),
            extra,
            response.json().await.expect("JSON"),
        )
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn api_key(secret: &str, active: bool) -> contexts::bundle::Context {
    let value = format!(r#"{{"cluster_id":"c/1","scopes":["read"],"active":{active}}}"#);
    context("api_key", &sha256(secret), &value)
}

#[tokio::test]
async fn the_gateway_tells_unknown_revoked_and_not_ready_apart() {
    let spoke = Spoke::start().await;
    let gateway = Gateway::start(&spoke.url(""));
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    assert_eq!(gateway.ask(None).await.0, 401);
    let (status, retry, _) = gateway.ask(Some("good")).await;
    assert_eq!(
        (status, retry.as_deref()),
        (503, Some("1")),
        "nothing is known yet"
    );

    let cluster = context("cluster", "c/1", r#"{"host":"h1"}"#);
    let content = bundle(
        "té",
        vec![api_key("good", true), api_key("old", false), cluster],
    );
    hub.push(vec![content.clone()]).await;
    assert_eq!(
        gateway.ask(Some("unknown")).await.0,
        503,
        "absence is not known yet"
    );
    hub.synced(&["api_key", "cluster"], &[&content]).await;
    let (status, age, body) = gateway.ask(Some("good")).await;
    assert_eq!(
        (status, &body["tenant"], &body["cluster"]["host"]),
        (200, &"té".into(), &"h1".into())
    );
    assert!(age.is_some() && body["age"].is_number());
    assert_eq!(gateway.ask(Some("unknown")).await.0, 401);
    assert_eq!(gateway.ask(Some("old")).await.0, 403);

    spoke.stop().await;
    let (status, retry, _) = gateway.ask(Some("good")).await;
    assert_eq!(
        (status, retry.as_deref()),
        (503, Some("1")),
        "the agent is gone"
    );
}
