//! `publisher takeover --force`: takes the lease and the stores from whoever has them, and ends with a scan that makes
//! the stores this database's own.

use super::{Context, Exit, Stop, progress, scan};
use crate::ask::{Ask, Reply};
use crate::delegate;
use crate::writer::RegionFilter;

pub(super) async fn run(context: &Context, force: bool) -> Result<Exit, Stop> {
    if !force {
        return Err(Stop::Usage(
            "takeover takes every store from the writer that has it, also from one that is alive, and fences any other \
             copy of this database for good; if this database is the right one, say --force"
                .into(),
        ));
    }
    context.require_migrated().await?;
    let ask = Ask::Scan {
        cause: "publisher takeover --force".into(),
        regions: RegionFilter::All,
        reread: false,
        allow_mass_delete: false,
    };
    let parts = &context.parts;
    let (by, act) = (
        super::actor("takeover"),
        serde_json::json!({ "force": true }),
    );
    parts.source.audit(&by, "takeover", &act).await?;
    let work = |stage| async move { delegate::take_over(parts, ask, &stage).await };
    let Reply::Scanned(summary) = progress::watch(context, work).await? else {
        return Err(Stop::Failed(
            "the writer answered something else than was asked".into(),
        ));
    };
    context.print(&summary, || scan::text(&summary))?;
    Ok(if summary.stores.iter().all(|s| s.in_step) {
        Exit::Done
    } else {
        Exit::Trouble
    })
}
