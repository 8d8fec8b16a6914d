//! `POST /v1/contexts/batch-get`: many contexts from one snapshot, in the order in which they were asked for.

use super::Serve;
use super::answer::{Failure, NO_STORE, min_version, stamp};
use super::element::Element;
use crate::clock::wall_micros;
use crate::store::index::Lookup;
use crate::store::view::View;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use contexts::limits;
use contexts::version::Version;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Asked {
    keys: Vec<Name>,
}

#[derive(Deserialize)]
struct Name {
    kind: String,
    key: String,
}

#[derive(Serialize)]
struct Answered {
    contexts: Vec<Option<Element>>,
}

/// Answers many contexts.
pub async fn batch_get(
    State(my): State<Serve>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let least = min_version(&headers)?;
    let body = body.map_err(|error| Failure::BadRequest(error.body_text()))?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
        let example = r#"{"keys":[{"kind":"cluster","key":"c1"}]}"#;
        Failure::BadRequest(format!("the body must look like {example}: {error}"))
    })?;
    if asked.keys.len() > limits::BATCH_GET_KEYS {
        let (count, most) = (asked.keys.len(), limits::BATCH_GET_KEYS);
        let why = format!("{count} keys in one batch-get, {most} are allowed");
        return Err(Failure::BadRequest(why));
    }
    // What was published is taken before the view, so that the view has at least that.
    let live = my.live.borrow().clone();
    let (views, position) = (my.views.clone(), live.position);
    let reading = tokio::task::spawn_blocking(move || {
        let view = views.take()?;
        elements(&view, asked.keys, least, position)
    });
    let contexts = reading.await.map_err(|_| Failure::NotReady)??;
    let mut response = ([(CACHE_CONTROL, NO_STORE)], Json(Answered { contexts })).into_response();
    stamp(
        response.headers_mut(),
        live.position,
        &live,
        my.clock.reading(),
    );
    Ok(response)
}

fn elements(
    view: &View,
    keys: Vec<Name>,
    least: Option<Version>,
    position: Version,
) -> Result<Vec<Option<Element>>, Failure> {
    let is_behind = |here| least.is_some_and(|least| least > here);
    let now = wall_micros();
    let mut elements = Vec::with_capacity(keys.len());
    for Name { kind, key } in keys {
        let element = match view.look_up(&kind, &key)? {
            Lookup::NotReady => return Err(Failure::NotReady),
            Lookup::Absent if is_behind(position) => return Err(Failure::Behind),
            Lookup::Absent => None,
            Lookup::Held => Some(Element::held(&kind, &key)),
            Lookup::Found(_, versions) if is_behind(versions.bundle.max(position)) => {
                return Err(Failure::Behind);
            }
            Lookup::Found(known, _) if known.is_expired(now) => None,
            Lookup::Found(known, versions) => Some(Element::value(&known, versions.value)?),
        };
        elements.push(element);
    }
    Ok(elements)
}
