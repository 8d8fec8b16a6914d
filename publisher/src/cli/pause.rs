//! `publisher pause` and `publisher resume`: the stop button.

use super::{Context, Exit, Stop, progress, scan};
use crate::ask::{Ask, Reply};
use crate::source::pauses::Pause;
use crate::writer::RegionFilter;
use contexts::name::{Kind, Region};
use serde_json::json;

/// What a person says to both.
#[derive(Debug, clap::Args)]
pub(super) struct What {
    /// Only this region
    #[arg(long)]
    region: Option<String>,
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Why, for everybody who sees it
    #[arg(long)]
    reason: String,
}

impl What {
    /// With a region and a kind that the configuration has.
    fn read(&self, context: &Context) -> Result<Pause, Stop> {
        context.regions(self.region.as_deref())?;
        context.kind(self.kind.as_deref())?;
        self.pause()
    }

    /// As it was said.
    pub(super) fn pause(&self) -> Result<Pause, Stop> {
        let kind = self.kind.as_deref().map(Kind::new).transpose();
        let region = self.region.as_deref().map(Region::new).transpose();
        let reason = self.reason.trim().to_owned();
        if reason.is_empty() {
            return Err(Stop::Usage("--reason is empty: say why".into()));
        }
        Ok(Pause {
            region: region.map_err(|e| Stop::Usage(e.to_string()))?,
            kind: kind.map_err(|e| Stop::Usage(e.to_string()))?,
            reason,
        })
    }
}

pub(super) async fn pause(context: &Context, what: &What) -> Result<Exit, Stop> {
    let pause = what.read(context)?;
    context.require_migrated().await?;
    let source = &context.parts.source;
    source.pause(&pause, &super::actor("pause")).await?;
    let recalled = progress::ask(context, Ask::Recall).await;
    let reply = recalled.map_err(|stop| match stop {
        Stop::Failed(why) | Stop::Usage(why) => Stop::Failed(format!(
            "{pause}: every build from now on keeps to it; what was under way could not be called back: {why}"
        )),
    })?;
    let Reply::Recalled = reply else {
        return Err(super::answered_otherwise());
    };
    shown(context.json, &pause)
}

/// Prints what is paused now.
pub(super) fn shown(json: bool, pause: &Pause) -> Result<Exit, Stop> {
    super::print(json, &json!({ "paused": pause }), || {
        format!(
            "{pause}\nvalues stay as they are, and only removals leave; nothing built before is under way\n\
             `publisher resume` ends it, `publisher republish tenant T --despite-pause` lets one through"
        )
    })?;
    Ok(Exit::Done)
}

pub(super) async fn resume(context: &Context, what: &What) -> Result<Exit, Stop> {
    let Pause {
        region,
        kind,
        reason,
    } = what.read(context)?;
    context.require_migrated().await?;
    let (source, by) = (&context.parts.source, super::actor("resume"));
    let ended = source
        .resume(region.as_ref(), kind.as_ref(), &reason, &by)
        .await?;
    if ended.is_empty() {
        let (paused, _) = source.paused().await?;
        let what = match paused.is_empty() {
            true => "nothing is paused".to_owned(),
            false => {
                let all: Vec<String> = paused.iter().map(|p| p.pause.to_string()).collect();
                format!(
                    "no pause is of this region and kind; there is: {}",
                    all.join("; ")
                )
            }
        };
        return Err(Stop::Failed(what));
    }
    for pause in &ended {
        eprintln!("ended: {pause}");
    }
    // What changed meanwhile goes out now.
    scan::ask(
        context,
        "publisher resume",
        RegionFilter::All,
        None,
        scan::How::PLAIN,
    )
    .await
}
