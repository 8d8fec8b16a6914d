//! `/v1/authorize/{policy}`, with any method and with any path behind it: whether a gateway such as nginx
//! (`auth_request`) or Envoy (`ext_authz`) lets a request through, and the headers that it adds to it.
//!
//! | answer | when |
//! | --- | --- |
//! | 200 | the credential is known and everything that the policy requires is true |
//! | 401 | it is missing, malformed, unknown or expired |
//! | 403 | it is known and not allowed; or there is no such policy |
//! | 503 | the store cannot say, or is older than the policy accepts |
//!
//! It answers nothing else, since gateways take any other status for a fault of theirs. Both contexts of a decision come
//! from one state of the store. A header of an answer comes from the store alone, never from the request; and no answer
//! and no log has the credential.

mod forward;

use super::Serve;
use super::answer::{Failure, Far, NO_STORE, percent_encoded, put, stamp};
use crate::clock::wall_micros;
use crate::config::authorize::{Hash, Part, Policy, Then};
use crate::metrics as names;
use crate::store::index::Lookup;
use crate::store::index::known::Known;
use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use forward::Value;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;

/// Envoy removes these headers of its client's request. It sets those that an answer has and would leave the others as
/// the client sent them.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// Why a request is not let through.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no credential.
    #[error("no_credential")]
    Missing,
    /// There is something else than one credential.
    #[error("malformed_credential")]
    Malformed,
    /// It does not exist.
    #[error("unknown_credential")]
    Unknown,
    /// It existed until its `expires`.
    #[error("expired_credential")]
    Expired,
    /// A required field is not true.
    #[error("not_allowed")]
    NotAllowed,
    /// The second context does not exist, or the first has no key of one.
    #[error("second_not_found")]
    NoSecond,
    /// It existed until its `expires`.
    #[error("second_expired")]
    SecondExpired,
    /// It is another tenant's.
    #[error("other_tenant")]
    OtherTenant,
    /// No policy has this name.
    #[error("no_such_policy")]
    NoPolicy,
    /// The store is older than the policy accepts, or does not know its age.
    #[error("stale")]
    Stale,
    /// The store cannot say.
    #[error(transparent)]
    CannotSay(#[from] Failure),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Missing | Self::Malformed | Self::Unknown | Self::Expired => {
                StatusCode::UNAUTHORIZED
            }
            Self::NotAllowed
            | Self::NoSecond
            | Self::SecondExpired
            | Self::OtherTenant
            | Self::NoPolicy => StatusCode::FORBIDDEN,
            Self::Stale | Self::CannotSay(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The label of its count: few.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Missing => "no_credential",
            Self::Malformed => "malformed_credential",
            Self::Unknown => "unknown_credential",
            Self::Expired => "expired_credential",
            Self::NotAllowed => "not_allowed",
            Self::NoSecond => "second_not_found",
            Self::SecondExpired => "second_expired",
            Self::OtherTenant => "other_tenant",
            Self::NoPolicy => "no_such_policy",
            Self::Stale => "stale",
            Self::CannotSay(Failure::NotReady) => "not_ready",
            Self::CannotSay(Failure::Held) => "held",
            Self::CannotSay(Failure::Unreachable(_)) => "unreachable",
            Self::CannotSay(_) => "storage",
        }
    }

    /// What a client with a scheme that has a rule for it is told.
    fn challenge(&self, policy: &Policy) -> Option<&'static str> {
        let scheme = policy.scheme.as_deref()?;
        match (scheme.eq_ignore_ascii_case("bearer"), self) {
            (true, Self::Missing) => Some("Bearer"),
            (true, _) => Some("Bearer error=\"invalid_token\""),
            (false, _) => None,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = self.status();
        match self {
            Self::CannotSay(failure) => failure.into_response(),
            _ => {
                let body = json!({ "error": self.to_string() });
                ([(CACHE_CONTROL, NO_STORE)], (status, Json(body))).into_response()
            }
        }
    }
}

