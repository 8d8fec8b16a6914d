//! Reads one key so that it is of one bundle of its tenant.
//!
//! An item says with which build it was written, but not in which bundle it still stands: that says the head. So the item is
//! read, then the head. The item is of the bundle that the head named if
//! * it was written with that bundle, or
//! * the head surely named that bundle already before the item was read, or
//! * the item is the same when it is read again behind the head: a build that changes it leaves a mark in it.

use super::entry::{Content, Entry, Far, Of};
use super::seen::{Seen, Span, Tenant};
use super::{Inner, TURN_WITHIN, Turn};
use crate::store::index::known::Known;
use contexts::apply::{Head, Name};
use contexts::digest::DigestKey;
use contexts::name::TenantId;
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::layout::{Build, StoredContext};
use std::sync::Arc;
use std::time::Instant;

/// How often a key is read that changes each time.
const TRIES: u32 = 5;

/// Reads a key of which this was known before.
pub(super) async fn load(
    reader: &Inner,
    name: &Name,
    before: Option<&Entry>,
) -> Result<Entry, TableError> {
    let Some(standing) = reader.standing.load_full() else {
        let why = "the table is not filled yet: no publisher ever wrote to it";
        return Err(TableError::Lost(why.into()));
    };
    let key = &standing.facts.digest_key;
    let far = Far {
        fresh: reader.local(standing.pulse.fresh),
        position: standing.pulse.position,
    };
    let made = |content, was, read| Entry::new(content, was, read, far, reader.refresh_after);
    let mut last: Option<(StoredContext, Named)> = None;
    for _ in 0..TRIES {
        let (stored, read) = Span::of(reader.db.look_up(key, name)).await;
        let Some(stored) = stored? else {
            let was = before.and_then(Entry::tenant).cloned();
            if let Some(was) = &was {
                // It was taken away by a newer bundle, by which all else that is cached of its tenant is measured.
                head(reader, key, was.id()).await?;
            }
            // By what the table said before: what it became complete in since may not have been here yet.
            let content = match standing.complete.contains(&name.0) {
                true => Content::Absent,
                false => Content::Unknown,
            };
            return Ok(made(content, was, read));
        };
        let named = match last.take() {
            Some((before, named)) if before == stored => named,
            _ => {
                let Some(named) = head(reader, key, &stored.owner.tenant).await? else {
                    continue;
                };
                if named.is_in_doubt && stored.version > named.head.version {
                    // Nobody knows where it comes from: the hub is to say.
                    return Ok(made(Content::Damaged, None, read));
                }
                if named.build != stored.build && !named.seen.covers(read) {
                    last = Some((stored, named));
                    continue;
                }
                named
            }
        };
        let of = Of {
            tenant: named.tenant,
            bundle: named.seen.version,
            rise: named.seen.rise,
        };
        let content = match &stored.record {
            None => Content::Held { of },
            Some(record) if !record.is_sound(key) => Content::Damaged,
            Some(record) => {
                let (kind, key) = (name.0.as_str(), name.1.as_str());
                let (value, expires) = (record.context.value.as_bytes(), record.context.expires);
                let owner = of.tenant.id().as_str();
                Content::Value {
                    known: Known::value(kind, key, owner, value, record.hash, expires),
                    version: named.head.version_of(kind, key),
                    of,
                }
            }
        };
        return Ok(made(content, None, read));
    }
    let why = format!("{} {} changed each time that it was read", name.0, name.1);
    Err(TableError::Lost(why))
}

/// What the head of a tenant that is there names.
struct Named {
    tenant: Arc<Tenant>,
    seen: Seen,
    build: Build,
    head: Head,
    is_in_doubt: bool,
}

/// Asks for the head of a tenant and takes note of it; none if the tenant is gone, or if a newer version was seen already.
async fn head(reader: &Inner, key: &DigestKey, id: &TenantId) -> Result<Option<Named>, TableError> {
    let (stored, span) = Span::of(reader.db.head(key, id)).await;
    let Some(stored) = stored? else {
        return Ok(None);
    };
    let (tenant, seen) = reader.tenants.saw(id, stored.head.version, span);
    let is_newest = seen.version == stored.head.version && !stored.is_gone;
    Ok(is_newest.then_some(Named {
        tenant,
        seen,
        is_in_doubt: stored.is_in_doubt(),
        build: stored.build,
        head: stored.head,
    }))
}

/// Asks whether the head of a tenant still named what was seen at this moment, if nobody asked since. Who waits for another
/// one's answer does not wait for ever.
pub(super) async fn confirm(
    reader: &Inner,
    tenant: &Tenant,
    at: Instant,
) -> Result<(), TableError> {
    let confirmed = tokio::time::timeout(TURN_WITHIN, confirmed(reader, tenant, at)).await;
    confirmed.unwrap_or_else(|_| {
        let why = format!("the head of tenant {} cannot be read in time", tenant.id());
        Err(TableError::Lost(why))
    })
}

async fn confirmed(reader: &Inner, tenant: &Tenant, at: Instant) -> Result<(), TableError> {
    let _alone = tenant.confirming().await;
    let Some(standing) = reader.standing.load_full() else {
        return Ok(());
    };
    if at <= tenant.seen().until {
        return Ok(());
    }
    let _turn = reader.turn(Turn::Fill).await?;
    head(reader, &standing.facts.digest_key, tenant.id()).await?;
    Ok(())
}
