//! Everything at once: an application that writes by plain SQL, readers at every agent that judge each answer, and
//! publishers, agents, connections and the network in trouble. Nobody asks for a republish or for a scan.
//!
//! | module | is about |
//! | --- | --- |
//! | [`stage`] | the tables, the contexts, and what runs |
//! | [`deeds`] | what a transaction does, and what it claims |
//! | [`writes`] | transactions that commit at once, late, or not at all |
//! | [`asks`] | where the hub says that they are visible |
//! | [`reads`] | answers of the agents |
//! | [`table`] | what the table of a region shows |
//! | [`claims`] | what they must show |
//! | [`trouble`] | what happens meanwhile |
//!
//! `HUBCAST_TORTURE_SECONDS` says how long there is trouble, `HUBCAST_TORTURE_SEED` what it is; the moments at which
//! processes meet it are never the same. For hours: `ops/test --torture 7200`.

mod asks;
mod claims;
mod deeds;
mod reads;
mod stage;
mod table;
mod trouble;
mod writes;

use crate::world::HEALS_WITHIN;
use asks::{Desk, Follower};
use claims::Claims;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use reads::Reader;
use serde_json::Value;
use stage::Stage;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use system_tests::region::Agent;
use system_tests::{Result, until};
use table::{Cached, Direct};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use trouble::Troubles;
use writes::{Writer, probe};

const WRITERS: u64 = 10;
const FOLLOWERS: usize = 10;
const SECONDS: u64 = 60;
/// How long the application goes on when there is no more trouble: what it does then reaches the agents without a scan.
const CALM_FOR: Duration = Duration::from_secs(4);
/// How long the last of it may take.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Trouble,
    Calm,
    Over,
}

/// What was done, and whether to go on.
struct Counts {
    transactions: AtomicU64,
    rolled_back: AtomicU64,
    conflicts: AtomicU64,
    kills: AtomicU64,
    pauses: AtomicU64,
    cuts: AtomicU64,
    disconnects: AtomicU64,
    reads: AtomicU64,
    cached: AtomicU64,
    unready: AtomicU64,
    ageless: AtomicU64,
    visible: AtomicU64,
    phase: watch::Sender<Phase>,
}

impl Counts {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            transactions: zero(),
            rolled_back: zero(),
            conflicts: zero(),
            kills: zero(),
            pauses: zero(),
            cuts: zero(),
            disconnects: zero(),
            reads: zero(),
            cached: zero(),
            unready: zero(),
            ageless: zero(),
            visible: zero(),
            phase: watch::Sender::new(Phase::Trouble),
        }
    }

    fn is_over(&self) -> bool {
        *self.phase.borrow() == Phase::Over
    }

    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// Waits so long; whether there is still to be trouble then.
    async fn rest(&self, time: Duration) -> bool {
        let mut phase = self.phase.subscribe();
        let calm = phase.wait_for(|p| *p >= Phase::Calm);
        tokio::time::timeout(time, calm).await.is_err()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} transactions, {} rolled back, {} in conflict; {} kills, {} pauses, {} cuts, {} disconnections; \
             {} reads, {} tenants from a cache, {} not ready, {} without an age; {} visible answers",
            n(&self.transactions),
            n(&self.rolled_back),
            n(&self.conflicts),
            n(&self.kills),
            n(&self.pauses),
            n(&self.cuts),
            n(&self.disconnects),
            n(&self.reads),
            n(&self.cached),
            n(&self.unready),
            n(&self.ageless),
            n(&self.visible),
        )
    }
}

/// Tasks of which the first that fails ends all.
struct Crowd {
    tasks: JoinSet<Result<()>>,
    counts: Arc<Counts>,
}

impl Crowd {
    fn join(&mut self, task: impl Future<Output = Result<()>> + Send + 'static) {
        let counts = self.counts.clone();
        self.tasks.spawn(async move {
            let result = task.await;
            if result.is_err() {
                counts.enter(Phase::Over);
            }
            result
        });
    }

