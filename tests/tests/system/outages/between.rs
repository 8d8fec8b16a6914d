//! Somebody between a hub and an agent who understands what they say, and makes one of them another release.

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header::AUTHORIZATION};
use axum::response::{IntoResponse, Response};
use contexts::push::{Push, Pushed, Refused, Verdict, decode, encode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use system_tests::region::Agent;
use system_tests::{Result, free_port};
use tokio::task::JoinHandle;

const LARGEST: usize = 64 << 20;

/// What is changed on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Nothing.
    Silent,
    /// The hub's messages are of this protocol.
    HubSpeaks(u8),
    /// The agent's answers are.
    AgentSpeaks(u8),
    /// The agent takes no bundle of this tenant.
    Refuses(&'static str),
}

/// It, running until it is dropped.
pub struct Between {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    agent: String,
    client: reqwest::Client,
    part: Mutex<Part>,
    /// When a bundle was refused.
    refused: Mutex<Vec<Instant>>,
}

impl Between {
    /// Before this agent; whoever makes a hub after this gets there.
    pub async fn before(agent: &mut Agent, part: Part) -> Result<Self> {
        let port = free_port()?;
        let shared = Arc::new(Shared {
            agent: format!("http://127.0.0.1:{}", agent.push),
            client: system_tests::client()?,
            part: Mutex::new(part),
            refused: Mutex::default(),
        });
        let routes = Router::new().fallback(pass).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let task = tokio::spawn(async move {
            // It ends with the task.
            let _ = axum::serve(listener, routes).await;
        });
        agent.via = Some(port);
        Ok(Self { shared, task })
    }

    /// From now on.
    pub fn plays(&self, part: Part) {
        *self
            .shared
            .part
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = part;
    }

    /// When bundles were refused so far.
    pub fn refused(&self) -> Vec<Instant> {
        let refused = self.shared.refused.lock();
        refused.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    passed(&shared, request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response())
}

async fn passed(shared: &Shared, request: Request) -> Result<Response> {
    let part = shared
        .part
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let path = request.uri().path().to_owned();
    let token = request.headers().get(AUTHORIZATION).cloned();
    let mut body = to_bytes(request.into_body(), LARGEST).await?.to_vec();
    let mut places = Vec::new();
    match part {
        Part::HubSpeaks(protocol) => body[0] = protocol,
        Part::Refuses(tenant) if path.ends_with("/push") => {
            (body, places) = without(&body, tenant)?;
            let now = Instant::now();
            let mut refused = shared
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            refused.extend(places.iter().map(|_| now));
        }
        _ => {}
    }
    let mut sent = shared
        .client
        .post(format!("{}{path}", shared.agent))
        .body(body);
    if let Some(token) = token {
        sent = sent.header(AUTHORIZATION, token);
    }
    let response = sent.send().await?;
    let status = response.status();
    let mut body = response.bytes().await?;
    if let Part::AgentSpeaks(protocol) = part
        && status == StatusCode::OK
    {
        let mut bytes = body.to_vec();
        bytes[0] = protocol;
        body = bytes.into();
    }
    if !places.is_empty() {
        body = with_refusals(&body, &places)?;
    }
    Ok((status, body).into_response())
}

/// A push without the bundles of a tenant, and the places where they stood.
fn without(body: &[u8], tenant: &str) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut push: Push = decode(body)?;
    let is_theirs = |at: &usize| push.bundles[*at].bundle.tenant.as_str() == tenant;
    let places: Vec<usize> = (0..push.bundles.len()).filter(is_theirs).collect();
    push.bundles
        .retain(|sent| sent.bundle.tenant.as_str() != tenant);
    Ok((encode(&push)?, places))
}

/// The answer to such a push with a refusal in each of these places.
fn with_refusals(body: &[u8], places: &[usize]) -> Result<Bytes> {
    let answer: std::result::Result<Pushed, Refused> = decode(body)?;
    let answer = answer.map(|mut pushed| {
        for at in places {
            let why = "a field that it does not know".to_owned();
            pushed.verdicts.insert(*at, Verdict::Invalid { why });
        }
        pushed
    });
    Ok(encode(&answer)?.into())
}
