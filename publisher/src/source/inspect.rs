//! What the catalogs say of a table that somebody wants to publish, and a few of its rows: for `publisher init`. Changes
//! nothing, and reads a bounded number of rows.

use super::statement::{Statement, unnamed};
use super::{Source, SourceError};
use serde::Deserialize;
use sqlx::Row;

/// A table of the user's own.
#[derive(Debug, Clone, Deserialize)]
pub struct Table {
    /// Its name with its schema, quoted where SQL asks for that.
    pub name: String,
    /// Its name without the schema, as it is.
    pub relation: String,
    /// `pg_class.relkind`.
    pub kind: String,
    /// Whether this role may read it.
    pub is_readable: bool,
    /// Whether the first of its keys is a primary key.
    pub has_primary: bool,
    /// Its columns, in their order.
    pub columns: Vec<Column>,
    /// The primary key, then what else is unique and never null, each with its columns in their order.
    pub keys: Vec<Vec<String>>,
    /// References to tables.
    pub references: Vec<Reference>,
    /// Columns with which an index begins that finds single values and ranges.
    pub indexed: Vec<String>,
}

impl Table {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Whether one of these columns may be null; one that there is not may.
    pub fn may_be_null(&self, names: &[String]) -> bool {
        let mut columns = names.iter().map(|name| self.column(name));
        columns.any(|c| c.is_none_or(|c| c.is_nullable))
    }
}

/// A column.
#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The same, quoted where SQL asks for that.
    pub quoted: String,
    /// Its type, as SQL writes it, without a length.
    pub sql_type: String,
    /// Whether it may be null.
    pub is_nullable: bool,
    /// Whether something in the database depends on its values or makes them: a key, a reference, a check, partitions.
    pub is_bound: bool,
    /// The most characters that it takes, if there is such a number.
    pub longest: Option<i32>,
}

/// A reference to another table.
#[derive(Debug, Clone, Deserialize)]
pub struct Reference {
    /// The columns.
    pub columns: Vec<String>,
    /// The table, with its schema, quoted where SQL asks for that.
    pub to: String,
    /// The table, without its schema.
    pub relation: String,
    /// Its columns, in the order of the others.
    pub to_columns: Vec<String>,
}

/// Rows that are looked at for the names of regions in them.
const REGION_ROWS: u32 = 10_000;
/// Names of regions that are read.
const REGION_NAMES: u32 = 50;
/// How long rows of a table may be looked for, in milliseconds.
const ROWS_WITHIN_MS: u32 = 5_000;

/// All of a table whose name is one of these: as it is written or as SQL quotes it, with its schema or, where it is on
/// the search path, without; else without regard to case, as SQL reads what is not quoted.
const TABLE: &str = r"
WITH named AS (
    SELECT c.oid, c.relname, c.relkind, n.nspname, CASE
        WHEN t.wanted IN (n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname)) THEN 1
        WHEN pg_table_is_visible(c.oid) AND t.wanted IN (c.relname, quote_ident(c.relname)) THEN 1
        WHEN lower(t.wanted) = n.nspname || '.' || c.relname THEN 2
        WHEN pg_table_is_visible(c.oid) AND lower(t.wanted) = c.relname THEN 2 END AS rank
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, (SELECT $1::text AS wanted) t
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f'))
SELECT json_build_object(
    'name', format('%I.%I', c.nspname, c.relname), 'relation', c.relname, 'kind', c.relkind::text,
    'is_readable', has_table_privilege(c.oid, 'SELECT'),
    'has_primary', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
    'columns', (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'quoted', quote_ident(a.attname),
            'sql_type', format_type(a.atttypid, NULL), 'is_nullable', NOT a.attnotnull,
            'longest', CASE WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod > 4 THEN a.atttypmod - 4 END,
            'is_bound', a.attgenerated <> '' OR a.attidentity <> ''
                OR EXISTS (SELECT FROM pg_constraint k
                     WHERE k.conrelid = c.oid AND k.contype <> 'n' AND a.attnum = ANY (k.conkey))
                OR EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = c.oid AND a.attnum = ANY (p.partattrs))
                OR EXISTS (SELECT FROM pg_depend d JOIN pg_index i ON i.indexrelid = d.objid AND i.indisunique
                     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                       AND d.refobjid = c.oid AND d.refobjsubid = a.attnum)) ORDER BY a.attnum), '[]')
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'keys', (SELECT coalesce(json_agg(k.columns ORDER BY k.rank, k.first), '[]') FROM (
        SELECT NOT i.indisprimary AS rank, i.indexrelid AS first, json_agg(a.attname ORDER BY u.n) AS columns
          FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS u(attnum, n)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
           AND u.n <= i.indnkeyatts
         GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attnotnull)) k),
    'references', (SELECT coalesce(json_agg(json_build_object('columns', r.columns, 'to', format('%I.%I', n.nspname, f.relname),
            'relation', f.relname, 'to_columns', r.to_columns) ORDER BY r.conkey, r.oid), '[]')
        FROM (SELECT k.oid, k.conkey, k.confrelid, json_agg(a.attname ORDER BY u.n) AS columns, json_agg(b.attname ORDER BY u.n) AS to_columns
              FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey, k.confkey) WITH ORDINALITY AS u(here, there, n)
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.here
              JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.there
             WHERE k.conrelid = c.oid AND k.contype = 'f' GROUP BY k.oid, k.conkey, k.confrelid) r
        JOIN pg_class f ON f.oid = r.confrelid AND NOT f.relispartition JOIN pg_namespace n ON n.oid = f.relnamespace),
    'indexed', (SELECT coalesce(json_agg(DISTINCT a.attname), '[]') FROM pg_index i
        JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
       WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL))::text
  FROM named c WHERE c.rank IS NOT NULL ORDER BY c.rank, c.nspname LIMIT 1";

