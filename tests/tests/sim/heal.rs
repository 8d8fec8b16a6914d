//! I7 and I8: once the trouble ends, every store comes in step within a bounded time, whatever was lost; a store that
//! stays dead holds up nobody else; and when nothing changes any more, nothing more is built.

use crate::agent::Agent;
use crate::publisher::Publisher;
use crate::state::Name;
use crate::variant::Variant;
use crate::world::{Checked, Event, Violation, World, violated};
use contexts::bundle::HoldReason;
use contexts::name::TenantId;
use contexts::version::Term;
use publisher::writer::StoreIx;
use rand::Rng;
use std::collections::BTreeSet;

/// Virtual milliseconds within which everything has to be well: the last backoff of a failing scan, and two scans.
const HEALED_WITHIN: u64 = 600_000;
/// Virtual milliseconds after which no row of the outbox waits any more.
const ACKED_WITHIN: u64 = 5_000;

/// What is not well, and which invariant that breaks if it stays so.
type Trouble = (Option<&'static str>, String);

impl World {
    /// Peace, until every store is in step.
    ///
    /// # Errors
    /// What is wrong when the time is over.
    pub fn come_in_step(&mut self) -> Checked {
        let weather = self.weather.clone();
        self.calm = true;
        self.weather.calm();
        self.until_well("I8 it heals")?;
        (self.calm, self.weather) = (false, weather);
        self.log(|| "the trouble begins".into());
        Ok(())
    }

    /// The time after the trouble.
    ///
    /// # Errors
    /// What is still wrong when the time is over.
    pub fn heal(&mut self) -> Checked {
        self.end_trouble();
        if self.agents.len() > 1 && self.rng.random_bool(0.25) {
            let s = self.rng.random_range(0..self.agents.len());
            self.agents[s].memory = None;
            self.dead = Some(s);
            self.log(|| format!("store {s} stays dead"));
        }
        let id = match self.dead {
            Some(_) => "I7 trouble stays where it is",
            None => "I8 it heals",
        };
        self.until_well(id)?;
        if let Some(s) = self.dead.take() {
            self.at(0, Event::StoreStart(s));
            self.until_well("I8 it heals")?;
        }
        if self.weather.alter && !self.weather.schedule {
            self.gap_in_peace()?;
            self.until_well("CAP2 no change is missed")?;
        }
        // A writer that a person told to take every store, and that could not reach one of them, takes it once it can,
        // also from a writer of another database under which it was well. That is a change, and the last of its sort.
        for _ in 0..self.agents.len() {
            if self.rests()? {
                return Ok(());
            }
        }
        match self.rests()? {
            true => Ok(()),
            false => violated("I8 it comes to rest", "stores go from side to side"),
        }
    }

    /// Somebody disables the triggers while all is well, writes, and enables them again.
    fn gap_in_peace(&mut self) -> Checked {
        let owner = self.agents.first().and_then(|agent| agent.durable.owner);
        let Some(db) = owner.filter(|db| !self.dbs[*db].is_dead()) else {
            return Ok(());
        };
        self.alter_triggers(db, true);
        while !self.dbs[db].triggers_off {
            self.step()?;
        }
        for _ in 0..5 {
            let id = self.dbs[db].begin(2, false);
            self.statement(db, id)?;
        }
        while self.dbs[db].triggers_off {
            self.step()?;
        }
        Ok(())
    }

    /// Waits, and checks that nothing is built meanwhile but what the schedule asks for. False if a store went to another
    /// writer.
    fn rests(&mut self) -> Result<bool, Violation> {
        let granted = |world: &Self| -> Vec<Option<Term>> {
            let agents = world.agents.iter();
            agents.map(|agent| agent.durable.granted).collect()
        };
        let before = granted(self);
        let (end, builds) = (self.now + self.weather.rest, self.builds);
        while self.now < end {
            self.step()?;
        }
        let same = granted(self) == before;
        // Scans on schedule for each database that has a writer, and no more.
        let scans = 2 + self.weather.rest / self.weather.scan_every;
        if same && self.builds - builds > scans * 4 * self.living() as u64 {
            let what = format!("{} builds while nothing changed", self.builds - builds);
            return violated("I8 it comes to rest", what);
        }
        self.until_well("I8 it stays healed")?;
        Ok(same)
    }

    fn end_trouble(&mut self) {
        self.calm = true;
        self.weather.calm();
        self.log(|| "the trouble ends".into());
        for db in self.dbs.iter_mut().filter(|d| !d.is_dead()) {
            db.down_until = 0;
        }
        for p in 0..self.publishers.len() {
            self.publishers[p].paused_until = 0;
            self.publishers[p].cut_until = 0;
            self.publishers[p].cut_stores.clear();
            self.at(1_000, Event::PublisherStart(p));
        }
        for s in 0..self.agents.len() {
            self.agents[s].paused_until = 0;
            self.at(0, Event::StoreStart(s));
        }
    }

    fn until_well(&mut self, id: &'static str) -> Checked {
        let (since, end) = (self.now, self.now + HEALED_WITHIN);
        let mut look = since;
        loop {
            self.step()?;
            if self.now < look {
                continue;
            }
            look = self.now + 500;
            match self.trouble(since) {
                None => return Ok(()),
                Some((other, what)) if self.now > end => {
                    return violated(other.unwrap_or(id), what);
                }
                Some(_) => {}
            }
        }
    }

    /// What is not well yet, if anything.
    fn trouble(&self, since: u64) -> Option<Trouble> {
        let mut living = (0..self.agents.len()).filter(|s| self.dead != Some(*s));
        let of_store = living.find_map(|s| self.trouble_of(s, since).err());
        of_store.or_else(|| self.unfinished())
    }

    /// A database to which no store listens may still have open transactions, or be without a writer; its writer may still
    /// build what was changed there; scans that somebody asked for take their turns; and what was done to triggers is seen only at the next look
    /// at them.
    fn unfinished(&self) -> Option<Trouble> {
        let is_vacant = |db: usize| {
            let mut here = self.publishers.iter().filter(|p| p.db == db).peekable();
            let term = self.dbs[db].lease.term;
            let is_writer = |p: &Publisher| p.office.as_ref().is_some_and(|o| o.term == term);
            !self.dbs[db].is_dead() && here.peek().is_some() && !here.any(is_writer)
        };
        let is_open = |db: usize| !self.dbs[db].is_dead() && !self.dbs[db].open.is_empty();
        if let Some(db) = (0..self.dbs.len()).find(|db| is_vacant(*db) || is_open(*db)) {
            return Some((None, format!("db{db} has no writer, or open transactions")));
        }
        let mut offices = self.publishers.iter().filter_map(|p| p.office.as_ref());
        let busy = offices.find(|o| {
            let looks = !self.dbs[o.db].is_dead() && o.altered != Some(self.dbs[o.db].altered);
            let hidden = self.variant == Variant::HidesGaps;
            o.writer.dirty() > 0 || o.writer.scan().is_some() || (looks && !hidden)
        })?;
        let dirty = busy.writer.dirty();
        let what = format!("a writer has {dirty} dirty tenants, or scans, or looks at triggers");
        Some((None, what))
    }

    fn trouble_of(&self, s: usize, since: u64) -> Result<(), Trouble> {
        let agent = &self.agents[s];
        let fail = |what: String| Err((None, format!("store {s}: {what}")));
        let offices = self
            .publishers
            .iter()
            .filter_map(|p| p.office.as_ref().map(|o| (p, &o.writer)));
        let mut writers = offices.filter(|(p, w)| {
            w.store(StoreIx(s)).session().is_some() && self.dbs[p.db].lease.term == w.term()
        });
        let Some((publisher, writer)) = writers.next() else {
            return fail(format!("no writer has it, {:?}", self.standings(s)));
        };
        let store = writer.store(StoreIx(s));
        if !store.synced || store.behind.is_some() {
            return fail(format!("behind: {:?}, {:?}", store.behind, store.failure));
        }
        if agent.durable.fresh.is_none_or(|fresh| fresh < since) {
            return fail("its age counts from before".into());
        }
        if self.dead.is_none() && self.living() == 1 && !writer.is_idle() {
            return fail(format!("the writer is busy, {} dirty", writer.dirty()));
        }
        if writer.dirty() > 0 {
            return fail(format!("{} tenants are dirty", writer.dirty()));
        }
        if let Some(gap) = writer.capture_gap() {
            return fail(format!("no capture: {gap}"));
        }
        let stays = |what| (Some("CAP3 no row stays"), what);
        self.outbox_is_clean(publisher.db).map_err(stays)?;
        let missed = (!self.weather.schedule).then_some("CAP2 no change is missed");
        self.shows_truth(s, agent, publisher.db)
            .map_err(|what| (missed, what))
    }

    /// Databases that are there.
    fn living(&self) -> usize {
        self.dbs.iter().filter(|d| !d.is_dead()).count()
    }

    /// Whatever was written is acknowledged.
    fn outbox_is_clean(&self, db: usize) -> Result<(), String> {
        let database = &self.dbs[db];
        if !database.open.is_empty() {
            return Err(format!("{} transactions are open", database.open.len()));
        }
        let mut rows = database.outbox.rows.iter();
        match rows.find(|(_, line)| line.at + ACKED_WITHIN < self.now) {
            Some((id, line)) => Err(format!("row {id} stays: {:?}", line.note)),
            None => Ok(()),
        }
    }

    fn standings(&self, s: usize) -> Vec<(&'static str, Option<String>)> {
        let offices = self.publishers.iter().filter_map(|p| p.office.as_ref());
        let stores = offices.map(|o| o.writer.store(StoreIx(s)));
        stores
            .map(|s| (s.standing(), s.failure.as_ref().map(|f| f.why.clone())))
            .collect()
    }

    /// The store shows the database as it is now, and each key that several tenants have is shown for one of them.
    fn shows_truth(&self, s: usize, agent: &Agent, db: usize) -> Result<(), String> {
        let (state, d) = (self.dbs[db].now(), &agent.durable);
        let tenants: BTreeSet<&TenantId> = state.rows.keys().chain(d.heads.keys()).collect();
        for tenant in tenants {
            let head = d.heads.get(tenant);
            if let Some(kept) = head
                .iter()
                .flat_map(|h| &h.held)
                .find(|h| h.why == HoldReason::Undecided)
            {
                return Err(format!("store {s}: {tenant} still keeps {kept:?}"));
            }
            let truth = state.bundle(tenant, &agent.region);
            self.shows(s, tenant, &truth)
                .map_err(|what| format!("store {s} is not as db{db}: {tenant}: {what}"))?;
        }
        if !d.edited.is_empty() {
            return Err(format!("store {s}: {:?} still edited", d.edited));
        }
        let names: BTreeSet<&Name> = state.rows.values().flat_map(|r| r.keys()).collect();
        for name in names {
            let claimants = state.claimants(name, &agent.region);
            // A tenant whose kind cannot be built may still have the key, and a value that is too large may keep it.
            let poisoned = claimants.iter().any(|t| state.rows[*t][name].too_large);
            let unknown = state.broken.iter().any(|(_, kind)| *kind == name.0);
            let shown = d.owners.get(name).is_some_and(|o| o.has_value);
            if !claimants.is_empty() && !poisoned && !unknown && !shown {
                return Err(format!("store {s}: nobody has {name:?} of {claimants:?}"));
            }
        }
        Ok(())
    }
}
