//! What of a row is published: its key, its value, where it goes and until when. Pure.
//!
//! What looks secret is never in a value unless a person puts it there, and what changes with every use neither: each
//! change would be a push to every region.

use super::words::{changes_often, expires, is_hash_of_shown, is_secret, plain};
use crate::source::inspect::{Column, Table};
use contexts::name::Region;
use std::collections::BTreeSet;

/// Columns that mean something to Hubcast.
const RESERVED: [&str; 4] = ["key", "tenant", "regions", "expires"];

/// By which a context is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// As SQL.
    pub sql: String,
    /// Its columns, as they are called.
    pub columns: Vec<String>,
    /// Whether it looks secret, so that it is shown to nobody.
    pub is_secret: bool,
    /// How that was found, in sentences.
    pub says: Vec<String>,
}

/// The first region, and whether a person named it.
#[derive(Debug, Clone)]
pub struct First {
    /// Its name.
    pub region: Region,
    /// Whether a person named it, and it is not only the name to begin with.
    pub is_named: bool,
}

/// A column that is not published unless a person puts it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// What would be put in, as SQL.
    pub sql: String,
    /// Why it is left out.
    pub why: String,
}

/// What a context has beside its key and its tenant.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its columns, as SQL.
    pub values: Vec<String>,
    /// When it is over: the column as it is called, and the moment as SQL.
    pub expires: Option<(String, String)>,
    /// Where it goes, as SQL.
    pub regions: Option<String>,
    /// What is not published.
    pub left_out: Vec<LeftOut>,
    /// What is to be said of it, in sentences.
    pub says: Vec<String>,
    /// What a person should know at once.
    pub notes: Vec<String>,
    /// Whether something of it looks secret.
    pub has_secrets: bool,
    /// Whether something of it changes with every use.
    pub has_uses: bool,
    /// Columns that the query reads, as they are called, but for those that decide whose a row is.
    pub read: Vec<String>,
}

/// By which the rows of a table are found.
pub fn key(table: &Table) -> Option<Key> {
    let columns = |names: &Vec<String>| -> Option<Vec<&Column>> {
        names.iter().map(|n| table.column(n)).collect()
    };
    let all: Vec<(&Vec<String>, Vec<&Column>)> = table
        .keys
        .iter()
        .filter_map(|names| Some((names, columns(names)?)))
        .collect();
    let is_hash = |columns: &[&Column]| columns.len() == 1 && is_hash_of_shown(table, columns[0]);
    let shown = all.iter().find(|(_, columns)| is_hash(columns));
    let (names, found) = shown.or(all.first())?;
    let others: Vec<String> = all
        .iter()
        .filter(|(other, _)| other != names)
        .map(|(other, _)| other.join(" and "))
        .collect();
    let mut says = vec![format!("the key is {}", names.join(" and "))];
    if shown.is_some() {
        says[0] += ": a gateway hashes what it is shown, and asks for the hash";
    }
    if !others.is_empty() {
        says[0] += &format!("; {} would do as well", others.join(", or "));
    }
    says[0] += ".";
    let secret: Vec<&str> = found
        .iter()
        .filter(|c| is_secret(table, c))
        .map(|c| c.name.as_str())
        .collect();
    if shown.is_none() && !secret.is_empty() {
        says.push(format!(
            "{} looks secret itself, and whoever reads a region's store has its keys: if it is, publish a hash of it as key, \
             and let gateways ask for that.",
            secret.join(" and ")
        ));
    }
    let sql = match found.as_slice() {
        [one] if one.sql_type == "bytea" => format!("encode(t.{}, 'hex')", one.quoted),
        [one] => format!("t.{}", one.quoted),
        several => joined(several),
    };
    if found.iter().any(|c| c.sql_type == "bytea") {
        says.push("Bytes are written in hexadecimal.".to_owned());
    }
    Some(Key {
        sql,
        columns: (*names).clone(),
        is_secret: !secret.is_empty(),
        says,
    })
}

fn as_text(column: &Column) -> String {
    match column.sql_type.as_str() {
        "bytea" => format!("encode(t.{}, 'hex')", column.quoted),
        _ => format!("t.{}::text", column.quoted),
    }
}

/// One text for several columns that no other row has: where more than one of them is text, what joins them is escaped.
pub fn joined(columns: &[&Column]) -> String {
    let is_free = |c: &&Column| {
        ![
            "uuid", "bigint", "integer", "smallint", "boolean", "numeric", "date", "bytea",
        ]
        .contains(&c.sql_type.as_str())
    };
    let texts = columns.iter().filter(|c| is_free(c)).count();
    let part = |column: &&Column| match texts > 1 && is_free(column) {
        true => format!(
            "replace(replace({}, '%', '%25'), '/', '%2F')",
            as_text(column)
        ),
        false => as_text(column),
    };
    let parts: Vec<String> = columns.iter().map(part).collect();
    parts.join(" || '/' || ")
}

/// The column that can say where a row goes.
pub fn regions(table: &Table) -> Option<&Column> {
    let mut columns = table.columns.iter().filter(|c| plain(&c.name) == "regions");
    columns.find(|c| {
        matches!(
            c.sql_type.as_str(),
            "text[]" | "character varying[]" | "name[]"
        )
    })
}

