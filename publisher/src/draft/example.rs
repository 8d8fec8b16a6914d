//! A row of a table to try a configuration with: how it is read in a region, and a change of it that can be taken back. Pure.
//!
//! A value that looks secret is never asked for, and so never shown. A change must be one that the database accepts and that
//! means nothing to anybody: it is made in somebody's data.

use super::Context;
use super::types::Tenants;
use super::words::{is_number, is_secret, is_text, plain};
use crate::source::inspect::{Column, Table};
use contexts::name::Region;
use serde::Deserialize;

/// Rows among which one is chosen.
const ROWS: u32 = 100;
/// Columns of these names are for people to read, the likeliest first.
const FOR_PEOPLE: [&str; 10] = [
    "name",
    "displayname",
    "title",
    "label",
    "description",
    "note",
    "notes",
    "comment",
    "fullname",
    "summary",
];

/// What is asked for, and how the answer is understood.
#[derive(Debug)]
pub struct Question {
    /// One query; a row of its answer is a text.
    pub sql: String,
    table: String,
    key: String,
    /// Finds a key that may not be shown: of the first of all rows, which are these.
    first: String,
    /// Whether one column is the key, so that its value finds the row.
    is_one: bool,
    /// Columns by which a row is found and which may be shown, quoted, and whether they are numbers.
    by: Vec<(String, bool)>,
    changes: Vec<Change>,
}

/// A change of a column, and how it is taken back.
#[derive(Debug)]
struct Change {
    quoted: String,
    there: String,
    back: String,
    /// Whether a row allows it, as SQL.
    allowed: String,
}

/// A row.
#[derive(Debug, PartialEq, Eq)]
pub struct Example {
    /// Its key, or a query that returns it, for who may see it.
    pub key: ExampleKey,
    /// A statement that changes it, and one that takes that back. Where the key is to be asked for, it may stand in them
    /// as `:'key'`, a variable of psql.
    pub change: Option<(String, String)>,
}

/// How a person comes to a key.
#[derive(Debug, PartialEq, Eq)]
pub enum ExampleKey {
    /// It is this one.
    Shown(String),
    /// It looks secret: this query returns it.
    AskFor(String),
}

/// A row of the answer.
#[derive(Deserialize)]
struct Row {
    key: Option<String>,
    by: Vec<String>,
    allowed: Vec<bool>,
}

impl Context {
    /// What to ask for rows of this context that are in this region now.
    pub fn question(&self, table: &Table, region: &Region) -> Question {
        let by = shown_key(table);
        let changes = self.changes(table);
        let list = |parts: Vec<String>| format!("json_build_array({})", parts.join(", "));
        let key = match self.key.is_secret {
            true => "NULL".to_owned(),
            false => format!("({})::text", self.key.sql),
        };
        let named = list(
            by.iter()
                .map(|(quoted, _)| format!("t.{quoted}::text"))
                .collect(),
        );
        let allowed = list(
            changes
                .iter()
                .map(|c| format!("({}) IS TRUE", c.allowed))
                .collect(),
        );
        let rows = format!(
            "{} WHERE {}",
            self.from().replace("\n ", ""),
            self.is_there(region)
        );
        Question {
            sql: format!(
                "SELECT json_build_object('key', {key}, 'by', {named}, 'allowed', {allowed})::text {rows} LIMIT {ROWS}"
            ),
            table: self.table.clone(),
            key: self.key.sql.clone(),
            first: rows,
            is_one: self.key.columns.len() == 1,
            by,
            changes,
        }
    }

    /// Which rows are in a region now.
    fn is_there(&self, region: &Region) -> String {
        let mut conditions = Vec::new();
        if !matches!(self.tenants, Tenants::Shared(_)) {
            conditions.push(format!("{} IS NOT NULL", self.owner.sql()));
        }
        if let Some((_, moment)) = &self.published.expires {
            conditions.push(format!("({moment} > now()) IS NOT FALSE"));
        }
        if let Some(regions) = &self.published.regions {
            let column = regions.split(" AS ").next().unwrap_or(regions);
            conditions.push(format!("('{region}' = ANY ({column})) IS NOT FALSE"));
        }
        match conditions.is_empty() {
            true => "true".to_owned(),
            false => conditions.join(" AND "),
        }
    }

    /// Changes of what is in a value, the more harmless first.
    fn changes(&self, table: &Table) -> Vec<Change> {
        let expires = self.published.expires.as_ref().map(|(name, _)| name);
        let is_value = |c: &&Column| {
            let decides = self.owner.deciding.contains(&c.name)
                || self.key.columns.contains(&c.name)
                || expires == Some(&c.name);
            self.published.read.contains(&c.name) && !c.is_bound && !decides
        };
        let values = table.columns.iter().filter(is_value);
        let mut changes: Vec<(usize, Change)> = values.filter_map(change).collect();
        changes.sort_by_key(|(rank, _)| *rank);
        changes.into_iter().map(|(_, change)| change).collect()
    }
}

