//! What the agent says of itself: to people, to orchestrators, to Prometheus.

use super::Serve;
use super::answer::{Failure, Far};
use crate::metrics as names;
use crate::store::live::RELEASE;
use crate::store::view::Views;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics::gauge;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// `GET /v1/status`.
pub async fn status(State(my): State<Serve>) -> Response {
    let live = my.live.borrow().clone();
    let now = my.clock.reading();
    let since =
        |then: contexts::push::Reading| (now.micros.saturating_sub(then.micros)) as f64 / 1e6;
    let body = json!({
        "region": live.region,
        "store": live.store.to_string(),
        "incarnation": live.incarnation.to_string(),
        "release": RELEASE,
        "ready": live.is_ready(),
        "granted_epoch": live.granted.map(|granted| granted.epoch),
        "released": live.released,
        "synced": live.last_synced.is_some(),
        "synced_kinds": live.synced_kinds,
        "position": live.position.to_string(),
        "age_seconds": live.age(now),
        "beat": live.beat,
        "last_push_seconds": live.last_push.map(since),
        "bundles": live.bundles,
        "contexts": live.contexts,
        "root": live.root.map(|root| root.to_string()),
        "memory": memory(&my.views),
        "file_bytes": my.views.db().file_bytes(),
    });
    Json(body).into_response()
}

/// From where reads are answered: all of it from memory, a part, or (while the memory is filled, or without any) none.
fn memory(views: &Views) -> serde_json::Value {
    let index = views.memory();
    let serves = match &index {
        Some(index) if index.is_whole() => "memory",
        Some(_) => "memory_and_file",
        None => "file",
    };
    json!({
        "reads": serves,
        "checked": views.is_checked(),
        "contexts": index.as_ref().map_or(0, |index| index.len()),
        "bytes": index.as_ref().map_or(0, |index| index.bytes()),
    })
}

/// `GET /healthz`: the process works. Not whether it has anything to answer, which a restart would not mend.
pub async fn healthz(State(my): State<Serve>) -> Response {
    match my.writer.is_closed() {
        false => "ok\n".into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, "the writer has stopped\n").into_response(),
    }
}

/// The query of `/readyz`.
#[derive(Deserialize)]
pub struct Ready {
    max_age: Option<f64>,
}

/// `GET /readyz?max_age=SECONDS`: it was in step once, and, if asked, what it has is younger than that.
pub async fn readyz(
    State(my): State<Serve>,
    query: Result<Query<Ready>, QueryRejection>,
) -> Result<Response, Failure> {
    let live = my.live.borrow().clone();
    let age = Far::of(&live, my.clock.reading()).age;
    ready(query, live.is_ready(), age)
}

/// The answer to `/readyz`.
///
/// # Errors
/// [`Failure::BadRequest`] if the query cannot be understood.
pub fn ready(
    query: Result<Query<Ready>, QueryRejection>,
    is_ready: bool,
    age: Option<Duration>,
) -> Result<Response, Failure> {
    let bad = || Failure::BadRequest("max_age must be a number of seconds".into());
    let Query(Ready { max_age }) = query.map_err(|_| bad())?;
    if max_age.is_some_and(|most| !most.is_finite() || most < 0.0) {
        return Err(bad());
    }
    let age = age.map(|age| age.as_secs_f64());
    let is_young = match (max_age, age) {
        (None, _) => true,
        (Some(most), Some(age)) => age < most,
        (Some(_), None) => false,
    };
    let is_ready = is_ready && is_young;
    let status = match is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = Json(json!({ "ready": is_ready, "age_seconds": age }));
    Ok((status, body).into_response())
}

/// `GET /metrics`.
pub async fn metrics(State(my): State<Serve>) -> Response {
    let live = my.live.borrow().clone();
    let bit = |is: bool| f64::from(u8::from(is));
    names::set_system(my.views.db().file());
    gauge!(names::CONTEXTS).set(live.contexts as f64);
    gauge!(names::BUNDLES).set(live.bundles as f64);
    gauge!(names::FILE_BYTES).set(my.views.db().file_bytes() as f64);
    gauge!(names::READY).set(bit(live.is_ready()));
    gauge!(names::CHECKED).set(bit(my.views.is_checked()));
    gauge!(names::WATCHERS).set(my.watches.count() as f64);
    gauge!(names::POSITION_EPOCH).set(live.position.epoch as f64);
    if let Some(granted) = live.granted {
        gauge!(names::GRANTED_EPOCH).set(granted.epoch as f64);
    }
    if let Some(age) = live.age(my.clock.reading()) {
        gauge!(names::AGE).set(age);
    }
    let index = my.views.memory();
    let bytes = index.as_ref().map_or(0, |index| index.bytes());
    gauge!(names::MEMORY_BYTES).set(bytes as f64);
    gauge!(names::MEMORY_WHOLE).set(bit(index.is_some_and(|index| index.is_whole())));
    my.metrics.run_upkeep();
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (text, my.metrics.render()).into_response()
}
