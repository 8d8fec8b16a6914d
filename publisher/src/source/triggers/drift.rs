//! How the database has moved away from what `migrate` left there: changes that no trigger sees. All of it is read
//! from the catalogs, under one snapshot, and changes nothing.

use super::Event;
use super::difference::Differing;
use super::facts::{self, Facts};
use super::plan::{Plan, plan};
use crate::source::definitions::{Definition, Definitions};
use crate::source::statement::unnamed;
use crate::source::{Source, SourceError, is_passing, message, query};
use sqlx::{Connection, PgConnection, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing that is not as `migrate` would leave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift {
    /// A watched table, or a column of it, is not there any more, or cannot have triggers.
    Broken {
        /// The table as the definition writes it.
        table: String,
        /// What is wrong.
        why: String,
    },
    /// A watched table lacks triggers.
    Missing {
        /// The table.
        table: String,
        /// The table of which it is a partition or a child, if it is one.
        part_of: Option<String>,
        /// The triggers.
        events: Vec<Event>,
    },
    /// Another table has the name of one that had triggers.
    Swapped {
        /// The name.
        table: String,
    },
    /// Somebody switched triggers off.
    Disabled {
        /// The table.
        table: String,
        /// The triggers.
        events: Vec<Event>,
    },
    /// Triggers or their functions are others than the definitions ask for.
    Altered {
        /// The table.
        table: String,
        /// The triggers.
        events: Vec<Event>,
    },
    /// A table has triggers and is not watched.
    Leftover {
        /// The table.
        table: String,
    },
    /// A table that had triggers is gone, with what was in it.
    Gone {
        /// Its name at that time.
        table: String,
    },
    /// The database does not accept a query any more.
    Query {
        /// Its kind.
        kind: String,
        /// What the database says.
        why: String,
    },
    /// A query reads a table that nobody watches.
    Unwatched {
        /// Its kind.
        kind: String,
        /// The table.
        table: String,
    },
}

impl Drift {
    /// Whether it is about the triggers, which `migrate` puts right, rather than about what they were never asked to see.
    pub fn is_of_triggers(&self) -> bool {
        !matches!(self, Self::Unwatched { .. } | Self::Query { .. })
    }

    /// Whether changes may happen that leave no row in the outbox.
    pub fn misses_changes(&self) -> bool {
        !matches!(self, Self::Leftover { .. } | Self::Query { .. })
    }
}

const MIGRATE: &str = "run `publisher migrate`; until then scans find its changes";

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |events: &[Event]| {
            let words: Vec<&str> = events.iter().map(|e| e.word()).collect();
            words.join(", ")
        };
        match self {
            Self::Broken { table, why } => write!(
                f,
                "watch on {table}: {why}; correct the configuration, then run `publisher migrate`"
            ),
            Self::Missing {
                table,
                part_of: Some(whole),
                events,
            } if events.len() == Event::ALL.len() => {
                write!(
                    f,
                    "table {table}, a part of {whole}, has no change triggers yet: {MIGRATE}"
                )
            }
            Self::Missing { table, events, .. } if events.len() == Event::ALL.len() => {
                write!(f, "table {table} has no change triggers: {MIGRATE}")
            }
            Self::Missing { table, events, .. } => {
                write!(
                    f,
                    "table {table} has no change trigger for {}: {MIGRATE}",
                    words(events)
                )
            }
            Self::Swapped { table } => write!(
                f,
                "table {table} is another one than that which has the change triggers: {MIGRATE}"
            ),
            Self::Disabled { table, events } => write!(
                f,
                "table {table}: the change trigger for {} is disabled: {MIGRATE}",
                words(events)
            ),
            Self::Altered { table, events } => write!(
                f,
                "table {table}: the change trigger for {} is not what the definitions ask for: {MIGRATE}",
                words(events)
            ),
            Self::Leftover { table } => write!(
                f,
                "table {table} has change triggers and is not watched: run `publisher migrate`, which removes them"
            ),
            Self::Gone { table } => write!(
                f,
                "table {table}, which had change triggers, is gone: run `publisher migrate`; scans find what went with it"
            ),
            Self::Query { kind, why } => write!(f, "kind {kind}: the query fails: {why}"),
            Self::Unwatched { kind, table } => write!(
                f,
                "kind {kind}: its query reads {table}, which nobody watches: only scans find its changes; add it to `watch`"
            ),
        }
    }
}

