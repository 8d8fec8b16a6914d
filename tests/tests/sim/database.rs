//! The model of the hub's database: current rows, every committed state (so that a snapshot is the index of a commit),
//! the lease row, and what the writers recorded. It also builds bundles, as the publisher's builder does.

use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::digest::DigestKey;
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::version::{Holder, SyncId, Term};
use publisher::writer::lease::LeaseRow;
use publisher::writer::{Built, BuiltBatch, BuiltBundle, TenantRange, What};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What identifies a context.
pub type Name = (Kind, Key);

/// One row that a context's query returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Raised by every change of anything, never used twice: the value contains it.
    pub revision: u64,
    /// Where it belongs; everywhere if none.
    pub regions: Option<BTreeSet<Region>>,
    /// Its value has more bytes than allowed.
    pub too_large: bool,
}

impl Row {
    /// Whether it belongs in a region.
    pub fn is_in(&self, region: &Region) -> bool {
        self.regions.as_ref().is_none_or(|r| r.contains(region))
    }

    /// The value.
    pub fn value(&self) -> Arc<str> {
        format!(
            "{{\"rev\":{},\"pad\":\"{}\"}}",
            self.revision,
            "x".repeat(20)
        )
        .into()
    }
}

/// Everything that one snapshot sees.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The rows of each tenant.
    pub rows: BTreeMap<TenantId, BTreeMap<Name, Row>>,
    /// Kinds whose query fails for a tenant.
    pub broken: BTreeSet<(TenantId, Kind)>,
    /// The fingerprint of the definitions.
    pub definitions: u128,
}

impl State {
    /// A tenant's bundle in a region, before anything is held for a clash.
    pub fn bundle(&self, tenant: &TenantId, region: &Region) -> Bundle {
        let broken = |kind: &Kind| self.broken.contains(&(tenant.clone(), kind.clone()));
        let (mut contexts, mut held) = (Vec::new(), Vec::new());
        let rows = self.rows.get(tenant).into_iter().flatten();
        for ((kind, key), row) in rows.filter(|((kind, _), row)| row.is_in(region) && !broken(kind))
        {
            let (kind, key) = (kind.clone(), key.clone());
            match row.too_large {
                true => held.push(Held {
                    kind,
                    key,
                    why: HoldReason::TooLarge { bytes: 2, max: 1 },
                }),
                false => contexts.push(Context {
                    kind,
                    key,
                    value: row.value(),
                    expires: None,
                }),
            }
        }
        let whole = |kind: &Kind| HeldKind {
            kind: kind.clone(),
            why: HoldReason::CannotBuild {
                why: "division by zero".into(),
            },
        };
        let of_tenant = self.broken.iter().filter(|(t, _)| t == tenant);
        let held_kinds = of_tenant.map(|(_, kind)| whole(kind)).collect();
        Bundle::new(tenant.clone(), contexts, held, held_kinds).expect("a sound bundle")
    }

    /// Who has a key in a region, good or not.
    pub fn claimants(&self, name: &Name, region: &Region) -> Vec<&TenantId> {
        let has = |rows: &BTreeMap<Name, Row>| rows.get(name).is_some_and(|r| r.is_in(region));
        let having = self.rows.iter().filter(|(_, rows)| has(rows));
        having.map(|(tenant, _)| tenant).collect()
    }
}

/// A commit.
#[derive(Debug, Clone)]
pub struct Commit {
    /// When, in virtual milliseconds.
    pub at: u64,
    /// What a snapshot taken after it sees.
    pub state: Arc<State>,
}

/// One database; a clone of it is another one with the same past.
#[derive(Debug, Clone)]
pub struct Database {
    /// Every commit, oldest first.
    pub commits: Vec<Commit>,
    /// Commits that a clone shares with its original.
    pub shared: usize,
    /// The row `hubcast.writer`.
    pub lease: LeaseRow,
    /// Terms that were recorded.
    pub terms: BTreeSet<(u64, Holder)>,
    /// *Synced* messages that were recorded.
    pub synced: BTreeSet<SyncId>,
    /// Not before this does it answer.
    pub down_until: u64,
    revision: u64,
}

impl Database {
    /// A database with nothing in it.
    pub fn new() -> Self {
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
            shared: 0,
            lease,
            terms: BTreeSet::new(),
            synced: BTreeSet::new(),
            down_until: 0,
            revision: 0,
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

    /// Commits a state.
    pub fn commit(&mut self, at: u64, state: State) {
        let state = Arc::new(state);
        self.commits.push(Commit { at, state });
    }

    /// Takes the lease, if the row is as it was seen.
    pub fn take_lease(&mut self, seen: LeaseRow, holder: Holder) -> Option<Term> {
        if self.lease != seen {
            return None;
        }
        let term = Term {
            epoch: seen.term.epoch + 1,
            holder,
        };
        self.lease = LeaseRow {
            term,
            counter: 0,
            released: false,
        };
        self.terms.insert((term.epoch, term.holder));
        Some(term)
    }

    /// Renews or gives back the lease; false if somebody else has it.
    pub fn renew(&mut self, term: Term, release: bool) -> bool {
        let ours = self.lease.term == term;
        if ours {
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
        regions: &[Region],
        key: &DigestKey,
    ) -> BuiltBatch {
        let state = &self.commits[commit].state;
        let mut batch = BuiltBatch {
            definitions: state.definitions,
            kinds: kinds().into_iter().collect(),
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
        };
        let built = |region: &Region, tenant: &TenantId| {
            Arc::new(BuiltBundle::new(state.bundle(tenant, region), key))
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

/// The kinds of this world.
pub fn kinds() -> Vec<Kind> {
    ["api_key", "cluster"]
        .iter()
        .map(|k| Kind::new(k).expect("a kind"))
        .collect()
}

/// A tenant of this world.
pub fn tenant(i: usize) -> TenantId {
    TenantId::new(&format!("t{i:02}")).expect("a tenant")
}

/// A key of this world.
pub fn key(i: usize) -> Key {
    Key::new(&format!("k{i:02}")).expect("a key")
}
