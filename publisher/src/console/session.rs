//! Who is signed in. Whoever shows a token of the API gets a random id in a cookie that scripts cannot read and that no
//! other site can make the browser send; the token itself is not kept by the browser. Sessions live in memory: a
//! publisher that starts again asks for the token again.
//!
//! A request that changes something must carry [`ACTS`] beside the cookie. A page of another site cannot add a header
//! without being asked first whether it may, and the publisher never says that it may.

use crate::api::auth::{self, Known};
use crate::api::{Api, problem};
use crate::config::Role;
use axum::Json;
use axum::extract::State;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use contexts::name::Kind;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    open: Mutex<HashMap<String, Session>>,
}

#[derive(Debug)]
struct Session {
    who: Known,
    until: Instant,
}

impl Sessions {
    fn open(&self, who: Known) -> Option<String> {
        let mut id = [0; 32];
        getrandom::fill(&mut id).ok()?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = Instant::now();
        let mut open = self.lock();
        open.retain(|_, session| session.until > now);
        if open.len() >= MANY {
            let oldest = open.iter().min_by_key(|(_, session)| session.until);
            let oldest = oldest.map(|(id, _)| id.clone());
            oldest.map(|id| open.remove(&id));
        }
        let until = now + LASTS;
        open.insert(id.clone(), Session { who, until });
        Some(id)
    }

    /// Ends all of them: tokens may be good no longer with which they were opened.
    pub(crate) fn end(&self) {
        self.lock().clear();
    }

    fn close(&self, headers: &HeaderMap) {
        let mut open = self.lock();
        for id in ids(headers) {
            open.remove(id);
        }
    }

    /// Who sent a request of the console, if it may do what it asks for.
    pub(crate) fn of(&self, method: &Method, headers: &HeaderMap) -> Option<Known> {
        let only_looks = matches!(*method, Method::GET | Method::HEAD);
        if !only_looks && !headers.contains_key(ACTS) {
            return None;
        }
        let (now, open) = (Instant::now(), self.lock());
        let mut sessions = ids(headers).filter_map(|id| open.get(id));
        let session = sessions.find(|session| session.until > now)?;
        Some(session.who.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Where the page comes encrypted, the cookie never goes otherwise.
fn cookie(api: &Api, id: &str, seconds: u64) -> String {
    let secure = if api.config().hub.tls.is_some() {
        "; Secure"
    } else {
        ""
    };
    format!("{NAME}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

#[derive(Debug, Deserialize)]
pub(super) struct SignIn {
    token: String,
}

/// `POST /console/sign-in`
pub(super) async fn sign_in(State(api): State<Arc<Api>>, Json(shown): Json<SignIn>) -> Response {
    let Some(who) = auth::known(&api, &shown.token) else {
        return problem(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this is neither hub.api_token nor the token of a [[hub.token]]",
        );
    };
    match api.sessions.open(who) {
        Some(id) => (
            StatusCode::NO_CONTENT,
            [(SET_COOKIE, cookie(&api, &id, LASTS.as_secs()))],
        )
            .into_response(),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the system gives no random numbers",
        ),
    }
}

/// `GET /console/session`: who is signed in here, if anybody is, so that the page need not be refused to find out.
pub(super) async fn session(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    Json(of(&api, &headers)).into_response()
}

/// Who sent a request, what they may do, and the kinds that they may look for.
pub(super) fn of(api: &Api, headers: &HeaderMap) -> Value {
    let Some(Known { name, role }) = api.sessions.of(&Method::GET, headers) else {
        return json!({ "is_signed_in": false });
    };
    let config = api.config();
    let kinds: Vec<&Kind> = config
        .contexts
        .iter()
        .map(|context| &context.kind)
        .collect();
    json!({
        "is_signed_in": true,
        "who": name,
        "may_republish": role >= Role::Republish,
        "may_operate": role >= Role::Operate,
        "kinds": kinds,
    })
}

/// `POST /console/sign-out`
pub(super) async fn sign_out(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    api.sessions.close(&headers);
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie(&api, "", 0))]).into_response()
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

    fn somebody() -> Known {
        Known {
            name: "somebody".into(),
            role: Role::Republish,
        }
    }

    #[test]
    fn a_session_may_look_and_with_the_header_act_until_it_is_closed() {
        let sessions = Sessions::default();
        let id = sessions.open(somebody()).expect("random numbers");
        let mine = format!("other=1; {NAME}={id}");
        let admits = |cookie: &str, method, acts| {
            let who = sessions.of(&method, &with(cookie, acts));
            who == Some(somebody())
        };
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
        let first = sessions.open(somebody()).expect("random numbers");
        for _ in 0..MANY {
            sessions.open(somebody()).expect("random numbers");
        }
        let cookie = format!("{NAME}={first}");
        assert_eq!(sessions.of(&Method::GET, &with(&cookie, false)), None);
        assert_eq!(sessions.lock().len(), MANY);
    }
}
