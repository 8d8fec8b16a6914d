//! The stop button: which regions and kinds are paused, kept in the database and read in the snapshot of every build.
//!
//! Of what is paused every context that the hub has is *held*: stores keep the value that they have. What the hub has
//! no longer is not held, so removals leave. There is nothing else to it: no store and no queue knows of a pause, and
//! whoever becomes the writer next reads the same rows.

use super::audit::{self, Actor};
use super::definitions::SET_FINGERPRINT;
use super::statement::{Statement, texts, unnamed};
use super::{Source, SourceError};
use contexts::name::{Kind, Region, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Postgres, Row, Transaction};
use std::collections::BTreeSet;
use std::fmt;

/// One pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The region; none for all of them.
    pub region: Option<Region>,
    /// The kind; none for all of them.
    pub kind: Option<Kind>,
    /// Why.
    pub reason: String,
}

impl Pause {
    /// Whether contexts of this kind keep their values in this region.
    pub fn stops(&self, region: &Region, kind: &Kind) -> bool {
        self.region.as_ref().is_none_or(|r| r == region)
            && self.kind.as_ref().is_none_or(|k| k == kind)
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.region, &self.kind) {
            (None, None) => f.write_str("everything")?,
            (Some(region), None) => write!(f, "region {region}")?,
            (None, Some(kind)) => write!(f, "kind {kind}")?,
            (Some(region), Some(kind)) => write!(f, "kind {kind} in region {region}")?,
        }
        write!(f, " is paused: {}", self.reason)
    }
}

/// All of them, as a build finds them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pauses {
    /// The pauses.
    pub all: Vec<Pause>,
    /// Tenants that are published all the same.
    pub exceptions: BTreeSet<TenantId>,
}

impl Pauses {
    /// Those that count for a tenant.
    pub fn of(&self, tenant: &TenantId) -> &[Pause] {
        match self.exceptions.contains(tenant) {
            true => &[],
            false => &self.all,
        }
    }
}

/// A pause, for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paused {
    /// What is paused, and why.
    #[serde(flatten)]
    pub pause: Pause,
    /// Who did it.
    pub who: String,
    /// When.
    pub seconds_ago: f64,
}

