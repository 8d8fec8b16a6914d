//! Whose a row is: by a column of its own, or by the references that lead from it to a table that has one. Pure.
//!
//! A guess that is not the only one says so. What a query joins is watched, so that no change of it waits for a scan.

use super::words::{is_deed, is_part_column, is_part_table, is_tenant_table, tenant_rank};
use crate::source::inspect::{Column, Reference, Table};
use std::collections::BTreeMap;

/// Tables that were looked at, by their names.
pub type Known = BTreeMap<String, Table>;

/// References that are followed from a table, at most.
pub const HOPS: usize = 3;

/// The name of the table itself in its query.
const ALIAS: &str = "t";

/// A table that is joined, to find out whose a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The table.
    pub table: String,
    /// Its name in the query.
    pub alias: String,
    /// The columns that refer to it and those of its own, quoted; the former are of the table before.
    pub on: Vec<(String, String)>,
    /// Its columns that decide whose rows are: as they are called.
    pub deciding: Vec<String>,
    /// Whether it has a primary key.
    pub has_primary: bool,
}

/// The column that says whose a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The tables that lead to it from the table itself.
    pub joins: Vec<Join>,
    /// Its name.
    pub column: String,
    /// The same, quoted.
    pub quoted: String,
    /// Its type.
    pub sql_type: String,
    /// How that is known, in sentences.
    pub says: Vec<String>,
    /// Whether it is only the key of the row, for want of something better.
    pub is_own: bool,
    /// Whether it may be null; what is nobody's is not published.
    pub may_be_null: bool,
    /// Columns of the table itself that decide whose a row is, as they are called.
    pub deciding: Vec<String>,
    /// Indexes that are missing: the table and its columns, quoted. That of the tenant column is the first, if it is missing.
    pub missing: Vec<(String, Vec<String>)>,
}

impl Owner {
    /// The name in the query of the table that has the column.
    pub fn alias(&self) -> &str {
        self.joins.last().map_or(ALIAS, |join| &join.alias)
    }

    /// The column, as the query names it.
    pub fn sql(&self) -> String {
        format!("{}.{}", self.alias(), self.quoted)
    }

    /// The table that has the column; that itself if nothing is joined.
    pub fn table(&self) -> Option<&str> {
        self.joins.last().map(|join| join.table.as_str())
    }
}

/// The column of a table that says whose its rows are, without any other table.
struct Direct<'a> {
    column: &'a Column,
    says: String,
    rank: usize,
}

/// References from a table to another one that has such a column.
struct Path<'a> {
    /// What is joined.
    steps: Vec<(&'a Reference, &'a Table)>,
    /// The way in words; of `direct` only the column and its rank are of use.
    says: String,
    direct: Direct<'a>,
    /// The columns of the table itself, and of those behind it.
    by: Vec<String>,
    deeds: usize,
    nullable: usize,
}

impl Path<'_> {
    /// The better, the smaller.
    fn rank(&self) -> (usize, usize, usize, usize) {
        let Self {
            steps,
            deeds,
            nullable,
            direct,
            ..
        } = self;
        (steps.len(), *deeds, *nullable, direct.rank)
    }
}

/// Whose the rows of a table are. `key` is the first column of its key.
pub fn owner(table: &Table, key: &Column, known: &Known) -> Owner {
    if let Some(direct) = direct(table, known, false) {
        return of_itself(table, direct);
    }
    let part = direct(table, known, true);
    if let Some(part) = part {
        // A project or a team is somebody's, if it says whose.
        let by_it = |path: &Path<'_>| path.by.first() == Some(&part.column.name);
        return match best(table, known, false, by_it) {
            Some((path, others)) => led_to(table, &path, &others),
            None => of_itself(table, part),
        };
    }
    let found = best(table, known, false, |_| true).or_else(|| best(table, known, true, |_| true));
    if let Some((path, others)) = found {
        return led_to(table, &path, &others);
    }
    let says = format!(
        "No column says whose a row is, so {} stands for the tenant: contexts of one tenant change together, so name \
         a better one here and in `watch` if there is one.",
        key.name
    );
    let direct = Direct {
        column: key,
        says,
        rank: 0,
    };
    Owner {
        is_own: true,
        ..of_itself(table, direct)
    }
}

