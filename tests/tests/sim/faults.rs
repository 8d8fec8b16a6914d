//! What breaks: processes die, pause and come back, disks are wiped, restored and edited, the database goes away or is
//! cloned.

use crate::store::Durable;
use crate::variant::Variant;
use crate::world::{Event, World};
use contexts::name::TenantId;
use contexts::version::StoreId;
use rand::Rng;

impl World {
    /// One random fault.
    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        let p = self.rng.random_range(0..self.publishers.len());
        let s = self.rng.random_range(0..self.agents.len());
        match self.rng.random_range(0..100) {
            0..14 => self.publisher_crash(p),
            14..28 => {
                let rest = self.rng.random_range(500..20_000);
                self.publishers[p].paused_until = self.now + rest;
                self.log(|| format!("p{p} is paused for {rest} ms"));
            }
            28..36 => {
                let shown = self.shown(p);
                self.publishers[p].stop(shown);
                self.log(|| format!("p{p} is told to stop"));
            }
            36..52 => self.store_crash(s, 100, 8_000),
            52..64 => {
                let rest = self.rng.random_range(500..15_000);
                self.agents[s].paused_until = self.now + rest;
                self.log(|| format!("store {s} is paused for {rest} ms"));
            }
            64..72 => {
                self.agents[s].backup = Some(self.agents[s].durable.clone());
                self.log(|| format!("store {s} is backed up"));
            }
            72..78 => self.restore(s),
            78..82 => self.wipe(s),
            82..88 => self.edit(s),
            88..90 => {
                let rest = self.rng.random_range(500..60_000);
                self.publishers[p].cut_until = self.now + rest;
                self.log(|| format!("p{p} does not reach the database for {rest} ms"));
            }
            90..92 => {
                let rest = self.rng.random_range(500..60_000);
                self.publishers[p].cut_stores.insert(s, self.now + rest);
                self.log(|| format!("p{p} does not reach store {s} for {rest} ms"));
            }
            92..94 => {
                let (db, rest) = (self.publishers[p].db, self.rng.random_range(300..9_000));
                let restarts = self.rng.random();
                self.database_down(db, rest, restarts);
            }
            94..96 if self.weather.alter => {
                let db = self.publishers[p].db;
                self.alter_triggers(db, true);
            }
            94..96 => {}
            96..98 => self.replace_database(),
            _ => self.clone_database(),
        }
        let gap = self.rng.random_range(100..self.weather.fault_every);
        self.at(gap, Event::Fault);
    }

    /// Whether a publisher does not reach its database.
    pub fn is_cut(&self, p: usize) -> bool {
        let publisher = &self.publishers[p];
        publisher.cut_until.max(self.dbs[publisher.db].down_until) > self.now
    }

    /// Whether a publisher does not reach a store, nor the store's answers it.
    pub fn is_cut_from(&self, p: usize, s: usize) -> bool {
        let until = self.publishers[p].cut_stores.get(&s);
        until.is_some_and(|until| *until > self.now)
    }

    /// The database cannot be reached; or its server stops and starts again.
    pub fn database_down(&mut self, db: usize, rest: u64, restarts: bool) {
        if self.dbs[db].is_dead() {
            return;
        }
        self.dbs[db].down_until = self.now + rest;
        if restarts {
            self.dbs[db].restart();
        }
        self.log(|| format!("db{db} is down for {rest} ms, restarts: {restarts}"));
    }

    /// Somebody disables the triggers by hand, or enables them again. Postgres waits for open transactions first. They
    /// come back once some writer knows that they were gone: nobody can know of a gap that nobody saw.
    pub fn alter_triggers(&mut self, db: usize, off: bool) {
        if self.dbs[db].is_dead() || self.dbs[db].triggers_off == off {
            return;
        }
        let offices = self.publishers.iter().filter_map(|p| p.office.as_ref());
        let mut writers = offices.filter(|office| office.db == db);
        let hidden = self.variant == Variant::HidesGaps;
        let known = hidden || writers.any(|o| o.saw_gap && !o.writer.is_capturing());
        self.dbs[db].altering = off || known;
        if !self.dbs[db].altering || !self.dbs[db].open.is_empty() {
            self.at(50, Event::Alter(db, off));
            return;
        }
        (self.dbs[db].triggers_off, self.dbs[db].altering) = (off, false);
        self.dbs[db].altered += 1;
        self.log(|| format!("the triggers of db{db} are off: {off}"));
        if off {
            let later = self.rng.random_range(100..6_000);
            self.at(later, Event::Alter(db, false));
        }
    }

    fn publisher_crash(&mut self, p: usize) {
        self.publishers[p].crash();
        self.log(|| format!("p{p} crashes"));
        let later = self.rng.random_range(200..12_000);
        self.at(later, Event::PublisherStart(p));
    }

    fn store_crash(&mut self, s: usize, least: u64, most: u64) {
        self.agents[s].memory = None;
        self.log(|| format!("store {s} is killed"));
        let later = self.rng.random_range(least..most);
        self.at(later, Event::StoreStart(s));
    }

    fn restore(&mut self, s: usize) {
        if let Some(backup) = self.agents[s].backup.clone() {
            self.store_crash(s, 100, 2_000);
            self.agents[s].durable = backup;
            self.agents[s].line += 1;
            self.log(|| format!("store {s} gets its old backup"));
        }
    }

    fn wipe(&mut self, s: usize) {
        self.store_crash(s, 100, 2_000);
        let id = StoreId(self.id());
        self.agents[s].durable = Durable::new(id);
        self.agents[s].line += 1;
        self.log(|| format!("store {s} is wiped"));
    }

    /// Changes the bytes of a value while the store does not run.
    fn edit(&mut self, s: usize) {
        self.store_crash(s, 100, 2_000);
        if let Some(tenant) = self.forge(s) {
            self.log(|| format!("store {s}: a value of {tenant} is edited by hand"));
        }
    }

    /// A value rots while its store runs. The scrub finds that, and the session goes on; the next scan mends it.
    pub fn rot(&mut self) {
        if self.calm {
            return;
        }
        let s = self.rng.random_range(0..self.agents.len());
        let agent = &self.agents[s];
        let runs = agent.memory.is_some() && agent.paused_until <= self.now;
        if let Some(tenant) = runs.then(|| self.forge(s)).flatten() {
            self.agents[s].scrub();
            self.log(|| format!("store {s}: a value of {tenant} rots"));
        }
        let gap = self.rng.random_range(300..2_000);
        self.at(gap, Event::Rot);
    }

    /// Changes the bytes of a value, not its hash.
    fn forge(&mut self, s: usize) -> Option<TenantId> {
        let durable = &mut self.agents[s].durable;
        let mut all = Vec::new();
        for (tenant, records) in &durable.records {
            let head = durable.heads.get(tenant);
            for (kind, key) in records.keys() {
                if head.is_some_and(|h| !h.keeps(kind, key)) {
                    all.push((tenant.clone(), (kind.clone(), key.clone())));
                }
            }
        }
        if all.is_empty() {
            return None;
        }
        let (tenant, name) = all.swap_remove(self.rng.random_range(0..all.len()));
        let records = durable.records.get_mut(&tenant);
        if let Some(record) = records.and_then(|r| r.get_mut(&name)) {
            record.context.value = "{\"rev\":\"forged\"}".into();
        }
        durable.edited.insert(tenant.clone());
        Some(tenant)
    }
}
