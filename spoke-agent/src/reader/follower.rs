//! A mirror of an agent of the region, in this process: reads are looks into memory, also when the agent is gone, and
//! after a restart if the mirror has a file.
//!
//! It follows one agent by its watch stream, and goes over to another one only if that has not been there for a while.
//! Until the new one is as far as what was shown here, it goes on with what it has.

mod file;

use super::mirror::{Mirror, Step};
use super::remote::{BadAddress, Place, in_query};
use super::{Changed, Changes, ContextReader, Options, Reply, answer_from};
use crate::clock::Clock;
use crate::store::fresh::Fresh;
use crate::store::index::Index;
use arc_swap::{ArcSwapOption, Guard};
pub use file::FileError;
use file::Keeper;
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// An agent tells something each second; one that is silent for so long is gone.
const SILENT: Duration = Duration::from_secs(5);
/// How long after a failure the agent is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// What to follow.
#[derive(Debug, Clone)]
pub struct FollowerConfig {
    /// Agents of the region in the order of preference: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    pub agents: Vec<String>,
    /// The gateways' token, where the agents ask for one.
    pub token: Option<SecretString>,
    /// The CA of agents with `https`, a file in PEM form that is read once; those of the system without it.
    pub ca: Option<PathBuf>,
    /// Where the mirror is kept, so that it is there after a restart; in memory only without.
    pub file: Option<PathBuf>,
    /// Only these kinds; all without any. Of others the answer is [`super::Answer::NotReady`].
    pub kinds: Vec<String>,
    /// Only these tenants; all without any. With some, nobody can say of a key that it does not exist.
    pub tenants: Vec<String>,
    /// How long an agent may be gone before another one is followed, which costs a full copy.
    pub switch_after: Duration,
}

impl FollowerConfig {
    /// These agents, everything, in memory.
    pub fn new(agents: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            agents: agents.into_iter().map(Into::into).collect(),
            token: None,
            ca: None,
            file: None,
            kinds: Vec::new(),
            tenants: Vec::new(),
            switch_after: Duration::from_secs(5),
        }
    }

    fn query(&self) -> String {
        let kinds = self
            .kinds
            .iter()
            .map(|kind| format!("&kind={}", in_query(kind)));
        let tenants = self
            .tenants
            .iter()
            .map(|tenant| format!("&tenant={}", in_query(tenant)));
        format!("follow=true{}", kinds.chain(tenants).collect::<String>())
    }
}

/// Why there is no follower.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// An address.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The file of the mirror.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What can be read of the mirror.
struct Shown {
    index: ArcSwapOption<Index>,
    fresh: AtomicI64,
    changed: broadcast::Sender<Changed>,
    filled: watch::Sender<bool>,
}

impl Shown {
    fn show(&self, mirror: &Mirror) {
        if mirror.is_filled() {
            self.index.store(Some(Arc::new(mirror.index.clone())));
        }
        // What this speaks of was shown before.
        let fresh = mirror.facts.fresh.map_or(i64::MIN, Fresh::micros);
        self.fresh.store(fresh, Ordering::Release);
        if *self.filled.borrow() != mirror.is_filled() {
            self.filled.send_replace(mirror.is_filled());
        }
    }

    fn fresh(&self) -> Option<Fresh> {
        match self.fresh.load(Ordering::Acquire) {
            i64::MIN => None,
            micros => Some(Fresh::at(micros)),
        }
    }

    fn index(&self) -> Guard<Option<Arc<Index>>> {
        self.index.load()
    }
}

/// What the mirror has, for whoever answers others from it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Mirrored {
    shown: Arc<Shown>,
    clock: Clock,
}

impl Mirrored {
    /// One state of the mirror, none as long as there is no whole copy; and the time since the moment up to which every
    /// change at the hub is in it.
    pub(crate) fn now(&self) -> (Option<Arc<Index>>, Option<Duration>) {
        // Taken before the state, so that the state has at least what it speaks of.
        let fresh = self.shown.fresh();
        let index = self.shown.index.load_full();
        let micros = fresh.map(|fresh| fresh.micros_until(self.clock.reading()));
        (
            index,
            micros.map(|micros| Duration::from_micros(micros as u64)),
        )
    }
}

