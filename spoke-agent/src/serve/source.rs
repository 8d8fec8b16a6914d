//! The read listener of whatever has no store of its own: the same routes and the same answers, from a [`Source`]. What a
//! source cannot do is 501, with the reason.
//!
//! It must never say that a key does not exist but from what the source says, like every other answer of this listener.

use super::answer::{self, Failure, Far, min_version};
use super::authorize::{self, First, Refused};
use super::gate::{self, Gate};
use super::status::{Ready, ready};
use super::tenant::Asked;
use super::{BODY_BYTES, batch, count, counts_of_gets, one, openapi};
use crate::config::authorize::Policy;
use crate::metrics as names;
use crate::reload::Policies;
use crate::store::index::Lookup;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router, middleware};
use contexts::version::Version;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::Value;
use std::future::Future;
use std::sync::Arc;

/// How often both contexts of a decision are read until they are of one state.
const TRIES: u32 = 4;

/// What was found, and how far that is in which it was found.
pub struct Seen<T> {
    /// What was found.
    pub found: T,
    /// How far that is.
    pub far: Far,
}

/// Where answers come from.
pub trait Source: Send + Sync + 'static {
    /// Why it has no watch, and what to do instead.
    const NO_WATCH: &'static str;

    /// How far it is.
    fn far(&self) -> Far;

    /// Whether it was in step once.
    fn is_ready(&self) -> bool;

    /// What is known of many keys, in their order, if possible from what has this version; or why nothing can be said.
    fn look_up_many(
        &self,
        keys: &[(&str, &str)],
        least: Option<Version>,
    ) -> impl Future<Output = Vec<Result<Seen<Lookup>, Failure>>> + Send;

    /// The same of one key.
    fn look_up(
        &self,
        kind: &str,
        key: &str,
        least: Option<Version>,
    ) -> impl Future<Output = Result<Seen<Lookup>, Failure>> + Send {
        async move {
            let mut all = self.look_up_many(&[(kind, key)], least).await;
            all.pop().unwrap_or(Err(Failure::NotReady))
        }
    }

    /// The answer to who asks for all contexts of a tenant.
    fn contexts(&self, asked: Asked) -> impl Future<Output = Result<Response, Failure>> + Send;

    /// What it says of itself.
    fn status(&self) -> Value;

    /// Sets the metrics that only it has.
    fn set_metrics(&self);
}

/// What the listener needs.
pub struct SourceParts<S> {
    /// Who may read.
    pub gate: Gate,
    /// Who is let through.
    pub policies: Policies,
    /// Where answers come from.
    pub source: S,
    /// The counts for `/metrics`.
    pub metrics: PrometheusHandle,
}

type Serve<S> = State<Arc<SourceParts<S>>>;

/// The routes of the read listener.
pub fn routes<S: Source>(parts: SourceParts<S>) -> Router {
    let gate = parts.gate.clone();
    let guarded = Router::new()
        .route("/v1/contexts/{kind}/{key}", get(get_one::<S>))
        .route("/v1/contexts/batch-get", post(batch_get::<S>))
        .route("/v1/tenants/{tenant}/contexts", get(contexts::<S>))
        .route("/v1/watch", get(watch::<S>))
        .route("/v1/status", get(status::<S>))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .route_layer(middleware::from_fn_with_state(gate.clone(), gate::check));
    // Whatever a gateway appends is the path of its client.
    let authorize = Router::new()
        .route("/v1/authorize", any(decide::<S>))
        .route("/v1/authorize/", any(decide::<S>))
        .route("/v1/authorize/{policy}", any(decide::<S>))
        .route("/v1/authorize/{policy}/", any(decide::<S>))
        .route("/v1/authorize/{policy}/{*path}", any(decide::<S>))
        .route_layer(middleware::from_fn_with_state(gate, gate::check_either));
    // So that the counts of gets are there before the first one.
    counts_of_gets();
    guarded
        .merge(authorize)
        .route("/v1/openapi.json", get(openapi::openapi))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics::<S>))
        .fallback(answer::no_such_route)
        .layer(middleware::from_fn(count))
        .with_state(Arc::new(parts))
}

async fn get_one<S: Source>(State(my): Serve<S>, request: Request) -> Result<Response, Failure> {
    let headers = request.headers();
    let (kind, key) = one::names(request.uri().path())?;
    let least = min_version(headers)?;
    let seen = my.source.look_up(&kind, &key, least).await?;
    Ok(one::told(seen.found, seen.far, least, headers)?.map(Body::new))
}

