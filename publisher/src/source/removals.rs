//! What left within the guard's window, so that a new writer goes on counting where the last one stopped.

use super::statement::{Statement, texts};
use super::{Source, SourceError};
use crate::writer::{Millis, Removals};
use contexts::name::{Kind, Region};
use contexts::version::Term;
use sqlx::Row;

impl Source {
    /// What left within the last ten minutes.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn removals(&self) -> Result<Vec<Removals>, SourceError> {
        let sql = "SELECT region, kind, count, (extract(epoch FROM now() - at) * 1000)::bigint FROM hubcast.removals \
                   WHERE at > now() - interval '10 minutes' ORDER BY at";
        let doing = "reading what was removed";
        let rows = self.fetch_all(doing, Statement::new(sql)).await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Some(Removals {
                region: Region::new(row.get(0)).ok()?,
                kind: Kind::new(row.get(1)).ok()?,
                count: usize::try_from(row.get::<i64, _>(2)).ok()?,
                ago: Millis::try_from(row.get::<i64, _>(3)).unwrap_or(0),
            })
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Writes down what left just now, as the writer of a term, and forgets what counts no more.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn record_removals(
        &self,
        term: Term,
        removed: &[Removals],
    ) -> Result<(), SourceError> {
        let counts: Vec<String> = removed.iter().map(|r| r.count.to_string()).collect();
        let sql = format!(
            "WITH old AS (DELETE FROM hubcast.removals WHERE at < now() - interval '10 minutes') \
             INSERT INTO hubcast.removals (region, kind, count) SELECT r, k, c::bigint FROM unnest({}, {}, {}) AS u(r, k, c) WHERE {}",
            texts(removed.iter().map(|r| r.region.as_str())),
            texts(removed.iter().map(|r| r.kind.as_str())),
            texts(counts.iter().map(String::as_str)),
            self.in_office(term),
        );
        self.execute("writing down what was removed", Statement::new(sql))
            .await?;
        Ok(())
    }
}
