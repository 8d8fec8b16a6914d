//! Error bodies and the headers that every answer has. One place, so that no two routes answer the same thing
//! differently.

use crate::store::live::Live;
use crate::store::redb::StoreError;
use crate::store::view::Reach;
use axum::Json;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use contexts::push::Reading;
use contexts::version::Version;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use std::borrow::Cow;
use std::time::Duration;

/// The owner of a context, percent-encoded.
pub const TENANT: HeaderName = HeaderName::from_static("x-context-tenant");
/// The version of what was answered.
pub const VERSION: HeaderName = HeaderName::from_static("x-context-version");
/// Seconds since the moment up to which the store has every change.
pub const AGE: HeaderName = HeaderName::from_static("x-context-age");
/// The highest version of which nothing is under way to the store.
pub const POSITION: HeaderName = HeaderName::from_static("x-context-position");
/// The least version that the reader accepts.
pub const MIN_VERSION: HeaderName = HeaderName::from_static("x-context-min-version");

/// For an answer that a cache may keep if it asks, each time, whether it is still right. The agent is near and answers
/// whether or not there is a hub, so nobody gains by asking less often, and a revoked key is refused at once.
pub const ASK_FIRST: HeaderValue = HeaderValue::from_static("no-cache");
/// For an answer that is nobody's to keep: what is absent now can be there in a moment.
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// How far what was read is.
#[derive(Debug, Clone, Copy)]
pub struct Far {
    /// The highest version of which nothing was under way to it.
    pub position: Version,
    /// Time since the moment up to which every change at the hub is in it, if that is known.
    pub age: Option<Duration>,
}

impl Far {
    /// A store, as its writer published it.
    pub fn of(live: &Live, now: Reading) -> Self {
        let (position, fresh) = (live.position, live.fresh);
        Self::reached(Reach { position, fresh }, now)
    }

    /// A store that is this far.
    pub fn reached(reach: Reach, now: Reading) -> Self {
        let micros = reach.fresh.map(|fresh| fresh.micros_until(now));
        Self {
            position: reach.position,
            age: micros.map(|micros| Duration::from_micros(micros as u64)),
        }
    }

    /// Whether it is older than this version, or may be.
    pub fn is_behind(&self, least: Option<Version>) -> bool {
        least.is_some_and(|least| least > self.position)
    }
}

/// What stays as it is in a header value: the unreserved characters of URLs.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Every answer that is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The key does not exist.
    #[error("not_found")]
    NotFound,
    /// It existed until its `expires`.
    #[error("expired")]
    Expired,
    /// The store cannot say whether the key exists.
    #[error("not_ready")]
    NotReady,
    /// The key exists, and no good value ever came.
    #[error("held")]
    Held,
    /// What is here is older than the reader accepts.
    #[error("behind")]
    Behind,
    /// As many watch as can.
    #[error("too_many_watchers")]
    TooManyWatchers,
    /// The token is missing or wrong.
    #[error("unauthorized")]
    Token,
    /// The request cannot be understood.
    #[error("bad_request")]
    BadRequest(String),
    /// The file cannot be read.
    #[error("storage")]
    Storage(#[from] StoreError),
    /// The table of the region does not answer, and the key is not cached; why.
    #[error("unreachable")]
    Unreachable(String),
    /// This agent cannot do that at all; why.
    #[error("not_here")]
    NotHere(String),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound | Self::Expired => StatusCode::NOT_FOUND,
            Self::NotReady
            | Self::Held
            | Self::Storage(_)
            | Self::Unreachable(_)
            | Self::TooManyWatchers => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotHere(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Behind => StatusCode::PRECONDITION_FAILED,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
        };
        let name = self.to_string();
        let body = match self {
            Self::BadRequest(message) | Self::Unreachable(message) | Self::NotHere(message) => {
                json!({ "error": name, "message": message })
            }
            Self::Storage(error) => {
                tracing::error!(%error, "a read failed");
                json!({ "error": name })
            }
            _ => json!({ "error": name }),
        };
        ([(CACHE_CONTROL, NO_STORE)], (status, Json(body))).into_response()
    }
}

/// The answer to a path that does not exist. A path below `/v1/contexts/` with another number of parts is almost always
/// a slash in a key that was not encoded; it must not be answered like a key that does not exist.
pub async fn no_such_route(uri: Uri) -> Response {
    if uri.path().starts_with("/v1/contexts/") {
        let path =
            "the path is /v1/contexts/{kind}/{key}; a slash within kind or key is written %2F";
        return Failure::BadRequest(path.into()).into_response();
    }
    let body = json!({ "error": "no_such_route" });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// A version, and how far what was read is.
pub fn stamp(headers: &mut HeaderMap, version: Version, far: Far) {
    put(headers, VERSION, &version.to_string());
    put(headers, POSITION, &far.position.to_string());
    if let Some(age) = far.age {
        let mut text = Vec::new();
        write_seconds(&mut text, age);
        put(headers, AGE, &String::from_utf8_lossy(&text));
    }
}

/// Adds seconds, with three digits.
pub fn write_seconds(to: &mut Vec<u8>, age: Duration) {
    write_number(to, age.as_secs());
    let millis = age.subsec_millis();
    to.push(b'.');
    to.extend([millis / 100, millis / 10 % 10, millis % 10].map(|digit| b'0' + digit as u8));
}

/// Adds a version, as it is written everywhere.
pub fn write_version(to: &mut Vec<u8>, version: Version) {
    write_number(to, version.epoch);
    to.push(b'.');
    write_number(to, version.n);
}

fn write_number(to: &mut Vec<u8>, number: u64) {
    to.extend(itoa::Buffer::new().format(number).as_bytes());
}

/// Sets a header; a text that no header can carry is left out.
pub fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// A text as a header can carry it.
pub fn percent_encoded(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, UNRESERVED).into()
}

/// The least version that the reader accepts, if it names one.
///
/// # Errors
/// [`Failure::BadRequest`] if it is none.
pub fn min_version(headers: &HeaderMap) -> Result<Option<Version>, Failure> {
    let Some(value) = headers.get(MIN_VERSION) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let parsed = text.trim().parse().map(Some);
    parsed.map_err(|why| Failure::BadRequest(format!("X-Context-Min-Version: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_shown() {
        for n in [0, 7, 10, u64::MAX] {
            let version = Version { epoch: n / 3, n };
            let mut text = Vec::new();
            write_version(&mut text, version);
            assert_eq!(text, version.to_string().into_bytes());
            let age = Duration::from_millis(n % 1_000_003);
            let mut text = Vec::new();
            write_seconds(&mut text, age);
            let (whole, millis) = (age.as_secs(), age.subsec_millis());
            assert_eq!(text, format!("{whole}.{millis:03}").into_bytes());
        }
    }
}
