//! What the tour plays on: Postgres, the publisher, three regions and their gateways.

use crate::table::OnTable;
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use system_tests::gateway::Gateway;
use system_tests::hub::Hub;
use system_tests::postgres::{self, Postgres};
use system_tests::region::Agent;
use system_tests::relay::Relay;
use system_tests::table::TableRegion;
use system_tests::{Result, free_port, sample, until};
use tempfile::TempDir;

/// The regions: name, and the prefix of the variables in the sample's configuration. The first is the hub's own.
const REGIONS: [(&str, &str); 3] = [
    ("us-east-1", "US"),
    ("eu-west-1", "EU"),
    ("ap-southeast-1", "AP"),
];
/// As by default: what the acts show does not wait for a scan.
const SCAN: &str = "0 */10 * * * *";

/// How an act went.
#[derive(Debug)]
pub struct Verdict {
    /// What it should show.
    pub promise: &'static str,
    /// What it showed.
    pub measured: String,
    /// Whether that is the same.
    pub good: bool,
}

/// The database: our own server, or one behind a relay that can be cut.
#[derive(Debug)]
pub enum Primary {
    /// Ours; it can be killed.
    Own(Box<Postgres>),
    /// Somebody's; what can be cut is the way to it.
    Foreign {
        relay: Relay,
        admin: String,
        name: String,
    },
}

/// Everything that runs.
#[derive(Debug)]
pub struct Stage {
    /// The database.
    pub primary: Primary,
    /// Its address for plain SQL.
    pub database: String,
    /// The publisher.
    pub hub: Hub,
    /// The agents, in the order of the regions.
    pub agents: Vec<Agent>,
    /// The last region, if it is on a table and has no agent.
    pub table: Option<OnTable>,
    /// The gateways, in the order of the regions.
    pub gateways: Vec<Gateway>,
    /// A key of the sample that is good everywhere.
    pub key: String,
    env: Vec<(String, String)>,
    /// Dropped last, after the processes that use it.
    _dir: TempDir,
}

impl Stage {
    /// Starts everything but the publisher and the gateway of a region that is on a table.
    pub async fn set(sample_dir: &Path, pg_bin: Option<&Path>, on_table: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hubcast-tour-").tempdir()?;
        let began = Instant::now();
        let (primary, database, for_hub) = match (pg_bin, std::env::var("DATABASE_URL")) {
            (None, Ok(url)) => foreign(&url).await?,
            (bin, _) => {
                let bin = bin.map_or_else(postgres::find_bin, |b| Ok(b.to_owned()))?;
                let server = Postgres::start(&bin, true).await?;
                let url = server.database().await?;
                (Primary::Own(Box::new(server)), url.clone(), url)
            }
        };
        let size = sample::Size::default();
        sample::load(sample_dir, &database, size).await?;
        println!(
            "  Postgres with a sample SaaS database: {} tenants, {} clusters, {} API keys ({:.1} s)",
            size.tenants,
            size.clusters,
            size.keys,
            began.elapsed().as_secs_f64()
        );
        let (port, token) = (free_port()?, format!("api-token-{}", std::process::id()));
        let mut env = vec![
            ("DATABASE_URL".to_owned(), for_hub),
            ("HUBCAST_LISTEN".to_owned(), format!("127.0.0.1:{port}")),
            ("HUBCAST_SCAN".to_owned(), SCAN.to_owned()),
            ("HUBCAST_API_TOKEN".to_owned(), token.clone()),
        ];
        let (mut agents, mut gateways) = (Vec::new(), Vec::new());
        let (with_agent, table) = match on_table {
            true => (
                &REGIONS[..2],
                Some(OnTable::start(dir.path(), REGIONS[2].0).await?),
            ),
            false => (&REGIONS[..], None),
        };
        for (region, short) in with_agent {
            let mut agent = Agent::new(dir.path(), region)?;
            agent.start().await?;
            env.push((format!("HUBCAST_{short}_AGENT"), agent.push_url()));
            env.push((format!("HUBCAST_{short}_TOKEN"), agent.token.clone()));
            gateways.push(Gateway::start(dir.path(), region, &agent.url("")).await?);
            agents.push(agent);
        }
        let mut config = sample_dir.join("publisher.toml");
        if let Some(table) = &table {
            let text = table.configure(&std::fs::read_to_string(&config)?)?;
            config = dir.path().join("publisher.toml");
            std::fs::write(&config, text)?;
            env.extend(TableRegion::env());
        }
        let hub = Hub::with_config(dir.path(), &config, port, &token, env.clone());
        let key = first_key(&database).await?;
        Ok(Self {
            primary,
            database,
            hub,
            agents,
            table,
            gateways,
            key,
            env,
            _dir: dir,
        })
    }

    /// Waits until every region holds what the hub has.
    pub async fn ready(&self) -> Result<()> {
        until(
            "every region to be ready",
            Duration::from_secs(120),
            || async {
                for agent in &self.agents {
                    if !agent.is_ready().await {
                        return None;
                    }
                }
                if let Some(table) = &self.table {
                    let standing = table.region.db().standing().await.ok()??;
                    return standing.pulse.fresh.map(|_| ());
                }
                Some(())
            },
        )
        .await
    }

