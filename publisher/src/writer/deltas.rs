//! Deltas: what a store confirmed of large tenants, and what goes out of them instead of whole bundles.
//!
//! What must hold: only what the store confirmed in this session is remembered. A message without an answer, another verdict, a
//! comparison that found something else and a new session end that, for then nobody knows; what is sent next is whole.
//! Should the memory be wrong all the same, the store says so and the same bundles go whole.

use super::queue::Queued;
use super::store::{Link, of_queued};
use super::{Report, Request, StoreIx, Writer};
use contexts::delta::{Change, Delta, PushDelta, Sums};
use contexts::digest::Digest;
use contexts::limits;
use contexts::name::TenantId;
use contexts::push::Push;
use contexts::version::SessionId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What came of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaOutcome {
    /// The store rebuilt the bundle from it.
    Taken,
    /// The store has something else than it confirmed; the bundle goes whole.
    Differs,
    /// The store is of a release, or a sort, that knows no deltas; it gets whole bundles.
    Unknown,
}

impl DeltaOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Taken, Self::Differs, Self::Unknown];

    /// A word for it, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Differs => "differs",
            Self::Unknown => "unknown",
        }
    }
}

/// A bundle that a store confirmed.
#[derive(Debug)]
struct Known {
    digest: Digest,
    sums: Arc<Sums>,
    /// Where it stands in the order of confirmations.
    place: u64,
}

/// What a store confirmed in its session of tenants with parts, the latest within a bound.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// The store said that it knows no deltas.
    takes_none: bool,
    known: HashMap<TenantId, Known>,
    order: BTreeMap<u64, TenantId>,
    bytes: usize,
    next: u64,
}

impl Confirmed {
    /// The store confirmed this bundle.
    pub fn learn(&mut self, tenant: &TenantId, digest: Digest, sums: Option<&Arc<Sums>>) {
        self.forget(tenant);
        let Some(sums) = sums.filter(|_| !self.takes_none) else {
            return;
        };
        let (place, sums) = (self.next, sums.clone());
        self.next += 1;
        self.bytes += sums.bytes();
        self.order.insert(place, tenant.clone());
        let known = Known {
            digest,
            sums,
            place,
        };
        self.known.insert(tenant.clone(), known);
        while self.bytes > limits::DELTA_SUMS_BYTES
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            self.forget(&oldest.clone());
        }
    }

    /// Nobody knows what the store has of this tenant.
    pub fn forget(&mut self, tenant: &TenantId) {
        if let Some(known) = self.known.remove(tenant) {
            self.order.remove(&known.place);
            self.bytes -= known.sums.bytes();
        }
    }

    /// The store was found to have a bundle with this digest, or none.
    pub fn compare(&mut self, tenant: &TenantId, found: Option<Digest>) {
        if self.known.get(tenant).map(|known| known.digest) != found {
            self.forget(tenant);
        }
    }

    /// What differs from what the store confirmed, if that is known and little.
    pub fn delta(&self, queued: &Queued) -> Option<Delta> {
        let parts = queued.parts.as_ref()?;
        let known = self.known.get(&queued.sent.bundle.tenant)?;
        Delta::of(&queued.sent, queued.digest, parts, &known.sums)
    }

    /// Bytes that it costs to send this, roughly.
    pub fn cost(&self, queued: &Queued) -> usize {
        let delta = self.delta(queued);
        delta.map_or(queued.weight, |delta| delta.weight())
    }

    fn change(&self, queued: &Queued) -> Change {
        let delta = self.delta(queued).map(Change::Delta);
        delta.unwrap_or_else(|| Change::Whole(queued.sent.clone()))
    }

    fn takes_none(&mut self) {
        *self = Self {
            takes_none: true,
            ..Self::default()
        };
    }
}

impl Writer {
    /// The message that brings these bundles, and how many of them as deltas.
    pub(super) fn message(
        &mut self,
        ix: StoreIx,
        (session, number): (SessionId, u64),
        bundles: &[Queued],
        beat: Option<u64>,
    ) -> (Request, usize) {
        let fresh = self.fresh(ix);
        let store = &self.stores[ix.0];
        let region = store.spec.region.clone();
        let changes = bundles.iter().map(|q| store.confirmed.change(q));
        let changes: Vec<Change> = changes.collect();
        let is_delta = |change: &&Change| matches!(change, Change::Delta(_));
        let deltas = changes.iter().filter(is_delta).count();
        if deltas > 0 {
            let push = PushDelta {
                region,
                session,
                number,
                changes,
                fresh,
                beat,
            };
            return (Request::PushDelta(push), deltas);
        }
        let push = Push {
            region,
            session,
            number,
            bundles: bundles.iter().map(|q| q.sent.clone()).collect(),
            fresh,
            beat,
        };
        (Request::Push(push), 0)
    }

