//! What the torture runs on: tables, contexts, two publishers, three agents in two regions, and a third region on DynamoDB.

use crate::tables::differences;
use crate::truth::{Kind, Truth};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use system_tests::Result;
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::relay::Relay;
use system_tests::server::{Database, Server};
use system_tests::table::TableRegion;
use tempfile::TempDir;

/// The regions; a set of them is a [`Regions`].
pub const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", ON_TABLE];
/// The region whose store is a table.
pub const ON_TABLE: &str = "ap-southeast-1";
/// The region of each agent.
const AGENTS: [usize; 3] = [0, 1, 1];
/// The number of the table, behind those of the agents.
pub const TABLE_INDEX: usize = AGENTS.len();
/// The number of the cache in front of it.
pub const CACHE_INDEX: usize = TABLE_INDEX + 1;
/// The agent that the publishers reach through a relay.
const BEHIND_RELAY: usize = 1;

/// Tenants `t0`, `t1`, ... The even ones are steady: they leave no region, and their accounts no plan.
pub const TENANTS: u16 = 24;
/// Keys `k0`, `k1`, ... The even ones are never deleted, and move in one transaction.
pub const KEYS: u16 = 24;
/// Plans `p0`, `p1`, ...
pub const PLANS: u16 = 4;

/// A set of regions, one bit each.
pub type Regions = u8;
/// All of them.
pub const EVERYWHERE: Regions = (1 << REGIONS.len()) - 1;

