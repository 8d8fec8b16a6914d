//! What the catalogs say about the watched tables, and about the triggers and functions that are there.

use crate::source::statement::unnamed;
use serde::Deserialize;
use sqlx::{PgConnection, Row};
use std::collections::BTreeMap;

/// All of it, from one statement.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Facts {
    /// The names of watched tables, as written, and the tables: of a partition, the root of its tree, since what is
    /// written through the root fires no trigger of the partition. Null if there is none.
    pub names: BTreeMap<String, Option<u32>>,
    /// These tables, all their partitions and children, and whatever else has triggers of ours.
    pub tables: Vec<Table>,
    /// Our trigger functions.
    pub functions: Vec<InstalledFunction>,
    /// The tables that had triggers after the last `migrate`.
    pub remembered: Vec<Remembered>,
}

impl Facts {
    /// A table by its oid.
    pub fn table(&self, oid: u32) -> Option<&Table> {
        self.tables.iter().find(|t| t.oid == oid)
    }
}

/// A table, or what stands in the place of one.
#[derive(Debug, Clone, Deserialize)]
pub struct Table {
    /// Its oid.
    pub oid: u32,
    /// Its name with its schema, quoted.
    pub name: String,
    /// Its schema, as it is.
    pub schema: String,
    /// Its name without the schema, as it is.
    pub relation: String,
    /// `pg_class.relkind`.
    pub kind: String,
    /// Whether it belongs to the session that made it.
    pub is_temporary: bool,
    /// The watched tables of which it is a part, itself included.
    pub targets: Vec<u32>,
    /// The columns of a watched table.
    pub columns: Vec<Column>,
    /// The primary key of a watched table.
    pub key: Vec<String>,
    /// Our triggers on it.
    pub triggers: Vec<InstalledTrigger>,
    /// Whether the role may create triggers on it.
    pub may_trigger: bool,
}

/// A column.
#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The same, quoted.
    pub quoted: String,
    /// Its type, as SQL writes it.
    pub sql_type: String,
    /// The name of the type of Postgres' own under its domains; `enum`, or `other` for what an extension made.
    pub base: String,
    /// Whether its values have a length of their own.
    pub is_varying: bool,
}

/// A trigger.
#[derive(Debug, Clone, Deserialize)]
pub struct InstalledTrigger {
    /// Its name.
    pub name: String,
    /// `pg_trigger.tgtype`.
    pub catalog_type: i32,
    /// `pg_trigger.tgenabled`.
    pub enabled: String,
    /// The function in the schema `hubcast` that it calls, if it is one.
    pub function: Option<String>,
    /// The table of old rows.
    pub old: Option<String>,
    /// The table of new rows.
    pub new: Option<String>,
    /// Whether it has a condition or arguments.
    pub is_conditional: bool,
}

/// A trigger function.
#[derive(Debug, Clone, Deserialize)]
pub struct InstalledFunction {
    /// Its name in the schema `hubcast`.
    pub name: String,
    /// Its text.
    pub body: String,
    /// Its settings.
    pub settings: Vec<String>,
    /// Whether it runs as its owner.
    pub is_definer: bool,
    /// Whether anybody may use it in a trigger.
    pub is_public: bool,
}

/// A table that had triggers.
#[derive(Debug, Clone, Deserialize)]
pub struct Remembered {
    /// Its oid.
    pub oid: u32,
    /// Its name then.
    pub name: String,
    /// Whether it is still there.
    pub exists: bool,
}

