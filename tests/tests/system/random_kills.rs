//! `kill -9` at fifty random moments, while the application writes, republishes, and reads.

use crate::kill_points::{delivered, number};
use crate::world::World;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::server::{Database, Server};
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
const TENANTS: u32 = 8;
const KILLS: u32 = 50;
/// Past this no more is killed; the rest of the test says how many were.
const KILL_FOR: Duration = Duration::from_secs(40);

/// What writers and readers tell one another.
#[derive(Default)]
struct Shared {
    /// Region and tenant, and the number that is acked there.
    acked: Mutex<BTreeMap<(String, String), i64>>,
    acks: AtomicU64,
    reads: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn floor(&self, region: &str, tenant: &str) -> i64 {
        let acked = self.acked.lock().expect("lock");
        let name = (region.to_owned(), tenant.to_owned());
        acked.get(&name).copied().unwrap_or(0)
    }
}

/// Reads without end. A number never steps back, and never is below what was acked before the read.
async fn read(shared: Arc<Shared>, agents: Vec<Agent>) -> Result<()> {
    let mut last: BTreeMap<(String, String), i64> = BTreeMap::new();
    while !shared.stop.load(Ordering::SeqCst) {
        for agent in &agents {
            for tenant in (1..=TENANTS).map(|i| format!("t{i}")) {
                let floor = shared.floor(&agent.region, &tenant);
                let got = match number(agent, &tenant).await {
                    Ok(got) => {
                        got.ok_or_else(|| format!("{tenant} is absent in {}", agent.region))?
                    }
                    Err(e) if e.to_string().contains("half of two") => return Err(e),
                    // It was killed, or is starting.
                    Err(_) => continue,
                };
                let before = last
                    .entry((agent.region.clone(), tenant.clone()))
                    .or_insert(0);
                if got < floor || got < *before {
                    let line = format!(
                        "{tenant} in {}: {got} after {before}, acked {floor}",
                        agent.region
                    );
                    return Err(line.into());
                }
                *before = got;
            }
            shared.reads.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Raises counters and republishes them, whoever is the writer.
async fn write(shared: Arc<Shared>, database: String, hub: Hub, seed: u64) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let database = Database::at(&database);
    while !shared.stop.load(Ordering::SeqCst) {
        let tenant = format!("t{}", random.random_range(1..=TENANTS));
        let mut connection = database.connect().await?;
        let n: i64 =
            sqlx::query_scalar("UPDATE counters SET n = n + 1 WHERE tenant = $1 RETURNING n")
                .bind(&tenant)
                .fetch_one(&mut connection)
                .await?;
        let ran = hub.run(&["republish", "tenant", &tenant, "--json"]).await?;
        let Ok(receipts) = ran.json() else {
            // Its writer was killed; a later one carries the change.
            continue;
        };
        for name in delivered(&receipts) {
            let mut acked = shared.acked.lock().expect("lock");
            let before = acked.entry(name).or_insert(0);
            *before = (*before).max(n);
            shared.acks.fetch_add(1, Ordering::SeqCst);
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

/// Kills somebody at a moment that lies a random number of reads, or an ack, after the last.
async fn kill_at_random(world: &mut World, shared: &Shared, random: &mut SmallRng) -> Result<u32> {
    let began = Instant::now();
    let mut kills = 0;
    while kills < KILLS && began.elapsed() < KILL_FOR {
        let reads = shared.reads.load(Ordering::SeqCst) + random.random_range(1..25);
        reaches("reads", &shared.reads, reads, Duration::from_secs(30)).await?;
        if random.random_ratio(1, 7) {
            world.hub.kill()?;
            world.hub.start().await?;
            // Half of the time it is killed again before it is the writer.
            if random.random_bool(0.5) {
                let acks = shared.acks.load(Ordering::SeqCst) + 1;
                // Without an ack in time the next kill comes a little earlier.
                let _ = reaches("an ack", &shared.acks, acks, Duration::from_secs(12)).await;
            }
        } else {
            let victim = random.random_range(0..world.agents.len());
            world.agents[victim].kill()?;
            world.agents[victim].start().await?;
        }
        kills += 1;
    }
    Ok(kills)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_steps_back_through_fifty_kills() -> Result<()> {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut world = World::with_counters(Server::any().await?, &REGIONS, TENANTS).await?;
    world.scan().await?;
    world.is_true().await?;
    world.hub.start().await?;
    let shared = Arc::new(Shared::default());
    let readers = world.agents.iter().map(Agent::reader).collect();
    let reading = tokio::spawn(read(shared.clone(), readers));
    let url = world.database.url.clone();
    let writing = tokio::spawn(write(shared.clone(), url, world.another_hub()?, seed));

    let mut random = SmallRng::seed_from_u64(seed);
    let killed = kill_at_random(&mut world, &shared, &mut random).await;
    shared.stop.store(true, Ordering::SeqCst);
    reading.await??;
    writing.await??;
    let (kills, acks) = (killed?, shared.acks.load(Ordering::SeqCst));
    println!(
        "{kills} kills, {acks} acks, {} reads",
        shared.reads.load(Ordering::SeqCst)
    );
    assert!(
        kills >= 25 && acks >= 10,
        "{kills} kills and {acks} acks say little"
    );
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
