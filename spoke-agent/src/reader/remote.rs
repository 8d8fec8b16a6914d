//! Agents over HTTP or a Unix socket. It stays on one agent as long as that answers, and asks another one of the region
//! when it does not.
//!
//! After a change of agent nothing may be shown that is older than what was: requests name the least version that is
//! accepted until the agent is past everything that this reader ever showed. If none is, the answer comes all the same
//! and says so ([`Reply::maybe_older`]), unless the tenant itself is known to be as new (the last version of the tenants
//! that were read last is remembered).

use super::sse::Events;
use super::{Answer, Changed, Changes, ContextReader, Found, Options, Reply, Stamp, mirror};
use crate::client::{self, chain};
use crate::store::index::known::Known;
use contexts::version::Version;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// How long after the end of a watch the next one begins.
const AGAIN: Duration = Duration::from_secs(1);

/// Where to read, and how long to wait.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Agents of the region in the order of preference: `http://HOST:PORT` or `unix:PATH`.
    pub agents: Vec<String>,
    /// The gateways' token, where the agents ask for one.
    pub token: Option<SecretString>,
    /// How long one agent may take before the next one is asked.
    pub timeout: Duration,
    /// Tenants whose last version is remembered.
    pub tenants: usize,
}

impl RemoteConfig {
    /// These agents, 25 ms for each, ten thousand tenants remembered.
    pub fn new(agents: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            agents: agents.into_iter().map(Into::into).collect(),
            token: None,
            timeout: Duration::from_millis(25),
            tenants: 10_000,
        }
    }
}

/// Why there is no reader.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// None is named.
    #[error(
        "no agent is named; name one, such as http://127.0.0.1:7521 or unix:/run/hubcast/agent.sock"
    )]
    None,
    /// One is no address.
    #[error(
        "{0:?} is no address of an agent; one looks like http://127.0.0.1:7521 or unix:/run/hubcast/agent.sock"
    )]
    Unknown(String),
    /// The client cannot be made.
    #[error("no HTTP client: {0}")]
    Client(String),
}

/// One agent.
#[derive(Debug, Clone)]
pub(super) struct Place {
    client: Client,
    base: String,
    pub(super) name: String,
    token: Option<SecretString>,
}

impl Place {
    /// Its address, and a client that waits for a connection and between two pieces of an answer as long as it says.
    pub(super) fn new(
        name: &str,
        token: Option<SecretString>,
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
            Some(("http", rest)) if rest.len() > 2 => {
                (builder, name.trim_end_matches('/').to_owned())
            }
            _ => return Err(BadAddress::Unknown(name.to_owned())),
        };
        let client = builder
            .build()
            .map_err(|error| BadAddress::Client(chain(&error)))?;
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
    pub(super) async fn watch(&self, query: &str) -> Result<Events, String> {
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
pub(super) fn in_query(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}

/// Reads agents over the network. Cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    places: Vec<Place>,
    watched: Vec<Place>,
    /// The agent that is asked first.
    current: AtomicUsize,
    seen: Mutex<Seen>,
    options: Options,
    changed: broadcast::Sender<Changed>,
}

/// What was shown.
struct Seen {
    most: usize,
    high: Version,
    /// What the current agent must be past, since another one showed it.
    floor: Option<Version>,
    tenants: HashMap<String, Version>,
    order: VecDeque<String>,
}

impl Seen {
    fn note(&mut self, tenant: &str, version: Version) {
        self.high = self.high.max(version);
        if let Some(last) = self.tenants.get_mut(tenant) {
            *last = version.max(*last);
            return;
        }
        if self.tenants.len() >= self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.tenants.remove(&oldest);
        }
        self.tenants.insert(tenant.to_owned(), version);
        self.order.push_back(tenant.to_owned());
    }

    /// Whether this is no older than what was shown of the tenant.
    fn is_as_new(&self, tenant: &str, version: Version) -> bool {
        version >= self.tenants.get(tenant).copied().unwrap_or(self.high)
    }
}

/// What is asked.
#[derive(Clone, Copy)]
enum Asked<'a> {
    One(&'a str, &'a str),
    Many(&'a [(&'a str, &'a str)]),
}

/// What one agent said, of each key that it was asked for.
struct Said {
    answers: Vec<Answer>,
    age: Option<Duration>,
    position: Version,
}

/// Why an agent said nothing.
enum NoAnswer {
    /// It is not as far as what was shown.
    Behind,
    /// It cannot be asked.
    Broken(String),
}