/// Reads a mirror of an agent. It follows until it is stopped or dropped.
pub struct Follower {
    shown: Arc<Shown>,
    clock: Clock,
    options: Options,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Follower {
    /// Begins with what the file has, if there is one, and follows from there. It does not wait for an agent; see
    /// [`Follower::filled`].
    ///
    /// # Errors
    /// [`FollowError`] names the address or the file.
    pub async fn start(config: FollowerConfig, options: Options) -> Result<Self, FollowError> {
        let (token, ca) = (&config.token, config.ca.as_deref());
        let place = |name: &String| Place::new(name, token.clone(), ca, CONNECT, SILENT);
        let places: Vec<Place> = config.agents.iter().map(place).collect::<Result<_, _>>()?;
        if places.is_empty() {
            return Err(BadAddress::None.into());
        }
        let clock = Clock::new();
        let query = config.query();
        let (keeper, mirror) = match &config.file {
            None => (None, Mirror::default()),
            Some(path) => {
                let (keeper, mirror) = Keeper::open(path.clone(), query.clone(), clock).await?;
                (Some(keeper), mirror)
            }
        };
        let shown = Arc::new(Shown {
            index: ArcSwapOption::empty(),
            fresh: AtomicI64::new(i64::MIN),
            changed: broadcast::channel(4_096).0,
            filled: watch::channel(false).0,
        });
        shown.show(&mirror);
        let (stop, stopped) = watch::channel(false);
        let following = Following {
            places,
            query,
            switch_after: config.switch_after,
            mirror,
            keeper,
            shown: shown.clone(),
            clock,
            stopped,
        };
        Ok(Self {
            shown,
            clock,
            options,
            stop,
            task: Some(tokio::spawn(following.run())),
        })
    }

    /// Returns once there is something to read: a whole copy, of now or from the file.
    pub async fn filled(&self) {
        let mut filled = self.shown.filled.subscribe();
        // The sender lives as long as this.
        let _ = filled.wait_for(|filled| *filled).await;
    }

    /// What is known of one key. It neither allocates nor waits.
    pub fn look_up(&self, kind: &str, key: &str) -> Reply {
        let fresh = self.shown.fresh();
        let answer = answer_from(self.shown.index(), kind, key);
        self.options.reply_at(answer, fresh, self.clock.reading())
    }

    /// What is known of many keys, from one state of the mirror.
    pub fn look_up_many(&self, keys: &[(&str, &str)]) -> Vec<Reply> {
        let fresh = self.shown.fresh();
        let (index, now) = (self.shown.index.load_full(), self.clock.reading());
        let one = |(kind, key): &(&str, &str)| {
            let answer = answer_from(Guard::from_inner(index.clone()), kind, key);
            self.options.reply_at(answer, fresh, now)
        };
        keys.iter().map(one).collect()
    }

    /// The mirror without what follows.
    pub(crate) fn mirrored(&self) -> Mirrored {
        Mirrored {
            shown: self.shown.clone(),
            clock: self.clock,
        }
    }

    /// Stops following and writes down what it has.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // It ends by itself; if it panicked, that was said.
            let _ = task.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl ContextReader for Follower {
    async fn get(&self, kind: &str, key: &str) -> Reply {
        self.look_up(kind, key)
    }

    async fn get_many(&self, keys: &[(&str, &str)]) -> Vec<Reply> {
        self.look_up_many(keys)
    }

    fn changes(&self) -> Changes {
        Changes::new(self.shown.changed.subscribe())
    }
}

/// The task that follows.
struct Following {
    places: Vec<Place>,
    query: String,
    switch_after: Duration,
    mirror: Mirror,
    keeper: Option<Keeper>,
    shown: Arc<Shown>,
    clock: Clock,
    stopped: watch::Receiver<bool>,
}

impl Following {
    async fn run(mut self) {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = self.follow() => {}
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.stop(self.mirror.facts).await;
        }
    }

    async fn follow(&mut self) {
        let (mut at, mut heard, mut said) = (0, Instant::now(), String::new());
        loop {
            let place = self.places[at].clone();
            let why = match self.follow_one(&place, &mut heard).await {
                Ok(()) => "it ended the stream".to_owned(),
                Err(why) => why,
            };
            if why != said {
                tracing::warn!(
                    peer = place.name,
                    error = why,
                    "the agent cannot be followed"
                );
                said = why;
            }
            // A mirror without anything has nothing to wait with.
            if heard.elapsed() >= self.switch_after || !self.mirror.is_filled() {
                at = (at + 1) % self.places.len();
            }
            sleep(AGAIN).await;
        }
    }

    async fn follow_one(&mut self, place: &Place, heard: &mut Instant) -> Result<(), String> {
        let after = self
            .mirror
            .facts
            .cursor
            .as_deref()
            .map(|at| format!("&after={}", in_query(at)));
        let query = format!("{}{}", self.query, after.unwrap_or_default());
        let mut events = place.watch(&query).await?;
        self.mirror.begin();
        while let Some(event) = events.next().await? {
            let step = self.mirror.hear(&event, self.clock.reading())?;
            if step == Step::Refused {
                return Err("it is not as far as what is here".into());
            }
            *heard = Instant::now();
            self.take(step);
        }
        Ok(())
    }

    /// What was heard is shown, kept and told.
    fn take(&mut self, step: Step) {
        if step == Step::Nothing {
            return;
        }
        self.shown.show(&self.mirror);
        if let Some(keeper) = &self.keeper {
            keeper.keep(&step, &self.mirror);
        }
        // Nobody may be listening.
        match step {
            Step::Nothing | Step::Noted | Step::Refused => {}
            Step::Replaced => {
                let _ = self.shown.changed.send(Changed::Everything);
            }
            Step::Changed(names) => {
                for (kind, key) in names {
                    let _ = self.shown.changed.send(Changed::Name { kind, key });
                }
            }
        }
    }
}
