//! Copies of the database: clones that live beside it, standbys that are promoted without the last commits, backups that
//! are put back; and `takeover --force`, by which a person says which one is right.
//!
//! Each copy is a database of its own, with the past up to the copy in common.

use crate::clock::Clock;
use crate::database::Database;
use crate::publisher::Publisher;
use crate::store::Origin;
use crate::world::{Event, World};
use publisher::writer::FailureSort;
use rand::Rng;

/// How often somebody looks whether stores are fenced after a database was replaced.
const PERSON: u64 = 3_000;

impl World {
    /// The commit of an origin in the history of a database, if they have that past in common.
    pub fn commit_in(&self, origin: Origin, db: usize) -> Option<usize> {
        let same = origin.db == db || origin.commit < self.shared(origin.db, db);
        same.then_some(origin.commit)
    }

    /// Whether a store owes a commit to anybody: what a database lost is no truth any more once the store obeys a copy that
    /// does not have it.
    pub fn owes(&self, s: usize, origin: Origin) -> bool {
        let owner = self.agents[s].durable.owner;
        owner.is_none_or(|owner| self.commit_in(origin, owner).is_some())
    }

    /// How many commits two databases have in common.
    pub fn shared(&self, a: usize, b: usize) -> usize {
        let line = |db: usize| {
            let mut line = vec![(db, usize::MAX)];
            while let Some((parent, commits)) = line.last().and_then(|(db, _)| self.dbs[*db].parent)
            {
                let least = line
                    .last()
                    .map_or(commits, |(_, least)| commits.min(*least));
                line.push((parent, least));
            }
            line
        };
        let (a, b) = (line(a), line(b));
        let met = a.iter().find_map(|(db, commits)| {
            let other = b.iter().find(|(other, _)| other == db);
            other.map(|(_, least)| *commits.min(least))
        });
        met.unwrap_or(0)
    }

    /// Whether a database is another one, or came from it.
    pub fn descends(&self, mut db: usize, from: usize) -> bool {
        while db != from {
            match self.dbs[db].parent {
                Some((parent, _)) => db = parent,
                None => return false,
            }
        }
        true
    }

    /// A database as it was when a copy of it was made begins a life of its own. Returns its place.
    fn revive(&mut self, db: usize, mut copy: Database) -> usize {
        let place = self.dbs.len();
        copy.parent = Some((db, copy.commits.len()));
        copy.fork(place);
        let prepared: Vec<u64> = copy.open.keys().copied().collect();
        if copy.triggers_off {
            self.at(1_000, Event::Alter(place, false));
        }
        self.dbs.push(copy);
        self.lookers.push(Vec::new());
        for id in prepared {
            let later = self.rng.random_range(100..6_000);
            self.at(later, Event::Statement(place, id));
        }
        place
    }

    /// A clone with publishers of its own, beside the original.
    pub fn clone_database(&mut self) {
        if !self.weather.clone || self.dbs.len() > 1 {
            return;
        }
        let clone = self.revive(0, self.dbs[0].clone());
        self.log(|| format!("the database is cloned: db{clone}"));
        for _ in 0..2 {
            let clock = Clock::random(&mut self.rng);
            self.publishers.push(Publisher::new(clone, clock));
            let later = self.rng.random_range(0..6_000);
            let p = self.publishers.len() - 1;
            self.at(later, Event::PublisherStart(p));
        }
        if self.rng.random_bool(0.6) {
            let right = if self.rng.random_bool(0.8) { clone } else { 0 };
            let later = self.rng.random_range(500..8_000);
            self.at(later, Event::Force(right));
        }
    }

    /// Keeps a copy that is put back later, or that follows the original as a standby.
    pub fn copy_database(&mut self) {
        let gap = match self.weather.replace {
            true => self.rng.random_range(300..3_000),
            false => return,
        };
        if !self.calm {
            self.at(gap, Event::Copy);
        }
        let db = self.rng.random_range(0..self.dbs.len());
        if !self.dbs[db].is_dead() {
            let copy = self.dbs[db].clone();
            self.copies.push((db, copy));
            if self.copies.len() > 4 {
                self.copies.remove(0);
            }
        }
    }

