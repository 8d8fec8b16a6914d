//! The file between pushes: made durable, opened again after a failure, and left in order at the end.

use super::Writer;
use crate::clock;
use crate::store::redb::StoreError;
use crate::store::redb::db::Write;
use crate::store::redb::open;
use crate::store::redb::tables::Tables;
use contexts::push::Refused;

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
        } else if self.db.needs_settling()
            && let Err(error) = self.db.write().and_then(Write::commit)
        {
            self.fail("make the file durable", &error);
        }
    }

    /// Ends the session and reads the file again.
    pub(super) fn fail(&mut self, doing: &str, error: &StoreError) -> Refused {
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
        self.settle_at = self.clock.reading().micros + RETRY_AFTER;
        let again = self.db.reopen();
        let loaded = again.and_then(|()| open::load(&self.db, &self.region, &self.clock));
        match loaded {
            Ok(loaded) => {
                self.state.meta = loaded.meta;
                self.state.buckets = loaded.buckets;
                (self.state.contexts, self.state.bundles) = (loaded.contexts, loaded.bundles);
                self.failed = false;
                self.state.roll_up();
                self.publish();
                tracing::info!(file = %self.db.path().display(), "the store can be used again");
            }
            Err(error) => tracing::error!(
                file = %self.db.path().display(), %error,
                "the store cannot be opened again yet; it is tried again"
            ),
        }
        !self.failed
    }

    /// Writes down what only heartbeats said, so that a restart knows it.
    pub(super) fn stop(self) {
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
