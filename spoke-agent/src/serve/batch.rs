//! `POST /v1/contexts/batch-get`: many contexts from one snapshot, in the order in which they were asked for.

use super::Serve;
use super::answer::{Failure, Far, NO_STORE, min_version, stamp};
use super::element::Element;
use crate::clock::wall_micros;
use crate::store::index::Lookup;
use crate::store::view::Views;
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

/// A key that is asked for.
#[derive(Deserialize)]
pub struct Name {
    /// Its kind.
    pub kind: String,
    /// The key.
    pub key: String,
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
    let keys = asked(body)?;
    // What was published is taken before the view, so that the view has at least that.
    let live = my.live.borrow().clone();
    let (views, far) = (my.views.clone(), Far::of(&live, my.clock.reading()));
    let reading = tokio::task::spawn_blocking(move || elements(&views, keys, far, least));
    let contexts = reading.await.map_err(|_| Failure::NotReady)??;
    Ok(answer(contexts, Far::of(&live, my.clock.reading())))
}

fn elements(
    views: &Views,
    keys: Vec<Name>,
    far: Far,
    least: Option<Version>,
) -> Result<Vec<Option<Element>>, Failure> {
    let view = views.take()?;
    let one = |name: Name| element(view.look_up(&name.kind, &name.key)?, &name, far, least);
    keys.into_iter().map(one).collect()
}

/// The keys that a body asks for.
///
/// # Errors
/// [`Failure::BadRequest`] if there are too many, or none can be read.
pub fn asked(body: Result<Bytes, BytesRejection>) -> Result<Vec<Name>, Failure> {
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
    Ok(asked.keys)
}

/// The whole answer.
pub fn answer(contexts: Vec<Option<Element>>, far: Far) -> Response {
    let mut response = ([(CACHE_CONTROL, NO_STORE)], Json(Answered { contexts })).into_response();
    stamp(response.headers_mut(), far.position, far);
    response
}

/// What was found of one key.
///
/// # Errors
/// Why the whole batch has no answer.
pub fn element(
    found: Lookup,
    name: &Name,
    far: Far,
    least: Option<Version>,
) -> Result<Option<Element>, Failure> {
    Ok(match found {
        Lookup::NotReady => return Err(Failure::NotReady),
        Lookup::Absent if far.is_behind(least) => return Err(Failure::Behind),
        Lookup::Absent => None,
        Lookup::Held => Some(Element::held(&name.kind, &name.key)),
        Lookup::Found(_, versions) if far.is_behind(least) && least > Some(versions.bundle) => {
            return Err(Failure::Behind);
        }
        Lookup::Found(known, _) if known.is_expired(wall_micros) => None,
        Lookup::Found(known, versions) => Some(Element::value(&known, versions.value)?),
    })
}
