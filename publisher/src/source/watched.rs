//! What a watch of the configuration names, and what is wrong with it. Changes nothing.

use super::describe::Undescribed;
use super::statement::unnamed;
use super::triggers::facts::{self, Table};
use super::triggers::plan;
use super::{Source, message};
use crate::config::Watch;
use sqlx::{Connection, PgConnection, Row};

impl Source {
    /// Looks at a watch.
    ///
    /// # Errors
    /// [`Undescribed::Wrong`] if no change trigger can be made from it.
    pub(super) async fn check_watch(
        &self,
        tx: &mut PgConnection,
        watch: &Watch,
        (bare, tenant_type): (&str, &str),
        warnings: &mut Vec<String>,
        wrong: &impl Fn(String) -> Undescribed,
    ) -> Result<(), Undescribed> {
        let name = &watch.table;
        let facts = facts::read(&mut *tx, std::slice::from_ref(name)).await;
        let facts =
            facts.map_err(|e| wrong(format!("watch: the table {name}: {}", message(&e))))?;
        let table = plan::target(watch, &facts).map_err(|why| wrong(format!("watch: {why}")))?;
        if let Some(column) = &watch.tenant {
            let found = table.columns.iter().find(|c| c.name == *column);
            if let Some(found) = found.filter(|c| !are_written_alike(&c.sql_type, tenant_type)) {
                warnings.push(format!(
                    "watch: {name}.{column} is {}, the tenants of the query are {tenant_type}",
                    found.sql_type
                ));
            }
        }
        if watch.columns.is_some() && table.key.is_empty() {
            warnings.push(format!(
                "watch: the table {name} has no primary key, so every UPDATE of it counts, whatever its columns"
            ));
        }
        if let Some(key) = &watch.key {
            self.check_key(tx, bare, key, table, wrong).await?;
        }
        match watch.tenants.as_deref() {
            None | Some("all") => Ok(()),
            Some(query) => {
                self.check_tenants_query(tx, query, table, name, wrong)
                    .await
            }
        }
    }

    /// Whether the column `key` of a query is this column of the table, as it is: then what a changed row has there is the key
    /// of a context, and its index finds the row.
    async fn check_key(
        &self,
        tx: &mut PgConnection,
        bare: &str,
        key: &str,
        table: &Table,
        wrong: &impl Fn(String) -> Undescribed,
    ) -> Result<(), Undescribed> {
        let sql = format!(
            "SELECT q.key FROM (SELECT) AS one LEFT JOIN (SELECT * FROM (\n{bare}\n) AS i LIMIT 0) AS q ON true"
        );
        let row = unnamed(sql).fetch_one(&mut *tx).await;
        let row = row.map_err(|e| self.sort(e, wrong))?;
        let column = row.column(0);
        let (relation, number) = (column.relation_id(), column.relation_attribute_no());
        let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum = $2";
        let found = unnamed(sql).bind(relation).bind(number).fetch_optional(tx);
        let found = found.await.map_err(|e| self.sort(e, wrong))?;
        let name: Option<String> = found.map(|row| row.get(0));
        if relation.map(|oid| oid.0) == Some(table.oid) && name.as_deref() == Some(key) {
            return Ok(());
        }
        Err(wrong(format!(
            "watch: key = {key:?} says that the query returns the column {key} of {} as `key`, as it is, without a cast and \
             from no UNION, but it does not; correct that, or leave key out",
            table.name
        )))
    }

    /// Asks a `tenants` query about no rows.
    async fn check_tenants_query(
        &self,
        tx: &mut PgConnection,
        query: &str,
        table: &Table,
        name: &str,
        wrong: &impl Fn(String) -> Undescribed,
    ) -> Result<(), Undescribed> {
        let (recorded, others): (Vec<_>, Vec<_>) =
            table.columns.iter().partition(|c| c.base != "json");
        let columns: Vec<&str> = recorded.iter().map(|c| c.quoted.as_str()).collect();
        let sql = format!(
            "WITH changed AS (SELECT {} FROM {} LIMIT 0) SELECT * FROM (\n{query}\n) AS q LIMIT 0",
            columns.join(", "),
            table.name
        );
        let mut savepoint = tx.begin().await.map_err(|e| self.sort(e, wrong))?;
        let asked = unnamed(sql).fetch_all(&mut *savepoint).await;
        asked.map_err(|e| {
            let others: Vec<&str> = others.iter().map(|c| c.quoted.as_str()).collect();
            let hint = match others.is_empty() {
                true => String::new(),
                false => format!(
                    "; columns of type json are not in `changed` ({}), jsonb is",
                    others.join(", ")
                ),
            };
            wrong(format!(
                "watch: the tenants query on {name} fails: {}{hint}",
                message(&e)
            ))
        })?;
        savepoint.rollback().await.map_err(|e| self.sort(e, wrong))
    }
}

/// Whether values of two types, where they are equal, are the same text, by which a tenant is called.
fn are_written_alike(one: &str, other: &str) -> bool {
    const ALIKE: [&[&str]; 2] = [
        &["smallint", "integer", "bigint"],
        &["text", "character varying"],
    ];
    let both = |types: &&[&str]| types.contains(&one) && types.contains(&other);
    one == other || ALIKE.iter().any(both)
}
