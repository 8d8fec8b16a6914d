//! The push listener: what the hub calls. It checks the token before it reads a body, decodes, and hands over; it
//! decides nothing.
//!
//! | `POST /push/v1/` | body | answer (`Result<_, Refused>`) | asks |
//! | --- | --- | --- | --- |
//! | `hello` | `Hello` | `StoreState` | what was published last |
//! | `claim` | `Claim` | `Granted` | the writer |
//! | `push` | `Push` | `Pushed` | the writer |
//! | `delta` | `PushDelta` | `PushedDelta` | the writer |
//! | `synced` | `Synced` | `SyncVerdict` | the writer |
//! | `heartbeat` | `Heartbeat` | `Ack` | the writer |
//! | `release` | `Release` | `Ack` | the writer |
//! | `buckets` | `ListBuckets` | `Vec<Listed>` | a snapshot |
//! | `read` | `ReadTenant` | `TenantsRead` | a snapshot |
//! | `copy` | `Copy`, from an agent of this region | all rows, see [`crate::peer`] | a snapshot |
//!
//! Every call that was understood is answered with 200; a refusal is an answer. 401: wrong token. 400: not a message.
//! 413: too large. 426: a protocol that this release does not speak.

use crate::failpoint;
use crate::peer::{Copy, give};
use crate::store::live::Live;
use crate::store::redb::StoreError;
use crate::store::redb::db::Db;
use crate::store::redb::reader::Snapshot;
use crate::store::redb::writer::{Command, WriterHandle};
use crate::{clock::Clock, token::Tokens};
use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use contexts::delta::{PushDelta, PushedDelta};
use contexts::limits;
use contexts::name::Region;
use contexts::push::{
    BadBody, Claim, Heartbeat, Hello, ListBuckets, Listed, Push, ReadTenant, Refused, Release,
    StoreState, Synced, TenantsRead, decode, encode, plain_bytes,
};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use tokio::sync::watch;

/// Messages from this size on are decoded on a thread of their own, and so are those that were compressed, since no small
/// one is. To wake a thread takes longer than to decode less.
const LARGE: usize = 32 << 10;

/// What the push listener needs.
#[derive(Clone)]
pub struct Receive {
    /// The hub's token, or two.
    pub token: Tokens,
    /// The region that this agent serves.
    pub region: Region,
    /// The way to the writer.
    pub writer: WriterHandle,
    /// What the writer published last.
    pub live: watch::Receiver<Arc<Live>>,
    /// The store, for snapshots.
    pub db: Arc<Db>,
    /// The clock.
    pub clock: Clock,
}

/// Why a call is not answered with a message.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("the token is missing or wrong")]
    Token,
    #[error("the body cannot be read: {0}")]
    Unread(String),
    #[error(transparent)]
    Body(#[from] BadBody),
}

impl IntoResponse for Rejected {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Unread(_) | Self::Body(BadBody::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BadBody::Protocol { .. }) => StatusCode::UPGRADE_REQUIRED,
            Self::Body(BadBody::Malformed(_)) => StatusCode::BAD_REQUEST,
        };
        (status, format!("{self}\n")).into_response()
    }
}

type Answer = Result<Response, Rejected>;

/// The routes of the push listener.
pub fn routes(receive: Receive) -> Router {
    Router::new()
        .route("/push/v1/hello", post(hello))
        .route("/push/v1/claim", post(claim))
        .route("/push/v1/push", post(push))
        .route("/push/v1/delta", post(delta))
        .route("/push/v1/synced", post(synced))
        .route("/push/v1/heartbeat", post(heartbeat))
        .route("/push/v1/release", post(release))
        .route("/push/v1/buckets", post(buckets))
        .route("/push/v1/read", post(read))
        .route("/push/v1/copy", post(copy))
        .with_state(receive)
}

impl Receive {
    async fn body(&self, request: Request) -> Result<Bytes, Rejected> {
        if !self.token.are_carried(request.headers()) {
            return Err(Rejected::Token);
        }
        to_bytes(request.into_body(), limits::DECODED_BYTES)
            .await
            .map_err(|error| Rejected::Unread(error.to_string()))
    }

