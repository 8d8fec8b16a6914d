//! Who may read: whoever carries the gateways' token, where one is configured.

use super::answer::Failure;
use crate::token::Tokens;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The gateways' token, if one is asked for. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Option<Tokens>>);

impl Gate {
    /// That asks for this token, or for none.
    pub fn new(token: Option<Tokens>) -> Self {
        Self(Arc::new(token))
    }

    /// Whether a request with these headers may read.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let token = self.0.as_ref().as_ref();
        token.is_none_or(|token| token.are_carried(headers))
    }

    fn admits_beside(&self, headers: &HeaderMap) -> bool {
        let token = self.0.as_ref().as_ref();
        token.is_none_or(|token| token.are_carried_beside(headers))
    }
}

/// Lets through who carries the token.
pub async fn check(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.admits(request.headers()) {
        true => next.run(request).await,
        false => Failure::Token.into_response(),
    }
}

/// As [`check`], and also beside `Authorization`, which may carry what is to be decided on.
pub async fn check_either(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    match gate.admits(headers) || gate.admits_beside(headers) {
        true => next.run(request).await,
        false => Failure::Token.into_response(),
    }
}
