//! What is known of one key, when it was read, and when it is to be read again.

use super::seen::{Span, Tenant};
use crate::store::index::known::Known;
use crate::store::index::{Lookup, Versions};
use contexts::name::TenantId;
use contexts::version::Version;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// Bytes that an entry takes beside its content, roughly: itself, and what the cache, the allocator and its tenant need for it.
const OVERHEAD: usize = size_of::<Entry>() + 160;

/// What a key is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// It has a value.
    Value {
        /// Of which bundle of whom.
        of: Of,
        /// The value.
        known: Known,
        /// The version that it came with.
        version: Version,
    },
    /// It exists at the hub, and no good value ever came.
    Held {
        /// Of which bundle of whom.
        of: Of,
    },
    /// Nobody has it, and the table was complete in its kind.
    Absent,
    /// Nobody has it here, and that says nothing yet.
    Unknown,
    /// What is stored of it cannot be trusted.
    Damaged,
    /// It could not be read.
    Failed {
        /// Why.
        why: String,
    },
}

/// Of which bundle of whom something is.
#[derive(Debug, Clone)]
pub(super) struct Of {
    /// Whose.
    pub(super) tenant: Arc<Tenant>,
    /// The version of the bundle.
    pub(super) bundle: Version,
    /// Which of the tenant's versions that is.
    pub(super) rise: u64,
}

/// What is known of a key.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it is.
    pub(super) content: Content,
    /// Whose it was last, if it is nobody's now.
    pub(super) was: Option<Arc<Tenant>>,
    /// When it was read.
    pub(super) read: Span,
    /// Every change at the hub before this moment is in it.
    pub(super) fresh: Option<Instant>,
    /// The highest version of which nothing was under way to the table.
    pub(super) position: Version,
    /// When it is to be read again.
    due: Instant,
    is_refreshing: AtomicBool,
    /// What was read after it, for its place.
    pub(super) next: OnceCell<Arc<Self>>,
}

/// How far the table was when a key was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Far {
    /// Every change at the hub before this moment was in it.
    pub(super) fresh: Option<Instant>,
    /// The highest version of which nothing was under way to it.
    pub(super) position: Version,
}

impl Entry {
    /// What was read.
    pub(super) fn new(
        content: Content,
        was: Option<Arc<Tenant>>,
        read: Span,
        far: Far,
        refresh_after: Duration,
    ) -> Self {
        // Before the time is over, so that a key that is asked for often need not wait then; each at its own moment.
        let spread = RandomState::new().hash_one(0) as u16;
        let spread = f64::from(spread) / f64::from(u16::MAX);
        Self {
            content,
            was,
            read,
            fresh: far.fresh,
            position: far.position,
            due: read.asked + refresh_after.mul_f64(0.7 + 0.2 * spread),
            is_refreshing: AtomicBool::new(false),
            next: OnceCell::new(),
        }
    }

    /// What could not be read; tried again after a while.
    pub(super) fn failed(why: String, again_after: Duration) -> Self {
        let now = Instant::now();
        Self {
            content: Content::Failed { why },
            was: None,
            read: Span {
                asked: now,
                answered: now,
            },
            fresh: None,
            position: Version::default(),
            due: now + again_after,
            is_refreshing: AtomicBool::new(false),
            next: OnceCell::new(),
        }
    }

    /// The same, as it was read, to be read again after a while.
    pub(super) fn later(&self, after: Duration) -> Self {
        Self {
            content: self.content.clone(),
            was: self.was.clone(),
            due: Instant::now() + after,
            is_refreshing: AtomicBool::new(false),
            next: OnceCell::new(),
            read: self.read,
            fresh: self.fresh,
            position: self.position,
        }
    }

    /// Whether it is to be read again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// Marks it as being refreshed. Returns whether nobody else did.
    pub(super) fn begin_refresh(&self) -> bool {
        !self.is_refreshing.swap(true, Ordering::AcqRel)
    }

    /// Takes the mark away: it was not refreshed.
    pub(super) fn end_refresh(&self) {
        self.is_refreshing.store(false, Ordering::Release);
    }

    /// Of which bundle of whom it is, if it is somebody's.
    pub(super) fn of(&self) -> Option<&Of> {
        match &self.content {
            Content::Value { of, .. } | Content::Held { of } => Some(of),
            _ => None,
        }
    }

    /// Whose it is, or was last.
    pub(super) fn tenant(&self) -> Option<&Arc<Tenant>> {
        self.of().map(|of| &of.tenant).or(self.was.as_ref())
    }

    /// Whether a higher version of its tenant was seen since.
    pub(super) fn is_superseded(&self) -> bool {
        self.of().is_some_and(|of| !of.tenant.is_at(of.rise))
    }

    /// Whether it could not be read.
    pub(super) fn is_failed(&self) -> bool {
        matches!(self.content, Content::Failed { .. })
    }

    /// Whether nobody has it, as far as is known.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.content, Content::Absent | Content::Unknown)
    }

    /// Time since the moment up to which every change at the hub is in it.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.fresh.map(|fresh| now.saturating_duration_since(fresh))
    }

    /// The version that it is at least as new as.
    pub(super) fn reaches(&self) -> Version {
        let bundle = self.of().map(|of| of.bundle);
        bundle.unwrap_or_default().max(self.position)
    }

    /// As readers want it.
    pub(super) fn lookup(&self) -> Lookup {
        match &self.content {
            Content::Value {
                of, known, version, ..
            } => {
                let (value, bundle) = (*version, of.bundle);
                Lookup::Found(known.clone(), Versions { value, bundle })
            }
            Content::Held { .. } => Lookup::Held,
            Content::Absent => Lookup::Absent,
            Content::Unknown | Content::Damaged | Content::Failed { .. } => Lookup::NotReady,
        }
    }

    /// Whether whoever asks is told something else than before.
    pub(super) fn differs(&self, before: &Self) -> bool {
        match (&self.content, &before.content) {
            (Content::Value { known: new, .. }, Content::Value { known: old, .. }) => new != old,
            (Content::Failed { .. }, _) => false,
            (new, old) => std::mem::discriminant(new) != std::mem::discriminant(old),
        }
    }

    /// Bytes that it takes, with its key.
    pub(super) fn weight(&self, names: usize) -> u64 {
        let tenant = self.tenant().map(|tenant| tenant.id());
        let content = match &self.content {
            Content::Value { known, .. } => known.weight(),
            Content::Failed { why } => why.len(),
            _ => 0,
        };
        let tenant = tenant.map_or(0, |id: &TenantId| id.as_str().len());
        (OVERHEAD + names + tenant + content) as u64
    }
}
