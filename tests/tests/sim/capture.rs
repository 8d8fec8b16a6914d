//! What a publisher does for change capture: looks at the outbox, acknowledges, beats, looks at the triggers, answers
//! where a transaction is visible. Statements and results take their time, and either may be lost.

use crate::outbox::Note;
use crate::publisher::Question;
use crate::variant::Variant;
use crate::world::{Checked, Event, Step, World, violated};
use contexts::version::Term;
use publisher::writer::{AckRequest, LookRequest, Looked, RegionFilter, Visible};
use rand::Rng;

/// How long the server waits for something to tell.
const WAIT: u64 = 1_000;
/// How often the row of the beat is changed, and how often the triggers are looked at.
const BEAT: u64 = 2_000;
const LOOK_AT_TRIGGERS: u64 = 4_000;

/// A look that waits on the server.
#[derive(Debug, Clone)]
pub struct Looker {
    p: usize,
    run: u64,
    request: LookRequest,
    until: u64,
}

impl World {
    /// Asks the database what the writer wants to know, and tells it what it has to know.
    pub fn ask_database(&mut self, p: usize) {
        let (now, run) = (self.shown(p), self.publishers[p].run);
        let Some(office) = &mut self.publishers[p].office else {
            return;
        };
        if self.variant == Variant::SleepsWhenQuiet && office.is_quiet(now) {
            return;
        }
        let (term, server) = (office.term, office.server);
        let mut steps = Vec::new();
        if let Some(request) = office.writer.next_look(now) {
            steps.push(Step::Look(request, server));
        }
        if let Some(request) = office.writer.next_ack(now) {
            steps.push(Step::Ack(request, term, server));
        }
        if let Some(work) = office.writer.next_hold_work(now) {
            steps.push(Step::Holds(Box::new(work)));
        }
        if office.next_beat <= now {
            office.next_beat = now + BEAT;
            steps.push(Step::Beat(term));
        }
        let scan = office.writer.scan().map(|s| s.id);
        let scan_began = scan.is_some() && scan != office.scan_seen;
        office.scan_seen = scan;
        if (office.next_check <= now || scan_began) && !office.checking {
            office.checking = true;
            steps.push(Step::Triggers);
        }
        for step in steps {
            let delay = self.statement_delay();
            self.at(delay, Event::Publisher(p, run, step));
        }
    }

    /// How long a statement or its result is on its way.
    fn statement_delay(&mut self) -> u64 {
        match self.rng.random_bool(self.weather.slow_database) && !self.calm {
            true => self.rng.random_range(100..3_000),
            false => self.rng.random_range(1..12),
        }
    }

    /// A result goes back; if it is lost, the publisher hears so later.
    fn answer(&mut self, p: usize, run: u64, result: Step, lost: Step) {
        let (delay, late) = (self.statement_delay(), self.rng.random_range(500..4_000));
        let is_lost = self.rng.random_bool(self.weather.lost_answers) && !self.calm;
        let (delay, step) = if is_lost {
            (late, lost)
        } else {
            (delay, result)
        };
        self.at(delay, Event::Publisher(p, run, step));
    }

    fn no_answer(&mut self, p: usize, run: u64, lost: Step) {
        let late = self.rng.random_range(100..2_000);
        self.at(late, Event::Publisher(p, run, lost));
    }

    /// Whether a statement finds no database.
    fn fails(&mut self, p: usize) -> bool {
        let trouble = self.rng.random_bool(0.01) && !self.calm;
        trouble || self.is_cut(p)
    }

    /// Whether this is not the server that the term began on.
    pub fn is_another(&self, db: usize, server: u64) -> bool {
        self.dbs[db].server != server && self.variant != Variant::IgnoresServer
    }

    /// A look arrives at the database.
    ///
    /// # Errors
    /// If it would miss a row.
    pub fn look(&mut self, p: usize, run: u64, mut request: LookRequest, server: u64) -> Checked {
        let db = self.publishers[p].db;
        if self.variant == Variant::PassesOpenIds && request.from_id > 0 {
            request.from_id = self.dbs[db].outbox.ids + 1;
        }
        if self.fails(p) || self.is_another(db, server) {
            let lost = Step::Looked(request.id, Err("the database does not answer".into()));
            self.no_answer(p, run, lost);
            return Ok(());
        }
        let until = self.now + WAIT;
        self.lookers[db].push(Looker {
            p,
            run,
            request,
            until,
        });
        self.at(WAIT, Event::Wake(db));
        self.serve_looks(db)
    }

