//! What a publisher asks of its database: the lease, and snapshots to build from. Statements and results take their
//! time, and may be lost on either way.

use crate::database::CUT;
use crate::publisher::{LeaseAnswer, LeaseOp, Office, Wish, duration};
use crate::store::Origin;
use crate::variant::Variant;
use crate::world::{Event, Step, World};
use contexts::name::TenantId;
use contexts::version::{Holder, Term};
use publisher::writer::lease::{Observer, Standing};
use publisher::writer::{
    BuildRequest, GuardLimits, HoldWork, RegionFilter, What, Writer, WriterLimits,
};
use rand::Rng;
use std::collections::BTreeSet;

impl World {
    /// Asks the database about the lease; the answer comes later, if it comes.
    pub fn ask_lease(&mut self, p: usize, op: LeaseOp) {
        let (run, sent) = (self.publishers[p].run, self.shown(p));
        let delay = self.rng.random_range(1..50);
        self.at(delay, Event::Publisher(p, run, Step::Lease(op, sent)));
    }

    /// A statement about the lease arrives at the database.
    pub fn lease_op(&mut self, p: usize, run: u64, op: &LeaseOp, sent: u64) {
        let db = self.publishers[p].db;
        if self.is_cut(p) {
            return;
        }
        let answer = match op {
            LeaseOp::Look => LeaseAnswer::Row(self.dbs[db].lease),
            LeaseOp::Take(seen, holder, floor) => {
                let term = self.dbs[db].take_lease(*seen, *holder, *floor);
                LeaseAnswer::Taken(term, self.dbs[db].server)
            }
            LeaseOp::Renew(term, release, server) => {
                let ours = self.dbs[db].renew(*term, *release);
                LeaseAnswer::Renewed(ours && self.dbs[db].server == *server)
            }
        };
        if self.rng.random_bool(0.02) && !self.calm {
            return;
        }
        let delay = self.rng.random_range(1..50);
        let step = Step::LeaseDone(answer, sent);
        self.at(delay, Event::Publisher(p, run, step));
    }

    /// Its result arrives.
    pub fn lease_done(&mut self, p: usize, answer: LeaseAnswer, sent: u64) {
        let now = self.shown(p);
        match answer {
            LeaseAnswer::Row(row) => {
                let publisher = &mut self.publishers[p];
                let free = publisher.observer.observe(row, duration(now)) == Standing::Free;
                let forcing = publisher.forcing;
                if publisher.office.is_none() && (free || forcing) {
                    let floor = if forcing { self.highest_epoch(p) } else { 0 };
                    let holder = Holder(self.id());
                    self.ask_lease(p, LeaseOp::Take(row, holder, floor));
                }
            }
            LeaseAnswer::Taken(Some(term), server) if self.publishers[p].office.is_none() => {
                self.take_office(p, (term, server), sent);
            }
            LeaseAnswer::Taken(..) | LeaseAnswer::Lost => {}
            LeaseAnswer::Renewed(true) => {
                if let Some(office) = &mut self.publishers[p].office {
                    office.tenure.renewed(duration(sent));
                    if office.writer.is_suspended() && office.tenure.holds(duration(now)) {
                        office.writer.resume();
                    }
                }
            }
            LeaseAnswer::Renewed(false) => {
                self.lose_office(p);
            }
        }
    }

    /// A term begins.
    pub fn take_office(&mut self, p: usize, (term, server): (Term, u64), sent: u64) {
        let now = self.shown(p);
        let limits = WriterLimits {
            batch_tenants: self.rng.random_range(1..6),
            builds: self.rng.random_range(1..3),
            ranges: self.rng.random_range(1..4),
            push_bytes: [200, 600, 8 << 20][self.rng.random_range(0..3)],
            queue_bytes: [1_500, 64 << 20][self.rng.random_range(0..2)],
            fill_bytes: [300, 16 << 20][self.rng.random_range(0..2)],
            scan_turn: 300_000,
            cut: CUT,
        };
        // Where little may wait, a scan is held up soon.
        let limits = match limits.fill_bytes {
            300 => WriterLimits {
                scan_turn: 500,
                ..limits
            },
            _ => limits,
        };
        self.log(|| format!("p{p} takes epoch {}, {limits:?}", term.epoch));
        let mut writer = Writer::new(term, self.key.clone(), self.specs(), limits, now);
        if std::mem::take(&mut self.publishers[p].forcing) {
            writer.force();
        }
        let db = self.publishers[p].db;
        self.publishers[p].office = Some(Office::new(writer, (db, server), now, sent));
    }

    /// Ends the term at once: somebody else has the lease, or may have it. A process that was told to stop is gone.
    pub fn lose_office(&mut self, p: usize) {
        let publisher = &mut self.publishers[p];
        let office = publisher.office.take();
        publisher.observer = Observer::default();
        if office.is_some_and(|office| office.leaving.is_some()) {
            publisher.up = false;
            let later = self.rng.random_range(1_000..15_000);
            self.at(later, Event::PublisherStart(p));
        }
        self.log(|| format!("p{p} lost office"));
    }

