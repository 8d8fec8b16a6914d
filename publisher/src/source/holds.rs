//! What was held: rows of `hubcast.holds`, written by the writer, decided by a person, read by every build in
//! its own snapshot. What a row says is all that there is; nothing in memory keeps a value alive.

use super::audit::{self, Actor};
use super::statement::{Statement, quoted, texts, unnamed};
use super::{Source, SourceError};
use crate::writer::{ANY_VALUE, Hold, HoldName, Withheld};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::version::Term;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Row;
use sqlx::postgres::PgRow;

/// Names that one row of `publisher held` shows.
const EXAMPLES: u32 = 5;
/// Groups that it shows.
const GROUPS: u32 = 200;
/// Rows that one statement writes.
const ROWS: usize = 5_000;

/// What a hold says to a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldState {
    /// It stays, and a person is asked.
    Held,
    /// It may leave.
    Approved,
    /// It stays, and nobody asks.
    Dropped,
}

/// What of contexts is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HeldFor {
    /// That they are gone: too many at once.
    Removed,
    /// Their new values: too many at once.
    Changed,
    /// That they are new: their tenant has more of the kind than its budget.
    Budget,
}

impl HeldFor {
    /// The word that the database has for it.
    fn word(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Budget => "budget",
        }
    }

    /// What a person calls so many contexts of it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Removed => "removals",
            Self::Changed => "changes",
            Self::Budget => "new contexts",
        }
    }
}

/// How the database writes down what is held: the reason, and the value.
fn columns(what: Withheld) -> (HeldFor, Option<i64>) {
    match what {
        Withheld::Removal => (HeldFor::Removed, None),
        Withheld::Change(value) => (HeldFor::Changed, Some(value.cast_signed())),
        Withheld::Beyond => (HeldFor::Budget, None),
    }
}

/// One hold, as a build reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// Of what.
    pub name: HoldName,
    /// What it says.
    pub state: HoldState,
}

/// The columns that [`HoldRow::read`] reads. An approval that ran out says nothing any more.
pub(super) const COLUMNS: &str = "tenant, kind, key, region, state, reason, value";
/// And which rows.
pub(super) const IN_FORCE: &str = "(state <> 'approved' OR approved_until > now())";

impl HoldRow {
    /// Understands a row; none if it names what nothing can be called.
    pub(super) fn read(row: &PgRow) -> Option<Self> {
        let state = match row.get::<&str, _>(4) {
            "held" => HoldState::Held,
            "approved" => HoldState::Approved,
            _ => HoldState::Dropped,
        };
        Some(Self {
            name: HoldName {
                tenant: TenantId::new(row.get(0)).ok()?,
                kind: Kind::new(row.get(1)).ok()?,
                key: Key::new(row.get(2)).ok()?,
                region: Region::new(row.get(3)).ok()?,
                what: match row.get::<&str, _>(5) {
                    "changed" => {
                        let value = row.get::<Option<i64>, _>(6);
                        Withheld::Change(value.map_or(ANY_VALUE, i64::cast_unsigned))
                    }
                    "budget" => Withheld::Beyond,
                    _ => Withheld::Removal,
                },
            },
            state,
        })
    }
}

/// The values of holds, as text; empty where there is none.
fn values(names: &[HoldName]) -> Vec<String> {
    let values = names.iter().map(|n| columns(n.what).1);
    let texts = values.map(|value| value.map_or_else(String::new, |v| v.to_string()));
    texts.collect()
}

/// Holds of one cause, for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldGroup {
    /// The region.
    pub region: Region,
    /// The kind.
    pub kind: Kind,
    /// What of them is held.
    pub reason: HeldFor,
    /// What became of them.
    pub state: HoldState,
    /// Contexts.
    pub contexts: u64,
    /// Their tenants.
    pub tenants: u64,
    /// What removed or changed so much, or which budget it is.
    pub cause: String,
    /// Who decided.
    pub decided_by: Option<String>,
    /// Since when, in seconds.
    pub seconds_ago: f64,
    /// Some of them: tenant and key.
    pub examples: Vec<(TenantId, Key)>,
}

/// Which holds a decision is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    /// Only of this region.
    pub region: Option<Region>,
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only what is held for this reason.
    pub reason: Option<HeldFor>,
    /// Only of these tenants.
    pub tenants: Option<Vec<TenantId>>,
    /// Of what was dropped before, instead of what waits for a decision.
    pub kept: bool,
}

impl Which {
    fn condition(&self) -> String {
        let state = match self.kept {
            true => "dropped",
            false => "held",
        };
        let mut all = vec![format!("state = '{state}'")];
        let region = self.region.as_ref().map(|r| ("region", r.as_str()));
        let kind = self.kind.as_ref().map(|k| ("kind", k.as_str()));
        let reason = self.reason.map(|r| ("reason", r.word()));
        for (column, value) in region.into_iter().chain(kind).chain(reason) {
            all.push(format!("{column} = {}", quoted(value)));
        }
        if let Some(tenants) = &self.tenants {
            let tenants = texts(tenants.iter().map(TenantId::as_str));
            all.push(format!("tenant = ANY({tenants})"));
        }
        all.join(" AND ")
    }
}

/// What a decision was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Contexts.
    pub contexts: u64,
    /// Their tenants.
    pub tenants: Vec<TenantId>,
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// They may go within the next hour.
    Approve,
    /// They stay as they are until the hub changes them again.
    Drop,
}

