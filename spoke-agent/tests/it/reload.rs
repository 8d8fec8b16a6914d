//! SIGHUP: tokens and policies of a file that was changed count from then on; what cannot be used changes nothing.

use super::support::*;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn write(dir: &Path, read_token: &str, push_token: &str, more: &str) {
    let text = format!("read_token = {read_token:?}\npush_token = {push_token:?}\n{more}");
    std::fs::write(dir.join("agent.toml"), text).expect("written");
}

const POLICY: &str = "[[authorize]]\nname = \"api\"\nheader = \"x-api-key\"\nkind = \"k\"\n";

async fn status(process: &Process, path: &str, token: &str) -> u16 {
    let url = format!("http://{}{path}", process.read);
    let asked = client()
        .get(url)
        .header("x-hubcast-token", token)
        .header("x-api-key", "a");
    asked
        .bearer_auth(token)
        .send()
        .await
        .expect("an answer")
        .status()
        .as_u16()
}

async fn becomes(process: &Process, path: &str, token: &str, wanted: u16) {
    let begin = Instant::now();
    loop {
        let got = status(process, path, token).await;
        if got == wanted {
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{got}, not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Would catch a token that stays good, a push token that is forgotten, and a file with a mistake that changes something.
#[tokio::test]
async fn tokens_and_policies_are_taken_from_a_changed_file() {
    let dir = TempDir::new().expect("a directory");
    write(dir.path(), "one", TOKEN, "");
    let mut command = program();
    command.arg("--config").arg(dir.path().join("agent.toml"));
    command.args(["--region", REGION, "--log-format", "json", "--data"]);
    command.arg(dir.path().join("store.redb"));
    command.args([
        "--push-listen",
        "127.0.0.1:0",
        "--read-listen",
        "127.0.0.1:0",
    ]);
    let process = Process::spawn(command);
    let key = "/v1/contexts/k/a";
    assert_eq!(status(&process, key, "one").await, 503);
    assert_eq!(status(&process, "/v1/authorize/api", "one").await, 403);

    write(dir.path(), "two", TOKEN, POLICY);
    process.signal(Signal::HUP);
    becomes(&process, key, "two", 503).await;
    assert_eq!(status(&process, key, "one").await, 401);
    becomes(&process, "/v1/authorize/api", "two", 503).await;

    // A mistake, and then what is right: had the mistake been taken, the token before it would be good no more.
    write(dir.path(), "three", TOKEN, "memmory_mib = 1\n");
    process.signal(Signal::HUP);
    let mut hub = process.hub(1);
    hub.claim().await.expect("granted");
    for _ in 0..20 {
        assert_eq!(status(&process, key, "two").await, 503);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    write(dir.path(), "four", "another", "memory_mib = 1\n");
    process.signal(Signal::HUP);
    becomes(&process, key, "four", 503).await;
    let answer = hub
        .post("hello", TOKEN, Vec::new())
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 401);
}