    /// Ends the term once every store was given back.
    pub fn leave(&mut self, p: usize) {
        let now = self.shown(p);
        let publisher = &mut self.publishers[p];
        let Some(office) = &publisher.office else {
            return;
        };
        let done = office.leaving.is_some_and(|by| by <= now) || office.writer.is_closed();
        if office.leaving.is_none() || !done {
            return;
        }
        let (term, server) = (office.term, office.server);
        publisher.office = None;
        publisher.observer = Observer::default();
        self.ask_lease(p, LeaseOp::Renew(term, true, server));
        self.publishers[p].up = false;
        let later = self.rng.random_range(1_000..15_000);
        self.at(later, Event::PublisherStart(p));
        self.log(|| format!("p{p} left office"));
    }

    /// A build takes its snapshot.
    pub fn snapshot(&mut self, p: usize, run: u64, request: &BuildRequest, server: u64) {
        let db = self.publishers[p].db;
        let database = &self.dbs[db];
        let trouble = self.rng.random_bool(0.03) && !self.calm;
        let result = if self.is_cut(p) || self.is_another(db, server) || trouble {
            Err("the database does not answer".to_owned())
        } else {
            let mut commit = database.newest();
            if self.variant == Variant::StaleSnapshots {
                commit = commit.saturating_sub(self.rng.random_range(0..4));
            }
            let regions = self.regions();
            let guards = self.guards();
            let batch = self.dbs[db].build(commit, &request.what, guards, &regions, &self.key);
            self.origins
                .remember((p, run), &batch, Origin { db, commit });
            Ok(batch)
        };
        let delay = self.build_delay();
        self.builds += u64::from(!self.is_routine(db, &request.what));
        let step = Step::Built(request.id, result);
        self.at(delay, Event::Publisher(p, run, step));
    }

    /// What may be removed at once.
    fn guards(&self) -> GuardLimits {
        self.weather
            .guard
            .map_or(GuardLimits::OFF, |count| GuardLimits {
                max_delete_share: 0.0,
                max_delete_count: count,
                ..GuardLimits::default()
            })
    }

    /// What the guard wants written is written, and a person lets all of it go.
    pub fn write_holds(&mut self, p: usize, run: u64, work: HoldWork) {
        let db = self.publishers[p].db;
        let trouble = self.rng.random_bool(0.03) && !self.calm;
        let written = !self.is_cut(p) && !trouble;
        if written {
            let names = work.hold.into_iter().flat_map(|hold| hold.names);
            self.dbs[db].approved.extend(names);
            self.dbs[db]
                .approved
                .retain(|name| !work.void.contains(name));
        }
        let delay = self.build_delay();
        self.at(delay, Event::Publisher(p, run, Step::HoldsWritten(written)));
    }

    /// Whether a build is made again and again although nothing changes: of the beat, and of tenants that cannot be
    /// built.
    fn is_routine(&self, db: usize, what: &What) -> bool {
        let broken = &self.dbs[db].now().broken;
        match what {
            What::Beat => true,
            What::Tenants(all) => all.iter().all(|t| broken.iter().any(|(b, _)| b == t)),
            What::Bounds | What::Range(_) => false,
        }
    }

    /// How long half a build takes.
    pub fn build_delay(&mut self) -> u64 {
        match self.rng.random_bool(0.05) && !self.calm {
            true => self.rng.random_range(500..9_000),
            false => self.rng.random_range(2..self.weather.build),
        }
    }

    /// Somebody asks the writer of a database for a scan.
    pub fn ask_scan(&mut self, db: usize) {
        for publisher in self.publishers.iter_mut().filter(|p| p.db == db) {
            if let Some(office) = &mut publisher.office {
                let all = RegionFilter::All;
                office
                    .writer
                    .request_scan("somebody asks", all, false, false);
            }
        }
    }

    /// Somebody asks the writer of a database to send some tenants again.
    pub fn ask_republish(&mut self, db: usize, tenants: &BTreeSet<TenantId>) {
        let (now, commit) = (self.now, self.dbs[db].newest());
        let lines: Vec<u64> = self.agents.iter().map(|a| a.line).collect();
        for publisher in self.publishers.iter_mut().filter(|p| p.db == db) {
            let Some(office) = &mut publisher.office else {
                continue;
            };
            office.urgent.asked(tenants);
            let tenants = tenants.iter().cloned().collect();
            let all = RegionFilter::All;
            let now = publisher.clock.millis(now);
            let ticket = office.writer.republish(now, tenants, &all, 20_000);
            office.wishes.push(Wish {
                ticket,
                origin: Origin { db, commit },
                lines: lines.clone(),
            });
        }
    }
}
