//! `publisher decommission REGION`: empties the stores of a region by a scan, like any other change, and forgets them.

use super::{Context, Exit, Stop, progress, scan};
use crate::ask::{Ask, Reply};
use crate::writer::StoreSummary;
use contexts::name::Region;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};

pub(super) async fn run(
    context: &Context,
    name: &str,
    confirm: Option<&str>,
) -> Result<Exit, Stop> {
    let region = Region::new(name).map_err(|e| Stop::Usage(e.to_string()))?;
    let regions = context.regions(Some(name))?;
    let source = &context.parts.source;
    source.ping().await?;
    source.definitions().await?;
    confirmed(&region, confirm)?;
    source
        .decommission(&region, &super::actor("decommission"))
        .await?;
    let ask = Ask::Scan {
        cause: format!("publisher decommission {region}"),
        regions,
        reread: false,
        allow_mass_delete: false,
    };
    let Reply::Scanned(summary) = progress::ask(context, ask).await? else {
        return Err(super::answered_otherwise());
    };
    let of_region = |s: &&StoreSummary| s.region == region;
    let stores: Vec<&StoreSummary> = summary.stores.iter().filter(of_region).collect();
    let (empty, left): (Vec<&StoreSummary>, Vec<&StoreSummary>) =
        stores.into_iter().partition(|s| s.in_step);
    if left.is_empty() && !empty.is_empty() {
        source.forget_stores(&region).await?;
        let names: Vec<&str> = empty.iter().map(|s| s.store.as_str()).collect();
        let result = json!({ "region": region, "emptied": names });
        context.print(&result, || {
            format!(
                "region {region} is decommissioned; emptied, and answering 503: {}\nNow remove its [[spoke]] from the \
                 configuration and start the publisher again: with it `run` stops.",
                names.join(", ")
            )
        })?;
        return Ok(Exit::Done);
    }
    context.print(&summary, || scan::text(&summary))?;
    let why = match left.first() {
        Some(store) => format!("{} is not empty", store.store),
        None => "the publisher that runs has another configuration, without this region".to_owned(),
    };
    eprintln!(
        "publisher: region {region} gets nothing any more, but {why}: run this again, or, if the stores are gone for good, \
         remove its [[spoke]] and run `publisher migrate`"
    );
    Ok(Exit::Trouble)
}

/// A person has typed the name of the region, here or as a flag.
fn confirmed(region: &Region, confirm: Option<&str>) -> Result<(), Stop> {
    let answer = match confirm {
        Some(answer) => answer.to_owned(),
        None if !std::io::stdin().is_terminal() => {
            return Err(Stop::Usage(format!(
                "there is no terminal to ask on: say --confirm {region} to empty all stores of region {region}"
            )));
        }
        None => asked(region)?,
    };
    match answer.trim() == region.as_str() {
        true => Ok(()),
        false => Err(Stop::Usage(format!(
            "{:?} is not the name of the region; nothing was changed",
            answer.trim()
        ))),
    }
}

fn asked(region: &Region) -> Result<String, Stop> {
    let failed = |e: std::io::Error| Stop::Failed(e.to_string());
    let mut stderr = std::io::stderr();
    write!(
        stderr,
        "This empties all stores of region {region}: its gateways get 503 from then on, and it cannot be undone under this \
         name.\nType the name of the region to go on: "
    )
    .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(failed)?;
    Ok(answer)
}
