//! Builds: tenants or a range of them, all kinds, in one REPEATABLE READ, READ ONLY transaction on the primary.
//!
//! Whatever is wrong with a kind stays with that kind, and with the tenants that it concerns: each kind has a
//! savepoint, and a query that fails is asked again for ever fewer tenants until the one that fails is found. Only
//! trouble with the database as a whole fails the build.

use super::assemble::{Assembly, Finished};
use super::definitions::{self, Definition, Definitions};
use super::holds::HoldRow;
use super::hub::SERVER;
use super::query::{self, LIST, Tenants};
use super::rows::{Found, decode};
use super::statement::{Statement, unnamed};
use super::{Source, SourceError, is_passing, message};
use crate::writer::{BuildRequest, BuiltBatch, Snapshot, TenantRange, What};
use contexts::name::{Key, Kind, Region, TenantId};
use futures_util::TryStreamExt;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, Postgres, Row as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A failing query is asked again for at most this many tenants at a time, and then for ever fewer.
const PART: usize = 500;
/// After so many tenants for which a query fails, it is held for the rest of their part without asking one by one.
const FAILING_MAX: usize = 200;

/// What makes a transaction one snapshot.
pub(super) const SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// With these, values do not depend on who connects. `row_security = off` turns rows that a policy would hide into an
/// error: hidden rows would look like deletes.
pub(super) const SETTINGS: [(&str, &str); 7] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("row_security", "off"),
    ("jit", "off"),
];

/// No build takes so long, not even one that asks again for every tenant of a query that fails: its connection is dead,
/// and nobody said so.
pub(super) const BUILD_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Problems of one build that are named.
const PROBLEMS_MAX: usize = 100;

/// Parameters of a query on tenants.
#[derive(Debug, Clone)]
enum Bound {
    List(Vec<String>),
    Range(TenantRange),
}

impl Bound {
    fn shape(&self) -> Tenants<'static> {
        match self {
            Self::List(_) => LIST,
            Self::Range(TenantRange {
                from: Some(_),
                to: Some(_),
            }) => Tenants::Between,
            Self::Range(TenantRange {
                from: Some(_),
                to: None,
            }) => Tenants::From,
            Self::Range(TenantRange {
                from: None,
                to: Some(_),
            }) => Tenants::Below,
            Self::Range(TenantRange {
                from: None,
                to: None,
            }) => Tenants::All,
        }
    }

    fn query(&self, sql: String) -> Query<'static, Postgres, PgArguments> {
        let query = unnamed(sql);
        match self {
            Self::List(tenants) => query.bind(tenants.clone()),
            Self::Range(range) => [&range.from, &range.to]
                .into_iter()
                .flatten()
                .fold(query, |q, b| q.bind(b.clone())),
        }
    }
}

/// Why a kind could not be read.
enum Failure {
    /// The database is in trouble: the build is to be repeated.
    Passing(SourceError),
    /// The query fails for some of the tenants, or for all.
    Query { why: String, for_all: bool },
}

