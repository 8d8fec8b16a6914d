//! What is cached, bounded by bytes: which keys stay is the library's affair, what stands in an entry's place is ours.
//!
//! A hit takes no lock that another hit waits for, allocates nothing and does no housekeeping. It must never be that an
//! entry gives way to one that was read before it: only [`Cache::replace`] puts one in the place of another.

use super::entry::Entry;
use super::named::{Named, Pair};
use quick_cache::sync::{EntryAction, EntryResult};
use quick_cache::{OptionsBuilder, Weighter, sync};
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a key with its entry, roughly; from it follows how many keys are remembered that were put out.
const USUAL: u64 = 1_024;

/// The entries by their keys.
pub(super) struct Cache(
    sync::Cache<
        Named,
        Arc<Entry>,
        Bytes,
        // Whoever asks chooses the keys, so they must not know which of them collide.
        RandomState,
    >,
);

/// An entry counts with what it takes.
#[derive(Clone)]
struct Bytes;

impl Weighter<Named, Arc<Entry>> for Bytes {
    fn weight(&self, name: &Named, entry: &Arc<Entry>) -> u64 {
        entry.weight(name.len())
    }
}

impl Cache {
    /// An empty cache for so many bytes.
    pub(super) fn of(bytes: u64) -> Self {
        let usual = usize::try_from(bytes / USUAL).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(usual.max(1))
            .weight_capacity(bytes)
            .build()
            .expect("both are given");
        let entries = sync::Cache::with_options(
            options,
            Bytes,
            RandomState::new(),
            sync::DefaultLifecycle::default(),
        );
        Self(entries)
    }

    /// What is cached of a key.
    pub(super) fn get(&self, pair: Pair<'_>) -> Option<Arc<Entry>> {
        self.0.get(&pair)
    }

    /// What is cached of a key, or what `load` makes if nothing is. Whoever comes meanwhile waits for the same.
    pub(super) async fn get_or_load(
        &self,
        name: &Named,
        load: impl Future<Output = Arc<Entry>>,
    ) -> Arc<Entry> {
        match self.0.get_value_or_guard_async(name).await {
            Ok(entry) => entry,
            Err(place) => {
                let entry = load.await;
                // It was put out already if it is larger than all that may be cached.
                let _ = place.insert(entry.clone());
                entry
            }
        }
    }

    /// Puts an entry in the place of this one, if that is still there.
    pub(super) fn replace(&self, name: &Named, before: &Arc<Entry>, next: Arc<Entry>) {
        // Who loads the key now will have read it later.
        let at_once = Some(Duration::ZERO);
        let replaced = self.0.entry(name, at_once, |_, cached| {
            if Arc::ptr_eq(cached, before) {
                *cached = next;
            }
            EntryAction::Retain(())
        });
        // A place that was free stays so.
        drop::<EntryResult<'_, _, _, _, _, _, ()>>(replaced);
    }

    /// Keys that are cached.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> u64 {
        self.0.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn entry(why: &str) -> Arc<Entry> {
        Arc::new(Entry::failed(why.into(), Duration::ZERO))
    }

    fn name(key: &str) -> Named {
        Named::new("kind", key).expect("a name")
    }

    #[tokio::test]
    async fn an_entry_gives_way_only_to_what_was_read_for_its_place() {
        let (cache, name) = (Cache::of(1 << 20), name("key"));
        let [first, second, third] = ["1", "2", "3"].map(entry);
        cache.replace(&name, &first, second.clone());
        assert!(cache.get(name.pair()).is_none(), "it was not there");
        let loaded = cache.get_or_load(&name, std::future::ready(first.clone()));
        assert!(Arc::ptr_eq(&loaded.await, &first));
        cache.replace(&name, &first, second.clone());
        // Late, and read before what is there now.
        cache.replace(&name, &first, third);
        let found = cache.get(name.pair()).expect("it is there");
        assert!(Arc::ptr_eq(&found, &second));
        let split_otherwise = Pair {
            kind: "kin",
            key: "dkey",
        };
        assert!(cache.get(split_otherwise).is_none());
    }

    #[tokio::test]
    async fn who_gives_up_a_load_leaves_it_to_who_waits() {
        let (cache, name) = (Arc::new(Cache::of(1 << 20)), name("key"));
        let mut given_up = Box::pin(cache.get_or_load(&name, std::future::pending()));
        assert!((&mut given_up).now_or_never().is_none());
        let loads = Arc::new(AtomicU32::new(0));
        let waiting = (0..8).map(|_| {
            let (cache, name, loads) = (cache.clone(), name.clone(), loads.clone());
            tokio::spawn(async move {
                let load = async {
                    loads.fetch_add(1, Ordering::Relaxed);
                    entry("loaded")
                };
                cache.get_or_load(&name, load).await
            })
        });
        let waiting: Vec<_> = waiting.collect();
        tokio::task::yield_now().await;
        drop(given_up);
        for each in waiting {
            each.await.expect("it does not panic");
        }
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_is_cached_keeps_within_the_bound() {
        let cache = Cache::of(1 << 20);
        for n in 0..10_000 {
            let load = std::future::ready(entry("some bytes"));
            cache.get_or_load(&name(&n.to_string()), load).await;
            assert!(cache.bytes() <= 1 << 20);
        }
        assert!(cache.bytes() > 1 << 19 && cache.len() > 1_000);
        // Answered, but too large to stay.
        let (name, large) = (name("large"), entry(&"x".repeat(2 << 20)));
        let answered = cache.get_or_load(&name, std::future::ready(large.clone()));
        assert!(Arc::ptr_eq(&answered.await, &large));
        assert!(cache.bytes() <= 1 << 20);
    }
}