/// `tenants` is the application's own book of numbers, and nobody watches it: the number of a tenant survives its
/// counter. A counter and its twin always have the same number, although no statement writes both.
const TABLES: &str = "
CREATE TABLE tenants (id text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE counters (tenant text PRIMARY KEY, n bigint NOT NULL, regions text[]);
CREATE TABLE twins (tenant text PRIMARY KEY REFERENCES counters ON DELETE CASCADE, n bigint NOT NULL);
CREATE TABLE plans (id text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE accounts (tenant text PRIMARY KEY, plan text NOT NULL REFERENCES plans, n bigint NOT NULL);
CREATE INDEX accounts_plan ON accounts (plan);
CREATE TABLE keys (key text PRIMARY KEY, tenant text NOT NULL, n bigint NOT NULL, label text NOT NULL DEFAULT '');
CREATE INDEX keys_tenant ON keys (tenant);
CREATE TABLE notices (tenant text PRIMARY KEY, n bigint NOT NULL);
";

/// A key is published twice: by itself, so that it moves between tenants, and below its tenant, so that a row changes
/// its tenant.
const CONTEXTS: &str = r#"
[[context]]
kind  = "counter"
query = "SELECT tenant AS key, tenant, regions, n FROM counters"
watch = [{ table = "counters", tenant = "tenant" }]

[[context]]
kind  = "twin"
query = "SELECT w.tenant AS key, w.tenant, c.regions, w.n FROM twins w JOIN counters c ON c.tenant = w.tenant"
watch = [{ table = "twins", tenant = "tenant" }, { table = "counters", tenant = "tenant" }]

[[context]]
kind  = "account"
query = "SELECT a.tenant AS key, a.tenant, a.n, a.plan, p.n AS plan_n FROM accounts a JOIN plans p ON p.id = a.plan"
watch = [
  { table = "accounts", tenant = "tenant" },
  { table = "plans", tenants = "SELECT a.tenant FROM accounts a JOIN changed c ON a.plan = c.id" },
]

[[context]]
kind  = "key"
query = "SELECT key, tenant, n, label, tenant AS owner FROM keys"
watch = [{ table = "keys", tenant = "tenant" }]

[[context]]
kind  = "seat"
query = "SELECT tenant || '/' || key AS key, tenant, n FROM keys"
watch = [{ table = "keys", tenant = "tenant", columns = ["key", "tenant", "n"] }]

[[context]]
kind  = "notice"
query = "SELECT tenant AS key, tenant, n FROM notices"
watch = [{ table = "notices", tenant = "tenant" }]
"#;

const TRUTH: &[Kind] = &[
    Kind {
        name: "counter",
        sql: "SELECT tenant, tenant, jsonb_build_object('n', n)::text FROM counters \
              WHERE regions IS NULL OR $1 = ANY (regions)",
    },
    Kind {
        name: "twin",
        sql: "SELECT w.tenant, w.tenant, jsonb_build_object('n', w.n)::text FROM twins w \
              JOIN counters c ON c.tenant = w.tenant WHERE c.regions IS NULL OR $1 = ANY (c.regions)",
    },
    Kind {
        name: "account",
        sql: "SELECT a.tenant, a.tenant, jsonb_build_object('n', a.n, 'plan', a.plan, 'plan_n', p.n)::text \
              FROM accounts a JOIN plans p ON p.id = a.plan WHERE $1 <> ''",
    },
    Kind {
        name: "key",
        sql: "SELECT key, tenant, jsonb_build_object('n', n, 'label', label, 'owner', tenant)::text FROM keys \
              WHERE $1 <> ''",
    },
    Kind {
        name: "seat",
        sql: "SELECT tenant || '/' || key, tenant, jsonb_build_object('n', n)::text FROM keys WHERE $1 <> ''",
    },
    Kind {
        name: "notice",
        sql: "SELECT tenant, tenant, jsonb_build_object('n', n)::text FROM notices WHERE $1 <> ''",
    },
];

/// The plan that a steady account always has, and any other at first.
pub fn first_plan(tenant: u16) -> u16 {
    tenant / 2 % PLANS
}

/// The plan, if an account never leaves it.
pub fn steady_plan(tenant: u16) -> Option<u16> {
    is_steady(tenant).then(|| first_plan(tenant))
}

/// Whether a tenant or a key of this number is one of those that never go.
pub fn is_steady(number: u16) -> bool {
    number.is_multiple_of(2)
}

/// Where an agent is, or the table.
pub fn region_of(agent: usize) -> Regions {
    1 << AGENTS.get(agent).copied().unwrap_or(REGIONS.len() - 1)
}

/// Everything that runs. Dropped in this order: the processes before what they use.
pub struct Stage {
    pub hubs: Vec<Hub>,
    pub agents: Vec<Agent>,
    pub relay: Arc<Relay>,
    pub table: TableRegion,
    /// The publishers reach the table through it.
    pub table_relay: Arc<Relay>,
    pub database: Database,
    pub _server: Server,
    pub truth: Truth,
    pub dir: TempDir,
}

impl Stage {
    /// A filled database; agents that run and are in step with it; publishers that do not run.
    pub async fn new() -> Result<Self> {
        let server = Server::any().await?;
        let database = server.database().await?;
        database.execute(TABLES).await?;
        database.execute(&rows()).await?;
        let dir = tempfile::Builder::new()
            .prefix("hubcast-torture-")
            .tempdir()?;
        let mut agents = Vec::new();
        for region in AGENTS {
            let mut agent = Agent::new(dir.path(), REGIONS[region])?;
            // The publishers show one token per region.
            agent.token = format!("token-of-{}", REGIONS[region]);
            agent.start().await?;
            agents.push(agent);
        }
        let relay = Relay::start(agents[BEHIND_RELAY].push, Duration::ZERO).await?;
        agents[BEHIND_RELAY].via = Some(relay.port);
        let table = TableRegion::start(ON_TABLE).await?;
        let port = table.endpoint.rsplit(':').next().ok_or("has a port")?;
        let table_relay = Relay::start(port.parse()?, Duration::ZERO).await?;
        let through = format!("http://127.0.0.1:{}", table_relay.port);
        let through = TableRegion::at(ON_TABLE, &through, &table.table).spoke()?;
        let hubs = vec![
            hub(dir.path(), &database, &agents, &through)?,
            hub(dir.path(), &database, &agents, &through)?,
        ];
        hubs[0].run(&["migrate", "--create-tables"]).await?.ok()?;
        hubs[0].run(&["scan"]).await?.ok()?;
        let mut stage = Self {
            hubs,
            agents,
            relay: Arc::new(relay),
            table,
            table_relay: Arc::new(table_relay),
            database,
            _server: server,
            truth: Truth::new(TRUTH),
            dir,
        };
        stage.is_true().await?;
        Ok(stage)
    }

    /// The agents and the table are now as the database says, exactly.
    pub async fn is_true(&mut self) -> Result<()> {
        self.truth.holds(&self.database, &self.agents).await?;
        let expected = self.truth.of(&self.database, ON_TABLE).await?;
        let held = self.table.holds().await?;
        match held == expected {
            true => Ok(()),
            false => Err(differences(&held, &expected).into()),
        }
    }
}

fn hub(dir: &Path, database: &Database, agents: &[Agent], table: &str) -> Result<Hub> {
    let all: Vec<&Agent> = agents.iter().collect();
    let contexts = format!("{table}{CONTEXTS}");
    let mut hub = Hub::new(dir, &database.url, &all, &contexts)?;
    // In a minute as much is removed as in years elsewhere, which the guard would hold, as it should.
    hub.configure("max_delete_share = 1.0")?;
    hub.env = TableRegion::env();
    Ok(hub)
}

/// The SQL of the first rows.
fn rows() -> String {
    format!(
        "INSERT INTO tenants SELECT 't' || g, 1 FROM generate_series(0, {TENANTS} - 1) AS g;
         INSERT INTO counters SELECT id, n FROM tenants;
         INSERT INTO twins SELECT id, n FROM tenants;
         INSERT INTO plans SELECT 'p' || g, 1 FROM generate_series(0, {PLANS} - 1) AS g;
         INSERT INTO accounts SELECT 't' || g, 'p' || g / 2 % {PLANS}, 1 FROM generate_series(0, {TENANTS} - 1) AS g;
         INSERT INTO keys SELECT 'k' || g, 't' || g % {TENANTS}, 1 FROM generate_series(0, {KEYS} - 1) AS g;
         INSERT INTO notices SELECT id, n FROM tenants LIMIT 5;"
    )
}
