//! Reads a region on DynamoDB, through a cache that loads what it is asked for.
//!
//! | part | is about |
//! | --- | --- |
//! | `table` | reads, and what is done behind them |
//! | `entry` | what is known of one key, and when that counts |
//! | `load` | how one key is loaded so that it is of one bundle |
//!
//! What must hold:
//! * A tenant is never a mix. An entry says of which bundle it is, by the version of the head; the highest version seen
//!   of each tenant is kept, and what is of a lower one is a miss.
//! * Absence is an answer like any other: it is cached, and said only of kinds that the table is complete in.
//! * A flood of misses cannot flood the table: so many fills are under way at once, each key once. Refreshes have a
//!   share of their own, so that misses do not starve them.
//! * When the table does not answer, the cache goes on with what it has, and its age grows.
//!
//! Changes are told of what is cached; of what nobody asked for yet there is nothing to tell.
//!
//! What is written becomes visible here after [`TableReaderConfig::refresh_after`] at the latest, while the table answers:
//! durable at T, in every cache by T + 10 s.

mod entry;
mod load;

use super::{Answer, Changed, Changes, ContextReader, Options, Reply, answer};
use crate::clock::wall_micros;
use arc_swap::ArcSwapOption;
use contexts::apply::Name;
use contexts::name::{Key, Kind, Region, TenantId};
use contexts_dynamodb::client::{Db, TableConfig, TableError};
use contexts_dynamodb::lookup::Standing;
use entry::{Content, Entry};
use load::Seen;
use moka::future::Cache;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast};

