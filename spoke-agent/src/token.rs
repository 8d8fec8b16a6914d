//! Bearer tokens of both listeners. Compared in constant time and before anything else of a request is read.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// Whether the request carries `Authorization: Bearer <token>`. Only the length of a wrong token can be learnt from
/// the time that this takes.
pub fn is_carried(headers: &HeaderMap, token: &SecretString) -> bool {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return false;
    };
    let Some((scheme, given)) = value.as_bytes().split_at_checked(7) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"bearer ")
        && bool::from(given.ct_eq(token.expose_secret().as_bytes()))
}

/// The token of whoever needs `Authorization` for something else.
pub const BESIDE: HeaderName = HeaderName::from_static("x-hubcast-token");

/// Whether the request carries the token in `X-Hubcast-Token`, as it is. In constant time, as [`is_carried`].
pub fn is_carried_beside(headers: &HeaderMap, token: &SecretString) -> bool {
    let given = headers.get(BESIDE);
    given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(token.expose_secret().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_accepted() {
        let token = SecretString::from("s3cret");
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            is_carried(&headers, &token)
        };
        assert!(with("Bearer s3cret") && with("bearer s3cret"));
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
        assert!(!is_carried(&HeaderMap::new(), &token));
    }

    #[test]
    fn beside_authorization_it_stands_alone() {
        let token = SecretString::from("s3cret");
        let with = |name: HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header"));
            is_carried_beside(&headers, &token)
        };
        assert!(with(BESIDE, "s3cret"));
        for wrong in ["s3cre", "s3cret2", "Bearer s3cret", ""] {
            assert!(!with(BESIDE, wrong), "{wrong:?}");
        }
        assert!(!with(AUTHORIZATION, "s3cret"));
        assert!(!is_carried_beside(&HeaderMap::new(), &token));
    }
}
