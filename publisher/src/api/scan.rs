//! `POST /v1/scan`.

use super::auth::Caller;
use super::{Api, answered_otherwise, known, pass_on, problem, stops};
use crate::ask::{Ask, Reply};
use crate::config::Role;
use crate::source::holds::{Decision, HeldFor, Which};
use crate::writer::RegionFilter;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use contexts::name::Region;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "an object such as {\"regions\": [\"eu-west-1\"], \"wait\": true}"
)]
struct Wanted {
    regions: Option<BTreeSet<Region>>,
    /// Stores compare what is on their disks, read again.
    reread: bool,
    /// Whatever it finds removed may leave.
    allow_mass_delete: bool,
    /// Answer with the summary, when the scan has ended.
    wait: bool,
}

pub(super) async fn scan(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let wrong = |message: &str| problem(StatusCode::BAD_REQUEST, "bad_request", message);
    let wanted: Wanted = match body.is_empty() {
        true => Wanted::default(),
        false => match serde_json::from_slice(&body) {
            Ok(wanted) => wanted,
            Err(e) => return wrong(&e.to_string()),
        },
    };
    let Wanted {
        regions,
        reread,
        allow_mass_delete,
        wait,
    } = wanted;
    if regions.as_ref().is_some_and(BTreeSet::is_empty) {
        return wrong("regions is empty: leave it out for every region");
    }
    if let Err(message) = known(&api.config(), None, regions.as_ref()) {
        return wrong(&message);
    }
    if allow_mass_delete {
        if let Err(refusal) = caller.require(Role::Operate) {
            return refusal;
        }
        // What was held before is approved as well: it is what the scan would find.
        let which = Which {
            reason: Some(HeldFor::Removed),
            ..Which::default()
        };
        let parts = api.parts();
        let deciding = parts
            .source
            .decide(Decision::Approve, &which, &caller.actor);
        if let Err(e) = deciding.await {
            return stops::refused(&e);
        }
    }
    let id = api.scans.fetch_add(1, Ordering::Relaxed) + 1;
    let id = format!("{}-{id}", std::process::id());
    let what = json!({ "id": id, "regions": regions, "reads back": reread, "allow mass delete": allow_mass_delete });
    if let Err(e) = api.parts().source.audit(&caller.actor, "scan", &what).await {
        return stops::refused(&e);
    }
    let ask = Ask::Scan {
        cause: format!("asked for over the API ({id})"),
        regions: regions.map_or(RegionFilter::All, RegionFilter::Only),
        reread,
        allow_mass_delete,
    };
    // In a task of its own, so that it goes on if the caller went away.
    let scanning = tokio::spawn(async move { pass_on(&api, ask).await });
    if !wait {
        return (StatusCode::ACCEPTED, Json(json!({ "scan": id }))).into_response();
    }
    match scanning.await.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(Reply::Scanned(summary)) => Json(summary).into_response(),
        Ok(Reply::Failed(why)) => problem(StatusCode::INTERNAL_SERVER_ERROR, "failed", &why),
        Ok(_) => answered_otherwise(),
        Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &why),
    }
}
