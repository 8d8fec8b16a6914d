//! Everything that happens to the programs and to what is between them, until it is to be calm. Each kind of trouble
//! has a task of its own, so that several come at once, and leaves its victim running.

use super::Counts;
use super::stage::Stage;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use system_tests::hub::Hub;
use system_tests::process::Process;
use system_tests::region::Agent;
use system_tests::relay::Relay;
use system_tests::{Result, postgres};
use tokio::task::JoinHandle;

/// The troubles, and what they work on meanwhile.
pub struct Troubles {
    hubs: Vec<JoinHandle<Result<Hub>>>,
    agents: Vec<JoinHandle<Result<Agent>>>,
    relays: [JoinHandle<()>; 2],
    database: JoinHandle<Result<()>>,
}

impl Troubles {
    /// Takes what it works on out of the stage.
    pub fn begin(stage: &mut Stage, counts: &Arc<Counts>, seed: u64) -> Self {
        let random = |i: u64| SmallRng::seed_from_u64(seed ^ (i << 32));
        let hubs = stage.hubs.drain(..).zip(0..);
        let hubs = hubs.map(|(hub, i)| tokio::spawn(trouble_hub(hub, counts.clone(), random(i))));
        let agents = stage.agents.drain(..).zip(10..);
        let agents =
            agents.map(|(agent, i)| tokio::spawn(trouble_agent(agent, counts.clone(), random(i))));
        let (relay, table) = (stage.relay.clone(), stage.table_relay.clone());
        let url = stage.database.url.clone();
        Self {
            hubs: hubs.collect(),
            agents: agents.collect(),
            relays: [
                tokio::spawn(trouble_relay(relay, counts.clone(), random(20))),
                tokio::spawn(trouble_relay(table, counts.clone(), random(22))),
            ],
            database: tokio::spawn(trouble_database(url, counts.clone(), random(21))),
        }
    }

    /// Waits until all is calm, and gives back what it took.
    pub async fn end(self, stage: &mut Stage) -> Result<()> {
        for hub in self.hubs {
            stage.hubs.push(hub.await??);
        }
        for agent in self.agents {
            stage.agents.push(agent.await??);
        }
        for relay in self.relays {
            relay.await?;
        }
        self.database.await?
    }
}

fn millis(random: &mut SmallRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

/// Stops a process for a while.
async fn pause(process: &Process, counts: &Counts, time: Duration) -> Result<()> {
    process.signal(Signal::STOP)?;
    counts.pauses.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    process.signal(Signal::CONT)
}

async fn trouble_hub(mut hub: Hub, counts: Arc<Counts>, mut random: SmallRng) -> Result<Hub> {
    while counts.rest(millis(&mut random, 2_000..12_000)).await {
        if random.random_bool(0.5) {
            hub.kill()?;
            counts.kills.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(millis(&mut random, 0..1_500)).await;
            hub.start().await?;
        } else {
            // A lease runs out after five seconds.
            let time = match random.random_bool(0.5) {
                true => millis(&mut random, 10..2_000),
                false => millis(&mut random, 4_500..8_000),
            };
            pause(hub.daemon()?, &counts, time).await?;
        }
    }
    Ok(hub)
}

async fn trouble_agent(
    mut agent: Agent,
    counts: Arc<Counts>,
    mut random: SmallRng,
) -> Result<Agent> {
    while counts.rest(millis(&mut random, 50..3_000)).await {
        if random.random_bool(0.7) {
            agent.kill()?;
            counts.kills.fetch_add(1, Ordering::Relaxed);
            let time = match random.random_ratio(1, 4) {
                true => millis(&mut random, 0..3_000),
                false => Duration::ZERO,
            };
            tokio::time::sleep(time).await;
            agent.start().await?;
        } else {
            let time = millis(&mut random, 10..2_500);
            pause(agent.process()?, &counts, time).await?;
        }
    }
    Ok(agent)
}

/// Cuts a relay, sometimes for so long that the store falls behind, or makes it slow.
async fn trouble_relay(relay: Arc<Relay>, counts: Arc<Counts>, mut random: SmallRng) {
    while counts.rest(millis(&mut random, 500..5_000)).await {
        relay.set_delay(match random.random_bool(0.5) {
            true => millis(&mut random, 1..80),
            false => Duration::ZERO,
        });
        let time = match random.random_range(0..10) {
            0 => millis(&mut random, 10_500..13_000),
            1..5 => millis(&mut random, 10..2_000),
            _ => continue,
        };
        relay.cut();
        counts.cuts.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        relay.mend();
    }
    relay.set_delay(Duration::ZERO);
}

/// Ends the publishers' connections, one or all.
async fn trouble_database(url: String, counts: Arc<Counts>, mut random: SmallRng) -> Result<()> {
    let ours =
        "FROM pg_stat_activity WHERE application_name = 'hubcast' AND datname = current_database()";
    while counts.rest(millis(&mut random, 500..5_000)).await {
        let some = match random.random_bool(0.7) {
            true => "ORDER BY random() LIMIT 1",
            false => "",
        };
        let sql = format!("SELECT pg_terminate_backend(pid) FROM (SELECT pid {ours} {some}) AS s");
        postgres::execute(&url, &sql).await?;
        counts.disconnects.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
