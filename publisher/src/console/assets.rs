//! The files of the page, part of the program. They refer to nothing outside of it, and the policy that goes with them
//! tells the browser to load nothing from elsewhere even if they did.
//!
//! The page names its files with a hash of what is in them, so that a browser keeps them for good, and brings along who is
//! signed in, so that it need not ask before it shows anything.

use super::session;
use crate::api::Api;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, LazyLock};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A file, with a hash of it.
struct File {
    kind: &'static str,
    text: &'static str,
    version: String,
}

impl File {
    fn new(kind: &'static str, text: &'static str) -> Self {
        let mut hash = DefaultHasher::new();
        hash.write(text.as_bytes());
        Self {
            kind,
            text,
            version: format!("{:016x}", hash.finish()),
        }
    }

    /// A publisher of another release has another one under the same path: only what was asked for by its hash is kept.
    fn answer(&self, query: Option<&str>) -> impl IntoResponse + use<> {
        let is_this = query.and_then(|q| q.strip_prefix("v=")) == Some(&self.version);
        let cache = match is_this {
            true => "private, max-age=31536000, immutable",
            false => "no-store",
        };
        answer(self.kind, cache, self.text.to_owned())
    }
}

static SCRIPT: LazyLock<File> = LazyLock::new(|| {
    let text = include_str!("../../assets/console.js");
    File::new("text/javascript; charset=utf-8", text)
});

static STYLE: LazyLock<File> = LazyLock::new(|| {
    let text = include_str!("../../assets/console.css");
    File::new("text/css; charset=utf-8", text)
});

fn answer(kind: &'static str, cache: &'static str, text: String) -> impl IntoResponse + use<> {
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, cache),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text)
}

/// `GET /`
pub(super) async fn page(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> impl IntoResponse + use<> {
    // Within a script element only `<` can end it.
    let session = session::of(&api, &headers)
        .to_string()
        .replace('<', "\\u003c");
    let text = include_str!("../../assets/console.html")
        .replace("{style}", &STYLE.version)
        .replace("{script}", &SCRIPT.version)
        .replace("{session}", &session);
    answer("text/html; charset=utf-8", "no-store", text)
}

/// `GET /console/console.js`
pub(super) async fn script(RawQuery(query): RawQuery) -> impl IntoResponse + use<> {
    SCRIPT.answer(query.as_deref())
}

/// `GET /console/console.css`
pub(super) async fn style(RawQuery(query): RawQuery) -> impl IntoResponse + use<> {
    STYLE.answer(query.as_deref())
}
