//! Tenants in one message: the way of nearly every build. It takes for granted the definitions as they were read last,
//! and that nothing fails; the statement itself tells, from its own snapshot, whether they are still the same. If
//! anything is otherwise, its rows are thrown away and the build is done step by step, in a new snapshot.

use super::assemble::{Assembly, Row};
use super::build::{BUILD_WITHIN, SNAPSHOT, batch};
use super::definitions::{self, Definitions};
use super::last::{Era, Last, LastBuilds};
use super::query::{self, Tenants};
use super::rows::decode;
use super::since::{self, Since};
use super::statement::{quoted, texts};
use super::{Source, SourceError, is_passing, message};
use crate::writer::{BuildRequest, BuiltBatch, Snapshot, What};
use contexts::name::{Region, TenantId};
use futures_util::TryStreamExt;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A query that fails for everybody is not asked at once for so long: it would cost every build its time twice.
const FAILS_FOR: Duration = Duration::from_secs(10);

/// The definitions as they were read last.
#[derive(Debug)]
pub(super) struct Known {
    definitions: Definitions,
    fails_since: Mutex<Option<Instant>>,
}

/// Why tenants are not built at once.
enum Otherwise {
    /// The database is in trouble, for every way of building.
    Passing(sqlx::Error),
    /// A statement fails.
    Fails(sqlx::Error),
    /// The definitions, the server or the tenants are not as known.
    Unknown,
}

/// What was read at once.
#[derive(Default)]
struct Found {
    /// The rows of all kinds, each with the number of its kind.
    rows: Vec<(usize, String, Row)>,
    /// The snapshot that they are of.
    seen: Option<Snapshot>,
    /// Of tenants with a last build: what has changed since.
    since: Vec<Since>,
}

impl From<sqlx::Error> for Otherwise {
    fn from(error: sqlx::Error) -> Self {
        match is_passing(&error) {
            true => Self::Passing(error),
            false => Self::Fails(error),
        }
    }
}

impl Known {
    /// One message and one transaction: as several statements come together, the server makes them one, and nothing
    /// is left of it on the connection, however it ends. The first row is the header: whether all is as known. Of tenants
    /// with a last build what has changed since is asked for.
    fn message(&self, tenants: &[TenantId], lasts: &[Last]) -> String {
        let Definitions {
            search_path,
            tenant_type,
            kinds,
            ..
        } = &self.definitions;
        let list = texts(tenants.iter().map(TenantId::as_str));
        // Of text there is but one way to write it.
        let misspelt = match tenant_type.as_str() {
            "text" => "NULL::text".to_owned(),
            _ => format!(
                "(SELECT t FROM unnest({list}) AS t WHERE t::{tenant_type}::text <> t LIMIT 1)"
            ),
        };
        let path = quoted(search_path);
        let mut sql = format!(
            "{SNAPSHOT}; SELECT b.fingerprint, b.is_standby, b.server, b.held, b.seen, {misspelt} \
             FROM hubcast.begin_build({list}, {path}) AS b"
        );
        let has_last = |t: &&TenantId| lasts.iter().any(|last| last.built.tenant == **t);
        let mut whole = tenants.iter().filter(|t| !has_last(t)).peekable();
        if whole.peek().is_some() {
            let list = texts(whole.map(TenantId::as_str));
            for (i, definition) in kinds.iter().enumerate() {
                let contexts = query::contexts(definition, tenant_type, Tenants::Listed(&list));
                // Writing to a string does not fail.
                let _ = write!(sql, "; SELECT {i}, c.* FROM ({contexts}) AS c");
            }
        }
        for last in lasts {
            since::add_statements(&mut sql, last, &self.definitions);
        }
        sql
    }
}

impl Known {
    fn fails(&self) -> bool {
        let since = self
            .fails_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|at| at.elapsed() < FAILS_FOR)
    }

    fn failed(&self) {
        let mut since = self
            .fails_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *since = Some(Instant::now());
    }
}

