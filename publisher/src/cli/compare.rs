//! `publisher diff` and `publisher scan --dry-run`.

use super::progress::Progress;
use super::{Context, Exit, Stop};
use crate::compare::{Comparison, Difference, Differs, compare};
use contexts::name::Kind;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Differences that are printed per store.
const SHOWN: usize = 50;

pub(super) async fn diff(
    context: &Context,
    tenant: Option<&str>,
    region: Option<&str>,
) -> Result<Exit, Stop> {
    let comparison = all(context, tenant, region).await?;
    shown(context.json, &comparison, true)
}

/// Prints a comparison, perhaps with each difference, and says how it went.
pub(super) fn shown(json: bool, comparison: &Comparison, each: bool) -> Result<Exit, Stop> {
    super::print(json, comparison, || text(comparison, each))?;
    Ok(if comparison.is_clean() {
        Exit::Done
    } else {
        Exit::Trouble
    })
}

pub(super) async fn dry_run(
    context: &Context,
    kind: Option<&str>,
    region: Option<&str>,
) -> Result<Exit, Stop> {
    let kind = context.kind(kind)?;
    let mut comparison = all(context, None, region).await?;
    only(kind.as_ref(), &mut comparison);
    shown(context.json, &comparison, false)
}

/// Leaves in a comparison what concerns a kind.
pub(super) fn only(kind: Option<&Kind>, comparison: &mut Comparison) {
    let Some(kind) = kind else { return };
    for store in &mut comparison.stores {
        store.differences.retain(|d| d.kind == *kind);
        let tenants: BTreeSet<_> = store.differences.iter().map(|d| &d.tenant).collect();
        store.tenants = tenants.len() as u64;
    }
}

async fn all(
    context: &Context,
    tenant: Option<&str>,
    region: Option<&str>,
) -> Result<Comparison, Stop> {
    let regions = context.regions(region)?;
    context.require_migrated().await?;
    let source = &context.parts.source;
    let tenant = match tenant {
        None => None,
        Some(name) => {
            let checked = source.check_tenants(&[name.to_owned()]).await;
            checked
                .map_err(|e| Stop::Usage(e.to_string()))?
                .into_iter()
                .next()
        }
    };
    let progress = RefCell::new(Progress::new(context));
    let show = |read: usize, all: usize| {
        progress
            .borrow_mut()
            .show(read as f64 / all.max(1) as f64, "comparing".to_owned());
    };
    let comparison = compare(&context.parts, tenant, &regions, show).await;
    progress.borrow().finish();
    Ok(comparison?)
}

fn text(comparison: &Comparison, each: bool) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} contexts of {} tenants at the hub",
        comparison.contexts, comparison.tenants
    );
    for store in &comparison.stores {
        let count = |wanted| {
            let all = store.differences.iter();
            all.filter(|d| d.difference == wanted).count()
        };
        let (held, kept) = (count(Difference::Held), count(Difference::Kept));
        let differing = store.differences.len() - held - kept;
        let what = match &store.unreachable {
            Some(why) => format!("NOT compared: {why}"),
            None if store.differences.is_empty() => "the same".to_owned(),
            None if differing + held == 0 => {
                format!("the same but for {kept} contexts that `publisher drop` keeps")
            }
            None => {
                let kept = match kept {
                    0 => String::new(),
                    n => format!(", {n} are kept"),
                };
                let tenants = store.tenants;
                format!("{differing} contexts differ, {held} are held{kept}, of {tenants} tenants")
            }
        };
        let _ = writeln!(out, "{}  {what}", store.store);
        if each {
            store
                .differences
                .iter()
                .take(SHOWN)
                .for_each(|d| line(&mut out, d));
            if store.differences.len() > SHOWN {
                let _ = writeln!(
                    out,
                    "  and {} more (all of them with --json)",
                    store.differences.len() - SHOWN
                );
            }
        }
    }
    for problem in &comparison.problems {
        let _ = writeln!(out, "problem: {problem}");
    }
    out
}

fn line(out: &mut String, d: &Differs) {
    let word = match d.difference {
        Difference::Missing => "missing",
        Difference::Extra => "extra",
        Difference::Changed => "changed",
        Difference::Held => "held",
        Difference::Kept => "kept",
    };
    let key = d
        .key
        .as_ref()
        .map_or("(all keys)".to_owned(), |k| format!("{k:?}"));
    let _ = writeln!(out, "  {word:8} tenant {}, {} {key}", d.tenant, d.kind);
}
