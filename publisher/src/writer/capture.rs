//! The books of change capture: which rows of the outbox were seen, which store has not got them yet, which may be
//! acknowledged, and up to which moment each store has everything. Pure.
//!
//! What must hold:
//! * A row is acknowledged once every store either has a build of its tenants that began after the row was seen, or is
//!   marked *behind* in the transaction that removes the row.
//! * A reading of a store's clock that arrived before a look was sent is named to the store only when every row that this
//!   look or an earlier one found was delivered there: every change from before that reading is in one of them.
//! * The lower bound of a look passes an id only after every transaction that may have drawn a lower one has ended.
//!
//! A store that falls behind is struck from all rows: the scan that must follow speaks for them.

mod delivery;
mod history;

use super::look::{AckRequest, Change, LookId, LookRequest, Looked};
use super::retry::Retry;
use super::snapshot::Snapshot;
use super::{Millis, StoreIx, Tick};
use contexts::name::TenantId;
use contexts::push::Reading;
use delivery::{Delivery, MARKS_MAX, Mark, Stores};
use history::History;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A tenant that one look found changed.
#[derive(Debug)]
struct Entry {
    look: LookId,
    at: Millis,
    seen: Tick,
    rows: Vec<i64>,
    undelivered: Stores,
}

/// A row that is not acknowledged.
#[derive(Debug)]
struct RowBook {
    /// Entries that it waits for.
    left: usize,
    /// The rows that it stands for.
    more: Vec<i64>,
}

/// The lower bound of ids, and what has to end before it may rise.
#[derive(Debug, Default)]
struct Floor {
    from_id: i64,
    candidate: Option<(i64, u64)>,
}

/// The books.
#[derive(Debug, Default)]
pub struct Capture {
    looks: u64,
    looking: Option<LookId>,
    complete: Option<LookId>,
    last: Option<Snapshot>,
    last_id: i64,
    changed_at: Option<Millis>,
    /// What may be spun is a share of the time since then.
    spun_to: Millis,
    retry_at: Millis,
    failures: u32,
    floor: Floor,
    entries: BTreeMap<u64, Entry>,
    next_entry: u64,
    by_tenant: HashMap<TenantId, Vec<u64>>,
    /// The transactions that looks found, until every store has all that was found by then.
    found: BTreeMap<LookId, BTreeSet<u64>>,
    history: History,
    /// Rows that are not acknowledged.
    rows: BTreeMap<i64, RowBook>,
    done: Vec<i64>,
    done_since: Option<Millis>,
    all_in: Option<Snapshot>,
    make_room: bool,
    acking: Option<AckRequest>,
    acked_to: i64,
    behind_told: Vec<StoreIx>,
    deliveries: Vec<Delivery>,
}

/// Entries beyond which changes are no longer followed one by one.
pub const ENTRIES_MAX: usize = 100_000;
/// Rows are acknowledged together when so many are done, or the first has waited so long.
const ACK_ROWS: usize = 1_000;
const ACK_AFTER: Millis = 100;
/// Of each millisecond the server may spin so many microseconds, a tenth of one core; what is not spun is kept for this
/// many milliseconds.
const SPIN_SHARE: u64 = 100;
const SPIN_KEPT: Millis = 200;
/// A change waits for the next look for at most so small a part of the time since the last one, and for so many
/// milliseconds: every look wakes a process of the server.
const QUIET_PER_STEP: Millis = 1_000;
const STEP_MAX: Millis = 10;

impl Capture {
    /// Empty books for so many stores.
    pub fn new(stores: usize) -> Self {
        Self {
            deliveries: (0..stores).map(|_| Delivery::default()).collect(),
            ..Self::default()
        }
    }

