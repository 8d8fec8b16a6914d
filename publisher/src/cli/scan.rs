//! `publisher scan`, and the summary of a scan.

use super::{Context, Exit, Stop, progress};
use crate::ask::{Ask, Reply};
use crate::source::holds::{Decision, HeldFor, Which};
use crate::writer::{HeldReport, RegionFilter, ScanSummary, UnitsUsed, Usage};
use contexts::name::{Key, Kind, TenantId};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) async fn run(
    context: &Context,
    kind: Option<&str>,
    region: Option<&str>,
    allow_mass_delete: bool,
) -> Result<Exit, Stop> {
    let regions = context.regions(region)?;
    let kind = context.kind(kind)?;
    let how = How {
        allow_mass_delete,
        ..How::PLAIN
    };
    if allow_mass_delete {
        context.require_migrated().await?;
        // What was held before is approved as well: it is what the scan would find.
        let which = Which {
            reason: Some(HeldFor::Removed),
            ..Which::default()
        };
        let by = super::actor("scan --allow-mass-delete");
        let source = &context.parts.source;
        source.decide(Decision::Approve, &which, &by).await?;
    }
    ask(context, "publisher scan", regions, kind, how).await
}

/// How a scan is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Stores compare what is on their disks, read again.
    pub reread: bool,
    /// Whatever it finds removed may leave.
    pub allow_mass_delete: bool,
}

impl How {
    /// As the schedule does it.
    pub(super) const PLAIN: Self = Self {
        reread: false,
        allow_mass_delete: false,
    };
    /// As `republish all` does it.
    pub(super) const READING_BACK: Self = Self {
        reread: true,
        allow_mass_delete: false,
    };
}

/// Scans, prints the summary, and says how it went.
pub(super) async fn ask(
    context: &Context,
    cause: &str,
    regions: RegionFilter,
    kind: Option<Kind>,
    how: How,
) -> Result<Exit, Stop> {
    let How {
        reread,
        allow_mass_delete,
    } = how;
    context.require_migrated().await?;
    let ask = Ask::Scan {
        cause: cause.to_owned(),
        regions: regions.clone(),
        reread,
        allow_mass_delete,
    };
    let act =
        json!({ "regions": regions, "reads back": reread, "allow mass delete": allow_mass_delete });
    let source = &context.parts.source;
    let by = super::actor(cause.trim_start_matches("publisher "));
    source.audit(&by, "scan", &act).await?;
    let Reply::Scanned(mut summary) = progress::ask(context, ask).await? else {
        return Err(super::answered_otherwise());
    };
    shown(context.json, kind.as_ref(), &mut summary)
}

/// Prints a summary, and says how it went.
pub(super) fn shown(
    json: bool,
    kind: Option<&Kind>,
    summary: &mut ScanSummary,
) -> Result<Exit, Stop> {
    only(kind, &mut summary.held);
    super::print(json, summary, || text(summary))?;
    Ok(if summary.is_clean() {
        Exit::Done
    } else {
        Exit::Trouble
    })
}

pub(super) fn text(summary: &ScanSummary) -> String {
    let mut out = String::new();
    let seconds = summary.ms as f64 / 1000.0;
    let _ = writeln!(
        out,
        "{} contexts of {} tenants compared in {seconds:.1} s",
        summary.contexts, summary.tenants
    );
    let width = summary
        .stores
        .iter()
        .map(|s| s.store.len())
        .max()
        .unwrap_or(0);
    for store in &summary.stores {
        let what = match (&store.why, store.filled, store.pushed, store.repaired) {
            (Some(why), ..) => format!("NOT in step: {why}"),
            (None, true, pushed, _) => format!("in step; it was empty: {pushed} tenants written"),
            (None, _, _, 0) => "in step; nothing differed".to_owned(),
            (None, _, _, repaired) => format!("in step; {repaired} tenants repaired"),
        };
        let units = store.units.map(|units| {
            let UnitsUsed { read, write } = units;
            format!("; {read:.0} read and {write:.0} write units")
        });
        let units = units.unwrap_or_default();
        let _ = writeln!(out, "  {:width$}  {what}{units}", store.store);
        if !store.repaired_tenants.is_empty() {
            let names: Vec<&str> = store
                .repaired_tenants
                .iter()
                .take(5)
                .map(|t| t.as_str())
                .collect();
            let more = if store.repaired > 5 { ", ..." } else { "" };
            let _ = writeln!(out, "  {:width$}    {}{more}", "", names.join(", "));
        }
    }
    for problem in &summary.problems {
        let _ = writeln!(out, "  problem: {problem}");
    }
    for warning in &summary.warnings {
        let _ = writeln!(out, "  warning: {warning}");
    }
    for line in budget_lines(&summary.budgets, summary.budget_tenants) {
        let _ = writeln!(out, "  warning: {line}");
    }
    for line in held_lines(&summary.held, summary.held_tenants) {
        let _ = writeln!(out, "  held: {line}");
    }
    if summary.held_tenants > summary.held.len() {
        let _ = writeln!(
            out,
            "  something is held of {} tenants; `publisher diff` names all of them",
            summary.held_tenants
        );
    }
    out
}

