//! A publisher's process around the shipped [`Writer`], [`Observer`] and [`Tenure`]: it looks at the lease, and in its
//! term does what the writer asks for and reports back. A crash loses all of it; whatever is under way stays on its way.

use crate::agent::{Message, Reply};
use crate::clock::Clock;
use crate::order::Urgent;
use crate::store::Origin;
use crate::variant::Variant;
use crate::world::{Checked, Event, Step, Violation, World};
use contexts::name::TenantId;
use contexts::push::Sent;
use contexts::version::{Holder, SessionId, Term};
use publisher::writer::lease::{LeaseRow, Observer, Tenure};
use publisher::writer::{
    Answer, Delivery, RegionFilter, Report, Republished, Request, ScanId, StoreIx, Ticket, Writer,
};
use rand::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

/// A publisher.
pub struct Publisher {
    /// Its database.
    pub db: usize,
    /// Its present process; messages to earlier ones are dropped.
    pub run: u64,
    /// Whether it runs.
    pub up: bool,
    /// Until when it does nothing; what arrives meanwhile waits.
    pub paused_until: u64,
    /// Until when it does not reach the database, which others may reach.
    pub cut_until: u64,
    /// Until when it does not reach a store, which others may reach.
    pub cut_stores: BTreeMap<usize, u64>,
    /// Its machine's clock.
    pub clock: Clock,
    pub observer: Observer,
    /// It was told to take everything over, whoever has it.
    pub forcing: bool,
    /// Its term as writer.
    pub office: Option<Office>,
}

/// A term.
pub struct Office {
    /// The shipped writer.
    pub writer: Writer,
    pub tenure: Tenure,
    pub term: Term,
    pub next_renewal: u64,
    pub next_heartbeat: u64,
    pub next_scan: u64,
    /// The database of the term, and the run of its server.
    pub db: usize,
    pub server: u64,
    pub next_beat: u64,
    pub next_check: u64,
    pub checking: bool,
    /// Whether it was told that triggers are missing.
    pub saw_gap: bool,
    /// How often triggers had been altered when it looked at them last.
    pub altered: Option<u64>,
    pub scan_seen: Option<ScanId>,
    /// When it last had anything to do but beats.
    worked_at: u64,
    /// The beats that were committed, and when, by the moment when that was heard.
    pub beats: BTreeMap<u64, (u64, u64)>,
    pub questions: Vec<Question>,
    pub urgent: Urgent,
    pending: BTreeMap<u64, Pending>,
    pub wishes: Vec<Wish>,
    /// The process stops, by then at the latest.
    pub leaving: Option<u64>,
}

/// A message without an answer.
struct Pending {
    ix: StoreIx,
    heartbeat: Option<SessionId>,
    /// What a push carries, with the disk that it was sent to.
    push: Vec<(TenantId, Origin)>,
    line: u64,
}

/// A republish request, with the commit that it must show.
pub struct Wish {
    pub ticket: Ticket,
    pub origin: Origin,
    pub lines: Vec<u64>,
}

/// A question where a transaction is visible, with its commit.
pub struct Question {
    pub ticket: Ticket,
    pub db: usize,
    pub commit: usize,
}

/// What is asked of the lease row.
pub enum LeaseOp {
    Look,
    Take(LeaseRow, Holder, u64),
    Renew(Term, bool, u64),
}

/// What comes back.
pub enum LeaseAnswer {
    Row(LeaseRow),
    Taken(Option<Term>, u64),
    Renewed(bool),
    Lost,
}

impl Publisher {
    /// A publisher that was never started.
    pub fn new(db: usize, clock: Clock) -> Self {
        Self {
            db,
            run: 0,
            up: false,
            paused_until: 0,
            cut_until: 0,
            cut_stores: BTreeMap::new(),
            clock,
            observer: Observer::default(),
            forcing: false,
            office: None,
        }
    }

    /// Everything in memory is lost.
    pub fn crash(&mut self) {
        (self.up, self.office) = (false, None);
        self.run += 1;
    }

    /// Ends its term and then the process.
    pub fn stop(&mut self, now: u64) {
        if let Some(office) = &mut self.office {
            office.leave(now);
        }
    }
}

impl Office {
    /// A term at its beginning, taken by a statement that was sent at `sent`: both on the publisher's clock.
    pub fn new(writer: Writer, (db, server): (usize, u64), now: u64, sent: u64) -> Self {
        Self {
            term: writer.term(),
            writer,
            tenure: Tenure::new(duration(sent)),
            next_renewal: now + 1_000,
            next_heartbeat: now,
            next_scan: now + 4_000,
            db,
            server,
            next_beat: now,
            next_check: now,
            checking: false,
            saw_gap: false,
            altered: None,
            scan_seen: None,
            worked_at: now,
            beats: BTreeMap::new(),
            questions: Vec::new(),
            urgent: Urgent::default(),
            pending: BTreeMap::new(),
            wishes: Vec::new(),
            leaving: None,
        }
    }