impl Source {
    /// Begins a transaction that is one snapshot.
    pub(super) async fn begin_snapshot(
        &self,
    ) -> sqlx::Result<sqlx::Transaction<'static, Postgres>> {
        let settings = SETTINGS.map(|(name, value)| format!("SET LOCAL \"{name}\" = '{value}'"));
        self.begin(format!("BEGIN; {SNAPSHOT}; {}", settings.join("; ")))
            .await
    }

    fn is_standby(&self) -> SourceError {
        let at = self.at.clone();
        SourceError::Standby { at }
    }

    /// Begins a snapshot for building and reads the definitions in it.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails, is a standby or another server, or was not migrated.
    pub(super) async fn snapshot(
        &self,
    ) -> Result<(sqlx::Transaction<'static, Postgres>, Definitions), SourceError> {
        let (tx, definitions, _) = self.snapshot_seen().await?;
        Ok((tx, definitions))
    }

    /// The same, and what it sees.
    async fn snapshot_seen(
        &self,
    ) -> Result<
        (
            sqlx::Transaction<'static, Postgres>,
            Definitions,
            Option<Arc<Snapshot>>,
        ),
        SourceError,
    > {
        let failed = |e| self.error("beginning a build", e);
        let mut tx = self.begin_snapshot().await.map_err(failed)?;
        let row = unnamed(format!(
            "SELECT pg_is_in_recovery(), {SERVER}, pg_current_snapshot()::text"
        ));
        let row = row.fetch_one(&mut *tx).await.map_err(failed)?;
        if row.get(0) {
            return Err(self.is_standby());
        }
        self.same_server(row.get(1))?;
        let seen = Snapshot::parse(row.get(2)).map(Arc::new);
        let row = unnamed(definitions::READ)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
        let row = row.ok_or_else(|| SourceError::NotMigrated {
            at: self.at.clone(),
        })?;
        let definitions = Definitions::from_row(&row)?;
        unnamed("SELECT set_config('search_path', $1, true)")
            .bind(definitions.search_path.clone())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        Ok((tx, self.remember(definitions), seen))
    }

    /// Does a build.
    ///
    /// # Errors
    /// [`SourceError`] if the database as a whole is in trouble; the build is then to be repeated.
    pub async fn build(
        &self,
        request: &BuildRequest,
        regions: &[Region],
    ) -> Result<BuiltBatch, SourceError> {
        let building = async {
            match &request.what {
                What::Bounds => self.read_bounds().await,
                What::Beat => self.read_beat().await,
                What::Range(range) => self.build_bound(Bound::Range(range.clone()), regions).await,
                What::Tenants(tenants) => match self.build_at_once(tenants, regions).await? {
                    Some(batch) => Ok(batch),
                    None => self.build_step_by_step(tenants, regions).await,
                },
            }
        };
        self.within(BUILD_WITHIN, self.while_connected(building))
            .await
    }

    /// Builds tenants with a statement for each kind, and ever fewer tenants where one fails.
    ///
    /// # Errors
    /// As [`Source::build`].
    pub async fn build_step_by_step(
        &self,
        tenants: &[TenantId],
        regions: &[Region],
    ) -> Result<BuiltBatch, SourceError> {
        let names = tenants.iter().map(ToString::to_string).collect();
        self.build_bound(Bound::List(names), regions).await
    }

    async fn read_beat(&self) -> Result<BuiltBatch, SourceError> {
        let sql = format!("SELECT n, pg_is_in_recovery(), {SERVER} FROM hubcast.beat");
        let row = self.fetch_one("reading the beat", Statement::new(sql));
        let row = row.await?;
        if row.get(1) {
            return Err(self.is_standby());
        }
        self.same_server(row.get(2))?;
        let n: i64 = row.get(0);
        Ok(BuiltBatch {
            beat: Some(n.unsigned_abs()),
            ..BuiltBatch::default()
        })
    }

    async fn build_bound(
        &self,
        bound: Bound,
        regions: &[Region],
    ) -> Result<BuiltBatch, SourceError> {
        let (mut tx, definitions, seen) = self.snapshot_seen().await?;
        let key = definitions.digest_key.clone();
        let (pauses, closed) = (&definitions.pauses, &definitions.decommissioned);
        let mut assembly = Assembly::new(regions, &key, pauses, closed);
        let bound = match bound {
            Bound::List(names) => {
                for name in names.iter().filter_map(|n| TenantId::new(n).ok()) {
                    assembly.expect(name);
                }
                let (possible, _) = self
                    .split_tenants(&mut tx, &definitions.tenant_type, names)
                    .await?;
                Bound::List(possible)
            }
            range @ Bound::Range(_) => range,
        };
        let (mut problems, mut unsure) = (BTreeSet::new(), BTreeSet::new());
        for definition in &definitions.kinds {
            let mut reader = Reader {
                source: self,
                definitions: &definitions,
                definition,
                problems: &mut problems,
                unsure: &mut unsure,
            };
            match reader.read(&mut tx, &bound, &mut assembly).await {
                Ok(()) => {}
                Err(Failure::Passing(e)) => return Err(e),
                Err(Failure::Query { why, for_all }) => {
                    reader
                        .narrow(&mut tx, &bound, &mut assembly, why, for_all)
                        .await?;
                }
            }
        }
        // Each range is read by one build, so what belongs to none is looked for in one of them.
        if let Bound::Range(TenantRange { to: None, .. }) = &bound {
            problems.extend(self.tenantless(&mut tx, &definitions).await?);
        }
        let holds = bound.query(query::holds(&definitions.tenant_type, bound.shape()));
        let holds = holds.fetch_all(&mut *tx).await;
        let holds = holds.map_err(|e| self.error("reading what is held", e))?;
        assembly.holds(holds.iter().filter_map(HoldRow::read));
        tx.rollback()
            .await
            .map_err(|e| self.error("ending a build", e))?;
        Ok(BuiltBatch {
            seen,
            ..batch(assembly, &definitions, problems, unsure)
        })
    }

    /// Divides names into those that the tenant type can have, and the others with the reason.
    ///
    /// # Errors
    /// [`SourceError`] if the database is in trouble.
    pub(super) async fn split_tenants(
        &self,
        connection: &mut PgConnection,
        tenant_type: &str,
        names: Vec<String>,
    ) -> Result<(Vec<String>, Vec<(String, String)>), SourceError> {
        let sql = format!("SELECT t, t::{tenant_type}::text FROM unnest($1::text[]) AS t");
        let (mut possible, mut wrong) = (Vec::new(), Vec::new());
        let mut waiting = vec![names];
        while let Some(names) = waiting.pop() {
            let mut tx = connection
                .begin()
                .await
                .map_err(|e| self.error("checking tenants", e))?;
            let query = unnamed(sql.clone()).bind(names.clone());
            match query.fetch_all(&mut *tx).await {
                Ok(rows) => {
                    for row in rows {
                        let (given, written): (String, String) = (row.get(0), row.get(1));
                        match given == written {
                            true => possible.push(given),
                            false => wrong
                                .push((given, format!("a {tenant_type} is written {written:?}"))),
                        }
                    }
                }
                Err(e) if is_passing(&e) => return Err(self.error("checking tenants", e)),
                Err(e) if names.len() <= 1 => {
                    wrong.extend(names.into_iter().map(|n| (n, message(&e))))
                }
                Err(_) => {
                    let half = names.len() / 2;
                    waiting.push(names[half..].to_vec());
                    waiting.push(names[..half].to_vec());
                }
            }
            tx.rollback()
                .await
                .map_err(|e| self.error("checking tenants", e))?;
        }
        Ok((possible, wrong))
    }

    /// The tenants that have a context of this name, at most a hundred.
    ///
    /// # Errors
    /// [`SourceError`] if the database or the query fails.
    pub async fn tenants_with_key(
        &self,
        kind: &Kind,
        key: &Key,
    ) -> Result<Vec<TenantId>, SourceError> {
        let (mut tx, definitions) = self.snapshot().await?;
        let Some(definition) = definitions.kinds.iter().find(|d| d.kind == *kind) else {
            let kinds: Vec<&str> = definitions.kinds.iter().map(|d| d.kind.as_str()).collect();
            let why = format!("it is not published; there are {}", kinds.join(", "));
            return Err(SourceError::Failed {
                what: format!("kind {kind}"),
                why,
            });
        };
        let sql = query::with_key(definition, &definitions.tenant_type);
        let rows = unnamed(sql).bind(key.to_string()).fetch_all(&mut *tx).await;
        let rows = rows.map_err(|e| self.error(&format!("kind {kind}"), e))?;
        Ok(rows
            .iter()
            .filter_map(|r| TenantId::new(r.get(0)).ok())
            .collect())
    }

    /// Checks names that somebody typed.
    ///
    /// # Errors
    /// [`SourceError::Failed`] names the first that no tenant can have.
    pub async fn check_tenants(&self, names: &[String]) -> Result<Vec<TenantId>, SourceError> {
        let definitions = self.definitions().await?;
        let tx = self.begin("BEGIN").await;
        let mut tx = tx.map_err(|e| self.error("checking tenants", e))?;
        let (_, wrong) = self
            .split_tenants(&mut tx, &definitions.tenant_type, names.to_vec())
            .await?;
        if let Some((name, why)) = wrong.into_iter().next() {
            return Err(SourceError::Failed {
                what: format!("tenant {name:?}"),
                why,
            });
        }
        let named = names
            .iter()
            .map(|n| TenantId::new(n))
            .collect::<Result<_, _>>();
        named.map_err(|e| SourceError::Failed {
            what: "tenant".into(),
            why: e.to_string(),
        })
    }
}

