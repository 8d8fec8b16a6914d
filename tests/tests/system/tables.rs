//! A region on DynamoDB beside one with an agent, under one hub.
//!
//! Would catch a table that is filled wrongly, that misses a change, a delete or a move, or that two publishers write.

use crate::truth::{Kind, Truth};
use crate::world::{HEALS_WITHIN, settles};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::server::{Database, Server};
use system_tests::table::TableRegion;
use system_tests::{Result, until};
use tempfile::TempDir;

const KEYS: &str = "
CREATE TABLE keys (key text PRIMARY KEY, tenant text NOT NULL, n bigint NOT NULL, regions text[]);
INSERT INTO keys SELECT 'k' || g, 't' || g % 40, g, NULL FROM generate_series(1, 400) AS g;
INSERT INTO keys SELECT 'large ' || g, 'large', g, NULL FROM generate_series(1, 260) AS g";

const CONTEXTS: &str = r#"
[[context]]
kind  = "counter"
query = "SELECT key, tenant, regions, n FROM keys"
watch = [{ table = "keys", tenant = "tenant" }]
"#;

const TRUTH: &[Kind] = &[Kind {
    name: "counter",
    sql: "SELECT key, tenant, jsonb_build_object('n', n)::text FROM keys \
          WHERE regions IS NULL OR $1 = ANY (regions)",
}];

const ON_TABLE: &str = "ap-southeast-1";

struct Mixed {
    hub: Hub,
    agents: Vec<Agent>,
    table: TableRegion,
    database: Database,
    truth: Truth,
    contexts: String,
    dir: TempDir,
    _server: Server,
}

impl Mixed {
    async fn new() -> Result<Self> {
        let server = Server::any().await?;
        let database = server.database().await?;
        database.execute(KEYS).await?;
        let dir = tempfile::Builder::new().prefix("hubcast-test-").tempdir()?;
        let mut agent = Agent::new(dir.path(), "eu-west-1")?;
        agent.start().await?;
        let table = TableRegion::start(ON_TABLE).await?;
        let contexts = format!("{}{CONTEXTS}", table.spoke()?);
        let agents = vec![agent];
        let hub = hub(&dir, &database, &agents, &contexts)?;
        Ok(Self {
            hub,
            agents,
            table,
            database,
            truth: Truth::new(TRUTH),
            contexts,
            dir,
            _server: server,
        })
    }

    /// The table and the agent are as the database says, exactly.
    async fn is_true(&mut self) -> Result<()> {
        self.truth.holds(&self.database, &self.agents).await?;
        let expected = self.truth.of(&self.database, ON_TABLE).await?;
        let held = self.table.holds().await?;
        match held == expected {
            true => Ok(()),
            false => Err(differences(&held, &expected).into()),
        }
    }

