//! Installs the hub schema and puts the definitions and stores into it. Idempotent: a second run changes nothing.

use super::definitions::{self, Definition};
use super::describe::Undescribed;
use super::statement::{quoted, unnamed};
use super::triggers::apply::preamble;
use super::{Source, SourceError};
use crate::config::{Config, Watch};
use crate::writer::{ANY_VALUE, GuardLimits};
use contexts::name::Region;
use sqlx::migrate::{Migration, MigrationType};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row, SqlSafeStr};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The files of `migrations/`, in their order.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "hub", include_str!("../../../migrations/0001_hub.sql")),
    (
        2,
        "capture",
        include_str!("../../../migrations/0002_capture.sql"),
    ),
    (
        3,
        "triggers",
        include_str!("../../../migrations/0003_triggers.sql"),
    ),
    (
        4,
        "quicker",
        include_str!("../../../migrations/0004_quicker.sql"),
    ),
    (
        5,
        "settled",
        include_str!("../../../migrations/0005_settled.sql"),
    ),
    (
        6,
        "token names its server",
        include_str!("../../../migrations/0006_token_names_its_server.sql"),
    ),
    (
        7,
        "pauses and audit",
        include_str!("../../../migrations/0007_pauses_and_audit.sql"),
    ),
    (
        8,
        "holds",
        include_str!("../../../migrations/0008_holds.sql"),
    ),
    (
        9,
        "decommissioned",
        include_str!("../../../migrations/0009_decommissioned.sql"),
    ),
    (
        10,
        "removals",
        include_str!("../../../migrations/0010_removals.sql"),
    ),
    (
        11,
        "changes and budgets",
        include_str!("../../../migrations/0011_changes_and_budgets.sql"),
    ),
    (
        12,
        "keys",
        include_str!("../../../migrations/0012_keys.sql"),
    ),
    (
        13,
        "begin build",
        include_str!("../../../migrations/0013_begin_build.sql"),
    ),
    (
        14,
        "shorter spin",
        include_str!("../../../migrations/0014_shorter_spin.sql"),
    ),
    (
        15,
        "bounded looks",
        include_str!("../../../migrations/0015_bounded_looks.sql"),
    ),
];
/// Where it is remembered which were applied.
const TABLE: &str = "hubcast.migrations";

/// What the configuration becomes in the database.
#[derive(Debug)]
pub struct Desired {
    definitions: Vec<Definition>,
    stores: BTreeMap<String, Region>,
    tenant_type: String,
    search_path: String,
    guards: GuardLimits,
    /// What is odd and stops nothing.
    pub warnings: Vec<String>,
}

impl Desired {
    fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.definitions.iter().flat_map(|d| &d.watch)
    }

    /// Builds a sample of each kind twice; a line for each kind whose result depends on the plan.
    ///
    /// # Errors
    /// [`SourceError`] if the database is in trouble.
    pub async fn unstable(&self, source: &Source) -> Result<Vec<String>, SourceError> {
        let mut lines = Vec::new();
        for definition in &self.definitions {
            lines.extend(
                source
                    .check_stability(definition, &self.tenant_type, &self.search_path)
                    .await?,
            );
        }
        Ok(lines)
    }
}