    /// The store applied nothing, for it does not have what these tenants' deltas were made for. Should it name none of those
    /// that were sent, all of them go whole, or this would have no end.
    pub(super) fn differed(&mut self, ix: StoreIx, tenants: &[TenantId], bundles: Vec<Queued>) {
        let confirmed = &mut self.stores[ix.0].confirmed;
        let sent = bundles.iter().map(|q| &q.sent.bundle.tenant);
        let (named, others): (Vec<_>, Vec<_>) = sent.partition(|t| tenants.contains(t));
        let differing = if named.is_empty() { others } else { named };
        differing.into_iter().for_each(|t| confirmed.forget(t));
        self.tell_delta(ix, DeltaOutcome::Differs, tenants.len());
        self.send_again(ix, bundles);
    }

    /// The store knows no deltas: it has not looked at the message, whose number is free again. Should that be untrue, it
    /// refuses the number, and the session ends.
    pub(super) fn takes_no_deltas(&mut self, ix: StoreIx, deltas: usize, bundles: Vec<Queued>) {
        let store = &mut self.stores[ix.0];
        store.confirmed.takes_none();
        if let Link::Open(session) = &mut store.link {
            session.number -= 1;
        }
        self.tell_delta(ix, DeltaOutcome::Unknown, deltas);
        self.send_again(ix, bundles);
    }

    pub(super) fn tell_delta(&mut self, ix: StoreIx, outcome: DeltaOutcome, count: usize) {
        if count > 0 {
            self.reports.push_back(Report::Delta {
                store: ix,
                outcome,
                count,
            });
        }
    }

    /// Bundles that were not applied go next, unless there are newer builds of their tenants, or they were called back.
    fn send_again(&mut self, ix: StoreIx, bundles: Vec<Queued>) {
        let is_recalled = |q: &Queued| self.is_recalled(q.started);
        let (recalled, again): (Vec<Queued>, Vec<Queued>) =
            bundles.into_iter().partition(is_recalled);
        let recalled = recalled.iter().map(of_queued);
        recalled.for_each(|(tenant, lane)| self.mark(tenant, lane));
        let store = &mut self.stores[ix.0];
        store.queue.again(again, &|q| store.confirmed.cost(q));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contexts::bundle::{Bundle, Context};
    use contexts::delta::{Cut, Parts};
    use contexts::digest::DigestKey;
    use contexts::name::{Key, Kind};

    fn tenant(n: usize) -> TenantId {
        TenantId::new(&format!("t{n}")).expect("a tenant")
    }

    fn sums(contexts: usize) -> Arc<Sums> {
        let context = |n| Context {
            kind: Kind::new("k").expect("a kind"),
            key: Key::new(&format!("{n}")).expect("a key"),
            value: "0".into(),
            expires: None,
        };
        let contexts = (0..contexts).map(context).collect();
        let bundle = Bundle::new(tenant(0), contexts, vec![], vec![]).expect("a bundle");
        let key = DigestKey([1; 32]);
        let cut = Cut {
            from_bytes: 0,
            part_bytes: 1,
            times: 2,
        };
        let parts = Parts::of(&bundle, bundle.digests(&key), &key, cut);
        parts.expect("it has parts").sums
    }

    fn knows(confirmed: &Confirmed, n: usize) -> bool {
        confirmed.known.contains_key(&tenant(n))
    }

    #[test]
    fn what_was_confirmed_long_ago_is_forgotten_before_it_takes_too_much() {
        let (mut confirmed, sums) = (Confirmed::default(), sums(4_096));
        let most = limits::DELTA_SUMS_BYTES / sums.bytes();
        for n in 0..most {
            confirmed.learn(&tenant(n), Digest([0; 16]), Some(&sums));
        }
        // The first one again, so that the second is the oldest; then one more.
        confirmed.learn(&tenant(0), Digest([0; 16]), Some(&sums));
        assert!(knows(&confirmed, 1));
        confirmed.learn(&tenant(most), Digest([0; 16]), Some(&sums));
        assert!(knows(&confirmed, 0) && knows(&confirmed, most) && !knows(&confirmed, 1));
        assert_eq!(confirmed.bytes, most * sums.bytes());
        (0..=most).for_each(|n| confirmed.forget(&tenant(n)));
        assert!(confirmed.order.is_empty() && confirmed.bytes == 0);
    }

    #[test]
    fn only_what_was_confirmed_and_found_so_is_known() {
        let (mut confirmed, sums) = (Confirmed::default(), sums(10));
        let learn = |confirmed: &mut Confirmed| {
            (0..4).for_each(|n| confirmed.learn(&tenant(n), Digest([7; 16]), Some(&sums)));
        };
        learn(&mut confirmed);
        // It is small by now; the store has it; the store has another one; the store has none.
        confirmed.learn(&tenant(0), Digest([8; 16]), None);
        confirmed.compare(&tenant(1), Some(Digest([7; 16])));
        confirmed.compare(&tenant(2), Some(Digest([8; 16])));
        confirmed.compare(&tenant(3), None);
        assert_eq!(
            [0, 1, 2, 3].map(|n| knows(&confirmed, n)),
            [false, true, false, false]
        );
        confirmed.takes_none();
        learn(&mut confirmed);
        assert!(
            confirmed.known.is_empty(),
            "it would be remembered for nothing"
        );
    }
}
