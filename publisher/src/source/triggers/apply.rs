//! Makes what is there as planned, one table at a time.
//!
//! Making a trigger waits for the transactions that have written to its table, and whoever writes to it next waits
//! behind. So each table has a short transaction of its own with a short wait, tried again after a pause in which the
//! writers go on.

use super::Event;
use super::difference::{Difference, Differing, Leftover};
use super::facts::{self, Facts};
use super::plan::{Function, Plan, Planned, plan};
use crate::config::Watch;
use crate::source::statement::{Statement, quoted};
use crate::source::{Source, SourceError, message};
use sqlx::{AssertSqlSafe, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a statement waits for a lock, and others behind it: in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 2_000;
/// How long it waits for its turn.
const TURN_TIMEOUT_MS: u32 = 30_000;
/// How long a table is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first pause between two tries, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(4));
/// The advisory lock of whoever changes the schema: "hubcast".
const LOCK: i64 = 0x0068_7562_6361_7374;

/// What a transaction that changes the schema begins with. Nobody waits behind whoever waits for its turn.
pub fn preamble() -> String {
    format!(
        "SET LOCAL lock_timeout = {TURN_TIMEOUT_MS}; SELECT pg_advisory_xact_lock({LOCK}); \
         SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};\n"
    )
}

/// What is installed for some watches, and what should be.
#[derive(Debug)]
pub struct Work {
    plan: Plan,
    facts: Facts,
}

impl Source {
    /// Looks at what is installed for some watches.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails, or a watch cannot be.
    pub async fn plan_triggers<'a>(
        &self,
        watches: impl IntoIterator<Item = &'a Watch>,
        search_path: &str,
    ) -> Result<Work, SourceError> {
        let failed = |e| self.error("looking at the watched tables", e);
        let watches: Vec<&Watch> = watches.into_iter().collect();
        let names: BTreeSet<String> = watches.iter().map(|w| w.table.clone()).collect();
        let names: Vec<String> = names.into_iter().collect();
        let mut tx = self.begin_looking(search_path).await.map_err(failed)?;
        let facts = facts::read(&mut tx, &names).await.map_err(failed)?;
        tx.rollback().await.map_err(failed)?;
        let work = Work::of(watches, facts);
        match work.plan.faults.first() {
            None => Ok(work),
            Some(fault) => Err(SourceError::Failed {
                what: "watch".into(),
                why: fault.why.clone(),
            }),
        }
    }

    /// Creates or replaces what is not as it should be; returns a line for each table.
    ///
    /// # Errors
    /// [`SourceError`] names the table that the role may not have triggers on, or that stayed locked.
    pub async fn install_triggers(&self, work: &Work) -> Result<Vec<String>, SourceError> {
        let difference = work.plan.compare(&work.facts);
        self.require_privileges(&difference).await?;
        if !difference.functions.is_empty() {
            let sql: String = difference.functions.iter().map(|f| create(f)).collect();
            self.patiently("installing the trigger functions", None, &sql)
                .await?;
        }
        let mut lines = Vec::new();
        for differing in &difference.tables {
            let planned = differing.planned;
            let triggers: String = differing.to_make().map(|e| trigger(planned, e)).collect();
            let sql = triggers + &remember(planned);
            let what = format!("installing change triggers on the table {}", planned.name);
            self.patiently(&what, Some(planned.oid), &sql).await?;
            lines.extend(line(differing));
        }
        Ok(lines)
    }

    /// Drops what nobody asks for any more; returns a line for each table.
    ///
    /// # Errors
    /// As [`Source::install_triggers`].
    pub async fn remove_triggers(&self, work: &Work) -> Result<Vec<String>, SourceError> {
        let difference = work.plan.compare(&work.facts);
        let mut by_table: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for leftover in &difference.leftovers {
            by_table
                .entry(leftover.table.oid)
                .or_default()
                .push(leftover);
        }
        let mut lines = Vec::new();
        for (oid, leftovers) in by_table {
            let Some(table) = leftovers.first().map(|l| l.table) else {
                continue;
            };
            let drop = |l: &&Leftover<'_>| drop_trigger(&l.trigger.name, &table.name);
            let sql: String = leftovers.iter().map(drop).collect();
            let what = format!("removing change triggers from the table {}", table.name);
            match self.patiently(&what, Some(oid), &sql).await {
                // Only the owner of a table may drop a trigger, but the owner of a function may drop it with whatever
                // uses it, as is done below.
                Err(SourceError::NotPermitted { .. })
                    if leftovers
                        .iter()
                        .all(|l| is_unused(&difference, l.trigger.function.as_deref())) => {}
                other => other?,
            }
            lines.push(format!("table {}: change triggers removed", table.name));
        }
        if !difference.unused.is_empty() {
            let sql: String = difference
                .unused
                .iter()
                .map(|name| drop_function(name))
                .collect();
            self.patiently("removing trigger functions", None, &sql)
                .await?;
        }
        if work.plan.forgets(&work.facts) {
            self.patiently("forgetting tables", None, &forget(&work.plan))
                .await?;
        }
        Ok(lines)
    }

    /// Fails before anything is done if the role may not create a trigger that is needed.
    async fn require_privileges(&self, difference: &Difference<'_>) -> Result<(), SourceError> {
        let lacking: Vec<&str> = difference
            .tables
            .iter()
            .filter(|d| !d.may_trigger && d.to_make().next().is_some())
            .map(|d| d.planned.name.as_str())
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let tables = lacking.join(", ");
        let asking = Statement::new("SELECT quote_ident(current_user)");
        let asked = self.fetch_one("asking for the role", asking).await?;
        let role: String = asked.get(0);
        Err(SourceError::NotPermitted {
            what: format!("change triggers on {tables}"),
            why: format!(
                "the role {role} may not create them: GRANT TRIGGER ON {tables} TO {role}, and USAGE on the schema"
            ),
        })
    }

    /// Runs statements in a transaction of their own, and again while they wait for a lock in vain.
    ///
    /// # Errors
    /// [`SourceError::Failed`] names who holds the lock on `table` at the end.
    pub(in crate::source) async fn patiently(
        &self,
        what: &str,
        table: Option<u32>,
        sql: &str,
    ) -> Result<(), SourceError> {
        let (until, mut pause) = (Instant::now() + PATIENCE, PAUSE.0);
        loop {
            let error = match self.at_once(sql).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Neither a lock that is not to be had nor a deadlock stays.
            let code = error.as_database_error().and_then(|e| e.code());
            if !matches!(code.as_deref(), Some("55P03" | "40P01")) {
                return Err(self.refused(what, error));
            }
            if Instant::now() + pause > until {
                let holders = match table {
                    Some(table) => self.holders(table).await?,
                    None => Vec::new(),
                };
                let why = match holders.is_empty() {
                    true => message(&error),
                    false => format!("it is locked by {}", holders.join(", and by ")),
                };
                return Err(SourceError::Failed {
                    what: what.to_owned(),
                    why: format!(
                        "{why}; tried for {} s, run the command again",
                        PATIENCE.as_secs()
                    ),
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn at_once(&self, sql: &str) -> sqlx::Result<()> {
        let mut tx = self.begin("BEGIN").await?;
        let sql = preamble() + sql;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
        tx.commit().await
    }

    /// Who has written to a table in a transaction that is still open, or locked it otherwise.
    async fn holders(&self, table: u32) -> Result<Vec<String>, SourceError> {
        let sql = format!(
            "SELECT coalesce(format('process %s (%s%s for %s s, last: %s)', a.pid, coalesce(a.usename || ', ', ''), a.state, \
              extract(epoch FROM clock_timestamp() - a.xact_start)::bigint, \
              coalesce(nullif(left(regexp_replace(a.query, '\\s+', ' ', 'g'), 200), ''), 'unknown')), \
              'a prepared transaction (see pg_prepared_xacts)') \
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'relation' AND l.relation = {table} AND l.granted AND l.mode NOT IN \
              ('AccessShareLock', 'RowShareLock') AND l.database = \
              (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY a.xact_start LIMIT 3"
        );
        let asking = Statement::new(sql);
        let rows = self.fetch_all("asking who holds a lock", asking).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

impl Work {
    pub(super) fn of<'a>(watches: impl IntoIterator<Item = &'a Watch>, facts: Facts) -> Self {
        let plan = plan(watches, &facts);
        Self { plan, facts }
    }

    /// All of it as SQL, whatever is there: what to run before the definitions are written, and after.
    pub fn script(&self) -> (String, String) {
        let functions = self.plan.functions.values().map(create);
        let triggers = self.plan.tables.values().map(|planned| {
            let all = Event::ALL.into_iter().map(|e| trigger(planned, e));
            all.collect::<String>() + &remember(planned)
        });
        let difference = self.plan.compare(&self.facts);
        let triggers_away = difference
            .leftovers
            .iter()
            .map(|l| drop_trigger(&l.trigger.name, &l.table.name));
        let functions_away = difference.unused.iter().map(|name| drop_function(name));
        (
            functions.chain(triggers).collect(),
            triggers_away
                .chain(functions_away)
                .chain([forget(&self.plan)])
                .collect(),
        )
    }
}

fn is_unused(difference: &Difference<'_>, function: Option<&str>) -> bool {
    function.is_some_and(|name| difference.unused.contains(&name))
}

fn line(differing: &Differing<'_>) -> Option<String> {
    let is_new = differing.missing.len() == Event::ALL.len();
    let is_same = differing.to_make().next().is_none() && differing.stale.is_empty();
    let word = match (is_same, is_new) {
        (true, _) => return None,
        (false, true) => "installed",
        (false, false) => "changed",
    };
    let name = &differing.planned.name;
    Some(format!("table {name}: change triggers {word}"))
}

fn create(function: &Function) -> String {
    let Function {
        name,
        body,
        settings,
    } = function;
    let settings: String = settings
        .iter()
        .map(|(key, value)| match key.as_str() {
            // A list, of which each element is a name.
            "search_path" => format!("SET {key} = {value} "),
            _ => format!("SET {key} = '{value}' "),
        })
        .collect();
    // A column may be called anything.
    let tag = (0_u32..)
        .map(|n| match n {
            0 => "$hubcast$".to_owned(),
            n => format!("$hubcast{n}$"),
        })
        .find(|tag| !body.contains(tag.as_str()))
        .unwrap_or_default();
    format!(
        "CREATE OR REPLACE FUNCTION hubcast.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n{settings}AS \
         {tag}{body}{tag};\nREVOKE ALL ON FUNCTION hubcast.{name}() FROM PUBLIC;\n"
    )
}

fn trigger(planned: &Planned, event: Event) -> String {
    let old = event.old_rows().map(|name| format!(" OLD TABLE AS {name}"));
    let new = event.new_rows().map(|name| format!(" NEW TABLE AS {name}"));
    let rows = old.unwrap_or_default() + &new.unwrap_or_default();
    let referencing = if rows.is_empty() { "" } else { " REFERENCING" };
    let (trigger, word, table) = (event.trigger(), event.word(), &planned.name);
    let function = &planned.functions[event as usize];
    format!(
        "CREATE OR REPLACE TRIGGER {trigger} AFTER {word} ON {table}{referencing}{rows} FOR EACH STATEMENT \
         EXECUTE FUNCTION hubcast.{function}();\n"
    )
}

fn remember(planned: &Planned) -> String {
    let name = quoted(&planned.name);
    format!(
        "INSERT INTO hubcast.triggers (relation, name) VALUES ({name}::regclass, {name}) \
         ON CONFLICT (relation) DO UPDATE SET name = excluded.name;\n"
    )
}

/// Forgets every table that should have no triggers.
fn forget(plan: &Plan) -> String {
    let names: Vec<String> = plan.tables.values().map(|t| quoted(&t.name)).collect();
    format!(
        "DELETE FROM hubcast.triggers WHERE relation::oid <> ALL (ARRAY[{}]::regclass[]::oid[]);\n",
        names.join(", ")
    )
}

pub(in crate::source) fn drop_trigger(trigger: &str, table: &str) -> String {
    let trigger = trigger.replace('"', "\"\"");
    format!("DROP TRIGGER IF EXISTS \"{trigger}\" ON {table};\n")
}

/// With its triggers, if there are any left: see [`Source::remove_triggers`].
fn drop_function(name: &str) -> String {
    let name = name.replace('"', "\"\"");
    format!("DROP FUNCTION IF EXISTS hubcast.\"{name}\"() CASCADE;\n")
}
