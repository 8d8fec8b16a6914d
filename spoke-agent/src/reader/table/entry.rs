//! What is known of one key, when it was loaded, and when it is to be loaded again.

use crate::store::index::known::Known;
use crate::store::index::{Lookup, Versions};
use contexts::apply::Name;
use contexts::name::TenantId;
use contexts::version::Version;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes that an entry takes beside its content, roughly.
const OVERHEAD: usize = 192;

/// What a key is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// It has a value.
    Value {
        /// Whose.
        tenant: TenantId,
        /// The value.
        known: Known,
        /// The version that it came with.
        value: Version,
        /// The version of the bundle that it was seen in.
        bundle: Version,
    },
    /// It exists at the hub, and no good value ever came.
    Held,
    /// Nobody has it, and the table was complete in its kind.
    Absent,
    /// Nobody has it here, and that says nothing yet.
    Unknown,
    /// What is stored of it cannot be trusted.
    Damaged,
    /// It could not be loaded.
    Failed {
        /// Why.
        why: String,
    },
}

impl Content {
    /// As readers want it.
    pub(super) fn lookup(&self) -> Lookup {
        match self {
            Self::Value {
                known,
                value,
                bundle,
                ..
            } => {
                let (value, bundle) = (*value, *bundle);
                Lookup::Found(known.clone(), Versions { value, bundle })
            }
            Self::Held => Lookup::Held,
            Self::Absent => Lookup::Absent,
            Self::Unknown | Self::Damaged | Self::Failed { .. } => Lookup::NotReady,
        }
    }
}

/// What is known of a key. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// What it is.
    pub(super) content: Content,
    /// Every change before this moment of the service's clock is in it.
    pub(super) fresh: Option<u64>,
    loaded: Instant,
    refreshing: Arc<AtomicBool>,
}

/// A refresh that is under way. It ends when this is dropped, whatever became of it.
pub(super) struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Entry {
    /// What was loaded now.
    pub(super) fn new(content: Content, fresh: Option<u64>) -> Self {
        Self {
            content,
            fresh,
            loaded: Instant::now(),
            refreshing: Arc::default(),
        }
    }

    /// What could not be loaded.
    pub(super) fn failed(why: String) -> Self {
        Self::new(Content::Failed { why }, None)
    }

    /// Tells one load from another.
    pub(super) fn id(&self) -> usize {
        Arc::as_ptr(&self.refreshing) as usize
    }

    /// Whether it could not be loaded, and that is so long ago.
    pub(super) fn is_failed_for(&self, time: Duration) -> bool {
        matches!(self.content, Content::Failed { .. }) && self.loaded.elapsed() >= time
    }

    /// Whether it is to be loaded again: from three quarters of the time on, each key at its own moment.
    pub(super) fn is_due(&self, name: &Name, after: Duration) -> bool {
        let mut hasher = DefaultHasher::new();
        (name, self.id()).hash(&mut hasher);
        let spread = f64::from(hasher.finish() as u16) / f64::from(u16::MAX);
        self.loaded.elapsed() >= after.mul_f64(0.75 + 0.25 * spread)
    }

    /// Marks it as being refreshed, unless it is.
    pub(super) fn begin_refresh(&self) -> Option<Running> {
        let was = self.refreshing.swap(true, Ordering::AcqRel);
        (!was).then(|| Running(self.refreshing.clone()))
    }

    /// Bytes that it takes.
    pub(super) fn weight(&self, (kind, key): &Name) -> u32 {
        let names = kind.as_str().len() + key.as_str().len();
        let content = match &self.content {
            Content::Value { tenant, known, .. } => tenant.as_str().len() + known.weight(),
            Content::Failed { why } => why.len(),
            _ => 0,
        };
        (OVERHEAD + names + content).try_into().unwrap_or(u32::MAX)
    }
}
