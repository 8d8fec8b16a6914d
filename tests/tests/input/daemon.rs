//! The daemon: it waits, stands by, takes over, hands over, and heals.

use crate::desk::{Desk, expect};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::postgres::{Postgres, find_bin};
use system_tests::process::{Process, program};
use system_tests::relay::Relay;
use system_tests::{Result, until};

const WITHIN: Duration = Duration::from_secs(60);

async fn status(hub: &Hub) -> Option<Value> {
    let client = system_tests::client().ok()?;
    let request = client.get(hub.url("/v1/status")).bearer_auth(&hub.token);
    request.send().await.ok()?.json().await.ok()
}

/// Waits until a daemon is the writer and its start-up scan is over.
async fn writes(hub: &Hub) -> Result<Value> {
    let last = std::cell::RefCell::new(Value::Null);
    let what = "the daemon to be the writer, after its scan";
    let waited = until(what, WITHIN, || async {
        let status = status(hub).await?;
        let engine = &status["engine"];
        let at_rest = engine.is_object() && engine["scan"].is_null() && engine["dirty"] == 0;
        let in_step = |s: &Value| s["standing"] == "in step";
        let all = engine["stores"]
            .as_array()
            .is_some_and(|s| s.iter().all(in_step));
        last.replace(status.clone());
        (at_rest && all).then_some(status)
    });
    waited
        .await
        .map_err(|e| format!("{e}: {:#}", last.borrow()).into())
}

#[tokio::test]
async fn run_waits_for_a_database_that_is_down_at_its_start() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    let mut postgres = Postgres::start(&find_bin()?, true).await?;
    let database = postgres.database().await?;
    system_tests::postgres::execute(&database, crate::desk::SCHEMA).await?;
    let mut hub = desk.edited(&desk.database, &database)?;
    hub.run(&["migrate"]).await?.ok()?;
    // A new database: the agent, filled from another one, would rightly refuse it.
    desk.agents[0].stop().await?;
    std::fs::remove_file(&desk.agents[0].data)?;
    desk.agents[0].start().await?;
    postgres.kill()?;
    hub.start().await?;
    until("the log to say what it waits for", WITHIN, || {
        let log = hub.daemon().map(|d| d.log()).unwrap_or_default();
        async move { log.contains("waiting: the database").then_some(()) }
    })
    .await?;
    expect(hub.daemon()?.is_running(), "it waits")?;
    postgres.resume(true).await?;
    writes(&hub).await?;
    hub.stop().await
}

#[tokio::test]
async fn after_sigterm_the_next_command_starts_at_once() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    writes(&desk.hub).await?;
    desk.hub.stop().await?;
    let began = Instant::now();
    desk.hub.run(&["republish", "tenant", "t1"]).await?.ok()?;
    expect(
        began.elapsed() < Duration::from_secs(2),
        format!("it took {:?}", began.elapsed()),
    )?;
    // Also when it is asked while it still waits to become the writer.
    desk.hub.start().await?;
    desk.hub.stop().await
}

#[tokio::test]
async fn a_second_daemon_stands_by_and_takes_over() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    let first = writes(&desk.hub).await?;
    let mut second = desk.other_hub(crate::desk::CONTEXTS)?;
    second.start().await?;
    until("the second to stand by", WITHIN, || {
        let log = second.daemon().map(|d| d.log()).unwrap_or_default();
        async move { log.contains("standing by: the writer is").then_some(()) }
    })
    .await?;
    // It passes requests on.
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let client = system_tests::client()?;
    let request = client
        .post(second.url("/v1/republish"))
        .bearer_auth(&second.token);
    let answer = request
        .body(r#"{"tenant":"t1","wait":true}"#)
        .send()
        .await?;
    expect(answer.status() == 200, answer.status())?;
    expect(
        desk.reads(0, "part", "p1").await?.contains("two"),
        "it is readable",
    )?;
    desk.hub.kill()?;
    let then = writes(&second).await?;
    let epoch = |s: &Value| s["engine"]["epoch"].as_u64().unwrap_or_default();
    expect(
        epoch(&then) > epoch(&first),
        format!("{} {}", epoch(&first), epoch(&then)),
    )?;
    desk.sql("UPDATE part SET body = 'three' WHERE key = 'p1'")
        .await?;
    second.run(&["republish", "tenant", "t1"]).await?.ok()?;
    expect(
        desk.reads(0, "part", "p1").await?.contains("three"),
        "it is readable",
    )?;
    second.stop().await
}

