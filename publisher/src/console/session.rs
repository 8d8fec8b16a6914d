//! Who is signed in. Whoever shows the API's token gets a random id in a cookie that scripts cannot read and that no
//! other site can make the browser send; the token itself is not kept by the browser. Sessions live in memory: a
//! publisher that starts again asks for the token again.
//!
//! A request that changes something must carry [`ACTS`] beside the cookie. A page of another site cannot add a header
//! without being asked first whether it may, and the publisher never says that it may.

use crate::api::{Api, problem};
use axum::Json;
use axum::extract::State;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The header of a request that changes something.
pub const ACTS: &str = "x-hubcast-console";
const NAME: &str = "hubcast_session";
/// A shift, and then the token is asked for again.
const LASTS: Duration = Duration::from_secs(12 * 3600);
/// Sessions at a time; the oldest goes first.
const MANY: usize = 1_000;

/// The sessions of this process.
#[derive(Debug, Default)]
pub struct Sessions {
    until: Mutex<HashMap<String, Instant>>,
}

impl Sessions {
    fn open(&self) -> Option<String> {
        let mut id = [0; 32];
        getrandom::fill(&mut id).ok()?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = Instant::now();
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, end| *end > now);
        if until.len() >= MANY {
            let oldest = until.iter().min_by_key(|(_, end)| **end);
            let oldest = oldest.map(|(id, _)| id.clone());
            oldest.map(|id| until.remove(&id));
        }
        until.insert(id.clone(), now + LASTS);
        Some(id)
    }

    fn close(&self, headers: &HeaderMap) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids(headers) {
            until.remove(id);
        }
    }

    /// Whether a request of the console may do what it asks for.
    pub fn admits(&self, method: &Method, headers: &HeaderMap) -> bool {
        let only_looks = matches!(*method, Method::GET | Method::HEAD);
        let now = Instant::now();
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        (only_looks || headers.contains_key(ACTS))
            && ids(headers).any(|id| until.get(id).is_some_and(|end| *end > now))
    }
}

/// The ids that the cookies of a request name.
fn ids(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).iter();
    cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix(NAME)?.strip_prefix('='))
}

fn cookie(id: &str, seconds: u64) -> String {
    format!("{NAME}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict")
}

#[derive(Debug, Deserialize)]
pub(super) struct SignIn {
    token: String,
}

/// `POST /console/sign-in`
pub(super) async fn sign_in(State(api): State<Arc<Api>>, Json(shown): Json<SignIn>) -> Response {
    if !api.is_token(&shown.token) {
        return problem(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this is not hub.api_token",
        );
    }
    match api.sessions.open() {
        Some(id) => (
            StatusCode::NO_CONTENT,
            [(SET_COOKIE, cookie(&id, LASTS.as_secs()))],
        )
            .into_response(),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the system gives no random numbers",
        ),
    }
}

/// `GET /console/session`: whether this browser is signed in, so that the page need not be refused to find out.
pub(super) async fn session(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let is_signed_in = api.sessions.admits(&Method::GET, &headers);
    Json(serde_json::json!({ "is_signed_in": is_signed_in })).into_response()
}

/// `POST /console/sign-out`
pub(super) async fn sign_out(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    api.sessions.close(&headers);
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie("", 0))]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn with(cookie: &str, acts: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(cookie).expect("a header"));
        if acts {
            headers.insert(ACTS, HeaderValue::from_static("1"));
        }
        headers
    }

    #[test]
    fn a_session_may_look_and_with_the_header_act_until_it_is_closed() {
        let sessions = Sessions::default();
        let id = sessions.open().expect("random numbers");
        let mine = format!("other=1; {NAME}={id}");
        let admits = |cookie: &str, method, acts| sessions.admits(&method, &with(cookie, acts));
        assert!(admits(&mine, Method::GET, false));
        assert!(!admits(&mine, Method::POST, false));
        assert!(admits(&mine, Method::POST, true));
        for wrong in ["", "hubcast_session", "hubcast_session=", "other=1"] {
            assert!(!admits(wrong, Method::GET, true), "{wrong:?}");
        }
        assert!(!admits(&format!("x{NAME}={id}"), Method::GET, true));
        sessions.close(&with(&mine, false));
        assert!(!admits(&mine, Method::GET, true));
    }

    #[test]
    fn the_oldest_session_makes_room() {
        let sessions = Sessions::default();
        let first = sessions.open().expect("random numbers");
        for _ in 0..MANY {
            sessions.open().expect("random numbers");
        }
        let cookie = format!("{NAME}={first}");
        assert!(!sessions.admits(&Method::GET, &with(&cookie, false)));
        assert_eq!(sessions.until.lock().expect("a lock").len(), MANY);
    }
}
