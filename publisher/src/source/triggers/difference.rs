//! How what is there differs from a plan. Pure.

use super::Event;
use super::facts::{Facts, InstalledTrigger, Table};
use super::plan::{Function, Plan, Planned};

/// A planned table that is not as planned.
#[derive(Debug)]
pub struct Differing<'a> {
    /// The plan.
    pub planned: &'a Planned,
    /// Triggers that are not there.
    pub missing: Vec<Event>,
    /// Triggers that somebody switched off.
    pub disabled: Vec<Event>,
    /// Triggers that are others than planned.
    pub altered: Vec<Event>,
    /// Triggers that are as planned, with a function that is not.
    pub stale: Vec<Event>,
    /// Whether the role may create triggers there.
    pub may_trigger: bool,
    /// Whether another table had this name after the last `migrate`.
    pub is_swapped: bool,
}

impl Differing<'_> {
    /// The triggers that have to be made.
    pub fn to_make(&self) -> impl Iterator<Item = Event> {
        let all = [&self.missing, &self.disabled, &self.altered];
        all.into_iter().flatten().copied()
    }
}

/// A trigger that nobody asks for.
#[derive(Debug)]
pub struct Leftover<'a> {
    /// Where it is.
    pub table: &'a Table,
    /// Which one.
    pub trigger: &'a InstalledTrigger,
}

/// How what is there differs from a plan.
#[derive(Debug)]
pub struct Difference<'a> {
    /// Functions to create or replace.
    pub functions: Vec<&'a Function>,
    /// Tables with triggers to make.
    pub tables: Vec<Differing<'a>>,
    /// Triggers to drop.
    pub leftovers: Vec<Leftover<'a>>,
    /// Functions to drop.
    pub unused: Vec<&'a str>,
    /// Tables that are gone.
    pub gone: Vec<&'a str>,
}

impl Plan {
    /// Whether a table is remembered that should have no triggers.
    pub fn forgets(&self, facts: &Facts) -> bool {
        let remembered = &facts.remembered;
        remembered.iter().any(|r| !self.tables.contains_key(&r.oid))
    }

    /// How what is there differs.
    pub fn compare<'a>(&'a self, facts: &'a Facts) -> Difference<'a> {
        let functions: Vec<&Function> = self
            .functions
            .values()
            .filter(|f| !is_installed(f, facts))
            .collect();
        let tables = self
            .tables
            .values()
            .filter_map(|planned| {
                let differing = differing(planned, facts, &functions);
                let is_as_planned = differing.to_make().next().is_none()
                    && differing.stale.is_empty()
                    && facts
                        .remembered
                        .iter()
                        .any(|r| r.oid == planned.oid && r.name == planned.name);
                (!is_as_planned).then_some(differing)
            })
            .collect();
        let leftovers = facts
            .tables
            .iter()
            .flat_map(|table| {
                table
                    .triggers
                    .iter()
                    .map(move |trigger| Leftover { table, trigger })
            })
            .filter(|l| !(self.tables.contains_key(&l.table.oid) && is_ours(&l.trigger.name)))
            .collect();
        let unused = facts
            .functions
            .iter()
            .map(|f| f.name.as_str())
            .filter(|name| !self.functions.contains_key(*name))
            .collect();
        let gone = facts.remembered.iter().filter(|r| !r.exists);
        Difference {
            functions,
            tables,
            leftovers,
            unused,
            gone: gone.map(|r| r.name.as_str()).collect(),
        }
    }
}

fn is_ours(name: &str) -> bool {
    Event::ALL.iter().any(|event| event.trigger() == name)
}

fn is_installed(function: &Function, facts: &Facts) -> bool {
    let settings: Vec<String> = function
        .settings
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    facts.functions.iter().any(|f| {
        f.name == function.name
            && f.body == function.body
            && f.settings == settings
            && f.is_definer
            && !f.is_public
    })
}

fn differing<'a>(planned: &'a Planned, facts: &Facts, functions: &[&Function]) -> Differing<'a> {
    let table = facts.table(planned.oid);
    let mut differing = Differing {
        planned,
        missing: Vec::new(),
        disabled: Vec::new(),
        altered: Vec::new(),
        stale: Vec::new(),
        may_trigger: table.is_some_and(|t| t.may_trigger),
        is_swapped: facts
            .remembered
            .iter()
            .any(|r| r.name == planned.name && r.oid != planned.oid),
    };
    for (event, function) in Event::ALL.into_iter().zip(&planned.functions) {
        let found = table.and_then(|t| t.triggers.iter().find(|t| t.name == event.trigger()));
        let list = match found {
            None => &mut differing.missing,
            Some(found) if !is_as_planned(found, event, function) => &mut differing.altered,
            // `A` fires as well, and more often.
            Some(found) if !matches!(found.enabled.as_str(), "O" | "A") => &mut differing.disabled,
            Some(_) if functions.iter().any(|f| f.name == *function) => &mut differing.stale,
            Some(_) => continue,
        };
        list.push(event);
    }
    differing
}

fn is_as_planned(found: &InstalledTrigger, event: Event, function: &str) -> bool {
    found.catalog_type == event.catalog_type()
        && found.function.as_deref() == Some(function)
        && found.old.as_deref() == event.old_rows()
        && found.new.as_deref() == event.new_rows()
        && !found.is_conditional
}
