//! A hub, its regions and a person who types commands.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use system_tests::Result;
use system_tests::hub::{Hub, Ran};
use system_tests::postgres::{self, Postgres};
use system_tests::process::program;
use system_tests::region::Agent;
use tempfile::TempDir;

/// What differs from run to run in every message.
pub const FILTERS: &[(&str, &str)] = &[
    (r"\d+ +ms\b", "[n] ms"),
    (r" +\[n\] ms", " [n] ms"),
    (r"\d+\.\d+ s\b", "[n] s"),
    (r"\b\d+ s ago", "[n] s ago"),
    (r"version \d+\.\d+", "version [v]"),
    (r"writer( +)\S+ \(process \d+\)", "writer$1[host]"),
    (r"the last was \S+ \(process \d+\)", "the last was [host]"),
    (r"running: \S+ \(process \d+\)", "running: [host]"),
    (r"release \d+\.\d+\.\d+", "release [release]"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "[time]"),
    // The table of `status`: age, lag and position.
    (
        r"(?m)^(\S+ http://\[[^\]]+\]  \w[a-z ]*?) +(\d+ s|\d+ min|-) +(\[n\] ms|\d+ s|-) +(\d+|-) +(\d+|-)  (\d+\.\d+|-)$",
        "$1  [age]  [lag]  $4  $5  [v]",
    ),
];

/// A table for each of two kinds; the share of an item fails at run time where the divisor is 0.
pub const SCHEMA: &str = "
    CREATE TABLE item (tenant text, key text, body text DEFAULT '', regions text[], divisor int DEFAULT 1);
    CREATE TABLE part (tenant text, key text, body text DEFAULT '');
    CREATE INDEX ON item (tenant);
    CREATE INDEX ON part (tenant);
    INSERT INTO item (tenant, key, body) SELECT 't' || n, 'i' || n, 'one' FROM generate_series(1, 5) AS n;
    INSERT INTO part (tenant, key, body) SELECT 't' || n, 'p' || n, 'one' FROM generate_series(1, 5) AS n;
";

/// Their contexts.
pub const CONTEXTS: &str = r#"
[[context]]
kind = "item"
query = "SELECT key, tenant, regions, body, 100 / divisor AS share FROM item"
watch = [{ table = "item", tenant = "tenant" }]
max_value_bytes = 200
[[context]]
kind = "part"
query = "SELECT key, tenant, body FROM part"
watch = [{ table = "part", tenant = "tenant" }]
"#;

/// One test's world.
#[derive(Debug)]
pub struct Desk {
    /// The agents, in the order of their regions.
    pub agents: Vec<Agent>,
    /// The publisher.
    pub hub: Hub,
    /// The address of the database.
    pub database: String,
    /// Where all files are.
    pub dir: TempDir,
    _postgres: Option<Postgres>,
}

impl Desk {
    /// A database with [`SCHEMA`] and a configuration with [`CONTEXTS`]; nothing runs and nothing is migrated.
    pub async fn prepared(regions: &[&str]) -> Result<Self> {
        Self::with(regions, SCHEMA, CONTEXTS).await
    }

    /// The same, migrated, with agents that run.
    pub async fn new(regions: &[&str]) -> Result<Self> {
        let mut desk = Self::prepared(regions).await?;
        desk.open().await?;
        Ok(desk)
    }

    /// A schema and contexts of the test's own.
    pub async fn with(regions: &[&str], schema: &str, contexts: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("hubcast-input-")
            .tempdir()?;
        let (postgres, database) = postgres::test_database().await?;
        postgres::execute(&database, schema).await?;
        let agents: Vec<Agent> = regions
            .iter()
            .map(|r| Agent::new(dir.path(), r))
            .collect::<Result<_>>()?;
        let hub = Hub::new(
            dir.path(),
            &database,
            &agents.iter().collect::<Vec<_>>(),
            contexts,
        )?;
        Ok(Self {
            agents,
            hub,
            database,
            dir,
            _postgres: postgres,
        })
    }

