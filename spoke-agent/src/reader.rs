//! The library for gateways in Rust: contexts on the request path, from this process or from an agent of the region.
//!
//! | reader | reads | when the agent is gone |
//! | --- | --- | --- |
//! | [`embedded::Embedded`] | an agent that runs in this process | cannot be |
//! | [`follower::Follower`] | a mirror of an agent, in memory, and in a file of its own if it is given one | goes on with what it has |
//! | [`remote::Remote`] | agents over HTTP or a Unix socket | asks another one of the region |
//! | `table::TableReader` (feature `dynamodb`) | a table, through a loading cache | goes on with what it has |
//!
//! All of them are a [`ContextReader`]; [`typed::Typed`] gives decoded values on top of any. An [`Answer`] says which of
//! the things that could be meant by "nothing" is meant, and each comes with the age of what it was read from.
//!
//! A reader must never say that a key does not exist where it does not know, and never go back to an older state of a
//! tenant than it has shown.
//!
//! ```no_run
//! use spoke_agent::reader::{Answer, ContextReader, Options};
//! use spoke_agent::reader::remote::{Remote, RemoteConfig};
//!
//! # async fn handle(key_hash: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let config = RemoteConfig::new(["unix:/run/hubcast/eu-west-1.sock"]);
//! let reader = Remote::connect(config, Options::default())?;
//! match reader.get("api_key", key_hash).await.answer {
//!     Answer::Found(found) => println!("{}", String::from_utf8_lossy(found.bytes())),
//!     Answer::Absent | Answer::Expired => println!("401"),
//!     other => println!("503: {other:?}"),
//! }
//! # Ok(())
//! # }
//! ```

pub mod embedded;
pub mod follower;
mod mirror;
pub mod remote;
mod sse;
#[cfg(feature = "dynamodb")]
pub mod table;
pub mod typed;

use crate::clock::wall_micros;
use crate::store::fresh::Fresh;
use crate::store::index::known::{Known, State};
use crate::store::index::{Index, Lookup};
use arc_swap::Guard;
use contexts::digest::Digest;
use contexts::push::Reading;
use contexts::version::Version;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// What every reader has in common.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What is older than this is [`Freshness::Stale`]. Without a bound everything is fresh whose age is known.
    pub stale_after: Option<Duration>,
    /// What is older than this, or of unknown age, is not answered at all but with [`Answer::TooOld`], for those who must
    /// fail closed. Without it a reader answers from what it has, however old.
    pub max_age: Option<Duration>,
}

/// What a reader says of one key.
#[derive(Debug)]
pub struct Reply {
    /// What it knows.
    pub answer: Answer,
    /// Time since the moment up to which every change at the hub is in what was read; none if nobody knows.
    pub age: Option<Duration>,
    /// The same, by the bound that was configured.
    pub freshness: Freshness,
    /// Whether this may be older than what this reader showed before, because no agent that it reaches is as far. Only of
    /// a [`remote::Remote`], which answers all the same.
    pub maybe_older: bool,
}

/// Whether the age is within the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is.
    Fresh,
    /// It is not, or is not known.
    Stale,
}

/// What a reader knows of one key.
#[derive(Debug)]
pub enum Answer {
    /// The value.
    Found(Found),
    /// The key does not exist.
    Absent,
    /// It existed until its `expires`.
    Expired,
    /// It exists at the hub, and no good value ever came.
    Held,
    /// The reader cannot say whether it exists: the kind is not in step yet, is not subscribed to, or what is stored of
    /// the key is damaged.
    NotReady,
    /// What is here is older than [`Options::max_age`].
    TooOld,
    /// No agent answers; why.
    Unreachable(String),
}

/// A value. To clone it copies nothing.
pub struct Found {
    known: Known,
    stamp: Stamp,
}

/// Where the version of a value is.
enum Stamp {
    Is(Version),
    /// In the state that it was read from: to look it up costs as much as a read, and few ask.
    In(Guard<Option<Arc<Index>>>),
}

impl Found {
    /// The value, as JSON in UTF-8.
    pub fn bytes(&self) -> &[u8] {
        self.known.bytes()
    }

    /// The tenant whose it is.
    pub fn tenant(&self) -> &str {
        self.known.tenant()
    }

    /// The digest of the value, which changes with it.
    pub fn digest(&self) -> Digest {
        self.known.digest()
    }

