//! One type of tenants for all kinds: it must be the same in all of them, and a tenant is to be found through an index of
//! its column as it is. Pure.

use super::Context;
use std::collections::BTreeSet;

/// Rows of a table that may all be one tenant's.
pub const SMALL: u32 = 5_000;

/// How a context makes its tenants what those of the others are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// They are so.
    #[default]
    Alike,
    /// By a cast, to a type that compares with the column itself.
    Widened(String),
    /// By a cast to text, which no index of the column itself knows.
    AsText,
    /// All rows are one tenant's: this one.
    Shared(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family<'a> {
    Number,
    Text,
    Other(&'a str),
}

const NUMBERS: [&str; 3] = ["smallint", "integer", "bigint"];

fn family(sql_type: &str) -> Family<'_> {
    match sql_type {
        _ if NUMBERS.contains(&sql_type) => Family::Number,
        "text" | "character varying" => Family::Text,
        other => Family::Other(other),
    }
}

/// What all tenants are: the type of the first whose rows are somebody's.
fn main_type(contexts: &[Context]) -> Option<&str> {
    let owned = contexts.iter().find(|c| !c.owner.is_own);
    let first = owned.or(contexts.first())?;
    Some(&first.owner.sql_type)
}

/// Tables whose tenants are of another type than the others', for want of a better tenant than the key.
pub fn outsiders(contexts: &[Context]) -> Vec<String> {
    let main = main_type(contexts).map(family);
    let are = |c: &&Context| c.owner.is_own && Some(family(&c.owner.sql_type)) != main;
    contexts
        .iter()
        .filter(are)
        .map(|c| c.table.clone())
        .collect()
}

/// Makes the tenants of all contexts alike. Those of `small` tables may be given up for one.
pub fn agree(contexts: &mut [Context], small: &BTreeSet<String>) {
    let Some(main) = main_type(contexts).map(ToOwned::to_owned) else {
        return;
    };
    let main_family = family(&main);
    let is_outside = |c: &Context| family(&c.owner.sql_type) != main_family;
    let inside = contexts
        .iter()
        .filter(|c| !is_outside(c))
        .map(|c| c.owner.sql_type.as_str());
    let target = match main_family {
        Family::Number => widest(inside).to_owned(),
        Family::Text if contexts.iter().any(|c| c.owner.sql_type != main) => "text".to_owned(),
        _ => main.clone(),
    };
    let one = one_of(&target);
    let may_share = |c: &Context| c.owner.is_own && small.contains(&c.table) && one.is_some();
    let is_text = contexts.iter().any(|c| is_outside(c) && !may_share(c));
    for context in contexts {
        context.tenants = match &one {
            _ if is_text && context.owner.sql_type == "text" => Tenants::Alike,
            _ if is_text => Tenants::AsText,
            Some(one) if is_outside(context) => Tenants::Shared(one.clone()),
            _ if context.owner.sql_type == target => Tenants::Alike,
            _ => Tenants::Widened(target.clone()),
        };
    }
}

fn widest<'a>(types: impl Iterator<Item = &'a str>) -> &'static str {
    let places = types.filter_map(|t| NUMBERS.iter().position(|n| *n == t));
    NUMBERS[places.max().unwrap_or(NUMBERS.len() - 1)]
}

/// A tenant for what is nobody's, of a type.
fn one_of(sql_type: &str) -> Option<String> {
    Some(match sql_type {
        "uuid" => "'00000000-0000-0000-0000-000000000000'::uuid".to_owned(),
        "text" => "'shared'::text".to_owned(),
        "character varying" => "'shared'::varchar".to_owned(),
        "integer" => "0".to_owned(),
        number if NUMBERS.contains(&number) => format!("0::{number}"),
        _ => return None,
    })
}
