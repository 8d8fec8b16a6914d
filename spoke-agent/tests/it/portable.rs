//! A store as one file: exported from an agent that was killed or runs, and made a store again; and what is refused.

use super::support::*;
use contexts::push::SyncVerdict;
use insta::assert_snapshot;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Exit code and what was printed, with the directory taken out.
async fn ran(mut command: Command, dir: &Path) -> (Option<i32>, String) {
    let output = tokio::task::spawn_blocking(move || command.output().expect("runs"));
    let output = output.await.expect("runs");
    let mut text = String::from_utf8(output.stdout).expect("text");
    text += &String::from_utf8(output.stderr).expect("text");
    let text = text.trim_end().replace(&dir.display().to_string(), "DIR");
    (output.status.code(), text)
}

async fn export(
    dir: &Path,
    push: Option<std::net::SocketAddr>,
    name: &str,
) -> (Option<i32>, String) {
    let mut command = program();
    command.args(["export", "--region", REGION]);
    command.arg("--data").arg(dir.join("store.redb"));
    command.arg("--out").arg(dir.join(name));
    if let Some(push) = push {
        let push = push.to_string();
        command.args(["--push-token", TOKEN, "--push-listen", &push]);
    }
    ran(command, dir).await
}

async fn import(from: &Path, dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command.arg("import").args(args).arg("--from").arg(from);
    command.arg("--data").arg(dir.join("store.redb"));
    let (code, text) = ran(command, dir).await;
    (code, text.replace(&from.display().to_string(), "FROM"))
}

fn folder() -> TempDir {
    TempDir::new().expect("a directory")
}

/// An agent that is in step for `k` and knows of `l` only what was pushed.
async fn filled(dir: &Path) -> (Process, Hub) {
    let process = Process::start(dir, None);
    let mut hub = process.hub(1);
    hub.claim().await.expect("granted");
    let first = bundle("t", vec![context("k", "a", "1"), context("l", "b", "2")]);
    let second = bundle("u", vec![context("k", "c", "{\"n\": 1.50}")]);
    hub.push(vec![first.clone(), second.clone()]).await;
    let verdict = hub.synced(&["k"], &[&first, &second]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }), "{verdict:?}");
    (process, hub)
}

const NAMES: [(&str, &str, u16); 5] = [
    ("k", "a", 200),
    ("l", "b", 200),
    ("k", "c", 200),
    ("k", "none", 404),
    ("l", "none", 503),
];

async fn answers(process: &Process) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    for (kind, key, wanted) in NAMES {
        let answer = loop {
            let answer = process.look_up(kind, key).await;
            // What is absent is said once the file was checked.
            if answer.0 == wanted || answer.0 != 503 {
                break answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        assert_eq!(answer.0, wanted, "{kind} {key}: {}", answer.1);
        answers.push(answer);
    }
    answers
}

async fn age(process: &Process) -> f64 {
    let url = format!("http://{}/v1/contexts/k/a", process.read);
    let response = client().get(url).send().await.expect("an answer");
    let age = response.headers()["x-context-age"].to_str().expect("text");
    age.parse().expect("a number")
}

fn end(mut process: Process) {
    process.signal(rustix::process::Signal::KILL);
    process.wait();
}

/// Would catch an export that leaves out what only the redo log has, an import that knows more than the store did, or is
/// younger, and one that an older writer passes.
#[tokio::test]
async fn a_store_that_was_exported_is_the_same_store_elsewhere() {
    let (old, new) = (folder(), folder());
    let (process, hub) = filled(old.path()).await;
    let (state, before) = (hub.hello().await, answers(&process).await);
    let (code, said) = export(old.path(), Some(process.push), "running").await;
    assert_eq!(code, Some(0), "{said}");
    let old_age = age(&process).await;
    end(process);
    let (code, said) = export(old.path(), None, "stopped").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("3 contexts of 2 tenants of eu-west-1, "),
        "{said}"
    );

    for name in ["running", "stopped"] {
        let from = old.path().join(name);
        let dir = new.path().join(name);
        std::fs::create_dir(&dir).expect("created");
        let (code, said) = import(&from, &dir, &["--json"]).await;
        assert_eq!(code, Some(0), "{said}");
        let process = Process::start(&dir, None);
        assert_eq!(answers(&process).await, before, "{name}");
        let here = age(&process).await;
        assert!(
            here >= old_age,
            "{name}: {here} is no younger than {old_age}"
        );
        let stale = process.hub(0).claim().await;
        assert!(stale.is_err(), "{stale:?}");
        let mut next = process.hub_after(&hub);
        let theirs = next.hello().await;
        assert_ne!(theirs.store, state.store);
        assert_eq!((theirs.root, theirs.granted), (state.root, state.granted));
        assert_eq!(
            (theirs.last_synced, theirs.position),
            (state.last_synced, state.position)
        );
        next.claim().await.expect("granted");
        next.push(vec![bundle("t", vec![context("k", "a", "5")])])
            .await;
        assert_eq!(process.look_up("k", "a").await, (200, "5".into()));
    }
}

