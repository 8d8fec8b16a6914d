//! Whether `X-Context-Age` tells the truth: an answer without a change is at least as old as that change.

use crate::receipts::commit;
use sqlx::PgConnection;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::region::Agent;
use tokio::task::JoinHandle;

/// The numbers that `t1` was given, each with the moment at which that was committed.
type Commits = Arc<Mutex<Vec<(i64, Instant)>>>;

/// A note of random text: a bundle with it is larger than whatever else is said to a store.
pub const LARGE: &str = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 400))";
/// Less than a push of such a bundle has, and more than any other message, in bytes.
pub const LARGE_BYTES: usize = 4_000;

/// Reads `t1` in some regions without end.
pub struct Ages {
    commits: Commits,
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<Result<f64>>>,
}

impl Ages {
    pub fn of(agents: &[Agent]) -> Self {
        let (commits, stop) = (Commits::default(), Arc::new(AtomicBool::new(false)));
        let read = |a: &Agent| tokio::spawn(read(a.reader(), commits.clone(), stop.clone()));
        let readers = agents.iter().map(read).collect();
        Self {
            commits,
            stop,
            readers,
        }
    }

    /// Gives `t1` a number, larger than any before; returns the token. `note` is an expression.
    pub async fn change(
        &self,
        connection: &mut PgConnection,
        n: i64,
        note: &str,
    ) -> Result<String> {
        let sql = format!("UPDATE counters SET n = {n}, note = {note} WHERE tenant = 't1'");
        let token = commit(connection, &sql).await?;
        let now = Instant::now();
        self.commits.lock().expect("lock").push((n, now));
        Ok(token)
    }

    /// Ends the reading; the oldest age of all that was told.
    pub async fn end(self) -> Result<f64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut oldest = 0.0_f64;
        for reader in self.readers {
            oldest = oldest.max(reader.await??);
        }
        Ok(oldest)
    }
}

async fn read(agent: Agent, commits: Commits, stop: Arc<AtomicBool>) -> Result<f64> {
    let mut oldest = 0.0_f64;
    while !stop.load(Ordering::SeqCst) {
        let asked = Instant::now();
        let response = agent.client().get(agent.url("/v1/contexts/counter/t1"));
        let response = response.send().await?;
        let age = response.headers().get("x-context-age").ok_or("no age")?;
        let age: f64 = age.to_str()?.parse()?;
        let value: serde_json::Value = response.json().await?;
        let n = value["n"].as_i64().ok_or("no number")?;
        // The first change that is not in the answer was committed so long before the question.
        let missed = {
            let commits = commits.lock().expect("lock");
            let missed = commits.iter().find(|(m, _)| *m > n);
            missed.map_or(Duration::ZERO, |(_, at)| {
                asked.saturating_duration_since(*at)
            })
        };
        // An age is written in whole milliseconds.
        if missed.as_secs_f64() > age + 0.001 {
            let region = &agent.region;
            let line =
                format!("{region}: an answer without a change of {missed:?} ago says {age} s");
            return Err(line.into());
        }
        oldest = oldest.max(age);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(oldest)
}
