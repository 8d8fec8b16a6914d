//! All rows of one snapshot, as a stream of parts: the length of each (4 bytes, little-endian), then postcard.

use super::{FORM, FORMAT_IS, Facts, Known, Part};
use crate::clock::{Clock, wall_micros};
use crate::store::redb::StoreError;
use crate::store::redb::db::Db;
use crate::store::redb::meta::{FORMAT, Meta};
use crate::store::redb::rows;
use crate::store::redb::tables::{BLIND, BUNDLES, CONTEXTS, OWNERS};
use axum::body::{Body, Bytes};
use contexts::push::Reading;
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
    /// It lost something, and whoever asks could not be told.
    #[error(
        "this agent may have lost contexts to damage, which an agent of the asking release would not be told: ask another one, upgrade the agent that asks, or wait for the hub to fill it"
    )]
    Untold,
    /// The rows would be of no use to whoever asks.
    #[error(
        "this agent's file has format {FORMAT}, and that of the asking one {theirs}: they are of different releases"
    )]
    Format {
        /// As the other one says it.
        theirs: String,
    },
    /// It cannot be read.
    #[error("{0}")]
    Storage(#[from] StoreError),
}

/// Begins a copy of the state of now, for whoever asked with this query. It ends early, and without its last part, if the
/// file fails.
///
/// # Errors
/// [`NothingToGive`] if there is no state to copy.
pub fn copy(db: &Arc<Db>, clock: Clock, query: Option<&str>) -> Result<Body, NothingToGive> {
    let asked = || query.into_iter().flat_map(|query| query.split('&'));
    let theirs = asked().find_map(|pair| pair.strip_prefix(FORMAT_IS));
    if let Some(theirs) = theirs.filter(|theirs| *theirs != FORMAT.to_string()) {
        let theirs = theirs.chars().take(20).collect();
        return Err(NothingToGive::Format { theirs });
    }
    let txn = db.read()?;
    let now = clock.reading();
    let meta = Meta::load(&txn, now, wall_micros())?;
    let facts = Facts::of(meta, now).ok_or(NothingToGive::Empty)?;
    let first = match asked().any(|pair| pair == FORM) {
        true => Part::Facts(Box::new(facts)),
        _ if facts.lost => return Err(NothingToGive::Untold),
        _ => Part::Begin(Box::new(facts.known)),
    };
    let (chunks, queue) = mpsc::channel(CHUNKS);
    let mut outlet = Outlet {
        chunks,
        chunk: Vec::with_capacity(CHUNK),
        parts: 0,
    };
    tokio::task::spawn_blocking(move || {
        let sent = outlet.send_all(&txn, &first);
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

impl Facts {
    /// What others can take over of these facts; none if no writer ever claimed the store.
    pub(super) fn of(meta: Meta, now: Reading) -> Option<Self> {
        let known = Known {
            digest_key: meta.digest_key?,
            granted: meta.granted?,
            released: meta.released,
            last_synced: meta.last_synced,
            synced_kinds: meta.synced_kinds.iter().cloned().collect(),
            position: meta.position,
            age: meta.fresh.map(|fresh| fresh.age(now)),
            beat: meta.beat,
        };
        let lost = meta.lost;
        Some(Self { known, lost })
    }
}

/// Every row of a snapshot, in the order of a copy.
pub(super) fn every_row<E: From<StoreError>>(
    txn: &ReadTransaction,
    mut each: impl FnMut(&Part) -> Result<(), E>,
) -> Result<(), E> {
    let blind = txn.open_table(BLIND).map_err(StoreError::from)?;
    for row in blind.iter().map_err(StoreError::from)? {
        let row = row.map_err(StoreError::from)?.0;
        let (kind, tenant) = row.value();
        each(&Part::Blind(kind.into(), tenant.into()))?;
    }
    let bundles = txn.open_table(BUNDLES).map_err(StoreError::from)?;
    for row in bundles.iter().map_err(StoreError::from)? {
        let (place, head) = row.map_err(StoreError::from)?;
        let (bucket, tenant) = place.value();
        each(&Part::Head(bucket, tenant.into(), head.value().into()))?;
    }
    let contexts = txn.open_table(CONTEXTS).map_err(StoreError::from)?;
    for row in contexts.iter().map_err(StoreError::from)? {
        let (place, record) = row.map_err(StoreError::from)?;
        let (tenant, kind, key) = place.value();
        let (tenant, record) = (tenant.into(), record.value().into());
        each(&Part::Context(tenant, kind.into(), key.into(), record))?;
    }
    let owners = txn.open_table(OWNERS).map_err(StoreError::from)?;
    for row in owners.iter().map_err(StoreError::from)? {
        let (place, owner) = row.map_err(StoreError::from)?;
        let (kind, key) = place.value();
        each(&Part::Owner(kind.into(), key.into(), owner.value().into()))?;
    }
    Ok(())
}

struct Outlet {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
    parts: u64,
}

impl Outlet {
    fn send_all(&mut self, txn: &ReadTransaction, first: &Part) -> Result<(), StoreError> {
        self.part(first)?;
        every_row(txn, |part| self.part(part))?;
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
