//! An API gateway that authenticates from the agent of its own region. Copy what you need.
//!
//! ```sh
//! cargo run --example gateway -- --listen 127.0.0.1:8080 --agent http://127.0.0.1:7521
//! curl -i -H 'Authorization: Bearer hk_...' http://127.0.0.1:8080/
//! ```
//!
//! A request brings `Authorization: Bearer KEY`. The gateway hashes the key, looks the hash up as an `api_key` context,
//! then looks up the `cluster` that the key is for:
//!
//! | status | when | what a client should do |
//! | --- | --- | --- |
//! | 200 | the key is known and active | - |
//! | 401 | no key in the request, or the agent *knows* that there is no such key | ask for another key |
//! | 403 | the key is known and revoked | ask for another key |
//! | 503 | the agent cannot say, or cannot be reached | try again |
//!
//! The difference between 401 and 503 is the point of the whole system: a store that is being filled for the first time
//! says "not ready", never "no such key", and a gateway must pass that on. Turning a 503 (or a timeout) into a 401 would
//! lock out every customer of a region at the moment in which it can least be afforded.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use clap::Parser;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;

const TENANT: HeaderName = HeaderName::from_static("x-context-tenant");
const AGE: HeaderName = HeaderName::from_static("x-context-age");

/// The agent is on the same machine or next door. If it does not answer in this time, something is wrong there, and a
/// quick 503 is worth more to a client than a slow one.
const AGENT_TIMEOUT: Duration = Duration::from_secs(1);

/// A gateway in front of nothing: it answers what it would have passed on.
#[derive(Parser)]
struct Args {
    /// Where clients connect.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// The read listener of the region's agent.
    #[arg(long, default_value = "http://127.0.0.1:7521")]
    agent: String,
    /// The agent's `read_token`, if it has one.
    #[arg(long, env = "HUBCAST_AGENT_READ_TOKEN", hide_env_values = true)]
    read_token: Option<String>,
}

/// What every request shares. The client keeps connections to the agent open, so a lookup costs one round trip.
#[derive(Clone)]
struct Gateway {
    client: reqwest::Client,
    agent: String,
    read_token: Option<String>,
}

/// What the agent knows of a key.
struct Known {
    /// Its context; none only if the agent *knows* that there is none.
    context: Option<Context>,
    /// Seconds since the moment up to which the agent has every change. A "no" is as old as a "yes".
    age: Option<f64>,
}

struct Context {
    tenant: String,
    value: Value,
}

/// Why a request is not let through.
enum Denied {
    NoKey,
    UnknownKey { age: Option<f64> },
    Revoked { age: Option<f64> },
    NotReady(String),
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let (status, error, detail, age) = match self {
            Self::NoKey => (StatusCode::UNAUTHORIZED, "no_key", String::new(), None),
            Self::UnknownKey { age } => {
                (StatusCode::UNAUTHORIZED, "unknown_key", String::new(), age)
            }
            Self::Revoked { age } => (StatusCode::FORBIDDEN, "revoked_key", String::new(), age),
            Self::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready", why, None),
        };
        let body = axum::Json(json!({ "error": error, "detail": detail }));
        let mut response = match status {
            StatusCode::SERVICE_UNAVAILABLE => (status, [(RETRY_AFTER, "1")], body).into_response(),
            _ => (status, body).into_response(),
        };
        pass_on_age(&mut response, age);
        response
    }
}

/// So that whoever looks at an answer can see how old it may be.
fn pass_on_age(response: &mut Response, age: Option<f64>) {
    if let Some(age) = age.and_then(|age| format!("{age:.3}").parse().ok()) {
        response.headers_mut().insert(AGE, age);
    }
}

