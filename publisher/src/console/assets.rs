//! The files of the page, part of the program. They refer to nothing outside of it, and the policy that goes with them
//! tells the browser to load nothing from elsewhere even if they did.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse + use<> {
    let headers = [
        (CONTENT_TYPE, kind),
        // A publisher of another release has another page.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text)
}

/// `GET /`
pub(super) async fn page() -> impl IntoResponse {
    file(
        "text/html; charset=utf-8",
        include_str!("../../assets/console.html"),
    )
}

/// `GET /console/console.js`
pub(super) async fn script() -> impl IntoResponse {
    file(
        "text/javascript; charset=utf-8",
        include_str!("../../assets/console.js"),
    )
}

/// `GET /console/console.css`
pub(super) async fn style() -> impl IntoResponse {
    file(
        "text/css; charset=utf-8",
        include_str!("../../assets/console.css"),
    )
}
