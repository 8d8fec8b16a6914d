//! Which functions and triggers there should be. Pure.

use super::facts::{Column, Facts, Table};
use super::{Event, body};
use crate::config::Watch;
use std::collections::{BTreeMap, BTreeSet};

/// Which UPDATEs of a row count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counts {
    /// Every one.
    Every,
    /// Those that change one of these columns, quoted; the primary key is among them.
    If(BTreeSet<String>),
}

impl Counts {
    fn or(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::If(mine), Self::If(others)) => mine.extend(others.iter().cloned()),
            _ => *self = Self::Every,
        }
    }
}

/// A tenant column.
#[derive(Debug, Clone)]
pub struct Direct {
    /// Its type, if equal values of it are always written the same, and it is cheaper to compare than text.
    pub native: Option<String>,
    /// Which UPDATEs count.
    pub counts: Counts,
}

/// What a changed row is recorded as, for a `tenants` query.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    /// Which UPDATEs count.
    pub counts: Counts,
    /// The columns.
    pub columns: Vec<RecordedColumn>,
}

/// A column of a recorded row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordedColumn {
    /// Its name, quoted.
    pub quoted: String,
    /// Whether it is recorded as it is.
    pub is_jsonb: bool,
    /// Whether its values have a length of their own.
    pub is_varying: bool,
}

/// A watch of which rows say which context they concern.
#[derive(Debug, Clone)]
pub struct Keyed {
    /// [`Watch::id`].
    pub id: String,
    /// The column that has the key, quoted.
    pub column: String,
}

/// All watches of a table, taken together.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// How many they are.
    pub watches: usize,
    /// The one watch that there is, if it says which contexts are concerned: another one may mean others.
    pub keyed: Option<Keyed>,
    /// The tenant columns, quoted.
    pub tenants: BTreeMap<String, Direct>,
    /// The UPDATEs that concern every tenant, if there is such a watch.
    pub everyone: Option<Counts>,
    /// The `tenants` queries, by [`Watch::id`].
    pub queries: BTreeMap<String, Recorded>,
    /// Whether a value becomes text that looks otherwise in another session.
    pub is_session_dependent: bool,
}

/// A function that there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name in the schema `hubcast`.
    pub name: String,
    /// Its text.
    pub body: String,
    /// What it runs under.
    pub settings: Vec<(String, String)>,
}

/// A table that should have triggers, with the functions that they call.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its oid.
    pub oid: u32,
    /// Its name with its schema, quoted.
    pub name: String,
    /// The table of which it is a partition or a child, if it is one.
    pub part_of: Option<String>,
    /// The functions, in the order of [`Event::ALL`].
    pub functions: [String; 4],
}

/// A watch that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The table as written.
    pub table: String,
    /// What is wrong with it.
    pub why: String,
}

/// Everything that there should be.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// By name.
    pub functions: BTreeMap<String, Function>,
    /// By oid.
    pub tables: BTreeMap<u32, Planned>,
    /// Watches for which there is nothing.
    pub faults: BTreeSet<Fault>,
}

/// Types whose values look the same in every session.
const STABLE: &[&str] = &[
    "int2", "int4", "int8", "oid", "uuid", "text", "varchar", "bpchar", "name", "bool", "numeric",
    "json", "jsonb", "enum",
];
/// Those of them that are cheaper to compare than their text, and equal only if it is.
const NATIVE: &[&str] = &["int2", "int4", "int8", "uuid"];

fn is_stable(column: &Column) -> bool {
    // The name of an array's type begins so.
    STABLE.contains(&column.base.trim_start_matches('_'))
}

/// The table of a watch, with the columns that it names.
///
/// # Errors
/// A line that says what is wrong.
pub fn target<'a>(watch: &Watch, facts: &'a Facts) -> Result<&'a Table, String> {
    let name = &watch.table;
    let oid = facts.names.get(name).copied().flatten();
    let table = oid
        .and_then(|oid| facts.table(oid))
        .ok_or_else(|| format!("there is no table {name}"))?;
    if let Some(why) = unwatchable(table, facts) {
        return Err(format!("{name} {why}"));
    }
    let wanted = watch.tenant.iter().chain(watch.columns.iter().flatten());
    let wanted = wanted.chain(&watch.key);
    for column in wanted {
        if !table.columns.iter().any(|c| c.name == *column) {
            let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
            return Err(format!(
                "the table {name} has no column {column} (it has: {})",
                columns.join(", ")
            ));
        }
    }
    Ok(table)
}

fn unwatchable(table: &Table, facts: &Facts) -> Option<String> {
    match table.kind.as_str() {
        "r" | "p" => {}
        "v" => {
            return Some(
                "is a view, which no statement changes; watch the tables that it reads".into(),
            );
        }
        "m" => {
            let what = "is a materialized view, whose refresh fires no trigger; watch the tables that it is made of, or \
                        leave it to the scans";
            return Some(what.into());
        }
        "f" => {
            let what = "is a foreign table, whose changes Postgres does not hand to triggers; leave it to the scans";
            return Some(what.into());
        }
        _ => return Some("is not a table".into()),
    }
    if table.is_temporary {
        return Some("is a temporary table, which nobody else can see".into());
    }
    if matches!(
        table.schema.as_str(),
        "hubcast" | "pg_catalog" | "information_schema"
    ) {
        return Some("is not a table of yours; watch those that your query reads".into());
    }
    let foreign = facts
        .tables
        .iter()
        .find(|t| t.kind == "f" && t.targets.contains(&table.oid))?;
    Some(format!(
        "has the foreign table {} as a part, to which Postgres lets nobody write through a table with triggers like \
         ours; leave it to the scans",
        foreign.name
    ))
}

