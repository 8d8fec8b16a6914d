//! What readers see in memory, and when: filled from the file, carried on after each commit.
//!
//! To carry it on is a third of the work of a commit. A store that is filled for the first time is read by hardly anybody
//! and will be in step with all of it: it is filled without a memory, which a thread reads from the file as soon as the store
//! is in step. Pushes go on meanwhile, and what they touch is looked at again once the thread is done. A fill that pauses gets
//! its memory in the same way, and keeps it: to read it again and again would take longer than to carry it on. So does a
//! large store at its start: a revocation must not wait until all of it is in memory.
//!
//! While there is no memory, readers are answered from the file.

use super::Writer;
use crate::store::index::Index;
use crate::store::redb::StoreError;
use crate::store::redb::changes::Touched;
use crate::store::redb::reader::Snapshot;
use contexts::limits;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// Tenants in a commit from which on it is one of a fill and no change.
const FILL_TENANTS: usize = 64;
/// How long the process runs after such a commit without another one until the memory is filled, although the store is not
/// in step.
const FILL_IS_OVER_AFTER: Duration = Duration::from_secs(10);
/// Contexts of a store, and bytes of its file, up to which the memory is filled at its start before anything else is done: it
/// takes moments.
const FILLED_AT_ONCE: u64 = 10_000;
const FILLED_AT_ONCE_BYTES: u64 = 64 << 20;
/// Names that pushes may touch while the memory is filled beside them; the one that touches more waits for it.
const MISSED_NAMES: usize = 10_000;

/// What of the store is in memory.
#[derive(Default)]
pub(super) enum Memory {
    /// Nothing: it may take no bytes, or the file could not be read.
    #[default]
    Nothing,
    /// Nothing, since the store is filled for the first time; for so much longer, if it is not in step before.
    Waits(Duration),
    /// A thread reads it from the file.
    Comes(Coming),
    /// The state of the last commit.
    Here(Index),
}

/// A memory that is being filled.
pub(super) struct Coming {
    filled: Receiver<Result<Index, StoreError>>,
    /// What was touched since the state that it is filled from.
    missed: Touched,
    started: Instant,
}

impl Writer {
    /// Fills the memory from a file that was checked. What readers have in memory from before must not fall behind the
    /// file: it stays until the new one is there, and nothing else is done meanwhile.
    pub(super) fn renew_memory(&mut self) {
        // There are never two that are being filled.
        if let Memory::Comes(coming) = &self.memory {
            let _ = coming.filled.recv();
            self.memory = Memory::Nothing;
        }
        let is_large =
            self.state.contexts > FILLED_AT_ONCE || self.db.file_bytes() > FILLED_AT_ONCE_BYTES;
        match self.memory {
            Memory::Nothing | Memory::Waits(_) if is_large && self.memory_bytes > 0 => {
                match self.is_first_fill() {
                    true => self.wait_with_memory(),
                    false => self.fill_memory_beside(),
                }
            }
            _ => self.fill_memory(),
        }
    }

    /// Whether the store is filled for the first time, and did not pause for long.
    fn is_first_fill(&self) -> bool {
        self.memory_bytes > 0 && !self.is_filled() && !self.fill_has_paused
    }

    fn wait_with_memory(&mut self) {
        self.memory = Memory::Waits(FILL_IS_OVER_AFTER);
        let noted = self.snapshot().and_then(|s| self.note_complete(&s));
        if let Err(error) = noted {
            self.without_memory(&error);
        }
    }

    /// Fills the memory from the file, before anything else is done.
    fn fill_memory(&mut self) {
        let started = Instant::now();
        let filled = self.snapshot().and_then(|snapshot| {
            self.note_complete(&snapshot)?;
            match self.memory_bytes {
                0 => Ok(None),
                most => snapshot.index(most).map(Some),
            }
        });
        match filled {
            Ok(Some(index)) => self.has_memory(index, started),
            Ok(None) => self.memory = Memory::Nothing,
            Err(error) => self.without_memory(&error),
        }
        self.show_memory();
    }

