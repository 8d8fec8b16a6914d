//! Regions that are given up. From the commit on every build gives them nothing; whoever has emptied their stores forgets
//! those, and never the region.

use super::audit::{self, Actor};
use super::definitions::SET_FINGERPRINT;
use super::statement::unnamed;
use super::{Source, SourceError};
use contexts::name::Region;
use serde_json::json;

impl Source {
    /// Gives a region up, with the act. Once more changes nothing.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn decommission(&self, region: &Region, by: &Actor) -> Result<(), SourceError> {
        let doing = "giving up a region";
        let mut tx = self.change_content(doing).await?;
        let sql = "INSERT INTO hubcast.decommissioned (region, who) VALUES ($1, $2) ON CONFLICT (region) DO NOTHING";
        unnamed(sql)
            .bind(region.to_string())
            .bind(by.who.clone())
            .execute(&mut *tx)
            .await
            .map_err(|e| self.error(doing, e))?;
        let act = audit::record(by, "decommission", &json!({ "region": region }));
        self.commit_content(tx, doing, &act).await
    }

    /// The stores of a region are empty: nothing is sent to them any more, and nobody waits for them.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn forget_stores(&self, region: &Region) -> Result<(), SourceError> {
        let doing = "forgetting the stores of a region";
        let failed = |e| self.error(doing, e);
        let mut tx = self.change_content(doing).await?;
        unnamed("DELETE FROM hubcast.stores WHERE region = $1")
            .bind(region.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        self.commit_content(tx, doing, SET_FINGERPRINT).await
    }
}
