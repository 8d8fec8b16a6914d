//! The file between pushes: made durable, opened again after a failure, and left in order at the end.

use super::memory::Memory;
use super::{Checked, Writer};
use crate::clock;
use crate::metrics as names;
use crate::store::redb::StoreError;
use crate::store::redb::db::Write;
use crate::store::redb::open;
use crate::store::redb::tables::Tables;
use contexts::push::Refused;
use std::panic::resume_unwind;
use std::time::Instant;

/// Microseconds without a push after which the file is made durable.
const SETTLE_AFTER: u64 = 1_000_000;
/// Microseconds after a failure before the file is touched without being asked. Each try that fails reads all of it.
const RETRY_AFTER: u64 = 30_000_000;

impl Writer {
    /// A push was committed: the file is made durable once no other follows.
    pub(super) fn settle_later(&mut self) {
        self.settle_at = self.clock.reading().micros + SETTLE_AFTER;
    }

    /// Makes the file durable once pushes pause, so that it rarely needs its redo log; opens it, if it is closed after a
    /// failure: readers wait for that, whether or not there is a hub.
    pub(super) fn settle(&mut self) {
        if self.clock.reading().micros < self.settle_at {
            return;
        }
        if self.failed {
            self.recover();
        } else if self.db.needs_settling() {
            let started = Instant::now();
            let settled = self.db.write().and_then(Write::commit);
            metrics::histogram!(names::SETTLE_SECONDS).record(started.elapsed());
            if let Err(error) = settled {
                self.fail("make the file durable", &error);
            }
        }
    }

    /// Looks for rot. What is found is audited at once: readers of the file get no answer for it, and the hub sees that
    /// the store differs.
    pub(super) fn scrub(&mut self) {
        let Some(key) = self.state.meta.digest_key.clone().filter(|_| !self.failed) else {
            return;
        };
        let now = self.clock.reading().micros;
        let found = self.scrub.step(&self.db, &key, now);
        let audited = found.and_then(|found| match found {
            true => self.reread(&key),
            false => Ok(()),
        });
        if let Err(error) = audited {
            self.fail("look for rot", &error);
        }
    }

    /// Ends the session and reads the file again.
    pub(super) fn fail(&mut self, doing: &str, error: &StoreError) -> Refused {
        metrics::counter!(names::FAILURES).increment(1);
        tracing::error!(
            file = %self.db.path().display(), doing, %error,
            "the store failed; its file is opened again and the hub has to claim it again"
        );
        self.gate.end();
        self.failed = true;
        self.recover();
        Refused::Storage {
            why: error.to_string(),
        }
    }

    /// Tries to read the file again after a failure; whether the store can be used.
    pub(super) fn recover(&mut self) -> bool {
        if !self.failed {
            return true;
        }
        // The memory, if there is one, stays as it is until then: it has what was committed.
        self.views.set_checked(false);
        let again = self.db.reopen();
        match again.and_then(|()| open::load(&self.db, &self.region, &self.clock)) {
            Ok(_) => self.check(),
            Err(error) => self.not_yet(&error),
        }
        if !self.failed {
            tracing::info!(file = %self.db.path().display(), "the store can be used again");
        }
        !self.failed
    }

    /// Checks the rows of the file, and takes over what it says.
    pub(super) fn check(&mut self) {
        self.outlines.clear();
        let checked = self.checked();
        match checked.and_then(|checked| Ok((checked, self.snapshot()?.end()?))) {
            Ok((checked, end)) => {
                self.state.commit = end.commit;
                self.take_over(checked);
                self.failed = false;
            }
            Err(error) => self.not_yet(&error),
        }
    }

    /// In a thread of its own. The system's allocator keeps what a thread has freed for that thread, and gives it to the next
    /// one when that has ended: of a large store this takes much, and it goes to the thread that fills the memory.
    fn checked(&self) -> Result<Checked, StoreError> {
        let (db, region, clock) = (&*self.db, &self.region, &self.clock);
        let check = || open::check(db, region, clock);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("store-check".into());
            match thread.spawn_scoped(scope, check) {
                Ok(running) => running.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => check(),
            }
        })
    }

    fn take_over(&mut self, checked: Checked) {
        self.state.meta = checked.meta;
        self.state.buckets = checked.buckets;
        (self.state.contexts, self.state.bundles) = (checked.contexts, checked.bundles);
        self.state.roll_up();
        self.views.set_checked(true);
        if !matches!(self.memory, Memory::Here(_)) {
            self.publish();
        }
        // What is said of the store must not be ahead of what is read in memory.
        self.renew_memory();
        self.publish();
    }

    fn not_yet(&mut self, error: &StoreError) {
        self.failed = true;
        self.settle_at = self.clock.reading().micros + RETRY_AFTER;
        tracing::error!(
            file = %self.db.path().display(), %error,
            "the store cannot be used yet; it is tried again"
        );
    }

    /// Writes down what only heartbeats said, so that a restart knows it, and closes the file: a reader that outlives the
    /// agent must not keep the next one from it.
    pub(super) fn stop(self) {
        self.save_position();
        if let Err(error) = self.db.close()
            && !self.failed
        {
            tracing::warn!(%error, "the file was not closed in order");
        }
    }

    fn save_position(&self) {
        if self.failed || self.state.meta.granted.is_none() {
            return;
        }
        let saved = self.db.write().and_then(|txn| {
            let mut tables = Tables::open(&txn)?;
            let (now, wall) = (self.clock.reading(), clock::wall_micros());
            self.state.meta.progress(now, wall).save(&mut tables.meta)?;
            drop(tables);
            txn.commit()
        });
        if let Err(error) = saved {
            tracing::warn!(%error, "the position was not written at the stop");
        }
    }
}