    /// Whether it had nothing to do but beats for a while.
    pub fn is_quiet(&self, now: u64) -> bool {
        self.worked_at + 5_000 < now
    }

    /// Whether every store obeys it.
    fn has_all(&self) -> bool {
        self.writer.stores().all(|(_, s)| s.session().is_some())
    }

    /// Gives the stores back, and the lease, before the process ends.
    pub fn leave(&mut self, now: u64) {
        self.writer.close();
        self.leaving.get_or_insert(now + 5_000);
    }
}

/// What a clock shows, as the lease takes it.
pub fn duration(shown: u64) -> Duration {
    Duration::from_millis(shown)
}

/// Says of every receipt that it was delivered.
fn call_delivered(republished: &mut Republished) {
    for receipt in &mut republished.receipts {
        receipt.delivery = Delivery::Delivered {
            version: String::new(),
            contexts: 0,
            held: 0,
            already_there: false,
        };
    }
}

impl Step {
    /// What becomes of a result of the database while there is no connection to it.
    fn cut_off(self) -> Self {
        match self {
            Self::Built(id, _) => Self::Built(id, Err("the connection is lost".into())),
            Self::LeaseDone(..) => Self::LeaseDone(LeaseAnswer::Lost, 0),
            Self::Looked(id, _) => Self::Looked(id, Err("the connection is lost".into())),
            Self::Acked(_) => Self::Acked(None),
            Self::HoldsWritten(_) => Self::HoldsWritten(false),
            Self::BeatDone(_) => Self::BeatDone(None),
            Self::TriggersDone(_) => Self::TriggersDone(None),
            other => other,
        }
    }
}

impl World {
    /// What a publisher's clock shows, in milliseconds: all that its process knows of time.
    pub fn shown(&self, p: usize) -> u64 {
        self.publishers[p].clock.millis(self.now)
    }

    /// A publisher's process starts.
    pub fn publisher_start(&mut self, p: usize) {
        if self.publishers[p].up {
            return;
        }
        let publisher = &mut self.publishers[p];
        publisher.run += 1;
        (publisher.up, publisher.observer) = (true, Observer::default());
        let run = publisher.run;
        self.log(|| format!("p{p} starts"));
        self.at(0, Event::Publisher(p, run, Step::Tick));
    }

