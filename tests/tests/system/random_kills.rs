//! `kill -9` at two hundred random moments, while the application writes by plain SQL, asks where that is visible, and
//! reads.

use crate::kill_points::number;
use crate::world::World;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use system_tests::region::Agent;
use system_tests::server::{Database, Server};
use system_tests::{Result, until};
use tokio::task::JoinSet;

const REGIONS: [&str; 4] = ["eu-west-1", "us-east-1", "ap-southeast-1", "sa-east-1"];
const TENANTS: u32 = 8;
const KILLS: u64 = 200;
/// After so many the publisher is killed, too. An agent is back in milliseconds; after a publisher its lease has to run
/// out.
const PUBLISHER_EVERY: u64 = 60;
/// An update of one row has ended long before.
const UPDATED_WITHIN: Duration = Duration::from_secs(60);

/// What writers, readers and killers tell one another.
#[derive(Default)]
struct Shared {
    /// Region and tenant, and the number that is acked there.
    acked: Mutex<BTreeMap<(String, String), i64>>,
    acks: [AtomicU64; REGIONS.len()],
    reads: AtomicU64,
    kills: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn floor(&self, region: usize, tenant: &str) -> i64 {
        let acked = self.acked.lock().expect("lock");
        let name = (REGIONS[region].to_owned(), tenant.to_owned());
        acked.get(&name).copied().unwrap_or(0)
    }

    fn ack(&self, region: usize, tenant: &str, n: i64) {
        let mut acked = self.acked.lock().expect("lock");
        let name = (REGIONS[region].to_owned(), tenant.to_owned());
        let before = acked.entry(name).or_insert(0);
        *before = n.max(*before);
        self.acks[region].fetch_add(1, Ordering::SeqCst);
    }

    fn acks(&self) -> u64 {
        let all = self.acks.iter();
        all.map(|acks| acks.load(Ordering::SeqCst)).sum()
    }
}

/// Where the hub is asked about one region.
struct Desk {
    region: usize,
    url: String,
    token: String,
}

