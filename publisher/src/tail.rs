//! What goes out, told to whoever follows it (`publisher tail`): one line per bundle that a store has made durable.
//!
//! It must never hold up the engine and never show a value: lines are made only while somebody follows, who is slow loses
//! lines and is told how many, and of contexts a line has the kinds and their number.

use crate::writer::{Gone, Millis, StoreSpec, WhyGone};
use contexts::bundle::Bundle;
use contexts::name::{Kind, Region, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use tokio::sync::broadcast;

/// Lines that wait for one who follows and is slow.
const WAITING: usize = 4_096;
/// Tenants of stores whose kinds are remembered; beyond, all are forgotten and named whole once more.
const REMEMBERED: usize = 50_000;

/// A bundle that is durable in a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, in seconds since 1970, by the hub's clock.
    pub at: f64,
    /// Where.
    pub region: Region,
    /// Region and address.
    pub store: String,
    /// Whose.
    pub tenant: TenantId,
    /// Its version.
    pub version: String,
    /// On whose behalf.
    pub cause: WhyGone,
    /// The kinds of which something changed. The first time that this tenant goes to this store while somebody follows,
    /// all that it has: `is_first`.
    pub kinds: BTreeSet<Kind>,
    /// Whether it is the first time.
    pub is_first: bool,
    /// Contexts of the tenant there.
    pub contexts: usize,
    /// Milliseconds from when the hub noticed the commit, some ten milliseconds after it at most, until it was durable;
    /// none if it was no change that was noticed.
    pub ms: Option<Millis>,
}

impl Line {
    /// The time of day, UTC.
    pub fn time(&self) -> String {
        let nanos = (self.at * 1e9) as i128;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos);
        let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (hour, minute, second) = at.to_hms();
        format!("{hour:02}:{minute:02}:{second:02}.{:03}", at.millisecond())
    }
}

/// Which lines are wanted; what is not named is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only to this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Only where something of this kind changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Only of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
}

impl Filter {
    /// Whether a line is wanted.
    pub fn wants(&self, line: &Line) -> bool {
        self.region.as_ref().is_none_or(|r| *r == line.region)
            && self.kind.as_ref().is_none_or(|k| line.kinds.contains(k))
            && self.tenant.as_ref().is_none_or(|t| *t == line.tenant)
    }
}

/// A hash of what a tenant has of each kind.
type Kinds = BTreeMap<Kind, u64>;

/// Where lines go.
#[derive(Debug)]
pub struct Tail {
    told: broadcast::Sender<Arc<Line>>,
    known: Mutex<HashMap<(String, TenantId), Kinds>>,
}

impl Default for Tail {
    fn default() -> Self {
        let (told, _) = broadcast::channel(WAITING);
        let known = Mutex::default();
        Self { told, known }
    }
}

impl Tail {
    /// How many follow.
    pub fn followers(&self) -> usize {
        self.told.receiver_count()
    }

    /// Follows from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Line>> {
        self.told.subscribe()
    }

    /// Forgets what was remembered for those who followed.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Tells of a bundle.
    pub fn tell(&self, store: &StoreSpec, gone: &Gone) {
        let (kinds, is_first) = self.changed(&store.name, &gone.bundle);
        let line = Line {
            at: OffsetDateTime::now_utc().unix_timestamp_nanos() as f64 / 1e9,
            region: store.region.clone(),
            store: store.name.clone(),
            tenant: gone.bundle.tenant.clone(),
            version: gone.version.to_string(),
            cause: gone.why,
            kinds,
            is_first,
            contexts: gone.bundle.contexts.len(),
            ms: gone.ms,
        };
        // Whoever followed may have gone.
        let _ = self.told.send(Arc::new(line));
    }

    /// The kinds of which something is not as it went to this store before.
    fn changed(&self, store: &str, bundle: &Bundle) -> (BTreeSet<Kind>, bool) {
        let now = kinds(bundle);
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let name = (store.to_owned(), bundle.tenant.clone());
        let before = known.insert(name, now.clone());
        let Some(before) = before else {
            return (now.into_keys().collect(), true);
        };
        let differs = |kind: &&Kind| before.get(*kind) != now.get(*kind);
        let all = before.keys().chain(now.keys());
        (all.filter(differs).cloned().collect(), false)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, TenantId), Kinds>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kinds(bundle: &Bundle) -> Kinds {
    let mut hashes: BTreeMap<&Kind, DefaultHasher> = BTreeMap::new();
    for context in &bundle.contexts {
        let hash = hashes.entry(&context.kind).or_default();
        (context.key.as_str(), context.expires, &*context.value).hash(hash);
    }
    for held in &bundle.held {
        let hash = hashes.entry(&held.kind).or_default();
        ("held", held.key.as_str()).hash(hash);
    }
    for held in &bundle.held_kinds {
        "held".hash(hashes.entry(&held.kind).or_default());
    }
    let hashes = hashes.into_iter();
    hashes
        .map(|(kind, hash)| (kind.clone(), hash.finish()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contexts::bundle::Context;
    use contexts::name::Key;
    use contexts::version::Version;

    fn gone(contexts: &[(&str, &str)]) -> Gone {
        let context = |(kind, value): &(&str, &str)| Context {
            kind: Kind::new(kind).expect("a kind"),
            key: Key::new("a").expect("a key"),
            value: (*value).into(),
            expires: None,
        };
        let bundle = Bundle {
            tenant: TenantId::new("t").expect("a tenant"),
            contexts: contexts.iter().map(context).collect(),
            held: Vec::new(),
            held_kinds: Vec::new(),
        };
        Gone {
            bundle: bundle.into(),
            version: Version { epoch: 1, n: 2 },
            why: WhyGone::Change,
            ms: Some(3),
        }
    }

    /// Would catch a line that names a kind of which nothing changed, or hides one that a store has no more, and one
    /// store's memory that answers for another's.
    #[tokio::test]
    async fn a_line_names_the_kinds_that_changed_at_that_store() {
        let tail = Tail::default();
        let mut follower = tail.follow();
        let store = |name: &str| StoreSpec {
            name: name.into(),
            region: Region::new("eu").expect("a region"),
        };
        let states: [&[(&str, &str)]; 3] = [
            &[("key", "s3cret"), ("plan", "1")],
            &[("key", "s3cret"), ("plan", "2")],
            &[("plan", "2")],
        ];
        for (state, expected) in
            states
                .into_iter()
                .zip([("key plan", true), ("plan", false), ("key", false)])
        {
            for name in ["one", "other"] {
                tail.tell(&store(name), &gone(state));
                let line = follower.recv().await.expect("a line");
                let kinds: Vec<&str> = line.kinds.iter().map(|k| k.as_str()).collect();
                assert_eq!((&*kinds.join(" "), line.is_first), expected, "{name}");
                let text = serde_json::to_string(&*line).expect("JSON");
                assert!(!text.contains("s3cret"), "{text}");
            }
        }
    }

    /// Would catch a follower that holds up the engine, or that loses lines without knowing.
    #[tokio::test]
    async fn who_is_slow_is_told_how_many_lines_are_missing() {
        let tail = Tail::default();
        let mut follower = tail.follow();
        let store = StoreSpec {
            name: "one".into(),
            region: Region::new("eu").expect("a region"),
        };
        for _ in 0..WAITING + 7 {
            tail.tell(&store, &gone(&[]));
        }
        let missed = follower.recv().await;
        assert_eq!(missed, Err(broadcast::error::RecvError::Lagged(7)));
    }
}