    /// The next look, unless one is under way. `readings` are the stores' clocks as they said last; none where the
    /// capture cannot be trusted at present.
    pub fn next_look(&mut self, now: Millis, readings: &[Option<Reading>]) -> Option<LookRequest> {
        if self.looking.is_some() || now < self.retry_at || self.make_room || self.all_in.is_some()
        {
            return None;
        }
        self.looks += 1;
        let look = LookId(self.looks);
        self.looking = Some(look);
        for (delivery, reading) in self.deliveries.iter_mut().zip(readings) {
            let Some(reading) = *reading else { continue };
            if delivery.marks.len() >= MARKS_MAX {
                let mut keep = false;
                delivery.marks.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            delivery.marks.push_back(Mark { look, reading });
        }
        Some(LookRequest {
            id: look,
            after: self.last.clone(),
            from_id: self.floor.from_id,
            drawn: self.last_id,
            step: self.step(now),
            spin: self.spin(now),
        })
    }

    /// The longer nothing was changed, the less often it is looked.
    fn step(&self, now: Millis) -> Millis {
        let quiet = now.saturating_sub(self.changed_at.unwrap_or(0));
        (quiet / QUIET_PER_STEP).clamp(1, STEP_MAX)
    }

    fn spin(&mut self, now: Millis) -> u64 {
        self.spun_to = self.spun_to.max(now.saturating_sub(SPIN_KEPT));
        now.saturating_sub(self.spun_to) * SPIN_SHARE
    }

    /// The server looked without a pause for so many microseconds.
    pub fn spun(&mut self, micros: u64) {
        self.spun_to += micros.div_ceil(SPIN_SHARE);
    }

    /// A look failed: it is taken again soon. What it may have found is found by the next one, so its readings say
    /// nothing once that one is complete but not delivered.
    pub fn look_failed(&mut self, now: Millis) {
        let failed = self.looking.take();
        for delivery in &mut self.deliveries {
            delivery.marks.retain(|mark| Some(mark.look) != failed);
        }
        self.failures += 1;
        self.retry_at = now + (100_u64 << self.failures.min(5)).min(2_000);
    }

    /// A look is complete. Returns the changed tenants, each with how many its transaction changed.
    pub fn looked(
        &mut self,
        now: Millis,
        id: LookId,
        seen: Tick,
        looked: &Looked,
        stores: &[bool],
    ) -> Vec<(TenantId, usize)> {
        if self.looking.take() != Some(id) {
            return Vec::new();
        }
        (self.failures, self.retry_at) = (0, 0);
        if let Some((last_id, xid)) = self.floor.candidate
            && looked.seen.is_past(xid)
        {
            self.floor.from_id = last_id + 1;
            self.floor.candidate = None;
        }
        self.last = Some(looked.seen.clone());
        self.last_id = looked.last_id;
        self.forget_found();
        if looked.is_backlog {
            self.all_in = Some(looked.seen.clone());
        }
        self.history.add(&looked.seen, &looked.changes);
        if looked.is_backlog || looked.everyone.is_some() {
            self.history.forget(&looked.seen);
        }
        let found = self.enter(now, id, seen, &looked.changes, stores);
        if !found.is_empty() {
            self.changed_at = Some(now);
        }
        self.complete = Some(id);
        found
    }

    /// Triggers had stopped writing: every row that was seen is done with, and there is room again.
    pub fn make_room(&mut self, seen: &Snapshot) {
        (self.all_in, self.make_room) = (Some(seen.clone()), true);
    }

    /// Enters changes; `stores` says which are to be waited for.
    fn enter(
        &mut self,
        now: Millis,
        look: LookId,
        seen: Tick,
        changes: &[Change],
        stores: &[bool],
    ) -> Vec<(TenantId, usize)> {
        let mut tenants: BTreeMap<&TenantId, Vec<(i64, u64)>> = BTreeMap::new();
        if !changes.is_empty() {
            let xids = changes.iter().map(|change| change.xid);
            self.found.insert(look, xids.collect());
        }
        for change in changes {
            let (left, more) = (change.tenants.len(), change.more.clone());
            self.rows.insert(change.id, RowBook { left, more });
            if change.tenants.is_empty() {
                self.row_done(now, change.id);
            }
            for tenant in &change.tenants {
                let row = (change.id, change.xid);
                tenants.entry(tenant).or_default().push(row);
            }
        }
        let sizes = sizes(tenants.values());
        let mut wanted = Stores::default();
        let there = stores.iter().enumerate().filter(|(_, wanted)| **wanted);
        there.for_each(|(i, _)| wanted.insert(StoreIx(i)));
        let mut found = Vec::with_capacity(tenants.len());
        for (tenant, rows) in tenants {
            // A tenant that also a small transaction changed does not wait with the large one.
            let size = rows.iter().map(|(_, xid)| sizes[xid]).min();
            found.push((tenant.clone(), size.unwrap_or(1)));
            if wanted.is_empty() {
                rows.iter().for_each(|(id, _)| self.row_left(now, *id));
                continue;
            }
            for i in (0..self.deliveries.len()).filter(|i| wanted.contains(StoreIx(*i))) {
                *self.deliveries[i].missing.entry(look).or_default() += 1;
            }
            self.next_entry += 1;
            let entry = self.next_entry;
            self.by_tenant
                .entry(tenant.clone())
                .or_default()
                .push(entry);
            let undelivered = wanted.clone();
            self.entries.insert(
                entry,
                Entry {
                    look,
                    at: now,
                    seen,
                    rows: rows.into_iter().map(|(id, _)| id).collect(),
                    undelivered,
                },
            );
        }
        found
    }

    /// A store has a build of a tenant that began at this moment.
    pub fn delivered(&mut self, now: Millis, ix: StoreIx, tenant: &TenantId, started: Tick) {
        let Some(mut entries) = self.by_tenant.remove(tenant) else {
            return;
        };
        entries.retain(|id| {
            let older = self.entries.get(id).is_some_and(|e| e.seen < started);
            !(older && self.strike(now, *id, ix))
        });
        if !entries.is_empty() {
            self.by_tenant.insert(tenant.clone(), entries);
        }
    }

    /// When the first of the changes of a tenant was noticed that a build has which began at this moment, and that a store
    /// has not got yet.
    pub fn found_at(&self, ix: StoreIx, tenant: &TenantId, started: Tick) -> Option<Millis> {
        let entries = self.by_tenant.get(tenant)?.iter();
        let entries = entries.filter_map(|id| self.entries.get(id));
        let missing = entries.filter(|e| e.seen < started && e.undelivered.contains(ix));
        missing.map(|e| e.at).min()
    }

    /// A store is behind: no row waits for it any more.
    pub fn strike_store(&mut self, now: Millis, ix: StoreIx) {
        if self.deliveries[ix.0].missing.is_empty() {
            return;
        }
        self.strike_before(now, ix, Tick(u64::MAX));
    }

    /// A scan that began at this moment found the store in step: it has every change that was seen before.
    pub fn strike_before(&mut self, now: Millis, ix: StoreIx, started: Tick) {
        let older = self.entries.iter().filter(|(_, e)| e.seen < started);
        let all: Vec<u64> = older.map(|(id, _)| *id).collect();
        let gone: Vec<u64> = all
            .into_iter()
            .filter(|id| self.strike(now, *id, ix))
            .collect();
        if !gone.is_empty() {
            self.by_tenant.retain(|_, entries| {
                entries.retain(|id| gone.binary_search(id).is_err());
                !entries.is_empty()
            });
        }
    }

    /// Strikes a store from an entry; whether the entry is gone.
    fn strike(&mut self, now: Millis, id: u64, ix: StoreIx) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else {
            return true;
        };
        if entry.undelivered.remove(ix) {
            self.deliveries[ix.0].got(entry.look);
        }
        if !entry.undelivered.is_empty() {
            return false;
        }
        let Some(entry) = self.entries.remove(&id) else {
            return true;
        };
        for row in entry.rows {
            self.row_left(now, row);
        }
        true
    }