/// Would catch an import of a part of a file.
#[tokio::test]
async fn a_file_that_is_damaged_or_cut_is_refused_as_a_whole() {
    let (old, new) = (folder(), folder());
    let (process, _hub) = filled(old.path()).await;
    end(process);
    export(old.path(), None, "whole").await;
    let whole = std::fs::read(old.path().join("whole")).expect("read");
    let from: PathBuf = old.path().join("other");
    let mut others: Vec<Vec<u8>> = Vec::new();
    others.extend([16, 19, 40, whole.len() / 2, whole.len() - 1].map(|n| whole[..n].to_vec()));
    others.extend([20, 25, whole.len() / 2, whole.len() - 1].map(|at| {
        let mut other = whole.clone();
        other[at] ^= 1;
        other
    }));
    others.push([&whole[..], b"x"].concat());
    for other in others {
        std::fs::write(&from, &other).expect("written");
        let (code, said) = import(&from, new.path(), &[]).await;
        let begin = "spoke-agent: from: FROM is damaged or cut (";
        assert!(
            code == Some(1) && said.starts_with(begin),
            "{code:?} {said}"
        );
        let left = std::fs::read_dir(new.path()).expect("read").count();
        assert_eq!(left, 0, "nothing is left of {} bytes", other.len());
    }
    std::fs::write(&from, "text").expect("written");
    let (code, said) = import(&from, new.path(), &[]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @"spoke-agent: from: FROM is not an export of a spoke-agent; name the file that `spoke-agent export` wrote");
    let mut newer = whole;
    newer[16] = 9;
    std::fs::write(&from, newer).expect("written");
    let (code, said) = import(&from, new.path(), &[]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @"spoke-agent: from: FROM has format 9, this release knows 1; use the release that wrote it");
}

/// Would catch an import over a store that has something, and one of another region that says what that cannot know.
#[tokio::test]
async fn what_is_there_stays_and_another_region_has_to_be_meant() {
    let (old, new) = (folder(), folder());
    let (process, _hub) = filled(old.path()).await;
    end(process);
    let from = old.path().join("out");
    export(old.path(), None, "out").await;
    let (code, said) = export(old.path(), None, "out").await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @"spoke-agent: out: DIR/out exists already; name another file, or move this one away");
    let store = old.path().join("store.redb");
    let before = std::fs::read(&store).expect("read");
    let (code, said) = import(&from, old.path(), &[]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @"spoke-agent: data: DIR/store.redb is not empty; an import makes a new store: name another file, or move this one and its redo log away");
    assert!(std::fs::read(&store).expect("read") == before, "it changed");

    let (code, said) = import(&from, new.path(), &["--region", "mars"]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @r#"spoke-agent: from: FROM was exported from region "eu-west-1", this agent serves "mars"; correct `region`, or say --other-region if that is meant: contexts that only "eu-west-1" may have are then here until the hub's next scan"#);
    // An agent that ran and was never claimed is empty still.
    end(Process::start(new.path(), None));
    std::fs::remove_file(new.path().join("store.redb")).expect("removed");
    let (code, said) = import(&from, new.path(), &["--region", "mars", "--other-region"]).await;
    assert_eq!(code, Some(0), "{said}");
    let process = Process::spawn(program_of(new.path(), "mars"));
    assert_eq!(process.look_up("k", "a").await.0, 200);
    assert_eq!(process.look_up("k", "none").await.0, 503);
    let url = format!("http://{}/v1/status", process.read);
    let status: Value = client()
        .get(url)
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert!(status["age_seconds"].is_null(), "{status}");
}
