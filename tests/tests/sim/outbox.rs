//! The outbox of a database as `migrations/0002_capture.sql` has it: two sequences that say whether there is room, rows
//! that become visible with their transactions, `hubcast.wait`, and acknowledgements.

use crate::database::Database;
use crate::state::{Plan, State};
use crate::variant::Variant;
use crate::xids::PgSnapshot;
use contexts::name::TenantId;
use contexts::version::Term;
use publisher::writer::{AckRequest, Change, LookRequest, Looked, Snapshot};
use std::collections::{BTreeMap, BTreeSet};

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A tenant may have changed.
    Tenant(TenantId),
    /// A row of the plans was changed: a `tenants` query says whom that concerns.
    Changed(Plan),
    /// Every tenant may have changed.
    All,
    /// Somebody asks when the transaction is visible.
    Token,
    /// The row of the beat was changed.
    Beat,
}

impl Note {
    /// The tenants that it names, or that are on the plan that it names.
    pub fn resolve(self, state: &State) -> Vec<Self> {
        match self {
            Self::Changed(plan) => state
                .tenants_on(plan)
                .into_iter()
                .map(Self::Tenant)
                .collect(),
            note => vec![note],
        }
    }
}

/// A committed row.
#[derive(Debug, Clone)]
pub struct Line {
    pub xid: u64,
    pub note: Note,
    /// The commit that made it visible.
    pub commit: usize,
    /// When that was.
    pub at: u64,
}

/// The outbox.
#[derive(Debug, Clone)]
pub struct Outbox {
    pub variant: Variant,
    /// The highest id that was told.
    told: i64,
    /// The last id that was handed out.
    pub ids: i64,
    /// The number up to which everything that was seen is acknowledged.
    pub acked: i64,
    /// Statements that found no room, and how many of them a scan has made up for.
    pub missed: i64,
    mended: i64,
    /// How many rows may wait.
    pub cap: i64,
    /// How many rows a look takes one by one.
    pub max_rows: usize,
    pub rows: BTreeMap<i64, Line>,
    /// The highest number up to which anything was ever acknowledged.
    pub passed: i64,
    /// What the last acknowledgement did, until it is on disk: it does not wait for that.
    unflushed: Option<Unflushed>,
}

/// What a crash of the server undoes.
#[derive(Debug, Clone)]
struct Unflushed {
    gone: Vec<(i64, Line)>,
    acked: i64,
    mended: i64,
}

impl Outbox {
    /// An empty one.
    pub fn new(cap: i64, max_rows: usize, variant: Variant) -> Self {
        Self {
            variant,
            told: 0,
            ids: 0,
            acked: 0,
            missed: 0,
            mended: 0,
            cap,
            max_rows,
            rows: BTreeMap::new(),
            passed: 0,
            unflushed: None,
        }
    }

    /// Whether there is room.
    pub fn has_room(&self) -> bool {
        self.ids - self.acked < self.cap
    }

    /// `hubcast.has_room`: for whoever is about to write a row.
    pub fn asks_for_room(&mut self) -> bool {
        self.missed += i64::from(!self.has_room());
        self.has_room() || self.variant == Variant::IgnoresRoom
    }

    /// What was done so far is on disk.
    pub fn flush(&mut self) {
        self.unflushed = None;
    }

    /// The server crashed: what is not on disk did not happen, and sequences go on a little higher.
    pub fn crash(&mut self) {
        if let Some(undone) = self.unflushed.take() {
            self.rows.extend(undone.gone);
            (self.acked, self.mended) = (undone.acked, undone.mended);
        }
        self.ids += 32;
        if self.missed > 0 {
            self.missed += 32;
        }
    }

    /// Draws an id.
    pub fn draw(&mut self) -> i64 {
        self.ids += 1;
        self.ids
    }
}

impl Database {
    /// One look, in a snapshot of its own; nothing while there is nothing to tell and time is left.
    pub fn look(&mut self, request: &LookRequest, out_of_time: bool) -> Option<Looked> {
        let quiet = out_of_time && self.unseen(request).is_empty();
        let all = quiet && self.outbox.variant == Variant::TellsAllWhenQuiet;
        let all = all.then(|| self.everybody());
        let snapshot = self.xids.snapshot();
        let found = self.unseen(request);
        let hides = self.outbox.variant == Variant::HidesMissed;
        let has_room = hides || self.outbox.has_room();
        let missed = !hides && self.outbox.missed != self.outbox.mended;
        if found.is_empty() && has_room && !out_of_time {
            return None;
        }
        let told = found.iter().map(|(id, _)| *id).max();
        let is_backlog = found.len() > self.outbox.max_rows;
        let found = if is_backlog { Vec::new() } else { found };
        let everyone = found.iter().any(|(_, line)| line.note == Note::All);
        let looked = Looked {
            seen: Snapshot::parse(&snapshot.text()).expect("a snapshot"),
            last_id: self.outbox.ids,
            has_room,
            missed: missed.then_some(self.outbox.missed),
            changes: all.map_or_else(|| self.gathered(&found), |all| vec![all]),
            is_backlog,
            everyone: everyone.then(|| "every tenant may have changed".to_owned()),
            beat: found.iter().any(|(_, line)| line.note == Note::Beat),
        };
        self.outbox.told = self.outbox.told.max(told.unwrap_or_default());
        Some(looked)
    }