/// Who is near a budget or over it; `all` counts those that are not named, too.
pub(super) fn budget_lines(budgets: &BTreeMap<TenantId, Vec<Usage>>, all: usize) -> Vec<String> {
    let named = budgets.iter();
    let named = named.flat_map(|(tenant, usage)| usage.iter().map(move |u| (tenant, u)));
    let mut lines: Vec<String> = named
        .map(|(tenant, usage)| format!("tenant {tenant} has {usage}"))
        .collect();
    if all > budgets.len() {
        let more = all - budgets.len();
        lines.push(format!("{more} more tenants are near a budget or over it"));
    }
    lines
}

/// Leaves in a report what concerns a kind.
pub(super) fn only(kind: Option<&Kind>, held: &mut BTreeMap<TenantId, Vec<HeldReport>>) {
    let Some(kind) = kind else { return };
    held.values_mut()
        .for_each(|held| held.retain(|h| h.kind == *kind));
    held.retain(|_, held| !held.is_empty());
}

/// Tenants or contexts that are named when the same is held of many for the same reason.
const NAMED: usize = 3;
/// Contexts that have a line each.
const LINES: usize = 10;

/// What is held: a line for each context, and one where it is many, or a whole kind of several tenants, for one reason.
/// `all` is how many tenants there are; `held` may be the first of them.
pub(super) fn held_lines(held: &BTreeMap<TenantId, Vec<HeldReport>>, all: usize) -> Vec<String> {
    let mut whole: BTreeMap<(&Kind, &str), Vec<&TenantId>> = BTreeMap::new();
    let mut single: BTreeMap<(&Kind, &str), Vec<(&TenantId, &Key)>> = BTreeMap::new();
    for (tenant, held) in held {
        for h in held {
            let what = (&h.kind, h.why.as_str());
            match &h.key {
                Some(key) => single.entry(what).or_default().push((tenant, key)),
                None => whole.entry(what).or_default().push(tenant),
            }
        }
    }
    let mut lines = Vec::new();
    for ((kind, why), names) in single {
        if names.len() <= LINES {
            let line = |(tenant, key)| format!("tenant {tenant}, {kind} {key:?}: {why}");
            lines.extend(names.into_iter().map(line));
            continue;
        }
        let some = names.iter().take(NAMED);
        let some: Vec<String> = some
            .map(|(t, key)| format!("{key:?} of tenant {t}"))
            .collect();
        lines.push(format!(
            "{} contexts of kind {kind}, {} and others: {why}",
            names.len(),
            some.join(", ")
        ));
    }
    for ((kind, why), tenants) in whole {
        let names: Vec<&str> = tenants.iter().take(NAMED).map(|t| t.as_str()).collect();
        let who = match tenants.len() {
            1 => format!("tenant {}", names[0]),
            n if n <= NAMED => format!("tenants {}", names.join(", ")),
            n => format!("tenants {} and {} more", names.join(", "), n - NAMED),
        };
        lines.push(format!("{who}, {kind} (all keys): {why}"));
    }
    if all > held.len() {
        let more = all - held.len();
        lines.push(format!(
            "something of {more} more tenants: `publisher held` counts it"
        ));
    }
    lines
}
