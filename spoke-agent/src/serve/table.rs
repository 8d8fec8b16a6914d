//! The read listener of an agent that has no store of its own: the same routes and the same answers, from a table through a
//! loading cache. Only `watch` is not here: a table tells nobody of its changes.
//!
//! It must never say that a key does not exist but from what the table says, like every other answer of this listener.

use super::answer::{self, Failure, Far, min_version};
use super::authorize::{self, First, Refused};
use super::gate::{self, Gate};
use super::status::{Ready, ready};
use super::{BODY_BYTES, batch, count, counts_of_gets, one, openapi, tenant};
use crate::config::authorize::Policy;
use crate::metrics as names;
use crate::reader::table::{Looked, TableReader};
use crate::reload::Policies;
use crate::store::index::Lookup;
use crate::store::live::RELEASE;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router, middleware};
use contexts::name::{Region, TenantId};
use contexts::version::Version;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use std::ops::Deref;
use std::sync::Arc;

/// How often both contexts of a decision are read until they are of one state.
const TRIES: u32 = 4;

/// What the listener needs.
pub struct TableParts {
    /// Who may read.
    pub gate: Gate,
    /// Who is let through.
    pub policies: Policies,
    /// The region.
    pub region: Region,
    /// What the table is called.
    pub table: String,
    /// The cache.
    pub reader: TableReader,
    /// The counts for `/metrics`.
    pub metrics: PrometheusHandle,
}

/// The listener. Cheap to clone.
#[derive(Clone)]
struct Serve(Arc<TableParts>);

impl Deref for Serve {
    type Target = TableParts;

    fn deref(&self) -> &TableParts {
        &self.0
    }
}

/// The routes of the read listener.
pub fn routes(parts: TableParts) -> Router {
    let gate = parts.gate.clone();
    let guarded = Router::new()
        .route("/v1/contexts/{kind}/{key}", get(get_one))
        .route("/v1/contexts/batch-get", post(batch_get))
        .route("/v1/tenants/{tenant}/contexts", get(contexts))
        .route("/v1/watch", get(watch))
        .route("/v1/status", get(status))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .route_layer(middleware::from_fn_with_state(gate.clone(), gate::check));
    // Whatever a gateway appends is the path of its client.
    let authorize = Router::new()
        .route("/v1/authorize", any(decide))
        .route("/v1/authorize/", any(decide))
        .route("/v1/authorize/{policy}", any(decide))
        .route("/v1/authorize/{policy}/", any(decide))
        .route("/v1/authorize/{policy}/{*path}", any(decide))
        .route_layer(middleware::from_fn_with_state(gate, gate::check_either));
    // So that the counts of gets are there before the first one.
    counts_of_gets();
    guarded
        .merge(authorize)
        .route("/v1/openapi.json", get(openapi::openapi))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(answer::no_such_route)
        .layer(middleware::from_fn(count))
        .with_state(Serve(Arc::new(parts)))
}

impl<T> Looked<T> {
    fn far(&self) -> Far {
        Far {
            position: self.position,
            age: self.age,
        }
    }
}

impl TableParts {
    /// How far the table is, as far as it said so.
    fn far(&self) -> Far {
        let standing = self.reader.standing();
        Far {
            position: standing.map_or_else(Version::default, |standing| standing.pulse.position),
            age: self.reader.age(),
        }
    }

    /// What could not be read: there is nothing yet, or the table does not answer.
    fn failure(&self, why: String) -> Failure {
        match self.reader.standing() {
            Some(_) => Failure::Unreachable(why),
            None => Failure::NotReady,
        }
    }

    fn is_ready(&self) -> bool {
        let standing = self.reader.standing();
        standing.is_some_and(|standing| standing.facts.last_synced.is_some())
    }
}

async fn get_one(State(my): State<Serve>, request: Request) -> Result<Response, Failure> {
    let headers = request.headers();
    let (kind, key) = one::names(request.uri().path())?;
    let least = min_version(headers)?;
    let looked = my.reader.look_up(&kind, &key, least).await;
    let looked = looked.map_err(|why| my.failure(why))?;
    let far = looked.far();
    one::told(looked.found, far, least, headers)
}

async fn batch_get(
    State(my): State<Serve>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let least = min_version(&headers)?;
    let asked = batch::asked(body)?;
    let keys: Vec<(&str, &str)> = asked.iter().map(|n| (&*n.kind, &*n.key)).collect();
    let looked = my.reader.look_up_many(&keys, least).await;
    let mut whole = my.far();
    let mut elements = Vec::with_capacity(asked.len());
    for (name, looked) in asked.iter().zip(looked) {
        let looked = looked.map_err(|why| my.failure(why))?;
        let far = looked.far();
        // The answer as a whole is as old as the oldest part of it.
        whole.position = whole.position.min(far.position);
        whole.age = whole.age.zip(far.age).map(|(a, b)| a.max(b));
        elements.push(batch::element(looked.found, name, far, least)?);
    }
    Ok(batch::answer(elements, whole))
}

