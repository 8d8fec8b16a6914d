//! `publisher held`, `approve` and `drop`: what the guard holds, and what a person makes of it.

use super::{Context, Exit, Stop, progress, scan};
use crate::ask::{Ask, Reply};
use crate::source::holds::{Decided, Decision, HeldFor, HeldGroup, HoldState, Which};
use crate::writer::{Delivery, RegionFilter};
use contexts::name::{Kind, Region, TenantId};
use serde_json::json;
use std::fmt::Write;

/// More tenants than this are sent by a scan.
const TENANTS_AT_ONCE: usize = 1_000;

/// Which of what is held.
#[derive(Debug, clap::Args)]
pub(super) struct Of {
    /// Only of this region
    #[arg(long)]
    region: Option<String>,
    /// Only of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only what is held for this reason
    #[arg(long)]
    reason: Option<HeldFor>,
    /// Only of this tenant; may be given more than once
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
}

impl Of {
    /// With a kind that the configuration has.
    fn read(&self, context: &Context) -> Result<Which, Stop> {
        context.kind(self.kind.as_deref())?;
        self.which()
    }

    /// As it was said.
    pub(super) fn which(&self) -> Result<Which, Stop> {
        let usage = |e: String| Stop::Usage(e);
        let region = self.region.as_deref().map(Region::new).transpose();
        let kind = self.kind.as_deref().map(Kind::new).transpose();
        let tenants = self.tenants.iter().map(|t| TenantId::new(t));
        let tenants: Vec<TenantId> = tenants
            .collect::<Result<_, _>>()
            .map_err(|e| usage(e.to_string()))?;
        Ok(Which {
            region: region.map_err(|e| usage(e.to_string()))?,
            kind: kind.map_err(|e| usage(e.to_string()))?,
            reason: self.reason,
            tenants: (!tenants.is_empty()).then_some(tenants),
        })
    }
}

pub(super) async fn held(context: &Context) -> Result<Exit, Stop> {
    let held = context.parts.source.held().await?;
    shown(context.json, &held)
}

/// Prints what is held, and says whether it waits for somebody.
pub(super) fn shown(json: bool, held: &[HeldGroup]) -> Result<Exit, Stop> {
    super::print(json, &json!({ "held": held }), || text(held))?;
    let waits = held.iter().any(|h| h.state == HoldState::Held);
    Ok(if waits { Exit::Trouble } else { Exit::Done })
}

fn text(held: &[HeldGroup]) -> String {
    let mut out = String::new();
    for group in held {
        let HeldGroup {
            region,
            kind,
            contexts,
            tenants,
            cause,
            ..
        } = group;
        let by = group.decided_by.as_deref().unwrap_or("somebody");
        let state = match group.state {
            HoldState::Held => "held".to_owned(),
            HoldState::Approved => format!("approved by {by}"),
            HoldState::Dropped => format!("kept by {by}"),
        };
        let _ = writeln!(
            out,
            "{state}: {contexts} {} of kind {kind} in region {region}, of {tenants} tenants\n  {cause}",
            group.reason.noun()
        );
        for (tenant, key) in &group.examples {
            let _ = writeln!(out, "  tenant {tenant}, {key:?}");
        }
        if *contexts > group.examples.len() as u64 {
            let _ = writeln!(out, "  ...");
        }
    }
    if held.iter().any(|h| h.state == HoldState::Held) {
        let _ = writeln!(
            out,
            "`publisher approve` lets exactly these go, `publisher drop` keeps what the stores have"
        );
    }
    match out.is_empty() {
        true => "nothing is held".to_owned(),
        false => out,
    }
}

pub(super) async fn approve(context: &Context, of: &Of) -> Result<Exit, Stop> {
    let decided = decide(context, of, Decision::Approve).await?;
    let contexts = decided.contexts;
    eprintln!("{contexts} contexts approved for an hour");
    if decided.tenants.len() > TENANTS_AT_ONCE {
        let cause = "publisher approve";
        return scan::ask(context, cause, RegionFilter::All, None, scan::How::PLAIN).await;
    }
    let ask = Ask::Republish {
        tenants: decided.tenants,
        regions: RegionFilter::All,
    };
    let Reply::Republished(receipts) = progress::ask(context, ask).await? else {
        return Err(super::answered_otherwise());
    };
    let late: Vec<_> = receipts
        .receipts
        .iter()
        .filter(|r| !matches!(r.delivery, Delivery::Delivered { .. }))
        .collect();
    let result = json!({ "approved": contexts, "not_delivered": late });
    context.print(&result, || match late.len() {
        0 => format!("{contexts} contexts are everywhere as at the hub"),
        n => format!("{n} deliveries are not acknowledged yet; they are still being tried, or a scan repairs them"),
    })?;
    Ok(match late.is_empty() {
        true => Exit::Done,
        false => Exit::Trouble,
    })
}

pub(super) async fn drop(context: &Context, of: &Of) -> Result<Exit, Stop> {
    let decided = decide(context, of, Decision::Drop).await?;
    let contexts = decided.contexts;
    context.print(&json!({ "dropped": contexts }), || {
        format!("{contexts} contexts stay as the stores have them until the hub changes them again")
    })?;
    Ok(Exit::Done)
}

async fn decide(context: &Context, of: &Of, decision: Decision) -> Result<Decided, Stop> {
    let which = of.read(context)?;
    context.require_migrated().await?;
    let action = match decision {
        Decision::Approve => "approve",
        Decision::Drop => "drop",
    };
    let by = super::actor(action);
    let decided = context.parts.source.decide(decision, &which, &by).await?;
    match decided.contexts {
        0 => Err(Stop::Failed(
            "nothing of this is held; see `publisher held`".into(),
        )),
        _ => Ok(decided),
    }
}
