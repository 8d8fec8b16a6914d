//! What most tests stand on: a database, some regions with one agent each, and a publisher.

use crate::truth::{Kind, Truth};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use system_tests::hub::{Hub, Ran};
use system_tests::region::Agent;
use system_tests::relay::Relay;
use system_tests::server::{Database, Server};
use system_tests::{Result, sample};
use tempfile::TempDir;

/// The regions that the sample names.
pub const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-southeast-1"];

/// How long anything may take to be right again after trouble.
pub const HEALS_WITHIN: Duration = Duration::from_secs(40);

/// How long a scan may take at most. One without an end is told before the whole test is stopped, which says nothing.
const SCANNED_WITHIN: Duration = Duration::from_secs(120);

/// Two contexts per tenant that always have the same number: a counter and its twin.
pub const COUNTERS: &str = r#"
CREATE TABLE counters (tenant text PRIMARY KEY, n bigint NOT NULL, regions text[], note text NOT NULL DEFAULT '');
"#;

/// The contexts of [`COUNTERS`].
pub const COUNTER_CONTEXTS: &str = r#"
[[context]]
kind  = "counter"
query = "SELECT tenant AS key, tenant, regions, n, note FROM counters"
watch = [{ table = "counters", tenant = "tenant" }]

[[context]]
kind  = "twin"
query = "SELECT 'twin of ' || tenant AS key, tenant, regions, n FROM counters"
watch = [{ table = "counters", tenant = "tenant" }]
"#;

/// What they should be.
pub const COUNTER_TRUTH: &[Kind] = &[
    Kind {
        name: "counter",
        sql: "SELECT tenant, tenant, jsonb_build_object('n', n, 'note', note)::text FROM counters \
              WHERE regions IS NULL OR $1 = ANY (regions)",
    },
    Kind {
        name: "twin",
        sql: "SELECT 'twin of ' || tenant, tenant, jsonb_build_object('n', n)::text FROM counters \
              WHERE regions IS NULL OR $1 = ANY (regions)",
    },
];

/// Everything that runs. Dropped in this order: the processes before what they use.
pub struct World {
    pub hub: Hub,
    pub agents: Vec<Agent>,
    pub database: Database,
    pub server: Server,
    pub truth: Truth,
    pub contexts: String,
    pub dir: TempDir,
}

impl World {
    /// Agents for these regions, and a publisher that is migrated and does not run.
    pub async fn new(
        server: Server,
        database: Database,
        regions: &[&str],
        contexts: &str,
        kinds: &[Kind],
    ) -> Result<Self> {
        let url = database.url.clone();
        Self::with_address(server, database, &url, regions, contexts, kinds).await
    }

    /// The same with a publisher that has another address of the database.
    pub async fn with_address(
        server: Server,
        database: Database,
        url: &str,
        regions: &[&str],
        contexts: &str,
        kinds: &[Kind],
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hubcast-test-").tempdir()?;
        let mut agents = Vec::new();
        for region in regions {
            let mut agent = Agent::new(dir.path(), region)?;
            agent.start().await?;
            agents.push(agent);
        }
        let all: Vec<&Agent> = agents.iter().collect();
        let hub = Hub::new(dir.path(), url, &all, contexts)?;
        hub.run(&["migrate"]).await?.ok()?;
        Ok(Self {
            hub,
            agents,
            database,
            server,
            truth: Truth::new(kinds),
            contexts: contexts.to_owned(),
            dir,
        })
    }

    /// Some tenants `t1`, `t2`, ... with [`COUNTERS`] at 1.
    pub async fn with_counters(server: Server, regions: &[&str], tenants: u32) -> Result<Self> {
        let database = server.database().await?;
        database.execute(COUNTERS).await?;
        let fill = format!(
            "INSERT INTO counters SELECT 't' || g, 1 FROM generate_series(1, {tenants}) AS g"
        );
        database.execute(&fill).await?;
        Self::new(server, database, regions, COUNTER_CONTEXTS, COUNTER_TRUTH).await
    }

    /// The sample in its three regions.
    pub async fn with_sample(server: Server, size: sample::Size) -> Result<Self> {
        let database = server.database().await?;
        sample::load(&sample_dir(), &database.url, size).await?;
        let contexts = sample_contexts()?;
        Self::new(
            server,
            database,
            &REGIONS,
            &contexts,
            crate::sample_truth::KINDS,
        )
        .await
    }

    /// From here on the publisher comes to one of the agents through a relay.
    pub async fn relay_to(&mut self, agent: usize) -> Result<Relay> {
        let relay = Relay::start(self.agents[agent].push, Duration::ZERO).await?;
        self.agents[agent].via = Some(relay.port);
        self.hub = self.another_hub()?;
        self.hub.run(&["migrate"]).await?.ok()?;
        Ok(relay)
    }

    /// Starts the publisher and waits until it found every region in step and has nothing left to do.
    pub async fn runs(&mut self) -> Result<()> {
        self.hub.start().await?;
        settles(&self.hub).await
    }

    /// Another publisher with the same configuration.
    pub fn another_hub(&self) -> Result<Hub> {
        self.hub_of(&self.database)
    }

    /// A publisher with the same configuration on another database.
    pub fn hub_of(&self, database: &Database) -> Result<Hub> {
        let all: Vec<&Agent> = self.agents.iter().collect();
        Hub::new(self.dir.path(), &database.url, &all, &self.contexts)
    }

    /// `publisher scan`, which has to find or make everything right.
    pub async fn scan(&self) -> Result<Ran> {
        let scan = tokio::time::timeout(SCANNED_WITHIN, self.hub.run(&["scan", "--json"])).await;
        scan.map_err(|_| format!("the scan has not ended after {SCANNED_WITHIN:?}"))??
            .ok()
    }

    /// The regions are now as the database says, exactly.
    pub async fn is_true(&mut self) -> Result<()> {
        self.truth.holds(&self.database, &self.agents).await
    }

    /// They become so without anyone's help.
    pub async fn becomes_true(&mut self) -> Result<()> {
        let deadline = Instant::now() + HEALS_WITHIN;
        loop {
            match self.is_true().await {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() > deadline => {
                    let log = self.hub.daemon().map(|d| d.log()).unwrap_or_default();
                    return Err(format!("not healed within {HEALS_WITHIN:?}: {e}\n{log}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Waits until a publisher is the writer, found every region in step, and has nothing left to do.
pub async fn settles(hub: &Hub) -> Result<()> {
    let settled = |status: &Value| {
        let engine = &status["engine"];
        let mut stores = engine["stores"].as_array().into_iter().flatten();
        stores.all(|s| s["standing"] == "in step")
            && engine["capture_gap"].is_null()
            && engine["scan"].is_null()
            && engine["dirty"] == 0
            && engine["unacked"] == 0
    };
    let mut last = Value::Null;
    let deadline = Instant::now() + HEALS_WITHIN;
    while Instant::now() < deadline {
        last = hub.status().await?;
        if settled(&last) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("the publisher has work left after {HEALS_WITHIN:?}: {last:#}").into())
}

/// Scans that ended in a publisher so far.
pub async fn scans(hub: &Hub) -> Result<f64> {
    hub.metric("hubcast_publisher_scans_total", "").await
}

/// Where the sample is.
pub fn sample_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../ops/sample")
}

/// The contexts of the sample: its configuration without hub and spokes.
pub fn sample_contexts() -> Result<String> {
    let text = std::fs::read_to_string(sample_dir().join("publisher.toml"))?;
    let at = text
        .find("[[context]]")
        .ok_or("the sample has no context")?;
    Ok(text[at..].to_owned())
}
