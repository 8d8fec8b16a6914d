//! A hub and regions that show each other certificates, with names that would be seen anywhere.

use crate::exposition::{self, Exposition};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use system_tests::certificates::Certificates;
use system_tests::hub::Hub;
use system_tests::postgres::{self, Postgres};
use system_tests::region::Agent;
use system_tests::{Result, until};
use tempfile::TempDir;

/// A tenant that no metric may name.
pub const TENANT: &str = "tenant-of-nobody";
/// Its key.
pub const KEY: &str = "key-of-nobody";
/// Its value.
pub const VALUE: &str = "value-of-nobody";

const CONTEXTS: &str = r#"
[[context]]
kind = "item"
query = "SELECT key, tenant, body FROM item"
watch = [{ table = "item", tenant = "tenant" }]
max_value_bytes = 200
"#;

/// How long something may take that has to happen.
pub const WITHIN: Duration = Duration::from_secs(60);

/// One test's world.
pub struct Stage {
    /// The agents.
    pub agents: Vec<Agent>,
    /// The publisher, not started.
    pub hub: Hub,
    /// The address of its database.
    pub database: String,
    /// What hub and agents show each other.
    pub certificates: Certificates,
    /// Where all files are.
    pub dir: TempDir,
    _postgres: Option<Postgres>,
}

/// Makes the table and a row in a database.
async fn furnish(database: &str) -> Result<()> {
    let sql = format!(
        "CREATE TABLE item (tenant text, key text, body text); CREATE INDEX ON item (tenant); \
         INSERT INTO item VALUES ('{TENANT}', '{KEY}', '{VALUE}'), ('t1', 'i1', 'one')"
    );
    postgres::execute(database, &sql).await
}

impl Stage {
    /// Agents that run, and a publisher that was migrated and is not started.
    pub async fn new(regions: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hubcast-ops-").tempdir()?;
        let (postgres, database) = postgres::test_database().await?;
        furnish(&database).await?;
        let certificates = Certificates::new(&dir.path().join("certs"), regions)?;
        let mut agents = Vec::new();
        for region in regions {
            let mut agent = Agent::new(dir.path(), region)?;
            agent.scheme = "https";
            let mut command = agent.command()?;
            command.args(["--log-format", "json"]);
            command.args(certificates.push_flags(region));
            agent.start_as(command).await?;
            agents.push(agent);
        }
        let all: Vec<&Agent> = agents.iter().collect();
        let hub = Hub::new(dir.path(), &database, &all, CONTEXTS)?;
        hub.configure(&certificates.hub_line())?;
        hub.run(&["migrate"]).await?.ok()?;
        Ok(Self {
            agents,
            hub,
            database,
            certificates,
            dir,
            _postgres: postgres,
        })
    }

    /// A hub with another database, which was filled in the same way, and the same agents.
    pub async fn other_hub(&self) -> Result<Hub> {
        let database = postgres::create_database(&self.database).await?;
        furnish(&database).await?;
        let agents: Vec<&Agent> = self.agents.iter().collect();
        let hub = Hub::new(self.dir.path(), &database, &agents, CONTEXTS)?;
        hub.configure(&self.certificates.hub_line())?;
        hub.run(&["migrate"]).await?.ok()?;
        Ok(hub)
    }

    /// Runs statements.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        postgres::execute(&self.database, sql).await
    }
}

/// Waits until a metric of a hub has a value; says what the hub shows instead, if it never has.
pub async fn shows(hub: &Hub, name: &str, labels: &str, value: f64) -> Result<()> {
    let what = format!("{name} {labels} to be {value}");
    settles(
        &what,
        || exposition::of_hub(hub),
        |seen| seen.value(name, labels) == Some(value),
    )
    .await?;
    Ok(())
}

/// Waits until what a program shows is as it should be, and returns that; says what was shown last, if it never is.
pub async fn settles<F: Future<Output = Result<Exposition>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    is_right: impl Fn(&Exposition) -> bool,
) -> Result<Exposition> {
    let last = Mutex::new(String::new());
    let asking = until(what, WITHIN, || {
        let asking = ask();
        async {
            let (right, text) = match asking.await {
                Ok(seen) if is_right(&seen) => (Some(seen), String::new()),
                Ok(seen) => (None, seen.text),
                Err(e) => (None, e.to_string()),
            };
            if right.is_none() {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
            }
            right
        }
    });
    let seen = asking.await;
    let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
    seen.map_err(|e| format!("{e}; it shows:\n{last}").into())
}