    /// Something happens to a publisher's process.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn publisher_step(&mut self, p: usize, run: u64, step: Step) -> Checked {
        let Some(step) = self.at_database(p, run, step)? else {
            return Ok(());
        };
        let publisher = &self.publishers[p];
        if !publisher.up || publisher.run != run {
            return Ok(());
        }
        if publisher.paused_until > self.now {
            let rest = publisher.paused_until - self.now;
            self.at(rest, Event::Publisher(p, run, step));
            return Ok(());
        }
        let step = match publisher.cut_until > self.now {
            true => step.cut_off(),
            false => step,
        };
        match step {
            Step::Tick => self.publisher_tick(p, run),
            Step::Built(id, result) => {
                let now = self.shown(p);
                if let Some(office) = &mut self.publishers[p].office {
                    let ok = result.is_ok();
                    office.writer.built(now, id, result);
                    office.urgent.built(id, ok, &office.writer);
                }
            }
            Step::LeaseDone(answer, sent) => self.lease_done(p, answer, sent),
            Step::Reply(_, s, _) if self.is_cut_from(p, s) => {}
            Step::Reply(number, _, reply) => self.replied(p, number, Some(reply))?,
            Step::Timeout(number) => self.replied(p, number, None)?,
            other => self.captured(p, other),
        }
        self.pump(p)
    }

    /// What happens at the database happens whether the publisher still runs or not. Gives back anything else.
    fn at_database(&mut self, p: usize, run: u64, step: Step) -> Result<Option<Step>, Violation> {
        match step {
            Step::Lease(op, sent) => self.lease_op(p, run, &op, sent),
            Step::Snapshot(request, server) => self.snapshot(p, run, &request, server),
            Step::Look(request, server) => self.look(p, run, request, server)?,
            Step::Ack(request, term, server) => {
                self.acknowledge(p, run, &request, (term, server))?;
            }
            Step::Beat(term) => self.beat(p, run, term),
            Step::Triggers => self.look_at_triggers(p, run),
            Step::Holds(work) => self.write_holds(p, run, *work),
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn publisher_tick(&mut self, p: usize, run: u64) {
        let now = self.shown(p);
        match &mut self.publishers[p].office {
            None => self.ask_lease(p, LeaseOp::Look),
            Some(office) => {
                let (renew, beat) = (office.next_renewal <= now, office.next_heartbeat <= now);
                let (term, server) = (office.term, office.server);
                if office.next_scan <= now && self.weather.schedule {
                    let reread = now.is_multiple_of(3);
                    office
                        .writer
                        .request_scan("schedule", RegionFilter::All, reread, false);
                    office.next_scan = now + self.weather.scan_every;
                }
                if renew {
                    office.next_renewal = now + 1_000;
                    self.ask_lease(p, LeaseOp::Renew(term, false, server));
                }
                if beat {
                    self.heartbeats(p);
                }
            }
        }
        let gap = if self.publishers[p].office.is_some() {
            150
        } else {
            700
        };
        self.at(gap, Event::Publisher(p, run, Step::Tick));
    }

    fn heartbeats(&mut self, p: usize) {
        let now = self.shown(p);
        for s in 0..self.agents.len() {
            let Some(office) = &mut self.publishers[p].office else {
                return;
            };
            office.next_heartbeat = now + 1_000;
            let sleeps = self.variant == Variant::SleepsWhenQuiet && office.is_quiet(now);
            if !office.tenure.holds(duration(now)) || sleeps {
                return;
            }
            if let Some(mut heartbeat) = office.writer.heartbeat(StoreIx(s)) {
                if self.variant == Variant::NamesLastReading && heartbeat.fresh.is_some() {
                    heartbeat.fresh = office.writer.store(StoreIx(s)).reading;
                }
                let session = heartbeat.session;
                let number = self.send(p, s, Message::Heartbeat(heartbeat), 2_000);
                let line = self.agents[s].line;
                self.remember(p, number, StoreIx(s), Some(session), Vec::new(), line);
            }
        }
    }

    fn remember(
        &mut self,
        p: usize,
        number: u64,
        ix: StoreIx,
        heartbeat: Option<SessionId>,
        push: Vec<(TenantId, Origin)>,
        line: u64,
    ) {
        if let Some(office) = &mut self.publishers[p].office {
            let pending = Pending {
                ix,
                heartbeat,
                push,
                line,
            };
            office.pending.insert(number, pending);
        }
    }

    /// Does what the writer wants done. The tenure is looked at here, right before anything is handed to the network.
    fn pump(&mut self, p: usize) -> Checked {
        let now = self.shown(p);
        let Some(office) = &mut self.publishers[p].office else {
            return Ok(());
        };
        if !office.tenure.holds(duration(now)) && !office.writer.is_suspended() {
            office.writer.suspend();
            self.log(|| format!("p{p} is suspended"));
        }
        let Some(office) = &mut self.publishers[p].office else {
            return Ok(());
        };
        if office.tenure.is_over(duration(now)) {
            self.lose_office(p);
            return Ok(());
        }
        office.writer.tick(now);
        if office.writer.dirty() > 0 || office.writer.scan().is_some() {
            office.worked_at = now;
        }
        office.urgent.look(&office.writer);
        let server = office.server;
        let mut builds = Vec::new();
        while let Some(request) = office.writer.next_build(now) {
            office.urgent.begun(request.id, &request.what);
            builds.push(request);
        }
        for request in builds {
            let (run, delay) = (self.publishers[p].run, self.build_delay());
            self.log(|| format!("p{p} builds {:?}", request.what));
            self.at(
                delay,
                Event::Publisher(p, run, Step::Snapshot(request, server)),
            );
        }
        for s in 0..self.agents.len() {
            self.requests(p, s)?;
        }
        self.ask_database(p);
        self.reports(p)?;
        self.leave(p);
        Ok(())
    }

    fn requests(&mut self, p: usize, s: usize) -> Checked {
        loop {
            let (now, db) = (self.shown(p), self.publishers[p].db);
            let is_cut = self.is_cut(p);
            let rng = &mut self.rng;
            let Some(office) = &mut self.publishers[p].office else {
                return Ok(());
            };
            let mut draw = || rng.random();
            let there = office.writer.store(StoreIx(s)).session().is_some();
            if self.variant == Variant::WaitsForAll && there && !office.has_all() {
                return Ok(());
            }
            let Some(request) = office.writer.next_request(StoreIx(s), now, &mut draw) else {
                return Ok(());
            };
            let database = &mut self.dbs[db];
            let recorded = match &request {
                Request::Synced(synced) => Some(synced.id),
                Request::Claim(claim) => claim.seen.last_synced.filter(|_| !claim.known),
                _ => None,
            };
            if let Some(id) = recorded {
                if is_cut || database.lease.term != office.term {
                    let why = "it cannot be recorded".into();
                    office.writer.answered(StoreIx(s), now, Answer::Lost(why));
                    continue;
                }
                database.synced.insert(id);
            }
            let mut origins = Vec::new();
            let sent: Vec<Sent> = office
                .writer
                .store(StoreIx(s))
                .under_way()
                .cloned()
                .collect();
            if !sent.is_empty() {
                let region = self.agents[s].region.clone();
                let region = self.regions().into_iter().position(|r| r == region);
                for sent in &sent {
                    let run = (p, self.publishers[p].run);
                    let found = region.and_then(|r| self.origins.of(run, r, sent));
                    let Some(origin) = found else {
                        let what = format!("nobody built what p{p} sends: {:?}", sent.bundle);
                        return crate::world::violated("I2 all or nothing", what);
                    };
                    origins.push((sent.bundle.tenant.clone(), origin));
                }
            }
            let tenants: Vec<TenantId> = origins.iter().map(|(t, _)| t.clone()).collect();
            self.check_order(p, s, &tenants)?;
            let notes = origins.iter().map(|(_, o)| *o).collect();
            let timeout = self.rng.random_range(1_500..6_000);
            let number = self.send(p, s, Message::Request(request, notes), timeout);
            let line = self.agents[s].line;
            self.remember(p, number, StoreIx(s), None, origins, line);
        }
    }

    fn reports(&mut self, p: usize) -> Checked {
        loop {
            let Some(office) = &mut self.publishers[p].office else {
                return Ok(());
            };
            let Some(report) = office.writer.next_report() else {
                return Ok(());
            };
            match report {
                Report::Republished(mut republished) => {
                    if self.variant == Variant::CallsAllDelivered {
                        call_delivered(&mut republished);
                    }
                    let at = office
                        .wishes
                        .iter()
                        .position(|w| w.ticket == republished.ticket);
                    if let Some(wish) = at.map(|at| office.wishes.swap_remove(at)) {
                        self.check_receipts(&wish, &republished)?;
                    }
                }
                Report::Visible(visible) => self.answered_visible(p, visible)?,
                Report::Beat { store, ms } => self.check_beat(p, store, ms)?,
                Report::Pushed { .. } => {}
                Report::Delta { outcome, count, .. } => {
                    *self.deltas.entry(outcome.word()).or_default() += count;
                }
                other => self.log(|| {
                    let text = format!("{other:?}");
                    format!(
                        "p{p} reports {}",
                        text.chars().take(900).collect::<String>()
                    )
                }),
            }
        }
    }

    fn replied(&mut self, p: usize, number: u64, reply: Option<Reply>) -> Checked {
        let (now, db) = (self.shown(p), self.publishers[p].db);
        let is_cut = self.is_cut(p);
        let Some(office) = &mut self.publishers[p].office else {
            return Ok(());
        };
        let Some(pending) = office.pending.remove(&number) else {
            return Ok(());
        };
        let ix = pending.ix;
        if let Some(session) = pending.heartbeat {
            let answer = match reply {
                Some(Reply::Ack(ack)) => Some(Ok(ack)),
                Some(Reply::Refused(refused)) => Some(Err(refused)),
                _ => None,
            };
            office.writer.heartbeat_answered(ix, now, session, answer);
            return Ok(());
        }
        let database = &self.dbs[db];
        let answer = match reply {
            None => Answer::Lost("no answer in time".into()),
            Some(Reply::Hello(_)) if is_cut => Answer::Lost("the database cannot be asked".into()),
            Some(Reply::Hello(state)) => {
                let lax = self.variant == Variant::KnowsEveryone;
                let known = lax || database.knows(state.granted, state.last_synced);
                Answer::Hello { state, known }
            }
            Some(Reply::Granted(granted)) => Answer::Granted(granted),
            Some(Reply::Pushed(pushed)) => Answer::Pushed(pushed),
            Some(Reply::Differs(tenants, reading)) => Answer::Differs(tenants, reading),
            Some(Reply::KnowsNoDeltas) => Answer::KnowsNoDeltas,
            Some(Reply::Synced(verdict)) => Answer::Synced(verdict),
            Some(Reply::Listed(listed)) => Answer::Listed(listed),
            Some(Reply::Names(names)) => Answer::Names(names),
            Some(Reply::Released) => Answer::Released,
            Some(Reply::Refused(refused)) => Answer::Refused(refused),
            Some(Reply::Ack(_)) => Answer::Rejected("an acknowledgement of nothing".into()),
        };
        if let Answer::Pushed(pushed) = &answer {
            self.check_durable(ix.0, pending.line, &pending.push, pushed)?;
        }
        if let Some(office) = &mut self.publishers[p].office {
            office.writer.answered(ix, now, answer);
        }
        Ok(())
    }
}
