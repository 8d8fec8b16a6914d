//! Reads a region on DynamoDB, through a cache that loads what it is asked for.
//!
//! | part | is about |
//! | --- | --- |
//! | `table` | one key, and what is done behind the reads |
//! | `batch` | many keys of one state |
//! | `entry` | what is known of one key, and when that counts |
//! | `load` | how one key is read so that it is of one bundle |
//! | `looked` | the same, for an agent that answers others |
//! | `seen` | what was seen of each tenant |
//! | `cache` | what is cached, bounded by bytes |
//! | `named` | the key of the cache |
//!
//! What must hold:
//! * A tenant is never a mix. An entry says of which bundle it is; the highest version seen of each tenant is kept, and
//!   what is of a lower one is a miss.
//! * No key goes back: an entry is replaced only by what was read after it.
//! * Absence is an answer like any other: it is cached, and said only of kinds that the table is complete in.
//! * What was read longer ago than [`TableReaderConfig::refresh_after`] is read again before it is answered, as long as the
//!   table answers in time. What is nearly as old is read again behind the answer, so that a key that is asked for often
//!   never waits.
//! * A flood of misses cannot flood the table: so many fills are under way at once, each key once. Refreshes have a
//!   share of their own, so that misses do not starve them.
//! * When the table does not answer, the cache goes on with what it has, and its age grows.
//!
//! Changes are told of what is cached; of what nobody asked for yet there is nothing to tell.
//!
//! So what is written is visible here after that time at the latest: durable at T, in every cache by T + 10 s.

mod batch;
mod cache;
mod entry;
mod load;
mod looked;
mod named;
mod seen;

pub(crate) use looked::Looked;

use super::{Answer, Changed, Changes, ContextReader, Options, Reply, answer};
use arc_swap::ArcSwapOption;
use cache::Cache;
use contexts::name::Region;
use contexts_dynamodb::client::{Db, TableConfig, TableError};
use contexts_dynamodb::lookup::Standing;
use entry::{Content, Entry};
use named::{Named, Pair};
use seen::Tenants;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit, broadcast};

/// How often the table is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a read waits for its turn to ask the table.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer waits for the table to say what is to replace what is too old, once it is its turn.
const RENEWED_WITHIN: Duration = Duration::from_millis(500);
/// How long it is remembered that a key could not be loaded.
const FAILED_FOR: Duration = Duration::from_millis(500);
/// How often a key is filled whose tenant changes meanwhile.
const TRIES: u32 = 6;
/// Changes that a listener may be behind.
const CHANGES: usize = 1_024;

/// How a table is read.
#[derive(Debug, Clone)]
pub struct TableReaderConfig {
    /// Which table.
    pub table: TableConfig,
    /// The region that it must serve.
    pub region: Region,
    /// Bytes of memory for what is cached.
    pub memory_bytes: u64,
    /// What is older is loaded again before it is answered, as long as the table answers within half a second; what is
    /// nearly as old behind the answer, each key at its own moment.
    pub refresh_after: Duration,
    /// Fills that may be under way at once.
    pub fills: usize,
    /// Refreshes that may be under way at once, beside them.
    pub refreshes: usize,
}

impl TableReaderConfig {
    /// The defaults for a table.
    pub fn new(table: TableConfig, region: Region) -> Self {
        Self {
            table,
            region,
            memory_bytes: 256 << 20,
            refresh_after: Duration::from_secs(10),
            fills: 64,
            refreshes: 16,
        }
    }
}

/// Reads a table. Cheap to clone; what runs behind it ends with the last clone.
#[derive(Clone)]
pub struct TableReader(Arc<Inner>);

struct Inner {
    db: Db,
    region: Region,
    refresh_after: Duration,
    options: Options,
    standing: ArcSwapOption<Standing>,
    entries: Cache,
    tenants: Arc<Tenants>,
    /// Whether the table answered in time when it was last asked.
    answers: AtomicBool,
    fills: Semaphore,
    refreshes: Semaphore,
    /// Refreshes that are behind answers, so that they never are more than their share.
    behind: Arc<Semaphore>,
    changed: broadcast::Sender<Changed>,
    counts: Counts,
}

