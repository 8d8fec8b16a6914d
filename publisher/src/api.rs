//! The hub's HTTP API, for the job service and for whoever watches. A publisher that is not the writer passes requests
//! on to the one that is.

pub(crate) mod auth;
mod held;
mod look;
mod scan;
mod stops;
mod tail;
mod visible;

use crate::ask::{Ask, Orders, Reply};
use crate::config::{Config, Role};
use crate::console::{self, pane::Pane, session::Sessions};
use crate::delegate::{self, Stage};
use crate::engine::{EngineView, Parts};
use crate::source::{SourceError, audit};
use crate::status;
use crate::tail::Tail;
use crate::writer::{Delivery, RegionFilter};
use auth::Caller;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use contexts::name::{Kind, Region, TenantId};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::watch;

/// What the API works with.
#[derive(Debug)]
pub struct Api {
    /// What it works with now: another after the configuration was read again.
    pub setup: watch::Receiver<Setup>,
    /// The way to the writer of this process.
    pub orders: Orders,
    /// What that writer shows; none while it is another process.
    pub view: watch::Receiver<Option<EngineView>>,
    /// The metrics.
    pub metrics: PrometheusHandle,
    /// Scans asked for, for their ids.
    pub scans: AtomicU64,
    /// Who is signed in at the console.
    pub sessions: Sessions,
    /// What the console shows.
    pub pane: Pane,
    /// Where it is told what goes out.
    pub tail: Arc<Tail>,
    /// Whether the publisher stops.
    pub stopped: watch::Receiver<bool>,
}

/// A configuration and what was made of it.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The database and the stores.
    pub parts: Arc<Parts>,
    /// The configuration.
    pub config: Arc<Config>,
}

impl Api {
    /// The database and the stores of now.
    pub fn parts(&self) -> Arc<Parts> {
        self.setup.borrow().parts.clone()
    }

    /// The configuration of now.
    pub fn config(&self) -> Arc<Config> {
        self.setup.borrow().config.clone()
    }
}

/// The routes.
pub fn router(api: Arc<Api>) -> Router {
    let may = |role| middleware::from_fn_with_state((api.clone(), role), auth::authorize);
    let read = Router::new()
        .route("/v1/status", get(read_status))
        .route("/v1/visible", get(visible::visible))
        .route("/v1/tail", get(tail::tail))
        .route("/v1/diff", get(look::diff))
        .route("/v1/contexts/{kind}/{key}", get(look::context))
        .route("/v1/tenants/{tenant}", get(look::tenant))
        .merge(console::guarded())
        .route("/v1/audit", get(stops::audit))
        .route("/v1/held", get(held::held))
        .route_layer(may(Role::Read));
    let republish = Router::new()
        .route("/v1/republish", post(republish))
        .route("/v1/scan", post(scan::scan))
        .route_layer(may(Role::Republish));
    let operate = Router::new()
        .route("/v1/pause", post(stops::pause))
        .route("/v1/resume", post(stops::resume))
        .route("/v1/held/approve", post(held::approve))
        .route("/v1/held/drop", post(held::drop))
        .route_layer(may(Role::Operate));
    let guarded = read.merge(republish).merge(operate);
    let open = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(read_metrics))
        .merge(console::open());
    guarded.merge(open).fallback(nowhere).with_state(api)
}

/// An error as the API answers it.
pub(crate) fn problem(status: StatusCode, error: &str, message: &str) -> Response {
    (status, Json(json!({ "error": error, "message": message }))).into_response()
}

fn answered_otherwise() -> Response {
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "failed",
        "the writer answered otherwise; is it of another release?",
    )
}

async fn nowhere() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is nothing at this path; see the README for the API",
    )
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object such as {\"tenant\": \"t1\"}"
)]
struct Republish {
    #[serde(default)]
    tenant: Option<serde_json::Value>,
    #[serde(default)]
    tenants: Vec<serde_json::Value>,
    #[serde(default)]
    kinds: Option<Vec<Kind>>,
    #[serde(default)]
    regions: Option<BTreeSet<Region>>,
    #[serde(default)]
    wait: bool,
    #[serde(default)]
    despite_pause: bool,
}

/// The names of the tenants, as text.
fn names<'a>(
    given: impl Iterator<Item = &'a serde_json::Value>,
) -> Result<Vec<String>, &'static str> {
    let name = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let names: Option<Vec<String>> = given.map(name).collect();
    match names {
        Some(names) if names.is_empty() => Err("name a tenant, or several as tenants"),
        Some(names) => Ok(names),
        None => Err("a tenant must be a string or a number"),
    }
}