impl Gateway {
    async fn look_up(&self, kind: &str, key: &str) -> Result<Known, Denied> {
        // Everything but letters and digits is encoded: a slash in a key is %2F.
        let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
        let mut request = self
            .client
            .get(format!("{}/v1/contexts/{kind}/{key}", self.agent));
        if let Some(token) = &self.read_token {
            request = request.bearer_auth(token);
        }
        let response = request
            .send()
            .await
            .map_err(|_| Denied::NotReady("the agent of this region cannot be reached".into()))?;
        let age = text(response.headers(), AGE).and_then(|age| age.parse().ok());
        match response.status() {
            reqwest::StatusCode::OK => Ok(Known {
                context: Some(context(response).await?),
                age,
            }),
            // The one answer that means "no": the agent is in step with the hub, and there is no such key (or it was
            // limited in time, and that time is over).
            reqwest::StatusCode::NOT_FOUND => Ok(Known { context: None, age }),
            // Not ready, held, or anything unforeseen. What cannot be known is not denied.
            status => Err(Denied::NotReady(format!(
                "the agent of this region answers {status}"
            ))),
        }
    }

    async fn authenticate(&self, api_key: &str) -> Result<Value, Denied> {
        // Only the hash of a key is ever stored or looked up. SHA-256 is right for keys that are long and random;
        // passwords would need something slow.
        let hash: String = Sha256::digest(api_key)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();

        // Key and cluster arrive together, in one bundle. Between the two lookups that bundle may be replaced, so a
        // key without its cluster is looked up once more from the start: by then the key is gone as well.
        for _ in 0..2 {
            let Known { context, age } = self.look_up("api_key", &hash).await?;
            let key = context.ok_or(Denied::UnknownKey { age })?;
            // Only `true` is active: a field that is missing lets nobody in.
            if key.value["active"] != Value::Bool(true) {
                return Err(Denied::Revoked { age });
            }
            let cluster_id = match &key.value["cluster_id"] {
                Value::String(id) => id.clone(),
                other => other.to_string(),
            };
            let known = self.look_up("cluster", &cluster_id).await?;
            if let Some(cluster) = known.context {
                return Ok(json!({
                    "tenant": key.tenant,
                    "scopes": key.value["scopes"],
                    "cluster_id": cluster_id,
                    "cluster": cluster.value,
                    // The older of the two, if they differ. A gateway that must not act on old data can refuse here;
                    // most should not: an answer that is ten minutes old is better than none.
                    "age": age.into_iter().chain(known.age).reduce(f64::max),
                }));
            }
        }
        Err(Denied::NotReady(
            "the cluster of this key is not in this region yet".into(),
        ))
    }
}

async fn context(response: reqwest::Response) -> Result<Context, Denied> {
    let header = |name| text(response.headers(), name).unwrap_or_default();
    // Tenants may be any text, and a header may not: they are percent-encoded.
    let tenant = percent_decode_str(&header(TENANT))
        .decode_utf8_lossy()
        .into_owned();
    let value = response.json().await;
    let value = value.map_err(|_| Denied::NotReady("the agent's answer cannot be read".into()))?;
    Ok(Context { tenant, value })
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Every path is treated alike; a real gateway would now pass the request on to the cluster's host.
async fn handle(State(gateway): State<Gateway>, request: Request) -> Result<Response, Denied> {
    let authorization = text(request.headers(), AUTHORIZATION).ok_or(Denied::NoKey)?;
    let api_key = authorization.strip_prefix("Bearer ").ok_or(Denied::NoKey)?;
    let answer = gateway.authenticate(api_key).await?;
    let age = answer["age"].as_f64();
    let mut response = axum::Json(answer).into_response();
    pass_on_age(&mut response, age);
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    // The client wants a TLS provider, although the agent of one's own region is usually asked without TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let gateway = Gateway {
        client: reqwest::Client::builder()
            .no_proxy()
            .timeout(AGENT_TIMEOUT)
            .build()?,
        agent: args.agent.trim_end_matches('/').to_owned(),
        read_token: args.read_token,
    };
    let listener = tokio::net::TcpListener::bind(&args.listen).await?;
    eprintln!(
        "gateway listens on {}, agent {}",
        listener.local_addr()?,
        gateway.agent
    );
    let routes = Router::new().fallback(handle).with_state(gateway);
    axum::serve(listener, routes).await?;
    Ok(())
}