/// In whose share a key is read.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Fill,
    /// Behind an answer.
    Refresh,
    /// Before one, which does not wait for ever.
    Renewal,
}

/// What is cached of a key.
enum AtHand {
    /// It can be answered.
    Good(Arc<Entry>),
    /// It can be answered if nothing newer is to be had.
    Old(Arc<Entry>),
    Nothing,
}

/// How often the table was read.
#[derive(Default)]
struct Counts {
    fills: AtomicU64,
    refreshes: AtomicU64,
}

impl Counts {
    fn fills(&self) -> u64 {
        self.fills.load(Ordering::Relaxed)
    }

    fn refreshes(&self) -> u64 {
        self.refreshes.load(Ordering::Relaxed)
    }
}

impl TableReader {
    /// Connects to a table, with credentials from the default chain.
    ///
    /// # Errors
    /// If the table refuses, or serves another region. One that does not answer is asked again behind the reads.
    pub async fn connect(config: TableReaderConfig, options: Options) -> Result<Self, TableError> {
        let db = Db::connect(&config.table).await;
        Self::on(db, config, options).await
    }

    /// The same, for those who bring their own way to the table.
    ///
    /// # Errors
    /// As [`TableReader::connect`].
    pub async fn on(
        db: Db,
        config: TableReaderConfig,
        options: Options,
    ) -> Result<Self, TableError> {
        let inner = Arc::new(Inner {
            db,
            region: config.region,
            refresh_after: config.refresh_after,
            options,
            standing: ArcSwapOption::empty(),
            entries: Cache::of(config.memory_bytes),
            tenants: Arc::default(),
            answers: AtomicBool::new(false),
            fills: Semaphore::new(config.fills),
            refreshes: Semaphore::new(config.refreshes),
            behind: Arc::new(Semaphore::new(config.refreshes)),
            changed: broadcast::channel(CHANGES).0,
            counts: Counts::default(),
        });
        match inner.look().await {
            Err(error @ (TableError::Rejected(_) | TableError::Damaged(_))) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the table does not answer yet; it is asked again")
            }
            Ok(()) => {}
        }
        tokio::spawn(look_again(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    /// What is older is read again behind the answers.
    pub fn refresh_after(&self) -> Duration {
        self.0.refresh_after
    }

    /// What was paid for.
    pub fn units(&self) -> contexts_dynamodb::units::Used {
        self.0.db.units.used()
    }
}

/// Asks the table how far it is, as long as somebody reads.
async fn look_again(reader: Weak<Inner>) {
    let mut said = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = reader.upgrade() else {
            return;
        };
        match inner.look().await {
            Ok(()) if said => {
                said = false;
                tracing::info!("the table answers again");
            }
            Ok(()) => {}
            Err(error) if !said => {
                said = true;
                tracing::warn!(%error, "the table does not answer: reads go on with what is cached");
            }
            Err(_) => {}
        }
    }
}

impl Inner {
    async fn look(&self) -> Result<(), TableError> {
        let mut looking = std::pin::pin!(self.db.standing());
        let in_time = tokio::time::timeout(RENEWED_WITHIN, &mut looking).await;
        let answers = matches!(in_time, Ok(Ok(_)));
        self.answers.store(answers, Ordering::Relaxed);
        let looked = match in_time {
            Ok(looked) => looked,
            Err(_) => looking.await,
        };
        let Some(standing) = looked? else {
            self.standing.store(None);
            return Ok(());
        };
        if standing.facts.region != self.region {
            let (theirs, mine) = (&standing.facts.region, &self.region);
            let why = format!("the table serves region {theirs:?}, not {mine:?}");
            return Err(TableError::Rejected(why));
        }
        self.standing.store(Some(Arc::new(standing)));
        Ok(())
    }

    /// A moment of the service's clock, as one of this process's that is surely not later.
    fn local(&self, fresh: Option<u64>) -> Option<Instant> {
        let age = self.db.clock.not_passed()?.saturating_sub(fresh?);
        Instant::now().checked_sub(Duration::from_micros(age))
    }

