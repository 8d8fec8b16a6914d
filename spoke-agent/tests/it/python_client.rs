//! The Python client in `ops/clients/python` against an agent, over TCP and over the socket. What is checked stands in its
//! `test_hubcast.py`; this plays the hub and the agent as that asks for it.

use super::support::*;
use contexts::bundle::Bundle;
use contexts::push::SyncVerdict;
use spoke_agent::clock::wall_micros;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

const SECRET: &str = "read-secret";
const TENANT: &str = "té/1";

/// An agent with a token, and the hub that writes to it.
struct Stage {
    dir: Arc<TempDir>,
    spoke: Option<Spoke>,
    hub: Hub,
    /// The value of `b`, as a number.
    value: u32,
}

fn content(value: &str) -> Bundle {
    let mut over = context("k", "over", "1");
    over.expires = Some(1);
    let contexts = vec![
        context("k", "a/b ü", "{\"n\": 1.50}"),
        context("k", "b", value),
        over,
    ];
    let held = vec![held("k", "held")];
    Bundle::new(tenant(TENANT), contexts, held, vec![]).expect("a bundle")
}

async fn start(dir: &Arc<TempDir>) -> Spoke {
    let mut config = config(dir.path());
    config.read.token = Some(SECRET.to_owned().into());
    let spoke = Spoke::start_with(dir.clone(), config).await;
    spoke.expect("starts")
}

impl Stage {
    async fn new() -> Self {
        let dir = Arc::new(TempDir::new().expect("a directory"));
        assert!(wall_micros() > 1);
        let spoke = start(&dir).await;
        let mut hub = spoke.hub(1);
        hub.claim().await.expect("granted");
        let first = content("[1, 2]");
        hub.push(vec![first.clone()]).await;
        let verdict = hub.synced(&["k"], &[&first]).await;
        assert!(matches!(verdict, SyncVerdict::InStep { .. }));
        Self {
            dir,
            spoke: Some(spoke),
            hub,
            value: 2,
        }
    }

    async fn act(&mut self, step: &str) {
        let files = ["store.redb", "store.redb.redo"];
        match step {
            "change" => {
                self.value += 1;
                let next = content(&self.value.to_string());
                self.hub.push(vec![next]).await;
            }
            "restart" => {
                self.stop().await;
                self.start().await;
            }
            "backup" => {
                self.stop().await;
                for name in files {
                    let path = self.dir.path().join(name);
                    std::fs::copy(&path, path.with_extension("old")).expect("copied");
                }
                self.start().await;
            }
            "restore" => {
                self.stop().await;
                for name in files {
                    let path = self.dir.path().join(name);
                    std::fs::copy(path.with_extension("old"), &path).expect("put back");
                }
                self.start().await;
            }
            other => panic!("there is no step {other:?}"),
        }
    }

    async fn stop(&mut self) {
        let spoke = self.spoke.take().expect("runs");
        spoke.stop().await;
    }

    async fn start(&mut self) {
        let spoke = start(&self.dir).await;
        self.hub = spoke.hub_after(&self.hub);
        self.hub.claim().await.expect("granted");
        self.spoke = Some(spoke);
    }
}

fn python(arguments: [&str; 3]) -> Child {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let script = here.join("../ops/clients/python/test_hubcast.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.kill_on_drop(true).spawn();
    child.unwrap_or_else(|error| {
        panic!(
            "python3 cannot be started ({error}); the Python client is tested with it: install it, for example: \
             apt-get install python3"
        )
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_reads_over_tcp_and_over_the_socket() {
    let mut stage = Stage::new().await;
    let tcp = stage.spoke.as_ref().expect("runs").url("");
    let tcp = tcp.strip_prefix("http://").expect("an address");
    let socket = stage.dir.path().join("read.sock");
    let mut child = python([tcp, socket.to_str().expect("text"), SECRET]);
    let mut stdin = child.stdin.take().expect("stdin");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut has_passed = false;
    while let Some(line) = lines.next_line().await.expect("text") {
        if let Some(step) = line.strip_prefix("step ") {
            stage.act(step).await;
            stdin.write_all(b"done\n").await.expect("told");
        }
        has_passed |= line == "passed";
    }
    let status = child.wait().await.expect("ends");
    assert!(status.success() && has_passed, "see above: {status}");
}