impl Remote {
    /// Reads these agents. Nothing is asked yet.
    ///
    /// # Errors
    /// [`BadAddress`] names the address that is none.
    pub fn connect(config: RemoteConfig, options: Options) -> Result<Self, BadAddress> {
        let place = |read: Duration| {
            let (token, connect) = (config.token.clone(), config.timeout);
            move |name: &String| Place::new(name, token.clone(), connect, read)
        };
        let places: Vec<Place> = config
            .agents
            .iter()
            .map(place(config.timeout))
            .collect::<Result<_, _>>()?;
        // Between two events of a watch many seconds may pass.
        let watched = config.agents.iter().map(place(Duration::from_secs(40)));
        let watched = watched.collect::<Result<_, _>>()?;
        if places.is_empty() {
            return Err(BadAddress::None);
        }
        Ok(Self(Arc::new(Inner {
            places,
            watched,
            current: AtomicUsize::new(0),
            seen: Mutex::new(Seen {
                most: config.tenants.max(1),
                high: Version::default(),
                floor: None,
                tenants: HashMap::new(),
                order: VecDeque::new(),
            }),
            options,
            changed: broadcast::channel(4_096).0,
        })))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one agent after the other, from the current one on, each once; then, if all that answer are behind, without
    /// asking for as much.
    async fn ask(&self, asked: Asked<'_>) -> Result<(Said, bool), String> {
        let first = self.0.current.load(Ordering::Relaxed);
        let count = self.0.places.len();
        let mut why = Vec::new();
        let mut behind = None;
        for at in (0..count).map(|step| (first + step) % count) {
            let place = &self.0.places[at];
            let least = match at == first {
                true => self.seen().floor,
                false => Some(self.seen().high),
            };
            match place.ask(least, asked).await {
                Ok(said) => {
                    self.stay_on(at, first, said.position);
                    return Ok((said, false));
                }
                Err(NoAnswer::Behind) => behind = behind.or(Some(at)),
                Err(NoAnswer::Broken(reason)) => why.push(format!("{}: {reason}", place.name)),
            }
        }
        let Some(at) = behind else {
            return Err(why.join("; "));
        };
        let said = self.0.places[at].ask(None, asked).await;
        self.stay_on(at, first, Version::default());
        match said {
            Ok(said) => Ok((said, true)),
            Err(NoAnswer::Behind) => Err("it is behind nothing".into()),
            Err(NoAnswer::Broken(reason)) => Err(reason),
        }
    }

    fn stay_on(&self, at: usize, before: usize, position: Version) {
        let mut seen = self.seen();
        if at != before {
            self.0.current.store(at, Ordering::Relaxed);
            seen.floor = Some(seen.high);
        }
        if seen.floor.is_some_and(|floor| position >= floor) {
            seen.floor = None;
        }
    }

    fn reply(&self, answer: Answer, age: Option<Duration>, is_behind: bool) -> Reply {
        let mut reply = self.0.options.reply(answer, age);
        reply.maybe_older = is_behind && self.is_maybe_older(&reply.answer);
        if let Answer::Found(found) = &reply.answer
            && !reply.maybe_older
        {
            self.seen().note(found.tenant(), found.version());
        }
        reply
    }

    async fn answer(&self, asked: Asked<'_>) -> Result<impl Iterator<Item = Reply>, String> {
        let (said, is_behind) = self.ask(asked).await?;
        let answers = said.answers.into_iter();
        Ok(answers.map(move |answer| self.reply(answer, said.age, is_behind)))
    }

    fn unreachable(&self, why: &str) -> Reply {
        let mut reply = self.0.options.reply(Answer::Absent, None);
        reply.answer = Answer::Unreachable(why.to_owned());
        reply
    }

    /// Of an answer by an agent that is behind.
    fn is_maybe_older(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Found(found) => !self.seen().is_as_new(found.tenant(), found.version()),
            _ => true,
        }
    }
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
    async fn ask(&self, least: Option<Version>, asked: Asked<'_>) -> Result<Said, NoAnswer> {
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

/// Tells of changes as long as somebody listens, from the agent that is read.
async fn tell_changes(inner: Weak<Inner>) {
    loop {
        let Some(place) = place_to_watch(&inner) else {
            return;
        };
        if let Ok(mut events) = place.watch("after=now").await {
            // What changed while nobody watched is not known.
            tell(&inner, Changed::Everything);
            while let Ok(Some(event)) = events.next().await {
                let changed = match serde_json::from_str::<Name>(&event.data) {
                    Ok(Name { kind, key }) => Changed::Name { kind, key },
                    Err(_) if event.name == "sync" => Changed::Everything,
                    Err(_) => break,
                };
                tell(&inner, changed);
                if place_to_watch(&inner).is_none_or(|now| now.name != place.name) {
                    break;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The agent that is read; none if nobody listens any more.
fn place_to_watch(inner: &Weak<Inner>) -> Option<Place> {
    let inner = inner
        .upgrade()
        .filter(|inner| inner.changed.receiver_count() > 0)?;
    inner
        .watched
        .get(inner.current.load(Ordering::Relaxed))
        .cloned()
}

fn tell(inner: &Weak<Inner>, changed: Changed) {
    if let Some(inner) = inner.upgrade() {
        // Who does not listen any more is not told.
        let _ = inner.changed.send(changed);
    }
}

#[derive(Deserialize)]
struct Name {
    kind: String,
    key: String,
}

impl ContextReader for Remote {
    async fn get(&self, kind: &str, key: &str) -> Reply {
        let said = self
            .answer(Asked::One(kind, key))
            .await
            .map(|mut replies| replies.next());
        match said {
            Ok(Some(reply)) => reply,
            Ok(None) => self.unreachable("it answers nothing"),
            Err(why) => self.unreachable(&why),
        }
    }

    /// Expired contexts are [`Answer::Absent`] here, and one key that the agent cannot speak of makes all of them
    /// [`Answer::NotReady`]: a batch is answered as a whole.
    async fn get_many(&self, keys: &[(&str, &str)]) -> Vec<Reply> {
        match self.answer(Asked::Many(keys)).await {
            Ok(replies) => replies.collect(),
            Err(why) => keys.iter().map(|_| self.unreachable(&why)).collect(),
        }
    }

    fn changes(&self) -> Changes {
        let changes = Changes::new(self.0.changed.subscribe());
        if self.0.changed.receiver_count() == 1 {
            tokio::spawn(tell_changes(Arc::downgrade(&self.0)));
        }
        changes
    }
}
