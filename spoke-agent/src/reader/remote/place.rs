//! One agent: how it is asked over HTTP or a Unix socket, and what its answers mean. It remembers nothing.

use super::BadAddress;
use crate::client::{self, chain};
use crate::reader::sse::Events;
use crate::reader::{Answer, Found, Stamp, mirror};
use crate::store::index::known::Known;
use contexts::version::Version;
use hubcast_tls::client::ClientFiles;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::path::Path;
use std::time::Duration;

const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One agent.
#[derive(Debug, Clone)]
pub(in crate::reader) struct Place {
    client: Client,
    base: String,
    pub(in crate::reader) name: String,
    token: Option<SecretString>,
}

impl Place {
    /// Its address, and a client that waits for a connection and between two pieces of an answer as long as it says.
    pub(in crate::reader) fn new(
        name: &str,
        token: Option<SecretString>,
        ca: Option<&Path>,
        connect: Duration,
        read: Duration,
    ) -> Result<Self, BadAddress> {
        let builder = client::builder()
            .connect_timeout(connect)
            .read_timeout(read);
        let (builder, base) = match name.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => {
                (builder.unix_socket(path), "http://agent".to_owned())
            }
            Some(("http" | "https", rest)) if rest.len() > 2 => {
                (builder, name.trim_end_matches('/').to_owned())
            }
            _ => return Err(BadAddress::Unknown(name.to_owned())),
        };
        let (ca, identity) = (ca.map(Path::to_owned), None);
        let client = hubcast_tls::client::client(&ClientFiles { ca, identity }, builder);
        let client = client.map_err(|error| BadAddress::Client(error.to_string()))?;
        Ok(Self {
            client,
            base,
            name: name.to_owned(),
            token,
        })
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.authorized(self.client.get(format!("{}{path}", self.base)))
    }

    /// What it tells from a cursor on.
    pub(in crate::reader) async fn watch(&self, query: &str) -> Result<Events, String> {
        let response = self.get(&format!("/v1/watch?{query}")).send().await;
        let response = response.map_err(|error| chain(&error))?;
        match response.status() {
            StatusCode::OK => Ok(Events::of(response)),
            StatusCode::UNAUTHORIZED => Err("it refuses the token".into()),
            status => Err(format!("it answers {status}")),
        }
    }
}

/// Text within a query string.
pub(in crate::reader) fn in_query(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}

/// What is asked.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    /// One key.
    One(&'a str, &'a str),
    /// Many, from one state.
    Many(&'a [(&'a str, &'a str)]),
}

/// What one agent said, of each key that it was asked for.
pub(super) struct Said {
    /// The answers.
    pub(super) answers: Vec<Answer>,
    /// Time since the moment up to which every change is in them.
    pub(super) age: Option<Duration>,
    /// The highest version of which nothing was under way to the agent.
    pub(super) position: Version,
}

/// Why an agent said nothing.
pub(super) enum NoAnswer {
    /// It is not as far as what was shown.
    Behind,
    /// It cannot be asked.
    Broken(String),
}

fn least_version(request: RequestBuilder, least: Option<Version>) -> RequestBuilder {
    match least {
        Some(least) if least > Version::default() => {
            request.header("x-context-min-version", least.to_string())
        }
        _ => request,
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn age(response: &Response) -> Option<Duration> {
    let seconds: f64 = header(response, "x-context-age").parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn position(response: &Response) -> Version {
    header(response, "x-context-position")
        .parse()
        .unwrap_or_default()
}

#[derive(Deserialize)]
struct Failure {
    error: String,
}

async fn failed(response: Response) -> Result<Answer, NoAnswer> {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let error = serde_json::from_slice(&body).map_or(String::new(), |f: Failure| f.error);
    match (status.as_u16(), error.as_str()) {
        (404, "not_found") => Ok(Answer::Absent),
        (404, "expired") => Ok(Answer::Expired),
        (503, "held") => Ok(Answer::Held),
        (503, "not_ready") => Ok(Answer::NotReady),
        (412, _) => Err(NoAnswer::Behind),
        (401, _) => Err(NoAnswer::Broken("it refuses the token".into())),
        _ => Err(NoAnswer::Broken(format!("it answers {status} {error}"))),
    }
}

impl Place {
    /// Asks for a state that has at least this version.
    pub(super) async fn ask(
        &self,
        least: Option<Version>,
        asked: Asked<'_>,
    ) -> Result<Said, NoAnswer> {
        let request = match asked {
            Asked::One(kind, key) => self.get(&format!(
                "/v1/contexts/{}/{}",
                in_query(kind),
                in_query(key)
            )),
            Asked::Many(keys) => {
                let name = |(kind, key): &(&str, &str)| json!({ "kind": kind, "key": key });
                let names: Vec<_> = keys.iter().map(name).collect();
                let request = self
                    .client
                    .post(format!("{}/v1/contexts/batch-get", self.base));
                self.authorized(request).json(&json!({ "keys": names }))
            }
        };
        let response = least_version(request, least).send().await;
        let response = response.map_err(|error| NoAnswer::Broken(chain(&error)))?;
        let (age, position) = (age(&response), position(&response));
        let answers = match (response.status(), asked) {
            (StatusCode::OK, Asked::One(kind, key)) => vec![found(kind, key, response).await?],
            (StatusCode::OK, Asked::Many(_)) => batch(response).await?,
            (_, Asked::One(..)) => vec![failed(response).await?],
            (_, Asked::Many(keys)) => match failed(response).await? {
                Answer::NotReady => keys.iter().map(|_| Answer::NotReady).collect(),
                other => return Err(NoAnswer::Broken(format!("it answers {other:?}"))),
            },
        };
        Ok(Said {
            answers,
            age,
            position,
        })
    }
}

async fn found(kind: &str, key: &str, response: Response) -> Result<Answer, NoAnswer> {
    let wrong = || NoAnswer::Broken("an answer without a version".into());
    let version = header(&response, "x-context-version")
        .parse()
        .map_err(|_| wrong())?;
    let tenant = percent_decode_str(header(&response, "x-context-tenant")).decode_utf8_lossy();
    let tenant = tenant.into_owned();
    let value = response
        .bytes()
        .await
        .map_err(|error| NoAnswer::Broken(chain(&error)))?;
    Ok(value_of([kind, key, &tenant], &value, version))
}

fn value_of([kind, key, tenant]: [&str; 3], value: &[u8], version: Version) -> Answer {
    let known = Known::value(kind, key, tenant, value, mirror::digest(value), None);
    let stamp = Stamp::Is(version);
    Answer::Found(Found { known, stamp })
}

#[derive(Deserialize)]
struct Batch {
    contexts: Vec<Option<Element>>,
}

#[derive(Deserialize)]
struct Element {
    kind: String,
    key: String,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    version: String,
    value: Option<Box<RawValue>>,
}

impl Element {
    fn answer(self) -> Answer {
        let (Some(value), Ok(version)) = (self.value, self.version.parse()) else {
            return Answer::Held;
        };
        let names = [&*self.kind, &*self.key, &*self.tenant];
        value_of(names, value.get().as_bytes(), version)
    }
}

async fn batch(response: Response) -> Result<Vec<Answer>, NoAnswer> {
    let batch: Result<Batch, _> = response.json().await;
    let batch = batch.map_err(|error| NoAnswer::Broken(chain(&error)))?;
    let answers = batch.contexts.into_iter();
    Ok(answers
        .map(|element| element.map_or(Answer::Absent, Element::answer))
        .collect())
}