async fn contexts(
    State(my): State<Serve>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let asked = tenant::Asked::of(path, query, &headers)?;
    let standing = my.reader.standing().ok_or(Failure::NotReady)?;
    let looked = match TenantId::new(&asked.tenant) {
        Ok(tenant) => my.reader.whole(&tenant).await,
        // Text that is no tenant is one that nobody has.
        Err(_) => Ok(Looked {
            found: None,
            position: standing.pulse.position,
            age: my.reader.age(),
        }),
    };
    let looked = looked.map_err(|error| my.failure(error.to_string()))?;
    if looked.found.is_none() {
        let is_complete = |kind: &String| standing.complete.iter().any(|k| k.as_str() == *kind);
        let all = || standing.complete.len() == standing.facts.synced_kinds.len();
        let knows = match asked.kinds.is_empty() {
            true => my.is_ready() && all(),
            false => asked.kinds.iter().all(is_complete),
        };
        if !knows {
            return Err(Failure::NotReady);
        }
    }
    let far = looked.far();
    tenant::answer(asked, looked.found, far)
}

async fn watch() -> Failure {
    Failure::NotHere(
        "a region on DynamoDB has no watch: read again what you need, it is at most ten seconds old"
            .into(),
    )
}

async fn decide(State(my): State<Serve>, uri: Uri, headers: HeaderMap) -> Response {
    let policies = my.policies.now();
    let policy = match authorize::policy(&policies, &uri) {
        Ok(policy) => policy,
        Err(refused) => return *refused,
    };
    let (decided, far) = match authorize::credential(policy, &headers) {
        Ok(key) => decided(&my, policy, &key).await,
        Err(refused) => (Err(refused), my.far()),
    };
    authorize::answer(policy, decided, far)
}

/// The headers of whoever has this key, or why there are none; and how far that is of which it was decided.
async fn decided(my: &Serve, policy: &Policy, key: &str) -> (Result<HeaderMap, Refused>, Far) {
    let mut far = my.far();
    let first = (policy.first.kind.as_str(), key);
    let mut asked = vec![first];
    let mut second = String::new();
    for _ in 0..TRIES {
        let mut found = Vec::with_capacity(2);
        for looked in my.reader.look_up_many(&asked, None).await {
            match looked {
                Ok(looked) => {
                    far = looked.far();
                    if let Err(refused) = authorize::check_age(policy, far) {
                        return (Err(refused), far);
                    }
                    found.push(looked.found);
                }
                Err(why) => return (Err(my.failure(why).into()), far),
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
    (Err(my.failure(why.into()).into()), far)
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

async fn status(State(my): State<Serve>) -> Response {
    let standing = my.reader.standing();
    let facts = standing.as_ref().map(|standing| &standing.facts);
    let pulse = standing.as_ref().map(|standing| &standing.pulse);
    let (cached, units) = (my.reader.cached(), my.reader.units());
    let age = my.reader.age();
    let every = my.reader.refresh_after();
    let body = json!({
        "region": my.region,
        "table": my.table,
        "store": facts.map(|facts| facts.store.to_string()),
        "release": RELEASE,
        "ready": my.is_ready(),
        "granted_epoch": facts.map(|facts| facts.granted.epoch),
        "released": facts.is_some_and(|facts| facts.released),
        "synced": facts.is_some_and(|facts| facts.last_synced.is_some()),
        "synced_kinds": facts.map(|facts| &facts.synced_kinds),
        "position": my.far().position.to_string(),
        "age_seconds": age.map(|age| age.as_secs_f64()),
        // Durable at T, in every cache by T and this.
        "in_caches_after_seconds": every.as_secs_f64(),
        "bundles": pulse.map(|pulse| pulse.bundles),
        "contexts": pulse.map(|pulse| pulse.contexts),
        "cache": {
            "contexts": cached.keys,
            "bytes": cached.bytes,
            "fills": cached.fills,
            "refreshes": cached.refreshes,
            "read_units": units.read,
        },
    });
    Json(body).into_response()
}

async fn readyz(
    State(my): State<Serve>,
    query: Result<Query<Ready>, QueryRejection>,
) -> Result<Response, Failure> {
    ready(query, my.is_ready(), my.far().age)
}

async fn metrics(State(my): State<Serve>) -> Response {
    let (cached, units) = (my.reader.cached(), my.reader.units());
    names::set_process();
    if let Some(standing) = my.reader.standing() {
        metrics::gauge!(names::CONTEXTS).set(standing.pulse.contexts as f64);
        metrics::gauge!(names::BUNDLES).set(standing.pulse.bundles as f64);
    }
    metrics::gauge!(names::READY).set(f64::from(u8::from(my.is_ready())));
    if let Some(age) = my.far().age {
        metrics::gauge!(names::AGE).set(age.as_secs_f64());
    }
    metrics::gauge!(names::CACHED).set(cached.keys as f64);
    metrics::gauge!(names::CACHE_BYTES).set(cached.bytes as f64);
    metrics::counter!(names::TABLE_READS, "reason" => "fill").absolute(cached.fills);
    metrics::counter!(names::TABLE_READS, "reason" => "refresh").absolute(cached.refreshes);
    metrics::counter!(names::READ_UNITS).absolute(units.read as u64);
    my.metrics.run_upkeep();
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (text, my.metrics.render()).into_response()
}
