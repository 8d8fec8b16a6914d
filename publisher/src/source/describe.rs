//! What a query of the configuration returns, and what is wrong with it. Changes nothing: everything happens in a
//! READ ONLY transaction, under the settings of a build.

use super::definitions::Definition;
use super::query::{self, LIST, Tenants};
use super::statement::unnamed;
use super::{Source, SourceError, is_passing, message};
use crate::config::{Compiled, ContextConfig};
use sqlx::{Connection, PgConnection, Row};
use std::collections::BTreeSet;

/// A query that can be published.
#[derive(Debug)]
pub struct Described {
    /// The definition that it becomes.
    pub definition: Definition,
    /// The type of its tenant column.
    pub tenant_type: String,
    /// What is odd and stops nothing.
    pub warnings: Vec<String>,
}

/// Why a query cannot be published, or could not be looked at.
#[derive(Debug)]
pub enum Undescribed {
    /// The database is in trouble.
    Source(SourceError),
    /// The query is wrong: one line that says how and what to do.
    Wrong(String),
}

impl From<SourceError> for Undescribed {
    fn from(e: SourceError) -> Self {
        Self::Source(e)
    }
}

/// Stands for the list of tenants when a plan is asked for, so that it can be found in the plan.
const MARK: &str = "hubcast.tenants";

