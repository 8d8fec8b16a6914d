//! What readers see in memory, and when: filled from the file, carried on after each commit.

use super::Writer;
use crate::store::redb::StoreError;
use crate::store::redb::changes::Touched;
use crate::store::redb::reader::Snapshot;
use std::sync::Arc;
use std::time::Instant;

impl Writer {
    /// Fills the memory from the file. Readers go on with what they have meanwhile.
    pub(super) fn fill_memory(&mut self) {
        let started = Instant::now();
        let filled = self.snapshot().and_then(|snapshot| {
            self.note_complete(&snapshot)?;
            match self.memory_bytes {
                0 => Ok(None),
                most => snapshot.index(most).map(Some),
            }
        });
        match filled {
            Ok(index) => self.index = index,
            Err(error) => self.without_memory(&error),
        }
        if let Some(index) = &self.index {
            tracing::info!(
                contexts = index.len(),
                bytes = index.bytes(),
                all = index.is_whole(),
                seconds = started.elapsed().as_secs_f64(),
                "contexts are in memory"
            );
        }
        self.views.publish(self.index.clone());
    }

    /// Brings the memory to the state of the last commit.
    pub(super) fn carry_on(&mut self, touched: &Touched) {
        let mut index = self.index.take();
        let carried = self.snapshot().and_then(|snapshot| {
            self.note_complete(&snapshot)?;
            match &mut index {
                Some(index) => snapshot.carry_on(index, touched, self.memory_bytes),
                None => Ok(()),
            }
        });
        match carried {
            Ok(()) => self.index = index,
            Err(error) => self.without_memory(&error),
        }
        self.views.publish(self.index.clone());
    }

    /// The state as of the last commit.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Snapshot::of(&self.db.look()?)
    }

    fn note_complete(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let complete = snapshot.complete_kinds()?;
        if *self.state.complete != complete {
            self.state.complete = Arc::new(complete);
        }
        Ok(())
    }

    fn without_memory(&mut self, error: &StoreError) {
        self.index = None;
        tracing::error!(
            file = %self.db.path().display(), %error,
            "the contexts cannot be brought into memory and are read from the file"
        );
    }
}