impl Source {
    /// As [`Source::build`], for the writer of a term: very large tenants are built from their last build, where that can be.
    /// It relies on the writer's builds of one tenant by name coming one after the other.
    ///
    /// # Errors
    /// As [`Source::build`].
    pub async fn build_in_term(
        &self,
        request: &BuildRequest,
        regions: &[Region],
    ) -> Result<BuiltBatch, SourceError> {
        let Some(last_builds) = &self.last_builds else {
            return self.build(request, regions).await;
        };
        if request.what == What::Bounds {
            last_builds.scan_begins();
        }
        let era = last_builds.era();
        let batch = match &request.what {
            What::Tenants(tenants) => {
                // Also of those that are not built from it: what this build finds is later, kept or not.
                let lasts = tenants.iter().filter_map(|t| last_builds.take(t));
                let lasts = lasts.filter(|last| !request.whole.contains(&last.built.tenant));
                let lasts = lasts.collect();
                let batch = self.build_from_last(tenants, lasts, regions).await?;
                // Rows may have been removed between the taking and the snapshot.
                batch.filter(|_| last_builds.era() == era)
            }
            _ => None,
        };
        let batch = match batch {
            Some(batch) => batch,
            None => self.build(request, regions).await?,
        };
        self.keep_last(last_builds, era, &request.what, &batch);
        Ok(batch)
    }

    async fn build_from_last(
        &self,
        tenants: &[TenantId],
        lasts: Vec<Last>,
        regions: &[Region],
    ) -> Result<Option<BuiltBatch>, SourceError> {
        if lasts.is_empty() {
            return Ok(None);
        }
        let building = self.while_connected(self.build_from(tenants, lasts, regions));
        self.within(BUILD_WITHIN, building).await
    }

    fn keep_last(&self, last_builds: &LastBuilds, era: Era, what: &What, batch: &BuiltBatch) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_possible = known
            .as_ref()
            .is_some_and(|k| since::is_possible(&k.definitions));
        let Some(seen) = batch.seen.as_ref().filter(|_| is_possible) else {
            return;
        };
        match what {
            What::Range(_) => last_builds.found(era, seen, &batch.tenants),
            _ => {
                for built in batch.tenants.iter().filter(|built| since::may_stand(built)) {
                    let last = Last {
                        built: built.clone(),
                        seen: seen.clone(),
                        definitions: batch.definitions,
                    };
                    last_builds.put(era, last);
                }
            }
        }
    }

    /// Remembers the definitions of a snapshot for the next build. If they are the same as before, those are returned, with
    /// what was compiled of them.
    pub(super) fn remember(&self, definitions: Definitions) -> Definitions {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|k| k.definitions == definitions) {
            return known.definitions.clone();
        }
        *known = Some(Arc::new(Known {
            definitions: definitions.clone(),
            fails_since: Mutex::default(),
        }));
        definitions
    }

    /// Builds tenants in one message. None if it has to be done step by step.
    ///
    /// # Errors
    /// [`SourceError`] if the database as a whole is in trouble; the build is then to be repeated.
    pub async fn build_at_once(
        &self,
        tenants: &[TenantId],
        regions: &[Region],
    ) -> Result<Option<BuiltBatch>, SourceError> {
        self.build_from(tenants, Vec::new(), regions).await
    }

    /// The same, some of them from their last builds. None also if that cannot be.
    async fn build_from(
        &self,
        tenants: &[TenantId],
        lasts: Vec<Last>,
        regions: &[Region],
    ) -> Result<Option<BuiltBatch>, SourceError> {
        let known = self
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(known) = known.filter(|known| !known.fails()) else {
            return Ok(None);
        };
        if lasts
            .iter()
            .any(|last| last.definitions != known.definitions.fingerprint)
        {
            return Ok(None);
        }
        match self.read_at_once(&known, tenants, &lasts).await {
            Ok(Found { rows, seen, since }) => {
                let mut batch = assemble(&known.definitions, tenants, regions, rows);
                batch.seen = seen.map(Arc::new);
                let is_complete = since::complete(&mut batch, lasts, &since, &known.definitions);
                Ok(is_complete.then_some(batch))
            }
            Err(Otherwise::Passing(e)) => Err(self.error("building tenants", e)),
            Err(Otherwise::Fails(e)) => {
                match is_not_migrated(&e) {
                    true => tracing::warn!(
                        error = message(&e),
                        "every build takes longer until the database is migrated: run publisher migrate"
                    ),
                    false => tracing::debug!(error = message(&e), "builds step by step"),
                }
                if is_for_all(&e) && lasts.is_empty() {
                    known.failed();
                }
                Ok(None)
            }
            Err(Otherwise::Unknown) => Ok(None),
        }
    }

    async fn read_at_once(
        &self,
        known: &Known,
        tenants: &[TenantId],
        lasts: &[Last],
    ) -> Result<Found, Otherwise> {
        let mut lent = self.connections().lend().await?;
        let sql = sqlx::AssertSqlSafe(known.message(tenants, lasts));
        let mut rows = sqlx::raw_sql(sql).fetch(lent.connection());
        let (mut found, mut confirmed) = (Found::default(), None);
        let Definitions {
            kinds, digest_key, ..
        } = &known.definitions;
        while let Some(row) = rows.try_next().await? {
            if confirmed.is_none() {
                confirmed = Some(self.is_as_known(known, &row)?);
                found.seen = Snapshot::parse(row.try_get(4)?);
                continue;
            }
            if row.len() == since::HEADER {
                found.since.extend(since::read(&row, &known.definitions)?);
                continue;
            }
            let kind = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or(usize::MAX);
            let Some(definition) = kinds.get(kind) else {
                return Err(Otherwise::Unknown);
            };
            let (tenant, row) = decode(&row, 1, &definition.kind, digest_key)?;
            found.rows.push((kind, tenant.to_owned(), row));
        }
        drop(rows);
        lent.keep();
        match confirmed {
            Some(true) => Ok(found),
            _ => Err(Otherwise::Unknown),
        }
    }

    /// Whether the snapshot of a header has the definitions that are taken for granted, on the primary of our term. A
    /// name that the tenant type writes otherwise is no tenant's: then nothing is as known.
    fn is_as_known(&self, known: &Known, header: &PgRow) -> sqlx::Result<bool> {
        let text = |i: usize| header.try_get::<Option<String>, _>(i);
        let mine = known.definitions.fingerprint;
        let same = text(0)?.and_then(|f| definitions::number(&f)) == Some(mine);
        let is_primary = !header.try_get::<bool, _>(1)?;
        let here = self.same_server(&text(2)?.unwrap_or_default()).is_ok();
        // Holds are read step by step: there are hardly ever any.
        let names = text(3)?.is_none() && text(5)?.is_none();
        Ok(same && is_primary && here && names)
    }
}

