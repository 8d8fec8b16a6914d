//! What waits to be sent to one store. Pure. A tenant stands in it at most once, with its latest build; bounded in
//! bytes by its owner, which drops all of it and has the store scanned instead.
//!
//! What a bundle *costs* to send is asked each time: less than its weight if it goes as a delta, and that may end at any time.

use super::Tick;
use contexts::delta::Parts;
use contexts::digest::Digest;
use contexts::name::TenantId;
use contexts::push::Sent;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// A bundle that waits.
#[derive(Debug, Clone)]
pub struct Queued {
    /// What is sent.
    pub sent: Sent,
    /// The digest of its content.
    pub digest: Digest,
    /// Its parts, if it is large.
    pub parts: Option<Arc<Parts>>,
    /// Its size, roughly, in bytes.
    pub weight: usize,
    /// When the build of it began.
    pub started: Tick,
    /// Whether it stood in the lane of small changes.
    pub is_urgent: bool,
    /// Whether it was taken in one unit with the bundle before it, and may not be parted from that.
    pub is_joined: bool,
}

/// How urgent a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// A change that somebody waits for.
    Change,
    /// One of many: a bulk change or a repair.
    Bulk,
    /// It fills an empty store during a scan.
    Fill,
}

/// Bundles that came out of one build.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The bundles.
    pub bundles: Vec<Queued>,
    /// Whether it may not be split over two commits.
    pub atomic: bool,
    /// How urgent it is.
    pub sort: Sort,
}

impl Unit {
    fn weight(&self) -> usize {
        self.bundles.iter().map(|q| q.weight).sum()
    }

    fn to_send(&self, cost: &impl Fn(&Queued) -> usize) -> usize {
        self.bundles.iter().map(cost).sum()
    }
}

/// A change larger than this does not go before others: its way takes long.
const SMALL: usize = 256 << 10;
/// So many pushes of small changes may pass what waits before it gets one in between.
const PASSES_MAX: u32 = 8;

/// The queue of one store.
#[derive(Debug, Default)]
pub struct Queue {
    /// Small changes; large and bulk changes; fills.
    lanes: [VecDeque<Unit>; 3],
    tenants: HashSet<TenantId>,
    bytes: usize,
    passed: u32,
}

impl Queue {
    /// Adds a unit. Older builds of its tenants are dropped; in its lane the unit takes the place of the first of them,
    /// so that a tenant that changes all the time still gets its turn. Returns the tenants whose *fill* it replaced.
    pub fn push(&mut self, mut unit: Unit, cost: &impl Fn(&Queued) -> usize) -> Vec<TenantId> {
        // An urgent change stays urgent when its tenant is built once more for another reason.
        let mut unfilled = match self.split_urgent(&mut unit) {
            Some(urgent) => self.push(urgent, cost),
            None => Vec::new(),
        };
        let lane = match unit.sort {
            Sort::Change if unit.to_send(cost) <= SMALL => 0,
            Sort::Change | Sort::Bulk => 1,
            Sort::Fill => 2,
        };
        unit.bundles
            .iter_mut()
            .for_each(|q| q.is_urgent = lane == 0);
        let tenants = unit.bundles.iter().map(|q| &q.sent.bundle.tenant);
        let again: HashSet<&TenantId> = tenants.filter(|t| self.tenants.contains(*t)).collect();
        let mut place = None;
        if !again.is_empty() {
            for (i, waiting) in self.lanes.iter_mut().enumerate() {
                let first = drop_tenants(waiting, &again, &mut self.bytes, |t| {
                    if i == 2 {
                        unfilled.push(t);
                    }
                });
                place = if i == lane { first } else { place };
            }
        }
        self.bytes += unit.weight();
        self.tenants
            .extend(unit.bundles.iter().map(|q| q.sent.bundle.tenant.clone()));
        match place {
            _ if unit.bundles.is_empty() => {}
            Some(at) if lane < 2 => self.lanes[lane].insert(at, unit),
            _ => self.lanes[lane].push_back(unit),
        }
        unfilled
    }

