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

/// What `hubcast.token()` gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    xid: u64,
    /// When its server was started, in microseconds since 1970; the database of an earlier release does not say.
    started: Option<i64>,
}

impl Token {
    fn read(text: &str) -> Option<Self> {
        let (xid, started) = match text.split_once('-') {
            Some((xid, started)) => (xid, Some(started.parse().ok()?)),
            None => (text, None),
        };
        let xid = xid.parse().ok().filter(|xid| *xid >= FIRST_XID)?;
        Some(Self { xid, started })
    }
}

fn read(api: &Api, question: &Question) -> Result<(Token, RegionFilter, Millis), String> {
    let token = Token::read(&question.token).ok_or_else(|| {
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
            known(&api.config(), None, Some(&only))?;
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
    Ok((token, regions, within))
}

pub(super) async fn visible(
    State(api): State<Arc<Api>>,
    question: Result<Query<Question>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(question) = match question {
        Ok(question) => question,
        Err(e) => return problem(StatusCode::BAD_REQUEST, "bad_request", &e.body_text()),
    };
    let (token, regions, within) = match read(&api, &question) {
        Ok(read) => read,
        Err(message) => return problem(StatusCode::BAD_REQUEST, "bad_request", &message),
    };
    let server = match look_up(&api, token).await {
        Ok(server) => server,
        Err(refusal) => return *refusal,
    };
    let ask = Ask::Visible {
        xid: token.xid,
        server,
        regions,
        within,
    };
    match pass_on(&api, ask).await {
        Ok(Reply::Visible(stores)) => {
            // A transaction that was rolled back meanwhile has ended too.
            if let Err(refusal) = look_up(&api, token).await {
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
async fn look_up(api: &Api, token: Token) -> Result<Server, Box<Response>> {
    let parts = api.parts();
    let source = &parts.source;
    let asking = source.fate(token.xid, token.started);
    let refusal = match source.within(DATABASE_WITHIN, asking).await {
        Ok((Fate::Committed | Fate::Open, server)) => return Ok(server),
        Ok((Fate::Aborted, _)) => problem(
            StatusCode::CONFLICT,
            "aborted",
            "the transaction was rolled back: nothing of it will ever be visible",
        ),
        Ok((Fate::OfAnotherServer, _)) => problem(
            StatusCode::CONFLICT,
            "replaced",
            "the database server was restarted or replaced since the token was given: read there whether the transaction \
             was kept, and take a new token in a transaction of its own",
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
    fn a_token_is_a_transaction_and_mostly_its_server() {
        let token = |xid, started| Some(Token { xid, started });
        assert_eq!(
            Token::read("1234-1764370000123456"),
            token(1234, Some(1_764_370_000_123_456))
        );
        assert_eq!(Token::read("1234"), token(1234, None));
        for wrong in ["", "-", "2", "2-5", "12-", "12-x", "-12-5", "1;2"] {
            assert_eq!(Token::read(wrong), None, "{wrong}");
        }
    }

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
