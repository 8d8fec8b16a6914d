//! What the publisher, its sessions at Postgres and the agent take of the processors.

use crate::stage::Stage;
use crate::wire::Session;
use std::fs;
use std::time::Instant;
use system_tests::Result;

/// In processors: 1 is all of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// The publisher.
    pub publisher: f64,
    /// What Postgres does for it.
    pub sessions: f64,
    /// The agent.
    pub agent: f64,
}

/// The processor time that everything had taken at a moment.
#[derive(Debug)]
pub struct Clocked {
    at: Instant,
    publisher: u32,
    sessions: Vec<u32>,
    agent: u32,
    before: [f64; 3],
}

impl Clocked {
    /// Notes it.
    pub fn start(stage: &mut Stage, session: &mut Session) -> Result<Self> {
        let sql = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'hubcast'";
        let pids = session.simple(sql)?.unwrap_or_default();
        let pids = pids.split_whitespace().map(str::parse);
        let mut clocked = Self {
            at: Instant::now(),
            publisher: stage.hub.daemon()?.id(),
            sessions: pids.collect::<Result<_, _>>()?,
            agent: stage.agent.process()?.id(),
            before: [0.0; 3],
        };
        clocked.before = clocked.seconds();
        Ok(clocked)
    }

    /// The time since, as a share of one processor.
    pub fn stop(&self) -> Work {
        let took = self.at.elapsed().as_secs_f64();
        let now = self.seconds();
        let share = |i: usize| (now[i] - self.before[i]) / took;
        Work {
            publisher: share(0),
            sessions: share(1),
            agent: share(2),
        }
    }

    fn seconds(&self) -> [f64; 3] {
        let sessions = self.sessions.iter().map(|pid| seconds(*pid)).sum();
        [seconds(self.publisher), sessions, seconds(self.agent)]
    }
}

/// What all threads of a process have run; nothing for one that is gone.
pub fn seconds(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let nanoseconds = |dir: fs::DirEntry| -> Option<f64> {
        let stat = fs::read_to_string(dir.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse().ok()
    };
    threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(nanoseconds)
        .sum::<f64>()
        / 1e9
}
