//! The read listener: what gateways call, over TCP and over a Unix socket with the same routes.
//!
//! | module | is about |
//! | --- | --- |
//! | `answer` | error bodies and the headers that every answer has |
//! | `gate` | who may read |
//! | `direct` | gets past the routes |
//! | `one` | `GET /v1/contexts/{kind}/{key}` |
//! | `batch` | `POST /v1/contexts/batch-get` |
//! | `element` | a context as batch-get and tenant answers have it |
//! | `tenant` | `GET /v1/tenants/{tenant}/contexts` |
//! | `authorize` | `/v1/authorize/{policy}`, for nginx and Envoy |
//! | `watch` | `GET /v1/watch` |
//! | `openapi` | `GET /v1/openapi.json` |
//! | `source` | the same routes of what has no store of its own, from a `Source` |
//! | `table`, `mirrored` | the sources: a table; a mirror of another agent |
//! | `status` | `/v1/status`, `/healthz`, `/readyz`, `/metrics` |
//!
//! An answer must never say "no such key" but from the store's own knowledge: everything that goes wrong here is a 4xx
//! that is not 404, or a 5xx. A request changes nothing and calls nobody.

mod answer;
mod authorize;
mod batch;
mod direct;
mod element;
pub mod gate;
pub mod mirrored;
mod one;
pub mod openapi;
pub mod source;
mod status;
#[cfg(feature = "dynamodb")]
pub mod table;
mod tenant;
pub mod watch;

use crate::clock::Clock;
use crate::metrics as names;
use crate::reload::Policies;
use crate::store::live::Live;
use crate::store::redb::writer::WriterHandle;
use crate::store::view::Views;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, any, get, post};
use direct::Reads;
use gate::Gate;
use metrics_exporter_prometheus::PrometheusHandle;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::watch as channel;
use watch::Watches;

/// Largest batch-get, in bytes: the most keys at their longest.
const BODY_BYTES: usize = 32 << 20;

/// The read listener. Cheap to clone, which happens several times for each request.
#[derive(Clone)]
pub struct Serve(Arc<Parts>);

impl Deref for Serve {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What the read listener needs.
pub struct Parts {
    /// Who may read.
    pub gate: Gate,
    /// Who is let through.
    pub policies: Policies,
    /// The store.
    pub views: Views,
    /// Those who watch.
    pub watches: Watches,
    /// What the writer published last.
    pub live: channel::Receiver<Arc<Live>>,
    /// Whether the writer runs.
    pub writer: WriterHandle,
    /// The clock.
    pub clock: Clock,
    /// How often which status was answered to gets.
    pub gets: names::StatusCounts,
    /// The counts for `/metrics`.
    pub metrics: PrometheusHandle,
}

/// Which token a route asks for, where one is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// None.
    Nothing,
    /// That of the gateways.
    Token,
    /// The same, also beside `Authorization`, which may carry what is to be decided on.
    TokenBeside,
    /// That of the gateways, and the route looks and counts by itself: it is what gateways ask on every request, and has
    /// no layer.
    TokenItself,
}

/// A route of the read listener.
pub struct Route {
    /// Its method, in small letters.
    pub method: &'static str,
    /// Its path, with the names of its parts in braces.
    pub path: &'static str,
    /// The token that it asks for.
    pub asks: Asks,
    answer: fn() -> MethodRouter<Serve>,
}

const fn route_of(
    method: &'static str,
    path: &'static str,
    asks: Asks,
    answer: fn() -> MethodRouter<Serve>,
) -> Route {
    Route {
        method,
        path,
        asks,
        answer,
    }
}

/// All routes of the read listener. Each is described in `openapi.json`.
pub const ROUTES: &[Route] = &[
    route_of(
        "get",
        "/v1/contexts/{kind}/{key}",
        Asks::TokenItself,
        || get(one::get_one),
    ),
    route_of("post", "/v1/contexts/batch-get", Asks::Token, || {
        post(batch::batch_get)
    }),
    route_of("get", "/v1/tenants/{tenant}/contexts", Asks::Token, || {
        get(tenant::contexts)
    }),
    route_of("get", "/v1/watch", Asks::Token, || get(watch::watch)),
    // With any method, as gateways like it.
    route_of("get", "/v1/authorize/{policy}", Asks::TokenBeside, || {
        any(authorize::authorize)
    }),
    route_of("get", "/v1/status", Asks::Token, || get(status::status)),
    route_of("get", "/v1/openapi.json", Asks::Nothing, || {
        get(openapi::openapi)
    }),
    route_of("get", "/healthz", Asks::Nothing, || get(status::healthz)),
    route_of("get", "/readyz", Asks::Nothing, || get(status::readyz)),
    route_of("get", "/metrics", Asks::Nothing, || get(status::metrics)),
];

/// The routes of the read listener.
pub fn routes(parts: Parts) -> Reads {
    let gate = parts.gate.clone();
    let serve = Serve(Arc::new(parts));
    let with = |asks: Asks, router: Router<Serve>| {
        let routes = ROUTES.iter().filter(|route| route.asks == asks);
        routes.fold(router, |router, route| {
            router.route(route.path, (route.answer)())
        })
    };
    let guarded = with(Asks::Token, Router::new())
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .route_layer(middleware::from_fn_with_state(gate.clone(), gate::check));
    // Whatever a gateway appends is the path of its client.
    let authorize = with(Asks::TokenBeside, Router::new())
        .route("/v1/authorize", any(authorize::authorize))
        .route("/v1/authorize/", any(authorize::authorize))
        .route("/v1/authorize/{policy}/", any(authorize::authorize))
        .route("/v1/authorize/{policy}/{*path}", any(authorize::authorize))
        .route_layer(middleware::from_fn_with_state(gate, gate::check_either));
    let counted = with(Asks::Nothing, guarded.merge(authorize))
        .fallback(answer::no_such_route)
        .layer(middleware::from_fn(count));
    let routes = with(Asks::TokenItself, counted).with_state(serve.clone());
    Reads::new(serve, routes)
}

/// Counts of gets, of what they can answer.
pub fn counts_of_gets() -> names::StatusCounts {
    let statuses = [200, 304, 400, 401, 404, 412, 503];
    let statuses = statuses.map(|code| StatusCode::from_u16(code).unwrap_or_default());
    names::StatusCounts::of(GET, &statuses)
}

async fn count(request: Request, next: Next) -> Response {
    let route = route(request.uri().path());
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    metrics::counter!(names::REQUESTS, "route" => route, "status" => status).increment(1);
    response
}

/// The label of gets.
pub const GET: &str = "get";

/// The label of a path: few, whatever paths are asked for.
fn route(path: &str) -> &'static str {
    match path {
        "/v1/contexts/batch-get" => "batch_get",
        path if path.starts_with("/v1/contexts/") => GET,
        "/v1/authorize" => "authorize",
        path if path.starts_with("/v1/authorize/") => "authorize",
        "/v1/watch" => "watch",
        path if path.starts_with("/v1/tenants/") => "tenant",
        "/v1/status" => "status",
        "/v1/openapi.json" => "openapi",
        "/healthz" => "healthz",
        "/readyz" => "readyz",
        "/metrics" => "metrics",
        _ => "none",
    }
}