    /// A database is replaced by a copy that lacks the last commits: a standby is promoted, while the old primary may
    /// live on for a while with whoever is connected to it, or a backup is put back.
    pub fn replace_database(&mut self) {
        let of_living = |(db, _): &(usize, Database)| self.dbs[*db].replaced_by.is_none();
        let living: Vec<usize> = (0..self.copies.len())
            .filter(|i| of_living(&self.copies[*i]))
            .collect();
        if living.is_empty() || self.dbs.len() > 3 {
            return;
        }
        let at = living[self.rng.random_range(0..living.len())];
        let (db, copy) = self.copies.remove(at);
        self.copies.retain(|(of, _)| *of != db);
        let lost = self.dbs[db].commits.len() - copy.commits.len();
        let place = self.revive(db, copy);
        let agony = match self.rng.random_bool(0.4) {
            true => self.rng.random_range(0..9_000),
            false => 0,
        };
        self.log(|| {
            format!("db{place} replaces db{db} without {lost} commits; it dies in {agony}")
        });
        self.dbs[db].replaced_by = Some(place);
        for p in 0..self.publishers.len() {
            if self.publishers[p].db == db {
                let later = self.rng.random_range(0..agony + 1_500);
                self.at(later, Event::Move(p, place));
            }
        }
        self.at(agony, Event::Die(db));
        self.at(PERSON, Event::Person(place));
    }

    /// The old primary is gone.
    pub fn die(&mut self, db: usize) {
        self.dbs[db].down_until = u64::MAX;
        self.dbs[db].open.clear();
        self.log(|| format!("db{db} is gone"));
    }

    /// A publisher connects to the database that replaces its own.
    pub fn move_publisher(&mut self, p: usize, mut db: usize) {
        while let Some(next) = self.dbs[db].replaced_by {
            db = next;
        }
        self.publishers[p].db = db;
        self.log(|| format!("p{p} finds db{db}"));
    }

    /// Somebody looks whether stores are fenced, and decides for the database that is there now.
    pub fn person(&mut self, db: usize) {
        if self.dbs[db].is_dead() {
            return;
        }
        self.at(PERSON, Event::Person(db));
        let offices = self.publishers.iter().filter(|p| p.db == db);
        let mut writers = offices.filter_map(|p| p.office.as_ref());
        let fenced = writers.any(|office| {
            let mut failures = office
                .writer
                .stores()
                .filter_map(|(_, s)| s.failure.as_ref());
            failures.any(|f| f.sort == FailureSort::Fenced)
        });
        if fenced {
            self.force(db);
        }
    }

    /// `takeover --force`: a publisher takes the lease from whoever has it, and the stores.
    pub fn force(&mut self, db: usize) {
        let all: Vec<usize> = (0..self.publishers.len())
            .filter(|p| self.publishers[*p].db == db)
            .collect();
        let forcing = all.iter().any(|p| self.publishers[*p].forcing);
        if all.is_empty() || forcing || self.dbs[db].is_dead() {
            return;
        }
        let p = all[self.rng.random_range(0..all.len())];
        self.publishers[p].crash();
        self.publishers[p].forcing = true;
        self.publishers[p].paused_until = self.now;
        self.log(|| format!("p{p} is to take everything over for db{db}"));
        self.at(0, Event::PublisherStart(p));
    }

    /// The highest epoch that a store names which a publisher can reach.
    pub fn highest_epoch(&self, p: usize) -> u64 {
        let all = self.agents.iter().enumerate();
        let reached = all.filter(|(s, agent)| {
            let runs = agent.memory.is_some() && agent.paused_until <= self.now;
            runs && !self.is_cut_from(p, *s)
        });
        let epochs = reached.filter_map(|(_, agent)| agent.durable.granted.map(|t| t.epoch));
        epochs.max().unwrap_or(0)
    }
}