    fn row_left(&mut self, now: Millis, row: i64) {
        let left = self.rows.get_mut(&row).map(|book| {
            book.left -= 1;
            book.left
        });
        if left == Some(0) {
            self.row_done(now, row);
        }
    }

    fn row_done(&mut self, now: Millis, row: i64) {
        let more = self.rows.remove(&row).map(|book| book.more);
        self.done.push(row);
        self.done.extend(more.unwrap_or_default());
        self.done_since.get_or_insert(now);
    }

    /// Forgets the transactions that every store has, with all that was found before.
    fn forget_found(&mut self) {
        let missing = self
            .deliveries
            .iter()
            .filter_map(|d| d.missing.keys().next());
        match missing.min().copied() {
            Some(first) => self.found = self.found.split_off(&first),
            None => self.found.clear(),
        }
    }

    /// A store's clock at a moment up to which it has every change.
    pub fn fresh(&mut self, ix: StoreIx) -> Option<Reading> {
        let delivery = &mut self.deliveries[ix.0];
        if let Some(complete) = self.complete {
            delivery.advance(complete);
        }
        delivery.fresh
    }

    /// Nothing that was seen so far says how fresh a store is.
    pub fn forget_fresh(&mut self, ix: StoreIx) {
        self.deliveries[ix.0].marks.clear();
        self.deliveries[ix.0].fresh = None;
    }