/// Looks at every query of the configuration.
///
/// # Errors
/// [`Undescribed::Wrong`] with one line for everything that is wrong.
pub async fn desired(
    source: &Source,
    config: &Config,
    search_path: String,
) -> Result<Desired, Undescribed> {
    let (mut definitions, mut warnings, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let mut tenant_type: Option<(String, String)> = None;
    for context in &config.contexts {
        let described = match source.describe(context, &search_path).await {
            Ok(described) => described,
            Err(Undescribed::Wrong(line)) => {
                wrong.push(line);
                continue;
            }
            Err(other) => return Err(other),
        };
        let kind = described.definition.kind.to_string();
        match &tenant_type {
            Some((first, other)) if *other != described.tenant_type => wrong.push(format!(
                "kind {kind}: its tenants are {}, those of kind {first} are {other}; cast one in its query",
                described.tenant_type
            )),
            Some(_) => {}
            None => tenant_type = Some((kind, described.tenant_type)),
        }
        warnings.extend(described.warnings);
        definitions.push(described.definition);
    }
    match (wrong.is_empty(), tenant_type) {
        (true, Some((_, tenant_type))) => {
            let stores = config
                .spokes
                .iter()
                .flat_map(|s| s.urls().into_iter().map(|url| (url, s.region.clone())))
                .collect();
            Ok(Desired {
                definitions,
                stores,
                tenant_type,
                search_path,
                guards: config.hub.guards,
                warnings,
            })
        }
        _ => Err(Undescribed::Wrong(wrong.join("\n"))),
    }
}

fn migrations() -> Vec<Migration> {
    let migration = |(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(
            *version,
            Cow::Borrowed(*name),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    MIGRATIONS.iter().map(migration).collect()
}

const SETTINGS: &str = "INSERT INTO hubcast.settings (digest_key, search_path, tenant_type) \
    VALUES (sha256((gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text)::bytea), {path}, {type}) \
    ON CONFLICT (singleton) DO UPDATE SET search_path = excluded.search_path, tenant_type = excluded.tenant_type, \
    migrated_at = now() WHERE (settings.search_path, settings.tenant_type) \
    IS DISTINCT FROM (excluded.search_path, excluded.tenant_type)";

impl Source {
    /// Installs or updates everything; returns a line for each thing that changed. `user` is the role of
    /// `hub.database_url`, if it is another than the one that migrates.
    ///
    /// # Errors
    /// [`SourceError`] names the step that the database refused.
    pub async fn migrate(
        &self,
        desired: &Desired,
        user: Option<&str>,
    ) -> Result<Vec<String>, SourceError> {
        let mut lines = self.install().await?;
        // Triggers come before the definitions that count on them, and go after them.
        let work = self.plan_triggers(desired.watches(), &desired.search_path);
        let work = work.await?;
        lines.extend(self.install_triggers(&work).await?);
        lines.extend(self.write(desired, user).await?);
        lines.extend(self.remove_triggers(&work).await?);
        Ok(lines)
    }

    /// Installs the schema. Two at once take turns.
    async fn install(&self) -> Result<Vec<String>, SourceError> {
        let failed = |e| self.refused("installing the schema hubcast", e);
        let mut tx = self.begin("BEGIN").await.map_err(failed)?;
        sqlx::raw_sql(AssertSqlSafe(preamble()))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        let lines = self.install_schema(&mut tx).await?;
        tx.commit().await.map_err(failed)?;
        Ok(lines)
    }

    /// Writes settings, definitions and stores, and what the publisher's role may do.
    async fn write(
        &self,
        desired: &Desired,
        user: Option<&str>,
    ) -> Result<Vec<String>, SourceError> {
        let mut lines = Vec::new();
        let failed = |e| self.refused("writing the definitions", e);
        let mut tx = self.begin("BEGIN").await.map_err(failed)?;
        sqlx::raw_sql(AssertSqlSafe(preamble()))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        lines.extend(write_settings(&mut tx, desired).await.map_err(failed)?);
        lines.extend(write_guards(&mut tx, desired).await.map_err(failed)?);
        for definition in &desired.definitions {
            unnamed(keep_held(definition))
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            let json = json(definition)?;
            let word = write_definition(&mut tx, definition, json)
                .await
                .map_err(failed)?;
            lines.extend(word.map(|word| format!("kind {}: {word}", definition.kind)));
        }
        lines.extend(remove_other_kinds(&mut tx, desired).await.map_err(failed)?);
        lines.extend(write_stores(&mut tx, desired).await.map_err(failed)?);
        unnamed(definitions::SET_FINGERPRINT)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        if let Some(user) = user {
            let grants = AssertSqlSafe(grants(user));
            sqlx::raw_sql(grants)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(lines)
    }

    /// As [`Source::error`]; what the role may not do is a wrong configuration.
    pub(super) fn refused(&self, what: &str, error: sqlx::Error) -> SourceError {
        let code = error.as_database_error().and_then(|e| e.code());
        match code.as_deref() {
            Some("42501") => SourceError::NotPermitted {
                what: what.to_owned(),
                why: super::message(&error),
            },
            _ => self.error(what, error),
        }
    }

    /// Applies the migrations that are missing. sqlx's own runner would lock the session and leave named statements.
    async fn install_schema(&self, tx: &mut PgConnection) -> Result<Vec<String>, SourceError> {
        let doing = "installing the schema hubcast";
        let failed = |e| self.refused(doing, e);
        let wrong = |why: String| SourceError::Failed {
            what: doing.into(),
            why,
        };
        create_table(tx).await.map_err(failed)?;
        let sql = format!("SELECT version, checksum, success FROM {TABLE}");
        let rows = unnamed(sql).fetch_all(&mut *tx).await.map_err(failed)?;
        let mut applied: BTreeMap<i64, (Vec<u8>, bool)> = rows
            .iter()
            .map(|r| (r.get(0), (r.get(1), r.get(2))))
            .collect();
        let (mut new, all) = (0, migrations());
        for migration in &all {
            let version = migration.version;
            match applied.remove(&version) {
                None => apply(tx, migration).await.map_err(failed)?,
                Some((checksum, true)) if checksum == *migration.checksum => continue,
                Some(_) => {
                    return Err(wrong(format!(
                        "migration {version} was applied in another form"
                    )));
                }
            }
            new += 1;
        }
        if let Some(version) = applied.into_keys().next() {
            let why = format!("migration {version} is of a later release; use that one");
            return Err(wrong(why));
        }
        Ok(match new {
            0 => Vec::new(),
            n => vec![format!(
                "schema hubcast: {n} of {} migrations applied",
                all.len()
            )],
        })
    }
}

/// The schema and the table of its migrations, if they are missing: who may not create them need not, once they exist.
async fn create_table(tx: &mut PgConnection) -> sqlx::Result<()> {
    let there = format!("SELECT to_regclass('{TABLE}') IS NOT NULL");
    if unnamed(there).fetch_one(&mut *tx).await?.get(0) {
        return Ok(());
    }
    sqlx::raw_sql(AssertSqlSafe(table())).execute(tx).await?;
    Ok(())
}

fn table() -> String {
    format!(
        "CREATE SCHEMA IF NOT EXISTS hubcast;\n\
         CREATE TABLE IF NOT EXISTS {TABLE} (version bigint PRIMARY KEY, description text NOT NULL, \
         installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL, \
         execution_time bigint NOT NULL);\n"
    )
}

async fn apply(tx: &mut PgConnection, migration: &Migration) -> sqlx::Result<()> {
    sqlx::raw_sql(migration.sql.clone())
        .execute(&mut *tx)
        .await?;
    let sql = format!(
        "INSERT INTO {TABLE} (version, description, success, checksum, execution_time) VALUES ($1, $2, true, $3, 0)"
    );
    unnamed(sql)
        .bind(migration.version)
        .bind(migration.description.to_string())
        .bind(migration.checksum.to_vec())
        .execute(tx)
        .await?;
    Ok(())
}

async fn write_settings(tx: &mut PgConnection, desired: &Desired) -> sqlx::Result<Option<String>> {
    let sql = SETTINGS.replace("{path}", "$1").replace("{type}", "$2");
    let query = unnamed(sql)
        .bind(desired.search_path.clone())
        .bind(desired.tenant_type.clone());
    let changed = query.execute(tx).await?.rows_affected() > 0;
    let line = || {
        format!(
            "settings: tenants are {}, search path {}",
            desired.tenant_type, desired.search_path
        )
    };
    Ok(changed.then(line))
}

async fn write_guards(tx: &mut PgConnection, desired: &Desired) -> sqlx::Result<Option<String>> {
    let changed = unnamed(guards(desired)).execute(tx).await?.rows_affected() > 0;
    let GuardLimits {
        max_delete_share,
        max_delete_count,
        max_change_share,
        ..
    } = desired.guards;
    Ok(changed.then(|| {
        format!(
            "guards: max_delete_share {max_delete_share}, max_delete_count {max_delete_count}, max_change_share {max_change_share}"
        )
    }))
}

/// Writes the limits of the guards, if they are others than before.
fn guards(desired: &Desired) -> String {
    let json = quoted(&serde_json::json!(desired.guards).to_string());
    format!(
        "UPDATE hubcast.settings SET guards = {json}::jsonb WHERE guards IS DISTINCT FROM {json}::jsonb"
    )
}

/// Under another query a value is another one without anybody having changed it: what is held stays so, whichever it is.
fn keep_held(definition: &Definition) -> String {
    format!(
        "UPDATE hubcast.holds h SET value = {ANY_VALUE} FROM hubcast.definitions d WHERE d.kind = {} AND h.kind = d.kind \
         AND h.reason = 'changed' AND h.state = 'held' AND d.definition ->> 'query' <> {}",
        quoted(definition.kind.as_str()),
        quoted(&definition.query)
    )
}

/// Says what became of a definition, if it is not as it was.
async fn write_definition(
    tx: &mut PgConnection,
    definition: &Definition,
    json: String,
) -> sqlx::Result<Option<&'static str>> {
    let sql = "INSERT INTO hubcast.definitions (kind, definition) VALUES ($1, $2::jsonb) \
               ON CONFLICT (kind) DO UPDATE SET definition = excluded.definition \
               WHERE definitions.definition IS DISTINCT FROM excluded.definition RETURNING xmax = 0";
    let query = unnamed(sql).bind(definition.kind.to_string()).bind(json);
    let row = query.fetch_optional(tx).await?;
    Ok(row.map(|row| if row.get(0) { "added" } else { "changed" }))
}

async fn remove_other_kinds(tx: &mut PgConnection, desired: &Desired) -> sqlx::Result<Vec<String>> {
    let kinds: Vec<String> = desired
        .definitions
        .iter()
        .map(|d| d.kind.to_string())
        .collect();
    let sql = "DELETE FROM hubcast.definitions WHERE kind <> ALL($1) RETURNING kind";
    let rows = unnamed(sql).bind(kinds).fetch_all(tx).await?;
    Ok(rows
        .iter()
        .map(|row| format!("kind {}: removed", row.get::<String, _>(0)))
        .collect())
}

async fn write_stores(tx: &mut PgConnection, desired: &Desired) -> sqlx::Result<Vec<String>> {
    let each = desired
        .stores
        .iter()
        .map(|(url, region)| (url.clone(), region.to_string()));
    let (urls, regions): (Vec<String>, Vec<String>) = each.unzip();
    let sql = "INSERT INTO hubcast.stores (url, region) SELECT * FROM unnest($1::text[], $2::text[]) \
               ON CONFLICT (url) DO UPDATE SET region = excluded.region \
               WHERE stores.region <> excluded.region RETURNING url, region";
    let written = unnamed(sql)
        .bind(urls.clone())
        .bind(regions)
        .fetch_all(&mut *tx)
        .await?;
    let sql = "DELETE FROM hubcast.stores WHERE url <> ALL($1) RETURNING url, region";
    let removed = unnamed(sql).bind(urls).fetch_all(&mut *tx).await?;
    let name = |row: &PgRow| {
        format!(
            "region {}: the store {}",
            row.get::<String, _>(1),
            row.get::<String, _>(0)
        )
    };
    let gone = |row| {
        format!(
            "{} is no longer written to; what it holds stays there",
            name(row)
        )
    };
    Ok(written
        .iter()
        .map(name)
        .chain(removed.iter().map(gone))
        .collect())
}

impl Source {
    /// The same as a script for a DBA, to be run once by `psql` or any other client.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails, or a definition cannot be written as JSON.
    pub async fn migrate_script(
        &self,
        desired: &Desired,
        user: Option<&str>,
    ) -> Result<String, SourceError> {
        let work = self.plan_triggers(desired.watches(), &desired.search_path);
        let (before, after) = work.await?.script();
        script(desired, user, &before, &after)
    }
}

fn script(
    desired: &Desired,
    user: Option<&str>,
    triggers: &str,
    cleanup: &str,
) -> Result<String, SourceError> {
    let mut out = format!(
        "BEGIN;\n-- All or nothing. A lock is waited for two seconds; if that was in vain, run it again.\n{}{}",
        preamble(),
        table()
    );
    for migration in migrations() {
        let checksum: String = migration
            .checksum
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let tag = format!("$migration_{}$", migration.version);
        out.push_str(&format!(
            "DO $do$ BEGIN\nIF NOT EXISTS (SELECT FROM {TABLE} WHERE version = {v}) THEN\nEXECUTE {tag}\n{sql}\n{tag};\n\
             INSERT INTO {TABLE} (version, description, success, checksum, execution_time) \
             VALUES ({v}, {name}, true, '\\x{checksum}', 0);\nEND IF;\nEND $do$;\n",
            v = migration.version,
            sql = migration.sql.as_str(),
            name = quoted(&migration.description),
        ));
    }
    out.push_str(triggers);
    let settings = SETTINGS.replace("{path}", &quoted(&desired.search_path));
    out.push_str(&format!(
        "{};\n",
        settings.replace("{type}", &quoted(&desired.tenant_type))
    ));
    out.push_str(&format!("{};\n", guards(desired)));
    for definition in &desired.definitions {
        out.push_str(&format!("{};\n", keep_held(definition)));
    }
    out.push_str("DELETE FROM hubcast.definitions;\n");
    for definition in &desired.definitions {
        let values = format!(
            "{}, {}",
            quoted(definition.kind.as_str()),
            quoted(&json(definition)?)
        );
        out.push_str(&format!(
            "INSERT INTO hubcast.definitions (kind, definition) VALUES ({values});\n"
        ));
    }
    out.push_str("DELETE FROM hubcast.stores;\n");
    for (url, region) in &desired.stores {
        let values = format!("{}, {}", quoted(url), quoted(region.as_str()));
        out.push_str(&format!(
            "INSERT INTO hubcast.stores (url, region) VALUES ({values});\n"
        ));
    }
    out.push_str(&format!("{};\n", definitions::SET_FINGERPRINT));
    out.push_str(cleanup);
    out.push_str(&user.map(grants).unwrap_or_default());
    out.push_str("COMMIT;\n");
    Ok(out)
}

/// What the publisher's own role needs in the schema.
fn grants(user: &str) -> String {
    let user = format!("\"{}\"", user.replace('"', "\"\""));
    format!(
        "GRANT USAGE ON SCHEMA hubcast TO {user};\n\
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA hubcast TO {user};\n\
         GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA hubcast TO {user};\n\
         GRANT EXECUTE ON FUNCTION hubcast.wait(integer, integer, integer, bigint, bigint, pg_snapshot, bigint, integer), \
         hubcast.has_room(), hubcast.begin_build(text[], text) TO {user};\n"
    )
}

fn json(definition: &Definition) -> Result<String, SourceError> {
    serde_json::to_string(definition).map_err(|e| SourceError::Failed {
        what: format!("kind {}", definition.kind),
        why: e.to_string(),
    })
}
