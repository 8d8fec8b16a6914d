//! What waits to be sent to one store. Pure. A tenant stands in it at most once, with its latest build; bounded in
//! bytes by its owner, which drops all of it and has the store scanned instead.

use super::Tick;
use contexts::digest::Digest;
use contexts::name::TenantId;
use contexts::push::Sent;
use std::collections::{HashSet, VecDeque};

/// A bundle that waits.
#[derive(Debug, Clone)]
pub struct Queued {
    /// What is sent.
    pub sent: Sent,
    /// The digest of its content.
    pub digest: Digest,
    /// Its size, roughly, in bytes.
    pub weight: usize,
    /// When the build of it began.
    pub started: Tick,
}

/// Bundles that came out of one build.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The bundles.
    pub bundles: Vec<Queued>,
    /// Whether it may not be split over two commits.
    pub atomic: bool,
    /// Whether it fills an empty store during a scan, rather than carrying a change.
    pub fill: bool,
}

impl Unit {
    fn weight(&self) -> usize {
        self.bundles.iter().map(|q| q.weight).sum()
    }
}

/// The queue of one store.
#[derive(Debug, Default)]
pub struct Queue {
    changes: VecDeque<Unit>,
    fills: VecDeque<Unit>,
    tenants: HashSet<TenantId>,
    bytes: usize,
}

impl Queue {
    /// Adds a unit. Older builds of its tenants are dropped, and the unit takes the place of the first of them, so that
    /// a tenant that changes all the time still gets its turn. Returns the tenants whose *fill* it replaced.
    pub fn push(&mut self, unit: Unit) -> Vec<TenantId> {
        let again: HashSet<&TenantId> = unit
            .bundles
            .iter()
            .map(|q| &q.sent.bundle.tenant)
            .filter(|t| self.tenants.contains(*t))
            .collect();
        let (mut place, mut unfilled) = (None, Vec::new());
        if !again.is_empty() {
            place = drop_tenants(&mut self.changes, &again, &mut self.bytes, |_| {});
            drop_tenants(&mut self.fills, &again, &mut self.bytes, |t| {
                unfilled.push(t)
            });
        }
        self.bytes += unit.weight();
        self.tenants
            .extend(unit.bundles.iter().map(|q| q.sent.bundle.tenant.clone()));
        match (unit.fill, place) {
            (true, _) => self.fills.push_back(unit),
            (false, Some(at)) => self.changes.insert(at, unit),
            (false, None) => self.changes.push_back(unit),
        }
        unfilled
    }

    /// Takes what goes into the next push: changes before fills, up to `max` bytes unless one bundle, or one unit that
    /// may not be split, is larger.
    pub fn next(&mut self, max: usize) -> Vec<Queued> {
        let lane = if self.changes.is_empty() {
            &mut self.fills
        } else {
            &mut self.changes
        };
        let mut out: Vec<Queued> = Vec::new();
        let mut bytes = 0;
        while let Some(mut unit) = lane.pop_front() {
            let weight = unit.weight();
            if out.is_empty() || bytes + weight <= max {
                if unit.atomic || bytes + weight <= max {
                    bytes += weight;
                    out.append(&mut unit.bundles);
                    continue;
                }
                while let Some(first) = unit.bundles.first() {
                    if !out.is_empty() && bytes + first.weight > max {
                        break;
                    }
                    bytes += first.weight;
                    out.push(unit.bundles.remove(0));
                }
            }
            if !unit.bundles.is_empty() {
                lane.push_front(unit);
            }
            break;
        }
        self.bytes -= bytes;
        for queued in &out {
            self.tenants.remove(&queued.sent.bundle.tenant);
        }
        out
    }

    /// Drops everything and says whose bundles waited.
    pub fn clear(&mut self) -> HashSet<TenantId> {
        self.changes.clear();
        self.fills.clear();
        self.bytes = 0;
        std::mem::take(&mut self.tenants)
    }

    /// Whether a bundle of this tenant waits.
    pub fn contains(&self, tenant: &TenantId) -> bool {
        self.tenants.contains(tenant)
    }

    /// Every tenant of which a bundle waits.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.tenants.iter()
    }

    /// Whether a fill waits.
    pub fn has_fill(&self) -> bool {
        !self.fills.is_empty()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.fills.is_empty()
    }

    /// Bytes that wait, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bundles that wait.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }
}

fn drop_tenants(
    lane: &mut VecDeque<Unit>,
    tenants: &HashSet<&TenantId>,
    bytes: &mut usize,
    mut dropped: impl FnMut(TenantId),
) -> Option<usize> {
    let mut place = None;
    for (at, unit) in lane.iter_mut().enumerate() {
        unit.bundles.retain(|q| {
            let gone = tenants.contains(&q.sent.bundle.tenant);
            if gone {
                *bytes -= q.weight;
                place.get_or_insert(at);
                dropped(q.sent.bundle.tenant.clone());
            }
            !gone
        });
    }
    // Only units at or after the first place can have become empty, so the place still stands.
    lane.retain(|u| !u.bundles.is_empty());
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use contexts::bundle::Bundle;
    use contexts::version::Version;
    use std::sync::Arc;

    fn queued(tenant: &str, n: u64, weight: usize) -> Queued {
        let bundle = Arc::new(Bundle::empty(TenantId::new(tenant).expect("tenant")));
        Queued {
            sent: Sent {
                version: Version { epoch: 1, n },
                bundle,
            },
            digest: Digest([0; 16]),
            weight,
            started: Tick(n),
        }
    }

    fn unit(bundles: Vec<Queued>, atomic: bool, fill: bool) -> Unit {
        Unit {
            bundles,
            atomic,
            fill,
        }
    }

    fn names(out: Vec<Queued>) -> Vec<String> {
        out.iter()
            .map(|q| format!("{}{}", q.sent.bundle.tenant, q.sent.version.n))
            .collect()
    }

    #[test]
    fn a_later_build_replaces_the_earlier_one_in_its_place() {
        let mut queue = Queue::default();
        queue.push(unit(vec![queued("a", 1, 10)], false, false));
        queue.push(unit(vec![queued("b", 2, 10)], false, false));
        queue.push(unit(vec![queued("a", 3, 10)], false, false));
        assert_eq!((queue.len(), queue.bytes()), (2, 20));
        assert_eq!(names(queue.next(100)), ["a3", "b2"]);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn a_push_is_bounded_but_an_atomic_unit_is_never_split() {
        let mut queue = Queue::default();
        queue.push(unit(
            vec![queued("a", 1, 60), queued("b", 2, 60)],
            false,
            false,
        ));
        queue.push(unit(
            vec![queued("c", 3, 80), queued("d", 4, 80)],
            true,
            false,
        ));
        assert_eq!(names(queue.next(100)), ["a1"]);
        assert_eq!(names(queue.next(100)), ["b2"]);
        assert_eq!(names(queue.next(100)), ["c3", "d4"]);
    }

    #[test]
    fn changes_go_before_fills_and_tell_which_fills_they_replace() {
        let mut queue = Queue::default();
        queue.push(unit(
            vec![queued("a", 1, 10), queued("b", 2, 10)],
            false,
            true,
        ));
        let replaced = queue.push(unit(vec![queued("b", 3, 10)], false, false));
        assert_eq!(replaced.len(), 1);
        assert_eq!(names(queue.next(100)), ["b3"]);
        assert!(queue.has_fill());
        assert_eq!(names(queue.next(100)), ["a1"]);
        assert!(!queue.has_fill());
    }
}
