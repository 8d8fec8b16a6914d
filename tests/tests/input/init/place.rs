//! A folder of somebody who tries Hubcast with tables of their own.

use crate::desk::expect;
use reqwest::StatusCode;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use system_tests::hub::Hub;
use system_tests::postgres::{self, Postgres};
use system_tests::process::{Process, program};
use system_tests::{Result, free_port, until};
use tempfile::TempDir;

/// How long a change may take.
pub const WITHIN: Duration = Duration::from_secs(40);

/// A folder and a database.
pub struct Place {
    pub dir: TempDir,
    pub database: String,
    /// What `init` said, and what it wrote.
    pub said: String,
    pub text: String,
    /// Ports that are free here, in the place of those that `init` writes.
    ports: Vec<(u16, u16)>,
    region: String,
    running: Option<(Process, Hub)>,
    _postgres: Option<Postgres>,
}

/// Runs `init` in a folder: its exit code, and what it wrote on both streams.
pub fn init(dir: &Path, database: &str, args: &[&str]) -> Result<(i32, String)> {
    let mut command = Command::new(program("publisher")?);
    command.current_dir(dir).env_remove("HUBCAST_CONFIG");
    command.arg("init").args(args).env("DATABASE_URL", database);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().unwrap_or(-1), text.into_owned()))
}

impl Place {
    /// A database with a schema, of which `init` was run for some tables of the region.
    pub async fn new(schema: &str, tables: &[&str], region: Option<&str>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hubcast-init-").tempdir()?;
        let (postgres, database) = postgres::test_database().await?;
        postgres::execute(&database, schema).await?;
        let mut args: Vec<&str> = tables.iter().flat_map(|table| ["--table", table]).collect();
        args.extend(region.iter().flat_map(|region| ["--region", region]));
        let (code, said) = init(dir.path(), &database, &args)?;
        expect(code == 0, &said)?;
        let text = std::fs::read_to_string(dir.path().join("publisher.toml"))?;
        let token = std::fs::read_to_string(dir.path().join("hubcast-api.token"))?;
        let is_told = |secret: &str| text.contains(secret) || said.contains(secret);
        expect(!is_told(token.trim()), "no token is told")?;
        expect(!is_told(&database), "no address is told")?;
        let mut ports = Vec::new();
        for port in [7400, 7511, 7521] {
            ports.push((port, free_port()?));
        }
        let place = Self {
            dir,
            database,
            said,
            text,
            ports,
            region: region.unwrap_or("local").to_owned(),
            running: None,
            _postgres: postgres,
        };
        for file in [
            "publisher.toml".to_owned(),
            format!("agent-{}.toml", place.region),
        ] {
            let file = place.dir.path().join(file);
            // Without the scans of every ten minutes: they would find what no trigger saw.
            let text = place.here(&std::fs::read_to_string(&file)?);
            std::fs::write(&file, text.replace("0 */10 * * * *", "0 0 0 1 1 *"))?;
        }
        Ok(place)
    }

    /// A text with ports that are free here.
    pub fn here(&self, text: &str) -> String {
        let replace = |text: String, (from, to): &(u16, u16)| {
            text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"))
        };
        self.ports.iter().fold(text.to_owned(), replace)
    }

    /// A text that is the same wherever it was written.
    pub fn plain(&self, text: &str) -> String {
        let (host, name) = self.database.rsplit_once('/').unwrap_or_default();
        let (_, host) = host.rsplit_once('@').unwrap_or_default();
        text.replace(&format!("{host}/{name}"), "[database]")
    }

    pub async fn sql(&self, sql: &str) -> Result<()> {
        postgres::execute(&self.database, sql).await
    }

    /// Starts what `init` made a configuration for, and waits until the region is in step. What `migrate` warned of.
    pub async fn start(&mut self) -> Result<String> {
        let dir = self.dir.path();
        let mut agent = Command::new(program("spoke-agent")?);
        let file = dir.join(format!("agent-{}.toml", self.region));
        agent.arg("run").arg("--config").arg(file);
        let agent = Process::start(agent, &dir.join("agent.log"))?;
        let token = std::fs::read_to_string(dir.join("hubcast-api.token"))?;
        let env = vec![("DATABASE_URL".to_owned(), self.database.clone())];
        let config = dir.join("publisher.toml");
        let mut hub = Hub::with_config(dir, &config, self.ports[0].1, token.trim(), env);
        let migrated = hub.run(&["migrate"]).await?.ok()?;
        hub.start().await?;
        self.running = Some((agent, hub));
        until("a region in step", WITHIN, || async {
            let (status, ..) = self.asks("/readyz").await?;
            (status == StatusCode::OK).then_some(())
        })
        .await?;
        Ok(migrated.stderr)
    }

    /// Stops it.
    pub async fn stop(mut self) -> Result<()> {
        match self.running.take() {
            Some((_agent, mut hub)) => hub.stop().await,
            None => Ok(()),
        }
    }

    /// Asks the agent: status, tenant and body.
    async fn asks(&self, path: &str) -> Option<(StatusCode, String, String)> {
        let client = system_tests::client().ok()?;
        let url = self.here(&format!("http://127.0.0.1:7521{path}"));
        let answer = client.get(url).send().await.ok()?;
        let tenant = answer.headers().get("x-context-tenant");
        let tenant = tenant
            .and_then(|t| t.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        Some((answer.status(), tenant, answer.text().await.ok()?))
    }

    /// Waits until a context is of this tenant.
    pub async fn is_of(&self, name: &str, tenant: &str) -> Result<()> {
        self.becomes(name, |status, of, _| {
            status == StatusCode::OK && of == tenant
        })
        .await
    }

    /// Waits until a context has this value.
    pub async fn has(&self, name: &str, value: &str) -> Result<()> {
        self.becomes(name, |_, _, body| body == value).await
    }

    /// Waits until a context is not there.
    pub async fn is_gone(&self, name: &str) -> Result<()> {
        self.becomes(name, |status, _, _| status == StatusCode::NOT_FOUND)
            .await
    }

    async fn becomes(
        &self,
        name: &str,
        wanted: impl Fn(StatusCode, &str, &str) -> bool,
    ) -> Result<()> {
        let last = std::cell::RefCell::new(String::new());
        let waited = until(name, WITHIN, || async {
            let (status, tenant, body) = self.asks(&format!("/v1/contexts/{name}")).await?;
            last.replace(format!("{status} {tenant:?} {body}"));
            wanted(status, &tenant, &body).then_some(())
        });
        waited
            .await
            .map_err(|e| format!("{e}: {}", last.borrow()).into())
    }
}
