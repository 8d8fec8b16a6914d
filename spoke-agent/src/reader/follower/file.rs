//! The file of a mirror: one redb file, written by a thread of its own, at most a second behind.
//!
//! What is in it is one state that the mirror had, with the cursor to go on from; losing the last second of it costs that
//! second again. A file of another subscription is emptied: what it holds is not what was asked for now.

use crate::clock::{Clock, wall_micros};
use crate::reader::mirror::{Facts, Mirror, Name, Step};
use crate::store::fresh::StoredFresh;
use crate::store::index::Index;
use crate::store::index::known::Known;
use contexts::name::Kind;
use contexts::version::Version;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Kind and key to what is known, packed.
const CONTEXTS: TableDefinition<'static, (&'static [u8], &'static [u8]), &'static [u8]> =
    TableDefinition::new("mirror-contexts-1");
/// The facts, postcard.
const FACTS: TableDefinition<'static, (), &'static [u8]> = TableDefinition::new("mirror-facts-1");
/// Memory for pages of the file.
const CACHE_BYTES: usize = 8 << 20;
/// Changes that wait to be written; beyond, all of it is written again.
const QUEUE: usize = 1_024;
/// Between two commits.
const PACE: Duration = Duration::from_secs(1);
/// How often the age alone is worth a commit, in microseconds.
const NOTE_EVERY: u64 = 5_000_000;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is something else.
    #[error("{} is not the mirror of a follower; name another file, or move this one away", path.display())]
    NotAMirror {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("{} cannot be opened: {why}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    query: String,
    cursor: Option<String>,
    high: Version,
    complete: Vec<Kind>,
    fresh: Option<StoredFresh>,
    position: Version,
}

enum Save {
    All(Index, Facts),
    Some(Vec<(Name, Option<Known>)>, Facts),
    Stop(Facts),
}

/// The way to the thread that writes.
pub struct Keeper {
    queue: SyncSender<Save>,
    thread: JoinHandle<()>,
    needs_all: Arc<AtomicBool>,
    clock: Clock,
    noted: AtomicU64,
}

impl Keeper {
    /// Opens or creates the file, and reads what it has of this subscription.
    pub async fn open(
        path: PathBuf,
        query: String,
        clock: Clock,
    ) -> Result<(Self, Mirror), FileError> {
        let at = path.clone();
        let opening = tokio::task::spawn_blocking(move || open(&at, &query, clock));
        let refused = |why: String| FileError::Refused {
            path: path.clone(),
            why,
        };
        let (file, mirror) = opening
            .await
            .map_err(|error| refused(error.to_string()))??;
        let (queue, saves) = sync_channel(QUEUE);
        let needs_all = file.needs_all.clone();
        let thread = std::thread::Builder::new()
            .name("mirror-file".into())
            .spawn(move || file.run(&saves))
            .map_err(|error| refused(error.to_string()))?;
        let keeper = Self {
            queue,
            thread,
            needs_all,
            clock,
            noted: AtomicU64::new(0),
        };
        Ok((keeper, mirror))
    }

    /// Has written what changed, soon.
    pub fn keep(&self, step: &Step, mirror: &Mirror) {
        let facts = || mirror.facts.clone();
        let all = || Save::All(mirror.index.clone(), facts());
        let save = match step {
            Step::Nothing | Step::Refused => return,
            _ if self.needs_all.load(Ordering::Relaxed) && mirror.is_filled() => all(),
            Step::Noted if self.was_just_noted() => return,
            Step::Noted => Save::Some(Vec::new(), facts()),
            Step::Replaced => all(),
            Step::Changed(names) => {
                let known = names.iter().map(|name| {
                    let known = mirror.index.get(&name.0, &name.1).cloned();
                    (name.clone(), known)
                });
                Save::Some(known.collect(), facts())
            }
        };
        let is_all = matches!(save, Save::All(..));
        match self.queue.try_send(save) {
            Ok(()) if is_all => self.needs_all.store(false, Ordering::Relaxed),
            Ok(()) => {}
            // The thread is behind, or the disk is.
            Err(TrySendError::Full(_)) => self.needs_all.store(true, Ordering::Relaxed),
            // It said why.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    fn was_just_noted(&self) -> bool {
        let now = self.clock.reading().micros;
        let before = self.noted.load(Ordering::Relaxed);
        let is_soon = now < before + NOTE_EVERY;
        if !is_soon {
            self.noted.store(now, Ordering::Relaxed);
        }
        is_soon
    }

    /// Writes what waits, and closes the file.
    pub async fn stop(self, facts: Facts) {
        let stopping = tokio::task::spawn_blocking(move || {
            // A thread that is gone has said why.
            let _ = self.queue.send(Save::Stop(facts));
            let _ = self.thread.join();
        });
        let _ = stopping.await;
    }
}

struct File {
    path: PathBuf,
    database: Database,
    query: String,
    clock: Clock,
    needs_all: Arc<AtomicBool>,
}

fn open(path: &Path, query: &str, clock: Clock) -> Result<(File, Mirror), FileError> {
    let refused = |error: redb::Error| FileError::Refused {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let database = redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create(path);
    let database = database.map_err(|error| refused(error.into()))?;
    let is_ours = is_ours(&database).map_err(refused)?;
    if !is_ours {
        return Err(FileError::NotAMirror {
            path: path.to_owned(),
        });
    }
    let mirror = load(&database, query, clock).map_err(refused)?;
    let file = File {
        path: path.to_owned(),
        database,
        query: query.to_owned(),
        clock,
        // What is in the file may be of another subscription, or nothing.
        needs_all: Arc::new(AtomicBool::new(!mirror.is_filled())),
    };
    Ok((file, mirror))
}

fn is_ours(database: &Database) -> Result<bool, redb::Error> {
    let txn = database.begin_read()?;
    let ours = [CONTEXTS.name(), FACTS.name()];
    Ok(txn.list_tables()?.all(|table| ours.contains(&table.name())))
}

/// What the file has; nothing if it is new, of another subscription or damaged.
fn load(database: &Database, query: &str, clock: Clock) -> Result<Mirror, redb::Error> {
    let txn = database.begin_read()?;
    let (contexts, facts) = match (txn.open_table(CONTEXTS), txn.open_table(FACTS)) {
        (Ok(contexts), Ok(facts)) => (contexts, facts),
        _ => return Ok(Mirror::default()),
    };
    let stored = facts.get(())?;
    let stored = stored.and_then(|bytes| postcard::from_bytes::<Stored>(bytes.value()).ok());
    let Some(stored) = stored.filter(|stored| stored.query == query) else {
        return Ok(Mirror::default());
    };
    let mut all = Vec::new();
    for row in contexts.iter()? {
        match Known::from_bytes(row?.1.value()) {
            Some(known) => all.push(known),
            None => return Ok(Mirror::default()),
        }
    }
    let now = clock.reading();
    let facts = Facts {
        cursor: stored.cursor,
        high: stored.high,
        complete: stored.complete,
        fresh: stored
            .fresh
            .map(|fresh| fresh.on_this_boot(now, wall_micros())),
        position: stored.position,
    };
    Ok(Mirror::of(all, facts))
}

impl File {
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own, which no task runs on"
    )]
    fn run(self, saves: &Receiver<Save>) {
        while let Ok(first) = saves.recv() {
            let batch: Vec<Save> = std::iter::once(first).chain(saves.try_iter()).collect();
            let is_last = batch.iter().any(|save| matches!(save, Save::Stop(_)));
            if let Err(error) = self.save(batch) {
                self.needs_all.store(true, Ordering::Relaxed);
                tracing::error!(
                    file = %self.path.display(), %error,
                    "the mirror cannot be written; it is served from memory, and written again as a whole"
                );
            }
            if is_last {
                return;
            }
            std::thread::sleep(PACE);
        }
    }

    fn save(&self, batch: Vec<Save>) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(true);
        for save in batch {
            match save {
                Save::Stop(facts) => self.save_facts(&txn, &facts)?,
                Save::All(index, facts) => {
                    txn.delete_table(CONTEXTS)?;
                    save_all(&txn, &index)?;
                    self.save_facts(&txn, &facts)?;
                }
                Save::Some(changed, facts) => {
                    let mut table = txn.open_table(CONTEXTS)?;
                    for ((kind, key), known) in changed {
                        let name = (kind.as_bytes(), key.as_bytes());
                        match known {
                            Some(known) => table.insert(name, known.as_bytes())?,
                            None => table.remove(name)?,
                        };
                    }
                    drop(table);
                    self.save_facts(&txn, &facts)?;
                }
            }
        }
        Ok(txn.commit()?)
    }

    fn save_facts(&self, txn: &redb::WriteTransaction, facts: &Facts) -> Result<(), redb::Error> {
        let now = self.clock.reading();
        let stored = Stored {
            query: self.query.clone(),
            cursor: facts.cursor.clone(),
            high: facts.high,
            complete: facts.complete.clone(),
            fresh: facts.fresh.map(|fresh| fresh.to_stored(now, wall_micros())),
            position: facts.position,
        };
        // These types are never refused.
        let bytes = postcard::to_stdvec(&stored).unwrap_or_default();
        txn.open_table(FACTS)?.insert((), bytes.as_slice())?;
        Ok(())
    }
}

fn save_all(txn: &redb::WriteTransaction, index: &Index) -> Result<(), redb::Error> {
    let mut table = txn.open_table(CONTEXTS)?;
    let mut all: Vec<&Known> = Vec::with_capacity(index.len());
    index.for_each(|known| all.push(known));
    // In order, so that each page is written once.
    all.sort_unstable_by_key(|known| (known.kind(), known.key()));
    for known in all {
        table.insert(
            (known.kind().as_bytes(), known.key().as_bytes()),
            known.as_bytes(),
        )?;
    }
    Ok(())
}