/// Decides on one request.
pub async fn authorize(State(my): State<Serve>, uri: Uri, headers: HeaderMap) -> Response {
    let policies = my.policies.now();
    let policy = match policy(&policies, &uri) {
        Ok(policy) => policy,
        Err(refused) => return *refused,
    };
    // What was published is taken before the view, so that the view has at least that.
    let live = my.live.borrow().clone();
    let far = Far::of(&live, my.clock.reading());
    let decided = credential(policy, &headers).and_then(|key| {
        check_age(policy, far)?;
        decide(policy, &my, &key)
    });
    answer(policy, decided, far)
}

/// The policy that a path names, or the answer if there is none.
pub fn policy<'a>(policies: &'a [Policy], uri: &Uri) -> Result<&'a Policy, Box<Response>> {
    let asked = policy_of(uri.path());
    let policy = policies.iter().find(|policy| *policy.name == *asked);
    policy.ok_or_else(|| {
        count(&Arc::from("none"), Refused::NoPolicy.outcome());
        Box::new(Refused::NoPolicy.into_response())
    })
}

/// Whether what is read is young enough for the policy.
///
/// # Errors
/// [`Refused::Stale`]
pub fn check_age(policy: &Policy, far: Far) -> Result<(), Refused> {
    let is_young = |most| far.age.is_some_and(|age| age.as_secs_f64() <= most);
    match policy.max_age {
        Some(most) if !is_young(most) => Err(Refused::Stale),
        _ => Ok(()),
    }
}

/// The whole answer to what was decided.
pub fn answer(policy: &Policy, decided: Result<HeaderMap, Refused>, far: Far) -> Response {
    let mut response = match decided {
        Ok(told) => {
            count(&policy.name, "allowed");
            allowed(policy, told)
        }
        Err(refused) => {
            count(&policy.name, refused.outcome());
            not_allowed(policy, refused)
        }
    };
    stamp(response.headers_mut(), far.position, far);
    response
}

/// The name of the policy in a path. It needs no decoding: none has a character that is ever encoded.
fn policy_of(path: &str) -> &str {
    let behind = path.strip_prefix("/v1/authorize/").unwrap_or_default();
    behind.split('/').next().unwrap_or_default()
}

fn count(policy: &Arc<str>, outcome: &'static str) {
    metrics::counter!(names::AUTHORIZED, "policy" => policy.clone(), "outcome" => outcome)
        .increment(1);
}

fn allowed(policy: &Policy, told: HeaderMap) -> Response {
    let mut response = [(CACHE_CONTROL, NO_STORE)].into_response();
    let absent = policy.sets().filter(|name| !told.contains_key(*name));
    let absent: Vec<&str> = absent.map(HeaderName::as_str).collect();
    let headers = response.headers_mut();
    headers.extend(told);
    if !absent.is_empty() {
        put(headers, TO_REMOVE, &absent.join(","));
    }
    response
}