    /// Whether a transaction has ended, as far as was looked; and then whether a store has all that it changed, and all
    /// that was found before and with it: a key that it removed may be one that an earlier transaction has taken from a
    /// tenant of which the store still has the older state.
    pub fn has(&self, xid: u64, ix: StoreIx) -> Option<bool> {
        if !self.last.as_ref()?.sees(xid) {
            return None;
        }
        let found = self.found.iter().rfind(|(_, xids)| xids.contains(&xid));
        let missing = self.deliveries[ix.0].missing.keys().next();
        Some(match (found, missing) {
            (Some((look, _)), Some(first)) => look < first,
            _ => true,
        })
    }

    /// The tenants that a transaction changed, which has ended; none if that is not known, or not any more.
    pub fn changed_by(&self, xid: u64) -> Option<Vec<&TenantId>> {
        self.history.of(xid)
    }

    /// What the last look saw.
    pub fn last(&self) -> Option<&Snapshot> {
        self.last.as_ref()
    }

    /// Whether so much is followed that single changes are given up.
    pub fn is_crowded(&self) -> bool {
        self.entries.len() > ENTRIES_MAX
    }

    /// The stores that wait for the oldest change of all that are followed.
    pub fn laggards(&self) -> Vec<StoreIx> {
        let first = |d: &Delivery| d.missing.keys().next().copied();
        let oldest = self.deliveries.iter().filter_map(first).min();
        let stores = self.deliveries.iter().enumerate();
        let waiting = stores.filter(|(_, d)| oldest.is_some() && first(d) == oldest);
        waiting.map(|(i, _)| StoreIx(i)).collect()
    }

    /// Rows that are seen and not acknowledged.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing waits to be acknowledged, and no look or acknowledgement is under way.
    pub fn is_idle(&self) -> bool {
        self.rows.is_empty()
            && self.done.is_empty()
            && self.acking.is_none()
            && self.all_in.is_none()
    }

    /// The next acknowledgement, unless one is under way.
    pub fn next_ack(
        &mut self,
        now: Millis,
        behind: Vec<StoreIx>,
        retries: Vec<(TenantId, Option<Retry>)>,
        mended: Option<i64>,
        at_once: bool,
    ) -> Option<AckRequest> {
        if self.acking.is_some() || now < self.retry_at {
            return None;
        }
        let waited = self
            .done_since
            .is_some_and(|at| at_once || now >= at + ACK_AFTER);
        let due = waited || self.done.len() >= ACK_ROWS || self.all_in.is_some();
        let news = mended.is_some() || !retries.is_empty() || behind != self.behind_told;
        if !due && !news {
            return None;
        }
        self.done_since = None;
        let done_to = match self.rows.keys().next() {
            Some(first) => first - 1,
            None => self.last_id,
        };
        let request = AckRequest {
            ids: std::mem::take(&mut self.done),
            all_in: self.all_in.clone(),
            make_room: self.make_room,
            mended,
            done_to: done_to.max(self.acked_to),
            behind,
            retries,
        };
        self.acking = Some(request.clone());
        Some(request)
    }

    /// The acknowledgement was made by this transaction, or failed. Returns the request, and whether room was made.
    pub fn acked(&mut self, now: Millis, xid: Option<u64>) -> Option<AckRequest> {
        let request = self.acking.take()?;
        match xid {
            Some(xid) => {
                self.acked_to = request.done_to;
                self.behind_told.clone_from(&request.behind);
                if self.floor.candidate.is_none() && !request.ids.is_empty() {
                    self.floor.candidate = Some((request.done_to, xid));
                }
                if request.all_in.is_some() {
                    (self.all_in, self.make_room) = (None, false);
                }
            }
            None => {
                self.done.extend(request.ids.iter().copied());
                self.done_since.get_or_insert(now);
                self.failures += 1;
                self.retry_at = now + (100_u64 << self.failures.min(5)).min(2_000);
            }
        }
        Some(request)
    }
}

/// How many tenants each transaction changed, by the rows of each tenant.
fn sizes<'a>(tenants: impl Iterator<Item = &'a Vec<(i64, u64)>>) -> HashMap<u64, usize> {
    let mut sizes: HashMap<u64, usize> = HashMap::new();
    for rows in tenants {
        let xids: BTreeSet<u64> = rows.iter().map(|(_, xid)| *xid).collect();
        xids.iter()
            .for_each(|xid| *sizes.entry(*xid).or_default() += 1);
    }
    sizes
}

#[cfg(test)]
mod tests;