impl Question {
    /// The row to try it with, if there is one.
    pub fn example(&self, answer: &[String]) -> Option<Example> {
        let rows = answer
            .iter()
            .filter_map(|row| serde_json::from_str(row).ok());
        let rows: Vec<Row> = rows.collect();
        let allows = |i: usize, row: &&Row| row.allowed.get(i) == Some(&true);
        let found = (0..self.changes.len()).find_map(|i| {
            let row = rows.iter().find(|row| allows(i, row))?;
            Some((row, self.changes.get(i)))
        });
        let (row, change) = found.or_else(|| Some((rows.first()?, None)))?;
        if self.by.is_empty() {
            return Some(self.unseen(change));
        }
        let literal = |((quoted, is_number), value): (&(String, bool), &String)| match is_number {
            true => format!("{quoted} = {value}"),
            false => format!("{quoted} = '{}'", value.replace('\'', "''")),
        };
        let conditions: Vec<String> = self.by.iter().zip(&row.by).map(literal).collect();
        let it = conditions.join(" AND ");
        let key = match &row.key {
            Some(key) => ExampleKey::Shown(key.clone()),
            None => ExampleKey::AskFor(format!(
                "SELECT {} FROM {} t WHERE {it}",
                self.key, self.table
            )),
        };
        let change = change.map(|change| change.of(&self.table, &it));
        Some(Example { key, change })
    }

    /// A row that cannot be named without its secret: the first one.
    fn unseen(&self, change: Option<&Change>) -> Example {
        let change = change.filter(|_| self.is_one);
        let allowed = change.map_or(String::new(), |change| format!(" AND {}", change.allowed));
        let find = format!(
            "SELECT {} {}{allowed} ORDER BY 1 LIMIT 1",
            self.key, self.first
        );
        let it = format!("{} = :'key'", self.key);
        Example {
            key: ExampleKey::AskFor(find),
            change: change.map(|change| change.of(&format!("{} t", self.table), &it)),
        }
    }
}

impl Change {
    fn of(&self, table: &str, it: &str) -> (String, String) {
        let Self {
            quoted,
            there,
            back,
            ..
        } = self;
        let statement = |to: &str| format!("UPDATE {table} SET {quoted} = {to} WHERE {it}");
        (statement(there), statement(back))
    }
}

/// The columns of the first key of a table that may be shown.
fn shown_key(table: &Table) -> Vec<(String, bool)> {
    let columns = |names: &Vec<String>| -> Option<Vec<&Column>> {
        names.iter().map(|n| table.column(n)).collect()
    };
    let mut keys = table.keys.iter().filter_map(columns);
    let shown = keys.find(|columns| !columns.iter().any(|c| is_secret(table, c)));
    let named = |c: &Column| (c.quoted.clone(), is_number(&c.sql_type));
    shown.unwrap_or_default().into_iter().map(named).collect()
}

/// A change of a column, and the more harmless it is, the smaller a number.
fn change(column: &Column) -> Option<(usize, Change)> {
    let (quoted, sql_type) = (&column.quoted, column.sql_type.as_str());
    let people = FOR_PEOPLE
        .iter()
        .position(|name| *name == plain(&column.name));
    let mut allowed = format!("t.{quoted} IS NOT NULL");
    let (rank, there, back) = match sql_type {
        _ if is_text(sql_type) => {
            if let Some(longest) = column.longest {
                allowed = format!("length(t.{quoted}) < {longest}");
            }
            let rank = people.unwrap_or(FOR_PEOPLE.len() + 2);
            (
                rank,
                format!("{quoted} || '.'"),
                format!("left({quoted}, -1)"),
            )
        }
        _ if sql_type.starts_with("timestamp") => {
            allowed = format!("isfinite(t.{quoted})");
            let by = |sign: &str| format!("{quoted} {sign} interval '1 second'");
            (FOR_PEOPLE.len(), by("+"), by("-"))
        }
        "smallint" | "integer" | "bigint" | "numeric" => (
            FOR_PEOPLE.len() + 1,
            format!("{quoted} + 1"),
            format!("{quoted} - 1"),
        ),
        "boolean" => {
            let other = format!("NOT {quoted}");
            (FOR_PEOPLE.len() + 3, other.clone(), other)
        }
        _ => return None,
    };
    let quoted = quoted.clone();
    Some((
        rank,
        Change {
            quoted,
            there,
            back,
            allowed,
        },
    ))
}