    async fn becomes_true(&mut self, at: &str) -> Result<()> {
        let deadline = Instant::now() + HEALS_WITHIN;
        loop {
            match self.is_true().await {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() > deadline => {
                    let log = self.hub.daemon().map(|d| d.log()).unwrap_or_default();
                    return Err(format!("{at}: {e}\n{log}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

fn hub(dir: &TempDir, database: &Database, agents: &[Agent], contexts: &str) -> Result<Hub> {
    let all: Vec<&Agent> = agents.iter().collect();
    let mut hub = Hub::new(dir.path(), &database.url, &all, contexts)?;
    hub.env = TableRegion::env();
    Ok(hub)
}

/// What a region holds: tenant and value, by kind and key.
pub type Held = BTreeMap<(String, String), (String, String)>;

/// The first of the differences.
pub fn differences(held: &Held, expected: &Held) -> String {
    let keys = held.keys().chain(expected.keys());
    let mut differing = keys.filter(|key| held.get(*key) != expected.get(*key));
    let first = differing.next().cloned().unwrap_or_default();
    let (is, should) = (held.get(&first), expected.get(&first));
    format!(
        "the table holds {is:?} of {first:?}, not {should:?}, and {} more",
        differing.count()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_and_an_agent_hold_the_same_under_one_hub() -> Result<()> {
    let mut mixed = Mixed::new().await?;
    let before = mixed.hub.run(&["check"]).await?;
    assert!(
        before.stdout.contains("--create-tables"),
        "{}",
        before.stdout
    );
    let printed = mixed.hub.run(&["migrate", "--print"]).await?.ok()?;
    assert!(
        printed.stdout.contains("-- aws dynamodb create-table"),
        "{}",
        printed.stdout
    );
    let without = mixed.hub.run(&["migrate"]).await?.ok()?;
    let definition = "aws dynamodb create-table";
    assert!(without.stderr.contains(definition), "{}", without.stderr);
    let created = mixed.hub.run(&["migrate", "--create-tables"]).await?.ok()?;
    assert!(
        created.stdout.contains("created table"),
        "{}",
        created.stdout
    );
    mixed.hub.run(&["check"]).await?.ok()?;
    mixed.hub.start().await?;
    settles(&mixed.hub).await?;
    mixed.becomes_true("filled").await?;

    for (what, sql) in [
        (
            "a change",
            "UPDATE keys SET n = n + 1000 WHERE tenant = 't3'",
        ),
        (
            "a delete",
            "DELETE FROM keys WHERE key IN ('k7', 'k8', 'large 9')",
        ),
        (
            "a tenant that is gone",
            "DELETE FROM keys WHERE tenant = 't5'",
        ),
        ("a move", "UPDATE keys SET tenant = 't11' WHERE key = 'k10'"),
        (
            "a large change",
            "UPDATE keys SET n = -n WHERE tenant = 'large'",
        ),
        (
            "a large move",
            "UPDATE keys SET tenant = 'larger' WHERE tenant = 'large'",
        ),
        (
            "out of the region",
            "UPDATE keys SET regions = '{eu-west-1}' WHERE tenant = 't12'",
        ),
        (
            "new",
            "INSERT INTO keys SELECT 'n' || g, 'new', g, NULL FROM generate_series(1, 9) g",
        ),
    ] {
        mixed.database.execute(sql).await?;
        mixed.becomes_true(what).await?;
    }

    // Killed in the middle of changes; another one takes over.
    for round in 0..3 {
        let sql = format!(
            "UPDATE keys SET n = n + {} WHERE tenant LIKE '%1%' OR tenant = 'larger'",
            round + 7
        );
        mixed.database.execute(&sql).await?;
        tokio::time::sleep(Duration::from_millis(40 * round)).await;
        mixed.hub.kill()?;
        mixed.hub = hub(&mixed.dir, &mixed.database, &mixed.agents, &mixed.contexts)?;
        mixed.hub.start().await?;
        mixed
            .becomes_true(&format!("killed, round {round}"))
            .await?;
    }
    settles(&mixed.hub).await?;
    let scanned = mixed.hub.run(&["scan"]).await?.ok()?;
    assert!(scanned.stdout.contains(" read and "), "{}", scanned.stdout);
    let units = "hubcast_publisher_store_units_total";
    for label in ["for=\"change\"", "for=\"scan\"", "for=\"other\""] {
        until(label, Duration::from_secs(10), || async {
            let used = mixed.hub.metric(units, label).await.ok()?;
            (used > 0.0).then_some(())
        })
        .await?;
    }
    let status = mixed.hub.run(&["status"]).await?.ok()?;
    let caches = "what is durable here at T is in every cache by T + 10 s";
    assert!(status.stdout.contains(caches), "{}", status.stdout);
    mixed.hub.run(&["diff"]).await?.ok()?;
    let got = mixed.hub.run(&["get", "counter", "k1"]).await?.ok()?;
    assert!(got.stdout.contains("dynamodb://"), "{}", got.stdout);
    mixed.hub.stop().await
}