impl Source {
    /// The search path that the role has now, as explicit schemas.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn search_path(&self) -> Result<String, SourceError> {
        let failed = |e| self.error("reading the search path", e);
        // Behind a transaction pooler the connection may have the path that another client left on it.
        let begin = "BEGIN READ ONLY; SET LOCAL search_path TO DEFAULT";
        let mut tx = self.begin(begin).await.map_err(failed)?;
        let sql = "SELECT coalesce(string_agg(quote_ident(s), ', ' ORDER BY n), 'public') \
                   FROM unnest(current_schemas(false)) WITH ORDINALITY AS u(s, n)";
        let row = unnamed(sql).fetch_one(&mut *tx).await.map_err(failed)?;
        Ok(row.get(0))
    }

    /// Looks at a query.
    ///
    /// # Errors
    /// [`Undescribed::Wrong`] if it cannot be published.
    pub async fn describe(
        &self,
        context: &ContextConfig,
        search_path: &str,
    ) -> Result<Described, Undescribed> {
        let kind = &context.kind;
        let failed = |e| self.error("looking at a query", e);
        query::placeholders(&context.query)
            .map_err(|e| Undescribed::Wrong(format!("kind {kind}: {e}")))?;
        if let Some(why) = query::not_one_select(&context.query) {
            return Err(Undescribed::Wrong(format!(
                "kind {kind}: the query must be one SELECT; {why}"
            )));
        }
        if let Some(name) = query::unstable_function(&context.query) {
            return Err(Undescribed::Wrong(format!(
                "kind {kind}: the query uses {name}, whose result changes without anybody writing; \
                 publish the column and compare in the reader, or use the column `expires`"
            )));
        }
        let mut tx = self.begin_looking(search_path).await.map_err(failed)?;
        let described = self.examine(&mut tx, context).await;
        tx.rollback().await.map_err(failed)?;
        described
    }

    /// Begins a transaction that reads under the settings of a build, without a definition.
    pub(super) async fn begin_looking(
        &self,
        search_path: &str,
    ) -> sqlx::Result<sqlx::Transaction<'static, sqlx::Postgres>> {
        let mut tx = self.begin_snapshot().await?;
        unnamed("SELECT set_config('search_path', $1, true)")
            .bind(search_path.to_owned())
            .execute(&mut *tx)
            .await?;
        Ok(tx)
    }

    async fn examine(
        &self,
        tx: &mut PgConnection,
        context: &ContextConfig,
    ) -> Result<Described, Undescribed> {
        let kind = &context.kind;
        let wrong = |text: String| Undescribed::Wrong(format!("kind {kind}: {text}"));
        let bare = query::bare(&context.query);
        let columns = self.columns(tx, &bare, &wrong).await?;
        for needed in ["key", "tenant"] {
            if !columns.iter().any(|c| c == needed) {
                let have = columns.join(", ");
                return Err(wrong(format!(
                    "the query has no column `{needed}` (it has: {have}); name one with AS {needed}"
                )));
            }
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|c| !seen.insert(c.as_str())) {
            return Err(wrong(format!(
                "the query has two columns `{twice}`; name each differently"
            )));
        }
        let tenant_type = self.type_of(tx, &bare, "tenant", &wrong).await?;
        let has = |name: &str| columns.iter().any(|c| c == name);
        if has("regions") {
            let found = self.type_of(tx, &bare, "regions", &wrong).await?;
            if !matches!(found.as_str(), "text[]" | "character varying[]" | "name[]") {
                return Err(wrong(format!(
                    "the column `regions` is {found}; it must be text[]"
                )));
            }
        }
        if has("expires") {
            let found = self.type_of(tx, &bare, "expires", &wrong).await?;
            if found != "timestamp with time zone" {
                return Err(wrong(format!(
                    "the column `expires` is {found}; it must be timestamptz"
                )));
            }
        }
        let key_type = match context.watch.iter().any(|watch| watch.key.is_some()) {
            true => Some(self.type_of(tx, &bare, "key", &wrong).await?),
            false => None,
        };
        let definition = Definition {
            kind: kind.clone(),
            query: context.query.clone(),
            watch: context.watch.clone(),
            max_value_bytes: context.max_value_bytes,
            schema: context.schema.clone(),
            max_contexts: context.max_contexts,
            warn_contexts: context.warn_contexts,
            compiled: Compiled::default(),
            key_type,
            regions_required: context.regions_required,
            has_regions: has("regions"),
            has_expires: has("expires"),
        };
        self.try_out(tx, &definition, &tenant_type, &wrong).await?;
        let mut warnings = self.plan_warnings(tx, &definition, &tenant_type).await?;
        for watch in &context.watch {
            self.check_watch(tx, watch, (&bare, &tenant_type), &mut warnings, &wrong)
                .await?;
        }
        let warnings = warnings
            .into_iter()
            .map(|w| format!("kind {kind}: {w}"))
            .collect();
        Ok(Described {
            definition,
            tenant_type,
            warnings,
        })
    }

    pub(super) fn sort(
        &self,
        e: sqlx::Error,
        wrong: &impl Fn(String) -> Undescribed,
    ) -> Undescribed {
        match is_passing(&e) {
            true => Undescribed::Source(self.error("looking at a query", e)),
            false => wrong(format!("the query fails: {}", message(&e))),
        }
    }

    async fn columns(
        &self,
        tx: &mut PgConnection,
        bare: &str,
        wrong: &impl Fn(String) -> Undescribed,
    ) -> Result<Vec<String>, Undescribed> {
        let mut savepoint = tx.begin().await.map_err(|e| self.sort(e, wrong))?;
        // As a subquery: whatever is not one SELECT fails here, and never runs. The names are those of a row without
        // values, so no row is needed.
        let sql = format!(
            "SELECT json_object_keys(row_to_json(r)) FROM (SELECT q.* FROM (SELECT) AS one \
             LEFT JOIN (SELECT * FROM (\n{bare}\n) AS i LIMIT 0) AS q ON true) AS r"
        );
        let rows = unnamed(sql)
            .fetch_all(&mut *savepoint)
            .await
            .map_err(|e| self.sort(e, wrong))?;
        let columns = rows.iter().map(|r| r.get(0)).collect();
        savepoint
            .rollback()
            .await
            .map_err(|e| self.sort(e, wrong))?;
        Ok(columns)
    }

    async fn type_of(
        &self,
        tx: &mut PgConnection,
        bare: &str,
        column: &str,
        wrong: &impl Fn(String) -> Undescribed,
    ) -> Result<String, Undescribed> {
        let sql =
            format!("SELECT pg_typeof((SELECT q.{column} FROM (\n{bare}\n) AS q LIMIT 0))::text");
        let row = unnamed(sql).fetch_one(&mut *tx).await;
        Ok(row.map_err(|e| self.sort(e, wrong))?.get(0))
    }

    /// Asks for the rows of nobody, and for one row of anybody: privileges and row-level security show here.
    async fn try_out(
        &self,
        tx: &mut PgConnection,
        definition: &Definition,
        tenant_type: &str,
        wrong: &impl Fn(String) -> Undescribed,
    ) -> Result<(), Undescribed> {
        let listed = query::contexts(definition, tenant_type, LIST);
        let any = format!(
            "{} LIMIT 1",
            query::contexts(definition, tenant_type, Tenants::All)
        );
        let mut savepoint = tx.begin().await.map_err(|e| self.sort(e, wrong))?;
        let nobody: Vec<String> = Vec::new();
        unnamed(listed)
            .bind(nobody)
            .fetch_all(&mut *savepoint)
            .await
            .map_err(|e| self.sort(e, wrong))?;
        unnamed(any)
            .fetch_all(&mut *savepoint)
            .await
            .map_err(|e| self.sort(e, wrong))?;
        if let Some(key_type) = &definition.key_type {
            let types = (tenant_type, key_type.as_str());
            let of_none = Tenants::Listed("ARRAY[]::text[]");
            let keys = query::contexts_of_keys(definition, types, of_none, "ARRAY[]::text[]");
            unnamed(keys)
                .fetch_all(&mut *savepoint)
                .await
                .map_err(|e| self.sort(e, wrong))?;
        }
        savepoint.rollback().await.map_err(|e| self.sort(e, wrong))
    }

    /// Whether one tenant is found through an index. Judged with `enable_seqscan = off`, since small tables are read
    /// whole in any case.
    async fn plan_warnings(
        &self,
        tx: &mut PgConnection,
        definition: &Definition,
        tenant_type: &str,
    ) -> Result<Vec<String>, SourceError> {
        let failed = |e| self.error("asking for the plan of a query", e);
        let marked = format!("current_setting('{MARK}', true)::text[]");
        let sql = query::contexts(definition, tenant_type, Tenants::Listed(&marked));
        let mut savepoint = tx.begin().await.map_err(failed)?;
        unnamed("SELECT set_config('enable_seqscan', 'off', true)")
            .execute(&mut *savepoint)
            .await
            .map_err(failed)?;
        let query = unnamed(format!("EXPLAIN (FORMAT JSON) {sql}"));
        let plan: serde_json::Value = query
            .fetch_one(&mut *savepoint)
            .await
            .map_err(failed)?
            .get(0);
        savepoint.rollback().await.map_err(failed)?;
        let mut found = BTreeSet::new();
        unindexed(&plan, &mut found);
        let warning = |place: String| {
            format!(
                "{place} is read whole to find one tenant; add an index on its tenant column, or put {{{{tenants(column)}}}} where the condition belongs"
            )
        };
        Ok(found.into_iter().map(warning).collect())
    }
}

