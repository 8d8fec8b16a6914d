//! `--json`: one document on stdout, in good and in bad cases, with the parts that callers rely on.

use crate::desk::{Desk, expect, run};
use serde_json::Value;
use system_tests::Result;

/// Runs a command with `--json`, checks its exit code and that the document has these parts.
async fn document(desk: &Desk, args: &[&str], code: i32, parts: &[&str]) -> Result<Value> {
    let mut all = args.to_vec();
    all.push("--json");
    let ran = desk.hub.run(&all).await?;
    expect(
        ran.code == code,
        format!("{args:?}: exit code {code} was expected: {ran:?}"),
    )?;
    expect(
        ran.stderr.is_empty(),
        format!("{args:?}: nothing else is said: {ran:?}"),
    )?;
    let document = ran.json()?;
    for part in parts {
        let found = document.pointer(part);
        expect(
            found.is_some(),
            format!("{args:?}: no {part} in {document:#}"),
        )?;
    }
    Ok(document)
}

#[tokio::test]
async fn migrate_and_check_print_one_document() -> Result<()> {
    let mut desk = Desk::prepared(&["eu", "us"]).await?;
    for agent in &mut desk.agents {
        agent.start().await?;
    }
    let printed = document(&desk, &["migrate", "--print"], 0, &["/sql"]).await?;
    let sql = printed["sql"].as_str().unwrap_or_default();
    expect(
        sql.starts_with("BEGIN;") && sql.trim_end().ends_with("COMMIT;"),
        sql,
    )?;
    document(&desk, &["migrate"], 0, &["/changes/0"]).await?;
    let again = document(&desk, &["migrate"], 0, &["/changes"]).await?;
    expect(again["changes"] == serde_json::json!([]), "nothing to do")?;
    document(&desk, &["check"], 0, &["/ok/0", "/warnings", "/errors"]).await?;
    Ok(())
}

#[tokio::test]
async fn what_writes_prints_one_document_when_all_is_well() -> Result<()> {
    let desk = Desk::new(&["eu", "us"]).await?;
    let stores = [
        "/tenants",
        "/contexts",
        "/problems",
        "/warnings",
        "/held_tenants",
        "/ms",
        "/stores/1/store",
        "/stores/0/region",
        "/stores/0/in_step",
        "/stores/0/repaired",
        "/stores/0/filled",
    ];
    let scan = document(&desk, &["scan"], 0, &stores).await?;
    expect(
        scan["contexts"] == 10 && scan["stores"][0]["in_step"] == true,
        &scan,
    )?;
    document(&desk, &["republish", "all"], 0, &stores).await?;
    document(
        &desk,
        &["republish", "region", "eu"],
        0,
        &["/stores/0/in_step"],
    )
    .await?;
    let parts = [
        "/receipts/0/tenant",
        "/receipts/0/region",
        "/receipts/0/store",
        "/receipts/0/version",
        "/receipts/0/contexts",
        "/receipts/1/ms",
        "/held",
    ];
    let receipts = document(&desk, &["republish", "tenant", "t1"], 0, &parts).await?;
    expect(receipts["receipts"][0]["result"] == "delivered", &receipts)
}

#[tokio::test]
async fn what_reads_prints_one_document_when_the_stores_are_in_step() -> Result<()> {
    let desk = Desk::new(&["eu", "us"]).await?;
    let parts = [
        "/writer/epoch",
        "/stores/0/store",
        "/stores/0/age_seconds",
        "/stores/0/contexts",
        "/last_scan/summary/contexts",
        "/differences",
    ];
    // There is no writer, which somebody should know.
    document(&desk, &["status"], 1, &parts).await?;
    let parts = [
        "/tenants",
        "/contexts",
        "/problems",
        "/stores/1/differences",
    ];
    document(&desk, &["diff"], 0, &parts).await?;
    document(&desk, &["scan", "--dry-run"], 0, &parts).await?;
    let found = document(
        &desk,
        &["get", "item", "i1"],
        0,
        &["/0/at", "/1/version", "/1/age_seconds"],
    )
    .await?;
    expect(
        found[1]["value"] == serde_json::json!({"body": "one", "share": 100}),
        &found,
    )?;
    let listen = format!("127.0.0.1:{}", desk.agents[0].read);
    for (args, part) in [
        (&["list", "--json"][..], "/contexts/0/value"),
        (&["list", "--tenant", "t1", "--json"], "/contexts/0/version"),
        (&["stats", "--json"], "/memory/reads"),
    ] {
        let args = [args, &["--read-listen", &listen]].concat();
        let ran = run("spoke-agent", &args, &[], desk.dir.path())
            .await?
            .ok()?;
        let found = ran.json()?;
        expect(found.pointer(part).is_some(), &found)?;
    }
    let args = ["get", "item", "i1", "--json", "--read-listen", &listen];
    let ran = run("spoke-agent", &args, &[], desk.dir.path())
        .await?
        .ok()?;
    let found = ran.json()?;
    expect(
        found["tenant"] == "t1" && found["value"]["body"] == "one",
        &found,
    )?;
    expect(
        found["version"].is_string() && found["age"].is_number(),
        &found,
    )
}

#[tokio::test]
async fn every_command_prints_one_document_when_something_is_wrong() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.agents[1].stop().await?;
    desk.sql("UPDATE item SET body = repeat('x', 300) WHERE key = 'i1'; UPDATE item SET body = 'two' WHERE key = 'i2'")
        .await?;
    let check = document(&desk, &["check"], 1, &["/errors/0"]).await?;
    expect(check["errors"].to_string().contains("us http"), &check)?;
    let diff = document(
        &desk,
        &["diff"],
        1,
        &["/stores/0/differences/0/key", "/stores/1/unreachable"],
    )
    .await?;
    let found = diff["stores"][0]["differences"].to_string();
    expect(found.contains("held") && found.contains("changed"), &diff)?;
    document(&desk, &["scan", "--dry-run"], 1, &["/stores/1/unreachable"]).await?;
    let scan = document(&desk, &["scan"], 1, &["/stores/0/in_step", "/stores/1/why"]).await?;
    expect(
        scan["held_tenants"] == 1 && scan["stores"][1]["in_step"] == false,
        &scan,
    )?;
    let receipts = document(
        &desk,
        &["republish", "tenant", "t1"],
        1,
        &["/held/t1/0/why"],
    )
    .await?;
    expect(receipts["held"]["t1"][0]["key"] == "i1", &receipts)?;
    let behind = receipts["receipts"].as_array().into_iter().flatten();
    expect(
        behind.filter(|r| r["result"] == "behind").count() == 1,
        &receipts,
    )?;
    let status = document(&desk, &["status"], 1, &["/stores/1/unreachable"]).await?;
    expect(status["last_scan"]["summary"]["held_tenants"] == 1, &status)?;
    let found = document(&desk, &["get", "item", "i1"], 1, &["/0/note"]).await?;
    expect(found[1]["value"]["body"] == "one", &found)?;
    let found = document(&desk, &["get", "item", "nothing"], 1, &["/0/note"]).await?;
    expect(found[0]["value"].is_null(), &found)
}