/// The column of a table that says whose its rows are. With `part` also one that may name a part of a tenant.
fn direct<'a>(table: &'a Table, known: &Known, part: bool) -> Option<Direct<'a>> {
    let named = table.columns.iter().filter_map(|column| {
        let rank = tenant_rank(&column.name)?;
        (part || !is_part_column(&column.name)).then_some((rank, column))
    });
    if let Some((rank, column)) = named.min_by_key(|(rank, _)| *rank) {
        let says = format!("{} says whose a row is.", column.name);
        return Some(Direct { column, says, rank });
    }
    let is_tenant =
        |relation: &str| is_tenant_table(relation) && (part || !is_part_table(relation));
    if is_tenant(&table.relation)
        && let Some([key]) = table.keys.first().map(Vec::as_slice)
    {
        let column = table.column(key)?;
        let says = format!("A row is a tenant, by its {key}.");
        return Some(Direct {
            column,
            says,
            rank: 0,
        });
    }
    // One that refers to another column than the key would give the tenant another name than elsewhere.
    let is_by_key = |r: &&Reference| {
        let key = known.get(&r.to).and_then(|t| t.keys.first());
        r.to != table.name
            && is_tenant(&r.relation)
            && r.columns.len() == 1
            && key.is_none_or(|k| *k == r.to_columns)
    };
    let references = table.references.iter().filter(is_by_key);
    let reference =
        references.min_by_key(|r| (is_deed(&r.columns[0]), table.may_be_null(&r.columns)))?;
    let column = table.column(&reference.columns[0])?;
    let says = format!(
        "{}, which refers to {}, says whose a row is.",
        column.name, reference.to
    );
    Some(Direct {
        column,
        says,
        rank: 0,
    })
}

fn of_itself(table: &Table, direct: Direct<'_>) -> Owner {
    let Direct { column, says, .. } = direct;
    let mut says = vec![says];
    if column.is_nullable {
        says.push(format!(
            "Rows whose {} is NULL are nobody's, and are left out.",
            column.name
        ));
    }
    let is_missing = !table.indexed.contains(&column.name);
    Owner {
        joins: Vec::new(),
        column: column.name.clone(),
        quoted: column.quoted.clone(),
        sql_type: column.sql_type.clone(),
        says,
        is_own: false,
        may_be_null: column.is_nullable,
        deciding: vec![column.name.clone()],
        missing: is_missing
            .then(|| (table.name.clone(), vec![column.quoted.clone()]))
            .into_iter()
            .collect(),
    }
}

/// The best path from a table, and others that are as short.
fn best<'a>(
    table: &'a Table,
    known: &'a Known,
    part: bool,
    wanted: impl Fn(&Path<'a>) -> bool,
) -> Option<(Path<'a>, Vec<Path<'a>>)> {
    let mut found = Vec::new();
    walk(table, known, part, &mut vec![(table, None)], &mut found);
    found.retain(wanted);
    // Stable: among equals the first reference wins.
    found.sort_by_key(Path::rank);
    let shortest = found.first()?.steps.len();
    found.retain(|path| path.steps.len() == shortest);
    let best = found.remove(0);
    Some((best, found))
}

/// Follows all references from the last table of `way`.
fn walk<'a>(
    table: &'a Table,
    known: &'a Known,
    part: bool,
    way: &mut Vec<(&'a Table, Option<&'a Reference>)>,
    found: &mut Vec<Path<'a>>,
) {
    if way.len() > HOPS {
        return;
    }
    for reference in &table.references {
        let Some(to) = known.get(&reference.to).filter(|t| t.is_readable) else {
            continue;
        };
        if way.iter().any(|(been, _)| been.name == to.name) {
            continue;
        }
        way.push((to, Some(reference)));
        match direct(to, known, part) {
            Some(direct) => found.push(path(way, direct)),
            None => walk(to, known, part, way, found),
        }
        way.pop();
    }
}

fn path<'a>(way: &[(&'a Table, Option<&'a Reference>)], mut direct: Direct<'a>) -> Path<'a> {
    let step = |(i, (to, r)): (usize, &(&'a Table, Option<&'a Reference>))| {
        Some((way.get(i.checked_sub(1)?)?.0, (*r)?, *to))
    };
    let mut steps: Vec<_> = way.iter().enumerate().filter_map(step).collect();
    let references = || steps.iter().map(|(_, reference, _)| *reference);
    let by: Vec<String> = references().map(|r| r.columns.join(" and ")).collect();
    let deeds = references()
        .filter(|r| r.columns.iter().any(|c| is_deed(c)))
        .count();
    let mut says = in_words(references(), direct.column);
    // What refers by the tenant among others has it already.
    while let Some((from, reference, to)) = steps.last()
        && let Some(i) = reference
            .to_columns
            .iter()
            .position(|c| *c == direct.column.name)
        && let Some(column) = reference.columns.get(i).and_then(|c| from.column(c))
    {
        says = format!(
            "{says}; {} of {} is the same as that of {}",
            column.name, from.name, to.name
        );
        direct.column = column;
        steps.pop();
    }
    let nullable = steps
        .iter()
        .filter(|(from, r, _)| from.may_be_null(&r.columns))
        .count();
    Path {
        nullable: nullable + usize::from(direct.column.is_nullable),
        steps: steps
            .into_iter()
            .map(|(_, reference, to)| (reference, to))
            .collect(),
        says: says + ".",
        direct,
        by,
        deeds,
    }
}