/// What a build hands on.
pub(super) fn batch(
    mut assembly: Assembly<'_>,
    definitions: &Definitions,
    problems: BTreeSet<String>,
    unsure: BTreeSet<Kind>,
) -> BuiltBatch {
    let mut warnings = assembly.take_warnings();
    warnings.extend(definitions.pauses.all.iter().map(ToString::to_string));
    let Finished {
        tenants,
        contexts,
        excused,
        void,
        over,
        budgets,
    } = assembly.finish();
    BuiltBatch {
        ranges: Vec::new(),
        beat: None,
        seen: None,
        tenants,
        guards: definitions.guards,
        closed: definitions.decommissioned.clone(),
        queries: definitions.queries.clone(),
        excused,
        void,
        over,
        budgets,
        contexts,
        definitions: definitions.fingerprint,
        kinds: definitions.kinds.iter().map(|d| d.kind.clone()).collect(),
        problems: problems.into_iter().take(PROBLEMS_MAX).collect(),
        unsure,
        warnings,
    }
}

/// Reads one kind in a build.
struct Reader<'a> {
    source: &'a Source,
    definitions: &'a Definitions,
    definition: &'a Definition,
    problems: &'a mut BTreeSet<String>,
    unsure: &'a mut BTreeSet<Kind>,
}

