//! The model of the hub's database: every committed state (so that a snapshot is the index of a commit), open
//! transactions, the outbox, the lease row, and what the writers recorded. It also builds bundles, as the publisher's
//! builder does.

use crate::outbox::{Line, Note, Outbox};
use crate::state::{State, Writes, kinds};
use crate::variant::Variant;
use crate::xids::Xids;
use contexts::delta::Cut;
use contexts::digest::DigestKey;
use contexts::name::{Region, TenantId};
use contexts::version::{Holder, SyncId, Term};
use publisher::writer::lease::LeaseRow;
use publisher::writer::{
    Built, BuiltBatch, BuiltBundle, GuardLimits, HoldName, Snapshot, TenantRange, What,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Every tenant of this world is large enough for deltas, and every delta small enough.
pub const CUT: Cut = Cut {
    from_bytes: 0,
    part_bytes: 100,
    times: 0,
};

/// A commit.
#[derive(Debug, Clone)]
pub struct Commit {
    /// When, in virtual milliseconds.
    pub at: u64,
    /// What a snapshot taken after it sees.
    pub state: Arc<State>,
}

/// A commit that changed a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Touch {
    pub commit: usize,
    /// Whether the triggers were there when it was written.
    pub captured: bool,
}

/// A transaction that has not ended.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// Drawn by the first write.
    pub xid: Option<u64>,
    pub writes: Writes,
    /// Its rows of the outbox, which nobody else sees yet.
    pub rows: Vec<(i64, Note)>,
    /// Whether triggers ran for all of it.
    pub captured: bool,
    /// A tenant of which it said that it would change.
    pub touched: Option<TenantId>,
    /// Statements that it still makes.
    pub left: u8,
    /// Whether it takes its time.
    pub slow: bool,
    /// Whether it was prepared, and so outlives a restart of the server.
    pub prepared: bool,
}

/// One database; a clone of it is another one with the same past.
#[derive(Debug, Clone)]
pub struct Database {
    /// Every commit, oldest first.
    pub commits: Vec<Commit>,
    /// The database that this is a copy of, and how many commits they have in common.
    pub parent: Option<(usize, usize)>,
    /// The copy that is there in its place.
    pub replaced_by: Option<usize>,
    /// The row `hubcast.writer`.
    pub lease: LeaseRow,
    /// Terms that were recorded.
    pub terms: BTreeSet<(u64, Holder)>,
    /// *Synced* messages that were recorded.
    pub synced: BTreeSet<SyncId>,
    /// Not before this does it answer.
    pub down_until: u64,
    /// Raised by every start of the server.
    pub server: u64,
    pub xids: Xids,
    /// Transactions that have not ended.
    pub open: BTreeMap<u64, Transaction>,
    pub outbox: Outbox,
    /// When each beat was committed.
    pub beats: Vec<u64>,
    /// Stores that are recorded as behind.
    pub behind: BTreeSet<usize>,
    /// Somebody disabled the triggers.
    pub triggers_off: bool,
    /// How often anybody did so, or undid it.
    pub altered: u64,
    /// Somebody waits for open transactions, to enable or disable them; others wait behind.
    pub altering: bool,
    /// What the guard held: a person lets all of it go at once.
    pub approved: BTreeSet<HoldName>,
    /// The commits that changed each tenant.
    pub touches: BTreeMap<TenantId, Vec<Touch>>,
    revision: u64,
    transactions: u64,
}

impl Database {
    /// A database with nothing in it.
    pub fn new(outbox: Outbox) -> Self {
        let term = Term {
            epoch: 0,
            holder: Holder(0),
        };
        let lease = LeaseRow {
            term,
            counter: 0,
            released: true,
        };
        let first = Commit {
            at: 0,
            state: Arc::default(),
        };
        Self {
            commits: vec![first],
            parent: None,
            replaced_by: None,
            lease,
            terms: BTreeSet::new(),
            synced: BTreeSet::new(),
            down_until: 0,
            server: 0,
            xids: Xids::new(),
            open: BTreeMap::new(),
            outbox,
            beats: Vec::new(),
            behind: BTreeSet::new(),
            triggers_off: false,
            altered: 0,
            altering: false,
            approved: BTreeSet::new(),
            touches: BTreeMap::new(),
            revision: 0,
            transactions: 0,
        }
    }

    /// The index of the newest commit.
    pub fn newest(&self) -> usize {
        self.commits.len() - 1
    }

    /// The newest state.
    pub fn now(&self) -> &Arc<State> {
        &self.commits[self.newest()].state
    }

    /// The last commit before or at a moment.
    pub fn index_at(&self, at: u64) -> usize {
        self.commits.partition_point(|c| c.at <= at).max(1) - 1
    }

    /// A revision that no row had.
    pub fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// A transaction begins.
    pub fn begin(&mut self, left: u8, slow: bool) -> u64 {
        self.transactions += 1;
        let transaction = Transaction {
            xid: None,
            writes: Writes::default(),
            rows: Vec::new(),
            captured: true,
            touched: None,
            left,
            slow,
            prepared: false,
        };
        self.open.insert(self.transactions, transaction);
        self.transactions
    }

    /// What the next statement of a transaction sees: what is committed now, and its own writes.
    pub fn view(&self, transaction: &Transaction) -> State {
        let mut state = State::clone(self.now());
        transaction.writes.apply(&mut state);
        state
    }

    /// The number of a transaction, drawn if it has none yet.
    pub fn number(&mut self, transaction: &mut Transaction) -> u64 {
        *transaction.xid.get_or_insert_with(|| self.xids.begin())
    }

