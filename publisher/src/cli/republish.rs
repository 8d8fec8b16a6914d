//! `publisher republish`.

use super::{Context, Exit, Republish, Stop, progress, scan};
use crate::ask::{Ask, Receipts, Reply};
use crate::source::audit;
use crate::writer::Delivery;
use contexts::name::Kind;
use std::fmt::Write;

pub(super) async fn run(
    context: &Context,
    what: Republish,
    kind: Option<&str>,
    region: Option<&str>,
) -> Result<Exit, Stop> {
    let kind = context.kind(kind)?;
    let regions = context.regions(region)?;
    let (tenants, despite_pause) = match what {
        Republish::All => {
            return scan::ask(
                context,
                "publisher republish all",
                regions,
                kind,
                scan::How::READING_BACK,
            )
            .await;
        }
        Republish::Region { name } if region.is_some_and(|r| r != name) => {
            return Err(Stop::Usage(format!(
                "republish region {name} and --region contradict each other"
            )));
        }
        Republish::Region { name } => {
            let regions = context.regions(Some(&name))?;
            return scan::ask(
                context,
                "publisher republish region",
                regions,
                kind,
                scan::How::READING_BACK,
            )
            .await;
        }
        Republish::Tenant {
            tenants,
            despite_pause,
        } => (tenants, despite_pause),
    };
    context.require_migrated().await?;
    let tenants = context
        .parts
        .source
        .check_tenants(&tenants)
        .await
        .map_err(|e| match e.is_down() {
            true => Stop::Failed(e.to_string()),
            false => Stop::Usage(e.to_string()),
        })?;
    let (source, by) = (&context.parts.source, super::actor("republish"));
    match despite_pause {
        true => source.except(&tenants, &by).await?,
        false => {
            source
                .audit(&by, "republish", &audit::named(&tenants))
                .await?
        }
    }
    let ask = Ask::Republish {
        tenants: tenants.clone(),
        regions,
    };
    let reply = progress::ask(context, ask).await;
    if despite_pause {
        source.end_exceptions(&tenants).await?;
    }
    let Reply::Republished(mut receipts) = reply? else {
        return Err(super::answered_otherwise());
    };
    shown(context.json, kind.as_ref(), &mut receipts)
}

/// Prints receipts, and says how it went.
pub(super) fn shown(
    json: bool,
    kind: Option<&Kind>,
    receipts: &mut Receipts,
) -> Result<Exit, Stop> {
    scan::only(kind, &mut receipts.held);
    super::print(json, receipts, || text(receipts))?;
    let delivered = receipts
        .receipts
        .iter()
        .all(|r| matches!(r.delivery, Delivery::Delivered { .. }));
    Ok(if delivered && receipts.held.is_empty() {
        Exit::Done
    } else {
        Exit::Trouble
    })
}

fn text(receipts: &Receipts) -> String {
    let mut out = String::new();
    let width = receipts
        .receipts
        .iter()
        .map(|r| r.store.len())
        .max()
        .unwrap_or(0);
    let mut tenant = None;
    for receipt in &receipts.receipts {
        if tenant != Some(&receipt.tenant) {
            let _ = writeln!(out, "tenant {}", receipt.tenant);
            tenant = Some(&receipt.tenant);
        }
        let what = match &receipt.delivery {
            Delivery::Delivered {
                version,
                contexts: 0,
                held: 0,
                ..
            } => format!("version {version}, no contexts: not in this region, or no such tenant"),
            Delivery::Delivered {
                version,
                contexts,
                held,
                already_there,
            } => {
                let there = if *already_there { ", as before" } else { "" };
                let held = match held {
                    0 => String::new(),
                    n => format!(" and {n} held"),
                };
                format!("version {version}, {contexts} contexts{held}{there}")
            }
            Delivery::Behind { why } => format!("NOT delivered, a scan will repair it: {why}"),
            Delivery::TimedOut => "NOT acknowledged in time; still being tried".to_owned(),
        };
        let _ = writeln!(
            out,
            "  {:width$}  {:>5} ms  {what}",
            receipt.store, receipt.ms
        );
    }
    for line in scan::held_lines(&receipts.held, receipts.held.len()) {
        let _ = writeln!(out, "  held: {line}");
    }
    out
}