/// Reads one agent without end. A number never steps back, and never is below what was acked before the read.
async fn read(shared: Arc<Shared>, region: usize, agent: Agent) -> Result<()> {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    while !shared.stop.load(Ordering::SeqCst) {
        for tenant in (1..=TENANTS).map(|i| format!("t{i}")) {
            let floor = shared.floor(region, &tenant);
            let got = match number(&agent, &tenant).await {
                Ok(got) => got.ok_or_else(|| format!("{tenant} is absent in {}", agent.region))?,
                Err(e) if e.to_string().contains("half of two") => return Err(e),
                // It was killed, or is starting.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                }
            };
            let before = last.entry(tenant.clone()).or_insert(0);
            if got < floor || got < *before {
                let region = &agent.region;
                let line = format!("{tenant} in {region}: {got} after {before}, acked {floor}");
                return Err(line.into());
            }
            *before = got;
            shared.reads.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Raises counters, and asks the hub where that is visible. Nobody asks for anything to be sent.
async fn write(shared: Arc<Shared>, database: String, desk: Desk, seed: u64) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut connection = Database::at(&database).connect().await?;
    let client = system_tests::client()?;
    while !shared.stop.load(Ordering::SeqCst) {
        let tenant = format!("t{}", random.random_range(1..=TENANTS));
        let sql = "UPDATE counters SET n = n + 1 WHERE tenant = $1 RETURNING n, hubcast.token()";
        let updating = sqlx::query_as(sql).bind(&tenant).fetch_one(&mut connection);
        let (n, token): (i64, String) = tokio::time::timeout(UPDATED_WITHIN, updating)
            .await
            .map_err(|_| format!("an update of {tenant} does not end"))??;
        let url = format!("{}&token={token}", desk.url);
        let response = match client.get(url).bearer_auth(&desk.token).send().await {
            Ok(response) => response,
            Err(e) if e.is_timeout() => return Err(format!("{}: no answer: {e}", desk.url).into()),
            // The publisher was killed; the next one carries the change.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Ok(answer) = response.json::<Value>().await else {
            continue;
        };
        if answer["visible"] == true {
            shared.ack(desk.region, &tenant, n);
        }
    }
    Ok(())
}

async fn reaches(what: &str, counter: &AtomicU64, value: u64, within: Duration) -> Result<()> {
    until(what, within, || async {
        (counter.load(Ordering::SeqCst) >= value).then_some(())
    })
    .await
}

/// Kills an agent at moments that lie a random number of reads after its last start, or after it acked again.
async fn kill(shared: Arc<Shared>, region: usize, mut agent: Agent, seed: u64) -> Result<Agent> {
    let mut random = SmallRng::seed_from_u64(seed);
    while shared.kills.fetch_add(1, Ordering::SeqCst) < KILLS {
        // It is scanned before it acks anything. Mostly it is killed again before that, else after some acks.
        if random.random_ratio(1, 16) {
            let acks = shared.acks[region].load(Ordering::SeqCst) + random.random_range(1..30);
            // Without them in time it is killed a little earlier.
            let _ = reaches("acks", &shared.acks[region], acks, Duration::from_secs(30)).await;
        }
        let reads = shared.reads.load(Ordering::SeqCst) + random.random_range(1..100);
        reaches("reads", &shared.reads, reads, Duration::from_secs(30)).await?;
        agent.kill()?;
        agent.start().await?;
    }
    Ok(agent)
}

/// Kills everybody, and leaves them running.
async fn kill_all(world: &mut World, shared: &Arc<Shared>, seed: u64) -> Result<()> {
    let agents = world.agents.drain(..).enumerate();
    let killers = agents.map(|(region, agent)| {
        let seed = seed ^ (region as u64) << 32;
        tokio::spawn(kill(shared.clone(), region, agent, seed))
    });
    let killers: Vec<_> = killers.collect();
    for kills in (PUBLISHER_EVERY..KILLS).step_by(PUBLISHER_EVERY as usize) {
        reaches("kills", &shared.kills, kills, Duration::from_secs(120)).await?;
        world.hub.kill()?;
        world.hub.start().await?;
    }
    for killer in killers {
        world.agents.push(killer.await??);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_steps_back_through_two_hundred_kills() -> Result<()> {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut world = World::with_counters(Server::any().await?, &REGIONS, TENANTS).await?;
    world.scan().await?;
    world.is_true().await?;
    world.hub.start().await?;
    let shared = Arc::new(Shared::default());
    let mut tasks = JoinSet::new();
    for (region, agent) in world.agents.iter().enumerate() {
        tasks.spawn(read(shared.clone(), region, agent.reader()));
        let question = format!("/v1/visible?regions={}&timeout=500ms", agent.region);
        let desk = Desk {
            region,
            url: world.hub.url(&question),
            token: world.hub.token.clone(),
        };
        let url = world.database.url.clone();
        tasks.spawn(write(
            shared.clone(),
            url,
            desk,
            seed.wrapping_add(region as u64),
        ));
    }
    let began = Instant::now();
    let killed = kill_all(&mut world, &shared, seed).await;
    let took = began.elapsed();
    shared.stop.store(true, Ordering::SeqCst);
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    killed?;
    let (acks, reads) = (shared.acks(), shared.reads.load(Ordering::SeqCst));
    println!("{KILLS} kills in {took:.1?}, {acks} acks, {reads} reads");
    assert!(acks >= 20, "{acks} acks say little");
    world.becomes_true().await?;
    let acked = shared.acked.lock().expect("lock").clone();
    for ((region, tenant), n) in acked {
        let agent = world
            .agents
            .iter()
            .find(|a| a.region == region)
            .ok_or("no such region")?;
        assert!(
            number(agent, &tenant).await? >= Some(n),
            "{tenant} in {region}"
        );
    }
    world.hub.stop().await
}
