//! Loads one key so that it is of one bundle of its tenant.
//!
//! An item says with which build it was written, but not in which bundle it still stands: that says the head. If the head
//! is the same before and after the item is read, the item is of that bundle. The head of before is one that was seen
//! before the read began; where there is none, or another, the item is read once more behind the head: if it is the same
//! then, it is of that bundle.

use super::Inner;
use super::entry::{Content, Entry};
use crate::store::index::known::Known;
use contexts::apply::Name;
use contexts::name::TenantId;
use contexts::version::Version;
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::layout::StoredContext;
use std::time::Instant;

/// How often a key is read that changes each time.
const TRIES: u32 = 5;

pub(super) async fn load(reader: &Inner, name: &Name) -> Result<Entry, TableError> {
    let Some(standing) = reader.standing.load_full() else {
        let why = "the table is not filled yet: no publisher ever wrote to it";
        return Err(TableError::Lost(why.into()));
    };
    let (key, fresh) = (&standing.facts.digest_key, standing.pulse.fresh);
    let mut before: Option<StoredContext> = None;
    for _ in 0..TRIES {
        let started = Instant::now();
        let Some(stored) = reader.db.look_up(key, name).await? else {
            // By what the table said before: what it became complete in since may not have been here yet.
            let content = match standing.complete.contains(&name.0) {
                true => Content::Absent,
                false => Content::Unknown,
            };
            return Ok(Entry::new(content, fresh));
        };
        let tenant = stored.owner.tenant.clone();
        let Some(record) = stored.record.clone() else {
            return Ok(Entry::new(Content::Held, fresh));
        };
        if !record.is_sound(key) {
            return Ok(Entry::new(Content::Damaged, fresh));
        }
        let is_same = before.as_ref() == Some(&stored);
        before = Some(stored);
        let head = reader.db.head(key, &tenant).await?;
        let Some(head) = head.filter(|head| !head.is_gone) else {
            // The tenant was removed after the item was read.
            continue;
        };
        let bundle = head.head.version;
        let seen = reader.saw(&tenant, bundle).await;
        let is_of_it = seen.version == bundle && seen.since <= started;
        if !is_of_it && !is_same {
            continue;
        }
        let value = record.context.value.as_bytes();
        let (kind, k) = (name.0.as_str(), name.1.as_str());
        let expires = record.context.expires;
        let known = Known::value(kind, k, tenant.as_str(), value, record.hash, expires);
        let content = Content::Value {
            value: head.head.version_of(kind, k),
            tenant,
            known,
            bundle,
        };
        return Ok(Entry::new(content, fresh));
    }
    let why = format!("{} {} changed each time that it was read", name.0, name.1);
    Err(TableError::Lost(why))
}

/// The highest version that was seen of a tenant, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The version.
    pub(super) version: Version,
    since: Instant,
}

impl Inner {
    /// Keeps the highest version of a tenant. Returns what is known now.
    async fn saw(&self, tenant: &TenantId, version: Version) -> Seen {
        let since = Instant::now();
        let entry = self.highest.entry_by_ref(tenant);
        let lower = |known: &Seen| known.version < version;
        let seen = std::future::ready(Seen { version, since });
        entry.or_insert_with_if(seen, lower).await.into_value()
    }
}