    /// Brings the memory to the state of the last commit, or leaves it until the store is filled. Readers see nothing of it
    /// before [`Writer::show_carried`], so the commit need not be durable yet.
    pub(super) fn carry_on(&mut self, touched: Touched) {
        let is_coming = matches!(self.memory, Memory::Comes(_));
        if self.is_first_fill() && !is_coming && touched.tenants.len() >= FILL_TENANTS {
            self.memory = Memory::Waits(FILL_IS_OVER_AFTER);
        }
        let snapshot = self.snapshot().and_then(|snapshot| {
            self.note_complete(&snapshot)?;
            Ok(snapshot)
        });
        match &mut self.memory {
            Memory::Here(index) => {
                let carried = snapshot
                    .and_then(|snapshot| snapshot.carry_on(index, &touched, self.memory_bytes));
                if let Err(error) = carried {
                    self.without_memory(&error);
                }
            }
            Memory::Comes(coming) => coming.missed.add(touched),
            Memory::Nothing | Memory::Waits(_) => {}
        }
    }

    /// Shows readers a memory that was brought to the last commit, now that the commit is durable.
    pub(super) fn show_carried(&mut self) {
        self.show_memory();
        if let Memory::Comes(coming) = &self.memory
            && coming.missed.names() > MISSED_NAMES
        {
            match coming.filled.recv() {
                Ok(filled) => self.catch_up(filled),
                Err(_) => self.fill_memory(),
            }
        }
    }

    /// Between commands: has the memory of a store filled that is in step since, and takes it when it is.
    pub(super) fn tend_memory(&mut self) {
        match &self.memory {
            _ if self.failed => {}
            Memory::Waits(_) if self.is_filled() => self.fill_memory_beside(),
            Memory::Comes(coming) => match coming.filled.try_recv() {
                Ok(filled) => self.catch_up(filled),
                // The thread gave up without a word.
                Err(TryRecvError::Disconnected) => self.fill_memory(),
                Err(TryRecvError::Empty) => {}
            },
            _ => {}
        }
    }

    /// The process ran for this long, of which no more counts than for the silence of a writer: fills the memory of a store
    /// whose fill stopped before it was in step.
    pub(super) fn waited_with_memory(&mut self, step: Duration) {
        let step = step.min(limits::SILENCE_STEP);
        let Memory::Waits(left) = &mut self.memory else {
            return;
        };
        *left = left.saturating_sub(step);
        if left.is_zero() && !self.failed {
            self.fill_has_paused = true;
            self.fill_memory_beside();
        }
    }

    fn fill_memory_beside(&mut self) {
        let (most, started) = (self.memory_bytes, Instant::now());
        let (done, filled) = sync_channel(1);
        let snapshot = self.snapshot().and_then(|snapshot| {
            self.note_complete(&snapshot)?;
            Ok(snapshot)
        });
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(error) => return self.without_memory(&error),
        };
        let thread = std::thread::Builder::new().name("store-memory".into());
        let spawned = thread.spawn(move || {
            // Nobody waits for it if the file was opened anew meanwhile, or the agent stops.
            let _ = done.send(snapshot.index(most));
        });
        match spawned {
            Ok(_) => {
                self.memory = Memory::Comes(Coming {
                    filled,
                    missed: Touched::default(),
                    started,
                });
            }
            Err(_) => self.fill_memory(),
        }
    }

    /// Takes a memory that was filled beside, and brings it to the state of the last commit.
    fn catch_up(&mut self, filled: Result<Index, StoreError>) {
        let Memory::Comes(coming) = std::mem::take(&mut self.memory) else {
            return;
        };
        let caught_up = filled.and_then(|mut index| {
            // What was touched is looked at as it is now, whenever that was.
            let snapshot = self.snapshot()?;
            snapshot.carry_on(&mut index, &coming.missed, self.memory_bytes)?;
            Ok(index)
        });
        match caught_up {
            Ok(index) => self.has_memory(index, coming.started),
            Err(error) => self.without_memory(&error),
        }
        self.show_memory();
    }

    fn is_filled(&self) -> bool {
        self.state.meta.last_synced.is_some()
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

    fn show_memory(&self) {
        self.views.publish(match &self.memory {
            Memory::Here(index) => Some(index.clone()),
            _ => None,
        });
    }

    fn has_memory(&mut self, index: Index, since: Instant) {
        tracing::info!(
            contexts = index.len(),
            bytes = index.bytes(),
            all = index.is_whole(),
            seconds = since.elapsed().as_secs_f64(),
            "contexts are in memory"
        );
        self.memory = Memory::Here(index);
    }

    fn without_memory(&mut self, error: &StoreError) {
        self.memory = Memory::Nothing;
        tracing::error!(
            file = %self.db.path().display(), %error,
            "the contexts cannot be brought into memory and are read from the file"
        );
    }
}
