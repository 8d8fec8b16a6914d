//! `publisher held`, `approve` and `drop`: what the guard holds, and what a person makes of it.

use super::{Context, Exit, Stop, progress, scan};
use crate::ask::{Ask, Reply};
use crate::source::holds::{Decided, Decision, HeldFor, HeldGroup, HoldState, Which};
use crate::writer::{Delivery, Receipt, RegionFilter};
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
    /// With a kind and a region that the configuration has.
    fn read(&self, context: &Context, kept: bool) -> Result<Which, Stop> {
        context.kind(self.kind.as_deref())?;
        context.regions(self.region.as_deref())?;
        self.which(kept)
    }

    /// As it was said; of what `drop` kept, or of what waits for a decision.
    pub(super) fn which(&self, kept: bool) -> Result<Which, Stop> {
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
            kept,
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
    if held.iter().any(|h| h.state == HoldState::Dropped) {
        let _ = writeln!(
            out,
            "what is kept stays until the hub changes it again; `publisher approve --kept` lets it go"
        );
    }
    match out.is_empty() {
        true => "nothing is held".to_owned(),
        false => out,
    }
}

pub(super) async fn approve(context: &Context, of: &Of, kept: bool) -> Result<Exit, Stop> {
    let which = of.read(context, kept)?;
    let decided = decide(context, &which, Decision::Approve).await?;
    let contexts = decided.contexts;
    eprintln!("{contexts} contexts approved for an hour");
    if decided.tenants.len() > TENANTS_AT_ONCE {
        let cause = "publisher approve";
        return scan::ask(context, cause, RegionFilter::All, None, scan::How::PLAIN).await;
    }
    let late = sent(context, decided.tenants).await?;
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
    let decided = decide(context, &of.read(context, false)?, Decision::Drop).await?;
    let contexts = decided.contexts;
    // So that nobody is told any more that something waits for a decision. It counts without that, and a scan tells too.
    if decided.tenants.len() <= TENANTS_AT_ONCE {
        let told = sent(context, decided.tenants).await;
        if let Err(Stop::Failed(why) | Stop::Usage(why)) = told {
            eprintln!(
                "what the stores keep is decided; until the next scan `status` may show it as undecided: {why}"
            );
        }
    }
    context.print(&json!({ "dropped": contexts }), || kept(&contexts))?;
    Ok(Exit::Done)
}

/// What became of contexts that somebody dropped.
pub(super) fn kept(contexts: &dyn std::fmt::Display) -> String {
    format!(
        "{contexts} contexts stay as the stores have them until the hub changes them again, or until `publisher approve --kept`"
    )
}

/// Has tenants built and sent again; the deliveries that did not come about.
async fn sent(context: &Context, tenants: Vec<TenantId>) -> Result<Vec<Receipt>, Stop> {
    let ask = Ask::Republish {
        tenants,
        regions: RegionFilter::All,
    };
    let Reply::Republished(receipts) = progress::ask(context, ask).await? else {
        return Err(super::answered_otherwise());
    };
    let mut late = receipts.receipts;
    late.retain(|r| !matches!(r.delivery, Delivery::Delivered { .. }));
    Ok(late)
}

async fn decide(context: &Context, which: &Which, decision: Decision) -> Result<Decided, Stop> {
    context.require_migrated().await?;
    let action = match decision {
        Decision::Approve => "approve",
        Decision::Drop => "drop",
    };
    let by = super::actor(action);
    let decided = context.parts.source.decide(decision, which, &by).await?;
    match (decided.contexts, which.kept) {
        (0, false) => Err(Stop::Failed(
            "nothing of this is held; see `publisher held`. What an earlier `drop` keeps goes by `publisher approve --kept`"
                .into(),
        )),
        (0, true) => Err(Stop::Failed(
            "nothing of this is kept by an earlier `drop`; see `publisher held`".into(),
        )),
        _ => Ok(decided),
    }
}
