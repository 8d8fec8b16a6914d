//! `publisher scan`, and the summary of a scan.

use super::{Context, Exit, Stop, progress};
use crate::ask::{Ask, Reply};
use crate::writer::{HeldReport, RegionFilter, ScanSummary};
use contexts::name::TenantId;
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) async fn run(
    context: &Context,
    kind: Option<&str>,
    region: Option<&str>,
) -> Result<Exit, Stop> {
    let regions = context.regions(region)?;
    context.kind(kind)?;
    ask(context, "publisher scan", regions, false).await
}

/// Scans, prints the summary, and says how it went.
pub(super) async fn ask(
    context: &Context,
    cause: &str,
    regions: RegionFilter,
    reread: bool,
) -> Result<Exit, Stop> {
    context.require_migrated().await?;
    let ask = Ask::Scan {
        cause: cause.to_owned(),
        regions,
        reread,
    };
    let Reply::Scanned(summary) = progress::ask(context, ask).await? else {
        return Err(Stop::Failed(
            "the writer answered something else than was asked".into(),
        ));
    };
    context.print(&summary, || text(&summary))?;
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
        let _ = writeln!(out, "  {:width$}  {what}", store.store);
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
    for line in held_lines(&summary.held) {
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

/// What is held, a line for each context.
pub(super) fn held_lines(
    held: &BTreeMap<TenantId, Vec<HeldReport>>,
) -> impl Iterator<Item = String> {
    held.iter().flat_map(|(tenant, held)| {
        held.iter().map(move |h| {
            let key = h
                .key
                .as_ref()
                .map_or("(all keys)".to_owned(), |k| format!("{k:?}"));
            format!("tenant {tenant}, {} {key}: {}", h.kind, h.why)
        })
    })
}
