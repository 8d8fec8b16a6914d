//! Transactions of the users: several are open at once, some for seconds; they draw numbers and ids when they write, and
//! what they wrote becomes visible when they commit, in another order.

use crate::database::Transaction;
use crate::traffic;
use crate::variant::Variant;
use crate::world::{Checked, Event, World, violated};
use contexts::name::TenantId;
use rand::Rng;
use std::collections::BTreeSet;

impl World {
    /// A transaction begins, and another one later.
    pub fn transaction(&mut self) -> Checked {
        if self.calm {
            return Ok(());
        }
        let gap = self.rng.random_range(20..self.weather.busy);
        self.at(gap, Event::Transaction);
        let living: Vec<usize> = (0..self.dbs.len())
            .filter(|db| !self.dbs[*db].is_dead())
            .collect();
        let db = living[self.rng.random_range(0..living.len())];
        let database = &self.dbs[db];
        if database.down_until > self.now || database.altering {
            return Ok(());
        }
        let (statements, slow) = (self.rng.random_range(1..4), self.rng.random_bool(0.15));
        let id = self.dbs[db].begin(statements, slow);
        self.statement(db, id)
    }

    /// A tenant leaves a plan, in a transaction of its own.
    ///
    /// # Errors
    /// As [`World::statement`].
    pub fn leave_plan(&mut self, db: usize, plan: u8) -> Checked {
        let database = &mut self.dbs[db];
        if database.down_until > self.now || database.altering {
            return Ok(());
        }
        let id = database.begin(0, false);
        let state = database.now();
        let on = state.tenants_on(plan);
        let tenant = on.into_iter().find(|t| state.rows.contains_key(t));
        let (Some(tenant), Some(mut transaction)) = (tenant, database.open.remove(&id)) else {
            return Ok(());
        };
        match traffic::leave_plan(database, &mut transaction, &tenant) {
            true => self.end(db, id, transaction),
            false => Ok(()),
        }
    }

    /// The next statement of a transaction, or its end.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn statement(&mut self, db: usize, id: u64) -> Checked {
        if self.dbs[db].is_dead() {
            return Ok(());
        }
        if self.dbs[db].down_until > self.now {
            let rest = self.dbs[db].down_until - self.now;
            self.at(rest, Event::Statement(db, id));
            return Ok(());
        }
        let Some(mut transaction) = self.dbs[db].open.remove(&id) else {
            return Ok(());
        };
        if transaction.left == 0 {
            return self.end(db, id, transaction);
        }
        transaction.left -= 1;
        let savepoint = self.rng.random_bool(0.1).then(|| transaction.clone());
        let (regions, rng) = (self.regions(), &mut self.rng);
        let (mood, database) = (self.weather.mood(), &mut self.dbs[db]);
        let done = traffic::statement(rng, database, &mut transaction, &regions, mood);
        if let Some(before) = savepoint {
            // Its number stays, and so do the ids that it drew.
            let xid = transaction.xid;
            transaction = Transaction { xid, ..before };
        }
        if let Some(done) = done {
            let (xid, ids) = (transaction.xid, self.dbs[db].outbox.ids);
            self.log(|| format!("db{db} {xid:?} to {ids}: {}", done.what));
            if self.rng.random_bool(self.weather.asks) {
                let delay = self.rng.random_range(0..400);
                self.at(delay, Event::Ask(db, done.tenants));
            }
        }
        let delay = match transaction.slow {
            true => self.rng.random_range(10..5_000),
            false => self.rng.random_range(0..4),
        };
        self.dbs[db].open.insert(id, transaction);
        self.at(delay, Event::Statement(db, id));
        self.check_room(db)
    }

    fn end(&mut self, db: usize, id: u64, mut transaction: Transaction) -> Checked {
        if transaction.slow && !transaction.prepared && self.rng.random_bool(0.2) {
            transaction.prepared = true;
            self.dbs[db].open.insert(id, transaction);
            let delay = self.rng.random_range(100..6_000);
            self.at(delay, Event::Statement(db, id));
            return Ok(());
        }
        let xid = transaction.xid;
        if self.rng.random_bool(self.weather.rollbacks) {
            self.dbs[db].abort(&transaction);
            self.log(|| format!("db{db} {xid:?} is rolled back"));
            return Ok(());
        }
        let captured = transaction.captured;
        self.dbs[db].commit(self.now, transaction);
        let commit = self.dbs[db].newest();
        self.log(|| format!("db{db} {xid:?} commits {commit}"));
        self.wake(db);
        let asks = captured && self.variant != Variant::BulkIsUrgent;
        let (share, within) = match self.weather.frail {
            true => (0.8, 300),
            false => (0.3, 1_500),
        };
        if let Some(xid) = xid.filter(|_| asks && self.rng.random_bool(share)) {
            let delay = self.rng.random_range(0..within);
            self.at(delay, Event::Question { db, xid, commit });
        }
        self.check_future()
    }

    /// No store may claim to have what is committed only now.
    fn check_future(&self) -> Checked {
        for (s, agent) in self.agents.iter().enumerate() {
            if agent.durable.fresh.is_some_and(|fresh| fresh >= self.now) {
                let what = format!("store {s} is fresh to {:?}", agent.durable.fresh);
                return violated("I5 the age is honest", what);
            }
        }
        Ok(())
    }

    /// Somebody asks the writer of a database for some tenants, or for a scan.
    pub fn ask(&mut self, db: usize, tenants: &BTreeSet<TenantId>) {
        match self.rng.random_bool(0.3) {
            true => self.ask_scan(db),
            false => self.ask_republish(db, tenants),
        }
    }
}
