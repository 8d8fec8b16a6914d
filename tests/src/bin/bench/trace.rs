//! Where the time of a change goes, seen from outside: relays between the publisher and Postgres, and between the
//! publisher and the agent, note when bytes pass. Off unless asked for, since a relay costs time itself.

use crate::report::{number, percentile};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use system_tests::Result;

/// What passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// Postgres answered the publisher.
    FromPostgres,
    /// The publisher asked Postgres.
    ToPostgres,
    /// The publisher wrote to the agent.
    ToAgent,
    /// The agent answered.
    FromAgent,
}

type Notes = Arc<Mutex<Vec<(Instant, Passed)>>>;

/// Both relays.
#[derive(Debug)]
pub struct Relays {
    /// The database's address by way of the relay.
    pub database: String,
    /// The port by which the publisher reaches the agent.
    pub push: u16,
    notes: Notes,
}

impl Relays {
    /// Starts them; they end with the process.
    pub fn start(database: &str, agent: u16) -> Result<Self> {
        let notes = Notes::default();
        let mut address = reqwest::Url::parse(database)?;
        let port = address.port().unwrap_or(5432);
        let near = relay(port, Passed::ToPostgres, Passed::FromPostgres, &notes)?;
        address
            .set_port(Some(near))
            .map_err(|()| "the address takes no port")?;
        let push = relay(agent, Passed::ToAgent, Passed::FromAgent, &notes)?;
        Ok(Self {
            database: address.into(),
            push,
            notes,
        })
    }

    /// What passed since the last call.
    pub fn take(&self) -> Vec<(Instant, Passed)> {
        self.notes
            .lock()
            .map_or_else(|_| Vec::new(), |mut n| std::mem::take(&mut *n))
    }
}

/// A relay to a port; returns its own.
fn relay(to: u16, there: Passed, back: Passed, notes: &Notes) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let notes = notes.clone();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let _ = connect(near, to, there, back, &notes);
        }
    });
    Ok(port)
}

fn connect(near: TcpStream, to: u16, there: Passed, back: Passed, notes: &Notes) -> Result<()> {
    let far = TcpStream::connect(("127.0.0.1", to))?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ways = [
        (near.try_clone()?, far.try_clone()?, there),
        (far, near, back),
    ];
    for (from, into, what) in ways {
        let notes = notes.clone();
        std::thread::spawn(move || pass(from, into, what, &notes));
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut into: TcpStream, what: Passed, notes: &Notes) {
    let mut buffer = [0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if let Ok(mut notes) = notes.lock() {
            notes.push((Instant::now(), what));
        }
        if into.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(std::net::Shutdown::Both);
}

/// When each step of a change was reached, counted from the commit's answer.
#[derive(Debug, Default)]
pub struct Milestones {
    woken: Vec<Duration>,
    built: Vec<Duration>,
    pushed: Vec<Duration>,
    acked: Vec<Duration>,
    seen: Vec<Duration>,
    questions: usize,
}

impl Milestones {
    /// Adds a change. Beside it may pass a heartbeat or the lease: few, and they count as if they belonged to it.
    pub fn add(&mut self, notes: &[(Instant, Passed)], committed: Instant, arrived: Instant) {
        let during = || notes.iter().filter(|n| n.0 <= arrived);
        let of = |what| during().filter(move |n| n.1 == what).map(|n| n.0);
        let Some(push) = of(Passed::ToAgent).next() else {
            return;
        };
        let answers = || of(Passed::FromPostgres).filter(|&t| t <= push);
        let (Some(woken), Some(built)) = (answers().next(), answers().next_back()) else {
            return;
        };
        let since = |t: Instant| t.saturating_duration_since(committed);
        self.woken.push(since(woken));
        self.built.push(since(built));
        self.pushed.push(since(push));
        self.acked
            .extend(of(Passed::FromAgent).find(|&t| t >= push).map(since));
        self.seen.push(since(arrived));
        self.questions += of(Passed::ToPostgres)
            .filter(|&t| t >= woken && t <= push)
            .count();
    }

    /// What to say of it.
    pub fn lines(&self) -> Vec<String> {
        if self.seen.is_empty() {
            return Vec::new();
        }
        let line = |what: &str, times: &[Duration]| {
            let (half, most) = (percentile(times, 0.5), percentile(times, 0.99));
            format!(
                "  {what:<44} p50 {:>6} p99 {:>6} ms",
                number(half),
                number(most)
            )
        };
        vec![
            "trace: ours of P1, since the commit's answer, relays included".to_owned(),
            line("Postgres told the publisher", &self.woken),
            line("Postgres gave the last answer of the build", &self.built),
            line("the publisher wrote to the agent", &self.pushed),
            line("the agent answered", &self.acked),
            line("the observer saw it", &self.seen),
            format!(
                "  {:.1} questions to Postgres between the first two",
                self.questions as f64 / self.seen.len() as f64
            ),
        ]
    }
}
