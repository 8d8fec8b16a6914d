//! `GET /v1/tail?region=&kind=&tenant=`: changes as they become durable in stores, as server-sent events.
//!
//! | event | data |
//! | --- | --- |
//! | `writer` | `{"is_writer": bool}`: whether changes go out from this publisher; first, and whenever that changes |
//! | `gone` | a [`Line`](crate::tail::Line) |
//! | `missed` | `{"lines": n}`: whoever follows was too slow for so many lines, of which some may have been wanted |

use super::{Api, known, problem};
use crate::engine::EngineView;
use crate::tail::{Filter, Line};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;

/// One who follows.
struct Follower {
    api: Arc<Api>,
    filter: Filter,
    lines: Receiver<Arc<Line>>,
    view: watch::Receiver<Option<EngineView>>,
    is_writer: Option<bool>,
    stopped: watch::Receiver<bool>,
}

impl Follower {
    /// The next event; none when the publisher stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                // Who writes is told before what was written.
                biased;
                _ = self.stopped.wait_for(|stopped| *stopped) => return None,
                changed = self.view.changed() => {
                    changed.ok()?;
                    let is_writer = self.view.borrow_and_update().is_some();
                    if self.is_writer.replace(is_writer) != Some(is_writer) {
                        return event("writer", &json!({ "is_writer": is_writer }));
                    }
                }
                line = self.lines.recv() => match line {
                    Ok(line) if self.filter.wants(&line) => {
                        return event("gone", &serde_json::to_value(&*line).ok()?);
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(lines)) => return event("missed", &json!({ "lines": lines })),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // This one still counts.
        if self.api.tail.followers() <= 1 {
            self.api.tail.forget();
        }
    }
}

fn event(name: &str, data: &Value) -> Option<Event> {
    Some(Event::default().event(name).data(data.to_string()))
}

pub(super) async fn tail(
    State(api): State<Arc<Api>>,
    asked: Result<Query<Filter>, QueryRejection>,
) -> Response {
    let wrong = |message: &str| problem(StatusCode::BAD_REQUEST, "bad_request", message);
    let Query(filter) = match asked {
        Ok(asked) => asked,
        Err(e) => return wrong(&e.body_text()),
    };
    let only = filter.region.clone().map(|r| [r].into());
    let kinds = filter.kind.as_ref().map(std::slice::from_ref);
    if let Err(message) = known(&api.config(), kinds, only.as_ref()) {
        return wrong(&message);
    }
    let mut view = api.view.clone();
    view.mark_changed();
    let follower = Follower {
        filter,
        lines: api.tail.follow(),
        view,
        is_writer: None,
        stopped: api.stopped.clone(),
        api,
    };
    let events = stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response()
}
