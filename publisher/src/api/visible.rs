//! `GET /v1/visible?token=..&regions=..&timeout=2s`: waits until all that a transaction changed is durable and readable
//! in every store asked about, and says so per store. The token is what `hubcast.token()` gave in that transaction.

use super::{Api, known, pass_on, problem};
use crate::ask::{Ask, Reply};
use crate::source::capture::Fate;
use crate::source::hub::Server;
use crate::writer::{Millis, RegionFilter};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use contexts::name::Region;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long the answer may take if nobody says, and at most.
const DEFAULT_WITHIN: Millis = 2_000;
const WITHIN_MAX: Millis = 30_000;

/// How long the database may take to say what became of a transaction.
const DATABASE_WITHIN: Duration = Duration::from_secs(10);

/// Numbers below are no transaction's (`FirstNormalTransactionId` of Postgres).
const FIRST_XID: u64 = 3;

/// The question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    token: String,
    #[serde(default)]
    regions: Option<String>,
    #[serde(default)]
    timeout: Option<String>,
}

/// Reads `2s`, `1500ms` or plain seconds.
fn duration(text: &str) -> Option<Millis> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1.0),
        None => (text.strip_suffix('s').unwrap_or(text), 1_000.0),
    };
    let ms = number.parse::<f64>().ok()? * unit;
    (ms >= 0.0 && ms <= WITHIN_MAX as f64).then_some(ms as Millis)
}

fn read(api: &Api, question: &Question) -> Result<(u64, RegionFilter, Millis), String> {
    let parsed = question.token.parse::<u64>().ok();
    let xid = parsed.filter(|xid| *xid >= FIRST_XID).ok_or_else(|| {
        let token = &question.token;
        format!("{token:?} is no token; take one by SELECT hubcast.token() in the transaction")
    })?;
    let regions = match &question.regions {
        None => RegionFilter::All,
        Some(names) => {
            let each = names.split(',').filter(|n| !n.is_empty()).map(Region::new);
            let only: BTreeSet<Region> =
                each.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
            if only.is_empty() {
                return Err("regions is empty: leave it out for every region".into());
            }
            known(&api.config, None, Some(&only))?;
            RegionFilter::Only(only)
        }
    };
    let within = match &question.timeout {
        None => DEFAULT_WITHIN,
        Some(text) => duration(text).ok_or_else(|| {
            format!(
                "timeout={text}: write 2s or 500ms, at most {} s",
                WITHIN_MAX / 1_000
            )
        })?,
    };
    Ok((xid, regions, within))
}

pub(super) async fn visible(
    State(api): State<Arc<Api>>,
    question: Result<Query<Question>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(question) = match question {
        Ok(question) => question,
        Err(e) => return problem(StatusCode::BAD_REQUEST, "bad_request", &e.body_text()),
    };
    let (xid, regions, within) = match read(&api, &question) {
        Ok(read) => read,
        Err(message) => return problem(StatusCode::BAD_REQUEST, "bad_request", &message),
    };
    let server = match look_up(&api, xid).await {
        Ok(server) => server,
        Err(refusal) => return *refusal,
    };
    let ask = Ask::Visible {
        xid,
        server,
        regions,
        within,
    };
    match pass_on(&api, ask).await {
        Ok(Reply::Visible(stores)) => {
            // A transaction that was rolled back meanwhile has ended too.
            if let Err(refusal) = look_up(&api, xid).await {
                return *refusal;
            }
            let all = stores.iter().all(|s| s.visible);
            let status = match all {
                true => StatusCode::OK,
                false => StatusCode::GATEWAY_TIMEOUT,
            };
            let body = json!({ "token": question.token, "visible": all, "stores": stores });
            (status, Json(body)).into_response()
        }
        Ok(Reply::Failed(why)) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &why),
        Ok(_) => super::answered_otherwise(),
        Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &why),
    }
}

/// The server that knows a transaction; or the answer, for one that can never be visible.
async fn look_up(api: &Api, xid: u64) -> Result<Server, Box<Response>> {
    let source = &api.parts.source;
    let refusal = match source.within(DATABASE_WITHIN, source.fate(xid)).await {
        Ok((Fate::Committed | Fate::Open, server)) => return Ok(server),
        Ok((Fate::Aborted, _)) => problem(
            StatusCode::CONFLICT,
            "aborted",
            "the transaction was rolled back: nothing of it will ever be visible",
        ),
        Ok((Fate::Unknown, _)) => problem(
            StatusCode::NOT_FOUND,
            "unknown",
            "this database has no such transaction: is the token from another one?",
        ),
        Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, "database", &e.to_string()),
    };
    Err(Box::new(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_seconds_or_milliseconds() {
        assert_eq!(duration("2s"), Some(2_000));
        assert_eq!(duration("1.5"), Some(1_500));
        assert_eq!(duration("250ms"), Some(250));
        for wrong in ["", "s", "-1s", "31s", "NaN", "two"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