async fn batch_get<S: Source>(
    State(my): Serve<S>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let least = min_version(&headers)?;
    let asked = batch::asked(body)?;
    let keys: Vec<(&str, &str)> = asked.iter().map(|n| (&*n.kind, &*n.key)).collect();
    let seen = my.source.look_up_many(&keys, least).await;
    let mut whole = my.source.far();
    let mut elements = Vec::with_capacity(asked.len());
    for (name, seen) in asked.iter().zip(seen) {
        let Seen { found, far } = seen?;
        // The answer as a whole is as old as the oldest part of it.
        whole.position = whole.position.min(far.position);
        whole.age = whole.age.zip(far.age).map(|(a, b)| a.max(b));
        elements.push(batch::element(found, name, far, least)?);
    }
    Ok(batch::answer(elements, whole))
}

async fn contexts<S: Source>(
    State(my): Serve<S>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let asked = Asked::of(path, query, &headers)?;
    my.source.contexts(asked).await
}

async fn watch<S: Source>() -> Failure {
    Failure::NotHere(S::NO_WATCH.into())
}

async fn decide<S: Source>(State(my): Serve<S>, uri: Uri, headers: HeaderMap) -> Response {
    let policies = my.policies.now();
    let policy = match authorize::policy(&policies, &uri) {
        Ok(policy) => policy,
        Err(refused) => return *refused,
    };
    let (decided, far) = match authorize::credential(policy, &headers) {
        Ok(key) => decided(&my.source, policy, &key).await,
        Err(refused) => (Err(refused), my.source.far()),
    };
    authorize::answer(policy, decided, far)
}

/// The headers of whoever has this key, or why there are none; and how far that is of which it was decided.
async fn decided<S: Source>(
    source: &S,
    policy: &Policy,
    key: &str,
) -> (Result<HeaderMap, Refused>, Far) {
    let mut far = source.far();
    let first = (policy.first.kind.as_str(), key);
    let mut asked = vec![first];
    let mut second = String::new();
    for _ in 0..TRIES {
        let mut found = Vec::with_capacity(2);
        for seen in source.look_up_many(&asked, None).await {
            match seen {
                Ok(seen) => {
                    far = seen.far;
                    if let Err(refused) = authorize::check_age(policy, far) {
                        return (Err(refused), far);
                    }
                    found.push(seen.found);
                }
                Err(failure) => return (Err(failure.into()), far),
            }
        }
        match of_both(policy, found, &second) {
            Ok(Decided::Told(told)) => return (Ok(told), far),
            Ok(Decided::Asks(key)) => second = key,
            Err(refused) => return (Err(refused), far),
        }
        let then = policy.then.as_ref();
        asked = vec![first];
        asked.extend(then.map(|then| (then.part.kind.as_str(), second.as_str())));
    }
    let why = "what the credential refers to changed each time that it was read";
    (Err(Failure::Unreachable(why.into()).into()), far)
}

enum Decided {
    Told(HeaderMap),
    /// The second context must be read, or another one than was.
    Asks(String),
}

/// What follows from the first context, and from the second one if it is the one that the first one names.
fn of_both(policy: &Policy, found: Vec<Lookup>, second: &str) -> Result<Decided, Refused> {
    let mut found = found.into_iter();
    let first = found.next().unwrap_or(Lookup::NotReady);
    let mut first = First::of(policy, first)?;
    if let Some(then) = &policy.then {
        let key = first.second(then)?;
        match found.next() {
            Some(found) if key == second => first.then(then, found)?,
            _ => return Ok(Decided::Asks(key)),
        }
    }
    Ok(Decided::Told(first.told(policy)))
}

async fn status<S: Source>(State(my): Serve<S>) -> Json<Value> {
    Json(my.source.status())
}

async fn readyz<S: Source>(
    State(my): Serve<S>,
    query: Result<Query<Ready>, QueryRejection>,
) -> Result<Response, Failure> {
    ready(query, my.source.is_ready(), my.source.far().age)
}

async fn metrics<S: Source>(State(my): Serve<S>) -> Response {
    names::set_process();
    metrics::gauge!(names::READY).set(f64::from(u8::from(my.source.is_ready())));
    if let Some(age) = my.source.far().age {
        metrics::gauge!(names::AGE).set(age.as_secs_f64());
    }
    my.source.set_metrics();
    my.metrics.run_upkeep();
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (text, my.metrics.render()).into_response()
}
