//! `POST /v1/pause`, `POST /v1/resume` and `GET /v1/audit`.

use super::auth::Caller;
use super::{Api, answered_otherwise, known, pass_on, problem};
use crate::ask::{Ask, Reply};
use crate::source::SourceError;
use crate::source::pauses::Pause;
use crate::writer::RegionFilter;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use contexts::name::{Kind, Region};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// Acts that are told at most.
const ACTS_MAX: u32 = 10_000;

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object such as {\"region\": \"eu-west-1\", \"reason\": \"...\"}"
)]
struct What {
    #[serde(default)]
    region: Option<Region>,
    #[serde(default)]
    kind: Option<Kind>,
    reason: String,
}

/// What cannot be done because of the database.
pub(super) fn refused(e: &SourceError) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "database", &e.to_string())
}

#[expect(clippy::result_large_err, reason = "a refusal is an answer")]
fn read(api: &Api, body: &Bytes) -> Result<What, Response> {
    let wrong = |message: &str| problem(StatusCode::BAD_REQUEST, "bad_request", message);
    let what: What = serde_json::from_slice(body).map_err(|e| wrong(&e.to_string()))?;
    if what.reason.trim().is_empty() {
        return Err(wrong("reason is empty: say why"));
    }
    let only = what.region.clone().map(|r| [r].into());
    let kinds = what.kind.as_ref().map(std::slice::from_ref);
    known(&api.config(), kinds, only.as_ref()).map_err(|message| wrong(&message))?;
    Ok(what)
}

pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let pause = match read(&api, &body) {
        Ok(What {
            region,
            kind,
            reason,
        }) => Pause {
            region,
            kind,
            reason,
        },
        Err(refusal) => return refusal,
    };
    if let Err(e) = api.parts().source.pause(&pause, &caller.actor).await {
        return refused(&e);
    }
    match pass_on(&api, Ask::Recall).await {
        Ok(Reply::Recalled) => Json(json!({ "paused": pause })).into_response(),
        Ok(_) => answered_otherwise(),
        // It is in the database: whoever writes next keeps to it.
        Err(why) => problem(
            StatusCode::ACCEPTED,
            "paused",
            &format!(
                "every build from now on keeps to it; what was under way could not be called back: {why}"
            ),
        ),
    }
}

pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let what = match read(&api, &body) {
        Ok(what) => what,
        Err(refusal) => return refusal,
    };
    let (region, kind) = (what.region.as_ref(), what.kind.as_ref());
    let parts = api.parts();
    let source = &parts.source;
    let ended = match source
        .resume(region, kind, &what.reason, &caller.actor)
        .await
    {
        Ok(ended) if ended.is_empty() => {
            let message = "nothing was paused by these words; see pauses in /v1/status";
            return problem(StatusCode::NOT_FOUND, "not_paused", message);
        }
        Ok(ended) => ended,
        Err(e) => return refused(&e),
    };
    let cause = format!("{} ended a pause", caller.actor.who);
    tokio::spawn(async move {
        let ask = Ask::Scan {
            cause,
            regions: RegionFilter::All,
            reread: false,
            allow_mass_delete: false,
        };
        pass_on(&api, ask).await
    });
    (StatusCode::ACCEPTED, Json(json!({ "resumed": ended }))).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    #[serde(default = "hundred")]
    limit: u32,
}

fn hundred() -> u32 {
    100
}

pub(super) async fn audit(State(api): State<Arc<Api>>, Query(limit): Query<Limit>) -> Response {
    match api.parts().source.acts(limit.limit.min(ACTS_MAX)).await {
        Ok(acts) => Json(json!({ "acts": acts })).into_response(),
        Err(e) => refused(&e),
    }
}
