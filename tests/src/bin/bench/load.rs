//! P2: changes at a steady rate, whatever becomes of them.
//!
//! Each change has its time beforehand, drawn at random around the rate; several connections send them, so that a slow
//! commit does not hold up the next one. Nobody who sends waits for a change to arrive. One observer asks, in one
//! batch-get, for all contexts that were committed and not yet seen, again and again with the pause of P1.

use crate::clock;
use crate::observe::{LOST, PAUSE, changer};
use crate::propagation::{ROWS, TENANTS};
use crate::report::{number, percentile};
use crate::wire::Http;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use system_tests::Result;

/// Changes per second.
const RATE: u32 = 200;
/// Connections that send them.
const SENDERS: usize = 8;
/// A run whose last changes were sent later than this did not have the rate.
const LATE: Duration = Duration::from_millis(500);

/// What became of the changes.
#[derive(Debug)]
pub struct Loaded {
    /// From the commit's answer to the look that saw it.
    pub delays: Vec<Duration>,
    /// How late each was sent.
    late: Vec<Duration>,
    looks: usize,
}

impl Loaded {
    /// How it went, in words.
    pub fn line(&self) -> String {
        format!(
            "at {RATE} changes/s p50 {} p99 {} max {}, sent late by p99 {}, {} looks",
            number(percentile(&self.delays, 0.5)),
            number(percentile(&self.delays, 0.99)),
            number(percentile(&self.delays, 1.0)),
            number(percentile(&self.late, 0.99)),
            self.looks
        )
    }
}

/// A change to be sent.
#[derive(Debug, Clone, Copy)]
struct Due {
    id: u32,
    value: i64,
    at: Duration,
}

/// A change that was committed.
#[derive(Debug)]
struct Committed {
    id: u32,
    value: i64,
    at: Instant,
    late: Duration,
}

/// The changes of a run: every tenant in turn, in a random order, so that no context is changed again while one is
/// under way.
fn schedule(value: &mut i64, changes: usize) -> Vec<Due> {
    let mut rng = SmallRng::seed_from_u64(u64::try_from(*value).unwrap_or_default());
    let mut tenants: Vec<u32> = (0..TENANTS).collect();
    tenants.shuffle(&mut rng);
    let mut at = Duration::ZERO;
    let tenants = tenants.iter().cycle().take(changes);
    let mut due = Vec::with_capacity(changes);
    for tenant in tenants {
        let row = rng.random_range(0..ROWS / TENANTS);
        *value += 1;
        at += Duration::from_secs_f64(-rng.random_range(f64::EPSILON..1.0).ln() / f64::from(RATE));
        due.push(Due {
            id: row * TENANTS + tenant + 1,
            value: *value,
            at,
        });
    }
    due
}

/// Sends `changes` at the rate, and watches them arrive at the agent.
pub fn run(database: &str, agent: u16, value: &mut i64, changes: usize) -> Result<Loaded> {
    let due = schedule(value, changes);
    let next = AtomicUsize::new(0);
    let (committed, arriving) = channel();
    // Time for all connections to be made.
    let began = Instant::now() + Duration::from_millis(200);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (committed, due, next) = (committed.clone(), &due, &next);
                scope.spawn(move || send(database, due, next, began, &committed))
            })
            .collect();
        drop(committed);
        let loaded = observe(agent, &arriving);
        for sender in senders {
            sender.join().map_err(|_| "a sender panicked")??;
        }
        let loaded = loaded?;
        if loaded.delays.len() != changes {
            return Err("not every change was sent".into());
        }
        match loaded.late.iter().max() {
            Some(late) if *late > LATE => {
                let late = number(late.as_secs_f64() * 1000.0);
                Err(
                    format!("Postgres did not take {RATE} changes/s: one was {late} ms late")
                        .into(),
                )
            }
            _ => Ok(loaded),
        }
    })
}

fn send(
    database: &str,
    due: &[Due],
    next: &AtomicUsize,
    began: Instant,
    committed: &Sender<Committed>,
) -> Result<()> {
    let mut hub = changer(database)?;
    while let Some(change) = due.get(next.fetch_add(1, Ordering::Relaxed)) {
        clock::go_on()?;
        let moment = began + change.at;
        clock::wait_until(moment);
        let late = moment.elapsed();
        hub.run(
            "change",
            &[&change.id.to_string(), &change.value.to_string()],
        )?;
        let (id, value, at) = (change.id, change.value, Instant::now());
        // The observer is gone only after an error of its own.
        let _ = committed.send(Committed {
            id,
            value,
            at,
            late,
        });
    }
    Ok(())
}

fn observe(agent: u16, arriving: &Receiver<Committed>) -> Result<Loaded> {
    let mut store = Http::open(agent)?;
    let (mut waiting, mut open) = (Vec::<Committed>::new(), true);
    let mut loaded = Loaded {
        delays: Vec::new(),
        late: Vec::new(),
        looks: 0,
    };
    while open || !waiting.is_empty() {
        clock::go_on()?;
        if waiting.is_empty() {
            match arriving.recv_timeout(Duration::from_secs(1)) {
                Ok(change) => waiting.push(change),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        waiting.extend(arriving.try_iter());
        look(&mut store, &mut waiting, &mut loaded)?;
        clock::wait_until(Instant::now() + PAUSE);
    }
    Ok(loaded)
}

/// Asks for everything that is waited for, and takes out what arrived.
fn look(store: &mut Http, waiting: &mut Vec<Committed>, loaded: &mut Loaded) -> Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    let keys: Vec<Value> = waiting
        .iter()
        .map(|c| json!({ "kind": "item", "key": c.id.to_string() }))
        .collect();
    let answer = store.post(
        "/v1/contexts/batch-get",
        &json!({ "keys": keys }).to_string(),
    )?;
    let now = Instant::now();
    loaded.looks += 1;
    let answer: Value = serde_json::from_str(&answer)?;
    let contexts = answer["contexts"].as_array().ok_or("no contexts")?;
    let mut found = contexts.iter();
    let mut lost = None;
    waiting.retain(|change| {
        let value = found.next().and_then(|c| c["value"]["v"].as_i64());
        if value.is_some_and(|v| v >= change.value) {
            loaded.delays.push(now - change.at);
            loaded.late.push(change.late);
            return false;
        }
        if now - change.at > LOST {
            lost = Some(change.id);
        }
        true
    });
    match lost {
        Some(id) => Err(format!(
            "the change of {id} did not arrive within {} s",
            LOST.as_secs()
        )
        .into()),
        None => Ok(()),
    }
}