fn not_allowed(policy: &Policy, refused: Refused) -> Response {
    let challenge = match refused.status() {
        StatusCode::UNAUTHORIZED => refused.challenge(policy),
        _ => None,
    };
    let mut response = refused.into_response();
    if let Some(challenge) = challenge {
        put(response.headers_mut(), WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The key that the request's credential stands for.
///
/// # Errors
/// Why there is none.
pub fn credential(policy: &Policy, headers: &HeaderMap) -> Result<String, Refused> {
    let mut values = headers.get_all(&policy.header).iter();
    let value = values.next().ok_or(Refused::Missing)?;
    // Of two, the gateway's client could mean one and show another.
    if values.next().is_some() {
        return Err(Refused::Malformed);
    }
    let given = value.as_bytes().trim_ascii();
    let secret = match &policy.scheme {
        None => given,
        Some(scheme) => behind(scheme, given).ok_or(Refused::Malformed)?,
    };
    match (secret, policy.hash) {
        ([], _) => Err(Refused::Missing),
        (secret, Hash::None) => match std::str::from_utf8(secret) {
            Ok(key) => Ok(key.to_owned()),
            Err(_) => Err(Refused::Malformed),
        },
        (secret, Hash::Sha256) => Ok(hex(&Sha256::digest(secret))),
    }
}

/// What stands behind the scheme, if it is this one.
fn behind<'a>(scheme: &str, given: &'a [u8]) -> Option<&'a [u8]> {
    let (before, rest) = given.split_at_checked(scheme.len())?;
    let is_this = before.eq_ignore_ascii_case(scheme.as_bytes());
    let is_whole = rest.first().is_none_or(u8::is_ascii_whitespace);
    (is_this && is_whole).then(|| rest.trim_ascii_start())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The headers of whoever has this key, or why there are none.
fn decide(policy: &Policy, my: &Serve, key: &str) -> Result<HeaderMap, Refused> {
    let view = my.views.take().map_err(Failure::from)?;
    let found = |part: &Part, key: &str| view.look_up(part.kind.as_str(), key);
    let mut first = First::of(policy, found(&policy.first, key).map_err(Failure::from)?)?;
    if let Some(then) = &policy.then {
        let key = first.second(then)?;
        first.then(then, found(&then.part, &key).map_err(Failure::from)?)?;
    }
    Ok(first.told(policy))
}

/// The context that a credential stands for, once it has what the policy requires of it.
pub struct First {
    known: Known,
    told: HeaderMap,
}

impl First {
    /// Of what was found.
    ///
    /// # Errors
    /// Why the request is not let through.
    pub fn of(policy: &Policy, found: Lookup) -> Result<Self, Refused> {
        let known = value(found, || Refused::Unknown, || Refused::Expired)?;
        let mut told = HeaderMap::new();
        tell(&policy.first, &Value::of(known.bytes())?, &mut told)?;
        Ok(Self { known, told })
    }

    /// The key of the second context.
    ///
    /// # Errors
    /// [`Refused::NoSecond`] if it names none.
    pub fn second(&self, then: &Then) -> Result<String, Refused> {
        let value = Value::of(self.known.bytes())?;
        value.key(&then.key).ok_or(Refused::NoSecond)
    }

    /// Adds what was found of the second context.
    ///
    /// # Errors
    /// Why the request is not let through.
    pub fn then(&mut self, then: &Then, found: Lookup) -> Result<(), Refused> {
        let second = value(found, || Refused::NoSecond, || Refused::SecondExpired)?;
        if then.same_tenant && second.tenant() != self.known.tenant() {
            return Err(Refused::OtherTenant);
        }
        tell(&then.part, &Value::of(second.bytes())?, &mut self.told)
    }

    /// The headers that the policy tells.
    pub fn told(mut self, policy: &Policy) -> HeaderMap {
        if let Some(name) = &policy.tenant_header {
            let tenant = percent_encoded(self.known.tenant());
            put(&mut self.told, name.clone(), &tenant);
        }
        self.told
    }
}

fn value(
    found: Lookup,
    unknown: impl FnOnce() -> Refused,
    expired: impl FnOnce() -> Refused,
) -> Result<Known, Refused> {
    match found {
        Lookup::NotReady => Err(Failure::NotReady.into()),
        Lookup::Held => Err(Failure::Held.into()),
        Lookup::Absent => Err(unknown()),
        Lookup::Found(known, _) if known.is_expired(wall_micros) => Err(expired()),
        Lookup::Found(known, _) => Ok(known),
    }
}

/// Adds what a policy tells of a context, if the context has what the policy requires.
fn tell(part: &Part, value: &Value<'_>, told: &mut HeaderMap) -> Result<(), Refused> {
    if !part.require.iter().all(|field| value.is_true(field)) {
        return Err(Refused::NotAllowed);
    }
    for (name, field) in &part.headers {
        if let Some(carried) = value.carried(field) {
            put(told, name.clone(), &carried);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_the_first_part_of_the_path_whatever_follows() {
        for path in ["api", "api/", "api/v1/%ff", "api//x"] {
            assert_eq!(policy_of(&format!("/v1/authorize/{path}")), "api", "{path}");
        }
        for path in ["/v1/authorize", "/v1/authorize/", "/v1/authorize//api"] {
            assert_eq!(policy_of(path), "", "{path}");
        }
    }

    #[test]
    fn a_scheme_is_a_whole_word_in_any_case() {
        let secret = |given: &'static str| behind("Bearer", given.as_bytes());
        assert_eq!(secret("bEARER  s"), Some(&b"s"[..]));
        assert_eq!(secret("Bearer"), Some(&b""[..]));
        for wrong in ["Bearers", "Basic s", "s", ""] {
            assert_eq!(secret(wrong), None, "{wrong}");
        }
    }
}
