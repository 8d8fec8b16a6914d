//! `GET /v1/openapi.json`: the routes of the read listener, for programs that write clients. The document is written by
//! hand; a test holds it against what the agent answers.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// The document.
pub const DOCUMENT: &str = include_str!("../../openapi.json");

/// Answers the document.
pub async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}