/// A domain over a domain is resolved as well: what counts is how a value is written.
const COLUMNS: &str = r"
(SELECT coalesce(json_agg(json_build_object('name', a.attname, 'quoted', quote_ident(a.attname),
        'sql_type', format_type(a.atttypid, NULL), 'is_varying', a.attlen = -1,
        'base', (WITH RECURSIVE b AS (
                     SELECT t.* FROM pg_type t WHERE t.oid = a.atttypid
                     UNION ALL SELECT t.* FROM b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd')
                 SELECT CASE WHEN b.typtype = 'e' THEN 'enum' WHEN b.typnamespace = 'pg_catalog'::regnamespace
                        THEN b.typname::text ELSE 'other' END FROM b WHERE b.typtype <> 'd')) ORDER BY a.attnum), '[]')
   FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    AND EXISTS (SELECT FROM wanted w WHERE w.oid = c.oid))";

const KEY: &str = r"
(SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_index i
   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
  WHERE i.indrelid = c.oid AND i.indisprimary)";

const TRIGGERS: &str = r"
SELECT t.tgrelid AS rel, json_agg(json_build_object('name', t.tgname, 'catalog_type', t.tgtype::integer,
       'enabled', t.tgenabled::text, 'old', t.tgoldtable, 'new', t.tgnewtable,
       'function', CASE WHEN p.pronamespace = to_regnamespace('hubcast') THEN p.proname END,
       'is_conditional', t.tgqual IS NOT NULL OR t.tgnargs > 0) ORDER BY t.tgname) AS triggers
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE NOT t.tgisinternal AND (t.tgname LIKE 'hubcast\_changed\__'
    OR (p.pronamespace = to_regnamespace('hubcast') AND p.proname LIKE 'changed\_%')) GROUP BY 1";

const FUNCTIONS: &str = r"
(SELECT coalesce(json_agg(json_build_object('name', p.proname, 'body', p.prosrc, 'is_definer', p.prosecdef,
        'settings', coalesce(p.proconfig, '{}'), 'is_public', p.proacl IS NULL
         OR EXISTS (SELECT FROM aclexplode(p.proacl) e WHERE e.grantee = 0)) ORDER BY p.proname), '[]')
   FROM pg_proc p WHERE p.pronamespace = to_regnamespace('hubcast') AND p.proname LIKE 'changed\_%')";

const REMEMBERED: &str = r"
(SELECT coalesce(json_agg(json_build_object('oid', r.relation::oid::bigint, 'name', r.name,
        'exists', EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relation)) ORDER BY r.name), '[]')
   FROM hubcast.triggers r)";

fn statement(is_migrated: bool) -> String {
    let remembered = if is_migrated {
        REMEMBERED
    } else {
        "'[]'::json"
    };
    format!(
        r"
WITH RECURSIVE wanted AS (
    SELECT w.name, coalesce(pg_partition_root(to_regclass(w.name)), to_regclass(w.name))::oid AS oid
      FROM unnest($1::text[]) AS w(name)),
tree AS (
    SELECT oid AS target, oid AS rel FROM wanted WHERE oid IS NOT NULL
    UNION SELECT t.target, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.rel),
ours AS ({TRIGGERS}),
all_rels AS (SELECT rel FROM tree UNION SELECT rel FROM ours)
SELECT json_build_object(
    'names', (SELECT coalesce(json_object_agg(w.name, w.oid::bigint), '{{}}') FROM wanted w),
    'tables', (SELECT coalesce(json_agg(json_build_object('oid', c.oid::bigint,
            'name', format('%I.%I', s.nspname, c.relname), 'schema', s.nspname, 'relation', c.relname,
            'kind', c.relkind::text, 'is_temporary', c.relpersistence = 't',
            'targets', (SELECT coalesce(json_agg(t.target::bigint ORDER BY t.target), '[]') FROM tree t WHERE t.rel = c.oid),
            'columns', {COLUMNS}, 'key', {KEY},
            'triggers', coalesce((SELECT o.triggers FROM ours o WHERE o.rel = c.oid), '[]'),
            'may_trigger', has_schema_privilege(s.oid, 'USAGE') AND has_table_privilege(c.oid, 'TRIGGER'))
            ORDER BY s.nspname, c.relname), '[]')
        FROM all_rels a JOIN pg_class c ON c.oid = a.rel JOIN pg_namespace s ON s.oid = c.relnamespace),
    'functions', {FUNCTIONS},
    'remembered', {remembered})"
    )
}

/// Reads them in the transaction of `connection`, which has the search path that names are looked for in.
pub async fn read(connection: &mut PgConnection, names: &[String]) -> sqlx::Result<Facts> {
    let sql = "SELECT to_regclass('hubcast.triggers') IS NOT NULL";
    let is_migrated = unnamed(sql).fetch_one(&mut *connection).await?.get(0);
    let row = unnamed(statement(is_migrated))
        .bind(names.to_vec())
        .fetch_one(connection)
        .await?;
    let json: sqlx::types::Json<Facts> = row.try_get(0)?;
    Ok(json.0)
}
