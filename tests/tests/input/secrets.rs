//! No token and no password in anything that is printed, logged or answered.

use crate::desk::{Desk, address, expect};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use system_tests::hub::Hub;
use system_tests::process::{Process, program};
use system_tests::{Result, until};

const PASSWORD: &str = "correct-horse-battery";

/// Everything that was written into files of the test but configurations and stores.
fn logs(dir: &Path) -> Result<String> {
    let mut all = String::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "log") {
            all.push_str(&std::fs::read_to_string(path)?);
        }
    }
    Ok(all)
}

/// All that the APIs of the hub and of a region answer.
async fn answers(desk: &Desk, hub: &Hub, client: &reqwest::Client) -> Result<String> {
    let mut seen = String::new();
    for path in [
        "/v1/status",
        "/v1/tenants/t1",
        "/metrics",
        "/readyz",
        "/v1/nothing",
    ] {
        let request = client.get(hub.url(path)).bearer_auth(&hub.token);
        seen.push_str(&request.send().await?.text().await?);
    }
    let request = client
        .post(hub.url("/v1/republish"))
        .bearer_auth(&hub.token);
    let answer = request
        .body(r#"{"tenant":"t1","wait":true}"#)
        .send()
        .await?;
    seen.push_str(&answer.text().await?);
    seen.push_str(&format!(
        "{:?}",
        hub.run(&["republish", "tenant", "t1"]).await?
    ));
    for path in ["/v1/status", "/metrics", "/v1/contexts/item/i1"] {
        let answer = desk.agents[0]
            .client()
            .get(desk.agents[0].url(path))
            .send()
            .await?;
        seen.push_str(&answer.text().await?);
    }
    Ok(seen)
}

#[tokio::test]
async fn nothing_shows_a_token_or_the_password() -> Result<()> {
    let mut desk = Desk::prepared(&["eu", "us"]).await?;
    let server: reqwest::Url = desk.database.parse()?;
    let password = server.password().unwrap_or(PASSWORD).to_owned();
    let with_password = address(&desk.database, |url| {
        let _ = url.set_password(Some(&password));
    })?;
    let hub = desk.edited(&desk.database, &with_password)?;
    desk.agents[0].start().await?;
    let mut secrets = vec![format!(":{password}@"), hub.token.clone()];
    secrets.extend((password == PASSWORD).then_some(password));
    secrets.extend(desk.agents.iter().map(|a| a.token.clone()));
    let log = desk.dir.path().join("daemon.log");
    let mut command = Command::new(program("publisher")?);
    command
        .args(["run", "--log-format", "json"])
        .env("HUBCAST_CONFIG", &hub.config);
    command.env("RUST_LOG", "trace");
    let mut seen = String::new();
    for args in [
        &["migrate"][..],
        &["check"],
        &["scan"],
        &["scan", "--json"],
        &["status"],
        &["diff"],
    ] {
        let ran = hub.run(args).await?;
        seen.push_str(&format!("{ran:?}"));
    }
    // One region never answers, so that errors are logged as well.
    let daemon = Process::start(command, &log)?;
    let client = system_tests::client()?;
    until(
        "the daemon to have scanned",
        Duration::from_secs(60),
        || async {
            let request = client.get(hub.url("/v1/status")).bearer_auth(&hub.token);
            let text = request.send().await.ok()?.text().await.ok()?;
            text.contains("in step").then_some(())
        },
    )
    .await?;
    seen.push_str(&answers(&desk, &hub, &client).await?);
    drop(daemon);
    desk.agents[0].stop().await?;
    let logs = logs(desk.dir.path())?;
    expect(
        logs.contains("publisher started"),
        "the daemon's log was read",
    )?;
    expect(logs.contains("ready"), "the agent's log was read")?;
    for secret in secrets {
        let shown = seen.contains(&secret);
        expect(!shown, format!("{secret} is shown"))?;
        let line = logs.lines().find(|l| l.contains(&secret));
        expect(line.is_none(), format!("{secret} is logged: {line:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_mistake_beside_a_secret_does_not_show_it() -> Result<()> {
    let desk = Desk::prepared(&["eu"]).await?;
    for (from, to) in [
        ("api_token = \"", "api_token = 12 # \""),
        (
            "database_url = \"",
            "database_url = \"postgres://u:correct-horse-battery@[bad:",
        ),
        (
            "database_url = \"",
            "database_url = \"postgers://u:correct-horse-battery@h/d\" # ",
        ),
        ("token = \"", "tokn = \"correct-horse-battery"),
        ("token = \"", "token = [\"correct-horse-battery\"] # \""),
        (
            "token = \"",
            "token = \"correct-horse-battery${UNSET_VARIABLE}",
        ),
        ("token = \"", "token = \"correct-horse-battery"),
        ("[[context]]", "[[contxt]]"),
    ] {
        let hub = desk.edited(from, to)?;
        let ran = hub.run(&["check", "--log-format", "json"]).await?;
        let text = format!("{ran:?}");
        expect(!text.contains(PASSWORD), format!("{to}: {text}"))?;
        expect(
            !text.contains(&desk.agents[0].token),
            format!("{to}: {text}"),
        )?;
    }
    Ok(())
}
