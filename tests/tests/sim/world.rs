//! The world of one run: virtual time, one queue of events, one source of randomness. Everything that happens is an
//! event; the same seed gives the same run.

use crate::agent::{Agent, Message, Reply};
use crate::capture::Looker;
use crate::clock::Clock;
use crate::database::Database;
use crate::network::{Sender, Weather};
use crate::origins::Origins;
use crate::outbox::Outbox;
use crate::publisher::{LeaseAnswer, LeaseOp, Publisher};
use crate::store::Durable;
use crate::traffic;
use crate::variant::Variant;
use contexts::digest::DigestKey;
use contexts::name::{Region, TenantId};
use contexts::version::{StoreId, Term};
use publisher::writer::{
    AckRequest, BatchId, BuildRequest, BuiltBatch, HoldWork, LookId, LookRequest, Looked, StoreSpec,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Events that a trace shows.
const TRACE: usize = 40;

/// An assertion that failed.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The id of the invariant.
    pub id: &'static str,
    /// What was found.
    pub what: String,
}

/// Shorthand for checks.
pub type Checked = Result<(), Violation>;

/// Fails a check.
pub fn violated<T>(id: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    let what = what.into();
    Err(Violation { id, what })
}

/// Something that will happen.
pub enum Event {
    /// A user's transaction begins.
    Transaction,
    /// Its next statement, or its end.
    Statement(usize, u64),
    /// Somebody asks the writer of a database for these tenants.
    Ask(usize, BTreeSet<TenantId>),
    /// Somebody asks it where a transaction is visible.
    Question {
        db: usize,
        xid: u64,
        commit: usize,
    },
    /// A tenant leaves a plan.
    Leave(usize, u8),
    /// Looks that wait at a database may have something to tell.
    Wake(usize),
    /// A look that was taken asks whom changes concern: with one variant, later.
    Resolve(usize, Looker, Looked),
    /// The triggers of a database are to be disabled, or enabled again.
    Alter(usize, bool),
    /// A copy of a database is made.
    Copy,
    /// A database is cloned.
    Clone,
    /// A database is replaced by a copy.
    Replace,
    /// The server of a database stops and starts again after so many milliseconds.
    Restart(usize, u64),
    /// A database that was replaced is gone.
    Die(usize),
    /// A publisher finds the database that is there now.
    Move(usize, usize),
    /// Somebody looks whether stores are fenced.
    Person(usize),
    /// Somebody runs `takeover --force` for a database.
    Force(usize),
    Fault,
    Rot,
    StoreTick(usize),
    StoreStart(usize),
    ToStore {
        to: usize,
        from: Sender,
        message: Message,
    },
    PublisherStart(usize),
    /// Events of one run of a publisher's process.
    Publisher(usize, u64, Step),
}

/// What happens to a publisher's process.
pub enum Step {
    Tick,
    Snapshot(BuildRequest, u64),
    Built(BatchId, Result<BuiltBatch, String>),
    Lease(LeaseOp, u64),
    LeaseDone(LeaseAnswer, u64),
    /// A statement arrives at the database, with the run of the server that it is meant for.
    Look(LookRequest, u64),
    Ack(AckRequest, Term, u64),
    Beat(Term),
    Triggers,
    Holds(Box<HoldWork>),
    /// What came of it.
    Looked(LookId, Result<Looked, String>),
    Acked(Option<u64>),
    HoldsWritten(bool),
    BeatDone(Option<(u64, u64)>),
    /// How often the triggers were altered, and what is wrong with them.
    TriggersDone(Option<(u64, Option<String>)>),
    /// An answer, with the store that gave it.
    Reply(u64, usize, Reply),
    Timeout(u64),
}

/// Whether what happens is noted. It takes most of the time of a run, so a seed that fails is run again for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    Off,
    On { verbose: bool },
}

