//! What breaks: processes die, pause and come back, disks are wiped, restored and edited, the database goes away or is
//! cloned.

use crate::publisher::Publisher;
use crate::store::Durable;
use crate::world::{Event, World};
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
                let now = self.now;
                self.publishers[p].stop(now);
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
            88..96 => {
                let (db, rest) = (self.publishers[p].db, self.rng.random_range(500..12_000));
                self.dbs[db].down_until = self.now + rest;
                self.log(|| format!("db{db} is down for {rest} ms"));
            }
            _ => self.clone_database(),
        }
        let gap = self.rng.random_range(100..self.weather.fault_every);
        self.at(gap, Event::Fault);
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

    /// Changes the bytes of a value, not its hash.
    fn edit(&mut self, s: usize) {
        self.store_crash(s, 100, 2_000);
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
            return;
        }
        let (tenant, name) = all.swap_remove(self.rng.random_range(0..all.len()));
        let records = durable.records.get_mut(&tenant);
        if let Some(record) = records.and_then(|r| r.get_mut(&name)) {
            record.context.value = "{\"rev\":\"forged\"}".into();
        }
        durable.edited.insert(tenant.clone());
        self.log(|| format!("store {s}: a value of {tenant} is edited by hand"));
    }

    fn clone_database(&mut self) {
        if !self.weather.clone || self.dbs.len() > 1 {
            return;
        }
        let mut clone = self.dbs[0].clone();
        clone.shared = clone.commits.len();
        clone.restart();
        self.dbs.push(clone);
        self.lookers.push(Vec::new());
        self.log(|| "the database is cloned".into());
        for _ in 0..2 {
            self.publishers.push(Publisher::new(1));
            let later = self.rng.random_range(0..6_000);
            let p = self.publishers.len() - 1;
            self.at(later, Event::PublisherStart(p));
        }
    }
}
