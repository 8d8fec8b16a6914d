//! ORDER: a small change that waits for a store is sent before what waits there of a bulk change.
//!
//! One push of the bulk change may come in between now and then, so that it is not put off for ever; two in a row may
//! not. Looked at only in the first session of a term at a store: after a lost answer what was lost is sent anew.

use crate::outbox::Outbox;
use crate::world::{Checked, World, violated};
use contexts::name::TenantId;
use contexts::version::SessionId;
use publisher::writer::{BatchId, Change, Looked, StoreIx, What, Writer};
use std::collections::{BTreeMap, BTreeSet};

/// A transaction that changes more tenants than this is a bulk change.
const BULK: usize = 64;

/// What a term knows of small changes on their way.
#[derive(Debug, Default)]
pub struct Urgent {
    /// Seen, and not being built yet.
    seen: BTreeSet<TenantId>,
    /// Every tenant that was ever urgent: somebody asked for it, or it was changed with few others. Until it has arrived
    /// everywhere it is built again as urgently.
    ever: BTreeSet<TenantId>,
    building: BTreeMap<BatchId, BTreeSet<TenantId>>,
    stores: BTreeMap<usize, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    session: Option<SessionId>,
    tenants: BTreeSet<TenantId>,
    /// Pushes in a row that carried only bulk changes.
    passed: u8,
    /// Whether a session has ended in this term.
    reopened: bool,
}

impl Urgent {
    /// A look found changes. What is left of a bulk change, once most of its rows are acknowledged, is a small one.
    pub fn looked(&mut self, looked: &Looked, outbox: &Outbox) {
        let mut changed: BTreeMap<u64, BTreeSet<&TenantId>> = BTreeMap::new();
        let xid = |c: &Change| outbox.rows.get(&c.id).map_or(c.xid, |line| line.xid);
        for change in &looked.changes {
            changed
                .entry(xid(change))
                .or_default()
                .extend(&change.tenants);
        }
        let small = looked
            .changes
            .iter()
            .filter(|c| changed[&xid(c)].len() <= BULK);
        let small: BTreeSet<TenantId> = small.flat_map(|c| c.tenants.clone()).collect();
        self.asked(&small);
        self.seen.extend(small);
    }

    /// Somebody asks for tenants, which is as urgent as a small change.
    pub fn asked(&mut self, tenants: &BTreeSet<TenantId>) {
        self.ever.extend(tenants.iter().cloned());
    }

    /// A build begins.
    pub fn begun(&mut self, id: BatchId, what: &What) {
        let What::Tenants(tenants) = what else { return };
        let urgent = tenants.iter().filter_map(|t| self.seen.take(t)).collect();
        self.building.insert(id, urgent);
    }

    /// What is not in a queue any more does not wait there: it was sent, or the store is to be scanned instead. Should the
    /// scan bring the tenant back into the queue, then as one of many.
    pub fn look(&mut self, writer: &Writer) {
        for (ix, store) in writer.stores() {
            if let Some(waiting) = self.stores.get_mut(&ix.0) {
                waiting.tenants.retain(|t| store.queue.contains(t));
            }
        }
    }

    /// A build ended, and the writer knows. What the guard kept back is built again.
    pub fn built(&mut self, id: BatchId, ok: bool, writer: &Writer) {
        let built = self.building.remove(&id).unwrap_or_default();
        let (again, tenants): (BTreeSet<TenantId>, BTreeSet<TenantId>) =
            built.into_iter().partition(|t| !ok || writer.is_dirty(t));
        self.seen.extend(again);
        for (ix, store) in writer.stores() {
            let waiting = self.stores.entry(ix.0).or_default();
            waiting.meet(store.session().map(|s| s.id));
            let queued = tenants.iter().filter(|t| store.queue.contains(t));
            waiting.tenants.extend(queued.cloned());
        }
    }
}

impl Waiting {
    fn meet(&mut self, session: Option<SessionId>) {
        if session.is_some() && self.session != session {
            self.reopened |= self.session.is_some();
            (self.session, self.passed) = (session, 0);
            self.tenants.clear();
        }
    }
}

impl World {
    /// A push is about to be sent.
    ///
    /// # Errors
    /// If it is the second in a row that lets a small change wait.
    pub fn check_order(&mut self, p: usize, s: usize, sent: &[TenantId]) -> Checked {
        let Some(office) = &mut self.publishers[p].office else {
            return Ok(());
        };
        let store = office.writer.store(StoreIx(s));
        let waiting = office.urgent.stores.entry(s).or_default();
        waiting.meet(store.session().map(|session| session.id));
        let there = waiting.tenants.len();
        waiting.tenants.retain(|t| store.queue.contains(t));
        let carries = waiting.tenants.len() < there;
        let ever = &office.urgent.ever;
        let is_bulk = |t: &TenantId| t.as_str().starts_with('b') && !ever.contains(t);
        let bulk = !sent.is_empty() && sent.iter().all(is_bulk);
        if carries || waiting.tenants.is_empty() || waiting.reopened || !bulk {
            waiting.passed = 0;
            return Ok(());
        }
        waiting.passed += 1;
        if waiting.passed > 1 {
            let what = format!(
                "p{p} sends {sent:?} to store {s} before {:?}",
                waiting.tenants
            );
            return violated("ORDER small before bulk", what);
        }
        Ok(())
    }
}