    /// Whether a key must be read again before it is answered.
    fn is_wanting(&self, kind: &str, entry: &Entry) -> bool {
        match &entry.content {
            Content::Value { .. } | Content::Held { .. } => entry.is_superseded(),
            Content::Failed { .. } => entry.is_due(Instant::now()),
            // Nothing was known of it when it was read, and the table may have become complete in its kind since.
            Content::Unknown => {
                let standing = self.standing.load();
                let complete = standing.as_ref().map(|standing| &standing.complete);
                complete.is_some_and(|all| all.iter().any(|one| one.as_str() == kind))
            }
            Content::Absent | Content::Damaged => false,
        }
    }

    /// What is cached of a key.
    fn at_hand(self: &Arc<Self>, pair: Pair<'_>, now: Instant) -> AtHand {
        let Some(entry) = self.entries.get(pair) else {
            return AtHand::Nothing;
        };
        if self.is_wanting(pair.kind, &entry) {
            return AtHand::Nothing;
        }
        if entry.is_due(now) {
            let is_old = entry.read.asked + self.refresh_after <= now;
            if is_old && self.answers.load(Ordering::Relaxed) {
                return AtHand::Old(entry);
            }
            self.refresh(pair, &entry);
        }
        AtHand::Good(entry)
    }

    /// What is cached of a key, or is read now.
    async fn entry(self: &Arc<Self>, name: &Named) -> Arc<Entry> {
        let pair = name.pair();
        let mut entry = match self.at_hand(pair, Instant::now()) {
            AtHand::Good(entry) => return entry,
            AtHand::Old(entry) => self.renewed(name, entry).await,
            AtHand::Nothing => {
                let read = self.read(name, None, Turn::Fill);
                self.entries.get_or_load(name, read).await
            }
        };
        for _ in 0..TRIES {
            if !self.is_wanting(pair.kind, &entry) {
                return entry;
            }
            entry = self.replaced(name, &entry).await;
        }
        Arc::new(Entry::failed(
            "its tenant changed each time".into(),
            FAILED_FOR,
        ))
    }

    /// What is read of a key now, in place of this.
    async fn replaced(&self, name: &Named, entry: &Arc<Entry>) -> Arc<Entry> {
        self.succeeded(name, entry, Turn::Fill).await
    }

    /// What is read of a key in place of this, which is too old; this if the table does not answer in time.
    async fn renewed(self: &Arc<Self>, name: &Named, old: Arc<Entry>) -> Arc<Entry> {
        let next = self.succeeded(name, &old, Turn::Renewal);
        // Somebody else may have asked already, who waits longer.
        match tokio::time::timeout(TURN_WITHIN, next).await {
            Ok(next) if !next.is_failed() => next,
            _ => old,
        }
    }

    /// What is read of a key after this, once, whoever wants it. If that fails, what was known of it and can be answered stays.
    async fn succeeded(&self, name: &Named, before: &Arc<Entry>, turn: Turn) -> Arc<Entry> {
        let next = async {
            let next = self.read(name, Some(before), turn).await;
            let kept = || Arc::new(before.later(FAILED_FOR));
            let (next, cached) = match turn {
                // Whoever has to wait longer asks again in the place of what is kept.
                Turn::Renewal if next.is_failed() => {
                    let kept = kept();
                    (kept.clone(), kept)
                }
                _ if next.is_failed() && !self.is_wanting(name.pair().kind, before) => {
                    (next, kept())
                }
                _ => (next.clone(), next),
            };
            self.entries.replace(name, before, cached);
            next
        };
        before.next.get_or_init(|| next).await.clone()
    }