impl Reader<'_> {
    fn failure(&self, e: sqlx::Error) -> Failure {
        let doing = format!("kind {}", self.definition.kind);
        if is_passing(&e) {
            return Failure::Passing(self.source.error(&doing, e));
        }
        // Class 42: the query itself, or what it may read, is wrong, for whomever it is asked.
        let code = e
            .as_database_error()
            .and_then(|d| d.code())
            .unwrap_or_default()
            .into_owned();
        Failure::Query {
            why: format!("the query fails: {}", message(&e)),
            for_all: code.starts_with("42"),
        }
    }

    /// Reads the rows of some tenants into the assembly, or none of them.
    async fn read(
        &mut self,
        connection: &mut PgConnection,
        bound: &Bound,
        assembly: &mut Assembly<'_>,
    ) -> Result<(), Failure> {
        let sql = query::contexts(
            self.definition,
            &self.definitions.tenant_type,
            bound.shape(),
        );
        let mut savepoint = connection.begin().await.map_err(|e| self.failure(e))?;
        let mut found = Found::default();
        let (kind, digest_key) = (&self.definition.kind, &self.definitions.digest_key);
        let mut unnamed = BTreeSet::new();
        {
            let mut rows = bound.query(sql).fetch(&mut *savepoint);
            loop {
                let row = match rows.try_next().await {
                    Ok(Some(row)) => row,
                    Ok(None) => break,
                    Err(e) => return Err(self.failure(e)),
                };
                let (tenant, row) =
                    decode(&row, 0, kind, digest_key).map_err(|e| self.failure(e))?;
                if let Err(e) = found.add(tenant, row) {
                    unnamed.insert(format!("kind {}: {e}", self.definition.kind));
                }
            }
        }
        savepoint.rollback().await.map_err(|e| self.failure(e))?;
        self.problems.extend(unnamed);
        for (tenant, rows) in found.tenants {
            assembly.rows(self.definition, &tenant, rows);
        }
        Ok(())
    }

    /// The query failed for the whole: finds the tenants for which it fails and holds the kind for those.
    async fn narrow(
        &mut self,
        connection: &mut PgConnection,
        bound: &Bound,
        assembly: &mut Assembly<'_>,
        why: String,
        for_all: bool,
    ) -> Result<(), SourceError> {
        self.problems
            .insert(format!("kind {}: {why}", self.definition.kind));
        let tenants = match bound {
            Bound::List(tenants) => tenants.clone(),
            Bound::Range(_) => self.candidates(connection, bound, assembly).await?,
        };
        let mut waiting: Vec<Vec<String>> = tenants.chunks(PART).map(<[String]>::to_vec).collect();
        let mut failing = 0;
        while let Some(part) = waiting.pop() {
            let asked = match for_all || failing > FAILING_MAX {
                true => Err(Failure::Query {
                    why: why.clone(),
                    for_all: true,
                }),
                false => {
                    self.read(connection, &Bound::List(part.clone()), assembly)
                        .await
                }
            };
            match asked {
                Ok(()) => {}
                Err(Failure::Passing(e)) => return Err(e),
                Err(Failure::Query { why, for_all }) if part.len() == 1 || for_all => {
                    failing += 1;
                    for tenant in part.iter().filter_map(|t| TenantId::new(t).ok()) {
                        assembly.hold_kind(&self.definition.kind, tenant, why.clone());
                    }
                }
                Err(Failure::Query { .. }) => {
                    let half = part.len() / 2;
                    waiting.push(part[half..].to_vec());
                    waiting.push(part[..half].to_vec());
                }
            }
        }
        Ok(())
    }

    /// The tenants of a range that may have rows of the kind: those with rows of other kinds, and those that the query
    /// itself names. If it cannot even name them, the kind is *unsure*: no store may conclude from this scan that a
    /// key of it does not exist. (A tenant that is missed here and that a store holds is found by the comparison.)
    async fn candidates(
        &mut self,
        connection: &mut PgConnection,
        bound: &Bound,
        assembly: &Assembly<'_>,
    ) -> Result<Vec<String>, SourceError> {
        let doing = "looking for the tenants of a range";
        let mut names: BTreeSet<String> = assembly.tenants().map(ToString::to_string).collect();
        for definition in &self.definitions.kinds {
            let sql = query::tenants(definition, &self.definitions.tenant_type, bound.shape());
            let mut savepoint = connection
                .begin()
                .await
                .map_err(|e| self.source.error(doing, e))?;
            match bound.query(sql).fetch_all(&mut *savepoint).await {
                Ok(rows) => names.extend(rows.iter().filter_map(|r| r.get::<Option<String>, _>(0))),
                Err(e) if is_passing(&e) => return Err(self.source.error(doing, e)),
                Err(_) if definition.kind == self.definition.kind => {
                    self.unsure.insert(definition.kind.clone());
                }
                Err(_) => {}
            }
            savepoint
                .rollback()
                .await
                .map_err(|e| self.source.error(doing, e))?;
        }
        Ok(names.into_iter().collect())
    }
}
