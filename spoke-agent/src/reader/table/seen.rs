//! What was seen of each tenant of which something is cached: its highest version, and in which time it was surely that.
//!
//! An item of a table does not say in which bundle it stands, its tenant's head does. So what was read counts as part of a
//! bundle if it was read wholly within a time in which the head surely named that bundle: after an answer that named it, and
//! before a question whose answer named it still.
//!
//! A tenant is remembered as long as somebody holds it, so that nothing that is cached is ever compared with less than was
//! seen. It never forgets a version that it has seen, and never takes a lower one.

use contexts::name::TenantId;
use contexts::version::Version;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

/// The tenants that somebody holds.
#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<HashMap<TenantId, Weak<Tenant>>>);

/// A tenant of which something is cached.
#[derive(Debug)]
pub(super) struct Tenant {
    id: TenantId,
    /// How often a higher version was seen, so that a reader compares one number.
    rises: AtomicU64,
    seen: Mutex<Seen>,
    /// Held by who asks for the head again, so that all who want the same wait for one answer.
    confirming: tokio::sync::Mutex<()>,
    all: Weak<Tenants>,
}

/// The highest version of a tenant that was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The version.
    pub(super) version: Version,
    /// Which of the tenant's versions it is, counted from the first that was seen.
    pub(super) rise: u64,
    /// Since when the head surely named it.
    pub(super) since: Instant,
    /// Until when it surely did.
    pub(super) until: Instant,
}

/// When something was asked and when it was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// When it was asked.
    pub(super) asked: Instant,
    /// When it was answered.
    pub(super) answered: Instant,
}

impl Span {
    /// What a question takes.
    pub(super) async fn of<A>(question: impl Future<Output = A>) -> (A, Self) {
        let asked = Instant::now();
        let answer = question.await;
        let answered = Instant::now();
        (answer, Self { asked, answered })
    }
}

impl Seen {
    /// Whether what was read in this time is of this version.
    pub(super) fn covers(&self, read: Span) -> bool {
        self.since <= read.asked && read.answered <= self.until
    }
}

impl Tenants {
    /// Takes note of a version that the head named in this time. Returns what is known now.
    pub(super) fn saw(
        self: &Arc<Self>,
        id: &TenantId,
        version: Version,
        head: Span,
    ) -> (Arc<Tenant>, Seen) {
        let first = Seen {
            version,
            rise: 0,
            since: head.answered,
            until: head.asked,
        };
        let tenant = {
            let mut all = self.lock();
            match all.get(id).and_then(Weak::upgrade) {
                Some(tenant) => tenant,
                None => {
                    let tenant = Arc::new(Tenant {
                        id: id.clone(),
                        rises: AtomicU64::new(0),
                        seen: Mutex::new(first),
                        confirming: tokio::sync::Mutex::default(),
                        all: Arc::downgrade(self),
                    });
                    all.insert(id.clone(), Arc::downgrade(&tenant));
                    tenant
                }
            }
        };
        let seen = tenant.note(first);
        (tenant, seen)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Weak<Tenant>>> {
        // Every change of it is a whole one, so what a panicked task left can be used.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Tenant {
    /// Who it is.
    pub(super) fn id(&self) -> &TenantId {
        &self.id
    }

    /// The highest version that was seen.
    pub(super) fn seen(&self) -> Seen {
        *self.lock()
    }

    /// Whether it is still this one of its versions.
    pub(super) fn is_at(&self, rise: u64) -> bool {
        self.rises.load(Ordering::Acquire) == rise
    }

    /// Waits until nobody else asks for the head again.
    pub(super) async fn confirming(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.confirming.lock().await
    }

    fn note(&self, told: Seen) -> Seen {
        let mut seen = self.lock();
        if told.version > seen.version {
            let rise = seen.rise + 1;
            *seen = Seen { rise, ..told };
            self.rises.store(rise, Ordering::Release);
        } else if told.version == seen.version {
            seen.since = seen.since.min(told.since);
            seen.until = seen.until.max(told.until);
        }
        *seen
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let Some(tenants) = self.all.upgrade() else {
            return;
        };
        let mut all = tenants.lock();
        // Another one of the same name may stand there already.
        if all.get(&self.id).is_some_and(|one| one.strong_count() == 0) {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn version(n: u64) -> Version {
        Version { epoch: 1, n }
    }

    fn span(from: Instant, asked: u64, answered: u64) -> Span {
        Span {
            asked: from + Duration::from_secs(asked),
            answered: from + Duration::from_secs(answered),
        }
    }

    #[test]
    fn a_read_counts_within_the_time_in_which_the_head_named_the_version() {
        let (all, start) = (Arc::new(Tenants::default()), Instant::now());
        let id = TenantId::new("t").expect("a tenant");
        let (tenant, seen) = all.saw(&id, version(1), span(start, 1, 2));
        assert!(!seen.covers(span(start, 2, 3)), "nobody asked again yet");
        let (_, seen) = all.saw(&id, version(1), span(start, 5, 6));
        assert!(seen.covers(span(start, 2, 5)));
        assert!(!seen.covers(span(start, 1, 5)), "it began before");
        assert!(!seen.covers(span(start, 2, 6)), "it ended later");
        assert!(tenant.is_at(seen.rise));
        let (_, higher) = all.saw(&id, version(3), span(start, 7, 8));
        assert!(!tenant.is_at(seen.rise) && tenant.is_at(higher.rise));
        let (_, late) = all.saw(&id, version(2), span(start, 6, 9));
        assert_eq!(late.version, version(3), "it never goes back");
        assert!(tenant.is_at(late.rise));
    }

    #[test]
    fn who_is_held_by_nobody_is_forgotten() {
        let (all, start) = (Arc::new(Tenants::default()), Instant::now());
        let id = TenantId::new("t").expect("a tenant");
        let (first, _) = all.saw(&id, version(9), span(start, 1, 2));
        let (second, _) = all.saw(&id, version(1), span(start, 1, 2));
        drop(first);
        assert_eq!(second.seen().version, version(9));
        drop(second);
        assert!(all.lock().is_empty());
    }
}