    /// Takes out of a unit what replaces an urgent change; one that may not be split becomes urgent as a whole.
    fn split_urgent(&self, unit: &mut Unit) -> Option<Unit> {
        if unit.sort == Sort::Change || self.lanes[0].is_empty() {
            return None;
        }
        let waiting = self.lanes[0].iter().flat_map(|u| &u.bundles);
        let waiting: HashSet<&TenantId> = waiting.map(|q| &q.sent.bundle.tenant).collect();
        let waits = |q: &Queued| waiting.contains(&q.sent.bundle.tenant);
        if unit.atomic {
            if unit.bundles.iter().any(waits) {
                unit.sort = Sort::Change;
            }
            return None;
        }
        let all = std::mem::take(&mut unit.bundles).into_iter();
        let (bundles, rest) = all.partition(waits);
        unit.bundles = rest;
        let urgent = Unit {
            bundles,
            atomic: false,
            sort: Sort::Change,
        };
        (!urgent.bundles.is_empty()).then_some(urgent)
    }

    /// Takes what goes into the next push: small changes, up to `max` bytes, before the rest, up to `bulk` bytes; more if
    /// one bundle, or one unit that may not be split, is larger.
    pub fn next(
        &mut self,
        max: usize,
        bulk: usize,
        cost: &impl Fn(&Queued) -> usize,
    ) -> Vec<Queued> {
        let Some(mut first) = self.lanes.iter().position(|l| !l.is_empty()) else {
            return Vec::new();
        };
        let slower = (1..3).find(|i| !self.lanes[*i].is_empty());
        match slower.filter(|_| first == 0 && self.passed >= PASSES_MAX) {
            Some(slower) => (first, self.passed) = (slower, 0),
            None if first == 0 && slower.is_some() => self.passed += 1,
            None => self.passed = 0,
        }
        let max = if first == 0 { max } else { bulk };
        let out = take(&mut self.lanes[first], max, cost);
        for queued in &out {
            self.bytes -= queued.weight;
            self.tenants.remove(&queued.sent.bundle.tenant);
        }
        out
    }

    /// Puts bundles that were taken and not applied before all others of their lane, in the units that they were of; but for
    /// those of which a newer build waits.
    pub fn again(&mut self, bundles: Vec<Queued>, cost: &impl Fn(&Queued) -> usize) {
        let mut units: Vec<Vec<Queued>> = Vec::new();
        for queued in bundles {
            match units.last_mut() {
                Some(unit) if queued.is_joined => unit.push(queued),
                _ => units.push(vec![queued]),
            }
        }
        for mut bundles in units.into_iter().rev() {
            bundles.retain(|q| !self.tenants.contains(&q.sent.bundle.tenant));
            if bundles.is_empty() {
                continue;
            }
            let unit = Unit {
                atomic: bundles.len() > 1,
                bundles,
                sort: Sort::Change,
            };
            self.bytes += unit.weight();
            let tenants = unit.bundles.iter().map(|q| q.sent.bundle.tenant.clone());
            self.tenants.extend(tenants);
            let lane = usize::from(unit.to_send(cost) > SMALL);
            self.lanes[lane].push_front(unit);
        }
    }

    /// Drops everything and says what waited.
    pub fn clear(&mut self) -> Vec<Queued> {
        self.bytes = 0;
        self.tenants.clear();
        let units = self.lanes.iter_mut().flat_map(|lane| lane.drain(..));
        units.flat_map(|unit| unit.bundles).collect()
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
        !self.lanes[2].is_empty()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
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

/// Takes units from the front of a lane, up to `max` bytes to send; the first may be split unless it is atomic.
fn take(lane: &mut VecDeque<Unit>, max: usize, cost: &impl Fn(&Queued) -> usize) -> Vec<Queued> {
    let (mut out, mut bytes) = (Vec::new(), 0);
    while let Some(unit) = lane.front_mut() {
        let (all, mut fits) = (unit.bundles.len(), 0);
        for queued in &unit.bundles {
            bytes += cost(queued);
            if bytes > max {
                break;
            }
            fits += 1;
        }
        let count = match (out.is_empty(), unit.atomic) {
            _ if fits == all => all,
            (true, true) => all,
            (true, false) => fits.max(1),
            (false, _) => 0,
        };
        for (i, mut queued) in unit.bundles.drain(..count).enumerate() {
            queued.is_joined = unit.atomic && i > 0;
            out.push(queued);
        }
        if count == all {
            lane.pop_front();
        }
        if fits < all {
            break;
        }
    }
    out
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
            parts: None,
            weight,
            started: Tick(n),
            is_urgent: false,
            is_joined: false,
        }
    }

