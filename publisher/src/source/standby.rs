//! Who stands by. Information for people only: nothing is decided by it.

use super::statement::Statement;
use super::{Source, SourceError};
use serde::{Deserialize, Serialize};
use sqlx::Row;

/// A publisher that would become the writer if the lease were free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standby {
    /// Its host name and process.
    pub host: String,
    /// When it was heard of last.
    pub seconds_ago: f64,
}

/// Whoever was not heard of for longer does not stand by.
const HEARD_WITHIN: &str = "interval '20 seconds'";

impl Source {
    /// Says that this process stands by.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn stand_by(&self, host: &str) -> Result<(), SourceError> {
        let sql = format!(
            "WITH old AS (DELETE FROM hubcast.standbys WHERE seen_at < now() - {HEARD_WITHIN} AND host <> $1) \
             INSERT INTO hubcast.standbys (host) VALUES ($1) ON CONFLICT (host) DO UPDATE SET seen_at = now()"
        );
        let statement = Statement::new(sql).bind(host);
        self.execute("saying that this publisher stands by", statement)
            .await?;
        Ok(())
    }

    /// This process stands by no more.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn leave_standby(&self, host: &str) -> Result<(), SourceError> {
        let statement = Statement::new("DELETE FROM hubcast.standbys WHERE host = $1").bind(host);
        self.execute("saying that this publisher stands by no more", statement)
            .await?;
        Ok(())
    }

    /// Who stands by, and how long ago the writer renewed its lease, in seconds.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn standbys(&self) -> Result<(Vec<Standby>, f64), SourceError> {
        let sql = format!(
            "SELECT NULL, extract(epoch FROM clock_timestamp() - renewed_at)::float8 FROM hubcast.writer UNION ALL \
             (SELECT host, extract(epoch FROM clock_timestamp() - seen_at)::float8 FROM hubcast.standbys \
              WHERE seen_at > now() - {HEARD_WITHIN} ORDER BY host)"
        );
        let rows = self
            .fetch_all("asking who stands by", Statement::new(sql))
            .await?;
        let (mut standbys, mut renewed) = (Vec::new(), 0.0);
        for row in rows {
            let seconds_ago: f64 = row.get(1);
            match row.get(0) {
                Some(host) => standbys.push(Standby { host, seconds_ago }),
                None => renewed = seconds_ago,
            }
        }
        Ok((standbys, renewed))
    }
}