    /// Starts the agents, migrates and scans.
    pub async fn open(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.start().await?;
        }
        self.hub.run(&["migrate"]).await?.ok()?;
        self.hub.run(&["scan"]).await?.ok()?;
        Ok(())
    }

    /// Runs statements.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        postgres::execute(&self.database, sql).await
    }

    /// Another hub on the same database with the same agents.
    pub fn other_hub(&self, contexts: &str) -> Result<Hub> {
        let agents: Vec<&Agent> = self.agents.iter().collect();
        Hub::new(self.dir.path(), &self.database, &agents, contexts)
    }

    /// The configuration with one part replaced, in a file of its own.
    pub fn edited(&self, from: &str, to: &str) -> Result<Hub> {
        let text = std::fs::read_to_string(&self.hub.config)?;
        if !text.contains(from) {
            return Err(format!("{from:?} is not in the configuration").into());
        }
        let config = self.dir.path().join("edited.toml");
        std::fs::write(&config, text.replace(from, to))?;
        let (port, token) = (self.hub.port, &self.hub.token);
        Ok(Hub::with_config(
            self.dir.path(),
            &config,
            port,
            token,
            Vec::new(),
        ))
    }

    /// What a person sees of a command of the publisher.
    pub async fn types(&self, args: &[&str]) -> Result<String> {
        self.types_with(&self.hub, args).await
    }

    /// The same with another configuration.
    pub async fn types_with(&self, hub: &Hub, args: &[&str]) -> Result<String> {
        let ran = hub.run(args).await?;
        Ok(self.plain(&transcript("publisher", args, &ran)))
    }

    /// Replaces what is this test's own: folders, ports, the database.
    pub fn plain(&self, text: &str) -> String {
        let mut out = text.to_owned();
        let mut replace = |from: &str, to: &str| out = out.replace(from, to);
        let (host, name) = self.database.rsplit_once('/').unwrap_or_default();
        let (_, host) = host.rsplit_once('@').unwrap_or_default();
        replace(&format!("{host}/{name}"), "[database]");
        replace(name, "[database name]");
        replace(host, "[server]");
        for agent in &self.agents {
            let (push, read) = (agent.push, agent.read);
            let region = &agent.region;
            replace(&agent.data.display().to_string(), "[store file]");
            replace(&agent.socket().display().to_string(), "[socket]");
            replace(&format!("127.0.0.1:{push}"), &format!("[push of {region}]"));
            replace(&format!("127.0.0.1:{read}"), &format!("[read of {region}]"));
        }
        replace(&self.hub.config.display().to_string(), "[configuration]");
        replace(&format!("127.0.0.1:{}", self.hub.port), "[hub]");
        replace(&self.dir.path().display().to_string(), "[dir]");
        whoever_was_first(&out)
    }

    /// The status and the body with which a region answers for a context.
    pub async fn reads(&self, region: usize, kind: &str, key: &str) -> Result<String> {
        let (status, body) = self.agents[region].get(kind, key).await?;
        Ok(format!("{} {}", status.as_u16(), body.trim()))
    }
}

/// Lines that tell how far a command is; how many there are depends on the machine.
const PROGRESS: &[&str] = &[
    "this process is the writer;",
    "asked the publisher that holds the lease:",
    "all ranges read;",
    "reading: ",
    "comparing",
];

/// Leaves out whether a scan repaired a tenant or found it in step: a trigger may have been faster.
fn whoever_was_first(text: &str) -> String {
    let (mut out, mut named) = (String::new(), false);
    for line in text.split_inclusive('\n') {
        let repaired = line
            .find("in step; ")
            .filter(|_| line.contains(" repaired"));
        let same = line.find("in step; nothing differed");
        match repaired.or(same) {
            Some(at) => out.extend([&line[..at], "in step\n"]),
            // The tenants that were repaired.
            None if named => {}
            None => out.push_str(line),
        }
        named = repaired.is_some();
    }
    out
}

/// What a person sees: the command, its output, its messages (marked) and its exit code.
pub fn transcript(name: &str, args: &[&str], ran: &Ran) -> String {
    let mut out = format!("$ {name} {}\n", args.join(" "));
    for line in ran.stdout.lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for line in ran.stderr.lines() {
        if !PROGRESS.iter().any(|p| line.starts_with(p)) {
            let _ = writeln!(out, "! {line}");
        }
    }
    let _ = writeln!(out, "exit code {}", ran.code);
    out
}

/// Runs a program to its end, without anything of our environment that could set a key.
pub async fn run(name: &str, args: &[&str], env: &[(&str, &str)], dir: &Path) -> Result<Ran> {
    let mut command = Command::new(program(name)?);
    command.args(args).current_dir(dir);
    for (variable, _) in std::env::vars().filter(|(k, _)| k.starts_with("HUBCAST_")) {
        command.env_remove(variable);
    }
    command.env_remove("RUST_LOG").envs(env.iter().copied());
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// The address of a database with some of it changed.
pub fn address(database: &str, change: impl FnOnce(&mut reqwest::Url)) -> Result<String> {
    let mut url = reqwest::Url::parse(database)?;
    change(&mut url);
    Ok(url.into())
}

/// A folder with one file.
pub fn folder_with(name: &str, content: &[u8]) -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::Builder::new()
        .prefix("hubcast-input-")
        .tempdir()?;
    let path = dir.path().join(name);
    std::fs::write(&path, content)?;
    Ok((dir, path))
}

/// Fails unless `condition`; the message is what was expected.
pub fn expect(condition: bool, what: impl std::fmt::Display) -> Result<()> {
    if condition {
        Ok(())
    } else {
        Err(what.to_string().into())
    }
}
