//! What a person at the agent is told: `list` and `stats` of one that runs, `verify` of the file of one that does not.

use super::support::*;
use contexts::bundle::{Bundle, Context};
use contexts::push::SyncVerdict;
use insta::assert_snapshot;
use redb::ReadableTable;
use serde_json::{Value, json};
use spoke_agent::clock::wall_micros;
use spoke_agent::store::redb::rows;
use spoke_agent::store::redb::tables::{BUNDLES, CONTEXTS, OWNERS};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

type Ran = (Option<i32>, String, String);

/// Exit code, stdout and stderr, with the directory taken out.
async fn ran(mut command: Command, dir: &Path) -> Ran {
    let output = tokio::task::spawn_blocking(move || command.output().expect("runs"));
    let output = output.await.expect("runs");
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("text");
        text.trim_end().replace(&dir.display().to_string(), "DIR")
    };
    let (out, said) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, said)
}

fn asking(dir: &Path, args: &[&str]) -> Command {
    let mut command = program();
    let socket = dir.join("read.sock");
    command.args(args).arg("--read-socket").arg(socket);
    command
}

async fn ask(dir: &Path, args: &[&str]) -> Ran {
    ran(asking(dir, args), dir).await
}

async fn verify(dir: &Path, args: &[&str]) -> Ran {
    let mut command = program();
    command.arg("verify").args(args);
    command.arg("--data").arg(dir.join("store.redb"));
    ran(command, dir).await
}

/// Two tenants, a name that is held without a value and one that is held with it, and one that has expired.
async fn filled() -> (Spoke, Hub) {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let first = bundle("t", vec![context("k", "old", "1")]);
    hub.push(vec![first]).await;
    let mut over = context("k", "over", "1");
    over.expires = Some(wall_micros() - 1);
    let contexts = vec![
        context("k", "a/b\tc", "{\"n\": 1.50, \"s\": \"x y\"}"),
        over,
        context("l", "b", "2"),
    ];
    let holds = vec![held("k", "new"), held("k", "old")];
    let t = Bundle::new(tenant("t"), contexts, holds, vec![]).expect("a bundle");
    let u = bundle("ü", vec![context("k", "u", "[1, 2]")]);
    hub.push(vec![t.clone(), u.clone()]).await;
    let verdict = hub.synced(&["k", "l"], &[&t, &u]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }), "{verdict:?}");
    (spoke, hub)
}

