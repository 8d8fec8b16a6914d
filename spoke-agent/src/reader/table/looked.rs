//! What an agent needs that answers others from a table: what is known, and how far the table was when it was read.

use super::entry::{Content, Entry};
use super::named::Named;
use super::{Inner, TableReader, Turn, batch};
use crate::store::index::Lookup;
use crate::store::index::known::Known;
use crate::store::redb::reader::Whole;
use contexts::name::TenantId;
use contexts::version::Version;
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::lookup::Standing;
use contexts_dynamodb::tenants::WholeTenant;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is known of a key or a tenant.
pub(crate) struct Looked<T> {
    /// What was found.
    pub(crate) found: T,
    /// The highest version of which nothing was under way to the table.
    pub(crate) position: Version,
    /// Time since the moment up to which every change at the hub is in it.
    pub(crate) age: Option<Duration>,
}

/// What is cached.
pub(crate) struct Cached {
    /// Keys.
    pub(crate) keys: u64,
    /// Bytes that they take.
    pub(crate) bytes: u64,
    /// Reads that were answered by the table.
    pub(crate) fills: u64,
    /// Keys that were read again behind the answers.
    pub(crate) refreshes: u64,
}

impl TableReader {
    /// How far the table is; none as long as no publisher ever wrote to it, or it never answered.
    pub(crate) fn standing(&self) -> Option<Arc<Standing>> {
        self.0.standing.load_full()
    }

    /// Time since the moment up to which every change at the hub is in the table, as far as it said so.
    pub(crate) fn age(&self) -> Option<Duration> {
        let fresh = self.standing()?.pulse.fresh;
        Some(self.0.local(fresh)?.elapsed())
    }

    /// What is cached now.
    pub(crate) fn cached(&self) -> Cached {
        let (entries, counts) = (&self.0.entries, &self.0.counts);
        Cached {
            keys: entries.len(),
            bytes: entries.bytes(),
            fills: counts.fills(),
            refreshes: counts.refreshes(),
        }
    }

    /// What is known of a key, of a state that has at least this version if the table has that.
    ///
    /// # Errors
    /// Why it could not be read.
    pub(crate) async fn look_up(
        &self,
        kind: &str,
        key: &str,
        least: Option<Version>,
    ) -> Result<Looked<Lookup>, String> {
        let Some(name) = Named::new(kind, key) else {
            return Ok(nothing());
        };
        looked(&*self.0.entry_at(&name, least).await)
    }

    /// What is known of many keys, those of one tenant of one bundle.
    pub(crate) async fn look_up_many(
        &self,
        keys: &[(&str, &str)],
        least: Option<Version>,
    ) -> Vec<Result<Looked<Lookup>, String>> {
        let names: Vec<Option<Named>> = keys
            .iter()
            .map(|(kind, key)| Named::new(kind, key))
            .collect();
        let good: Vec<Named> = names.iter().flatten().cloned().collect();
        let mut entries = batch::entries(&self.0, &good).await;
        if let Some(least) = least
            && entries.iter().any(|entry| entry.reaches() < least)
        {
            for (name, entry) in good.iter().zip(&entries) {
                if entry.reaches() < least {
                    self.0.replaced(name, entry).await;
                }
            }
            entries = batch::entries(&self.0, &good).await;
        }
        let mut entries = entries.into_iter();
        let one = |name: Option<Named>| match name.and_then(|_| entries.next()) {
            Some(entry) => looked(&entry),
            None => Ok(nothing()),
        };
        names.into_iter().map(one).collect()
    }

    /// All of a tenant, read from the table itself.
    ///
    /// # Errors
    /// Why it could not be read.
    pub(crate) async fn whole(
        &self,
        tenant: &TenantId,
    ) -> Result<Looked<Option<Whole>>, TableError> {
        let Some(standing) = self.standing() else {
            let why = "the table is not filled yet: no publisher ever wrote to it";
            return Err(TableError::Lost(why.into()));
        };
        let fresh = self.0.local(standing.pulse.fresh);
        let _turn = self.0.turn(Turn::Fill).await?;
        let key = &standing.facts.digest_key;
        let whole = self.0.db.whole(key, tenant).await?;
        let known = |WholeTenant { head, contexts }| {
            let known = contexts.iter().filter_map(|stored| {
                let record = stored.record.as_ref()?;
                let (kind, k) = (record.context.kind.as_str(), record.context.key.as_str());
                if !record.is_sound(key) {
                    return Some(Known::nothing(kind, k, true));
                }
                let (value, expires) = (record.context.value.as_bytes(), record.context.expires);
                let owner = tenant.as_str();
                Some(Known::value(kind, k, owner, value, record.hash, expires))
            });
            Whole {
                tenant: tenant.clone(),
                contexts: known.collect(),
                head: Some(head.head),
            }
        };
        Ok(Looked {
            found: whole.map(known),
            position: standing.pulse.position,
            age: fresh.map(|fresh| fresh.elapsed()),
        })
    }
}

impl Inner {
    /// As [`Inner::entry`], of a state that has at least this version, if the table has that.
    async fn entry_at(self: &Arc<Self>, name: &Named, least: Option<Version>) -> Arc<Entry> {
        let entry = self.entry(name).await;
        match least {
            Some(least) if entry.reaches() < least => self.replaced(name, &entry).await,
            _ => entry,
        }
    }
}

/// Of a text that is no name: none can be stored, but whether its kind exists is not said by that.
fn nothing() -> Looked<Lookup> {
    Looked {
        found: Lookup::NotReady,
        position: Version::default(),
        age: None,
    }
}

fn looked(entry: &Entry) -> Result<Looked<Lookup>, String> {
    match &entry.content {
        Content::Failed { why } => Err(why.clone()),
        _ => Ok(Looked {
            found: entry.lookup(),
            position: entry.position,
            age: entry.age(Instant::now()),
        }),
    }
}
