//! Whether a query gives the same rows however Postgres chooses to run it. One that does not (an aggregate without ORDER
//! BY, say) would look changed at every scan after a change of plan, and be pushed for nothing.

use super::definitions::Definition;
use super::query::{self, LIST, Tenants};
use super::statement::unnamed;
use super::{Source, SourceError, is_passing};
use sqlx::{Connection, PgConnection, Row};
use std::collections::BTreeSet;

/// Tenants that are built twice.
const SAMPLE: usize = 20;
/// Two ways to run the same query, as settings that favour them.
const PLANS: [&[&str]; 2] = [
    &["enable_nestloop", "enable_indexscan", "enable_bitmapscan"],
    &["enable_hashjoin", "enable_mergejoin", "enable_seqscan"],
];

impl Source {
    /// Builds a few tenants of a kind under two plans; a line if the results differ. A query that fails gives none: that
    /// is for others to say.
    ///
    /// # Errors
    /// [`SourceError`] if the database is in trouble.
    pub async fn check_stability(
        &self,
        definition: &Definition,
        tenant_type: &str,
        search_path: &str,
    ) -> Result<Option<String>, SourceError> {
        let doing = "building a sample twice";
        let failed = |e| self.error(doing, e);
        let mut tx = self.begin_looking(search_path).await.map_err(failed)?;
        let sample = format!(
            "{} LIMIT {SAMPLE}",
            query::tenants(definition, tenant_type, Tenants::All)
        );
        let listed = query::contexts(definition, tenant_type, LIST);
        let compared = async {
            let rows = unnamed(sample).fetch_all(&mut *tx).await?;
            let tenants: Vec<String> = rows.iter().filter_map(|r| r.get(0)).collect();
            let first = built(&mut tx, &listed, &tenants, PLANS[0]).await?;
            let second = built(&mut tx, &listed, &tenants, PLANS[1]).await?;
            Ok::<_, sqlx::Error>(first.symmetric_difference(&second).next().cloned())
        };
        match compared.await {
            Ok(None) => Ok(None),
            Ok(Some((tenant, key, _))) => Ok(Some(format!(
                "kind {}: the value of {key:?} of tenant {tenant:?} depends on how Postgres runs the query; \
                 an aggregate without ORDER BY, perhaps",
                definition.kind
            ))),
            Err(e) if is_passing(&e) => Err(self.error(doing, e)),
            Err(_) => Ok(None),
        }
    }
}

type Built = BTreeSet<(String, Option<String>, String)>;

async fn built(
    connection: &mut PgConnection,
    sql: &str,
    tenants: &[String],
    without: &[&str],
) -> Result<Built, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    for setting in without {
        let set = "SELECT set_config($1, 'off', true)";
        unnamed(set)
            .bind(setting.to_string())
            .execute(&mut *savepoint)
            .await?;
    }
    let query = unnamed(sql).bind(tenants.to_vec());
    let rows = query.fetch_all(&mut *savepoint).await?;
    savepoint.rollback().await?;
    Ok(rows
        .iter()
        .map(|r| (r.get(0), r.get(1), r.get(2)))
        .collect())
}
