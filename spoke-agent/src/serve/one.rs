//! `GET /v1/contexts/{kind}/{key}`: the value as it is, or why not.

use super::Serve;
use super::answer::{
    AGE, ASK_FIRST, Failure, Far, POSITION, TENANT, VERSION, min_version, percent_encoded, put,
    stamp, write_seconds, write_version,
};
use crate::clock::wall_micros;
use crate::store::index::Lookup;
use crate::store::index::known::Known;
use axum::body::{Body, Bytes};
use axum::extract::{self, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use contexts::version::Version;
use http_body_util::{Either, Full};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::time::Duration;

/// An answer of which a value is the whole body, as it lies in memory.
pub type Answer = Response<Either<Full<Bytes>, Body>>;

/// Any other answer.
pub fn routed(response: Response) -> Answer {
    response.map(Either::Right)
}

/// Answers one context.
pub async fn get_one(State(my): State<Serve>, request: extract::Request) -> Response {
    answer_get(&my, &request).map(Body::new)
}

/// Answers a request for one context.
pub fn answer_get<B>(my: &Serve, request: &Request<B>) -> Answer {
    let answered = match my.gate.admits(request.headers()) {
        true => answer(my, request.uri().path(), request.headers()),
        false => Err(Failure::Token),
    };
    let answer = answered.unwrap_or_else(|failure| routed(failure.into_response()));
    my.gets.count(answer.status());
    answer
}

/// Kind and key of a path that the router has matched.
///
/// # Errors
/// [`Failure::BadRequest`] if they are no text.
pub fn names(path: &str) -> Result<(Cow<'_, str>, Cow<'_, str>), Failure> {
    let names = path
        .strip_prefix("/v1/contexts/")
        .and_then(|names| names.split_once('/'))
        .and_then(|(kind, key)| Some((decoded(kind)?, decoded(key)?)));
    names.ok_or_else(|| Failure::BadRequest("kind and key must be percent-encoded UTF-8".into()))
}

fn decoded(text: &str) -> Option<Cow<'_, str>> {
    match text.contains('%') {
        true => percent_decode_str(text).decode_utf8().ok(),
        false => Some(text.into()),
    }
}

fn answer(my: &Serve, path: &str, headers: &HeaderMap) -> Result<Answer, Failure> {
    let (kind, key) = names(path)?;
    let least = min_version(headers)?;
    // What was published is taken before the view, so that the view has at least that.
    let far = Far::reached(my.views.reach(), my.clock.reading());
    let found = my.views.look_up(&kind, &key)?;
    told(found, far, least, headers)
}

/// The answer to what was found.
///
/// # Errors
/// Why there is none.
pub fn told(
    found: Lookup,
    far: Far,
    least: Option<Version>,
    headers: &HeaderMap,
) -> Result<Answer, Failure> {
    let mut response = match found {
        Lookup::NotReady => return Err(Failure::NotReady),
        Lookup::Held => return Err(Failure::Held),
        Lookup::Absent if far.is_behind(least) => return Err(Failure::Behind),
        Lookup::Absent => Failure::NotFound.into_response(),
        Lookup::Found(_, versions) if far.is_behind(least) && least > Some(versions.bundle) => {
            return Err(Failure::Behind);
        }
        Lookup::Found(known, _) if known.is_expired(wall_micros) => {
            Failure::Expired.into_response()
        }
        Lookup::Found(known, versions) => {
            let position = least.is_some().then_some(far.position);
            return Ok(value(&known, versions.value, far.age, position, headers));
        }
    };
    stamp(response.headers_mut(), far.position, far);
    Ok(routed(response))
}

/// The texts of an answer, in one piece of memory that has them all: what is answered on every request is not made of a
/// dozen.
struct Texts<const N: usize> {
    bytes: Vec<u8>,
    ends: [usize; N],
    count: usize,
}

impl<const N: usize> Texts<N> {
    /// None yet, with room for so many bytes.
    fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ends: [0; N],
            count: 0,
        }
    }

    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends[self.count] = self.bytes.len();
        self.count += 1;
    }

    /// The texts, in their order.
    fn split(self) -> impl Iterator<Item = Bytes> {
        let all = Bytes::from(self.bytes);
        let mut begin = 0;
        self.ends.into_iter().take(self.count).map(move |end| {
            let text = all.slice(begin..end);
            begin = end;
            text
        })
    }
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

/// The answer with a value; with how far the store is for who asked for that.
fn value(
    known: &Known,
    version: Version,
    age: Option<Duration>,
    position: Option<Version>,
    request: &HeaderMap,
) -> Answer {
    let etag = etag(known);
    let is_known = is_known(request, &etag);
    let mut texts = Texts::<5>::with_capacity(160 + known.bytes().len());
    texts.add(|to| to.extend(etag));
    texts.add(|to| to.extend(percent_encoded(known.tenant()).as_bytes()));
    texts.add(|to| write_version(to, version));
    texts.add(|to| {
        if let Some(age) = age {
            write_seconds(to, age);
        }
    });
    if !is_known {
        texts.add(|to| to.extend(known.bytes()));
    }
    let mut texts = texts.split();
    // As many as nearly all answers have.
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(CACHE_CONTROL, ASK_FIRST);
    for name in [ETAG, TENANT, VERSION, AGE] {
        let text = texts.next().filter(|text| !text.is_empty());
        // All of them are plain text.
        if let Some(Ok(value)) = text.map(HeaderValue::from_maybe_shared) {
            headers.insert(name, value);
        }
    }
    if let Some(position) = position {
        put(&mut headers, POSITION, &position.to_string());
    }
    let body = texts.next();
    if !is_known {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let mut answer = Response::new(Either::Left(Full::from(body.unwrap_or_default())));
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    *answer.headers_mut() = headers;
    answer
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
