//! Bearer tokens of both listeners. Compared in constant time and before anything else of a request is read.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
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
}
