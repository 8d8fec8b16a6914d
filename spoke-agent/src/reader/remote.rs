//! Agents over HTTP or a Unix socket. It stays on one agent as long as that answers, and asks another one of the region
//! when it does not.
//!
//! After a change of agent nothing may be shown that is older than what was: requests name the least version that is
//! accepted until the agent is past everything that this reader ever showed. If none is, the answer comes all the same
//! and says so ([`Reply::maybe_older`]), unless the tenant itself is known to be as new (the last version of the tenants
//! that were read last is remembered).
//!
//! Where several agents cache one table, each should cache a part of it: [`Remote::get_of`] asks the agent that a tenant
//! belongs to by rendezvous hashing, and the next one in that tenant's own order if it does not answer.

mod place;
mod rendezvous;

pub(super) use place::{Place, in_query};

use super::{Answer, Changed, Changes, ContextReader, Options, Reply};
use contexts::version::Version;
use place::{Asked, NoAnswer, Said};
use secrecy::SecretString;
use serde::Deserialize;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

/// How long after the end of a watch the next one begins.
const AGAIN: Duration = Duration::from_secs(1);

/// Where to read, and how long to wait.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Agents of the region in the order of preference: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    pub agents: Vec<String>,
    /// The gateways' token, where the agents ask for one.
    pub token: Option<SecretString>,
    /// The CA of agents with `https`, a file in PEM form that is read once; those of the system without it.
    pub ca: Option<PathBuf>,
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
            ca: None,
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

impl Remote {
    /// Reads these agents. Nothing is asked yet.
    ///
    /// # Errors
    /// [`BadAddress`] names the address that is none.
    pub fn connect(config: RemoteConfig, options: Options) -> Result<Self, BadAddress> {
        let place = |read: Duration| {
            let (token, connect) = (config.token.clone(), config.timeout);
            let ca = config.ca.clone();
            move |name: &String| Place::new(name, token.clone(), ca.as_deref(), connect, read)
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

    /// What is known of one key of a tenant, from the agent that caches this tenant.
    ///
    /// Whoever reads like this reads all of the tenant's keys like this. A key of another tenant is answered all the same;
    /// that it is absent is said as usual.
    pub async fn get_of(&self, tenant: &str, kind: &str, key: &str) -> Reply {
        let names = self.0.places.iter().map(|place| place.name.as_str());
        let least = self.seen().tenants.get(tenant).copied();
        let (mut why, mut behind) = (Vec::new(), None);
        for at in rendezvous::order(names, tenant) {
            let place = &self.0.places[at];
            match place.ask(least, Asked::One(kind, key)).await {
                Ok(said) => return self.first(said, false),
                Err(NoAnswer::Behind) => behind = behind.or(Some(place)),
                Err(NoAnswer::Broken(reason)) => why.push(format!("{}: {reason}", place.name)),
            }
        }
        let Some(place) = behind else {
            return self.unreachable(&why.join("; "));
        };
        match place.ask(None, Asked::One(kind, key)).await {
            Ok(said) => self.first(said, true),
            Err(_) => self.unreachable("every agent is behind what was shown"),
        }
    }

    fn first(&self, said: Said, is_behind: bool) -> Reply {
        match said.answers.into_iter().next() {
            Some(answer) => self.reply(answer, said.age, is_behind),
            None => self.unreachable("it answers nothing"),
        }
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