    /// A message, decoded where it holds up no other request.
    async fn message<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Request,
    ) -> Result<T, Rejected> {
        let body = self.body(request).await?;
        if plain_bytes(&body).is_some_and(|bytes| bytes < LARGE) {
            return Ok(decode(&body)?);
        }
        let decoded = tokio::task::spawn_blocking(move || decode(&body)).await;
        Ok(decoded.map_err(|error| BadBody::Malformed(error.to_string()))??)
    }

    async fn pushed(&self, push: PushDelta) -> Result<PushedDelta, Refused> {
        // A push that carries but a beat has nothing to lose.
        if !push.changes.is_empty() {
            failpoint::hit(failpoint::AFTER_DECODE);
        }
        self.writer.ask(|reply| Command::Push(push, reply)).await
    }

    /// Reads from a snapshot where it holds up no other request.
    async fn snapshot<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refused> {
        let db = self.db.clone();
        let reading = move || Snapshot::take(&db).and_then(|snapshot| read(&snapshot));
        let storage = |why: String| Refused::Storage { why };
        match tokio::task::spawn_blocking(reading).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(storage(error.to_string())),
            Err(error) => Err(storage(error.to_string())),
        }
    }
}

fn answer<T: Serialize>(answer: &Result<T, Refused>) -> Answer {
    Ok(encode(answer)?.into_response())
}

async fn hello(State(my): State<Receive>, request: Request) -> Answer {
    let Hello = my.message(request).await?;
    let live = my.live.borrow().clone();
    let state: StoreState = live.to_state(my.clock.reading(), my.db.file_bytes());
    answer(&Ok(state))
}

async fn claim(State(my): State<Receive>, request: Request) -> Answer {
    let claim: Claim = my.message(request).await?;
    let claim = Box::new(claim);
    answer(&my.writer.ask(|reply| Command::Claim(claim, reply)).await)
}

async fn push(State(my): State<Receive>, request: Request) -> Answer {
    let push: Push = my.message(request).await?;
    let pushed = my.pushed(push.into()).await;
    answer(&pushed.and_then(|pushed| match pushed {
        PushedDelta::Pushed(pushed) => Ok(pushed),
        // Whole bundles are for whatever is there. If not, the writer has to ask what that is.
        PushedDelta::Differs { .. } => Err(Refused::Changed),
    }))
}

async fn delta(State(my): State<Receive>, request: Request) -> Answer {
    let push: PushDelta = my.message(request).await?;
    answer(&my.pushed(push).await)
}

async fn synced(State(my): State<Receive>, request: Request) -> Answer {
    let synced: Box<Synced> = Box::new(my.message(request).await?);
    answer(&my.writer.ask(|reply| Command::Synced(synced, reply)).await)
}

async fn heartbeat(State(my): State<Receive>, request: Request) -> Answer {
    let beat: Heartbeat = my.message(request).await?;
    answer(&my.writer.ask(|reply| Command::Heartbeat(beat, reply)).await)
}

async fn release(State(my): State<Receive>, request: Request) -> Answer {
    let release: Release = my.message(request).await?;
    answer(
        &my.writer
            .ask(|reply| Command::Release(release, reply))
            .await,
    )
}

async fn buckets(State(my): State<Receive>, request: Request) -> Answer {
    let mut asked: ListBuckets = my.message(request).await?;
    asked.buckets.sort_unstable();
    asked.buckets.dedup();
    asked.buckets.truncate(limits::BUCKETS_LISTED);
    let listed: Result<Vec<Listed>, Refused> = my
        .snapshot(move |snapshot| snapshot.list(&asked.buckets))
        .await;
    answer(&listed)
}

async fn read(State(my): State<Receive>, request: Request) -> Answer {
    let asked: ReadTenant = my.message(request).await?;
    let read: Result<TenantsRead, Refused> =
        my.snapshot(move |snapshot| snapshot.tenants(&asked)).await;
    answer(&read)
}

async fn copy(State(my): State<Receive>, request: Request) -> Answer {
    let query = request.uri().query().map(ToOwned::to_owned);
    let asked: Copy = my.message(request).await?;
    let conflict = |why: String| Ok((StatusCode::CONFLICT, format!("{why}\n")).into_response());
    if asked.region != my.region {
        return conflict(format!(
            "this agent serves {:?}, not {:?}",
            my.region, asked.region
        ));
    }
    let (db, clock) = (my.db.clone(), my.clock);
    let begun = tokio::task::spawn_blocking(move || give::copy(&db, clock, query.as_deref())).await;
    match begun {
        Ok(Ok(body)) => Ok(body.into_response()),
        Ok(Err(nothing)) => conflict(nothing.to_string()),
        Err(error) => conflict(error.to_string()),
    }
}
