//! `GET /v1/contexts/{kind}/{key}`: the value as it is, or why not.

use super::Serve;
use super::answer::{ASK_FIRST, Failure, TENANT, min_version, percent_encoded, put, stamp};
use crate::clock::wall_micros;
use crate::store::index::Lookup;
use crate::store::index::known::Known;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// Answers one context.
pub async fn get_one(State(my): State<Serve>, request: Request) -> Response {
    let answered = match my.admits(request.headers()) {
        true => answer(&my, request.uri().path(), request.headers()),
        false => Err(Failure::Token),
    };
    let response = answered.into_response();
    my.gets.count(response.status());
    response
}

/// Kind and key of a path that the router has matched.
fn names(path: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (kind, key) = path.strip_prefix("/v1/contexts/")?.split_once('/')?;
    let decoded = |text| percent_decode_str(text).decode_utf8().ok();
    Some((decoded(kind)?, decoded(key)?))
}

fn answer(my: &Serve, path: &str, headers: &HeaderMap) -> Result<Response, Failure> {
    let bad = || Failure::BadRequest("kind and key must be percent-encoded UTF-8".into());
    let (kind, key) = names(path).ok_or_else(bad)?;
    let least = min_version(headers)?;
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
            let mut response = value(&known, headers);
            stamp(response.headers_mut(), versions.value, &live, now);
            return Ok(response);
        }
    };
    stamp(response.headers_mut(), live.position, &live, now);
    Ok(response)
}

/// The digest as a strong entity tag.
fn etag(known: &Known) -> [u8; 34] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut tag = [b'"'; 34];
    for (at, byte) in known.digest().0.into_iter().enumerate() {
        tag[1 + 2 * at] = HEX[usize::from(byte >> 4)];
        tag[2 + 2 * at] = HEX[usize::from(byte & 15)];
    }
    tag
}

fn value(known: &Known, request: &HeaderMap) -> Response {
    let etag = etag(known);
    let mut response = match is_known(request, &etag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => {
            let mut response = Response::new(Body::from(known.bytes().to_vec()));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
    };
    let headers = response.headers_mut();
    headers.reserve(7);
    headers.insert(CACHE_CONTROL, ASK_FIRST);
    // It is made of quotes and hexadecimal digits.
    if let Ok(etag) = HeaderValue::from_bytes(&etag) {
        headers.insert(ETAG, etag);
    }
    put(headers, TENANT, &percent_encoded(known.tenant()));
    response
}

/// Whether `If-None-Match` (a list, or `*`) names what is here. Weak tags compare like strong ones.
fn is_known(request: &HeaderMap, etag: &[u8]) -> bool {
    request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag)
}
