//! A publisher that is asked over its API: with `--hub URL` by an operator who has a token and nothing else, and without
//! it by `status` and `tail`, which ask the daemon of their own configuration.
//!
//! It must never show the token, and never read a database or ask a store: what a command says here is what the hub
//! answers.

use super::{Context, Global, Stop};
use crate::config;
use hubcast_tls::client::{self, ClientFiles};
use hubcast_tls::trouble;
use reqwest::{Client, Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// The variable with the token.
const TOKEN: &str = "HUBCAST_API_TOKEN";
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take that nobody waits for.
const SHORT: Duration = Duration::from_secs(8);
/// How long one may take that waits for receipts.
pub(super) const RECEIPTS: Duration = Duration::from_secs(45);

/// A publisher that can be asked.
pub(super) struct Hub {
    client: Client,
    /// Its address, without a slash at its end.
    pub base: String,
    token: SecretString,
}

/// Why there is no answer.
pub(super) enum Refusal {
    /// It cannot be reached, or breaks off.
    Unreachable(String),
    /// It answers otherwise.
    Answer(StatusCode, String),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unreachable(why) => Self::Failed(why),
            Refusal::Answer(status, why) => match status.as_u16() {
                400 | 401 | 403 => Self::Usage(why),
                _ => Self::Failed(why),
            },
        }
    }
}

impl Hub {
    /// The one that `--hub` names. Token and CA are what was said, else what the configuration has, if there is one.
    pub(super) fn named(global: &Global, url: &str) -> Result<Self, Stop> {
        let said = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
        let configured = match &said {
            Some(_) => None,
            None => config::load(&global.config, global.insecure).ok(),
        };
        let token = said.map(SecretString::from);
        let token = token.or_else(|| configured.as_ref().map(|c| c.hub.api_token.clone()));
        let token = token.ok_or_else(|| {
            Stop::Usage(format!(
                "--hub needs a token: set {TOKEN} to hub.api_token or to the token of a [[hub.token]]"
            ))
        })?;
        let files = match (&global.hub_ca, configured) {
            (Some(ca), _) => ClientFiles {
                ca: Some(ca.clone()),
                identity: None,
            },
            (None, Some(config)) => config.hub.spoke_tls,
            (None, None) => ClientFiles::default(),
        };
        let client = client::client(&files, builder()).map_err(|e| Stop::Usage(e.to_string()))?;
        Self::at(url, client, token)
    }

    /// The daemon of a configuration.
    pub(super) fn own(context: &Context) -> Result<Self, Stop> {
        let hub = &context.config.hub;
        let (scheme, client) = match &hub.tls {
            // It has the certificate of this very configuration.
            Some(files) => ("https", client::pinned(files, builder())),
            None => ("http", client::client(&hub.spoke_tls, builder())),
        };
        let client = client.map_err(|e| Stop::Usage(e.to_string()))?;
        let url = format!("{scheme}://{}", hub.listen);
        Self::at(&url, client, hub.api_token.clone())
    }

    fn at(url: &str, client: Client, token: SecretString) -> Result<Self, Stop> {
        let base = url.trim_end_matches('/').to_owned();
        match reqwest::Url::parse(&base) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Self {
                client,
                base,
                token,
            }),
            _ => Err(Stop::Usage(format!(
                "--hub: {url:?} is no address; one looks like https://hub.example.com:7400"
            ))),
        }
    }

    /// What it answers to a question.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
        within: Option<Duration>,
    ) -> Result<T, Refusal> {
        let response = self.ask(Method::GET, path, query, None, within).await?;
        read(&self.base, response).await
    }

    /// What it answers to a wish.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        wish: &(impl Serialize + Sync),
        within: Option<Duration>,
    ) -> Result<T, Refusal> {
        let wish = serde_json::to_value(wish).unwrap_or_default();
        let response = self
            .ask(Method::POST, path, &[], Some(&wish), within)
            .await?;
        read(&self.base, response).await
    }

    /// An answer that goes on.
    pub(super) async fn follow(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
    ) -> Result<Response, Refusal> {
        self.ask(Method::GET, path, query, None, None).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, Option<String>)],
        wish: Option<&Value>,
        within: Option<Duration>,
    ) -> Result<Response, Refusal> {
        let url = reqwest::Url::parse(&format!("{}{path}", self.base));
        let mut url = url.map_err(|e| Refusal::Unreachable(format!("{}: {e}", self.base)))?;
        for (name, value) in query {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut request = self.client.request(method, url);
        request = request.bearer_auth(self.token.expose_secret());
        if let Some(wish) = wish {
            request = request.json(wish);
        }
        if let Some(within) = within {
            request = request.timeout(within);
        }
        let response = request.send().await.map_err(|e| self.broken(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body: Value = response.json().await.unwrap_or_default();
        let why = body["message"].as_str().unwrap_or("it says no more");
        let why = format!("{} answers {}: {why}", self.base, status.as_u16());
        Err(Refusal::Answer(status, why))
    }

    /// Why it could not be asked, or broke off.
    pub(super) fn broken(&self, error: &reqwest::Error) -> Refusal {
        let why = match trouble::of(error) {
            Some(trouble) => format!("TLS: {}", trouble.text),
            None => {
                let mut cause: &dyn std::error::Error = error;
                while let Some(next) = cause.source() {
                    cause = next;
                }
                cause.to_string()
            }
        };
        Refusal::Unreachable(format!("{} cannot be reached: {why}", self.base))
    }
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder().no_proxy().connect_timeout(CONNECT)
}

async fn read<T: DeserializeOwned>(base: &str, response: Response) -> Result<T, Refusal> {
    let status = response.status();
    response.json().await.map_err(|e| {
        let why = format!(
            "{base} answers something else than was asked; is it of another release? ({e})"
        );
        Refusal::Answer(status, why)
    })
}

/// How long a short answer may take.
pub(super) fn short() -> Option<Duration> {
    Some(SHORT)
}