/// What there should be for these watches.
pub fn plan<'a>(watches: impl IntoIterator<Item = &'a Watch>, facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    let mut specs: BTreeMap<u32, Spec> = BTreeMap::new();
    for watch in watches {
        match target(watch, facts) {
            Ok(table) => add(specs.entry(table.oid).or_default(), watch, table),
            Err(why) => {
                let table = watch.table.clone();
                plan.faults.insert(Fault { table, why });
            }
        }
    }
    for table in &facts.tables {
        let targets: Vec<&Table> = table
            .targets
            .iter()
            .filter(|oid| specs.contains_key(oid))
            .filter_map(|oid| facts.table(*oid))
            .collect();
        if targets.is_empty() || !matches!(table.kind.as_str(), "r" | "p") {
            continue;
        }
        let mut spec = Spec::default();
        for target in &targets {
            merge(&mut spec, &specs[&target.oid]);
        }
        let mut names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        let hash = &blake3::hash(names.join(",").as_bytes()).to_hex()[..16];
        let functions = Event::ALL.map(|event| {
            let name = format!("changed_{hash}_{}", event.letter());
            let function = || body::function(name.clone(), &spec, event);
            plan.functions.entry(name.clone()).or_insert_with(function);
            name
        });
        let parent = targets.iter().find(|t| t.oid != table.oid);
        let planned = Planned {
            oid: table.oid,
            name: table.name.clone(),
            part_of: parent.map(|t| t.name.clone()),
            functions,
        };
        plan.tables.insert(table.oid, planned);
    }
    plan
}

/// Adds a watch to what is known of its table.
fn add(spec: &mut Spec, watch: &Watch, table: &Table) {
    let column = |name: &String| table.columns.iter().find(|c| c.name == *name);
    let tenant = watch.tenant.as_ref().and_then(column);
    let key = watch.key.as_ref().and_then(column);
    let counts = match &watch.columns {
        // Without a key it cannot be told which row became which.
        Some(columns) if !table.key.is_empty() => {
            let all = columns.iter().chain(&table.key).filter_map(column);
            let all = all.chain(tenant).chain(key);
            Counts::If(all.map(|c| c.quoted.clone()).collect())
        }
        _ => Counts::Every,
    };
    if let Some(tenant) = tenant {
        let native = NATIVE.contains(&tenant.base.as_str());
        let direct = Direct {
            native: native.then(|| tenant.base.clone()),
            counts: counts.clone(),
        };
        add_tenant(spec, &tenant.quoted, &direct);
        spec.is_session_dependent |= !is_stable(tenant);
    }
    let keyed = key.map(|key| Keyed {
        id: watch.id(),
        column: key.quoted.clone(),
    });
    add_keyed(spec, 1, keyed);
    spec.is_session_dependent |= key.is_some_and(|key| !is_stable(key));
    match watch.tenants.as_deref() {
        None => {}
        Some("all") => add_everyone(spec, &counts),
        Some(_) => {
            // JSON that is kept as text may be more than jsonb can hold.
            let recorded = table.columns.iter().filter(|c| c.base != "json");
            let columns = recorded
                .clone()
                .map(|c| RecordedColumn {
                    quoted: c.quoted.clone(),
                    is_jsonb: c.base == "jsonb",
                    is_varying: c.is_varying,
                })
                .collect();
            spec.is_session_dependent |= !recorded.clone().all(is_stable);
            add_query(spec, watch.id(), &Recorded { counts, columns });
        }
    }
    let decides = watch
        .columns
        .iter()
        .flatten()
        .chain(&table.key)
        .filter_map(column);
    spec.is_session_dependent |= watch.columns.is_some() && !decides.into_iter().all(is_stable);
}

fn add_keyed(spec: &mut Spec, watches: usize, keyed: Option<Keyed>) {
    spec.watches += watches;
    spec.keyed = keyed.filter(|_| spec.watches == 1);
}

fn add_tenant(spec: &mut Spec, column: &str, direct: &Direct) {
    match spec.tenants.get_mut(column) {
        Some(there) => there.counts.or(&direct.counts),
        None => drop(spec.tenants.insert(column.to_owned(), direct.clone())),
    }
}

fn add_everyone(spec: &mut Spec, counts: &Counts) {
    match &mut spec.everyone {
        Some(there) => there.or(counts),
        none => *none = Some(counts.clone()),
    }
}

fn add_query(spec: &mut Spec, id: String, recorded: &Recorded) {
    match spec.queries.get_mut(&id) {
        Some(there) => there.counts.or(&recorded.counts),
        None => drop(spec.queries.insert(id, recorded.clone())),
    }
}

fn merge(spec: &mut Spec, other: &Spec) {
    add_keyed(spec, other.watches, other.keyed.clone());
    for (column, direct) in &other.tenants {
        add_tenant(spec, column, direct);
    }
    if let Some(counts) = &other.everyone {
        add_everyone(spec, counts);
    }
    for (id, recorded) in &other.queries {
        add_query(spec, id.clone(), recorded);
    }
    spec.is_session_dependent |= other.is_session_dependent;
}
