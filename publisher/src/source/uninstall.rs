//! Removes everything that `migrate` put into the database.

use super::statement::Statement;
use super::{Source, SourceError};
use sqlx::Row;

/// In one transaction: afterwards there is all of it, or nothing.
const SQL: &str = include_str!("../../../migrations/uninstall.sql");

impl Source {
    /// Whether there is anything to remove.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn is_installed(&self) -> Result<bool, SourceError> {
        let sql = "SELECT to_regnamespace('hubcast') IS NOT NULL";
        let asked = self.fetch_one("looking for the schema hubcast", Statement::new(sql));
        Ok(asked.await?.get(0))
    }

    /// Removes the triggers, table by table, then the schema. Returns a line for each.
    ///
    /// # Errors
    /// [`SourceError`] names what could not be removed.
    pub async fn uninstall(&self) -> Result<Vec<String>, SourceError> {
        let work = self.plan_triggers([], "public").await?;
        let mut lines = self.remove_triggers(&work).await?;
        self.patiently("removing the schema hubcast", None, SQL)
            .await?;
        lines.push("schema hubcast: removed".into());
        Ok(lines)
    }
}
