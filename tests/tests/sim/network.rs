//! The network: every message is delayed, and may be lost, doubled, or kept for minutes and delivered when nobody
//! expects it any more. A request has exactly one outcome for its sender: the first answer, or a timeout.

use crate::agent::{Crash, Message, Reply};
use crate::traffic::Mood;
use crate::world::{Checked, Event, Step, World};
use contexts::delta::Change;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeSet;

/// Who sent a message, and where the answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub p: usize,
    run: u64,
    number: u64,
    /// The database of its term.
    pub db: usize,
}

/// How bad things are, drawn per run.
#[derive(Debug, Clone)]
pub struct Weather {
    loss: f64,
    double: f64,
    slow: f64,
    very_late: f64,
    crash: f64,
    /// How often a statement or its result is late, and how often the result is lost.
    pub slow_database: f64,
    pub lost_answers: f64,
    /// Whether scans run on schedule, and how often somebody asks for a scan or for tenants: both hide a change that
    /// capture has missed.
    pub schedule: bool,
    pub asks: f64,
    /// Rows that may wait in the outbox, and rows that a look takes one by one.
    pub cap: i64,
    pub max_rows: usize,
    /// Milliseconds between transactions.
    pub busy: u64,
    /// How many transactions are rolled back.
    pub rollbacks: f64,
    /// Whether the database is cloned once.
    pub clone: bool,
    /// Whether somebody disables triggers by hand.
    pub alter: bool,
    /// Whether values rot under stores that run.
    pub rots: bool,
    /// Whether there are bulk changes.
    pub bulk: bool,
    /// Whether most changes are those of plans, and of who is on which.
    pub plans: bool,
    /// Whether it is replaced by copies that lack the last commits.
    pub replace: bool,
    /// Milliseconds between scans on schedule.
    pub scan_every: u64,
    /// Whether every store is in step when the trouble begins.
    pub in_step: bool,
    /// Milliseconds that half a build takes at most.
    pub build: u64,
    /// Whether the server often restarts, right when a transaction was rolled back that leaves no trace: its number is
    /// given out again.
    pub frail: bool,
    /// Removals in ten minutes beyond which the guard holds those of a large transaction; a person lets them go at once.
    /// None: there is no guard.
    pub guard: Option<u64>,
    /// Milliseconds of trouble, and of rest at the end.
    pub chaos: u64,
    pub rest: u64,
    /// Milliseconds between faults.
    pub fault_every: u64,
}

impl Weather {
    /// A random one.
    pub fn random(rng: &mut SmallRng, seed: u64) -> Self {
        // Most runs are short, so that there are many; some are long.
        let (chaos, rest) = match seed % 20 {
            0 => (70_000, 60_000),
            _ => (rng.random_range(10_000..24_000), 8_000),
        };
        let mut pick = |all: &[f64]| all[rng.random_range(0..all.len())];
        let mut weather = Self {
            loss: pick(&[0.0, 0.01, 0.1]),
            double: pick(&[0.0, 0.03, 0.15]),
            slow: pick(&[0.0, 0.05, 0.3]),
            very_late: pick(&[0.0, 0.01, 0.04]),
            crash: pick(&[0.0, 0.005, 0.03]),
            slow_database: pick(&[0.0, 0.02, 0.1]),
            lost_answers: pick(&[0.0, 0.02, 0.1]),
            schedule: pick(&[0.0, 1.0]) > 0.5,
            asks: pick(&[0.0, 0.0, 0.1]),
            cap: pick(&[20.0, 60.0, 1_000_000.0, 1_000_000.0]) as i64,
            max_rows: pick(&[8.0, 20_000.0, 20_000.0]) as usize,
            busy: pick(&[150.0, 600.0, 1_500.0]) as u64,
            rollbacks: 0.1,
            clone: pick(&[0.0, 0.0, 0.0, 0.0, 1.0]) > 0.5,
            alter: pick(&[0.0, 0.0, 1.0]) > 0.5,
            rots: pick(&[0.0, 0.0, 1.0]) > 0.5,
            bulk: pick(&[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]) > 0.5,
            replace: pick(&[0.0, 0.0, 0.0, 1.0]) > 0.5,
            fault_every: pick(&[700.0, 2_000.0, 6_000.0]) as u64,
            plans: pick(&[0.0, 0.0, 0.0, 0.0, 1.0]) > 0.5,
            in_step: pick(&[0.0, 1.0, 1.0, 1.0]) > 0.5,
            frail: pick(&[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]) > 0.5,
            scan_every: pick(&[5_000.0, 25_000.0]) as u64,
            build: pick(&[15.0, 150.0]) as u64,
            guard: Some(pick(&[0.0, 1e9, -1.0, -1.0]))
                .filter(|n| *n >= 0.0)
                .map(|n| n as u64),
            chaos,
            rest,
        };
        // Often enough the stores and the way to them are well, so that they are in step while users and databases do what
        // they do.
        if pick(&[0.0, 0.0, 1.0]) > 0.5 {
            weather.calm();
            (weather.fault_every, weather.slow_database) = (6_000, 0.0);
            (weather.cap, weather.max_rows) = (1_000_000, 20_000);
        }
        // Only a scan mends them.
        weather.rots &= weather.schedule;
        if weather.frail {
            (weather.busy, weather.rollbacks) = (150, 0.4);
        }
        weather
    }

    /// What users do.
    pub fn mood(&self) -> Mood {
        Mood {
            bulk: self.bulk,
            plans: self.plans,
        }
    }

