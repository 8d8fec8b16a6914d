//! The ranges of a scan: about a thousand tenants each, half-open, together covering everything that sorts.
//!
//! Bounds matter only for speed. They are read by keyset from the largest watched table that has an index on its
//! tenant column; without one, the scan is a single range.

use super::definitions::Definitions;
use super::query;
use super::statement::unnamed;
use super::{Source, SourceError};
use crate::writer::{BuiltBatch, TenantRange};
use sqlx::{PgConnection, Row};

/// Tenants in a range, about.
const TENANTS: i64 = 1_000;

impl Source {
    /// Reads the bounds, and looks for rows that no range can contain because they have no tenant.
    pub(super) async fn read_bounds(&self) -> Result<BuiltBatch, SourceError> {
        let (mut tx, definitions) = self.snapshot().await?;
        let mut bounds = Vec::new();
        if let Some((table, column)) = self.bounds_table(&mut tx, &definitions).await? {
            bounds = self
                .keyset(&mut tx, &definitions.tenant_type, &table, &column)
                .await?;
        }
        let problems = self.tenantless(&mut tx, &definitions).await?;
        tx.rollback()
            .await
            .map_err(|e| self.error("ending the reading of bounds", e))?;
        Ok(BuiltBatch {
            ranges: ranges(bounds),
            problems,
            ..BuiltBatch::default()
        })
    }

    /// The largest table of a watch with a tenant column of the tenants' type and an index that begins with it, quoted.
    async fn bounds_table(
        &self,
        connection: &mut PgConnection,
        definitions: &Definitions,
    ) -> Result<Option<(String, String)>, SourceError> {
        let watches = definitions.kinds.iter().flat_map(|d| &d.watch);
        let (mut tables, mut columns) = (Vec::new(), Vec::new());
        for watch in watches {
            if let Some(column) = &watch.tenant {
                tables.push(watch.table.clone());
                columns.push(column.clone());
            }
        }
        // An index of a partitioned table is in pg_index like any other; its size is that of its partitions.
        let sql = "SELECT c.oid::regclass::text, quote_ident(a.attname) \
                   FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(tab, col, nth) \
                   JOIN pg_class c ON c.oid = to_regclass(w.tab) \
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.col AND NOT a.attisdropped \
                    AND format_type(a.atttypid, NULL) = format_type(to_regtype($3), NULL) \
                   WHERE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid \
                    AND i.indpred IS NULL AND i.indkey[0] = a.attnum) \
                   ORDER BY (SELECT sum(greatest(p.reltuples, 0)) FROM pg_class p \
                    WHERE p.oid = c.oid OR p.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid)) \
                    DESC NULLS LAST, w.nth LIMIT 1";
        let row = unnamed(sql)
            .bind(tables)
            .bind(columns)
            .bind(definitions.tenant_type.clone())
            .fetch_optional(&mut *connection)
            .await
            .map_err(|e| self.error("looking for a table to divide the tenants by", e))?;
        Ok(row.map(|r| (r.get(0), r.get(1))))
    }

    async fn keyset(
        &self,
        connection: &mut PgConnection,
        tenant_type: &str,
        table: &str,
        column: &str,
    ) -> Result<Vec<String>, SourceError> {
        let mut bounds: Vec<String> = Vec::new();
        loop {
            let after = match bounds.is_empty() {
                true => format!("{column} IS NOT NULL"),
                false => format!("{column} > $2::text::{tenant_type}"),
            };
            let sql = format!(
                "SELECT b::text FROM (SELECT DISTINCT {column} AS b FROM {table} WHERE {after} \
                 ORDER BY 1 OFFSET $1 LIMIT 1) AS n"
            );
            let mut query = unnamed(sql).bind(TENANTS);
            if let Some(last) = bounds.last() {
                query = query.bind(last.clone());
            }
            let next = query
                .fetch_optional(&mut *connection)
                .await
                .map_err(|e| self.error("reading the bounds of a scan", e))?;
            match next {
                Some(row) => bounds.push(row.get(0)),
                None => return Ok(bounds),
            }
        }
    }

    async fn tenantless(
        &self,
        connection: &mut PgConnection,
        definitions: &Definitions,
    ) -> Result<Vec<String>, SourceError> {
        use sqlx::Connection;
        let mut problems = Vec::new();
        for definition in &definitions.kinds {
            let doing = format!("kind {}", definition.kind);
            let sql = query::tenantless(definition, &definitions.tenant_type);
            let mut savepoint = connection
                .begin()
                .await
                .map_err(|e| self.error(&doing, e))?;
            let counted = unnamed(sql).fetch_one(&mut *savepoint).await;
            match counted.map(|row| row.get::<i64, _>(0)) {
                Ok(0) => {}
                Ok(n) => {
                    let many = if n >= 1_000 {
                        "1,000 or more rows have"
                    } else if n == 1 {
                        "a row has"
                    } else {
                        "rows have"
                    };
                    problems.push(format!(
                        "kind {}: {many} a NULL tenant ({n}); nobody gets them",
                        definition.kind
                    ));
                }
                Err(e) if super::is_passing(&e) => return Err(self.error(&doing, e)),
                // The ranges will say what is wrong with the query.
                Err(_) => {}
            }
            savepoint
                .rollback()
                .await
                .map_err(|e| self.error(&doing, e))?;
        }
        Ok(problems)
    }
}

/// Half-open ranges between the bounds, open at both ends.
fn ranges(bounds: Vec<String>) -> Vec<TenantRange> {
    let mut ranges = Vec::with_capacity(bounds.len() + 1);
    let mut from = None;
    for bound in bounds {
        ranges.push(TenantRange {
            from: from.take(),
            to: Some(bound.clone()),
        });
        from = Some(bound);
    }
    ranges.push(TenantRange { from, to: None });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_touch_and_are_open_at_both_ends() {
        assert_eq!(
            ranges(vec![]),
            [TenantRange {
                from: None,
                to: None
            }]
        );
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        let expected = [
            TenantRange {
                from: None,
                to: a.clone(),
            },
            TenantRange {
                from: a,
                to: b.clone(),
            },
            TenantRange { from: b, to: None },
        ];
        assert_eq!(ranges(vec!["a".into(), "b".into()]), expected);
    }
}
