//! Scans and definitions, as the database has them.

use crate::api::{Api, problem};
use crate::source::{Source, SourceError};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long the database may take.
const WITHIN: Duration = Duration::from_secs(5);

/// What the database answers in this time. What a person looks at may be slow, and the connections that replication
/// uses are none of its business: nothing else is done about it.
pub(super) async fn within<T>(
    source: &Source,
    limit: Duration,
    asking: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    let answer = tokio::time::timeout(limit, asking).await;
    answer.unwrap_or_else(|_| Err(source.silent(limit)))
}

/// The answer where the database is the reason.
pub(super) fn unavailable(error: &SourceError) -> Response {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    problem(status, "database", &error.to_string())
}

/// `GET /console/scans`: the last hundred, newest first.
pub(super) async fn scans(State(api): State<Arc<Api>>) -> Response {
    let parts = api.parts();
    let source = &parts.source;
    match within(source, WITHIN, source.scans()).await {
        Ok(scans) => Json(json!({ "scans": scans })).into_response(),
        Err(error) => unavailable(&error),
    }
}

/// `GET /console/definitions`: what is published, and what is wrong with how it is watched.
pub(super) async fn definitions(State(api): State<Arc<Api>>) -> Response {
    let parts = api.parts();
    let source = &parts.source;
    let definitions = match within(source, WITHIN, source.definitions()).await {
        Ok(definitions) => definitions,
        Err(error) => return unavailable(&error),
    };
    let drift = api
        .view
        .borrow()
        .as_ref()
        .and_then(|v| v.capture_gap.clone());
    let config = api.config();
    let sensitive: Vec<_> = config.sensitive().collect();
    Json(json!({
        "kinds": definitions.kinds,
        "sensitive": sensitive,
        "tenant_type": definitions.tenant_type,
        "stores": definitions.stores,
        "differences": definitions.differences(&api.config()),
        "drift": drift,
    }))
    .into_response()
}