    /// Rows that one statement may leave in the outbox.
    pub fn largest_statement(&self) -> usize {
        if self.bulk { 100 } else { 20 }
    }

    /// No more trouble.
    pub fn calm(&mut self) {
        (self.loss, self.double, self.slow) = (0.0, 0.0, 0.0);
        (self.very_late, self.crash) = (0.0, 0.0);
    }

    fn delay(&self, rng: &mut SmallRng) -> u64 {
        match rng.random::<f64>() {
            x if x < self.very_late => rng.random_range(5_000..180_000),
            x if x < self.very_late + self.slow => rng.random_range(100..4_000),
            _ => rng.random_range(1..30),
        }
    }
}

impl World {
    /// A publisher sends a message to a store, and will hear something about it.
    pub fn send(&mut self, p: usize, to: usize, message: Message, timeout: u64) -> u64 {
        self.messages += 1;
        let (number, run) = (self.messages, self.publishers[p].run);
        let office = self.publishers[p].office.as_ref();
        let db = office.map_or(0, |office| office.db);
        self.at(timeout, Event::Publisher(p, run, Step::Timeout(number)));
        let copies = match self.rng.random::<f64>() {
            x if x < self.weather.loss => 0,
            x if x < self.weather.loss + self.weather.double => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = self.weather.delay(&mut self.rng);
            let from = Sender { p, run, number, db };
            let message = message.clone();
            self.at(delay, Event::ToStore { to, from, message });
        }
        number
    }

    /// A message arrives at a store.
    ///
    /// # Errors
    /// The invariant that the store breaks.
    pub fn deliver(&mut self, to: usize, from: Sender, message: Message) -> Checked {
        if self.agents[to].paused_until > self.now {
            let rest = self.agents[to].paused_until - self.now;
            self.at(rest, Event::ToStore { to, from, message });
            return Ok(());
        }
        if self.agents[to].memory.is_none() || self.is_cut_from(from.p, to) {
            return Ok(());
        }
        let crash = match self.rng.random::<f64>() {
            x if x < self.weather.crash => Some(Crash::BeforeCommit),
            x if x < self.weather.crash * 2.0 => Some(Crash::AfterCommit),
            _ => None,
        };
        let (now, id) = (self.now, self.id());
        let before = self.agents[to].durable.before(&message);
        self.agents[to].ran(now);
        let handled = self.agents[to].handle(now, (&message, from.db), crash, id);
        if crash.is_some() {
            self.log(|| format!("store {to} dies: {crash:?}"));
            let down = self.rng.random_range(100..6_000);
            self.at(down, Event::StoreStart(to));
        }
        self.note(to, from, &message, &handled);
        if handled.committed {
            self.check_commit(to, from.db, &before, &message, &handled)?;
        } else if self.agents[to].durable.fresh != before.fresh {
            self.check_age(to)?;
        }
        if let Some(reply) = handled.reply {
            self.reply(to, from, reply);
        }
        Ok(())
    }

    fn note(
        &mut self,
        to: usize,
        from: Sender,
        message: &Message,
        handled: &crate::agent::Handled,
    ) {
        if !matches!(message, Message::Heartbeat(_)) {
            let said = handled.reply.as_ref().map(brief);
            self.log(|| format!("p{} -> store {to}: {} => {said:?}", from.p, ask(message)));
        }
    }

    fn reply(&mut self, to: usize, from: Sender, reply: Reply) {
        let Sender { p, run, number, .. } = from;
        if self.rng.random_bool(self.weather.loss) {
            return;
        }
        let delay = self.weather.delay(&mut self.rng);
        self.at(
            delay,
            Event::Publisher(p, run, Step::Reply(number, to, reply)),
        );
    }
}

fn ask(message: &Message) -> String {
    use publisher::writer::Request;
    match message {
        Message::Request(Request::Claim(c), _) => format!("claim {}", c.term.epoch),
        Message::Request(Request::Push(push), origins) => {
            let each = push.bundles.iter().zip(origins);
            let all: Vec<String> = each
                .map(|(s, o)| format!("{}@{}#{}", s.bundle.tenant, s.version, o.commit))
                .collect();
            format!("push {} {all:?}", push.number)
        }
        Message::Request(Request::PushDelta(push), origins) => {
            let each = push.changes.iter().zip(origins);
            let all: Vec<String> = each
                .map(|(c, o)| {
                    let form = match c {
                        Change::Whole(_) => "",
                        Change::Delta(_) => "~",
                    };
                    format!("{form}{}@{}#{}", c.tenant(), c.version(), o.commit)
                })
                .collect();
            format!("delta {} {all:?}", push.number)
        }
        Message::Request(Request::Synced(s), _) => {
            let in_flux: BTreeSet<_> = s.in_flux.iter().collect();
            format!("synced {} but for {in_flux:?}", s.number)
        }
        Message::Request(Request::ListBuckets(l), _) => format!("list {}", l.buckets.len()),
        Message::Request(request, _) => format!("{request:?}").chars().take(10).collect(),
        Message::Heartbeat(_) => "heartbeat".into(),
    }
}

fn brief(reply: &Reply) -> String {
    match reply {
        Reply::Pushed(pushed) => format!("{:?}", pushed.verdicts),
        Reply::Differs(tenants, _) => format!("differs: {tenants:?}"),
        Reply::Hello(_) => "hello".into(),
        Reply::Granted(_) => "granted".into(),
        other => format!("{other:?}").chars().take(60).collect(),
    }
}