/// What of a row is published. `owned_by` is the column of the table that is its tenant, if it is one of the table; `named`
/// are the regions that rows name.
pub fn published(
    table: &Table,
    key: &Key,
    owned_by: Option<&str>,
    first: &First,
    named: &[String],
) -> Published {
    let mut found = Published::default();
    let over = expires(table);
    if let Some(column) = over {
        let moment = match column.sql_type.as_str() {
            "timestamp with time zone" => format!("t.{}", column.quoted),
            _ => format!("t.{} AT TIME ZONE 'UTC'", column.quoted),
        };
        found.expires = Some((column.name.clone(), moment));
        found.says.push(format!(
            "From {} on readers answer 404 `expired`.",
            column.name
        ));
    }
    let places = regions(table);
    let all: BTreeSet<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    for column in &table.columns {
        let is = |other: Option<&Column>| other.is_some_and(|other| other.name == column.name);
        if is(places) {
            place(&mut found, table, column, first, named);
        } else if owned_by == Some(column.name.as_str())
            || is(over)
            || key.columns == [column.name.clone()]
        {
            found.read.push(column.name.clone());
        } else if let Some(why) = left_out(table, key, column, &mut found) {
            let sql = named_freely(column, &all);
            found.left_out.push(LeftOut { sql, why });
        } else {
            if plain(&column.name) == "regions" {
                found.says.push(format!(
                    "{} is {}, and only text[] can say where a row goes: it is published as a part of the value.",
                    column.name, column.sql_type
                ));
            }
            found.values.push(named_freely(column, &all));
            found.read.push(column.name.clone());
        }
    }
    found
}

/// Why a column is left out of the value, if it is.
fn left_out(table: &Table, key: &Key, column: &Column, found: &mut Published) -> Option<String> {
    let is_secret = is_secret(table, column);
    if is_secret && key.columns.contains(&column.name) {
        return Some("a part of the key".to_owned());
    }
    if is_secret {
        found.has_secrets = true;
        return Some("looks secret".to_owned());
    }
    if column.sql_type == "bytea" {
        return Some("JSON has no bytes".to_owned());
    }
    // What a row is found by, or refers by, does not change with every use, whatever it is called.
    let is_name = key.columns.contains(&column.name)
        || table
            .references
            .iter()
            .any(|r| r.columns.contains(&column.name));
    if changes_often(column) && !is_name {
        found.has_uses = true;
        return Some("would be a push to every region with each use".to_owned());
    }
    None
}

/// A column under a name that means nothing to Hubcast.
fn named_freely(column: &Column, all: &BTreeSet<&str>) -> String {
    let Column {
        name,
        quoted,
        sql_type,
        ..
    } = column;
    let sql = match sql_type.as_str() {
        "bytea" => format!("encode(t.{quoted}, 'hex')"),
        _ => format!("t.{quoted}"),
    };
    match (RESERVED.contains(&name.as_str()), sql_type == "bytea") {
        (false, false) => sql,
        (false, true) => format!("{sql} AS {quoted}"),
        (true, _) => {
            let free = (1..).map(|n| format!("{name}_column{}", "_".repeat(n - 1)));
            let free = free.into_iter().find(|n| !all.contains(n.as_str()));
            format!("{sql} AS {}", free.unwrap_or_default())
        }
    }
}

/// Where rows go, to go by a column that names regions.
fn place(found: &mut Published, table: &Table, column: &Column, first: &First, named: &[String]) {
    let (name, region) = (&column.name, &first.region);
    let sql = format!("t.{} AS regions", column.quoted);
    let sql = if column.quoted == "regions" {
        "t.regions".to_owned()
    } else {
        sql
    };
    let is_here = named.iter().any(|n| n == region.as_str());
    let elsewhere: Vec<&str> = named
        .iter()
        .map(String::as_str)
        .filter(|n| *n != region.as_str())
        .collect();
    let elsewhere = elsewhere.join(", ");
    if !is_here && !first.is_named {
        let why = match named.is_empty() {
            true => "no row names a region yet".to_owned(),
            false => format!("rows name {elsewhere}, and the region here is {region}"),
        };
        found.says.push(format!(
            "{name} looks like the regions of a row, but {why}: it is left out, so every row goes to every region."
        ));
        if !named.is_empty() {
            found.notes.push(format!(
                "{}.{name} looks like the regions of a row, but {why}: it is left out, and every row goes to {region}. With \
                 `--region NAME`, of a region as rows name it, it says where they go",
                table.name
            ));
        }
        let why = "says where a row goes: NULL is everywhere, and a name that no [[spoke]] has is nowhere".to_owned();
        found.left_out.push(LeftOut { sql, why });
        return;
    }
    found.regions = Some(sql);
    found.read.push(name.clone());
    found.says.push(format!(
        "{name} says where a row goes: NULL is every region, {{}} none."
    ));
    if !elsewhere.is_empty() {
        let lost = format!(
            "rows name {elsewhere}, which no [[spoke]] here has: what names nothing else goes nowhere yet"
        );
        found.says.push(format!("Its {lost}."));
        found.notes.push(format!("{}.{name}: {lost}", table.name));
    }
}