/// Tables that could be meant.
const TABLES: &str = r"
SELECT coalesce(string_agg(name, ', '), '') FROM (
    SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\_%'
       AND n.nspname NOT IN ('information_schema', 'hubcast')
     ORDER BY 1 LIMIT 20) t";

impl Source {
    /// The table of this name, if there is one.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn inspect(&self, name: &str) -> Result<Option<Table>, SourceError> {
        let statement = Statement::new(TABLE).bind(name.to_owned());
        let row = self.fetch_optional("looking at a table", statement).await?;
        let read = |row: sqlx::postgres::PgRow| serde_json::from_str(row.get(0));
        let table = row.map(read).transpose();
        table.map_err(|_| self.unreadable("what the catalogs say of the table"))
    }

    /// Some tables that there are, in one line.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn some_tables(&self) -> Result<String, SourceError> {
        let row = self.fetch_one("looking for tables", Statement::new(TABLES));
        Ok(row.await?.get(0))
    }

    /// The names in a column of arrays of text, of the first rows of a table.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn region_names(
        &self,
        table: &str,
        column: &str,
    ) -> Result<Vec<String>, SourceError> {
        let sql = format!(
            "SELECT DISTINCT u.name::text FROM (SELECT t.{column} AS names FROM {table} t WHERE t.{column} IS NOT NULL \
             LIMIT {REGION_ROWS}) AS r, unnest(r.names) AS u(name) WHERE u.name IS NOT NULL ORDER BY 1 LIMIT {REGION_NAMES}"
        );
        self.few_rows(&sql).await
    }

    /// Whether a table has at most so many rows.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn has_at_most(&self, table: &str, rows: u32) -> Result<bool, SourceError> {
        let more = u64::from(rows) + 1;
        let sql = format!(
            "SELECT (count(*) <= {rows})::text FROM (SELECT FROM {table} LIMIT {more}) AS r"
        );
        let counted = self.few_rows(&sql).await?;
        Ok(counted.first().is_some_and(|yes| yes == "true"))
    }

    /// Texts that a query returns, which was made from the catalogs. It must bound what it reads.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails, or takes too long.
    pub async fn few_rows(&self, sql: &str) -> Result<Vec<String>, SourceError> {
        let failed = |e| self.error("looking at rows of a table", e);
        let path = self.search_path().await?;
        let mut tx = self.begin_looking(&path).await.map_err(failed)?;
        let limit = format!("SELECT set_config('statement_timeout', '{ROWS_WITHIN_MS}', true)");
        unnamed(limit).execute(&mut *tx).await.map_err(failed)?;
        let rows = unnamed(sql).fetch_all(&mut *tx).await.map_err(failed)?;
        tx.rollback().await.map_err(failed)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
