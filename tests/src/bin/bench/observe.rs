//! The way of one change, as P1 and S6 see it: one thread with one kept connection to the hub, by which it commits, and one
//! to the store, at which it looks again and again with the same pause. The clock starts when the answer to the commit
//! arrived, and ends when an answer with the new value arrived.

use crate::clock;
use crate::report::percentile;
use crate::wire::{Http, Session};
use std::time::{Duration, Instant};
use system_tests::Result;

/// Between two looks.
pub const PAUSE: Duration = Duration::from_micros(100);
/// A change that is not seen by then is lost.
pub const LOST: Duration = Duration::from_secs(20);
/// Before each change passes a random time up to this, so that no change meets a waiting loop at the same place.
pub const IDLE: Duration = Duration::from_millis(20);

/// Ours or theirs.
pub trait Side {
    /// Commits a new value of a row; back as soon as the commit's answer arrived.
    fn change(&mut self, id: u32, value: i64) -> Result<()>;
    /// The value that the store has.
    fn look(&mut self, id: u32) -> Result<i64>;
    /// A store may close a connection that was not used for long; this makes a new one.
    fn refresh(&mut self) -> Result<()>;
}

/// Hubcast.
#[derive(Debug)]
pub struct Ours {
    hub: Session,
    store: Http,
    port: u16,
}

/// A session that changes rows.
pub fn changer(database: &str) -> Result<Session> {
    let mut session = Session::open(database)?;
    session.prepare("change", "UPDATE items SET v = $2 WHERE id = $1")?;
    Ok(session)
}

impl Ours {
    /// A hub's database, and the port at which an agent is read.
    pub fn open(database: &str, port: u16) -> Result<Self> {
        Ok(Self {
            hub: changer(database)?,
            store: Http::open(port)?,
            port,
        })
    }

    /// The port at which the agent is read.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Side for Ours {
    fn change(&mut self, id: u32, value: i64) -> Result<()> {
        self.hub
            .run("change", &[&id.to_string(), &value.to_string()])?;
        Ok(())
    }

    fn look(&mut self, id: u32) -> Result<i64> {
        let body = self.store.get(&format!("/v1/contexts/item/{id}"))?;
        let (_, after) = body.split_once("\"v\": ").ok_or("a context without v")?;
        let digits = after.split(|c: char| !c.is_ascii_digit()).next();
        Ok(digits.unwrap_or_default().parse()?)
    }

    fn refresh(&mut self) -> Result<()> {
        self.store = Http::open(self.port)?;
        Ok(())
    }
}

/// What one side saw in one round.
#[derive(Debug, Default)]
pub struct Seen {
    /// How long the commits took.
    pub commits: Vec<Duration>,
    /// From a commit's answer until the change was seen.
    pub delays: Vec<Duration>,
    /// How long the looks took.
    pub looks: Vec<Duration>,
}

impl Seen {
    /// The delay within which this share of the changes was seen, in milliseconds.
    pub fn p(&self, share: f64) -> f64 {
        percentile(&self.delays, share)
    }
}

/// One change, and its way to the store. Returns when the commit's answer and when the new value arrived.
pub fn one(
    side: &mut dyn Side,
    id: u32,
    value: i64,
    seen: &mut Seen,
) -> Result<(Instant, Instant)> {
    clock::go_on()?;
    let sent = Instant::now();
    side.change(id, value)?;
    let committed = Instant::now();
    seen.commits.push(committed - sent);
    loop {
        let asked = Instant::now();
        let found = side.look(id)?;
        let now = Instant::now();
        seen.looks.push(now - asked);
        if found >= value {
            seen.delays.push(now - committed);
            return Ok((committed, now));
        }
        if now - committed > LOST {
            let after = LOST.as_secs();
            return Err(format!("the change of {id} did not arrive within {after} s").into());
        }
        clock::wait_until(now + PAUSE);
    }
}