    /// Something changed that a look may wait for.
    pub fn wake(&mut self, db: usize) {
        if !self.lookers[db].is_empty() {
            let delay = self.rng.random_range(1..12);
            self.at(delay, Event::Wake(db));
        }
    }

    /// Answers the looks that have something to tell, or no time left.
    ///
    /// # Errors
    /// If one misses a row.
    pub fn serve_looks(&mut self, db: usize) -> Checked {
        let lookers = std::mem::take(&mut self.lookers[db]);
        for looker in lookers {
            let (p, run, id) = (looker.p, looker.run, looker.request.id);
            if self.is_cut(p) {
                let lost = Step::Looked(id, Err("the connection is lost".into()));
                self.no_answer(p, run, lost);
                continue;
            }
            let skipped = self.dbs[db].skipped(&looker.request);
            if let Some((row, line)) = skipped.first() {
                let (from, note) = (looker.request.from_id, &line.note);
                let what = format!("p{p} looks from {from} on and misses row {row}: {note:?}");
                return violated("CAP4 the lower bound skips nothing", what);
            }
            let out_of_time = looker.until <= self.now;
            let Some(looked) = self.dbs[db].look(&looker.request, out_of_time) else {
                self.lookers[db].push(looker);
                continue;
            };
            if !looked.changes.is_empty() || !looked.has_room || looked.is_backlog {
                self.log(|| format!("p{p} looks: {looked:?}"));
            }
            if self.variant == Variant::AcksWhatIsTold {
                let gone = self.dbs[db].forget(&looked);
                self.check_ack(db, &gone)?;
            }
            self.leave_plans(db, &looked);
            self.fail_after_look(db);
            match self.variant {
                Variant::ResolvesLater => {
                    let later = self.rng.random_range(1..1_500);
                    self.at(later, Event::Resolve(db, looker, looked));
                }
                _ => self.tell(&looker, looked),
            }
        }
        Ok(())
    }

    /// Where plans are what users change, somebody leaves a plan right after a look saw it changed, and whoever changed it
    /// asks again and again where that is visible.
    fn leave_plans(&mut self, db: usize, looked: &Looked) {
        if !self.weather.plans || self.calm {
            return;
        }
        for change in &looked.changes {
            let Some(line) = self.dbs[db].outbox.rows.get(&change.id) else {
                continue;
            };
            let Note::Changed(plan) = line.note else {
                continue;
            };
            let (xid, commit) = (line.xid, line.commit);
            let later = self.rng.random_range(1..1_000);
            self.at(later, Event::Leave(db, plan));
            for _ in 0..3 {
                let later = self.rng.random_range(1..2_500);
                self.at(later, Event::Question { db, xid, commit });
            }
        }
    }

    /// Where the server is frail, it often restarts when a look has just seen the end of a transaction that leaves no trace:
    /// to whoever goes by that snapshot on the next server, another transaction is over.
    fn fail_after_look(&mut self, db: usize) {
        let fails = self.weather.frail && !self.calm && self.dbs[db].xids.is_ahead();
        if fails && self.rng.random_bool(0.5) {
            let (later, rest) = (self.rng.random_range(0..20), self.rng.random_range(10..60));
            self.at(later, Event::Restart(db, rest));
        }
    }

    /// The answer of a look is on its way.
    fn tell(&mut self, looker: &Looker, looked: Looked) {
        let id = looker.request.id;
        let lost = Step::Looked(id, Err("the answer is lost".into()));
        self.answer(looker.p, looker.run, Step::Looked(id, Ok(looked)), lost);
    }

    /// Asks only now whom changes concern.
    pub fn resolve_later(&mut self, db: usize, looker: &Looker, mut looked: Looked) {
        for change in &mut looked.changes {
            if let Some(line) = self.dbs[db].outbox.rows.get(&change.id) {
                change.tenants = self.dbs[db].resolve(change.id, line).tenants;
            }
        }
        self.tell(looker, looked);
    }