impl Source {
    /// Writes down what is held, as the writer of a term; with the act, so that it is in the audit trail.
    ///
    /// # Errors
    /// [`SourceError::TermOver`] if somebody else is the writer now.
    pub async fn hold(&self, term: Term, hold: &Hold) -> Result<(), SourceError> {
        let doing = "writing down what is held";
        let failed = |e| self.error(doing, e);
        let mut tx = self.begin("BEGIN").await.map_err(failed)?;
        let office = format!(
            "SELECT FROM hubcast.writer w WHERE {} FOR SHARE",
            self.in_office(term)
        );
        let in_office = unnamed(office).fetch_optional(&mut *tx).await;
        in_office.map_err(failed)?.ok_or(SourceError::TermOver)?;
        for names in hold.names.chunks(ROWS) {
            let column = |of: fn(&HoldName) -> &str| texts(names.iter().map(of));
            let sql = format!(
                "INSERT INTO hubcast.holds (tenant, kind, key, region, reason, value, state, cause) \
                 SELECT t, k, key, r, w, nullif(v, '')::bigint, 'held', $1 \
                 FROM unnest({}, {}, {}, {}, {}, {}) AS u(t, k, key, r, w, v) \
                 ON CONFLICT (tenant, kind, key, region) DO UPDATE SET state = 'held', cause = excluded.cause, \
                 reason = excluded.reason, value = excluded.value, held_at = now(), decided_by = NULL, approved_until = NULL",
                column(|n| n.tenant.as_str()),
                column(|n| n.kind.as_str()),
                column(|n| n.key.as_str()),
                column(|n| n.region.as_str()),
                column(|n| columns(n.what).0.word()),
                texts(values(names).iter().map(String::as_str)),
            );
            let writing = unnamed(sql).bind(hold.cause.clone());
            writing.execute(&mut *tx).await.map_err(failed)?;
        }
        let by = Actor {
            who: "publisher".into(),
            origin: "the guard".into(),
        };
        let reason = hold.names.first().map(|n| columns(n.what).0);
        let what = json!({ "cause": hold.cause, "reason": reason, "contexts": hold.names.len() });
        let act = audit::record(&by, "held", &what);
        unnamed(act).execute(&mut *tx).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// Forgets holds that are over, unless they say something else by now, and approvals that ran out.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn forget_holds(&self, term: Term, names: &[HoldName]) -> Result<(), SourceError> {
        let column = |of: fn(&HoldName) -> &str| texts(names.iter().map(of));
        let sql = format!(
            "DELETE FROM hubcast.holds h WHERE {} AND ((h.tenant, h.kind, h.key, h.region, h.reason, coalesce(h.value::text, '')) \
             IN (SELECT * FROM unnest({}, {}, {}, {}, {}, {})) OR approved_until < now() - interval '1 hour')",
            self.in_office(term),
            column(|n| n.tenant.as_str()),
            column(|n| n.kind.as_str()),
            column(|n| n.key.as_str()),
            column(|n| n.region.as_str()),
            column(|n| columns(n.what).0.word()),
            texts(values(names).iter().map(String::as_str)),
        );
        let statement = Statement::new(sql);
        self.execute("forgetting what is held no longer", statement)
            .await?;
        Ok(())
    }

    /// What is held, by cause, with examples.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn held(&self) -> Result<Vec<HeldGroup>, SourceError> {
        let sql = format!(
            "SELECT coalesce(json_agg(g ORDER BY g.seconds_ago), '[]')::text FROM (SELECT region, kind, reason, state, count(*) AS contexts, \
              count(DISTINCT tenant) AS tenants, cause, decided_by, extract(epoch FROM now() - min(held_at))::float8 AS seconds_ago, \
              to_json((array_agg(json_build_array(tenant, key) ORDER BY tenant, key))[1:{EXAMPLES}]) AS examples \
              FROM hubcast.holds WHERE {IN_FORCE} GROUP BY region, kind, reason, state, cause, decided_by LIMIT {GROUPS}) g"
        );
        let doing = "reading what is held";
        let row = self.fetch_one(doing, Statement::new(sql)).await?;
        serde_json::from_str(row.get(0)).map_err(|e| SourceError::Failed {
            what: doing.into(),
            why: e.to_string(),
        })
    }

    /// Decides about exactly what is held now, or about what an earlier decision keeps.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn decide(
        &self,
        decision: Decision,
        which: &Which,
        by: &Actor,
    ) -> Result<Decided, SourceError> {
        let doing = "deciding about what is held";
        let failed = |e| self.error(doing, e);
        let (state, until, action) = match decision {
            Decision::Approve => ("approved", "now() + interval '1 hour'", "approve"),
            Decision::Drop => ("dropped", "NULL", "drop"),
        };
        let mut tx = self.begin("BEGIN").await.map_err(failed)?;
        let sql = format!(
            "WITH decided AS (UPDATE hubcast.holds SET state = '{state}', decided_by = $1, approved_until = {until} WHERE {} RETURNING tenant) \
             SELECT json_build_object('contexts', count(*), 'tenants', coalesce(json_agg(DISTINCT tenant), '[]'))::text FROM decided",
            which.condition()
        );
        let deciding = unnamed(sql).bind(by.who.clone()).fetch_one(&mut *tx);
        let row = deciding.await.map_err(failed)?;
        let decided: Decided =
            serde_json::from_str(row.get(0)).map_err(|e| SourceError::Failed {
                what: doing.into(),
                why: e.to_string(),
            })?;
        let what = json!({ "which": which, "contexts": decided.contexts, "tenants": decided.tenants.len() });
        let act = audit::record(by, action, &what);
        unnamed(act).execute(&mut *tx).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(decided)
    }
}