    /// What the triggers of one statement do: rows, if there is room.
    pub fn trigger(&mut self, transaction: &mut Transaction, mut notes: Vec<Note>) {
        if self.outbox.variant == Variant::ResolvesInTrigger {
            let view = self.view(transaction);
            notes = notes.into_iter().flat_map(|n| n.resolve(&view)).collect();
        }
        if self.triggers_off {
            transaction.captured = false;
        } else if !notes.is_empty() && self.outbox.asks_for_room() {
            let rows = notes.into_iter().map(|note| (self.outbox.draw(), note));
            transaction.rows.extend(rows);
        }
    }

    /// Commits a transaction.
    pub fn commit(&mut self, at: u64, transaction: Transaction) {
        let Some(xid) = transaction.xid else { return };
        let mut state = State::clone(self.now());
        let mut touched = transaction.writes.tenants(&state);
        transaction.writes.apply(&mut state);
        touched.extend(transaction.writes.tenants(&state));
        self.xids.commit(xid);
        let commit = self.commits.len();
        for tenant in touched {
            let captured = transaction.captured;
            let touches = self.touches.entry(tenant).or_default();
            touches.push(Touch { commit, captured });
        }
        let state = Arc::new(state);
        self.outbox.flush();
        self.commits.push(Commit { at, state });
        for (id, note) in transaction.rows {
            let line = Line {
                xid,
                note,
                commit,
                at,
            };
            self.outbox.rows.insert(id, line);
        }
    }

    /// Rolls a transaction back: its ids are gone, and its number has ended.
    pub fn abort(&mut self, transaction: &Transaction) {
        transaction.xid.iter().for_each(|xid| self.xids.abort(*xid));
    }

    /// The server stops at once and starts again.
    pub fn restart(&mut self) {
        self.server += 1;
        self.open.retain(|_, t| t.prepared);
        self.outbox.crash();
        let prepared = self.open.values().filter_map(|t| t.xid).collect();
        self.xids.restart(prepared);
    }

    /// Makes a copy a database of its own.
    pub fn fork(&mut self, place: usize) {
        self.restart();
        self.server += 1_000 * place as u64;
        self.revision += 1_000_000 * place as u64;
        self.replaced_by = None;
        self.down_until = 0;
        self.altering = false;
    }

    /// Whether nobody will ever reach it again.
    pub fn is_dead(&self) -> bool {
        self.down_until == u64::MAX
    }

    /// Takes the lease, if the row is as it was seen. The new epoch is above `floor`.
    pub fn take_lease(&mut self, seen: LeaseRow, holder: Holder, floor: u64) -> Option<Term> {
        if self.lease != seen {
            return None;
        }
        let term = Term {
            epoch: seen.term.epoch.max(floor) + 1,
            holder,
        };
        self.lease = LeaseRow {
            term,
            counter: 0,
            released: false,
        };
        self.terms.insert((term.epoch, term.holder));
        self.xids.once();
        Some(term)
    }

    /// Renews or gives back the lease; false if somebody else has it.
    pub fn renew(&mut self, term: Term, release: bool) -> bool {
        let ours = self.lease.term == term;
        if ours {
            self.xids.once();
            self.outbox.flush();
            self.lease.counter += 1;
            self.lease.released = release;
        }
        ours
    }

    /// Whether a writer and a *synced* are recorded here.
    pub fn knows(&self, granted: Option<Term>, synced: Option<SyncId>) -> bool {
        granted.is_none_or(|t| self.terms.contains(&(t.epoch, t.holder)))
            && synced.is_none_or(|id| self.synced.contains(&id))
    }

    /// Builds in the snapshot of a commit.
    pub fn build(
        &self,
        commit: usize,
        what: &What,
        guards: GuardLimits,
        regions: &[Region],
        key: &DigestKey,
    ) -> BuiltBatch {
        let state = &self.commits[commit].state;
        let seen = Snapshot::parse(&self.xids.snapshot().text()).expect("a snapshot");
        let mut batch = BuiltBatch {
            definitions: state.definitions,
            kinds: kinds().into_iter().collect(),
            guards,
            seen: matches!(what, What::Tenants(_)).then(|| seen.into()),
            ..BuiltBatch::default()
        };
        let tenants: Vec<TenantId> = match what {
            What::Bounds => {
                batch.ranges = ranges(&["t03", "t07"]);
                Vec::new()
            }
            What::Range(range) => {
                let inside = |t: &&TenantId| {
                    range.from.as_deref().is_none_or(|from| t.as_str() >= from)
                        && range.to.as_deref().is_none_or(|to| t.as_str() < to)
                };
                state.rows.keys().filter(inside).cloned().collect()
            }
            What::Tenants(tenants) => tenants.clone(),
            What::Beat => {
                batch.beat = Some(self.beats.len() as u64);
                Vec::new()
            }
        };
        for name in &self.approved {
            if tenants.contains(&name.tenant) {
                let excused = batch.excused.entry(name.tenant.clone()).or_default();
                excused.push(name.clone());
            }
        }
        let built = |region: &Region, tenant: &TenantId| {
            Arc::new(BuiltBundle::with_cut(
                state.bundle(tenant, region),
                key,
                CUT,
            ))
        };
        batch.tenants = tenants
            .into_iter()
            .map(|tenant| Built {
                bundles: regions.iter().map(|r| built(r, &tenant)).collect(),
                tenant,
            })
            .collect();
        batch
    }
}

fn ranges(bounds: &[&str]) -> Vec<TenantRange> {
    let ends = bounds.iter().map(|b| Some((*b).to_owned())).chain([None]);
    let mut from = None;
    ends.map(|to| {
        let range = TenantRange {
            from: from.clone(),
            to: to.clone(),
        };
        from = to;
        range
    })
    .collect()
}