    /// The last region that has an agent.
    pub fn last(&self) -> usize {
        self.agents.len() - 1
    }

    /// Takes the database away.
    pub fn lose_database(&mut self) -> Result<&'static str> {
        match &mut self.primary {
            Primary::Own(server) => {
                server.kill()?;
                Ok("Postgres was killed")
            }
            Primary::Foreign { relay, .. } => {
                relay.cut();
                Ok("the way to Postgres was cut")
            }
        }
    }

    /// Gives it back.
    pub async fn regain_database(&mut self) -> Result<()> {
        match &mut self.primary {
            Primary::Own(server) => server.resume(true).await,
            Primary::Foreign { relay, .. } => {
                relay.mend();
                Ok(())
            }
        }
    }

    /// Runs plain SQL, as the application would.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        postgres::execute(&self.database, sql).await
    }

    /// Runs a statement in a transaction, and returns the token that stands for it.
    pub async fn sql_with_token(&self, sql: &str) -> Result<String> {
        let mut connection = PgConnection::connect(&self.database).await?;
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut *transaction)
            .await?;
        let token: String = sqlx::query_scalar("SELECT hubcast.token()")
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(token)
    }

    /// Prints where everything is, and three things to try.
    pub fn addresses(&self) {
        println!("\n  addresses");
        println!(
            "    the console                {}   sign in with {}",
            self.hub.url("/"),
            self.hub.token
        );
        println!(
            "    hub API and metrics        {}",
            self.hub.url("/metrics")
        );
        for (agent, gateway) in self.agents.iter().zip(&self.gateways) {
            let (agent_url, gateway_url) = (agent.url("/v1/status"), gateway.url());
            println!(
                "    {:<15}            gateway {gateway_url}   agent {agent_url}",
                agent.region
            );
        }
        if let (Some(table), Some(gateway)) = (&self.table, self.gateways.last()) {
            let TableRegion {
                region, endpoint, ..
            } = &table.region;
            println!(
                "    {region:<15}            gateway {}   DynamoDB {endpoint}",
                gateway.url()
            );
        }
        let env: BTreeMap<&str, &str> = self
            .env
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let shown = self
            .write_env(&env)
            .unwrap_or_else(|e| format!("(not written: {e})"));
        println!("\n  try");
        println!(
            "    curl -H 'Authorization: Bearer {}' {}",
            self.key,
            self.gateways[1].url()
        );
        println!(
            "    curl -i {}",
            self.agents[self.last()].url("/v1/contexts/cluster/cl-000001")
        );
        println!("    . {shown} && {} status", self.hub.program());
    }

    /// Writes the variables of the publisher to a file that a shell can read.
    fn write_env(&self, env: &BTreeMap<&str, &str>) -> Result<String> {
        let path = self._dir.path().join("env");
        let config = std::path::absolute(&self.hub.config)?;
        let mut text = format!("export HUBCAST_CONFIG='{}'\n", config.display());
        for (name, value) in env {
            text.push_str(&format!("export {name}='{value}'\n"));
        }
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Ends everything, the publisher and agents cleanly.
    pub async fn clear(mut self) {
        let _ = self.hub.stop().await;
        for agent in &mut self.agents {
            let _ = agent.stop().await;
        }
        if let Primary::Foreign { admin, name, .. } = &self.primary {
            let _ = postgres::execute(
                admin,
                &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            )
            .await;
        }
    }
}

/// A database of our own on somebody's server, with a relay in front of it for the publisher.
async fn foreign(url: &str) -> Result<(Primary, String, String)> {
    let hint = "the tour makes a database of its own there, and needs the right to";
    let database = postgres::create_database(url)
        .await
        .map_err(|e| format!("DATABASE_URL: {e}; {hint}"))?;
    let name = database.rsplit('/').next().unwrap_or_default().to_owned();
    let parsed = reqwest::Url::parse(&database)?;
    let local = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1") | None);
    if !local {
        postgres::execute(url, &format!("DROP DATABASE {name}")).await?;
        return Err("DATABASE_URL: the tour cuts the way to the database, and can do so only for a local one; unset it to use a throw-away server".into());
    }
    let relay = Relay::start(parsed.port().unwrap_or(5432), Duration::ZERO).await?;
    let mut through = parsed.clone();
    through.set_host(Some("127.0.0.1"))?;
    through
        .set_port(Some(relay.port))
        .map_err(|()| "the address takes no port")?;
    Ok((
        Primary::Foreign {
            relay,
            admin: url.to_owned(),
            name,
        },
        database,
        through.to_string(),
    ))
}

/// The first key of the sample, and a check that it is as the gateways will hash it.
async fn first_key(database: &str) -> Result<String> {
    let mut connection = PgConnection::connect(database).await?;
    let key: String = sqlx::query_scalar("SELECT 'hk_' || md5('hubcast-sample-1')")
        .fetch_one(&mut connection)
        .await?;
    let found: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL",
    )
    .bind(sample::key_hash(&key))
    .fetch_one(&mut connection)
    .await?;
    if found == 1 {
        Ok(key)
    } else {
        Err("the sample does not have its first key".into())
    }
}
