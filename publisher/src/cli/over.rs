//! Commands that are given to a publisher elsewhere (`--hub URL`): the same words, results and exit codes, by its API.
//! What changes the configuration or the database itself has to be done where these are.

use super::commands::{Command, Republish};
use super::remote::{Hub, RECEIPTS, short};
use super::{Exit, Stop, audit, compare, get, held, pause, republish, scan, status, tail, watch};
use crate::ask::Receipts;
use crate::compare::Comparison;
use crate::lookup::Found;
use crate::source::audit::Act;
use crate::source::holds::HeldGroup;
use crate::source::pauses::Pause;
use crate::writer::ScanSummary;
use contexts::name::Kind;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

/// Gives a command to a publisher.
pub(super) async fn dispatch(hub: &Hub, json: bool, command: Command) -> Result<Exit, Stop> {
    match command {
        Command::Status { watch: None } => {
            let status = status::over(hub).await?;
            status::shown(json, &status)
        }
        Command::Status { watch: Some(every) } => Ok(watching(hub, json, every).await),
        Command::Tail(what) => tail::run(hub, json, &what).await,
        Command::Scan {
            kind,
            region,
            dry_run: true,
            ..
        } => {
            let kind = named(kind.as_deref())?;
            let mut comparison = differences(hub, None, region).await?;
            compare::only(kind.as_ref(), &mut comparison);
            compare::shown(json, &comparison, false)
        }
        Command::Diff { tenant, region } => {
            let comparison = differences(hub, tenant, region).await?;
            compare::shown(json, &comparison, true)
        }
        Command::Scan {
            kind,
            region,
            dry_run: false,
            allow_mass_delete,
        } => {
            let how = scan::How {
                reread: false,
                allow_mass_delete,
            };
            scanned(hub, json, kind, region, how).await
        }
        Command::Republish {
            what,
            kind,
            region,
            wait: _,
        } => republished(hub, json, what, kind, region).await,
        Command::Pause(what) => paused(hub, json, &what).await,
        Command::Resume(what) => resumed(hub, json, &what).await,
        Command::Held => {
            let answer: HeldThere = hub.get("/v1/held", &[], short()).await?;
            held::shown(json, &answer.held)
        }
        Command::Approve { of, kept } => {
            let which = of.which(kept)?;
            let answer: Value = hub
                .post("/v1/held/approve", &which, Some(RECEIPTS))
                .await?;
            super::print(json, &json!({ "approved": answer["contexts"] }), || {
                format!(
                    "{} contexts approved for an hour; they are on their way",
                    answer["contexts"]
                )
            })?;
            Ok(Exit::Done)
        }
        Command::Drop(of) => {
            let answer: Value = hub
                .post("/v1/held/drop", &of.which(false)?, Some(RECEIPTS))
                .await?;
            super::print(json, &json!({ "dropped": answer["contexts"] }), || {
                held::kept(&answer["contexts"])
            })?;
            Ok(Exit::Done)
        }
        Command::Audit { limit } => {
            let query = [("limit", Some(limit.to_string()))];
            let answer: Acts = hub.get("/v1/audit", &query, short()).await?;
            super::print(json, &json!({ "acts": answer.acts }), || {
                audit::text(&answer.acts)
            })?;
            Ok(Exit::Done)
        }
        Command::Get { kind, key } => {
            let part = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let path = format!("/v1/contexts/{}/{}", part(&kind), part(&key));
            let found: Vec<Found> = hub.get(&path, &[], Some(RECEIPTS)).await?;
            get::shown(json, &found)
        }
        Command::Run
        | Command::Migrate { .. }
        | Command::Uninstall { .. }
        | Command::Certs(_)
        | Command::Init(_)
        | Command::Check
        | Command::Takeover { .. }
        | Command::Decommission { .. }
        | Command::Completions { .. } => Err(Stop::Usage(
            "--hub: this command works on the configuration and the database themselves; run it where they are, without --hub"
                .into(),
        )),
    }
}

#[derive(Deserialize)]
struct HeldThere {
    held: Vec<HeldGroup>,
}

#[derive(Deserialize)]
struct Acts {
    acts: Vec<Act>,
}

#[derive(Deserialize)]
struct Resumed {
    resumed: Vec<Pause>,
}

fn named(kind: Option<&str>) -> Result<Option<Kind>, Stop> {
    let kind = kind.map(Kind::new).transpose();
    kind.map_err(|e| Stop::Usage(e.to_string()))
}

async fn watching(hub: &Hub, json: bool, every: f64) -> Exit {
    let look = async || {
        status::over(hub)
            .await
            .map_err(|refusal| match refusal.into() {
                Stop::Failed(why) | Stop::Usage(why) => why,
            })
    };
    watch::watch(every, json, look).await
}

async fn differences(
    hub: &Hub,
    tenant: Option<String>,
    region: Option<String>,
) -> Result<Comparison, Stop> {
    let query = [("tenant", tenant), ("region", region)];
    Ok(hub.get("/v1/diff", &query, None).await?)
}

async fn scanned(
    hub: &Hub,
    json: bool,
    kind: Option<String>,
    region: Option<String>,
    how: scan::How,
) -> Result<Exit, Stop> {
    let kind = named(kind.as_deref())?;
    let wish = json!({
        "regions": region.map(|region| [region]),
        "reread": how.reread,
        "allow_mass_delete": how.allow_mass_delete,
        "wait": true,
    });
    // It takes as long as it takes.
    let mut summary: ScanSummary = hub.post("/v1/scan", &wish, None).await?;
    scan::shown(json, kind.as_ref(), &mut summary)
}

async fn republished(
    hub: &Hub,
    json: bool,
    what: Republish,
    kind: Option<String>,
    region: Option<String>,
) -> Result<Exit, Stop> {
    let (tenants, despite_pause) = match what {
        Republish::Tenant {
            tenants,
            despite_pause,
        } => (tenants, despite_pause),
        Republish::All => return scanned(hub, json, kind, region, scan::How::READING_BACK).await,
        Republish::Region { name } => {
            if region.is_some_and(|region| region != name) {
                let why = format!("republish region {name} and --region contradict each other");
                return Err(Stop::Usage(why));
            }
            return scanned(hub, json, kind, Some(name), scan::How::READING_BACK).await;
        }
    };
    let kind = named(kind.as_deref())?;
    let wish = json!({
        "tenants": tenants,
        "regions": region.map(|region| [region]),
        "despite_pause": despite_pause,
        "wait": true,
    });
    let mut receipts: Receipts = hub.post("/v1/republish", &wish, Some(RECEIPTS)).await?;
    republish::shown(json, kind.as_ref(), &mut receipts)
}

async fn paused(hub: &Hub, json: bool, what: &pause::What) -> Result<Exit, Stop> {
    let pause = what.pause()?;
    let answer: Value = hub.post("/v1/pause", &pause, Some(RECEIPTS)).await?;
    // It is paused, and what was under way could not be called back.
    if let Some(why) = answer["message"].as_str() {
        return Err(Stop::Failed(format!("{pause}: {why}")));
    }
    pause::shown(json, &pause)
}

async fn resumed(hub: &Hub, json: bool, what: &pause::What) -> Result<Exit, Stop> {
    let pause = what.pause()?;
    let answer: Resumed = hub.post("/v1/resume", &pause, Some(RECEIPTS)).await?;
    super::print(json, &json!({ "resumed": answer.resumed }), || {
        let ended = answer
            .resumed
            .iter()
            .map(|pause| format!("ended: {pause}\n"));
        ended.collect::<String>() + "a scan sends what changed meanwhile"
    })?;
    Ok(Exit::Done)
}
