//! Change triggers, by what they leave in the outbox. No publisher runs: a statement, then a look at what it left.

mod drift;
mod installing;
mod statements;
mod tables;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::server::{Database, Server};
use system_tests::{Result, postgres};
use tempfile::TempDir;

/// A table with a column that does not matter, and one that refers to it.
const SCHEMA: &str = "
    CREATE TABLE item (id bigint PRIMARY KEY, tenant text, body text NOT NULL DEFAULT '', note text);
    CREATE TABLE part (id bigint PRIMARY KEY, item bigint REFERENCES item ON DELETE CASCADE, tenant text);
";

/// Their contexts.
const CONTEXTS: &str = r#"
[[context]]
kind  = "item"
query = "SELECT id AS key, tenant, body FROM item"
watch = [{ table = "item", tenant = "tenant", columns = ["body"] }]
[[context]]
kind  = "part"
query = "SELECT id AS key, tenant, item FROM part"
watch = [{ table = "part", tenant = "tenant" }]
"#;

/// A database with triggers, and the publisher that made them.
struct Watched {
    hub: Hub,
    agent: Agent,
    database: Database,
    dir: TempDir,
    _server: Server,
}

impl Watched {
    /// A schema and contexts of the test's own, migrated.
    async fn new(schema: &str, contexts: &str) -> Result<Self> {
        let watched = Self::prepared(Server::any().await?, schema, contexts).await?;
        watched.migrate().await?;
        Ok(watched)
    }

    /// The same, not migrated.
    async fn prepared(server: Server, schema: &str, contexts: &str) -> Result<Self> {
        let database = server.database().await?;
        database.execute(schema).await?;
        let dir = tempfile::Builder::new()
            .prefix("hubcast-capture-")
            .tempdir()?;
        let agent = Agent::new(dir.path(), "eu")?;
        let hub = Hub::new(dir.path(), &database.url, &[&agent], contexts)?;
        Ok(Self {
            hub,
            agent,
            database,
            dir,
            _server: server,
        })
    }

    /// A publisher with other contexts on the same database.
    fn with(&self, contexts: &str) -> Result<Hub> {
        Hub::new(
            self.dir.path(),
            &self.database.url,
            &[&self.agent],
            contexts,
        )
    }

    /// The lines that `migrate` prints.
    async fn migrate(&self) -> Result<Vec<String>> {
        migrate(&self.hub).await
    }

    /// The role as which another publisher migrates.
    fn migrated_by(&self, role: &str, contexts: &str) -> Result<Hub> {
        let url = self.database.url.replace("postgres@", &format!("{role}@"));
        let hub = self.with(contexts)?;
        let text = std::fs::read_to_string(&hub.config)?;
        let text = text.replace("[hub]", &format!("[hub]\nmigrate_url = \"{url}\""));
        std::fs::write(&hub.config, text)?;
        Ok(hub)
    }

    async fn connect(&self) -> Result<PgConnection> {
        self.database.connect().await
    }

    /// What a statement leaves.
    async fn after(&self, sql: &str) -> Result<Vec<String>> {
        self.left().await?;
        self.database
            .execute(sql)
            .await
            .map_err(|e| format!("{sql}: {e}"))?;
        self.left().await
    }

    /// Takes what is in the outbox: the tenants, the marks, and the changed rows.
    async fn left(&self) -> Result<Vec<String>> {
        let mut connection = self.connect().await?;
        let sql = "DELETE FROM hubcast.outbox RETURNING coalesce(tenant, mark, changed::text)";
        let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
        connection.close().await?;
        let mut left: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        left.sort();
        Ok(left)
    }

    /// What `check` finds: errors and warnings that are not about the agent, which does not run, or the plans of queries.
    async fn check(&self) -> Result<Vec<String>> {
        let found = self.hub.run(&["check", "--json"]).await?.json()?;
        let lines = |key: &str| found[key].as_array().cloned().unwrap_or_default();
        let all = lines("errors").into_iter().chain(lines("warnings"));
        let text = |line: Value| line.as_str().unwrap_or_default().to_owned();
        Ok(all
            .map(text)
            .filter(|l| !l.starts_with("eu http") && !l.contains("is read whole"))
            .collect())
    }

    /// Runs a query that has one value.
    async fn ask<T>(&self, sql: &str) -> Result<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await?;
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
    }
}

/// The lines that `migrate` prints.
async fn migrate(hub: &Hub) -> Result<Vec<String>> {
    let ran = hub.run(&["migrate"]).await?.ok()?;
    Ok(ran.stdout.lines().map(ToOwned::to_owned).collect())
}

/// A role of the test's own: others use the same server.
async fn role(database: &Database, options: &str) -> Result<String> {
    let name = database.url.rsplit('/').next().unwrap_or_default();
    let name = name.replace("hubcast_", "writer_");
    let sql = format!("DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN {options}");
    postgres::execute(&database.url, &sql).await?;
    Ok(name)
}

const NOTHING: [&str; 1] = ["nothing to do: the database is as the configuration says"];