impl Source {
    /// Compares the triggers with the definitions, and the tables that the queries read with those that are watched.
    /// Cheap enough for every minute: one statement for the catalogs, and one plan for each kind.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails.
    pub async fn drift(&self, definitions: &Definitions) -> Result<Vec<Drift>, SourceError> {
        let failed = |e| self.error("looking for drift", e);
        let watches = || definitions.kinds.iter().flat_map(|d| &d.watch);
        let names: BTreeSet<String> = watches().map(|w| w.table.clone()).collect();
        let names: Vec<String> = names.into_iter().collect();
        let begun = self.begin_looking(&definitions.search_path).await;
        let mut tx = begun.map_err(failed)?;
        let facts = facts::read(&mut tx, &names).await.map_err(failed)?;
        let mut found = of_triggers(&plan(watches(), &facts), &facts);
        let mut read: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for definition in &definitions.kinds {
            match tables_read(&mut tx, definition).await {
                Ok(tables) => tables.into_iter().for_each(|table| {
                    read.entry(table)
                        .or_default()
                        .insert(definition.kind.to_string());
                }),
                Err(e) if is_passing(&e) => return Err(failed(e)),
                Err(e) => found.push(Drift::Query {
                    kind: definition.kind.to_string(),
                    why: message(&e),
                }),
            }
        }
        let is_watched = |(schema, relation): &(String, String)| {
            let mut tables = facts.tables.iter().filter(|t| !t.targets.is_empty());
            tables.any(|t| t.schema == *schema && t.relation == *relation)
        };
        read.retain(|table, _| !is_watched(table));
        found.extend(unwatched(&mut tx, &read).await.map_err(failed)?);
        tx.rollback().await.map_err(failed)?;
        found.sort();
        found.dedup();
        Ok(found)
    }
}

fn of_triggers(plan: &Plan, facts: &Facts) -> Vec<Drift> {
    let difference = plan.compare(facts);
    let broken = plan.faults.iter().map(|fault| Drift::Broken {
        table: fault.table.clone(),
        why: fault.why.clone(),
    });
    let differing = difference.tables.iter().flat_map(of_table);
    let leftovers = difference.leftovers.iter().map(|l| Drift::Leftover {
        table: l.table.name.clone(),
    });
    let gone = difference.gone.iter().map(|name| Drift::Gone {
        table: (*name).to_owned(),
    });
    broken
        .chain(differing)
        .chain(leftovers)
        .chain(gone)
        .collect()
}

fn of_table(differing: &Differing<'_>) -> Vec<Drift> {
    let Differing {
        planned,
        missing,
        disabled,
        altered,
        stale,
        is_swapped,
        ..
    } = differing;
    let table = || planned.name.clone();
    let mut found = Vec::new();
    if *is_swapped && missing.len() == Event::ALL.len() {
        found.push(Drift::Swapped { table: table() });
    } else if !missing.is_empty() {
        found.push(Drift::Missing {
            table: table(),
            part_of: planned.part_of.clone(),
            events: missing.clone(),
        });
    }
    if !disabled.is_empty() {
        found.push(Drift::Disabled {
            table: table(),
            events: disabled.clone(),
        });
    }
    let mut events: Vec<Event> = altered.iter().chain(stale).copied().collect();
    if !events.is_empty() {
        events.sort_unstable();
        found.push(Drift::Altered {
            table: table(),
            events,
        });
    }
    found
}

/// The tables that the plan of a query reads: schema and name. What its functions read inside does not show.
async fn tables_read(
    tx: &mut PgConnection,
    definition: &Definition,
) -> sqlx::Result<BTreeSet<(String, String)>> {
    let sql = format!(
        "EXPLAIN (VERBOSE, FORMAT JSON) {}",
        query::bare(&definition.query)
    );
    let mut savepoint = tx.begin().await?;
    let explained = unnamed(sql).fetch_one(&mut *savepoint).await;
    savepoint.rollback().await?;
    let mut found = BTreeSet::new();
    collect(&explained?.try_get(0)?, &mut found);
    Ok(found)
}

fn collect(plan: &serde_json::Value, found: &mut BTreeSet<(String, String)>) {
    match plan {
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        serde_json::Value::Object(node) => {
            let text = |key: &str| {
                node.get(key)
                    .and_then(|v| v.as_str())
                    .map(ToOwned::to_owned)
            };
            found.extend(text("Schema").zip(text("Relation Name")));
            node.values().for_each(|value| collect(value, found));
        }
        _ => {}
    }
}

/// Of tables that queries read, those that are somebody's: a partition counts as the whole.
async fn unwatched(
    tx: &mut PgConnection,
    read: &BTreeMap<(String, String), BTreeSet<String>>,
) -> sqlx::Result<Vec<Drift>> {
    if read.is_empty() {
        return Ok(Vec::new());
    }
    let (schemas, names): (Vec<String>, Vec<String>) = read.keys().cloned().unzip();
    let sql = "SELECT s.nspname, c.relname, coalesce((SELECT format('%I.%I', rs.nspname, r.relname) FROM pg_class r \
                JOIN pg_namespace rs ON rs.oid = r.relnamespace WHERE r.oid = pg_partition_root(c.oid)), \
                format('%I.%I', s.nspname, c.relname)) \
               FROM unnest($1::text[], $2::text[]) AS w(s, n) JOIN pg_namespace s ON s.nspname = w.s \
               JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = w.n \
               WHERE s.nspname NOT IN ('pg_catalog', 'information_schema', 'hubcast')";
    let rows = unnamed(sql).bind(schemas).bind(names).fetch_all(tx).await?;
    let mut found = Vec::new();
    for row in &rows {
        let kinds = read.get(&(row.get(0), row.get(1)));
        let table: String = row.get(2);
        found.extend(kinds.into_iter().flatten().map(|kind| Drift::Unwatched {
            kind: kind.clone(),
            table: table.clone(),
        }));
    }
    Ok(found)
}
