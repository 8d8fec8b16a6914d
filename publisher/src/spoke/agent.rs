//! An agent, over HTTP.

use super::{CallError, Called};
use contexts::name::Region;
use contexts::push;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// The HTTP client that all agents share.
///
/// # Errors
/// If it cannot be set up.
pub(super) fn client() -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(3))
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_nodelay(true)
        .no_proxy()
        .build()
        .map_err(|e| format!("the HTTP client cannot be set up: {e}"))
}

/// An agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) client: reqwest::Client,
    /// Its push address.
    pub(super) url: String,
    /// The region that it should serve.
    pub(super) region: Region,
    pub(super) token: SecretString,
}

impl Agent {
    /// Sends a message and decodes the answer.
    ///
    /// # Errors
    /// [`CallError`] if there is none.
    pub(super) async fn call<M: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        message: &M,
        within: Duration,
    ) -> Called<A> {
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
