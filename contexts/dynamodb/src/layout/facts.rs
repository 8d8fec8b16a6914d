//! Whom the table obeys, and what moves every second.

use super::fields::{Fields, bytes, encode, number};
use super::{BadItem, FORMAT, Item, Place};
use contexts::digest::DigestKey;
use contexts::name::{Kind, Region};
use contexts::version::{SessionId, StoreId, SyncId, Term, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the fence says beside its session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// [`FORMAT`].
    pub format: u32,
    /// This table's content.
    pub store: StoreId,
    /// The region that it serves.
    pub region: Region,
    /// The deployment's digest key. A secret: it must not appear in logs.
    pub digest_key: DigestKey,
    /// The writer that was granted last.
    pub granted: Term,
    /// Whether it released the table.
    pub released: bool,
    /// The last *synced*.
    pub last_synced: Option<SyncId>,
    /// The kinds that were in step.
    pub synced_kinds: BTreeSet<Kind>,
}

/// The fence.
#[derive(Debug, Clone, PartialEq)]
pub struct Fence {
    /// The session that may write.
    pub session: SessionId,
    /// The rest.
    pub facts: Facts,
}

impl Fence {
    /// As an item.
    ///
    /// # Errors
    /// If the facts cannot be encoded.
    pub fn to_item(&self) -> Result<Item, BadItem> {
        let mut item = Place::fence().to_key();
        item.insert("session".into(), bytes(self.session.0.to_be_bytes()));
        item.insert("facts".into(), encode("fence", &self.facts)?);
        Ok(item)
    }

    /// From an item.
    ///
    /// # Errors
    /// [`BadItem`] if it was written by a later release or is damaged.
    pub fn of(item: &Item) -> Result<Self, BadItem> {
        let fields = Fields::of(item)?;
        let facts: Facts = fields.decode("facts")?;
        if facts.format > FORMAT {
            let why = format!(
                "it has format {}, this release knows {FORMAT}",
                facts.format
            );
            return Err(fields.bad(why));
        }
        let session = SessionId(fields.id("session")?);
        Ok(Self { session, facts })
    }
}

/// What moves every second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulse {
    /// The session that moves it.
    pub session: Option<SessionId>,
    /// It moves while that session's writer lives.
    pub beats: u64,
    /// As the writer said last.
    pub position: Version,
    /// The moment up to which every change is here, in microseconds of the service's own clock.
    pub fresh: Option<u64>,
    /// The last beat of the hub of which everything before is here.
    pub beat: u64,
    /// Tenants, about; right after each *synced*.
    pub bundles: u64,
    /// Contexts, about; right after each *synced*.
    pub contexts: u64,
    /// When the last round over all items ended, by the service's clock; none before the first writer that keeps it.
    pub audited: Option<u64>,
}

impl Pulse {
    /// As an item.
    pub fn to_item(&self) -> Item {
        let mut item = Place::pulse().to_key();
        let mut put = |name: &str, value| item.insert(name.to_owned(), value);
        if let Some(session) = self.session {
            put("session", bytes(session.0.to_be_bytes()));
        }
        put("beats", number(self.beats));
        put("position_epoch", number(self.position.epoch));
        put("position_n", number(self.position.n));
        put("beat", number(self.beat));
        put("bundles", number(self.bundles));
        put("contexts", number(self.contexts));
        if let Some(fresh) = self.fresh {
            put("fresh", number(fresh));
        }
        if let Some(audited) = self.audited {
            put("audited", number(audited));
        }
        item
    }

    /// From an item.
    ///
    /// # Errors
    /// [`BadItem`] if it is damaged.
    pub fn of(item: &Item) -> Result<Self, BadItem> {
        let fields = Fields::of(item)?;
        // Counts are kept by adding differences, and may stray below nothing until they are set right.
        let count = |name| fields.integer(name).map(|n: i128| n.max(0) as u64);
        Ok(Self {
            session: Some(SessionId(fields.id("session")?)),
            beats: fields.integer("beats")?,
            position: Version {
                epoch: fields.integer("position_epoch")?,
                n: fields.integer("position_n")?,
            },
            fresh: fields.optional("fresh", Fields::integer)?,
            beat: fields.integer("beat")?,
            bundles: count("bundles")?,
            contexts: count("contexts")?,
            audited: fields.optional("audited", Fields::integer)?,
        })
    }
}