/// Whether the function that builds begin with is not there, or not for this role.
fn is_not_migrated(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|e| {
        let code = e.code().unwrap_or_default();
        matches!(&*code, "42883" | "42501") && e.message().contains("begin_build")
    })
}

/// Whether a statement fails, or takes too long, whatever tenants it is about.
fn is_for_all(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| code.starts_with("42") || code == "57014")
}

fn assemble(
    definitions: &Definitions,
    tenants: &[TenantId],
    regions: &[Region],
    mut rows: Vec<(usize, String, Row)>,
) -> BuiltBatch {
    let (pauses, closed) = (&definitions.pauses, &definitions.decommissioned);
    let mut assembly = Assembly::new(regions, &definitions.digest_key, pauses, closed);
    for tenant in tenants {
        assembly.expect(tenant.clone());
    }
    // One kind after the other, as step by step.
    rows.sort_by_key(|(kind, ..)| *kind);
    let mut problems = BTreeSet::new();
    for (kind, tenant, row) in rows {
        let Some(definition) = definitions.kinds.get(kind) else {
            continue;
        };
        match TenantId::new(&tenant) {
            Ok(tenant) => assembly.rows(definition, &tenant, [row]),
            Err(e) => drop(problems.insert(format!("kind {}: {e}", definition.kind))),
        }
    }
    batch(assembly, definitions, problems, BTreeSet::new())
}

#[cfg(test)]
mod tests {
    use super::super::build::SETTINGS;

    #[test]
    fn the_function_of_the_database_makes_the_settings_of_a_build() {
        let function = include_str!("../../../migrations/0013_begin_build.sql");
        for (name, value) in SETTINGS {
            let makes = format!("PERFORM set_config('{name}', '{value}', true);");
            assert!(function.contains(&makes), "{makes}");
        }
        let path = "PERFORM set_config('search_path', path, true);\nEND";
        assert!(function.contains(path), "{path}");
        let made = function.matches("PERFORM set_config(").count();
        assert_eq!(made, SETTINGS.len() + 1);
    }
}
