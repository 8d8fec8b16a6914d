//! An agent, over HTTP, or HTTPS with certificates that are read again when they change.

use super::{CallError, Called};
use crate::config::HubConfig;
use crate::metrics;
use axum::body::Bytes;
use contexts::name::Region;
use contexts::push::{self, BadBody};
use hubcast_tls::client::{self, ClientFiles};
use hubcast_tls::reload::Reloading;
use hubcast_tls::trouble;
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// How often a call is sent, if an agent says that it has to come over another connection. It does when a certificate ended,
/// and there are no more connections than there are calls at a time.
const SENT_AT_MOST: u32 = 4;

/// The HTTP clients: one for all agents that are trusted by the same files.
pub(super) struct Clients<'a> {
    usual: &'a ClientFiles,
    made: Vec<(ClientFiles, Reloading<Client>)>,
}

impl<'a> Clients<'a> {
    /// For this hub.
    pub(super) fn of(hub: &'a HubConfig) -> Self {
        let (usual, made) = (&hub.spoke_tls, Vec::new());
        Self { usual, made }
    }

    /// The client for a region, which may have files of its own.
    pub(super) fn client(
        &mut self,
        region: &Region,
        own: Option<&ClientFiles>,
    ) -> Reloading<Client> {
        let files = own.unwrap_or(self.usual);
        if let Some((_, client)) = self.made.iter().find(|(of, _)| of == files) {
            return client.clone();
        }
        let name = match files == self.usual {
            true => "hub.spoke_tls".to_owned(),
            false => format!("spoke.tls of {region}"),
        };
        let client = client::reloading(&name, files, builder);
        metrics::watch(client.certificate());
        self.made.push((files.clone(), client.clone()));
        client
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .connect_timeout(Duration::from_secs(3))
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_nodelay(true)
        .no_proxy()
}

/// An agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) client: Reloading<Client>,
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
        let response = self.send(path, body.into(), within).await?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .map_err(|e| CallError::Lost(root_cause(&e)))?;
        match status {
            StatusCode::OK => push::decode(&body).map_err(|e| CallError::Rejected(unread(&e))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(CallError::Rejected(format!(
                "the agent refuses the token: spoke.token of region {:?} is not its push_token",
                self.region
            ))),
            StatusCode::NOT_FOUND => Err(CallError::Unknown(
                "there is a server, but no agent's push listener: is the port that of push_listen?"
                    .into(),
            )),
            StatusCode::UPGRADE_REQUIRED
            | StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE => {
                let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                let text = text.trim();
                Err(CallError::Rejected(match status {
                    StatusCode::UPGRADE_REQUIRED => format!(
                        "the agent is of a release that this one cannot talk to ({text}): upgrade the older of the two"
                    ),
                    _ => format!("the agent does not take the message: {text}"),
                }))
            }
            other => Err(CallError::Lost(format!("the agent answers {other}"))),
        }
    }
}

impl Agent {
    async fn send(&self, path: &str, body: Bytes, within: Duration) -> Result<Response, CallError> {
        let made = self.client.now();
        let client = made
            .it
            .as_ref()
            .map_err(|e| CallError::Lost(e.to_string()))?;
        let mut sent = 1;
        loop {
            let request = client
                .post(format!("{}/push/v1/{path}", self.url))
                .bearer_auth(self.token.expose_secret())
                .timeout(within)
                .body(body.clone());
            let response = request.send().await;
            let response = response.map_err(|e| CallError::Lost(root_cause(&e)))?;
            // It has not looked at the message, and has closed this connection.
            if response.status() != StatusCode::MISDIRECTED_REQUEST || sent == SENT_AT_MOST {
                return Ok(response);
            }
            sent += 1;
        }
    }
}

/// Why an answer cannot be read, and what to look at.
fn unread(error: &BadBody) -> String {
    match error {
        BadBody::Protocol { .. } => format!(
            "the agent is of a release that this one cannot talk to ({error}): upgrade the older of the two"
        ),
        _ => format!(
            "the answer is not that of an agent ({error}): is the address that of push_listen?"
        ),
    }
}

/// The innermost reason, which is the one that a person can act on; without the address, which is named anyway.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    if let Some(trouble) = trouble::of(error) {
        return format!("TLS: {}", trouble.text);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let cause = cause.to_string();
    // The first bytes of TLS, taken for a status line.
    if cause.contains("invalid HTTP") {
        return "what answers does not speak HTTP; is it https rather than http?".to_owned();
    }
    let what = if error.is_connect() {
        "cannot connect: "
    } else {
        ""
    };
    format!("{what}{cause}")
}