/// How often the table is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a read waits for its turn to fill.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// How long it is remembered that a key could not be loaded.
const FAILED_FOR: Duration = Duration::from_millis(500);
/// How often a set of keys is read until it is of one state.
const TRIES: u32 = 4;
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
    /// What is older is loaded again, behind the answer; each key a little earlier or later than the others.
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
    entries: Cache<Name, Entry>,
    /// The highest version that was seen of a tenant.
    highest: Cache<TenantId, Seen>,
    fills: Semaphore,
    refreshes: Arc<Semaphore>,
    changed: broadcast::Sender<Changed>,
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
        let entries = Cache::builder()
            .max_capacity(config.memory_bytes)
            .weigher(|name: &Name, entry: &Entry| entry.weight(name))
            .build();
        let highest = Cache::builder()
            .max_capacity(config.memory_bytes / 8)
            .weigher(|tenant: &TenantId, _: &Seen| tenant.as_str().len() as u32 + 96)
            .build();
        let inner = Arc::new(Inner {
            db,
            region: config.region,
            refresh_after: config.refresh_after,
            options,
            standing: ArcSwapOption::empty(),
            entries,
            highest,
            fills: Semaphore::new(config.fills),
            refreshes: Arc::new(Semaphore::new(config.refreshes)),
            changed: broadcast::channel(CHANGES).0,
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
        let Some(standing) = self.db.standing().await? else {
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

    async fn is_superseded(&self, entry: &Entry) -> bool {
        let Content::Value { tenant, bundle, .. } = &entry.content else {
            return false;
        };
        let highest = self.highest.get(tenant).await;
        highest.is_some_and(|highest| highest.version > *bundle)
    }

    /// Whether nothing was known of a key when it was loaded, and the table became complete in its kind since.
    fn can_be_told(&self, name: &Name, entry: &Entry) -> bool {
        let standing = self.standing.load();
        let is_complete = |standing: &Arc<Standing>| standing.complete.contains(&name.0);
        entry.content == Content::Unknown && standing.as_ref().is_some_and(is_complete)
    }

    /// What is cached of a key, or is loaded now.
    async fn entry(self: &Arc<Self>, name: &Name) -> Entry {
        let cached = self.entries.get(name).await;
        let is_due = |entry: &Entry| entry.is_due(name, self.refresh_after);
        if let Some(entry) = &cached
            && !entry.is_failed_for(FAILED_FOR)
            && !self.can_be_told(name, entry)
            && !self.is_superseded(entry).await
        {
            if is_due(entry) {
                self.refresh(name, entry);
            }
            return entry.clone();
        }
        let replaced = cached.as_ref().map(Entry::id);
        let fill = async {
            let turn = tokio::time::timeout(TURN_WITHIN, self.fills.acquire()).await;
            match turn {
                Ok(Ok(_permit)) => self.load_entry(name).await,
                _ => Entry::failed("too many unknown keys are asked for".into()),
            }
        };
        // Whoever comes meanwhile waits for the same fill; only what was found wanting is replaced.
        let is_replaced = |entry: &Entry| Some(entry.id()) == replaced;
        let entry = self.entries.entry_by_ref(name);
        let filled = entry.or_insert_with_if(fill, is_replaced).await;
        let is_new = filled.is_fresh();
        let entry = filled.into_value();
        if is_new && cached.is_some_and(|cached| cached.content != entry.content) {
            self.tell(name);
        }
        entry
    }

    /// Tells of a change of what is cached.
    fn tell(&self, (kind, key): &Name) {
        let (kind, key) = (kind.to_string(), key.to_string());
        // Nobody may be listening.
        let _ = self.changed.send(Changed::Name { kind, key });
    }

    async fn load_entry(&self, name: &Name) -> Entry {
        match load::load(self, name).await {
            Ok(entry) => entry,
            Err(error) => Entry::failed(error.to_string()),
        }
    }

    /// Loads a key again behind the answers, once, if there is room for it.
    fn refresh(self: &Arc<Self>, name: &Name, entry: &Entry) {
        let Ok(permit) = self.refreshes.clone().try_acquire_owned() else {
            return;
        };
        let Some(running) = entry.begin_refresh() else {
            return;
        };
        let (this, name, before) = (self.clone(), name.clone(), entry.clone());
        tokio::spawn(async move {
            let (_permit, _running) = (permit, running);
            // What cannot be loaded stays as it is, and becomes older.
            if let Ok(entry) = load::load(&this, &name).await {
                let changed = entry.content != before.content;
                this.entries.insert(name.clone(), entry).await;
                if changed {
                    this.tell(&name);
                }
            }
        });
    }

    fn reply(&self, entry: &Entry) -> Reply {
        let answer = match &entry.content {
            Content::Failed { why } if self.standing.load().is_some() => {
                Answer::Unreachable(why.clone())
            }
            content => answer(content.lookup(), wall_micros()),
        };
        let now = self.db.clock.not_passed();
        let age = entry.fresh.zip(now);
        let age = age.map(|(fresh, now)| Duration::from_micros(now.saturating_sub(fresh)));
        self.options.reply(answer, age)
    }

    async fn get(self: &Arc<Self>, kind: &str, key: &str) -> Reply {
        let Some(name) = name(kind, key) else {
            // No such name can be stored, but whether its kind exists is not said by that.
            return self.options.reply(Answer::NotReady, None);
        };
        let entry = self.entry(&name).await;
        self.reply(&entry)
    }

    /// Entries of which those of one tenant are of one bundle.
    async fn entries_of(self: &Arc<Self>, names: &[Name]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for _ in 0..TRIES {
            let reading = names.iter().map(|name| self.entry(name));
            entries = futures_util::future::join_all(reading).await;
            let mut superseded = false;
            for entry in &entries {
                superseded |= self.is_superseded(entry).await;
            }
            if !superseded {
                break;
            }
        }
        entries
    }
}

fn name(kind: &str, key: &str) -> Option<Name> {
    Some((Kind::new(kind).ok()?, Key::new(key).ok()?))
}

impl ContextReader for TableReader {
    async fn get(&self, kind: &str, key: &str) -> Reply {
        self.0.get(kind, key).await
    }

    async fn get_many(&self, keys: &[(&str, &str)]) -> Vec<Reply> {
        let names: Vec<Option<Name>> = keys.iter().map(|(kind, key)| name(kind, key)).collect();
        let good: Vec<Name> = names.iter().flatten().cloned().collect();
        let mut entries = self.0.entries_of(&good).await.into_iter();
        let one = |name: Option<Name>| {
            let entry = name.as_ref().and_then(|_| entries.next());
            match entry {
                Some(entry) => self.0.reply(&entry),
                None => self.0.options.reply(Answer::NotReady, None),
            }
        };
        names.into_iter().map(one).collect()
    }

    fn changes(&self) -> Changes {
        Changes::new(self.0.changed.subscribe())
    }
}