    /// Reads a key, and tells of it if it is not as it was before.
    async fn read(&self, name: &Named, before: Option<&Arc<Entry>>, turn: Turn) -> Arc<Entry> {
        let before = before.map(|before| &**before);
        let read = async {
            let _turn = self.turn(turn).await.map_err(|error| error.to_string())?;
            let count = match turn {
                Turn::Fill => &self.counts.fills,
                Turn::Refresh | Turn::Renewal => &self.counts.refreshes,
            };
            count.fetch_add(1, Ordering::Relaxed);
            let stored = name.name().ok_or("no such name can be stored")?;
            // What the SDK needs for a call is kept off the way of a hit.
            let loading = Box::pin(load::load(self, &stored, before));
            let loaded = match turn {
                Turn::Fill | Turn::Refresh => loading.await,
                Turn::Renewal => {
                    let in_time = tokio::time::timeout(RENEWED_WITHIN, loading).await;
                    in_time.map_err(|_| "the table does not answer in time")?
                }
            };
            loaded.map_err(|error| error.to_string())
        };
        match read.await {
            Ok(entry) => {
                if before.is_some_and(|before| entry.differs(before)) {
                    self.tell(name.pair());
                }
                Arc::new(entry)
            }
            Err(why) => Arc::new(Entry::failed(why, FAILED_FOR)),
        }
    }

    /// Waits for room to ask the table.
    async fn turn(&self, turn: Turn) -> Result<SemaphorePermit<'_>, TableError> {
        let share = match turn {
            Turn::Fill => &self.fills,
            Turn::Refresh | Turn::Renewal => &self.refreshes,
        };
        let given = tokio::time::timeout(TURN_WITHIN, share.acquire()).await;
        given.ok().and_then(Result::ok).ok_or_else(|| {
            let busy = "too many keys that are not cached are asked for at once";
            TableError::Lost(busy.into())
        })
    }

    /// Tells of a change of what is cached.
    fn tell(&self, Pair { kind, key }: Pair<'_>) {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        // Nobody may be listening.
        let _ = self.changed.send(Changed::Name { kind, key });
    }

    /// Reads a key again behind the answers, once, if there is room for it.
    fn refresh(self: &Arc<Self>, pair: Pair<'_>, entry: &Arc<Entry>) {
        if !entry.begin_refresh() {
            return;
        }
        let Some(name) = Named::new(pair.kind, pair.key) else {
            return;
        };
        let Ok(room) = self.behind.clone().try_acquire_owned() else {
            entry.end_refresh();
            return;
        };
        let (this, before) = (self.clone(), entry.clone());
        tokio::spawn(async move {
            let _room = room;
            this.succeeded(&name, &before, Turn::Refresh).await;
        });
    }

    fn reply(&self, entry: &Entry, now: Instant) -> Reply {
        let answer = match &entry.content {
            Content::Failed { why } if self.standing.load().is_some() => {
                Answer::Unreachable(why.clone())
            }
            _ => answer(entry.lookup()),
        };
        self.options.reply(answer, entry.age(now))
    }

    async fn get(self: &Arc<Self>, kind: &str, key: &str) -> Reply {
        let now = Instant::now();
        if let AtHand::Good(entry) = self.at_hand(Pair { kind, key }, now) {
            return self.reply(&entry, now);
        }
        let Some(name) = Named::new(kind, key) else {
            // No such name can be stored, but whether its kind exists is not said by that.
            return self.options.reply(Answer::NotReady, None);
        };
        let entry = self.entry(&name).await;
        self.reply(&entry, Instant::now())
    }
}

impl ContextReader for TableReader {
    async fn get(&self, kind: &str, key: &str) -> Reply {
        self.0.get(kind, key).await
    }

    async fn get_many(&self, keys: &[(&str, &str)]) -> Vec<Reply> {
        let names: Vec<Option<Named>> = keys
            .iter()
            .map(|(kind, key)| Named::new(kind, key))
            .collect();
        let good: Vec<Named> = names.iter().flatten().cloned().collect();
        let mut entries = batch::entries(&self.0, &good).await.into_iter();
        let now = Instant::now();
        let one = |name: Option<Named>| {
            let entry = name.as_ref().and_then(|_| entries.next());
            match entry {
                Some(entry) => self.0.reply(&entry, now),
                None => self.0.options.reply(Answer::NotReady, None),
            }
        };
        names.into_iter().map(one).collect()
    }

    fn changes(&self) -> Changes {
        Changes::new(self.0.changed.subscribe())
    }
}
