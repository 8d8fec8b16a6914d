//! What the benchmarks run on: clusters with real durability, a publisher and one agent, all in a folder that is gone
//! at the end.

use crate::clock;
use crate::trace::Relays;
use crate::wire::Session;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::postgres::{self, Postgres};
use system_tests::region::Agent;
use system_tests::{Result, until};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What went wrong.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long the first fill may take.
const FILL: Duration = Duration::from_secs(120);
/// How much of a log is worth showing.
const LAST_WORDS: usize = 2_000;
/// What file systems in memory call themselves: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The table that both sides have: contexts of 300 bytes, ten per tenant.
pub fn items(name: &str, rows: u32, tenants: u32) -> String {
    format!(
        "CREATE TABLE {name} (id integer PRIMARY KEY, tenant text NOT NULL, v bigint NOT NULL, note text NOT NULL)
             WITH (fillfactor = 80, autovacuum_enabled = false);
         INSERT INTO {name} SELECT n, 'tenant-' || n % {tenants}, 0, repeat(md5(n::text), 8)
             FROM generate_series(1, {rows}) n;
         CREATE INDEX ON {name} (tenant);
         VACUUM ANALYZE {name}"
    )
}

/// The `[[context]]` table for it; `more` is added to its `watch`.
pub fn context(kind: &str, table: &str, more: &str) -> String {
    format!(
        "[[context]]\nkind = \"{kind}\"\nquery = \"SELECT id::text AS key, tenant, v, note FROM {table}\"\n\
         watch = [{{ table = \"{table}\", tenant = \"tenant\"{more} }}]\n"
    )
}

/// A cluster that would survive the loss of power, and does nothing of its own accord while we measure.
pub async fn cluster(settings: &[&str]) -> Result<Postgres> {
    let mut all = vec![
        "shared_buffers=512MB",
        "max_wal_size=8GB",
        "checkpoint_timeout=1h",
    ];
    all.extend(settings);
    let postgres = Postgres::start_with(&postgres::find_bin()?, true, &all).await?;
    on_disk(postgres.dir())?;
    let mut session = Session::open(&postgres.url("postgres"))?;
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        let value = session.simple(&format!("SHOW {setting}"))?;
        if value.as_deref() != Some("on") {
            return Err(format!("the cluster has {setting} = {value:?}").into());
        }
    }
    Ok(postgres)
}

/// Refuses a folder that is only in memory: nothing there is durable.
pub fn on_disk(dir: &Path) -> Result<()> {
    let kind = u64::try_from(rustix::fs::statfs(dir)?.f_type)?;
    if IN_MEMORY.contains(&kind) {
        let dir = dir.display();
        return Err(format!("{dir} is in memory; set TMPDIR to a folder on a disk").into());
    }
    Ok(())
}

/// Which share of the processors works for others, in a second before anything is started here.
pub fn other_work() -> Result<f64> {
    let ticks = || -> Result<(f64, f64)> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().ok_or("/proc/stat is empty")?;
        let fields = line.split_whitespace().skip(1).take(8);
        let fields = fields.map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        // Idle, and waiting for the disk.
        let idle = fields.iter().skip(3).take(2).sum();
        Ok((fields.iter().sum(), idle))
    };
    let (all, idle) = ticks()?;
    clock::wait_until(Instant::now() + Duration::from_secs(1));
    let (all, idle) = ticks().map(|(a, i)| (a - all, i - idle))?;
    Ok(1.0 - idle / all)
}

/// What making 8 KiB durable costs in a folder: the median of a hundred.
pub fn sync_cost(dir: &Path) -> Result<f64> {
    let mut file = File::create(dir.join("sync"))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        file.write_all(&[1; 8192])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(crate::report::percentile(&times, 0.5))
}

/// A publisher and one agent.
#[derive(Debug)]
pub struct Stage {
    /// The publisher.
    pub hub: Hub,
    /// The agent.
    pub agent: Agent,
    /// What passes between them and Postgres, if asked for.
    pub relays: Option<Relays>,
    /// Dropped last, after the processes that use it.
    pub dir: TempDir,
}

impl Stage {
    /// Starts the agent, and installs everything at the hub; the publisher is not started yet.
    pub async fn set(database: &str, contexts: &str, traced: bool) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("hubcast-bench-")
            .tempdir()?;
        on_disk(dir.path())?;
        let mut agent = Agent::new(dir.path(), "eu-west-1")?;
        agent.start().await?;
        let relays = match traced {
            true => Some(Relays::start(database, agent.push)?),
            false => None,
        };
        agent.via = relays.as_ref().map(|r| r.push);
        let seen = relays
            .as_ref()
            .map_or(database.to_owned(), |r| r.database.clone());
        let hub = Hub::new(dir.path(), &seen, &[&agent], contexts)?;
        hub.run(&["migrate"]).await?.ok()?;
        Ok(Self {
            hub,
            agent,
            relays,
            dir,
        })
    }

    /// Starts the publisher and waits until its first scan has ended and the agent is ready.
    pub async fn start(&mut self) -> Result<()> {
        let began = Instant::now();
        self.hub.start().await?;
        let (hub, agent) = (&self.hub, &self.agent);
        until("the agent to be in step", FILL, || async move {
            let request = agent.client().get(hub.url("/v1/status"));
            let answer = request.bearer_auth(&hub.token).send().await.ok()?;
            let status: Value = answer.json().await.ok()?;
            // An older scan was one of a publisher before this one.
            let ended = status["last_scan"]["seconds_ago"].as_f64()?;
            (ended < began.elapsed().as_secs_f64() && agent.is_ready().await).then_some(())
        })
        .await
    }

    /// Adds to an error what a program wrote last, if it is one that ended.
    pub fn blame(&mut self, error: Error) -> Error {
        let programs = [
            ("publisher", self.hub.daemon()),
            ("agent", self.agent.process()),
        ];
        for (name, process) in programs {
            if let Ok(process) = process
                && !process.is_running()
            {
                let log = process.log();
                let from = log.len().saturating_sub(LAST_WORDS);
                let words = log.get(from..).unwrap_or(&log);
                return format!("{error}; the {name} had ended: {words}").into();
            }
        }
        error
    }
}

/// Runs statements, each by itself, as some of them must.
pub fn fill(address: &str, sql: &str) -> Result<()> {
    let mut session = Session::open(address)?;
    for statement in sql.split(';') {
        session.simple(statement)?;
    }
    Ok(())
}

/// Runs what has to be waited for, unless it is interrupted.
pub fn wait<T>(runtime: &Runtime, what: impl Future<Output = Result<T>>) -> Result<T> {
    clock::go_on()?;
    runtime.block_on(async {
        tokio::select! {
            done = what => done,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })
}