    fn unit(bundles: Vec<Queued>, atomic: bool, sort: Sort) -> Unit {
        Unit {
            bundles,
            atomic,
            sort,
        }
    }

    fn put(queue: &mut Queue, unit: Unit) -> Vec<TenantId> {
        queue.push(unit, &|q| q.weight)
    }

    fn next(queue: &mut Queue, max: usize, bulk: usize) -> Vec<Queued> {
        queue.next(max, bulk, &|q| q.weight)
    }

    fn names(out: Vec<Queued>) -> Vec<String> {
        out.iter()
            .map(|q| format!("{}{}", q.sent.bundle.tenant, q.sent.version.n))
            .collect()
    }

    #[test]
    fn a_later_build_replaces_the_earlier_one_in_its_place() {
        let mut queue = Queue::default();
        put(
            &mut queue,
            unit(vec![queued("a", 1, 10)], false, Sort::Change),
        );
        put(
            &mut queue,
            unit(vec![queued("b", 2, 10)], false, Sort::Change),
        );
        put(
            &mut queue,
            unit(vec![queued("a", 3, 10)], false, Sort::Change),
        );
        assert_eq!((queue.len(), queue.bytes()), (2, 20));
        assert_eq!(names(next(&mut queue, 100, 100)), ["a3", "b2"]);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn a_push_is_bounded_but_an_atomic_unit_is_never_split() {
        let mut queue = Queue::default();
        put(
            &mut queue,
            unit(
                vec![queued("a", 1, 60), queued("b", 2, 60)],
                false,
                Sort::Change,
            ),
        );
        put(
            &mut queue,
            unit(
                vec![queued("c", 3, 80), queued("d", 4, 80)],
                true,
                Sort::Change,
            ),
        );
        assert_eq!(names(next(&mut queue, 100, 100)), ["a1"]);
        assert_eq!(names(next(&mut queue, 100, 100)), ["b2"]);
        assert_eq!(names(next(&mut queue, 100, 100)), ["c3", "d4"]);
    }

    #[test]
    fn changes_go_before_fills_and_tell_which_fills_they_replace() {
        let mut queue = Queue::default();
        put(
            &mut queue,
            unit(
                vec![queued("a", 1, 10), queued("b", 2, 10)],
                false,
                Sort::Fill,
            ),
        );
        let replaced = put(
            &mut queue,
            unit(vec![queued("b", 3, 10)], false, Sort::Change),
        );
        assert_eq!(replaced.len(), 1);
        assert_eq!(names(next(&mut queue, 100, 100)), ["b3"]);
        assert!(queue.has_fill());
        assert_eq!(names(next(&mut queue, 100, 100)), ["a1"]);
        assert!(!queue.has_fill());
    }

    #[test]
    fn a_change_that_waits_is_not_put_behind_a_bulk_change_of_its_tenant() {
        let mut queue = Queue::default();
        put(
            &mut queue,
            unit(vec![queued("bulk", 1, 10)], false, Sort::Bulk),
        );
        put(
            &mut queue,
            unit(vec![queued("a", 2, 10)], false, Sort::Change),
        );
        let bulk = vec![queued("a", 3, 10), queued("b", 4, 10)];
        put(&mut queue, unit(bulk, false, Sort::Bulk));
        assert_eq!((queue.len(), queue.bytes()), (3, 30));
        assert_eq!(names(next(&mut queue, 100, 100)), ["a3"]);
        assert_eq!(names(next(&mut queue, 100, 100)), ["bulk1", "b4"]);
        put(
            &mut queue,
            unit(vec![queued("a", 5, 10)], false, Sort::Change),
        );
        put(
            &mut queue,
            unit(vec![queued("a", 6, 10)], false, Sort::Bulk),
        );
        assert_eq!(names(next(&mut queue, 100, 100)), ["a6"]);
        assert!(queue.is_empty() && queue.bytes() == 0);
        put(
            &mut queue,
            unit(vec![queued("bulk", 7, 10)], false, Sort::Bulk),
        );
        put(
            &mut queue,
            unit(vec![queued("a", 8, 10)], false, Sort::Change),
        );
        let together = vec![queued("a", 9, 10), queued("c", 10, 10)];
        put(&mut queue, unit(together, true, Sort::Bulk));
        assert_eq!(names(next(&mut queue, 100, 100)), ["a9", "c10"]);
        assert_eq!(names(next(&mut queue, 100, 100)), ["bulk7"]);
    }

    #[test]
    fn what_is_large_or_one_of_many_waits_but_not_for_ever() {
        let mut queue = Queue::default();
        put(
            &mut queue,
            unit(vec![queued("large", 1, SMALL + 1)], false, Sort::Change),
        );
        put(
            &mut queue,
            unit(vec![queued("bulk", 2, 10)], false, Sort::Bulk),
        );
        let mut passed = 0;
        loop {
            put(
                &mut queue,
                unit(vec![queued("small", 3, 10)], false, Sort::Change),
            );
            if names(next(&mut queue, 1_000, 1_000)) == ["large1"] {
                break;
            }
            passed += 1;
        }
        assert_eq!(passed, PASSES_MAX);
        assert_eq!(names(next(&mut queue, 1_000, 1_000)), ["small3"]);
        assert_eq!(names(next(&mut queue, 1_000, 1_000)), ["bulk2"]);
    }

    #[test]
    fn what_goes_as_a_delta_is_small_to_send_and_large_to_keep_until_it_has_to_go_whole() {
        let mut queue = Queue::default();
        let small = |q: &Queued| q.weight.min(10);
        let change = |q| unit(vec![q], false, Sort::Change);
        put(&mut queue, change(queued("other", 1, SMALL + 1)));
        for n in 2..6 {
            queue.push(change(queued("large", n, 9 * SMALL)), &small);
            queue.push(change(queued(&format!("{n}"), n, 9 * SMALL)), &small);
        }
        assert_eq!(queue.bytes(), 46 * SMALL + 1);
        assert_eq!(names(queue.next(30, 30, &small)), ["large5", "22", "33"]);
        assert_eq!(names(next(&mut queue, 30, 30)), ["44"]);
        assert_eq!(names(next(&mut queue, 30, 30)), ["55"]);
        assert_eq!(queue.bytes(), SMALL + 1);
    }

    #[test]
    fn what_was_not_applied_goes_next_in_its_units_unless_there_is_something_newer() {
        let mut queue = Queue::default();
        let weight = |q: &Queued| q.weight;
        let single = |tenant, n, weight| unit(vec![queued(tenant, n, weight)], false, Sort::Change);
        let many = ["a", "b", "c", "d"].map(|tenant| queued(tenant, 1, 60));
        put(&mut queue, unit(many.to_vec(), true, Sort::Change));
        put(&mut queue, single("e", 1, 10));
        let taken = queue.next(250, 250, &weight);
        put(&mut queue, single("x", 1, 10));
        put(&mut queue, single("b", 2, 10));
        queue.again(taken, &weight);
        assert_eq!((queue.len(), queue.bytes()), (6, 210));
        assert_eq!(names(next(&mut queue, 100, 100)), ["a1", "c1", "d1"]);
        assert_eq!(names(next(&mut queue, 100, 100)), ["e1", "x1", "b2"]);

        let taken = ["large", "a", "x"].map(|tenant| queued(tenant, 1, SMALL + 1));
        put(&mut queue, single("x", 3, 10));
        queue.again(taken.to_vec(), &weight);
        assert_eq!(names(next(&mut queue, 100, 100)), ["x3"]);
        assert_eq!(names(next(&mut queue, 100, 100)), ["large1"]);
        assert_eq!(names(next(&mut queue, 100, 100)), ["a1"]);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }
}
