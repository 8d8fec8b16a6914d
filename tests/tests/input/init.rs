//! `publisher init`: what it writes for tables of all sorts can be used as it is, and a change of each reaches an agent.

use crate::desk::expect;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use system_tests::hub::Hub;
use system_tests::postgres;
use system_tests::process::{Process, program};
use system_tests::{Result, free_port, until};

const WITHIN: Duration = Duration::from_secs(40);

const TABLES: &str = r#"
CREATE SCHEMA "Odd ""Schema""";
CREATE TABLE organizations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, "regions" text);
CREATE TABLE "Odd ""Schema"""."API ""Keys"" $1 \ 'x'" ("Key Hash" text PRIMARY KEY, "orgRef" uuid REFERENCES organizations (id),
    "Password" text, "expiresAt" timestamptz, "key" int, "tenants?" text, raw bytea);
CREATE INDEX ON "Odd ""Schema"""."API ""Keys"" $1 \ 'x'" ("orgRef");
CREATE TABLE events (tenant_id uuid NOT NULL, place text NOT NULL, code text NOT NULL, until date, valid_until timestamp,
    PRIMARY KEY (tenant_id, place, code)) PARTITION BY HASH (tenant_id);
CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE settings (name text PRIMARY KEY, value jsonb);
CREATE TABLE log (line text);
CREATE VIEW names AS SELECT name FROM settings;
"#;
const ODD: &str = r#""Odd ""Schema"""."API ""Keys"" $1 \ 'x'""#;

fn init(dir: &Path, database: &str, args: &[&str]) -> Result<(i32, String)> {
    let mut command = Command::new(program("publisher")?);
    command.current_dir(dir).env_remove("HUBCAST_CONFIG");
    command.arg("init").args(args).env("DATABASE_URL", database);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().unwrap_or(-1), text.into_owned()))
}

/// Would catch a configuration that `check` or `migrate` refuses, two rows that get one key, a change that its triggers
/// do not see, and a secret that is in the configuration.
#[tokio::test]
async fn what_it_writes_works_for_tables_of_all_sorts() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("hubcast-init-").tempdir()?;
    let dir = dir.path();
    let (_postgres, database) = postgres::test_database().await?;
    postgres::execute(&database, TABLES).await?;
    let tables = [
        "--table",
        ODD,
        "--table",
        "Events",
        "--table",
        "settings",
        "--table",
        "organizations",
    ];
    let (code, said) = init(dir, &database, &tables)?;
    expect(code == 0, &said)?;
    expect(said.contains("queries: all kinds can be published"), &said)?;
    let file = dir.join("publisher.toml");
    let text = std::fs::read_to_string(&file)?;
    crate::shows!(text.clone());
    let token = std::fs::read_to_string(dir.join("hubcast-api.token"))?;
    expect(
        !text.contains(token.trim()) && !said.contains(token.trim()),
        "no token",
    )?;
    expect(!said.contains(&database), "no address")?;

    // With ports that are free here; all else as it was written.
    let (push, read, api) = (free_port()?, free_port()?, free_port()?);
    std::fs::write(
        &file,
        text.replace("7511", &push.to_string())
            .replace("7400", &api.to_string()),
    )?;
    let agent_file = dir.join("agent-local.toml");
    let agent = std::fs::read_to_string(&agent_file)?;
    let agent = agent
        .replace("7511", &push.to_string())
        .replace("7521", &read.to_string());
    std::fs::write(&agent_file, agent)?;
    let mut agent = Command::new(program("spoke-agent")?);
    agent.arg("run").arg("--config").arg(&agent_file);
    let _agent = Process::start(agent, &dir.join("agent.log"))?;
    let env = vec![("DATABASE_URL".to_owned(), database.clone())];
    let mut hub = Hub::with_config(dir, &file, api, token.trim(), env);
    hub.run(&["migrate"]).await?.ok()?;
    hub.start().await?;
    let changes = format!(
        r#"INSERT INTO organizations (id, name) VALUES ('00000000-0000-0000-0000-000000000001', 'one');
        INSERT INTO {ODD} VALUES ('h/1', '00000000-0000-0000-0000-000000000001', 'p', 'infinity', 7, 't', 'x');
        INSERT INTO events SELECT '00000000-0000-0000-0000-000000000001', p, c FROM (VALUES ('a/b', 'c'), ('a', 'b/c')) AS v(p, c);
        INSERT INTO settings VALUES ('limit', '{{"n": 1}}');"#
    );
    postgres::execute(&database, &changes).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    for (name, value) in [
        (
            "api_keys_1_x/h%2F1",
            r#"{"Password": "p", "tenants?": "t", "key_column": 7}"#,
        ),
        (
            "event/00000000-0000-0000-0000-000000000001%2Fa%252Fb%2Fc",
            r#"{"code": "c", "place": "a/b", "until": null}"#,
        ),
        (
            "event/00000000-0000-0000-0000-000000000001%2Fa%2Fb%252Fc",
            r#"{"code": "b/c", "place": "a", "until": null}"#,
        ),
        ("setting/limit", r#"{"value": {"n": 1}}"#),
        (
            "organization/00000000-0000-0000-0000-000000000001",
            r#"{"name": "one", "regions_column": null}"#,
        ),
    ] {
        let url = format!("http://127.0.0.1:{read}/v1/contexts/{name}");
        let got = std::cell::RefCell::new(String::new());
        let waited = until(name, WITHIN, || async {
            let answer = client.get(&url).send().await.ok()?;
            got.replace(answer.text().await.ok()?);
            (*got.borrow() == value).then_some(())
        });
        waited.await.map_err(|e| format!("{e}: {}", got.borrow()))?;
    }
    hub.stop().await
}

#[tokio::test]
async fn what_cannot_be_published_or_is_there_already_is_left_alone() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("hubcast-init-").tempdir()?;
    let dir = dir.path();
    let (_postgres, database) = postgres::test_database().await?;
    postgres::execute(&database, TABLES).await?;
    let mut out = String::new();
    for table in ["nothing", "log", "names"] {
        let (code, said) = init(dir, &database, &["--table", table])?;
        expect(code == 2, &said)?;
        out += &said;
    }
    expect(std::fs::read_dir(dir)?.count() == 0, "nothing is written")?;
    std::fs::write(dir.join("publisher.toml"), "mine")?;
    let (code, said) = init(dir, &database, &["--table", "settings"])?;
    expect(code == 2, &said)?;
    out += &said;
    expect(
        std::fs::read(dir.join("publisher.toml"))? == b"mine",
        "it stays",
    )?;
    crate::shows!(out);
    let (code, said) = init(dir, &database, &["--table", "settings", "--force"])?;
    expect(code == 0, &said)?;
    let token = std::fs::read_to_string(dir.join("hubcast-api.token"))?;
    let (code, said) = init(dir, &database, &["--table", "settings", "--force"])?;
    expect(code == 0, &said)?;
    let again = std::fs::read_to_string(dir.join("hubcast-api.token"))?;
    expect(token == again, "a token that is in use stays")
}
