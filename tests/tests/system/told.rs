//! What an operator sees from a machine that has an address and a token: changes as they go out, the status again and
//! again, and every other command that the API can do.

use crate::world::{HEALS_WITHIN, World};
use serde_json::Value;
use std::process::{Command, Stdio};
use system_tests::process::{Process, program};
use system_tests::server::Server;
use system_tests::{Result, until};

/// A publisher in a folder without a configuration, asked from afar.
fn afar(world: &World, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(program("publisher")?);
    command.current_dir(world.dir.path().join("nothing"));
    command
        .env_remove("HUBCAST_CONFIG")
        .env_remove("HUBCAST_FAILPOINT");
    command.args(args).args(["--hub", &world.hub.url("")]);
    command.env("HUBCAST_API_TOKEN", &world.hub.token);
    Ok(command)
}

async fn world() -> Result<World> {
    let server = Server::any().await?;
    let world = World::with_counters(server, &["eu-west-1", "us-east-1"], 5).await?;
    std::fs::create_dir(world.dir.path().join("nothing"))?;
    Ok(world)
}

/// Would catch a change that is not told, one that is told to whoever did not ask for it, and a value that is shown.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_they_go_out() -> Result<()> {
    let mut world = world().await?;
    world.runs().await?;
    let log = world.dir.path().join("tail");
    let tail = [
        "tail",
        "--json",
        "--region",
        "us-east-1",
        "--kind",
        "counter",
    ];
    let mut tail = Process::start(afar(&world, &tail)?, &log)?;
    let seen = |log: String| log.lines().filter(|l| l.contains("t2")).count();
    let is_told = async |follower: &Process| {
        until("a change to be told", HEALS_WITHIN, || async {
            // Who follows is not told what was before.
            let change = "UPDATE counters SET note = 's3cret' || n, n = n + 1 WHERE tenant = 't2'";
            world.database.execute(change).await.ok()?;
            (seen(follower.log()) >= 1).then_some(())
        })
        .await
    };
    is_told(&tail).await?;
    // Of one tenant alone; as text. Not before: whoever is the first to follow is told that a tenant is.
    let of_one = world.dir.path().join("of one");
    let mut one = afar(&world, &["tail", "--tenant", "t2"])?;
    one.args(["--limit", "2"]);
    let mut one = Process::start(one, &of_one)?;
    is_told(&one).await?;
    until("the kind that changed to be told", HEALS_WITHIN, || async {
        // The twin has no note, so only one kind changes.
        let change = "UPDATE counters SET note = note || '.' WHERE tenant = 't2'";
        world.database.execute(change).await.ok()?;
        tail.log().contains(r#""kinds":["counter"]"#).then_some(())
    })
    .await?;
    let status = one.ended(HEALS_WITHIN).await?;
    assert!(status.success(), "{status}: {}", one.log());
    tail.kill()?;
    let lines: Vec<Value> = tail
        .log()
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?;
    for line in &lines {
        assert_eq!(line["region"], "us-east-1", "{line}");
        assert_eq!(line["cause"], "change", "{line}");
        assert!(line["ms"].is_u64(), "{line}");
        assert_eq!(line["contexts"], 2, "{line}");
    }
    assert_eq!(lines[0]["kinds"].to_string(), r#"["counter","twin"]"#);
    assert_eq!(lines[0]["is_first"], true);
    for log in [tail.log(), one.log()] {
        assert!(!log.contains("s3cret"), "{log}");
    }
    assert!(
        one.log().contains(" ms  tenant t2  counter"),
        "{}",
        one.log()
    );
    world.hub.stop().await
}

/// Would catch a watch that ends when the hub goes, or that does not say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_watched_outlives_the_hub() -> Result<()> {
    let mut world = world().await?;
    world.runs().await?;
    let log = world.dir.path().join("watch");
    let watch = afar(&world, &["status", "--watch", "0.2"])?;
    let mut watch = Process::start(watch, &log)?;
    let says = async |watch: &Process, words: &str, times: usize| {
        until(words, HEALS_WITHIN, || async {
            (watch.log().matches(words).count() >= times).then_some(())
        })
        .await
    };
    says(&watch, "in step", 4).await?;
    assert!(!watch.log().contains('\x1b'), "it is no terminal");
    world.hub.kill()?;
    says(&watch, "no answer for", 2).await?;
    let before = watch.log().matches("in step").count();
    world.hub.start().await?;
    says(&watch, "in step", before + 2).await?;
    assert!(watch.is_running());
    watch.kill()
}

/// Would catch a command that needs more than an address and a token, or does not do from afar what it does at home.
#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_needs_an_address_and_a_token_and_nothing_else() -> Result<()> {
    let mut world = world().await?;
    world.runs().await?;
    let ran = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let output = afar(&world, args)?.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((
            output.status.code(),
            text + &String::from_utf8_lossy(&output.stderr),
        ))
    };
    for (args, code, words) in [
        (&["status"][..], 0, "2 of 2 stores in step"),
        (&["scan"], 0, "in step; nothing differed"),
        (
            &["scan", "--region", "us-east-1"],
            0,
            "in step; nothing differed",
        ),
        (&["scan", "--dry-run"], 0, "the same"),
        (&["diff", "--tenant", "t1"], 0, "the same"),
        (&["republish", "tenant", "t1"], 0, "2 contexts"),
        (&["republish", "region", "eu-west-1"], 0, "in step"),
        (&["get", "counter", "t1"], 0, "\"n\""),
        (&["get", "counter", "none"], 1, "no such key"),
        (&["held"], 0, "nothing is held"),
        (&["drop"], 1, "nothing of this is held"),
        (
            &["pause", "--reason", "a test", "--kind", "counter"],
            0,
            "counter",
        ),
        (&["status"], 1, "PAUSED"),
        (
            &["resume", "--reason", "over", "--kind", "counter"],
            0,
            "ended: ",
        ),
        (&["audit", "--limit", "5"], 0, "pause"),
        (
            &["scan", "--region", "mars"],
            2,
            "region mars is not in the configuration",
        ),
        (
            &["tail", "--kind", "itme"],
            2,
            "kind itme is not in the configuration",
        ),
        (&["migrate"], 2, "without --hub"),
    ] {
        let (got, text) = ran(args)?;
        assert_eq!(got, Some(code), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
    }
    let mut without = afar(&world, &["status"])?;
    let output = without.env_remove("HUBCAST_API_TOKEN").output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("set HUBCAST_API_TOKEN"), "{text}");
    let mut wrong = afar(&world, &["status"])?;
    let output = wrong.env("HUBCAST_API_TOKEN", "wrong-s3cret").output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("401") && !text.contains("s3cret"), "{text}");
    world.hub.stop().await
}