/// Whether the condition on tenants is one of an index somewhere in a part of a plan.
fn indexed(plan: &serde_json::Value) -> bool {
    match plan {
        serde_json::Value::Array(items) => items.iter().any(indexed),
        serde_json::Value::Object(node) => {
            let condition = node.get("Index Cond").and_then(|v| v.as_str());
            condition.is_some_and(|text| text.contains(MARK)) || node.values().any(indexed)
        }
        _ => false,
    }
}

/// The places of a plan where the condition on tenants is a filter rather than a condition of an index.
fn unindexed(plan: &serde_json::Value, found: &mut BTreeSet<String>) {
    match plan {
        serde_json::Value::Array(items) => items.iter().for_each(|item| unindexed(item, found)),
        serde_json::Value::Object(node) => {
            let filtered = [
                "Filter",
                "Join Filter",
                "Hash Cond",
                "Merge Cond",
                "One-Time Filter",
            ]
            .iter()
            .any(|key| {
                node.get(*key)
                    .and_then(|v| v.as_str())
                    .is_some_and(|text| text.contains(MARK))
            });
            let text = |key: &str| node.get(key).and_then(|v| v.as_str());
            // With {{tenants(..)}} the condition stands inside, at an index, and outside again.
            if filtered && text("Node Type") != Some("Result") && !indexed(plan) {
                let place = match (text("Relation Name"), text("Node Type")) {
                    (Some(table), _) => format!("the table {table}"),
                    (None, Some(node)) => format!("the result of a part of the query ({node})"),
                    _ => "a part of the query".to_owned(),
                };
                found.insert(place);
            }
            node.values().for_each(|value| unindexed(value, found));
        }
        _ => {}
    }
}