async fn republish(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let wanted: Republish = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(e) => return problem(StatusCode::BAD_REQUEST, "bad_request", &e.to_string()),
    };
    let names = match names(wanted.tenant.iter().chain(&wanted.tenants)) {
        Ok(names) => names,
        Err(message) => return problem(StatusCode::BAD_REQUEST, "bad_request", message),
    };
    if wanted.regions.as_ref().is_some_and(BTreeSet::is_empty) {
        let message = "regions is empty: leave it out for every region";
        return problem(StatusCode::BAD_REQUEST, "bad_request", message);
    }
    if let Err(message) = known(
        &api.config(),
        wanted.kinds.as_deref(),
        wanted.regions.as_ref(),
    ) {
        return problem(StatusCode::BAD_REQUEST, "bad_request", &message);
    }
    let tenants = match api.parts().source.check_tenants(&names).await {
        Ok(tenants) => tenants,
        Err(e) if e.is_down() => {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "database", &e.to_string());
        }
        Err(e) => return problem(StatusCode::BAD_REQUEST, "bad_request", &e.to_string()),
    };
    let regions = wanted.regions.map_or(RegionFilter::All, RegionFilter::Only);
    if wanted.despite_pause
        && let Err(refusal) = caller.require(Role::Operate)
    {
        return refusal;
    }
    if let Err(e) = admit(&api, &caller, &tenants, wanted.despite_pause).await {
        return stops::refused(&e);
    }
    let going = tokio::spawn(go(api, tenants, regions, wanted.despite_pause));
    if !wanted.wait {
        return (StatusCode::ACCEPTED, Json(json!({ "accepted": true }))).into_response();
    }
    match going.await.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(Reply::Republished(receipts)) => {
            let all = receipts
                .receipts
                .iter()
                .all(|r| matches!(r.delivery, Delivery::Delivered { .. }));
            let delivered = all && receipts.held.is_empty();
            Json(json!({ "delivered": delivered, "receipts": receipts.receipts, "held": receipts.held })).into_response()
        }
        Ok(Reply::Failed(why)) => problem(StatusCode::INTERNAL_SERVER_ERROR, "failed", &why),
        Ok(_) => answered_otherwise(),
        Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &why),
    }
}

/// Records the request, and lets its tenants through if they are to go despite a pause.
async fn admit(
    api: &Api,
    caller: &Caller,
    tenants: &[TenantId],
    despite_pause: bool,
) -> Result<(), SourceError> {
    let parts = api.parts();
    let (source, by) = (&parts.source, &caller.actor);
    match despite_pause {
        true => source.except(tenants, by).await,
        false => source.audit(by, "republish", &audit::named(tenants)).await,
    }
}

/// In a task of its own, so that an exception from a pause ends also if the caller went away.
async fn go(
    api: Arc<Api>,
    tenants: Vec<TenantId>,
    regions: RegionFilter,
    despite_pause: bool,
) -> Result<Reply, String> {
    let ask = Ask::Republish {
        tenants: tenants.clone(),
        regions,
    };
    let reply = pass_on(&api, ask).await;
    if despite_pause {
        let ended = api.parts().source.end_exceptions(&tenants).await;
        ended.map_err(|e| e.to_string())?;
    }
    reply
}

/// Checks that kinds and regions are in the configuration.
///
/// # Errors
/// A line that names the first that is not, and what there is.
pub fn known(
    config: &Config,
    kinds: Option<&[Kind]>,
    regions: Option<&BTreeSet<Region>>,
) -> Result<(), String> {
    let all: Vec<&Kind> = config.contexts.iter().map(|c| &c.kind).collect();
    if let Some(kind) = kinds.into_iter().flatten().find(|k| !all.contains(k)) {
        let names: Vec<&str> = all.iter().map(|k| k.as_str()).collect();
        return Err(format!(
            "kind {kind} is not in the configuration; there are {}",
            names.join(", ")
        ));
    }
    let all: Vec<&Region> = config.spokes.iter().map(|s| &s.region).collect();
    if let Some(region) = regions.into_iter().flatten().find(|r| !all.contains(r)) {
        let names: Vec<&str> = all.iter().map(|r| r.as_str()).collect();
        return Err(format!(
            "region {region} is not in the configuration; there are {}",
            names.join(", ")
        ));
    }
    Ok(())
}

/// Asks the writer of this process, or the one that there is.
async fn pass_on(api: &Api, ask: Ask) -> Result<Reply, String> {
    let mut view = api.view.clone();
    if view.borrow().is_some() {
        tokio::select! {
            reply = api.orders.ask(ask.clone()) => if let Some(reply) = reply {
                return Ok(reply);
            },
            // What was not taken before the end of the term waits for the next one, which may never come.
            _ = view.wait_for(Option::is_none) => {}
        }
    }
    let (stage, _) = watch::channel(Stage::Connecting);
    delegate::ask_the_writer(&api.parts(), ask, &stage).await
}

async fn read_status(State(api): State<Arc<Api>>) -> Response {
    let view = api.view.borrow().clone();
    Json(status::collect(&api.parts(), &api.config(), view).await).into_response()
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    match tokio::time::timeout(
        std::time::Duration::from_secs(3),
        api.parts().source.definitions(),
    )
    .await
    {
        Ok(Ok(_)) => "ready\n".into_response(),
        Ok(Err(e)) => problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &e.to_string()),
        Err(_) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_ready",
            "the database does not answer within 3 s",
        ),
    }
}

async fn read_metrics(State(api): State<Arc<Api>>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    let view = api.view.borrow().clone();
    let text = crate::metrics::render(&api.metrics, view.as_ref());
    (kind, text).into_response()
}
