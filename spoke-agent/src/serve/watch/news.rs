//! What changes, gathered and written once for all watchers that are at the same place.

use super::audience::Audience;
use super::read;
use crate::clock::Clock;
use crate::metrics as names;
use crate::reader::{Changed, Changes};
use crate::store::feed::{self, Batch, Event};
use crate::store::live::Live;
use crate::store::redb::StoreError;
use crate::store::redb::changes::Cursor;
use crate::store::redb::reader::Snapshot;
use crate::store::view::Views;
use axum::body::Bytes;
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

/// Watchers at once.
const MOST: usize = 4_096;
/// News that a watcher may be behind before it is told by itself what is missing.
const NEWS: usize = 64;
/// Names that a reader in this process may be behind before it is told that any may have changed.
const CHANGED: usize = 4_096;

/// All watchers of this agent.
#[derive(Clone)]
pub struct Watches {
    news: broadcast::Sender<Arc<News>>,
    /// The same as names, for readers in this process.
    changed: broadcast::Sender<Changed>,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

/// What changed, for all who are at the place where it begins.
pub struct News {
    /// What changed.
    pub batch: Batch,
    /// As of before the batch was gathered.
    pub live: Arc<Live>,
    plain: OnceLock<Bytes>,
    follow: OnceLock<Bytes>,
}

impl Watches {
    /// Without a watcher yet. They end when the agent stops.
    pub fn new(stopped: watch::Receiver<bool>) -> Self {
        Self {
            news: broadcast::channel(NEWS).0,
            changed: broadcast::channel(CHANGED).0,
            places: Arc::new(Semaphore::new(MOST)),
            stopped,
        }
    }

    /// A place for one more watcher, if there is one.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// How many watch.
    pub fn count(&self) -> usize {
        MOST - self.places.available_permits()
    }

    /// What changes from now on.
    pub fn hear(&self) -> broadcast::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    /// Whether the agent stops.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.clone()
    }

    /// Gathers what changes, as long as somebody watches, until the agent stops.
    pub async fn gather(self, views: Views, mut live: watch::Receiver<Arc<Live>>, clock: Clock) {
        let mut stopped = self.stopped.clone();
        let (mut at, mut is_behind) = (None, false);
        loop {
            let next = async {
                match is_behind {
                    true => Ok(()),
                    false => live.changed().await,
                }
            };
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return,
                changed = next => if changed.is_err() { return },
            }
            let now = live.borrow_and_update().clone();
            // Where nobody listens only the place is kept, so that the next one is told what comes from here on.
            let listeners = self.news.receiver_count() + self.changed.receiver_count();
            let from = at.filter(|_| listeners > 0);
            let gathered = read(&views, move |snapshot| next_batch(snapshot, from)).await;
            is_behind = false;
            // The watchers see for themselves.
            let Ok(batch) = gathered else {
                continue;
            };
            if listeners == 0 {
                at = Some(batch.to);
                continue;
            }
            // A batch has its bounds, and nothing else may happen for long.
            is_behind = batch.from != batch.to && batch.to.commit < now.commit;
            let is_new = at != Some(batch.to);
            let is_whole_story = at == Some(batch.from);
            at = Some(batch.to);
            if is_new {
                self.tell_readers(&batch, is_whole_story);
                if let Some(pushed) = now.last_push {
                    let micros = clock.reading().micros.saturating_sub(pushed.micros);
                    metrics::histogram!(names::WATCH_SECONDS).record(micros as f64 / 1e6);
                }
                // Nobody may be left to hear it.
                let _ = self.news.send(Arc::new(News {
                    batch,
                    live: now,
                    plain: OnceLock::new(),
                    follow: OnceLock::new(),
                }));
            }
        }
    }
}

impl Watches {
    /// Tells of changes from now on.
    pub fn changes(&self) -> Changes {
        Changes::new(self.changed.subscribe())
    }

    fn tell_readers(&self, batch: &Batch, is_whole_story: bool) {
        if self.changed.receiver_count() == 0 {
            return;
        }
        // Nobody may be left to hear it.
        if !is_whole_story {
            let _ = self.changed.send(Changed::Everything);
        }
        for event in batch.groups.iter().flat_map(|group| &group.events) {
            let (kind, key) = match event {
                Event::Put(known, _) | Event::Withheld(known) => (known.kind(), known.key()),
                Event::Delete((kind, key), _) => (kind.as_str(), key.as_str()),
            };
            let _ = self.changed.send(Changed::Name {
                kind: kind.to_owned(),
                key: key.to_owned(),
            });
        }
    }
}

/// What changed since then; where nobody can say, a batch of nothing, which makes watchers look for themselves.
fn next_batch(snapshot: &Snapshot, at: Option<Cursor>) -> Result<Batch, StoreError> {
    let batch = match at {
        Some(at) => feed::since(snapshot, at)?,
        None => None,
    };
    match batch {
        Some(batch) => Ok(batch),
        None => {
            let end = snapshot.end()?;
            Ok(Batch {
                from: end,
                to: end,
                groups: Vec::new(),
            })
        }
    }
}

impl News {
    /// As events, with the cursor.
    pub fn write(&self, audience: &Audience) -> Bytes {
        let write = || audience.write(&self.batch.groups, Some(self.batch.to));
        match (audience.is_everyone(), audience.follow) {
            (true, true) => self.follow.get_or_init(write).clone(),
            (true, false) => self.plain.get_or_init(write).clone(),
            (false, _) => write(),
        }
    }
}
