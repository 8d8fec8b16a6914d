//! `GET /v1/contexts/{kind}/{key}`: the value as it is, or why not.

use super::Serve;
use super::answer::{ASK_FIRST, Failure, TENANT, min_version, percent_encoded, put, stamp};
use crate::clock::wall_micros;
use crate::store::index::Lookup;
use crate::store::index::known::Known;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// Answers one context.
pub async fn get_one(
    State(my): State<Serve>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Path((kind, key)) =
        path.map_err(|_| Failure::BadRequest("kind and key must be percent-encoded UTF-8".into()))?;
    let least = min_version(&headers)?;
    // What was published is taken before the view, so that the view has at least that.
    let live = my.live.borrow().clone();
    let found = my.views.take()?.look_up(&kind, &key)?;
    let is_behind = |here| least.is_some_and(|least| least > here);
    let now = my.clock.reading();
    let mut response = match found {
        Lookup::NotReady => return Err(Failure::NotReady),
        Lookup::Held => return Err(Failure::Held),
        Lookup::Absent if is_behind(live.position) => return Err(Failure::Behind),
        Lookup::Absent => Failure::NotFound.into_response(),
        Lookup::Found(_, versions) if is_behind(versions.bundle.max(live.position)) => {
            return Err(Failure::Behind);
        }
        Lookup::Found(known, _) if known.is_expired(wall_micros()) => {
            Failure::Expired.into_response()
        }
        Lookup::Found(known, versions) => {
            let mut response = value(&known, &headers);
            stamp(response.headers_mut(), versions.value, &live, now);
            return Ok(response);
        }
    };
    stamp(response.headers_mut(), live.position, &live, now);
    Ok(response)
}

fn value(known: &Known, request: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", known.digest());
    let mut response = match is_known(request, &etag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => {
            let mut response = known.bytes().to_vec().into_response();
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, ASK_FIRST);
    put(headers, ETAG, &etag);
    put(headers, TENANT, &percent_encoded(known.tenant()));
    response
}

/// Whether `If-None-Match` (a list, or `*`) names what is here. Weak tags compare like strong ones.
fn is_known(request: &HeaderMap, etag: &str) -> bool {
    request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
