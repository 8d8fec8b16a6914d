//! What the catalogs say of a table that somebody wants to publish: for `publisher init`. Changes nothing.

use super::statement::Statement;
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
    /// Its columns, in their order.
    pub columns: Vec<Column>,
    /// The primary key, then what else is unique and never null, each with its columns in their order.
    pub keys: Vec<Vec<String>>,
    /// References of single columns to other tables.
    pub references: Vec<Reference>,
    /// Columns with which an index begins.
    pub indexed: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The same, quoted where SQL asks for that.
    pub quoted: String,
    /// Its type, as SQL writes it.
    pub sql_type: String,
    /// Whether it may be null.
    pub is_nullable: bool,
}

/// A reference to another table.
#[derive(Debug, Clone, Deserialize)]
pub struct Reference {
    /// The column.
    pub column: String,
    /// The table, without its schema.
    pub to: String,
}

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
    'columns', (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'quoted', quote_ident(a.attname),
            'sql_type', format_type(a.atttypid, NULL), 'is_nullable', NOT a.attnotnull) ORDER BY a.attnum), '[]')
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'keys', (SELECT coalesce(json_agg(k.columns ORDER BY k.rank, k.first), '[]') FROM (
        SELECT NOT i.indisprimary AS rank, i.indexrelid AS first, json_agg(a.attname ORDER BY u.n) AS columns
          FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS u(attnum, n)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND u.n <= i.indnkeyatts
         GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attnotnull)) k),
    'references', (SELECT coalesce(json_agg(json_build_object('column', a.attname, 'to', f.relname) ORDER BY a.attnum), '[]')
        FROM pg_constraint r JOIN pg_class f ON f.oid = r.confrelid
        JOIN pg_attribute a ON a.attrelid = r.conrelid AND a.attnum = r.conkey[1]
       WHERE r.conrelid = c.oid AND r.contype = 'f' AND cardinality(r.conkey) = 1),
    'indexed', (SELECT coalesce(json_agg(DISTINCT a.attname), '[]') FROM pg_index i
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
}