/// A way in words.
fn in_words<'a>(references: impl Iterator<Item = &'a Reference>, column: &Column) -> String {
    let mut text = String::new();
    for (i, reference) in references.enumerate() {
        let Reference { columns, to, .. } = reference;
        let verb = if columns.len() == 1 {
            "refers"
        } else {
            "refer"
        };
        let whose = if i == 0 { "" } else { ", whose " };
        text += &format!("{whose}{} {verb} to {to}", columns.join(" and "));
    }
    text + &format!(", whose {} says whose a row is", column.name)
}

fn led_to(table: &Table, path: &Path<'_>, others: &[Path<'_>]) -> Owner {
    let (mut joins, mut missing, mut nullable) = (Vec::<Join>::new(), Vec::new(), Vec::new());
    let last = path.steps.last().map_or(table, |(_, to)| *to);
    let column = path.direct.column;
    if !last.indexed.contains(&column.name) {
        missing.push((last.name.clone(), vec![column.quoted.clone()]));
    }
    let mut from = table;
    for (i, (reference, to)) in path.steps.iter().enumerate() {
        let quoted = |table: &Table, name: &String| {
            table
                .column(name)
                .map_or_else(|| name.clone(), |c| c.quoted.clone())
        };
        let here: Vec<String> = reference.columns.iter().map(|c| quoted(from, c)).collect();
        let there = reference.to_columns.iter().map(|c| quoted(to, c));
        if !reference
            .columns
            .first()
            .is_some_and(|first| from.indexed.contains(first))
        {
            missing.push((from.name.clone(), here.clone()));
        }
        if from.may_be_null(&reference.columns) {
            nullable.push(format!(
                "{} of {}",
                reference.columns.join(" or "),
                from.name
            ));
        }
        let next = path
            .steps
            .get(i + 1)
            .map_or_else(|| vec![column.name.clone()], |(r, _)| r.columns.clone());
        let mut deciding = next;
        // What triggers count in any case need not be named.
        let primary = to.keys.first().filter(|_| to.has_primary);
        let others = reference
            .to_columns
            .iter()
            .filter(|c| !deciding.contains(c) && primary.is_none_or(|p| !p.contains(c)));
        let others: Vec<String> = others.cloned().collect();
        deciding.extend(others);
        joins.push(Join {
            table: to.name.clone(),
            alias: alias(to, &joins),
            on: here.into_iter().zip(there).collect(),
            deciding,
            has_primary: to.has_primary,
        });
        from = to;
    }
    if column.is_nullable {
        nullable.push(format!("{} of {}", column.name, last.name));
    }
    let mut says = vec![path.says.clone()];
    if !others.is_empty() {
        let others: Vec<String> = others
            .iter()
            .map(|other| other.by.join(" and then "))
            .collect();
        says.push(format!(
            "As short would be the way by {}.",
            others.join(", or ")
        ));
    }
    if !nullable.is_empty() {
        says.push(format!(
            "Rows that lead to nobody, by NULL in {}, are left out.",
            nullable.join(", or ")
        ));
    }
    Owner {
        joins,
        column: column.name.clone(),
        quoted: column.quoted.clone(),
        sql_type: column.sql_type.clone(),
        says,
        is_own: false,
        may_be_null: column.is_nullable,
        deciding: match path.steps.first() {
            Some((reference, _)) => reference.columns.clone(),
            None => vec![column.name.clone()],
        },
        missing,
    }
}

/// A short name for a table that is joined: its first letter, if nobody has it.
fn alias(table: &Table, joins: &[Join]) -> String {
    let first = table
        .relation
        .chars()
        .next()
        .map(|c| c.to_ascii_lowercase());
    let letter = first.filter(char::is_ascii_lowercase).unwrap_or('j');
    let is_free = |name: &String| name != ALIAS && joins.iter().all(|join| join.alias != *name);
    let numbered = (2..).map(|n| format!("{letter}{n}"));
    let mut names = std::iter::once(letter.to_string()).chain(numbered);
    names.find(is_free).unwrap_or_default()
}