    /// The moment after which it is not answered, in microseconds since 1970.
    pub fn expires(&self) -> Option<i64> {
        self.known.expires()
    }

    /// The version that it came with.
    pub fn version(&self) -> Version {
        match &self.stamp {
            Stamp::Is(version) => *version,
            Stamp::In(index) => {
                let index = index.as_ref();
                let versions = index.and_then(|index| index.versions(&self.known));
                versions.unwrap_or_default().value
            }
        }
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Found({:?}, version {})", self.known, self.version())
    }
}

/// A name that may have changed, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// This one.
    Name {
        /// Its kind.
        kind: String,
        /// Its key.
        key: String,
    },
    /// Any: the reader lost track, or began anew.
    Everything,
}

/// What tells of changes. They are told once what they speak of can be read, so whoever asks then gets that or something
/// newer. Who does not listen for long is told [`Changed::Everything`].
pub struct Changes(tokio::sync::broadcast::Receiver<Changed>);

impl Changes {
    pub(crate) fn new(changed: tokio::sync::broadcast::Receiver<Changed>) -> Self {
        Self(changed)
    }

    /// The next change; none once the reader is gone.
    pub async fn next(&mut self) -> Option<Changed> {
        use tokio::sync::broadcast::error::RecvError;
        match self.0.recv().await {
            Ok(changed) => Some(changed),
            Err(RecvError::Lagged(_)) => Some(Changed::Everything),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Reads contexts. The futures of [`embedded::Embedded`] and [`follower::Follower`] are ready at once and allocate
/// nothing where all is in memory.
pub trait ContextReader: Send + Sync {
    /// What is known of one key.
    fn get(&self, kind: &str, key: &str) -> impl Future<Output = Reply> + Send;

    /// What is known of many keys, in their order and from one state of the store.
    fn get_many(&self, keys: &[(&str, &str)]) -> impl Future<Output = Vec<Reply>> + Send;

    /// Tells of changes from now on.
    fn changes(&self) -> Changes;
}

/// What is known of a key, as an answer at this moment.
fn answer(lookup: Lookup) -> Answer {
    match lookup {
        // Most values never expire, and need not ask what time it is.
        Lookup::Found(known, _) if known.expires().is_some_and(|at| at <= wall_micros()) => {
            Answer::Expired
        }
        Lookup::Found(known, versions) => Answer::Found(Found {
            known,
            stamp: Stamp::Is(versions.value),
        }),
        Lookup::Held => Answer::Held,
        Lookup::Absent => Answer::Absent,
        Lookup::NotReady => Answer::NotReady,
    }
}

/// What a state in memory knows of a key, as an answer. It neither allocates nor counts references to the state.
fn answer_from(index: Guard<Option<Arc<Index>>>, kind: &str, key: &str) -> Answer {
    let Some(state) = index.as_ref() else {
        return Answer::NotReady;
    };
    let known = match state.get(kind, key) {
        None if state.is_complete(kind) => return Answer::Absent,
        None => return Answer::NotReady,
        Some(known) => known,
    };
    match known.state() {
        State::Held => return Answer::Held,
        State::Damaged => return Answer::NotReady,
        State::Value => {}
    }
    if known.expires().is_some_and(|at| at <= wall_micros()) {
        return Answer::Expired;
    }
    let known = known.clone();
    let stamp = match known.version() {
        Some(version) => Stamp::Is(version),
        None => Stamp::In(index),
    };
    Answer::Found(Found { known, stamp })
}

impl Options {
    /// An answer with its age, and what the bounds say of that.
    fn reply(&self, answer: Answer, age: Option<Duration>) -> Reply {
        let is_within = |bound: Option<Duration>| match (bound, age) {
            (None, _) => true,
            (Some(most), Some(age)) => age <= most,
            (Some(_), None) => false,
        };
        let answer = match is_within(self.max_age) {
            true => answer,
            false => Answer::TooOld,
        };
        let freshness = match age.is_some() && is_within(self.stale_after) {
            true => Freshness::Fresh,
            false => Freshness::Stale,
        };
        Reply {
            answer,
            age,
            freshness,
            maybe_older: false,
        }
    }

    fn reply_at(&self, answer: Answer, fresh: Option<Fresh>, now: Reading) -> Reply {
        let age = fresh.map(|fresh| Duration::from_micros(fresh.micros_until(now) as u64));
        self.reply(answer, age)
    }
}
