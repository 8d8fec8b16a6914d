//! What the guard counted, so that a new writer goes on where the last one stopped: what left or changed within its window,
//! and under which query each kind of a region was found in step.

use super::statement::{Statement, texts};
use super::{Source, SourceError};
use crate::writer::{Act, Millis, Passed, Settled};
use contexts::name::{Kind, Region};
use contexts::version::Term;
use sqlx::Row;

impl Source {
    /// What left or changed within the last ten minutes.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn passed(&self) -> Result<Vec<Passed>, SourceError> {
        let sql = "SELECT region, kind, count, (extract(epoch FROM now() - at) * 1000)::bigint, act FROM hubcast.removals \
                   WHERE at > now() - interval '10 minutes' ORDER BY at";
        let doing = "reading what was removed and changed";
        let rows = self.fetch_all(doing, Statement::new(sql)).await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Some(Passed {
                act: match row.get::<&str, _>(4) {
                    "changed" => Act::Changed,
                    _ => Act::Removed,
                },
                region: Region::new(row.get(0)).ok()?,
                kind: Kind::new(row.get(1)).ok()?,
                count: usize::try_from(row.get::<i64, _>(2)).ok()?,
                ago: Millis::try_from(row.get::<i64, _>(3)).unwrap_or(0),
            })
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Writes down what passed just now, as the writer of a term, and forgets what counts no more.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn record_passed(&self, term: Term, passed: &[Passed]) -> Result<(), SourceError> {
        let counts: Vec<String> = passed.iter().map(|p| p.count.to_string()).collect();
        let sql = format!(
            "WITH old AS (DELETE FROM hubcast.removals WHERE at < now() - interval '10 minutes') \
             INSERT INTO hubcast.removals (region, kind, count, act) \
             SELECT r, k, c::bigint, a FROM unnest({}, {}, {}, {}) AS u(r, k, c, a) WHERE {}",
            texts(passed.iter().map(|p| p.region.as_str())),
            texts(passed.iter().map(|p| p.kind.as_str())),
            texts(counts.iter().map(String::as_str)),
            texts(passed.iter().map(|p| p.act.word())),
            self.in_office(term),
        );
        let doing = "writing down what was removed and changed";
        self.execute(doing, Statement::new(sql)).await?;
        Ok(())
    }

    /// Under which query each kind of a region was found in step.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn settled(&self) -> Result<Vec<Settled>, SourceError> {
        let sql = "SELECT region, kind, query FROM hubcast.settled";
        let doing = "reading which queries were settled";
        let rows = self.fetch_all(doing, Statement::new(sql)).await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Some(Settled {
                region: Region::new(row.get(0)).ok()?,
                kind: Kind::new(row.get(1)).ok()?,
                query: row.get::<i64, _>(2).cast_unsigned(),
            })
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Writes that down, as the writer of a term.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn record_settled(&self, term: Term, settled: &[Settled]) -> Result<(), SourceError> {
        let queries = settled.iter().map(|s| s.query.cast_signed().to_string());
        let queries: Vec<String> = queries.collect();
        let sql = format!(
            "INSERT INTO hubcast.settled (region, kind, query) \
             SELECT r, k, q::bigint FROM unnest({}, {}, {}) AS u(r, k, q) WHERE {} \
             ON CONFLICT (region, kind) DO UPDATE SET query = excluded.query",
            texts(settled.iter().map(|s| s.region.as_str())),
            texts(settled.iter().map(|s| s.kind.as_str())),
            texts(queries.iter().map(String::as_str)),
            self.in_office(term),
        );
        let doing = "writing down which queries are settled";
        self.execute(doing, Statement::new(sql)).await?;
        Ok(())
    }
}
