//! Bearer tokens of both listeners. Compared in constant time and before anything else of a request is read.
//!
//! Two may be good at a time, so that a token can be replaced without a gap: the listener learns the new one beside the
//! old one, then whoever shows it goes over, then the old one goes.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use subtle::{Choice, ConstantTimeEq};

/// The token of whoever needs `Authorization` for something else.
pub const BESIDE: HeaderName = HeaderName::from_static("x-hubcast-token");

/// A token, and perhaps the one that takes its place. A clone is the same: what is replaced in one is in all.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<RwLock<Pair>>);

#[derive(Debug, Clone)]
struct Pair {
    now: SecretString,
    next: Option<SecretString>,
}

impl Tokens {
    /// These.
    pub fn new(now: SecretString, next: Option<SecretString>) -> Self {
        Self(Arc::new(RwLock::new(Pair { now, next })))
    }

    /// The one that is shown to others who have the same configuration.
    pub fn shown(&self) -> SecretString {
        self.pair().now.clone()
    }

    /// From now on only what others are is good.
    pub fn replace(&self, others: &Self) {
        let others = others.pair().clone();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = others;
    }

    fn pair(&self) -> RwLockReadGuard<'_, Pair> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request carries one of them as `Authorization: Bearer <token>`. Only the lengths of the tokens can be
    /// learnt from the time that this takes.
    pub fn are_carried(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return false;
        };
        let Some((scheme, given)) = value.as_bytes().split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"bearer ") && self.is_one(given)
    }

    /// Whether the request carries one of them in `X-Hubcast-Token`, as it is. In constant time, as
    /// [`Tokens::are_carried`].
    pub fn are_carried_beside(&self, headers: &HeaderMap) -> bool {
        headers
            .get(BESIDE)
            .is_some_and(|given| self.is_one(given.as_bytes()))
    }

    /// All are compared, whichever it is.
    fn is_one(&self, given: &[u8]) -> bool {
        let is = |token: &SecretString| given.ct_eq(token.expose_secret().as_bytes());
        let pair = self.pair();
        let next = pair.next.as_ref().map_or(Choice::from(0), is);
        (is(&pair.now) | next).into()
    }
}

impl From<SecretString> for Tokens {
    fn from(token: SecretString) -> Self {
        Self::new(token, None)
    }
}

impl From<String> for Tokens {
    fn from(token: String) -> Self {
        SecretString::from(token).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_accepted() {
        let tokens = Tokens::new("s3cret".into(), Some("n3xt".into()));
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            tokens.are_carried(&headers)
        };
        assert!(with("Bearer s3cret") && with("bearer s3cret") && with("Bearer n3xt"));
        for wrong in [
            "Bearer s3cre",
            "Bearer s3cret2",
            "Bearer ",
            "Basic s3cret",
            "s3cret",
            "",
        ] {
            assert!(!with(wrong), "{wrong:?}");
        }
        assert!(!tokens.are_carried(&HeaderMap::new()));
    }

    #[test]
    fn beside_authorization_it_stands_alone() {
        let tokens = Tokens::new("s3cret".into(), Some("n3xt".into()));
        let with = |name: HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header"));
            tokens.are_carried_beside(&headers)
        };
        assert!(with(BESIDE, "s3cret") && with(BESIDE, "n3xt"));
        for wrong in ["s3cre", "s3cret2", "Bearer s3cret", ""] {
            assert!(!with(BESIDE, wrong), "{wrong:?}");
        }
        assert!(!with(AUTHORIZATION, "s3cret"));
        assert!(!tokens.are_carried_beside(&HeaderMap::new()));
    }
}