/// The world.
pub struct World {
    pub rng: SmallRng,
    pub variant: Variant,
    pub now: u64,
    pub calm: bool,
    pub weather: Weather,
    pub key: DigestKey,
    pub dbs: Vec<Database>,
    /// Looks that wait at each database.
    pub lookers: Vec<Vec<Looker>>,
    /// Copies of databases, oldest first.
    pub copies: Vec<(usize, Database)>,
    pub agents: Vec<Agent>,
    pub publishers: Vec<Publisher>,
    pub origins: Origins,
    pub messages: u64,
    pub builds: u64,
    pub events: u64,
    /// How many deltas came to what.
    pub deltas: BTreeMap<&'static str, usize>,
    /// A store that stays dead until the others have healed.
    pub dead: Option<usize>,
    queue: BTreeMap<(u64, u64), Event>,
    seq: u64,
    tracing: Trace,
    trace: VecDeque<String>,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, variant: Variant, tracing: Trace) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let agents = stores(&mut rng, variant);
        let weather = Weather::random(&mut rng, seed);
        let publishers = 0..rng.random_range(2..4);
        let publishers: Vec<Publisher> = publishers
            .map(|_| Publisher::new(0, Clock::random(&mut rng)))
            .collect();
        let outbox = Outbox::new(weather.cap, weather.max_rows, variant);
        let mut world = Self {
            rng,
            variant,
            now: 1_000,
            calm: false,
            weather,
            key: DigestKey([5; 32]),
            dbs: vec![Database::new(outbox)],
            lookers: vec![Vec::new()],
            copies: Vec::new(),
            agents,
            publishers,
            origins: Origins::default(),
            messages: 0,
            builds: 0,
            events: 0,
            deltas: BTreeMap::new(),
            dead: None,
            queue: BTreeMap::new(),
            seq: 0,
            tracing,
            trace: VecDeque::new(),
        };
        let regions = world.regions();
        let mood = world.weather.mood();
        traffic::prepare(&mut world.rng, &mut world.dbs[0], &regions, mood);
        for s in 0..world.agents.len() {
            world.at(0, Event::StoreStart(s));
            world.at(0, Event::StoreTick(s));
        }
        for p in 0..world.publishers.len() {
            let later = world.rng.random_range(0..4_000);
            world.at(later, Event::PublisherStart(p));
        }
        world
    }

    /// The regions.
    pub fn regions(&self) -> Vec<Region> {
        let mut regions: Vec<Region> = self.agents.iter().map(|a| a.region.clone()).collect();
        regions.dedup();
        regions
    }

    /// The stores as `hubcast.stores` has them.
    pub fn specs(&self) -> Vec<StoreSpec> {
        let spec = |(i, agent): (usize, &Agent)| StoreSpec {
            name: format!("s{i}"),
            region: agent.region.clone(),
        };
        self.agents.iter().enumerate().map(spec).collect()
    }

    /// A random id.
    pub fn id(&mut self) -> u128 {
        self.rng.random()
    }

    /// Something happens `delay` from now.
    pub fn at(&mut self, delay: u64, event: Event) {
        self.seq += 1;
        self.queue.insert((self.now + delay, self.seq), event);
    }

    /// Notes what happened, for the trace.
    pub fn log(&mut self, what: impl FnOnce() -> String) {
        let Trace::On { verbose } = self.tracing else {
            return;
        };
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        let line = format!("{:>9.3} {}", self.now as f64 / 1_000.0, what());
        if verbose {
            println!("{line}");
        }
        self.trace.push_back(line);
    }

    /// The last events.
    pub fn trace(&self) -> String {
        let lines: Vec<&str> = self.trace.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    /// The time of trouble. In most runs it begins when every store is in step: a store that was never scanned claims
    /// nothing, and nothing can be found wrong with what it claims.
    ///
    /// # Errors
    /// The first invariant that did not hold.
    pub fn chaos(&mut self) -> Checked {
        if self.weather.in_step {
            self.come_in_step()?;
        }
        self.at(500, Event::Transaction);
        self.at(500, Event::Copy);
        self.at(1_500, Event::Fault);
        if self.weather.rots {
            self.at(1_500, Event::Rot);
        }
        for event in [Event::Clone, Event::Replace] {
            let later = self.rng.random_range(0..self.weather.chaos);
            self.at(later, event);
        }
        let end = self.now + self.weather.chaos;
        while self.now < end {
            self.step()?;
        }
        Ok(())
    }

    /// The next event.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn step(&mut self) -> Checked {
        let Some(((at, _), event)) = self.queue.pop_first() else {
            return violated("simulation", "nothing happens any more");
        };
        self.now = at;
        self.events += 1;
        match event {
            Event::Transaction => return self.transaction(),
            Event::Statement(db, id) => return self.statement(db, id),
            Event::Ask(db, tenants) => self.ask(db, &tenants),
            Event::Question { db, xid, commit } => self.question(db, xid, commit),
            Event::Leave(db, plan) => return self.leave_plan(db, plan),
            Event::Wake(db) => return self.serve_looks(db),
            Event::Resolve(db, looker, looked) => self.resolve_later(db, &looker, looked),
            Event::Alter(db, off) => self.alter_triggers(db, off),
            Event::Copy => self.copy_database(),
            Event::Clone => self.clone_database(),
            Event::Replace => self.replace_database(),
            Event::Restart(db, rest) => self.database_down(db, rest, true),
            Event::Die(db) => self.die(db),
            Event::Move(p, db) => self.move_publisher(p, db),
            Event::Person(db) => self.person(db),
            Event::Force(db) => self.force(db),
            Event::Fault => self.fault(),
            Event::Rot => self.rot(),
            Event::StoreTick(s) => self.store_tick(s),
            Event::StoreStart(s) => return self.store_start(s),
            Event::ToStore { to, from, message } => return self.deliver(to, from, message),
            Event::PublisherStart(p) => self.publisher_start(p),
            Event::Publisher(p, run, step) => return self.publisher_step(p, run, step),
        }
        Ok(())
    }

    fn store_tick(&mut self, s: usize) {
        if self.agents[s].paused_until <= self.now {
            self.agents[s].ran(self.now);
        }
        self.at(250, Event::StoreTick(s));
    }

    fn store_start(&mut self, s: usize) -> Checked {
        if self.agents[s].memory.is_some() || self.dead == Some(s) {
            return Ok(());
        }
        let (now, id) = (self.now, self.id());
        let boots = self.rng.random_bool(0.3);
        let boots = boots.then(|| Clock::random(&mut self.rng));
        let knows_deltas = self.rng.random_bool(0.8);
        self.agents[s].knows_deltas = knows_deltas;
        self.agents[s].start(now, id, boots);
        self.log(|| format!("store {s} starts, knows deltas: {knows_deltas}"));
        self.check_store(s)
    }
}

fn stores(rng: &mut SmallRng, variant: Variant) -> Vec<Agent> {
    let mut agents = Vec::new();
    for region in ["ap", "eu", "us"].iter().take(rng.random_range(2..4)) {
        for _ in 0..rng.random_range(1..3) {
            let region = Region::new(region).expect("a region");
            let durable = Durable::new(StoreId(rng.random()));
            let clock = Clock::random(rng);
            agents.push(Agent::new(region, durable, variant, clock));
        }
    }
    agents
}
