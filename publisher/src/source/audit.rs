//! The audit trail: who did what, when, and from where. A record is written in the transaction of the act where the act
//! is one of the database, and before the act otherwise: what cannot be recorded is not done.
//!
//! It must never hold a secret: tokens are named, never written.

use super::statement::{Statement, quoted};
use super::{Source, SourceError};
use contexts::name::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::Row;

/// Acts that are kept.
pub(super) const KEPT: u32 = 100_000;
/// Tenants that an act names.
const NAMED: usize = 100;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The name of the token, the user of the operating system, or the publisher.
    pub who: String,
    /// The command and its machine, or the address of the caller.
    pub origin: String,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Act {
    /// Its number.
    pub id: i64,
    /// When, in UTC.
    pub at: String,
    /// Who.
    pub who: String,
    /// From where.
    pub origin: String,
    /// What sort of act.
    pub action: String,
    /// What it was about.
    pub what: Value,
}

/// The statement that records an act, for the transaction of the act.
pub(super) fn record(by: &Actor, action: &str, what: &Value) -> String {
    let values = [&by.who, &by.origin, action].map(quoted);
    format!(
        "WITH act AS (INSERT INTO hubcast.audit (who, origin, action, what) VALUES ({}, {}::jsonb) RETURNING id) \
         DELETE FROM hubcast.audit USING act WHERE audit.id <= act.id - {KEPT}",
        values.join(", "),
        quoted(&what.to_string())
    )
}

/// Tenants as an act names them.
pub fn named(tenants: &[TenantId]) -> Value {
    json!({ "tenants": tenants.iter().take(NAMED).collect::<Vec<_>>(), "count": tenants.len() })
}

impl Source {
    /// Records an act.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn audit(&self, by: &Actor, action: &str, what: &Value) -> Result<(), SourceError> {
        let statement = Statement::new(record(by, action, what));
        self.execute("recording who did what", statement).await?;
        Ok(())
    }

    /// The last acts, the newest first.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn acts(&self, limit: u32) -> Result<Vec<Act>, SourceError> {
        let sql = format!(
            "SELECT coalesce(json_agg(a), '[]')::text FROM (SELECT id, to_char(at AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS at, who, origin, action, what FROM hubcast.audit ORDER BY id DESC LIMIT {limit}) a"
        );
        let doing = "reading the audit trail";
        let row = self.fetch_one(doing, Statement::new(sql)).await?;
        serde_json::from_str(row.get(0)).map_err(|e| SourceError::Failed {
            what: doing.into(),
            why: e.to_string(),
        })
    }
}
