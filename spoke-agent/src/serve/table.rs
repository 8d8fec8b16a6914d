//! A table, through a loading cache, as what answers come from. It has no watch: a table tells nobody of its changes.

use super::answer::{Failure, Far};
use super::source::{Seen, Source};
use super::tenant::{self, Asked};
use crate::metrics as names;
use crate::reader::table::{Looked, TableReader};
use crate::store::index::Lookup;
use crate::store::live::RELEASE;
use axum::response::Response;
use contexts::name::{Region, TenantId};
use contexts::version::Version;
use metrics::{counter, gauge};
use serde_json::{Value, json};

/// A table, and what is said of it.
pub struct Table {
    /// The region.
    pub region: Region,
    /// What the table is called.
    pub table: String,
    /// The cache.
    pub reader: TableReader,
}

impl<T> From<Looked<T>> for Seen<T> {
    fn from(looked: Looked<T>) -> Self {
        Self {
            far: Far {
                position: looked.position,
                age: looked.age,
            },
            found: looked.found,
        }
    }
}

impl Table {
    /// What could not be read: there is nothing yet, or the table does not answer.
    fn failure(&self, why: String) -> Failure {
        match self.reader.standing() {
            Some(_) => Failure::Unreachable(why),
            None => Failure::NotReady,
        }
    }
}

impl Source for Table {
    const NO_WATCH: &'static str = "a region on DynamoDB has no watch: read again what you need, it is at most ten seconds old";

    /// How far the table is, as far as it said so.
    fn far(&self) -> Far {
        let standing = self.reader.standing();
        Far {
            position: standing.map_or_else(Version::default, |standing| standing.pulse.position),
            age: self.reader.age(),
        }
    }

    fn is_ready(&self) -> bool {
        let standing = self.reader.standing();
        standing.is_some_and(|standing| standing.facts.last_synced.is_some())
    }

    async fn look_up_many(
        &self,
        keys: &[(&str, &str)],
        least: Option<Version>,
    ) -> Vec<Result<Seen<Lookup>, Failure>> {
        let looked = self.reader.look_up_many(keys, least).await;
        let seen = looked.into_iter().map(|one| match one {
            Ok(looked) => Ok(looked.into()),
            Err(why) => Err(self.failure(why)),
        });
        seen.collect()
    }

    async fn look_up(
        &self,
        kind: &str,
        key: &str,
        least: Option<Version>,
    ) -> Result<Seen<Lookup>, Failure> {
        let looked = self.reader.look_up(kind, key, least).await;
        looked.map(Seen::from).map_err(|why| self.failure(why))
    }

    async fn contexts(&self, asked: Asked) -> Result<Response, Failure> {
        let standing = self.reader.standing().ok_or(Failure::NotReady)?;
        let seen = match TenantId::new(&asked.tenant) {
            Ok(tenant) => self.reader.whole(&tenant).await.map(Seen::from),
            // Text that is no tenant is one that nobody has.
            Err(_) => Ok(Seen {
                found: None,
                far: self.far(),
            }),
        };
        let seen = seen.map_err(|error| self.failure(error.to_string()))?;
        if seen.found.is_none() {
            let is_complete = |kind: &String| standing.complete.iter().any(|k| k.as_str() == *kind);
            let all = || standing.complete.len() == standing.facts.synced_kinds.len();
            let knows = match asked.kinds.is_empty() {
                true => self.is_ready() && all(),
                false => asked.kinds.iter().all(is_complete),
            };
            if !knows {
                return Err(Failure::NotReady);
            }
        }
        tenant::answer(asked, seen.found, seen.far)
    }

    fn status(&self) -> Value {
        let standing = self.reader.standing();
        let facts = standing.as_ref().map(|standing| &standing.facts);
        let pulse = standing.as_ref().map(|standing| &standing.pulse);
        let (cached, units) = (self.reader.cached(), self.reader.units());
        let age = self.reader.age();
        let every = self.reader.refresh_after();
        json!({
            "region": self.region,
            "table": self.table,
            "store": facts.map(|facts| facts.store.to_string()),
            "release": RELEASE,
            "ready": self.is_ready(),
            "granted_epoch": facts.map(|facts| facts.granted.epoch),
            "released": facts.is_some_and(|facts| facts.released),
            "synced": facts.is_some_and(|facts| facts.last_synced.is_some()),
            "synced_kinds": facts.map(|facts| &facts.synced_kinds),
            "position": self.far().position.to_string(),
            "age_seconds": age.map(|age| age.as_secs_f64()),
            // Durable at T, in every cache by T and this.
            "in_caches_after_seconds": every.as_secs_f64(),
            "bundles": pulse.map(|pulse| pulse.bundles),
            "contexts": pulse.map(|pulse| pulse.contexts),
            "cache": {
                "contexts": cached.keys,
                "bytes": cached.bytes,
                "fills": cached.fills,
                "refreshes": cached.refreshes,
                "read_units": units.read,
            },
        })
    }

    fn set_metrics(&self) {
        let (cached, units) = (self.reader.cached(), self.reader.units());
        if let Some(standing) = self.reader.standing() {
            gauge!(names::CONTEXTS).set(standing.pulse.contexts as f64);
            gauge!(names::BUNDLES).set(standing.pulse.bundles as f64);
        }
        gauge!(names::CACHED).set(cached.keys as f64);
        gauge!(names::CACHE_BYTES).set(cached.bytes as f64);
        counter!(names::TABLE_READS, "reason" => "fill").absolute(cached.fills);
        counter!(names::TABLE_READS, "reason" => "refresh").absolute(cached.refreshes);
        counter!(names::READ_UNITS).absolute(units.read as u64);
    }
}