impl Source {
    /// Pauses a region, a kind, or everything. From the commit on every build sees it; what was built before is the
    /// writer's to call back.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn pause(&self, pause: &Pause, by: &Actor) -> Result<(), SourceError> {
        let doing = "writing a pause";
        let failed = |e| self.error(doing, e);
        let mut tx = self.change_content(doing).await?;
        let sql = "INSERT INTO hubcast.pauses (region, kind, reason, who) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (coalesce(region, ''), coalesce(kind, '')) DO UPDATE \
                   SET reason = excluded.reason, who = excluded.who, at = now()";
        let region = pause.region.as_ref().map(ToString::to_string);
        let kind = pause.kind.as_ref().map(ToString::to_string);
        unnamed(sql)
            .bind(region)
            .bind(kind)
            .bind(pause.reason.clone())
            .bind(by.who.clone())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        self.commit_content(tx, doing, &audit::record(by, "pause", &json!(pause)))
            .await
    }

    /// Ends the pauses of a region, of a kind, of a kind in a region, or all of them, and returns those that it ended.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn resume(
        &self,
        region: Option<&Region>,
        kind: Option<&Kind>,
        reason: &str,
        by: &Actor,
    ) -> Result<Vec<Pause>, SourceError> {
        let doing = "ending a pause";
        let failed = |e| self.error(doing, e);
        let mut tx = self.change_content(doing).await?;
        let sql = "WITH gone AS (DELETE FROM hubcast.pauses WHERE ($1 IS NULL OR region = $1) AND ($2 IS NULL OR kind = $2) \
                    RETURNING region, kind, reason) SELECT coalesce(json_agg(gone), '[]')::text FROM gone";
        let row = unnamed(sql)
            .bind(region.map(ToString::to_string))
            .bind(kind.map(ToString::to_string))
            .fetch_one(&mut *tx)
            .await
            .map_err(failed)?;
        let ended: Vec<Pause> =
            serde_json::from_str(row.get(0)).map_err(|e| SourceError::Failed {
                what: doing.into(),
                why: e.to_string(),
            })?;
        let sql =
            "DELETE FROM hubcast.pause_exceptions WHERE NOT EXISTS (SELECT FROM hubcast.pauses)";
        unnamed(sql).execute(&mut *tx).await.map_err(failed)?;
        let what = json!({ "region": region, "kind": kind, "reason": reason, "ended": ended });
        self.commit_content(tx, doing, &audit::record(by, "resume", &what))
            .await?;
        Ok(ended)
    }

    /// Lets some tenants through although they are paused, until [`Source::end_exceptions`].
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn except(&self, tenants: &[TenantId], by: &Actor) -> Result<(), SourceError> {
        let doing = "writing an exception from a pause";
        let mut tx = self.change_content(doing).await?;
        let sql = format!(
            "INSERT INTO hubcast.pause_exceptions (tenant, who) SELECT t, $1 FROM unnest({}) AS t ON CONFLICT (tenant) DO NOTHING",
            texts(tenants.iter().map(TenantId::as_str))
        );
        let written = unnamed(sql).bind(by.who.clone()).execute(&mut *tx).await;
        written.map_err(|e| self.error(doing, e))?;
        let act = audit::record(by, "republish despite the pause", &audit::named(tenants));
        self.commit_content(tx, doing, &act).await
    }

    /// Those tenants are paused like all others again.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn end_exceptions(&self, tenants: &[TenantId]) -> Result<(), SourceError> {
        let doing = "ending an exception from a pause";
        let tx = self.change_content(doing).await?;
        let sql = format!(
            "DELETE FROM hubcast.pause_exceptions WHERE tenant = ANY({})",
            texts(tenants.iter().map(TenantId::as_str))
        );
        self.commit_content(tx, doing, &sql).await
    }

    /// What is paused now, and the tenants that are let through.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn paused(&self) -> Result<(Vec<Paused>, Vec<TenantId>), SourceError> {
        let sql = "SELECT coalesce(json_agg(json_build_object('region', region, 'kind', kind, 'reason', reason, 'who', who, \
                   'seconds_ago', extract(epoch FROM now() - at)::float8) ORDER BY id), '[]')::text, \
                   (SELECT coalesce(json_agg(tenant ORDER BY tenant), '[]')::text FROM hubcast.pause_exceptions) FROM hubcast.pauses";
        let doing = "reading what is paused";
        let row = self.fetch_one(doing, Statement::new(sql)).await?;
        let damaged = |e: serde_json::Error| SourceError::Failed {
            what: doing.into(),
            why: e.to_string(),
        };
        let paused = serde_json::from_str(row.get(0)).map_err(damaged)?;
        Ok((paused, serde_json::from_str(row.get(1)).map_err(damaged)?))
    }

    /// Begins a change of what shapes content. One at a time, so that the fingerprint is of all of them.
    pub(super) async fn change_content(
        &self,
        doing: &str,
    ) -> Result<Transaction<'static, Postgres>, SourceError> {
        let failed = |e| self.error(doing, e);
        let mut tx = self.begin("BEGIN").await.map_err(failed)?;
        let lock = unnamed("SELECT FROM hubcast.settings FOR UPDATE");
        lock.execute(&mut *tx).await.map_err(failed)?;
        Ok(tx)
    }

    /// Does one statement more, writes the fingerprint of what shapes content now, and commits.
    pub(super) async fn commit_content(
        &self,
        mut tx: Transaction<'static, Postgres>,
        doing: &str,
        last: &str,
    ) -> Result<(), SourceError> {
        let failed = |e| self.error(doing, e);
        for sql in [last, SET_FINGERPRINT] {
            unnamed(sql).execute(&mut *tx).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_stops_its_region_and_kind_and_nothing_else() {
        let (region, kind) = (
            Region::new("eu").expect("region"),
            Kind::new("k").expect("kind"),
        );
        let (other, kind2) = (
            Region::new("us").expect("region"),
            Kind::new("l").expect("kind"),
        );
        let pause = |region: Option<&Region>, kind: Option<&Kind>| Pause {
            region: region.cloned(),
            kind: kind.cloned(),
            reason: "why".into(),
        };
        let stops = |p: Pause| {
            [
                p.stops(&region, &kind),
                p.stops(&region, &kind2),
                p.stops(&other, &kind),
            ]
        };
        assert_eq!(stops(pause(None, None)), [true, true, true]);
        assert_eq!(stops(pause(Some(&region), None)), [true, true, false]);
        assert_eq!(stops(pause(None, Some(&kind))), [true, false, true]);
        assert_eq!(
            stops(pause(Some(&region), Some(&kind))),
            [true, false, false]
        );
    }
}
