//! `publisher uninstall`.

use super::{Context, Exit, Stop};
use crate::source::{Source, SourceError};
use crate::writer::lease::{Observer, Standing};
use contexts::limits;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the lease is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn run(context: &Context, yes: bool, force: bool) -> Result<Exit, Stop> {
    let source = &context.parts.source;
    source.ping().await?;
    if !source.is_installed().await? {
        context.print(&json!({ "removed": [] }), || {
            format!(
                "nothing to do: the database at {} has no Hubcast schema",
                source.at()
            )
        })?;
        return Ok(Exit::Done);
    }
    if !force && let Some(host) = live_writer(source).await? {
        return Err(Stop::Failed(format!(
            "{host} is the writer: stop it first, or say --force"
        )));
    }
    if !yes && !is_confirmed(source.at())? {
        return Err(Stop::Failed("nothing was removed".into()));
    }
    let migrator = match &context.config.hub.migrate_url {
        Some(url) => Source::new("hub.migrate_url", url)?,
        None => source.clone(),
    };
    let lines = migrator.uninstall().await?;
    context.print(&json!({ "removed": lines }), || lines.join("\n"))?;
    Ok(Exit::Done)
}

/// Who renews the lease, if anybody does. A lease that is not released is watched until its counter moves or it has run
/// out.
async fn live_writer(source: &Source) -> Result<Option<String>, Stop> {
    let (mut observer, began) = (Observer::default(), Instant::now());
    let mut first = None;
    while began.elapsed() < 2 * limits::SILENCE {
        let info = match source.lease().await {
            Ok(info) => info,
            // A schema that was only begun has no lease.
            Err(SourceError::NotMigrated { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if observer.observe(info.row, began.elapsed()) == Standing::Free {
            return Ok(None);
        }
        if *first.get_or_insert(info.row) != info.row {
            return Ok(Some(info.host));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

/// Asks a person.
fn is_confirmed(at: &str) -> Result<bool, Stop> {
    if !std::io::stdin().is_terminal() {
        let why = "there is no terminal to ask on: say --yes to remove the schema hubcast and all change triggers";
        return Err(Stop::Usage(why.into()));
    }
    let mut stderr = std::io::stderr();
    let failed = |e: std::io::Error| Stop::Failed(e.to_string());
    write!(
        stderr,
        "This removes the schema hubcast and all change triggers from {at}. The stores keep what they hold.\n\
         Type yes to go on: "
    )
    .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(failed)?;
    Ok(answer.trim() == "yes")
}