    async fn end(mut self) -> Result<()> {
        let mut end = Ok(());
        while let Some(result) = self.tasks.join_next().await {
            end = end.and(result?);
        }
        end
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Readers, followers and writers.
async fn crowd(
    stage: &Stage,
    desk: &Desk,
    readers: Vec<Reader>,
    seed: u64,
    truncate: &Arc<AtomicUsize>,
) -> Result<Crowd> {
    let (claims, counts) = (readers[0].claims.clone(), readers[0].counts.clone());
    let tasks = JoinSet::new();
    let mut crowd = Crowd {
        tasks,
        counts: counts.clone(),
    };
    for reader in readers.iter().map(Reader::another) {
        crowd.join(reader.run());
    }
    crowd.join(Direct::new(&stage.table, &claims, &counts)?.run());
    let cached = Cached::new(&stage.table, &claims, &counts).await?;
    crowd.join(cached.run());
    let readers = Arc::new(readers);
    let (follow, ended) = mpsc::channel(FOLLOWERS);
    let ended = Arc::new(Mutex::new(ended));
    for _ in 0..FOLLOWERS {
        let follower = Follower {
            desk: desk.clone(),
            readers: readers.clone(),
            claims: claims.clone(),
            ended: ended.clone(),
        };
        crowd.join(follower.run());
    }
    for i in 0..WRITERS {
        let writer = Writer {
            random: SmallRng::seed_from_u64(seed.wrapping_add(i)),
            database: stage.database.connect().await?,
            desk: desk.clone(),
            claims: claims.clone(),
            counts: counts.clone(),
            follow: follow.clone(),
            truncate: truncate.clone(),
        };
        crowd.join(writer.run());
    }
    Ok(crowd)
}

/// Whether some publisher is the writer and content with everything, and every agent is ready and fresh.
async fn is_healthy(stage: &Stage) -> Option<()> {
    let mut writer = None;
    for hub in &stage.hubs {
        let client = stage.agents[0].client();
        let request = client.get(hub.url("/v1/status")).bearer_auth(&hub.token);
        let status: Value = request.send().await.ok()?.json().await.ok()?;
        writer = writer.or(Some(status["engine"].clone()).filter(Value::is_object));
    }
    let writer = writer?;
    let nothing = ["capture_gap", "scan"]
        .iter()
        .all(|name| writer[name].is_null());
    let none = ["retrying", "clashes", "held_tenants"]
        .iter()
        .all(|name| writer[name] == 0);
    let good = |s: &Value| {
        s["behind"].is_null() && s["failure"].is_null() && s["synced_seconds_ago"].is_f64()
    };
    let stores = writer["stores"].as_array()?.iter().all(good);
    for agent in &stage.agents {
        let asked = agent.client().get(agent.url("/readyz?max_age=5")).send();
        asked.await.ok()?.error_for_status().ok()?;
    }
    (nothing && none && stores && writer["suspended"] == false).then_some(())
}

async fn ask<T>(stage: &Stage, sql: &'static str) -> Result<T>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let mut connection = stage.database.connect().await?;
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}

/// Lets trouble happen for so long, or until something is wrong.
async fn endure(counts: &Counts, truncate: &AtomicUsize, time: Duration) {
    let began = Instant::now();
    // A TRUNCATE asks for a scan, at most one in half a minute.
    let mut due = (time / 5).min(Duration::from_secs(60));
    while began.elapsed() < time && counts.rest(Duration::from_millis(100)).await {
        if began.elapsed() >= due {
            truncate.fetch_add(1, Ordering::SeqCst);
            due = began.elapsed() + Duration::from_secs(90);
        }
    }
}

const LAST_SCAN: &str = "SELECT max(ended_at)::text FROM hubcast.scans";

/// Waits until all is well without anyone's help, and lets the application go on a little. Returns the last scan before.
async fn calm(stage: &Stage, counts: &Counts) -> Result<String> {
    let began = Instant::now();
    until("everything to be healthy again", HEALS_WITHIN, || async {
        match counts.is_over() {
            true => Some(()),
            false => is_healthy(stage).await,
        }
    })
    .await?;
    println!("healthy again after {:.1?}", began.elapsed());
    let scanned = ask(stage, LAST_SCAN).await?;
    let mut phase = counts.phase.subscribe();
    let over = phase.wait_for(|p| *p == Phase::Over);
    let _ = tokio::time::timeout(CALM_FOR, over).await;
    Ok(scanned)
}

/// What was written last arrives without a scan, and then nothing waits for anything.
async fn settle(stage: &mut Stage, desk: &Desk, scanned: &str) -> Result<()> {
    let mut connection = stage.database.connect().await?;
    let took = probe(&mut connection, desk, SETTLES_WITHIN).await?;
    println!("the last change was visible everywhere after {took:.1?}");
    let began = Instant::now();
    while let Err(e) = stage.is_true().await {
        if began.elapsed() > SETTLES_WITHIN {
            return Err(format!("not as the database says: {e}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last: String = ask(stage, LAST_SCAN).await?;
    if last != scanned {
        return Err("a scan came in between, so that triggers alone are not shown to do".into());
    }
    let left = "SELECT (SELECT count(*) FROM hubcast.outbox WHERE mark IS DISTINCT FROM 'beat') \
                + (SELECT count(*) FROM hubcast.retry) + (SELECT count(*) FROM hubcast.stores WHERE behind_since IS NOT NULL) \
                + (SELECT count(*) FROM hubcast.requests WHERE receipt IS NULL)";
    until("the outbox to be empty", SETTLES_WITHIN, || async {
        let left: i64 = ask(stage, left).await.ok()?;
        (left == 0).then_some(())
    })
    .await?;
    for hub in &mut stage.hubs {
        let log = hub.daemon()?.log();
        if let Some(line) = log.lines().find(|l| l.contains("panicked")) {
            return Err(line.into());
        }
        hub.stop().await?;
    }
    Ok(())
}

async fn run(stage: &mut Stage, readers: Vec<Reader>, seed: u64, time: Duration) -> Result<()> {
    let counts = readers[0].counts.clone();
    let desk = Desk::new(&stage.hubs, &readers, counts.clone())?;
    let truncate = Arc::new(AtomicUsize::new(0));
    let crowd = crowd(stage, &desk, readers, seed, &truncate).await?;
    let troubles = Troubles::begin(stage, &counts, seed);
    endure(&counts, &truncate, time).await;
    counts.enter(Phase::Calm);
    let restored = troubles.end(stage).await;
    let scanned = match restored {
        Ok(()) => calm(stage, &counts).await,
        Err(e) => Err(e),
    };
    counts.enter(Phase::Over);
    // What somebody saw says more than what followed from it.
    crowd.end().await?;
    settle(stage, &desk, &scanned?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn torture() -> Result<()> {
    let seed = from_environment("HUBCAST_TORTURE_SEED").unwrap_or_else(|| rand::rng().random());
    let seconds = from_environment("HUBCAST_TORTURE_SECONDS").unwrap_or(SECONDS);
    println!("HUBCAST_TORTURE_SEED={seed} HUBCAST_TORTURE_SECONDS={seconds}");
    let mut stage = Stage::new().await?;
    for hub in &mut stage.hubs {
        hub.start().await?;
    }
    until("the publisher to be the writer", HEALS_WITHIN, || {
        is_healthy(&stage)
    })
    .await?;
    let (claims, counts) = (Arc::new(Claims::default()), Arc::new(Counts::new()));
    let reader = |(index, agent): (usize, &Agent)| Reader {
        agent: agent.reader(),
        index,
        claims: claims.clone(),
        counts: counts.clone(),
    };
    let readers = stage.agents.iter().enumerate().map(reader).collect();
    let end = run(&mut stage, readers, seed, Duration::from_secs(seconds)).await;
    let gaps = claims.gaps.load(Ordering::Relaxed);
    println!("{counts}, {gaps} reads of a key between its tenants");
    let is_judged = counts.cached.load(Ordering::Relaxed) > 0;
    let end = end.and_then(|()| match is_judged {
        true => Ok(()),
        false => Err("nothing was ever read through the cache".into()),
    });
    end.map_err(|e| {
        stage.dir.disable_cleanup(true);
        format!(
            "{e}\nseed {seed}; the logs are in {}",
            stage.dir.path().display()
        )
        .into()
    })
}
