//! Tenants in one statement: the way of nearly every build. It takes for granted the definitions as they were read last,
//! and that nothing fails; the statement itself tells, from its own snapshot, whether they are still the same. If
//! anything is otherwise, its rows are thrown away and the build is done step by step, in a new snapshot.

use super::assemble::{Assembly, Row};
use super::build::{SNAPSHOT, batch, decode};
use super::definitions::{self, Definitions};
use super::query::{self, Tenants};
use super::statement::{quoted, unnamed};
use super::{Source, message};
use crate::writer::BuiltBatch;
use contexts::name::{Region, TenantId};
use futures_util::TryStreamExt;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, PoisonError};

/// In the place of a kind's number: the row says whether the definitions are those that are taken for granted.
const HEADER: i32 = -1;
/// The same: the row says how the tenant type writes the name of a tenant.
const TENANT: i32 = -2;

/// The definitions as they were read last, and what they make of a build.
#[derive(Debug)]
pub(super) struct Known {
    definitions: Definitions,
    begin: String,
    sql: String,
}

impl Known {
    fn new(definitions: &Definitions) -> Self {
        let begin = format!(
            "{SNAPSHOT}; SELECT set_config('search_path', {}, true)",
            quoted(&definitions.search_path)
        );
        let tenant_type = &definitions.tenant_type;
        let mut sql = format!(
            "SELECT {HEADER}, {}, pg_is_in_recovery()::text, NULL::text, NULL::text[], NULL::bigint UNION ALL \
             SELECT {TENANT}, t, t::{tenant_type}::text, NULL, NULL, NULL FROM unnest($1::text[]) AS t",
            definitions::FINGERPRINT
        );
        for (i, definition) in definitions.kinds.iter().enumerate() {
            let contexts = query::contexts(definition, tenant_type, Tenants::Listed);
            // Writing to a string does not fail.
            let _ = write!(sql, " UNION ALL SELECT {i}, c.* FROM ({contexts}) AS c");
        }
        let definitions = definitions.clone();
        Self {
            definitions,
            begin,
            sql,
        }
    }
}

impl Source {
    /// Remembers the definitions of a snapshot for the next build.
    pub(super) fn remember(&self, definitions: &Definitions) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().map(|k| k.definitions.fingerprint) != Some(definitions.fingerprint) {
            *known = Some(Arc::new(Known::new(definitions)));
        }
    }

    /// Builds tenants in one statement. None if it cannot be done so, for whatever reason.
    pub async fn build_at_once(
        &self,
        tenants: &[TenantId],
        regions: &[Region],
    ) -> Option<BuiltBatch> {
        let known = self
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        match self.read_at_once(&known, tenants).await {
            Ok(rows) => Some(assemble(&known.definitions, tenants, regions, rows)),
            Err(why) => {
                tracing::debug!(why, "builds step by step");
                None
            }
        }
    }

    /// The rows of all kinds, each with the number of its kind.
    async fn read_at_once(
        &self,
        known: &Known,
        tenants: &[TenantId],
    ) -> Result<Vec<(usize, String, Row)>, String> {
        let failed = |e| message(&e);
        let begin = sqlx::AssertSqlSafe(known.begin.clone());
        let mut tx = self.pool().begin_with(begin).await.map_err(failed)?;
        let names: Vec<String> = tenants.iter().map(ToString::to_string).collect();
        let (mut found, mut confirmed) = (Vec::new(), false);
        {
            let mut rows = unnamed(known.sql.as_str()).bind(names).fetch(&mut *tx);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                match row.try_get::<i32, _>(0).map_err(failed)? {
                    HEADER => confirmed = is_as_known(known, &row).map_err(failed)?,
                    TENANT => is_written_so(&row)?,
                    kind => {
                        let (tenant, row) = decode(&row, 1).map_err(failed)?;
                        found.push((usize::try_from(kind).unwrap_or(usize::MAX), tenant, row));
                    }
                }
            }
        }
        // The transaction ends behind our back: nobody has to wait for that.
        drop(tx);
        match confirmed {
            true => Ok(found),
            false => Err("the definitions have changed, or this is a standby".to_owned()),
        }
    }
}

/// Whether the snapshot of a header has the definitions that are taken for granted, on a primary.
fn is_as_known(known: &Known, header: &PgRow) -> sqlx::Result<bool> {
    let (fingerprint, standby): (String, String) = (header.try_get(1)?, header.try_get(2)?);
    let same = definitions::number(&fingerprint) == Some(known.definitions.fingerprint);
    Ok(same && standby == "false")
}

/// A name that the tenant type writes otherwise is no tenant's.
fn is_written_so(row: &PgRow) -> Result<(), String> {
    let both = || Ok((row.try_get::<String, _>(1)?, row.try_get::<String, _>(2)?));
    let (given, written) = both().map_err(|e: sqlx::Error| message(&e))?;
    match given == written {
        true => Ok(()),
        false => Err(format!("the tenant {given:?} is written {written:?}")),
    }
}

fn assemble(
    definitions: &Definitions,
    tenants: &[TenantId],
    regions: &[Region],
    mut rows: Vec<(usize, String, Row)>,
) -> BuiltBatch {
    let mut assembly = Assembly::new(regions, &definitions.digest_key);
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
            Ok(tenant) => assembly.row(definition, &tenant, row),
            Err(e) => drop(problems.insert(format!("kind {}: {e}", definition.kind))),
        }
    }
    batch(assembly, definitions, problems, BTreeSet::new())
}
