//! `GET /v1/held`, `POST /v1/held/approve` and `POST /v1/held/drop`.

use super::auth::Caller;
use super::stops::refused;
use super::{Api, pass_on, problem};
use crate::ask::Ask;
use crate::source::holds::{Decision, Which};
use crate::writer::RegionFilter;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;
use std::sync::Arc;

/// More tenants than this are sent by a scan.
const TENANTS_AT_ONCE: usize = 1_000;

pub(super) async fn held(State(api): State<Arc<Api>>) -> Response {
    match api.parts().source.held().await {
        Ok(held) => Json(json!({ "held": held })).into_response(),
        Err(e) => refused(&e),
    }
}

pub(super) async fn approve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    decide(api, &caller, &body, Decision::Approve).await
}

pub(super) async fn drop(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    decide(api, &caller, &body, Decision::Drop).await
}

/// Decides, and has the tenants built and sent at once: what was approved leaves, and of what is kept nobody is told any
/// more that it waits for a decision.
async fn decide(api: Arc<Api>, caller: &Caller, body: &Bytes, decision: Decision) -> Response {
    let which: Which = match body.is_empty() {
        true => Which::default(),
        false => match serde_json::from_slice(body) {
            Ok(which) => which,
            Err(e) => return problem(StatusCode::BAD_REQUEST, "bad_request", &e.to_string()),
        },
    };
    if which.kept && decision == Decision::Drop {
        let message = "kept: these are kept already; only approve takes it";
        return problem(StatusCode::BAD_REQUEST, "bad_request", message);
    }
    let parts = api.parts();
    let source = &parts.source;
    let decided = match source.decide(decision, &which, &caller.actor).await {
        Ok(decided) if decided.contexts == 0 => {
            let message = "nothing of this is held; see /v1/held";
            return problem(StatusCode::NOT_FOUND, "not_held", message);
        }
        Ok(decided) => decided,
        Err(e) => return refused(&e),
    };
    let answer = json!({ "contexts": decided.contexts, "tenants": decided.tenants.len() });
    let (regions, tenants) = (RegionFilter::All, decided.tenants);
    let ask = match tenants.len() > TENANTS_AT_ONCE {
        true => Ask::Scan {
            cause: format!("{} decided about what was held", caller.actor.who),
            regions,
            reread: false,
            allow_mass_delete: false,
        },
        false => Ask::Republish { tenants, regions },
    };
    tokio::spawn(async move { pass_on(&api, ask).await });
    let status = match decision {
        Decision::Approve => StatusCode::ACCEPTED,
        Decision::Drop => StatusCode::OK,
    };
    (status, Json(answer)).into_response()
}
