//! How much does not leave because somebody or the guard wants it so, and since when. Counts, never names: it is for
//! metrics.

use super::statement::Statement;
use super::{Source, SourceError};
use serde::{Deserialize, Serialize};
use sqlx::Row;

/// Holds that are counted; beyond that, many are many.
const COUNTED: u32 = 1_000_000;

/// What is stopped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// Pauses.
    pub pauses: u64,
    /// Since when the oldest of them is, in seconds; 0 without one.
    pub paused_seconds: f64,
    /// Contexts whose removal the guard holds and nobody decided.
    pub removals: u64,
    /// Since when the oldest of them is, in seconds; 0 without one.
    pub removals_seconds: f64,
    /// Contexts whose change the guard holds and nobody decided.
    #[serde(default)]
    pub changes: u64,
    /// Since when the oldest of them is, in seconds; 0 without one.
    #[serde(default)]
    pub changes_seconds: f64,
    /// New contexts that are beyond a budget.
    #[serde(default)]
    pub beyond: u64,
    /// Contexts that stay as they are since a person decided so.
    #[serde(default)]
    pub kept: u64,
}

impl Source {
    /// Counts what is stopped.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn stopped(&self) -> Result<Stopped, SourceError> {
        let age = |reason: &str| {
            format!(
                "coalesce(extract(epoch FROM now() - min(held_at) FILTER (WHERE reason = '{reason}')), 0)::float8 AS {reason}_age"
            )
        };
        let sql = format!(
            "SELECT p.n, p.age, h.removed, h.removed_age, h.changed, h.changed_age, h.beyond, k.n FROM \
             (SELECT count(*) AS n, coalesce(extract(epoch FROM now() - min(at)), 0)::float8 AS age FROM hubcast.pauses) p, \
             (SELECT count(*) FILTER (WHERE reason = 'removed') AS removed, count(*) FILTER (WHERE reason = 'changed') AS changed, \
              count(*) FILTER (WHERE reason = 'budget') AS beyond, {}, {} FROM \
              (SELECT reason, held_at FROM hubcast.holds WHERE state = 'held' LIMIT {COUNTED}) held) h, \
             (SELECT count(*) AS n FROM (SELECT FROM hubcast.holds WHERE state = 'dropped' LIMIT {COUNTED}) kept) k",
            age("removed"),
            age("changed")
        );
        let row = self
            .fetch_one("counting what is stopped", Statement::new(sql))
            .await?;
        let count = |column: usize| u64::try_from(row.get::<i64, _>(column)).unwrap_or(0);
        Ok(Stopped {
            pauses: count(0),
            paused_seconds: row.get(1),
            removals: count(2),
            removals_seconds: row.get(3),
            changes: count(4),
            changes_seconds: row.get(5),
            beyond: count(6),
            kept: count(7),
        })
    }
}