#[tokio::test]
async fn a_daemon_that_stops_hands_over_at_once() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    writes(&desk.hub).await?;
    let mut second = desk.other_hub(crate::desk::CONTEXTS)?;
    second.start().await?;
    desk.hub.stop().await?;
    let began = Instant::now();
    writes(&second).await?;
    expect(
        began.elapsed() < Duration::from_secs(4),
        format!("no lease was waited for: {:?}", began.elapsed()),
    )?;
    second.stop().await
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    crate::shows!(desk.types(&["run"]).await?);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_restarts_or_loses_its_file_heals_by_itself() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.hub.start().await?;
    writes(&desk.hub).await?;
    let is = async |desk: &Desk, body: &str| {
        until(&format!("{body} in us"), WITHIN, || async {
            desk.reads(1, "part", "p1")
                .await
                .ok()
                .filter(|v| v.contains(body))
        })
        .await
    };
    desk.agents[1].kill()?;
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let ran = desk.hub.run(&["republish", "tenant", "t1"]).await?;
    expect(ran.code == 1, format!("us is down: {ran:?}"))?;
    desk.agents[1].start().await?;
    is(&desk, "two").await?;
    writes(&desk.hub).await?;
    desk.agents[1].stop().await?;
    std::fs::remove_file(&desk.agents[1].data)?;
    desk.agents[1].start().await?;
    is(&desk, "two").await?;
    writes(&desk.hub).await?;
    desk.hub.run(&["diff"]).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn a_link_that_breaks_and_mends_heals_by_itself() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    let relay = Relay::start(desk.agents[0].push, Duration::ZERO).await?;
    let (from, to) = (
        desk.agents[0].push_url(),
        format!("http://127.0.0.1:{}", relay.port),
    );
    let mut hub = desk.edited(&from, &to)?;
    hub.run(&["migrate"]).await?.ok()?;
    hub.start().await?;
    writes(&hub).await?;
    relay.cut();
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let ran = hub.run(&["republish", "tenant", "t1"]).await?;
    expect(ran.code == 1, format!("the link is cut: {ran:?}"))?;
    relay.mend();
    until("the change after the cut", WITHIN, || async {
        desk.reads(0, "part", "p1")
            .await
            .ok()
            .filter(|v| v.contains("two"))
    })
    .await?;
    writes(&hub).await?;
    hub.stop().await
}

#[tokio::test]
async fn a_stop_while_it_waits_for_a_database_is_clean() -> Result<()> {
    let desk = Desk::prepared(&["eu"]).await?;
    let (_, name) = desk.database.rsplit_once('/').unwrap_or_default();
    let nowhere = format!(
        "postgres://postgres@127.0.0.1:{}/{name}",
        system_tests::free_port()?
    );
    let hub = desk.edited(&desk.database, &nowhere)?;
    let mut command = Command::new(program("publisher")?);
    command.arg("run").env("HUBCAST_CONFIG", &hub.config);
    let mut process = Process::start(command, &desk.dir.path().join("waiting.log"))?;
    until("it to wait", WITHIN, || {
        let waits = process.log().contains("waiting: ");
        async move { waits.then_some(()) }
    })
    .await?;
    let status = process.stop().await?;
    expect(status.success(), format!("{status}: {}", process.log()))
}
