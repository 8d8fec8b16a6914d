//! Values of a type, decoded once for as long as they stay the same.
//!
//! A value that cannot be decoded (a field that the hub dropped, a type that is wrong) is counted, and the last good one
//! is answered instead while it is remembered: one bad row at the hub must not stop a gateway.

use super::{Answer, ContextReader, Freshness, Reply};
use contexts::digest::Digest;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Locks, so that readers of different keys rarely meet.
const SHARDS: usize = 64;

/// Values of one kind, decoded as `T`.
pub struct Typed<R, T> {
    reader: R,
    kind: String,
    shards: Vec<RwLock<HashMap<String, Decoded<T>>>>,
    hasher: RandomState,
    most_per_shard: usize,
    undecodable: AtomicU64,
}

struct Decoded<T> {
    /// Of the value that was decoded last, or could not be.
    digest: Digest,
    value: Option<Arc<T>>,
    is_of_digest: bool,
}

/// What a reader says of one key, decoded.
#[derive(Debug)]
pub struct TypedReply<T> {
    /// What it knows.
    pub answer: TypedAnswer<T>,
    /// As in [`Reply::age`].
    pub age: Option<Duration>,
    /// As in [`Reply::freshness`].
    pub freshness: Freshness,
}

/// What a reader knows of one key, decoded.
#[derive(Debug)]
pub enum TypedAnswer<T> {
    /// The value.
    Found(Arc<T>),
    /// The value cannot be decoded; this is the last one that could.
    LastGood(Arc<T>),
    /// The value cannot be decoded, and no earlier one is remembered; why.
    Undecodable(String),
    /// There is no value: never [`Answer::Found`].
    Nothing(Answer),
}

impl<R: ContextReader, T: DeserializeOwned + Send + Sync> Typed<R, T> {
    /// Values of this kind through this reader; so many are remembered in decoded form.
    pub fn new(reader: R, kind: &str, most: usize) -> Self {
        Self {
            reader,
            kind: kind.to_owned(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            most_per_shard: most.div_ceil(SHARDS).max(1),
            undecodable: AtomicU64::new(0),
        }
    }

    /// What is known of one key.
    pub async fn get(&self, key: &str) -> TypedReply<T> {
        let Reply {
            answer,
            age,
            freshness,
            ..
        } = self.reader.get(&self.kind, key).await;
        let answer = match answer {
            Answer::Found(found) => self.decoded(key, found.digest(), found.bytes()),
            other => TypedAnswer::Nothing(other),
        };
        TypedReply {
            answer,
            age,
            freshness,
        }
    }

    /// Values that could not be decoded so far, each counted once while it is remembered.
    pub fn undecodable(&self) -> u64 {
        self.undecodable.load(Ordering::Relaxed)
    }

    fn decoded(&self, key: &str, digest: Digest, bytes: &[u8]) -> TypedAnswer<T> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        let remembered = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(decoded) = remembered.get(key)
            && decoded.digest == digest
            && let Some(value) = &decoded.value
        {
            return match decoded.is_of_digest {
                true => TypedAnswer::Found(value.clone()),
                false => TypedAnswer::LastGood(value.clone()),
            };
        }
        drop(remembered);
        let fresh: Result<Arc<T>, _> = serde_json::from_slice(bytes).map(Arc::new);
        let mut remembered = shard.write().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= self.most_per_shard && !remembered.contains_key(key) {
            // Any will do: what is read again is decoded again.
            let one = remembered.keys().next().cloned();
            one.and_then(|one| remembered.remove(&one));
        }
        let last = remembered.get(key);
        let is_known = last.is_some_and(|last| last.digest == digest);
        let last = last.and_then(|last| last.value.clone());
        let (answer, value, is_of_digest) = match fresh {
            Ok(value) => (TypedAnswer::Found(value.clone()), Some(value), true),
            Err(error) => {
                if !is_known {
                    self.undecodable.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(kind = self.kind, key, %error, "a value cannot be decoded");
                }
                let answer = match &last {
                    Some(last) => TypedAnswer::LastGood(last.clone()),
                    None => TypedAnswer::Undecodable(error.to_string()),
                };
                (answer, last, false)
            }
        };
        let decoded = Decoded {
            digest,
            value,
            is_of_digest,
        };
        remembered.insert(key.to_owned(), decoded);
        answer
    }
}