    /// An acknowledgement arrives at the database.
    ///
    /// # Errors
    /// If it removes what some store needs.
    pub fn acknowledge(
        &mut self,
        p: usize,
        run: u64,
        request: &AckRequest,
        (term, server): (Term, u64),
    ) -> Checked {
        let db = self.publishers[p].db;
        if self.fails(p) || self.is_another(db, server) {
            self.no_answer(p, run, Step::Acked(None));
            return Ok(());
        }
        let Some((xid, gone)) = self.dbs[db].acknowledge(term, request) else {
            self.no_answer(p, run, Step::Acked(None));
            return Ok(());
        };
        let count = gone.len();
        self.log(|| {
            let (done_to, behind) = (request.done_to, &request.behind);
            format!("p{p} acks {count} rows, to {done_to}, behind {behind:?}, in {xid}")
        });
        self.wake(db);
        self.answer(p, run, Step::Acked(Some(xid)), Step::Acked(None));
        self.check_ack(db, &gone)
    }

    /// The row of the beat is to be changed.
    pub fn beat(&mut self, p: usize, run: u64, term: Term) {
        let (db, now) = (self.publishers[p].db, self.now);
        let n = match self.fails(p) {
            true => None,
            false => self.dbs[db].beat(now, term),
        };
        self.wake(db);
        let done = Step::BeatDone(n.map(|n| (n, now)));
        self.answer(p, run, done, Step::BeatDone(None));
    }

    /// The triggers are looked at.
    pub fn look_at_triggers(&mut self, p: usize, run: u64) {
        let db = self.publishers[p].db;
        let found = match self.fails(p) {
            true => None,
            false => {
                let (db, hidden) = (&self.dbs[db], self.variant == Variant::HidesGaps);
                let off = db.triggers_off && !hidden;
                let altered = if hidden { 0 } else { db.altered };
                Some((altered, off.then(|| "the trigger is disabled".to_owned())))
            }
        };
        self.answer(p, run, Step::TriggersDone(found), Step::TriggersDone(None));
    }

    /// A result arrives at the publisher.
    pub fn captured(&mut self, p: usize, step: Step) {
        let now = self.shown(p);
        let Some(office) = &mut self.publishers[p].office else {
            return;
        };
        match step {
            Step::Looked(id, result) => {
                let outbox = &self.dbs[office.db].outbox;
                let looked = result.iter();
                looked.for_each(|looked| office.urgent.looked(looked, outbox));
                office.writer.looked(now, id, result);
            }
            Step::Acked(xid) => office.writer.acked(now, xid),
            Step::HoldsWritten(written) => office.writer.hold_work_done(now, written),
            Step::BeatDone(Some((n, committed))) => {
                office.beats.insert(now, (n, committed));
                office.writer.beat_committed(n, now);
            }
            Step::TriggersDone(found) => {
                office.checking = false;
                office.next_check = now + LOOK_AT_TRIGGERS;
                match found {
                    Some((altered, gap)) => {
                        office.saw_gap |= gap.is_some();
                        office.altered = Some(altered);
                        office.writer.checked_triggers(&altered.to_string(), gap);
                    }
                    None => office.writer.triggers_unchecked("the database is away"),
                }
            }
            _ => {}
        }
    }

    /// Somebody asks the writers of a database where a transaction is visible.
    pub fn question(&mut self, db: usize, xid: u64, commit: usize) {
        let now = self.now;
        let server = self.dbs[db].server;
        for publisher in &mut self.publishers {
            let office = publisher.office.as_mut().filter(|o| o.db == db);
            // A term that began on another server knows nothing of this one's transactions, and is over soon.
            let lax = self.variant == Variant::IgnoresServer;
            if let Some(office) = office.filter(|o| o.server == server || lax) {
                let all = RegionFilter::All;
                let now = publisher.clock.millis(now);
                let ticket = office.writer.ask_visible(now, xid, &all, 5_000);
                office.questions.push(Question { ticket, db, commit });
            }
        }
    }

    /// The writer says where a transaction is visible.
    ///
    /// # Errors
    /// If it is not.
    pub fn answered_visible(&mut self, p: usize, mut visible: Visible) -> Checked {
        if self.variant == Variant::CallsAllVisible {
            visible.stores.iter_mut().for_each(|at| at.visible = true);
        }
        let Some(office) = &mut self.publishers[p].office else {
            return Ok(());
        };
        let asked = office.questions.iter();
        let at = asked.clone().position(|q| q.ticket == visible.ticket);
        let Some(question) = at.map(|at| office.questions.swap_remove(at)) else {
            return Ok(());
        };
        self.check_visible(&question, &visible)
    }
}
