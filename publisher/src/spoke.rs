//! The hub's side of the push protocol: one agent, over HTTP. No decisions: it sends what it is given and says what
//! came back, or that nothing did.

use crate::config::{Config, SpokeConfig};
use contexts::name::Region;
use contexts::push::{self, ListBuckets, Listed, ReadTenant, Refused, StoreState, TenantsRead};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// For questions and claims.
pub const ASK_WITHIN: Duration = Duration::from_secs(5);
/// For pushes: a slow link may need this long for eight mebibytes.
pub const PUSH_WITHIN: Duration = Duration::from_secs(60);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing came back, and there is no telling whether the message arrived.
    #[error("{0}")]
    Lost(String),
    /// The agent, or whatever is at the address, does not accept us.
    #[error("{0}")]
    Rejected(String),
}

/// An agent.
#[derive(Debug)]
pub struct Spoke {
    client: reqwest::Client,
    /// Its push address.
    pub url: String,
    /// Its region.
    pub region: Region,
    token: SecretString,
}

impl Spoke {
    /// All agents of a configuration, by address.
    ///
    /// # Errors
    /// If the HTTP client cannot be set up.
    pub fn all(config: &Config) -> Result<Vec<Self>, String> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|e| format!("the HTTP client cannot be set up: {e}"))?;
        let agents = |s: &SpokeConfig| {
            let (client, token, region) = (client.clone(), s.token.clone(), s.region.clone());
            let spoke = move |url: &String| Self {
                client: client.clone(),
                url: url.clone(),
                region: region.clone(),
                token: token.clone(),
            };
            s.agents.iter().map(spoke).collect::<Vec<_>>()
        };
        Ok(config.spokes.iter().flat_map(agents).collect())
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        format!("{} {}", self.region, self.url)
    }

    /// Sends a message and decodes the answer.
    ///
    /// # Errors
    /// [`CallError`] if there is none.
    pub async fn call<M: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        message: &M,
        within: Duration,
    ) -> Result<Result<A, Refused>, CallError> {
        let body = push::encode(message).map_err(|e| CallError::Rejected(e.to_string()))?;
        let request = self
            .client
            .post(format!("{}/push/v1/{path}", self.url))
            .bearer_auth(self.token.expose_secret())
            .timeout(within)
            .body(body);
        let response = request
            .send()
            .await
            .map_err(|e| CallError::Lost(root_cause(&e)))?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .map_err(|e| CallError::Lost(root_cause(&e)))?;
        match status {
            StatusCode::OK => push::decode(&body).map_err(|e| {
                CallError::Rejected(format!(
                    "the answer is not that of an agent ({e}): is the address that of push_listen?"
                ))
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(CallError::Rejected(format!(
                "the agent refuses the token: spoke.token of region {:?} is not its push_token",
                self.region
            ))),
            StatusCode::NOT_FOUND => Err(CallError::Rejected(
                "there is a server, but no agent's push listener: is the port that of push_listen?"
                    .into(),
            )),
            StatusCode::UPGRADE_REQUIRED
            | StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE => {
                let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                Err(CallError::Rejected(text))
            }
            other => Err(CallError::Lost(format!("the agent answers {other}"))),
        }
    }

    /// Asks who it is.
    ///
    /// # Errors
    /// As a line for a person; also if it serves another region.
    pub async fn hello(&self) -> Result<StoreState, String> {
        let state: StoreState = flatten(self.call("hello", &push::Hello, ASK_WITHIN).await)?;
        match state.region == self.region {
            true => Ok(state),
            false => Err(format!(
                "the agent serves region {:?}, not {:?}: the address or the region is wrong in the configuration",
                state.region, self.region
            )),
        }
    }

    /// Asks which tenants some buckets hold.
    ///
    /// # Errors
    /// As a line for a person.
    pub async fn buckets(&self, buckets: Vec<u16>) -> Result<Vec<Listed>, String> {
        flatten(
            self.call("buckets", &ListBuckets { buckets }, PUSH_WITHIN)
                .await,
        )
    }

    /// Asks for all that it holds of some tenants, and who owns some keys.
    ///
    /// # Errors
    /// As a line for a person.
    pub async fn read(&self, ask: &ReadTenant) -> Result<TenantsRead, String> {
        flatten(self.call("read", ask, PUSH_WITHIN).await)
    }
}

fn flatten<A>(answer: Result<Result<A, Refused>, CallError>) -> Result<A, String> {
    answer
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}

/// The innermost reason, which is the one that a person can act on; without the address, which is named anyway.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let what = if error.is_connect() {
        "cannot connect: "
    } else {
        ""
    };
    format!("{what}{cause}")
}
