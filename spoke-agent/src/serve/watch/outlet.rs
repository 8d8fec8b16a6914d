//! Where a watcher's chunks go: a short queue, and an end for whoever does not read.

use super::audience::Events;
use crate::metrics as names;
use axum::body::{Body, Bytes};
use futures_util::stream;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

/// Chunks that wait for a watcher to read.
const CHUNKS: usize = 2;
/// How long a chunk waits before the watcher is dropped.
const SLOW: Duration = Duration::from_secs(10);

/// Where a watcher's chunks go.
pub struct Outlet {
    chunks: mpsc::Sender<Bytes>,
    last: Arc<Mutex<Bytes>>,
    _place: OwnedSemaphorePermit,
}

/// The watcher is gone, does not read, or cannot be told.
pub struct Ended;

/// A queue for a watcher, and the body that it reads.
pub fn open(place: OwnedSemaphorePermit) -> (Outlet, Body) {
    let (chunks, queue) = mpsc::channel::<Bytes>(CHUNKS);
    let last = Arc::new(Mutex::new(Bytes::new()));
    let outlet = Outlet {
        chunks,
        last: last.clone(),
        _place: place,
    };
    let chunks = stream::unfold((queue, last), |(mut queue, last)| async move {
        let chunk = match queue.recv().await {
            Some(chunk) => chunk,
            None => std::mem::take(&mut *last.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        (!chunk.is_empty()).then_some((Ok::<_, Infallible>(chunk), (queue, last)))
    });
    (outlet, Body::from_stream(chunks))
}

impl Outlet {
    /// The queue, to wait for the end of the watcher.
    pub fn chunks(&self) -> mpsc::Sender<Bytes> {
        self.chunks.clone()
    }

    /// Waits until there is room for a chunk; drops a watcher that takes too long.
    pub async fn send(&self, chunk: Bytes) -> Result<(), Ended> {
        if chunk.is_empty() {
            return Ok(());
        }
        match timeout(SLOW, self.chunks.send(chunk)).await {
            Ok(sent) => sent.map_err(|_| Ended),
            Err(_) => {
                metrics::counter!(names::WATCHERS_DROPPED).increment(1);
                tracing::warn!("a watcher does not read and is dropped");
                let mut text = Events::default();
                text.event("error", format_args!("{{\"error\":\"too_slow\"}}"));
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = text.end(None);
                Err(Ended)
            }
        }
    }
}
