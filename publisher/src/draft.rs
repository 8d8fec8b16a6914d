//! A first configuration for tables of the user's own: from what the catalogs say to TOML with comments. Pure.
//!
//! It guesses, and says what it guessed and why, so that a person can put it right; what it writes must always be something
//! that `check` accepts.
//!
//! | module | is about |
//! | --- | --- |
//! | `words` | what names usually mean |
//! | [`owner`] | whose a row is, and what is joined to know it |
//! | [`columns`] | key, value, regions, expiry, and what is left out |
//! | [`types`] | one type of tenants for all kinds |
//! | `toml` | the text |
//! | [`example`] | a row to try it with |

pub mod columns;
pub mod example;
pub mod owner;
mod toml;
pub mod types;
mod words;

use crate::source::inspect::Table;
use columns::{First, Key, Published};
use owner::{Known, Owner};
use std::collections::BTreeSet;
use types::Tenants;

/// Why a table cannot be published as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undrafted {
    /// Not a table.
    #[error("{0} is a {1}, which has no triggers: name the tables that it reads")]
    NotATable(String, &'static str),
    /// Nothing by which a row can be found.
    #[error(
        "{0} has no primary key, and nothing else in it is unique and NOT NULL, so its rows have no key to be looked up by: \
         add one, or write its [[context]] by hand (README, \"Define a context of your own\")"
    )]
    NoKey(String),
    /// A name that means something else in a query of a configuration.
    #[error(
        "{0}: the name {1:?} has ${{, {{{{ or a control character, which a query cannot contain: write its [[context]] \
         over a view by hand"
    )]
    Name(String, String),
}

/// The `[[context]]` of a table.
#[derive(Debug, PartialEq, Eq)]
pub struct Context {
    /// The kind that it was given.
    pub kind: String,
    /// The table, with its schema, quoted where SQL asks for that.
    pub table: String,
    key: Key,
    owner: Owner,
    tenants: Tenants,
    published: Published,
    has_primary: bool,
    partitioned: BTreeSet<String>,
}

/// A name for a kind: that of the table in the singular, of letters that a kind may have, and not taken.
fn kind(relation: &str, taken: &BTreeSet<String>) -> String {
    let mut name = String::new();
    let mut was_lower = false;
    for c in relation.chars() {
        if c.is_ascii_uppercase() && was_lower {
            name.push('_');
        }
        was_lower = c.is_ascii_lowercase();
        match c.is_ascii_alphanumeric() {
            true => name.push(c.to_ascii_lowercase()),
            false if name.ends_with('_') || name.is_empty() => {}
            false => name.push('_'),
        }
    }
    let name = words::singular(name.trim_end_matches('_'));
    let name = match name.chars().next() {
        Some(c) if c.is_ascii_lowercase() => name,
        _ => format!("kind_{name}"),
    };
    let name: String = name.chars().take(48).collect();
    let name = name.trim_end_matches('_').to_owned();
    let mut others = (2..).map(|n| format!("{name}_{n}"));
    match taken.contains(&name) {
        false => name,
        true => others.find(|n| !taken.contains(n)).unwrap_or(name),
    }
}

/// Whether Postgres compares a column of this type as text, also by its index.
fn is_text_like(sql_type: &str) -> bool {
    words::is_text(sql_type)
}

/// Whether a name cannot stand in a query of a configuration, or ends a comment in it.
fn is_odd(name: &str) -> bool {
    name.contains("${") || name.contains("{{") || name.chars().any(char::is_control)
}

/// Guesses the context of a table. `known` are the tables to which its references lead, `named` the regions that its rows
/// name, if it has a column of them.
///
/// # Errors
/// [`Undrafted`] if it cannot be published as it is.
pub fn context(
    table: &Table,
    known: &Known,
    taken: &BTreeSet<String>,
    first: &First,
    named: &[String],
) -> Result<Context, Undrafted> {
    let name = table.name.clone();
    match table.kind.as_str() {
        "r" | "p" => {}
        "v" => return Err(Undrafted::NotATable(name, "view")),
        "m" => return Err(Undrafted::NotATable(name, "materialized view")),
        _ => return Err(Undrafted::NotATable(name, "foreign table")),
    }
    let mut names = table.columns.iter().map(|c| &c.quoted).chain([&table.name]);
    if let Some(odd) = names.find(|n| is_odd(n)) {
        return Err(Undrafted::Name(name, odd.clone()));
    }
    // A path over tables of such names could not be written either.
    let usable =
        |table: &&Table| !is_odd(&table.name) && !table.columns.iter().any(|c| is_odd(&c.quoted));
    let known: Known = known
        .values()
        .filter(usable)
        .map(|table| (table.name.clone(), table.clone()))
        .collect();
    let key = columns::key(table).ok_or(Undrafted::NoKey(name.clone()))?;
    let stands_for = key.columns.first().and_then(|c| table.column(c));
    let stands_for = stands_for.ok_or(Undrafted::NoKey(name.clone()))?;
    let owner = owner::owner(table, stands_for, &known);
    let is_a_tenant = owner.joins.is_empty() && !owner.is_own;
    let owned_by = is_a_tenant.then_some(owner.column.as_str());
    let published = columns::published(table, &key, owned_by, first, named);
    let tables = known.values().chain([table]);
    let partitioned = tables.filter(|t| t.kind == "p").map(|t| t.name.clone());
    Ok(Context {
        kind: kind(&table.relation, taken),
        table: name,
        key,
        owner,
        tenants: Tenants::Alike,
        published,
        has_primary: table.has_primary,
        partitioned: partitioned.collect(),
    })
}

impl Context {
    /// What a person should know at once.
    pub fn notes(&self) -> &[String] {
        &self.published.notes
    }
}

#[cfg(test)]
mod tests;
