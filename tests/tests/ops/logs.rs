//! What both programs log with `--log-format json`.

use crate::stage::{Stage, TENANT, VALUE, WITHIN, shows};
use serde_json::Value;
use std::process::Command;
use system_tests::process::{Process, program};
use system_tests::{Result, until};

/// The fields that an event may have; ARCHITECTURE.md says what they mean.
const FIELDS: &[&str] = &[
    "timestamp",
    "level",
    "target",
    "message",
    "region",
    "store",
    "tenant",
    "kind",
    "key",
    "reason",
    "error",
    "epoch",
    "holder",
    "seconds",
    "contexts",
    "bundles",
    "tenants",
    "stores",
    "in_step",
    "repaired",
    "cause",
    "request",
    "rows",
    "bytes",
    "all",
    "applied",
    "left",
    "count",
    "finding",
    "doing",
    "file",
    "peer",
    "certificate",
    "listener",
    "schedule",
    "listen",
    "regions",
    "push_listen",
    "read_listen",
    "read_socket",
];

/// Each line as JSON, if it has the fields that it may have.
fn lines(log: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
        let fields = event.as_object().ok_or(line)?;
        let unknown: Vec<_> = fields
            .keys()
            .filter(|f| !FIELDS.contains(&f.as_str()))
            .collect();
        if !unknown.is_empty() {
            return Err(format!("unknown fields {unknown:?}: {line}").into());
        }
        if fields.contains_key("store") && !fields.contains_key("region") {
            return Err(format!("a store without its region: {line}").into());
        }
        all.push(event);
    }
    Ok(all)
}

#[tokio::test]
async fn every_line_is_json_with_known_fields_and_without_secrets() -> Result<()> {
    let mut stage = Stage::new(&["eu-west-1", "us-east-1"]).await?;
    let log = stage.dir.path().join("daemon.log");
    let mut command = Command::new(program("publisher")?);
    command
        .args(["run", "--log-format", "json"])
        .env("HUBCAST_CONFIG", &stage.hub.config);
    let mut daemon = Process::start(command, &log)?;
    for region in ["region=\"eu-west-1\"", "region=\"us-east-1\""] {
        shows(&stage.hub, "hubcast_publisher_store_behind", region, 0.0).await?;
    }
    // A region that goes, a value that is held, and a scan that says so.
    stage.agents[1].stop().await?;
    stage
        .sql(&format!(
            "UPDATE item SET body = repeat('{VALUE}', 50) WHERE tenant = '{TENANT}'"
        ))
        .await?;
    shows(&stage.hub, "hubcast_publisher_held_tenants", "", 1.0).await?;
    shows(
        &stage.hub,
        "hubcast_publisher_store_up",
        "region=\"us-east-1\"",
        0.0,
    )
    .await?;
    let _ = stage.hub.run(&["scan"]).await?;
    until("the scan to be logged", WITHIN, || async {
        let log = std::fs::read_to_string(&log).ok()?;
        log.contains("in step").then_some(())
    })
    .await?;
    daemon.stop().await?;
    let agent = stage.agents[0].process()?.log();
    stage.agents[0].stop().await?;
    let hub = std::fs::read_to_string(&log)?;
    let events = lines(&hub)?;
    let of = |message: &str| {
        events
            .iter()
            .find(|e| e["message"].as_str().is_some_and(|m| m.contains(message)))
    };
    let gone = of("cannot be used for now").ok_or("the region that went is not logged")?;
    assert_eq!(gone["region"], "us-east-1");
    assert_eq!(gone["store"], stage.agents[1].push_url());
    assert!(gone["error"].is_string(), "{gone}");
    let held = of("the last good value stays").ok_or("what is held is not logged")?;
    assert_eq!(held["tenant"], TENANT);
    let ready = lines(&agent)?.into_iter().find(|e| e["message"] == "ready");
    assert_eq!(
        ready.ok_or("the agent does not say that it is ready")?["region"],
        "eu-west-1"
    );
    let mut secrets = vec![stage.hub.token.clone(), VALUE.to_owned()];
    secrets.extend(stage.agents.iter().map(|a| a.token.clone()));
    if let Some(password) = stage.database.parse::<reqwest::Url>()?.password() {
        secrets.push(format!(":{password}@"));
    }
    for secret in secrets {
        assert!(
            !hub.contains(&secret) && !agent.contains(&secret),
            "{secret} is logged"
        );
    }
    Ok(())
}
