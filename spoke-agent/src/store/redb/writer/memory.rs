//! What readers see in memory, and when: filled from the file, carried on after each commit.

use super::Writer;
use crate::store::redb::StoreError;
use crate::store::redb::changes::Touched;
use crate::store::redb::reader::Snapshot;
use std::time::Instant;

impl Writer {
    /// Fills the memory from the file. Readers go on with what they have meanwhile.
    pub(super) fn fill_memory(&mut self) {
        if self.memory_bytes == 0 {
            return;
        }
        let started = Instant::now();
        let filled = self.snapshot().and_then(|s| s.index(self.memory_bytes));
        match filled {
            Ok(index) => {
                tracing::info!(
                    contexts = index.len(),
                    bytes = index.bytes(),
                    all = index.is_whole(),
                    seconds = started.elapsed().as_secs_f64(),
                    "contexts are in memory"
                );
                self.index = Some(index);
            }
            Err(error) => self.without_memory(&error),
        }
        self.views.publish(self.index.clone());
    }

    /// Brings the memory to the state of the last commit.
    pub(super) fn carry_on(&mut self, touched: &Touched) {
        let Some(mut index) = self.index.take() else {
            return;
        };
        let snapshot = self.snapshot();
        match snapshot.and_then(|s| s.carry_on(&mut index, touched, self.memory_bytes)) {
            Ok(()) => self.index = Some(index),
            Err(error) => self.without_memory(&error),
        }
        self.views.publish(self.index.clone());
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Snapshot::of(&self.db.look()?)
    }

    fn without_memory(&mut self, error: &StoreError) {
        self.index = None;
        tracing::error!(
            file = %self.db.path().display(), %error,
            "the contexts cannot be brought into memory and are read from the file"
        );
    }
}