#[tokio::test]
async fn list_prints_what_a_tenant_has_and_what_there_is() {
    let (spoke, _hub) = filled().await;
    let dir = spoke.dir.path();
    let (code, out, said) = ask(dir, &["list"]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_snapshot!(out, @r#"
    k	a/b\tc	t	1.2	{"n":1.50,"s":"x y"}
    k	old	t	1.1	1
    l	b	t	1.2	2
    k	u	ü	1.2	[1,2]
    k	new	t	-	(held)
    "#);
    let (code, out, said) = ask(dir, &["list", "--tenant", "t", "--kind", "k"]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_snapshot!(out, @r#"
    k	a/b\tc	t	1.2	{"n":1.50,"s":"x y"}
    k	old	t	1.1	1
    k	new	t	-	(held)
    "#);
    let (code, out, _) = ask(dir, &["list", "--kind", "l", "--keys"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "l\tb\tt\t1.2"));
    let nobody = ask(dir, &["list", "--tenant", "nobody"]).await;
    let said = "spoke-agent: tenant \"nobody\" has no contexts in this region";
    assert_eq!(nobody, (Some(0), String::new(), said.to_owned()));
}

#[tokio::test]
async fn list_prints_one_document() {
    let (spoke, _hub) = filled().await;
    let dir = spoke.dir.path();
    let (code, out, _) = ask(dir, &["list", "--tenant", "t", "--kind", "k", "--json"]).await;
    assert_eq!(code, Some(0));
    assert_snapshot!(out, @r#"
    {"contexts":[{"kind":"k","key":"a/b\tc","tenant":"t","version":"1.2","value":{"n": 1.50, "s": "x y"}},
    {"kind":"k","key":"old","tenant":"t","version":"1.1","value":1},
    {"kind":"k","key":"new","tenant":"t","error":"held"}]}
    "#);
    let all = ask(dir, &["list", "--json", "--keys"]).await.1;
    let all: Value = serde_json::from_str(&all).expect("one document");
    assert_eq!(all["contexts"].as_array().map(Vec::len), Some(5));
    let one = json!({"kind": "k", "key": "u", "tenant": "ü", "version": "1.2"});
    assert_eq!(all["contexts"][3], one);
    let none = ask(dir, &["list", "--tenant", "nobody", "--json"]).await.1;
    assert_eq!(none, r#"{"contexts":[]}"#);
}

#[tokio::test]
async fn list_refuses_what_it_cannot_list_whole() {
    let spoke = Spoke::start().await;
    let dir = spoke.dir.path();
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let one = bundle("t", vec![context("k", "a", "1")]);
    hub.push(vec![one.clone()]).await;
    let (code, out, said) = ask(dir, &["list"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_snapshot!(said, @"spoke-agent: the agent at DIR/read.sock cannot list what there is: it was never in step with the hub (not_ready)");
    let said = ask(dir, &["list", "--tenant", "nobody"]).await.2;
    assert_snapshot!(said, @r#"spoke-agent: the agent at DIR/read.sock cannot list all that tenant "nobody" has: it is not in step yet (not_ready)"#);
    hub.synced(&["k"], &[&one]).await;
    let (code, _, said) = ask(dir, &["list", "--kind", "l"]).await;
    assert_eq!(code, Some(1));
    assert_snapshot!(said, @r#"spoke-agent: the agent at DIR/read.sock cannot list all of kind "l": it is not synced yet (not_ready)"#);
    let dir = spoke.stop().await;
    for command in ["list", "stats"] {
        let (code, _, said) = ask(dir.path(), &[command]).await;
        assert_eq!(code, Some(1), "{command}");
        let begin = "spoke-agent: the agent at DIR/read.sock cannot be asked: ";
        assert!(said.starts_with(begin) && !said.contains('\n'), "{said}");
    }
}

/// Would catch a list that leaves out what damage took away, and calls itself whole.
#[tokio::test]
async fn list_says_so_where_the_store_lost_something() {
    let dir = stopped().await;
    tamper(dir.path(), |txn| {
        let mut contexts = txn.open_table(CONTEXTS).expect("opens");
        let row = (b"t".as_slice(), b"k".as_slice(), b"old".as_slice());
        contexts.remove(row).expect("removes");
    });
    let spoke = Spoke::start_in(dir).await.expect("starts");
    assert_eq!(spoke.look_up("k", "old").await.0, 503);
    let (code, out, said) = loop {
        let listed = ask(spoke.dir.path(), &["list"]).await;
        if !listed.2.contains("still checks its file") {
            break listed;
        }
    };
    assert_eq!((code, out.lines().count()), (Some(1), 4));
    assert_snapshot!(said, @"spoke-agent: the agent at DIR/read.sock may have more than was listed: it does not know all of k; the next scan of the hub mends that");
    let (code, out, _) = ask(spoke.dir.path(), &["list", "--json"]).await;
    let document: Value = serde_json::from_str(&out).expect("one document all the same");
    let count = document["contexts"].as_array().map(Vec::len);
    assert_eq!((code, count), (Some(1), Some(4)));
}

#[tokio::test]
async fn a_long_list_has_each_key_once_and_may_be_cut_off() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let tenants: Vec<Bundle> = (0..50)
        .map(|t| {
            let contexts = (0..200).map(|n| context("k", &format!("{t}-{n}"), "\"0123456789\""));
            bundle(&format!("t{t}"), contexts.collect::<Vec<Context>>())
        })
        .collect();
    hub.push(tenants.clone()).await;
    hub.synced(&["k"], &tenants.iter().collect::<Vec<_>>())
        .await;
    let dir = spoke.dir.path();
    let (code, out, _) = ask(dir, &["list", "--keys"]).await;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((code, lines.len()), (Some(0), 10_000));

    let mut command = asking(dir, &["list"]);
    let cut = tokio::task::spawn_blocking(move || {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut head = [0; 100];
        let mut stdout = child.stdout.take().expect("stdout");
        stdout.read_exact(&mut head).expect("some of it");
        drop(stdout);
        let output = child.wait_with_output().expect("ends");
        (output.status.code(), output.stderr)
    });
    assert_eq!(cut.await.expect("runs"), (Some(0), vec![]));
}

#[tokio::test]
async fn stats_are_for_people_and_for_programs() {
    let (spoke, _hub) = filled().await;
    let dir = spoke.dir.path();
    let (code, out, _) = ask(dir, &["stats"]).await;
    assert_eq!(code, Some(0));
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"[0-9a-f]{32}", "[store]");
    settings.add_filter(r"[0-9.]+ (KiB|MiB|bytes)", "[size]");
    settings.add_filter(r"[0-9.]+ s\b", "[time]");
    settings.bind(|| {
        assert_snapshot!(out, @"
        region         eu-west-1
        store          [store]
        release        0.1.0
        ready          yes, in step for k, l
        contexts       5
        bundles        2
        file           [size]
        memory         6 contexts in [size]; reads come from memory
        position       1.2
        age            [time]
        last push      [time] ago
        granted epoch  1
        ");
    });
    let (code, out, _) = ask(dir, &["stats", "--json"]).await;
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &document["contexts"]), (Some(0), &json!(5)));
    let empty = Spoke::start().await;
    let out = ask(empty.dir.path(), &["stats"]).await.1;
    assert!(
        out.contains("no, it was never in step with the hub"),
        "{out}"
    );
}

/// Would catch a look that writes: the bytes of both files are the same, and no other file is there.
fn bytes_of(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(dir).expect("read");
    let mut files: Vec<_> = files
        .map(|file| file.expect("read").path())
        .filter(|path| path.is_file())
        .map(|path| {
            (
                path.display().to_string(),
                std::fs::read(&path).expect("read"),
            )
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn verify_checks_a_stopped_agents_file_and_leaves_it_as_it_is() {
    let (spoke, _hub) = filled().await;
    let (code, out, said) = verify(spoke.dir.path(), &[]).await;
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert_snapshot!(said, @"spoke-agent: data: DIR/store.redb is in use by another process; each agent needs a file of its own");
    let dir = spoke.stop().await;
    let before = bytes_of(dir.path());
    let (code, out, said) = verify(dir.path(), &[]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_snapshot!(out, @"5 contexts of 2 tenants, 0 commits of them from the redo log; nothing is wrong");
    let (code, out, _) = verify(dir.path(), &["--json", "--region", REGION]).await;
    assert_eq!(code, Some(0));
    assert_snapshot!(out, @r#"{"bundles":2,"contexts":5,"findings":[],"redo_log":{"commits":0,"missing":false},"sound":true}"#);
    let (code, _, said) = verify(dir.path(), &["--region", "mars"]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @r#"spoke-agent: data: DIR/store.redb is the store of region "eu-west-1", this agent serves "mars"; correct `region` or `data`"#);
    assert!(bytes_of(dir.path()) == before, "it changed something");
}

#[tokio::test]
async fn verify_refuses_what_is_no_store_and_creates_none() {
    let dir = TempDir::new().expect("a directory");
    let (code, _, said) = verify(dir.path(), &[]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @"spoke-agent: data: DIR/store.redb cannot be opened: there is no such file");
    assert!(bytes_of(dir.path()).is_empty());
    file(dir.path(), "store.redb", "");
    let (code, _, said) = verify(dir.path(), &[]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @"spoke-agent: data: DIR/store.redb is not the store of a spoke-agent (nothing was ever stored in it); name another file, or move this one away");
    file(dir.path(), "store.redb", "text");
    let (code, _, said) = verify(dir.path(), &[]).await;
    assert_eq!(code, Some(2));
    assert_snapshot!(said, @"spoke-agent: data: DIR/store.redb is not the store of a spoke-agent (it is no redb file); name another file, or move this one away");
    let left = std::fs::read(dir.path().join("store.redb")).expect("there");
    assert_eq!(left, b"text");
    let mut command = program();
    command.arg("verify");
    let said = ran(command, dir.path()).await.2;
    assert_snapshot!(said, @"spoke-agent: data is not set; name a configuration file that has it (--config FILE), or set HUBCAST_AGENT_DATA or --data");
}

/// What only the redo log has counts, and the file of an agent that was killed is neither repaired nor settled.
#[tokio::test]
async fn verify_sees_the_redo_log_of_an_agent_that_was_killed() {
    let dir = TempDir::new().expect("a directory");
    let mut process = Process::start(dir.path(), None);
    let mut hub = process.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("t", vec![context("k", "a", "1")])])
        .await;
    hub.push(vec![bundle("u", vec![context("k", "b", "2")])])
        .await;
    process.signal(rustix::process::Signal::KILL);
    process.wait();
    let before = bytes_of(dir.path());
    let (code, out, said) = verify(dir.path(), &[]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_snapshot!(out, @"2 contexts of 2 tenants, 2 commits of them from the redo log; nothing is wrong");
    assert!(bytes_of(dir.path()) == before, "it changed something");
    std::fs::remove_file(dir.path().join("store.redb.redo")).expect("removed");
    let (code, out, _) = verify(dir.path(), &[]).await;
    assert_eq!(code, Some(0));
    assert_snapshot!(out, @"
    the redo log that belongs to the file is not beside it; the last pushes may be missing
    0 contexts of 0 tenants, 0 commits of them from the redo log; nothing is wrong
    ");
    assert!(!dir.path().join("store.redb.redo").exists());
}

async fn stopped() -> Arc<TempDir> {
    filled().await.0.stop().await
}

#[tokio::test]
async fn verify_names_each_bad_row() {
    let dir = stopped().await;
    tamper(dir.path(), |txn| {
        let mut contexts = txn.open_table(CONTEXTS).expect("opens");
        let row = (b"t".as_slice(), b"l".as_slice(), b"b".as_slice());
        let read = contexts.get(row).expect("reads").expect("there");
        let mut bytes = read.value().to_vec();
        drop(read);
        *bytes.last_mut().expect("bytes") ^= 1;
        contexts.insert(row, bytes.as_slice()).expect("inserts");
        let row = (b"t".as_slice(), b"k".as_slice(), b"old".as_slice());
        contexts.remove(row).expect("removes");
        let mut owners = txn.open_table(OWNERS).expect("opens");
        let row = (b"k".as_slice(), b"u".as_slice());
        owners.remove(row).expect("removes");
    });
    let before = bytes_of(dir.path());
    let (code, out, said) = verify(dir.path(), &[]).await;
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert_snapshot!(out, @r"
    l	b	t	the record disagrees with its hash
    -	-	t	the head of the tenant disagrees with its records
    k	old	-	it has an owner and no record
    k	u	ü	the record has no owner, or another one
    4 contexts of 2 tenants, 0 commits of them from the redo log; 4 things are wrong; an agent mends what it can at its start, and the next scan of the hub the rest
    ");
    assert!(bytes_of(dir.path()) == before, "it changed something");
    let (code, out, _) = verify(dir.path(), &["--json"]).await;
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, &document["sound"], &document["findings"][0]),
        (
            Some(1),
            &json!(false),
            &json!({"kind": "l", "key": "b", "tenant": "t", "wrong": "the record disagrees with its hash"})
        )
    );
}

#[tokio::test]
async fn verify_finds_an_edited_head_and_facts_that_cannot_be_read() {
    let dir = stopped().await;
    tamper(dir.path(), |txn| {
        let mut heads = txn.open_table(BUNDLES).expect("opens");
        let place = (digest_key().bucket(&tenant("ü")) as u16, "ü".as_bytes());
        let read = heads.get(place).expect("reads").expect("there");
        let mut head = rows::head(read.value()).expect("a head");
        drop(read);
        head.digest.0[3] ^= 1;
        let bytes = rows::encode(&head).expect("encodes");
        heads.insert(place, bytes.as_slice()).expect("inserts");
    });
    let (code, out, _) = verify(dir.path(), &[]).await;
    assert_eq!(code, Some(1));
    let first = out.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "-\t-\tü\tthe head of the tenant disagrees with its records"
    );
    tamper(dir.path(), |txn| {
        let mut facts = txn
            .open_table(spoke_agent::store::redb::tables::META)
            .expect("opens");
        facts.insert("digest_key", [1].as_slice()).expect("inserts");
    });
    let (code, out, _) = verify(dir.path(), &[]).await;
    assert_eq!(code, Some(1));
    let first = out.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "-\t-\t-\tthe fact \"digest_key\" of the store cannot be read"
    );
}

/// Bytes that change on the disk, wherever: it ends with 1 or 2 and a line, and never in a panic.
#[tokio::test]
async fn verify_survives_a_rotten_file() {
    let dir = stopped().await;
    let path = dir.path().join("store.redb");
    let good = std::fs::read(&path).expect("read");
    let mut found = 0;
    for at in (0..good.len()).step_by(good.len() / 24) {
        let mut bad = good.clone();
        let end = (at + 3_000).min(bad.len());
        bad[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&path, &bad).expect("written");
        let (code, out, said) = verify(dir.path(), &[]).await;
        assert!(matches!(code, Some(0..=2)), "{at}: {code:?} {out} {said}");
        assert!(!said.contains("panicked"), "{at}: {said}");
        assert!(std::fs::read(&path).expect("read") == bad, "{at}");
        found += u32::from(code != Some(0));
    }
    assert!(found > 0, "nothing was found anywhere");
}
