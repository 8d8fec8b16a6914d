//! The program as it is called: exit codes, the one line on stderr, `get`.

use super::support::*;
use insta::assert_snapshot;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Exit code and stderr, with the directory taken out.
fn outcome(command: &mut Command, dir: &Path) -> String {
    let Output { status, stderr, .. } = command.output().expect("runs");
    let text = String::from_utf8(stderr).expect("text");
    let text = text.trim_end().replace(&dir.display().to_string(), "DIR");
    format!("{}: {text}", status.code().expect("a code"))
}

#[test]
fn wrong_use_is_one_line_and_exit_2() {
    let dir = TempDir::new().expect("a directory");
    let at = dir.path();
    assert_snapshot!(outcome(program().arg("run"), at), @"2: spoke-agent: region is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_REGION or --region");
    assert_snapshot!(outcome(program().args(["--config", "/nowhere.toml", "run"]), at), @"2: spoke-agent: /nowhere.toml: the configuration cannot be read: No such file or directory (os error 2)");
    assert_snapshot!(outcome(program_on(at).args(["run", "--region", "eu west"]), at), @r#"2: spoke-agent: --region: region "eu west" is not a valid region: a region is made of a-z, A-Z, 0-9, '-', '_' and '.'"#);
    assert_snapshot!(outcome(program_on(at).args(["run", "--data"]).arg(at), at), @"2: spoke-agent: data: DIR cannot be opened: it is a directory");
    assert_snapshot!(outcome(program_on(at).args(["run", "--data"]).arg(at.join("no/file")), at), @"2: spoke-agent: data: DIR/no/file cannot be opened: the directory DIR/no does not exist");
    let path = file(at, "occupied", "text");
    assert_snapshot!(outcome(program_on(at).arg("run").arg("--read-socket").arg(path), at), @"2: spoke-agent: read_socket: DIR/occupied exists and is not a socket; name another path or remove it");
    assert_snapshot!(outcome(program().arg("run").env("RUST_LOG", "=="), at), @r#"2: spoke-agent: RUST_LOG="==" cannot be understood: invalid filter directive"#);
    let unknown = program().arg("walk").output().expect("runs");
    assert_eq!(unknown.status.code(), Some(2));
    assert_snapshot!(outcome(program().arg("list"), at), @"2: spoke-agent: read_listen is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_READ_LISTEN or --read-listen");
    assert_snapshot!(outcome(program().arg("stats"), at), @"2: spoke-agent: read_listen is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_READ_LISTEN or --read-listen");
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_1() {
    let dir = TempDir::new().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for key in ["push_listen", "read_listen"] {
        let flag = format!("--{}", key.replace('_', "-"));
        let mut command = program_on(dir.path());
        let said = outcome(command.arg("run").args([&flag, &address]), dir.path());
        assert_eq!(
            said,
            format!("1: spoke-agent: {key}: cannot listen on {address}: another program uses it")
        );
    }
}

async fn get(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = program();
    command
        .arg("get")
        .args(args)
        .arg("--read-socket")
        .arg(dir.join("read.sock"));
    let output = tokio::task::spawn_blocking(move || command.output().expect("runs")).await;
    let output = output.expect("runs");
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes)
            .expect("text")
            .trim_end()
            .to_owned()
    };
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn get_prints_what_gateways_see() {
    let spoke = Spoke::start().await;
    let dir = spoke.dir.path();
    let (code, out, said) = get(dir, &["k", "a/b"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_snapshot!(said, @r#"k "a/b" is not known here: this kind is not synced yet (not_ready)"#);
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let content = bundle("t", vec![context("k", "a/b", "{\"n\": 1.50}")]);
    hub.push(vec![content.clone()]).await;
    let (code, out, said) = get(dir, &["k", "a/b"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "{\"n\": 1.50}"));
    assert_snapshot!(said, @r#"tenant "t", version 1.1, age unknown"#);
    let (code, out, _) = get(dir, &["k", "a/b", "--json"]).await;
    assert_eq!(code, Some(0));
    assert_snapshot!(out, @r#"{"kind":"k","key":"a/b","tenant":"t","version":"1.1","age":null,"value":{"n": 1.50}}"#);
    hub.synced(&["k"], &[&content]).await;
    let (code, out, said) = get(dir, &["k", "none", "--json"]).await;
    assert_eq!(code, Some(1));
    assert_snapshot!(out, @r#"{"error":"not_found","key":"none","kind":"k"}"#);
    assert_snapshot!(said, @r#"k "none" does not exist (not_found)"#);
}

#[test]
fn get_without_an_agent_is_one_line_and_exit_1() {
    let dir = TempDir::new().expect("a directory");
    let socket = dir.path().join("read.sock");
    let mut command = program();
    command
        .args(["get", "k", "a"])
        .arg("--read-socket")
        .arg(socket);
    let said = outcome(&mut command, dir.path());
    assert!(
        said.starts_with("1: spoke-agent: the agent at DIR/read.sock cannot be asked: "),
        "{said}"
    );
    assert!(!said.contains('\n'), "{said}");
    assert_snapshot!(outcome(program().args(["get", "k", "a"]), dir.path()), @"2: spoke-agent: read_listen is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_READ_LISTEN or --read-listen");
}
