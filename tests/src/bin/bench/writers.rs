//! Writers that do nothing but update rows by primary key, one transaction each, as fast as they are answered: what
//! pgbench would do with prepared statements, without a need for it. A writer is a thread that blocks, with a session
//! of its own.

use crate::clock;
use crate::report::percentile;
use crate::wire::Session;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use system_tests::Result;

/// Before the window: sessions are made, caches filled, and the publisher has begun.
const WARM_UP: Duration = Duration::from_secs(1);

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const DONE: u8 = 2;

/// What the writers achieved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    /// Transactions per second.
    pub tps: f64,
    /// The time of a transaction that one in a hundred exceeds, in milliseconds.
    pub p99: f64,
}

/// Lets `writers` update random rows of a table for a window of time.
pub fn run(database: &str, table: &str, rows: u32, writers: u64, window: Duration) -> Result<Rate> {
    let phase = AtomicU8::new(WARMING);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..writers)
            .map(|seed| {
                let phase = &phase;
                scope.spawn(move || write(database, table, rows, seed, phase))
            })
            .collect();
        clock::wait_until(Instant::now() + WARM_UP);
        phase.store(COUNTING, Ordering::Relaxed);
        let began = Instant::now();
        clock::wait_until(began + window);
        phase.store(DONE, Ordering::Relaxed);
        let took = began.elapsed();
        let mut times = Vec::new();
        for writer in running {
            times.extend(writer.join().map_err(|_| "a writer panicked")??);
        }
        clock::go_on()?;
        Ok(Rate {
            tps: times.len() as f64 / took.as_secs_f64(),
            p99: percentile(&times, 0.99),
        })
    })
}

/// One writer: the times of its transactions within the window.
fn write(
    database: &str,
    table: &str,
    rows: u32,
    seed: u64,
    phase: &AtomicU8,
) -> Result<Vec<Duration>> {
    let mut session = Session::open(database)?;
    session.prepare(
        "change",
        &format!("UPDATE {table} SET v = v + 1 WHERE id = $1"),
    )?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut times = Vec::new();
    loop {
        let id = rng.random_range(1..=rows).to_string();
        let began = Instant::now();
        session.run("change", &[&id])?;
        match phase.load(Ordering::Relaxed) {
            WARMING => {}
            COUNTING => times.push(began.elapsed()),
            _ => return Ok(times),
        }
    }
}
