//! Two agents of a region that are restarted in turn, as an upgrade does it, while gateways read: how long a read takes
//! then, and whether it is answered with the value. The reader is as it is for everybody: 25 ms for an agent, then the other.

use super::push::{KIND, Pusher, key};
use crate::clock;
use crate::report::percentile;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use spoke_agent::reader::remote::{Remote, RemoteConfig};
use spoke_agent::reader::{Answer, ContextReader, Options};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::region::Agent;
use tokio::task::JoinSet;

/// Contexts of each agent.
const CONTEXTS: u32 = 10_000;
/// Who reads, over one reader.
const READING: u64 = 8;
/// Between two reads of one of them.
const PAUSE: Duration = Duration::from_millis(1);
/// Times that both agents are restarted.
const RESTARTS: usize = 5;

/// What the reads took.
#[derive(Debug)]
pub struct Rolled {
    /// How many there were.
    pub reads: usize,
    /// How many were answered with something else than the value.
    pub failed: usize,
    /// The time that one in a thousand exceeds, in milliseconds.
    pub p999: f64,
    /// The longest, in milliseconds.
    pub longest: f64,
}

/// Restarts two agents in turn while a reader of both is read.
pub async fn restarts(dir: &Path) -> Result<Rolled> {
    let mut agents = [
        Agent::new(dir, super::REGION)?,
        Agent::new(dir, super::REGION)?,
    ];
    for agent in &mut agents {
        agent.start().await?;
        let mut pusher = Pusher::claim(agent.push, super::REGION, &agent.token, 1).await?;
        pusher.fill(CONTEXTS).await?;
        super::whole(agent).await?;
    }
    let sockets = agents
        .iter()
        .map(|a| format!("unix:{}", a.socket().display()));
    let reader = Remote::connect(RemoteConfig::new(sockets), Options::default())?;
    let over = Arc::new(AtomicBool::new(false));
    let mut reading = JoinSet::new();
    for seed in 0..READING {
        reading.spawn(read(reader.clone(), seed, over.clone()));
    }
    for _ in 0..RESTARTS {
        for agent in &mut agents {
            clock::go_on()?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            agent.stop().await?;
            agent.start().await?;
            super::whole(agent).await?;
        }
    }
    over.store(true, Ordering::Relaxed);
    let (mut times, mut failed) = (Vec::new(), 0);
    while let Some(read) = reading.join_next().await {
        let read = read?;
        times.extend(read.0);
        failed += read.1;
    }
    Ok(Rolled {
        reads: times.len(),
        failed,
        p999: percentile(&times, 0.999),
        longest: percentile(&times, 1.0),
    })
}

async fn read(reader: Remote, seed: u64, over: Arc<AtomicBool>) -> (Vec<Duration>, usize) {
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut times, mut failed) = (Vec::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let key = key(random.random_range(0..CONTEXTS));
        let began = Instant::now();
        let reply = reader.get(KIND, &key).await;
        times.push(began.elapsed());
        failed += usize::from(!matches!(reply.answer, Answer::Found(_)));
        tokio::time::sleep(PAUSE).await;
    }
    (times, failed)
}
