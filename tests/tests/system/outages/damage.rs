//! Stores damaged at random while the hub runs and rows change: one scan, and every region is exactly what SQL says.
//!
//! Would catch damage that opens and is believed, that cannot be opened and stops an agent for good, and a repair that puts
//! an older version over a newer one. `HUBCAST_DAMAGE_SEED` chooses another seed.

use super::stores::{Files, remove, starts};
use crate::world::{HEALS_WITHIN, World};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::region::Agent;
use system_tests::server::Server;

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-1"];
const ROUNDS: u32 = 6;
const SEED: u64 = 26;

/// Damages the file of a stopped agent; says how.
fn damage(agent: &Agent, rng: &mut SmallRng, old: &Files) -> Result<&'static str> {
    let file = || OpenOptions::new().read(true).write(true).open(&agent.data);
    Ok(match rng.random_range(0..6) {
        0 => "nothing",
        1 => {
            remove(agent)?;
            "wiped"
        }
        2 => {
            let file = file()?;
            let len = file.metadata()?.len();
            file.set_len(rng.random_range(0..len))?;
            "cut off"
        }
        3 => {
            let file = file()?;
            let len = file.metadata()?.len();
            for _ in 0..rng.random_range(1..40) {
                let noise: [u8; 4] = rng.random();
                file.write_all_at(&noise, rng.random_range(0..len - 4))?;
            }
            "rotten"
        }
        4 => {
            old.put_back(agent)?;
            "old"
        }
        _ => {
            let file = file()?;
            let len = file.metadata()?.len();
            let at = rng.random_range(0..len);
            let zeros = vec![0; usize::try_from((len - at).min(4096))?];
            file.write_all_at(&zeros, at)?;
            "a page of zeros"
        }
    })
}

/// Waits until the hub talks with every store, so that a scan reaches them all. An agent that ends because of what it found in
/// its file says so, and a person takes that away.
async fn reached(world: &mut World, done: &mut [&'static str]) -> Result<()> {
    let talks = |s: &Value| s["standing"] == "in step" || s["standing"] == "behind";
    let deadline = Instant::now() + HEALS_WITHIN;
    loop {
        for (agent, done) in world.agents.iter_mut().zip(&mut *done) {
            if !agent.process()?.is_running() {
                let log = agent.process()?.log();
                println!("{}: {log}", agent.region);
                agent.kill()?;
                remove(agent)?;
                agent.start().await?;
                *done = "ended, and taken away";
            }
        }
        let status = world.hub.status().await?;
        let stores = &status["engine"]["stores"];
        if stores.as_array().is_some_and(|all| all.iter().all(talks)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the hub does not reach every store: {stores:#}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_damaged_at_random_are_exact_after_one_scan() -> Result<()> {
    let given = std::env::var("HUBCAST_DAMAGE_SEED").ok();
    let seed = given.and_then(|s| s.parse().ok()).unwrap_or(SEED);
    println!("HUBCAST_DAMAGE_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 200).await?;
    world.runs().await?;
    let mut old = Vec::new();
    for (i, agent) in world.agents.iter_mut().enumerate() {
        agent.stop().await?;
        let to = world.dir.path().join(format!("old-{i}"));
        old.push(Files::keep(agent, &to)?);
        agent.start().await?;
    }
    for round in 1..=ROUNDS {
        let mut done = Vec::new();
        for (agent, old) in world.agents.iter_mut().zip(&old) {
            agent.stop().await?;
            done.push(damage(agent, &mut rng, old)?);
        }
        let sql = format!(
            "UPDATE counters SET n = n + 1 WHERE tenant LIKE 't%{}'; DELETE FROM counters WHERE tenant = 't{round}';
             INSERT INTO counters VALUES ('r{round}', {round})",
            rng.random_range(0..10)
        );
        world.database.execute(&sql).await?;
        for (agent, done) in world.agents.iter_mut().zip(&mut done) {
            if starts(agent).await? {
                *done = "refused, and taken away";
            }
        }
        println!("round {round}: {done:?}");
        let reached = reached(&mut world, &mut done).await;
        reached.map_err(|e| format!("seed {seed}, round {round}, {done:?}: {e}"))?;
        let failed = |e| format!("seed {seed}, round {round}, {done:?}: {e}");
        world.scan().await.map_err(failed)?;
        let failed = |e| format!("seed {seed}, round {round}, {done:?}: {e}");
        world.is_true().await.map_err(failed)?;
    }
    world.hub.stop().await
}
