//! All rows of one snapshot, as a stream of parts: the length of each (4 bytes, little-endian), then postcard.

use super::{Facts, Part};
use crate::clock::{Clock, wall_micros};
use crate::store::redb::StoreError;
use crate::store::redb::db::Db;
use crate::store::redb::meta::Meta;
use crate::store::redb::rows;
use crate::store::redb::tables::{BLIND, BUNDLES, CONTEXTS, OWNERS};
use axum::body::{Body, Bytes};
use futures_util::stream;
use redb::{ReadTransaction, ReadableTable};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes that are sent together.
const CHUNK: usize = 256 << 10;
/// Chunks that wait to be sent.
const CHUNKS: usize = 4;

/// Why this store gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum NothingToGive {
    /// No writer ever claimed it.
    #[error("this agent has nothing to give: no hub has filled it yet")]
    Empty,
    /// It cannot be read.
    #[error("{0}")]
    Storage(#[from] StoreError),
}

/// Begins a copy of the state of now. It ends early, and without its last part, if the file fails.
///
/// # Errors
/// [`NothingToGive`] if there is no state to copy.
pub fn copy(db: &Arc<Db>, clock: Clock) -> Result<Body, NothingToGive> {
    let txn = db.read()?;
    let now = clock.reading();
    let meta = Meta::load(&txn, now, wall_micros())?;
    let (Some(digest_key), Some(granted)) = (meta.digest_key, meta.granted) else {
        return Err(NothingToGive::Empty);
    };
    let facts = Facts {
        digest_key,
        granted,
        released: meta.released,
        last_synced: meta.last_synced,
        synced_kinds: meta.synced_kinds.iter().cloned().collect(),
        position: meta.position,
        age: meta.fresh.map(|fresh| fresh.age(now)),
        beat: meta.beat,
    };
    let (chunks, queue) = mpsc::channel(CHUNKS);
    let mut outlet = Outlet {
        chunks,
        chunk: Vec::with_capacity(CHUNK),
        parts: 0,
    };
    tokio::task::spawn_blocking(move || {
        let sent = outlet.send_all(&txn, facts);
        if let Err(error) = sent {
            tracing::warn!(%error, "a copy for another agent was broken off");
            outlet.break_off();
        }
    });
    let parts = stream::unfold(queue, |mut queue| async move {
        queue
            .recv()
            .await
            .map(|chunk: io::Result<Bytes>| (chunk, queue))
    });
    Ok(Body::from_stream(parts))
}

struct Outlet {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
    parts: u64,
}

impl Outlet {
    fn send_all(&mut self, txn: &ReadTransaction, facts: Facts) -> Result<(), StoreError> {
        self.part(&Part::Begin(Box::new(facts)))?;
        for row in txn.open_table(BLIND)?.iter()? {
            let row = row?.0;
            let (kind, tenant) = row.value();
            self.part(&Part::Blind(kind.into(), tenant.into()))?;
        }
        for row in txn.open_table(BUNDLES)?.iter()? {
            let (place, head) = row?;
            let (bucket, tenant) = place.value();
            self.part(&Part::Head(bucket, tenant.into(), head.value().into()))?;
        }
        for row in txn.open_table(CONTEXTS)?.iter()? {
            let (place, record) = row?;
            let (tenant, kind, key) = place.value();
            let part = Part::Context(
                tenant.into(),
                kind.into(),
                key.into(),
                record.value().into(),
            );
            self.part(&part)?;
        }
        for row in txn.open_table(OWNERS)?.iter()? {
            let (place, owner) = row?;
            let (kind, key) = place.value();
            self.part(&Part::Owner(kind.into(), key.into(), owner.value().into()))?;
        }
        self.part(&Part::End(self.parts))?;
        self.flush()
    }

    fn part(&mut self, part: &Part) -> Result<(), StoreError> {
        let bytes = rows::encode(part)?;
        self.chunk.extend((bytes.len() as u32).to_le_bytes());
        self.chunk.extend(bytes);
        self.parts += 1;
        match self.chunk.len() < CHUNK {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.chunks
            .blocking_send(Ok(chunk.into()))
            .map_err(|_| StoreError::Closed)
    }

    fn break_off(&self) {
        // Whoever is gone needs not be told.
        let _ = self
            .chunks
            .blocking_send(Err(io::Error::other("the store cannot be read")));
    }
}