    /// A change of every tenant that nobody made.
    fn everybody(&mut self) -> Change {
        Change {
            id: self.outbox.draw(),
            more: Vec::new(),
            xid: self.xids.once(),
            tenants: self.now().rows.keys().cloned().collect(),
        }
    }

    /// The rows that a look is to tell.
    fn unseen(&self, request: &LookRequest) -> Vec<(i64, &Line)> {
        let after = request.after.as_ref();
        let after = after.map(|after| PgSnapshot::parse(after.as_str()));
        let (variant, told) = (self.outbox.variant, self.outbox.told);
        let wanted = |id: i64, xid: u64| match (variant, &after) {
            (Variant::LooksBySequence, _) => id > told,
            (_, None) => true,
            (Variant::ForgetsRunning, Some(after)) => !after.is_over(xid),
            (_, Some(after)) => !after.sees(xid),
        };
        let rows = self.outbox.rows.range(request.from_id..);
        rows.filter(|(id, line)| wanted(**id, line.xid))
            .map(|(id, line)| (*id, line))
            .collect()
    }

    /// Rows that a look should tell and that its lower bound hides.
    pub fn skipped(&self, request: &LookRequest) -> Vec<(i64, Line)> {
        let all = LookRequest {
            from_id: i64::MIN,
            ..request.clone()
        };
        let hidden = self.unseen(&all).into_iter();
        hidden
            .filter(|(id, _)| *id < request.from_id)
            .map(|(id, line)| (id, line.clone()))
            .collect()
    }

    /// Whom rows concern. The first changed row of a transaction stands for those that follow.
    fn gathered(&self, found: &[(i64, &Line)]) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let mut first: BTreeMap<u64, usize> = BTreeMap::new();
        for (id, line) in found {
            let mut change = self.resolve(*id, line);
            if !matches!(line.note, Note::Changed(_)) {
                changes.push(change);
                continue;
            }
            let Some(at) = first.get(&line.xid) else {
                first.insert(line.xid, changes.len());
                changes.push(change);
                continue;
            };
            let all = changes[*at].tenants.iter().chain(&change.tenants);
            let all: BTreeSet<TenantId> = all.cloned().collect();
            changes[*at].tenants = all.into_iter().collect();
            match self.outbox.variant {
                Variant::ForgetsTheRest => {
                    change.tenants.clear();
                    changes.push(change);
                }
                _ => changes[*at].more.push(*id),
            }
        }
        changes
    }

    /// Whom a row concerns, as the database is now.
    pub fn resolve(&self, id: i64, line: &Line) -> Change {
        let tenants = match &line.note {
            Note::Tenant(tenant) => vec![tenant.clone()],
            Note::Changed(plan) => self.now().tenants_on(*plan),
            Note::All | Note::Token | Note::Beat => Vec::new(),
        };
        let alone = self.outbox.variant == Variant::BulkIsUrgent;
        Change {
            id,
            more: Vec::new(),
            xid: if alone { id.unsigned_abs() } else { line.xid },
            tenants,
        }
    }

    /// An acknowledgement: its number, and the rows that it removed; nothing if the term is over.
    pub fn acknowledge(&mut self, term: Term, request: &AckRequest) -> Option<(u64, Vec<Line>)> {
        if self.lease.term != term {
            return None;
        }
        let all_in = request.all_in.as_ref();
        let all_in = all_in.map(|seen| PgSnapshot::parse(seen.as_str()));
        let ids: BTreeSet<i64> = request.ids.iter().copied().collect();
        let mut gone = Vec::new();
        let variant = self.outbox.variant;
        self.outbox.rows.retain(|id, line| {
            let seen = all_in.as_ref().is_some_and(|seen| seen.sees(line.xid));
            let concerns_nobody = matches!(line.note, Note::Token | Note::Beat);
            let kept = variant == Variant::KeepsRows && concerns_nobody;
            let keep = kept || (!seen && !ids.contains(id));
            if !keep {
                gone.push((*id, line.clone()));
            }
            keep
        });
        self.outbox.unflushed = Some(Unflushed {
            gone: gone.clone(),
            acked: self.outbox.acked,
            mended: self.outbox.mended,
        });
        self.behind = request.behind.iter().map(|ix| ix.0).collect();
        self.outbox.acked = match request.make_room {
            true => self.outbox.ids,
            false => request.done_to,
        };
        self.outbox.passed = self.outbox.passed.max(self.outbox.acked);
        self.outbox.mended = request.mended.unwrap_or(self.outbox.mended);
        let gone = gone.into_iter().map(|(_, line)| line).collect();
        Some((self.xids.once(), gone))
    }

    /// Removes everything that a look told.
    pub fn forget(&mut self, looked: &Looked) -> Vec<Line> {
        let ids = looked.changes.iter().map(|change| change.id);
        ids.filter_map(|id| self.outbox.rows.remove(&id)).collect()
    }

    /// Changes the row of the beat and returns its number; nothing if the term is over.
    pub fn beat(&mut self, at: u64, term: Term) -> Option<u64> {
        if self.lease.term != term {
            return None;
        }
        let xid = self.xids.once();
        if self.outbox.asks_for_room() {
            let (id, commit) = (self.outbox.draw(), self.newest());
            let note = Note::Beat;
            let line = Line {
                xid,
                note,
                commit,
                at,
            };
            self.outbox.rows.insert(id, line);
        }
        self.beats.push(at);
        Some(self.beats.len() as u64)
    }
}
