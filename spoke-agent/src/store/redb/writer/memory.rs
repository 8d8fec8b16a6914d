//! What readers see in memory, and when: filled from the file, carried on after each commit.
//!
//! To carry it on is a third of the work of a commit. A store that is filled for the first time is read by hardly anybody
//! and will be in step with all of it: it is filled without a memory, which is read from the file at once when the store is
//! in step. Readers are answered from the file meanwhile. A fill that pauses gets its memory, and keeps it: to read it again
//! and again would take longer than to carry it on.

use super::Writer;
use crate::store::redb::StoreError;
use crate::store::redb::changes::Touched;
use crate::store::redb::reader::Snapshot;
use contexts::limits;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tenants in a commit from which on it is one of a fill and no change.
const FILL_TENANTS: usize = 64;
/// How long the process runs after such a commit without another one until the memory is filled, although the store is not
/// in step.
const FILL_IS_OVER_AFTER: Duration = Duration::from_secs(10);

impl Writer {
    /// Fills the memory from the file. Readers go on with what they have meanwhile.
    pub(super) fn fill_memory(&mut self) {
        self.memory_waits = None;
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

    /// Brings the memory to the state of the last commit, or leaves it until the store is filled.
    pub(super) fn carry_on(&mut self, touched: &Touched) {
        let mut index = self.index.take();
        let is_filled_first = self.memory_bytes > 0 && self.state.meta.last_synced.is_none();
        if is_filled_first && !self.fill_has_paused && touched.tenants.len() >= FILL_TENANTS {
            index = None;
            self.memory_waits = Some(FILL_IS_OVER_AFTER);
        }
        if self.memory_waits.is_some() && !is_filled_first {
            return self.fill_memory();
        }
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

    /// The process ran for this long, of which no more counts than for the silence of a writer: fills the memory of a store
    /// whose fill stopped before it was in step.
    pub(super) fn waited_with_memory(&mut self, step: Duration) {
        let Some(left) = self.memory_waits.filter(|_| !self.failed) else {
            return;
        };
        let left = left.saturating_sub(step.min(limits::SILENCE_STEP));
        self.memory_waits = Some(left);
        if left.is_zero() {
            self.fill_has_paused = true;
            self.fill_memory();
        }
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
