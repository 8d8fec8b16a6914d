//! The ranges of a scan: about ten thousand rows each of the largest watched table that has an index on its tenant column,
//! half-open, together covering everything that sorts. Without such a table, the scan is a single range.
//!
//! Bounds matter only for speed and memory. They come from a sample of the pages of that table: to walk its whole index
//! took about a tenth as long as to read all contexts, while nothing else could be read.

use super::definitions::Definitions;
use super::query;
use super::statement::unnamed;
use super::{Source, SourceError, is_passing, message};
use crate::writer::{BuiltBatch, TenantRange};
use sqlx::{Connection, PgConnection, Row};

/// Rows of the table in a range, about: of ten contexts per tenant a thousand tenants.
const ROWS: f64 = 10_000.0;
/// Of the pages so much is read, in percent: some tens of them in each range, so that the rows of one page, which may all be
/// one tenant's, do not make it much larger or smaller than others.
const SAMPLE: f64 = 5.0;
/// A table of so many pages is read whole, and of no table more pages.
const PAGES_LEAST: f64 = 500.0;
const PAGES_MOST: f64 = 50_000.0;

/// The percentage of its pages that is read of a table.
fn sample(pages: f64) -> f64 {
    let wanted = (pages * SAMPLE / 100.0).clamp(PAGES_LEAST, PAGES_MOST);
    (wanted / pages.max(1.0) * 100.0).min(100.0)
}

impl Source {
    /// Reads the bounds.
    pub(super) async fn read_bounds(&self) -> Result<BuiltBatch, SourceError> {
        let (mut tx, definitions) = self.snapshot().await?;
        let (mut bounds, mut warnings) = (Vec::new(), Vec::new());
        if let Some(table) = self.bounds_table(&mut tx, &definitions).await? {
            match self.bounds(&mut tx, &table).await? {
                Ok(found) => bounds = found,
                Err(why) => warnings.push(format!(
                    "the scan cannot be divided, for table {} cannot be read ({why}): it reads all tenants at once, which takes \
                     memory",
                    table.table
                )),
            }
        }
        tx.rollback()
            .await
            .map_err(|e| self.error("ending the reading of bounds", e))?;
        Ok(BuiltBatch {
            ranges: ranges(bounds),
            warnings,
            ..BuiltBatch::default()
        })
    }

    /// The largest table of a watch with a tenant column of the tenants' type and an index that begins with it.
    async fn bounds_table(
        &self,
        connection: &mut PgConnection,
        definitions: &Definitions,
    ) -> Result<Option<BoundsTable>, SourceError> {
        let watches = definitions.kinds.iter().flat_map(|d| &d.watch);
        let (mut tables, mut columns) = (Vec::new(), Vec::new());
        for watch in watches {
            if let Some(column) = &watch.tenant {
                tables.push(watch.table.clone());
                columns.push(column.clone());
            }
        }
        // An index of a partitioned table is in pg_index like any other; its size is that of its partitions.
        let sql = "SELECT c.oid::regclass::text, quote_ident(a.attname), \
                    (WITH RECURSIVE tree(oid) AS (SELECT c.oid UNION ALL \
                      SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid) \
                     SELECT (sum(pg_relation_size(tree.oid)) / current_setting('block_size')::int)::float8 FROM tree) \
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
        Ok(row.map(|r| BoundsTable {
            table: r.get(0),
            column: r.get(1),
            pages: r.get::<Option<f64>, _>(2).unwrap_or_default(),
        }))
    }

    /// The tenants at which a range ends and the next begins, in the order of their type; or why the table cannot be read. The
    /// queries of its kinds may be able to all the same, or say it themselves.
    async fn bounds(
        &self,
        connection: &mut PgConnection,
        of: &BoundsTable,
    ) -> Result<Result<Vec<String>, String>, SourceError> {
        let BoundsTable {
            table,
            column,
            pages,
        } = of;
        let percent = sample(*pages);
        let rows = (ROWS * percent / 100.0).ceil();
        let sql = format!(
            "SELECT {column}::text FROM (SELECT {column}, row_number() OVER (ORDER BY {column}) AS n \
             FROM {table} TABLESAMPLE SYSTEM ({percent}) WHERE {column} IS NOT NULL) AS s WHERE n % {rows} = 0 ORDER BY n"
        );
        let failed = |e| self.error("reading the bounds of a scan", e);
        let mut savepoint = connection.begin().await.map_err(failed)?;
        let sampled = unnamed(sql).fetch_all(&mut *savepoint).await;
        savepoint.rollback().await.map_err(failed)?;
        let sampled = match sampled {
            Err(e) if is_passing(&e) => return Err(failed(e)),
            Err(e) => return Ok(Err(message(&e))),
            Ok(sampled) => sampled,
        };
        let mut bounds: Vec<String> = sampled.iter().map(|row| row.get(0)).collect();
        // A tenant with many rows is met several times.
        bounds.dedup();
        Ok(Ok(bounds))
    }

    /// Looks for rows that no range can contain because they have no tenant; what is to be said of them.
    ///
    /// # Errors
    /// [`SourceError`] if the database is in trouble.
    pub(super) async fn tenantless(
        &self,
        connection: &mut PgConnection,
        definitions: &Definitions,
    ) -> Result<Vec<String>, SourceError> {
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
                Err(e) if is_passing(&e) => return Err(self.error(&doing, e)),
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

/// A table whose tenants divide a scan into ranges.
struct BoundsTable {
    /// Its name, quoted.
    table: String,
    /// Its tenant column, quoted.
    column: String,
    /// Its pages, those of its partitions included.
    pages: f64,
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
    fn a_small_table_is_read_whole_and_of_a_large_one_a_part() {
        assert_eq!([0.0, 1.0, 500.0].map(sample), [100.0; 3]);
        assert_eq!([1_000.0, 50_000.0].map(sample), [50.0, 5.0]);
        assert!((sample(50e6) - 0.1).abs() < 1e-9);
    }

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
