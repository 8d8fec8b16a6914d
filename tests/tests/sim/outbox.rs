//! The outbox of a database as `migrations/0002_capture.sql` has it: two sequences that say whether there is room, rows
//! that become visible with their transactions, `hubcast.wait`, and acknowledgements.

use crate::database::Database;
use crate::state::Plan;
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
}

impl Outbox {
    /// An empty one.
    pub fn new(cap: i64, max_rows: usize) -> Self {
        Self {
            ids: 0,
            acked: 0,
            missed: 0,
            mended: 0,
            cap,
            max_rows,
            rows: BTreeMap::new(),
        }
    }

    /// Whether there is room.
    pub fn has_room(&self) -> bool {
        self.ids - self.acked < self.cap
    }

    /// `hubcast.has_room`: for whoever is about to write a row.
    pub fn asks_for_room(&mut self) -> bool {
        self.missed += i64::from(!self.has_room());
        self.has_room()
    }

    /// Draws an id.
    pub fn draw(&mut self) -> i64 {
        self.ids += 1;
        self.ids
    }
}

impl Database {
    /// One look, in a snapshot of its own; nothing while there is nothing to tell and time is left.
    pub fn look(&self, request: &LookRequest, out_of_time: bool) -> Option<Looked> {
        let snapshot = self.xids.snapshot();
        let found = self.unseen(request);
        let has_room = self.outbox.has_room();
        if found.is_empty() && has_room && !out_of_time {
            return None;
        }
        let is_backlog = found.len() > self.outbox.max_rows;
        let found = if is_backlog { Vec::new() } else { found };
        let everyone = found.iter().any(|(_, line)| line.note == Note::All);
        Some(Looked {
            seen: Snapshot::parse(&snapshot.text()).expect("a snapshot"),
            last_id: self.outbox.ids,
            has_room,
            missed: (self.outbox.missed != self.outbox.mended).then_some(self.outbox.missed),
            changes: found
                .iter()
                .map(|(id, line)| self.resolve(*id, line))
                .collect(),
            is_backlog,
            everyone: everyone.then(|| "every tenant may have changed".to_owned()),
            beat: found.iter().any(|(_, line)| line.note == Note::Beat),
        })
    }

    /// The rows that a look is to tell.
    fn unseen(&self, request: &LookRequest) -> Vec<(i64, &Line)> {
        let after = request.after.as_ref();
        let after = after.map(|after| PgSnapshot::parse(after.as_str()));
        let rows = self.outbox.rows.range(request.from_id..);
        rows.filter(|(_, line)| after.as_ref().is_none_or(|after| !after.sees(line.xid)))
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

    fn resolve(&self, id: i64, line: &Line) -> Change {
        let tenants = match &line.note {
            Note::Tenant(tenant) => vec![tenant.clone()],
            Note::Changed(plan) => self.now().tenants_on(*plan),
            Note::All | Note::Token | Note::Beat => Vec::new(),
        };
        Change {
            id,
            xid: line.xid,
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
        self.outbox.rows.retain(|id, line| {
            let seen = all_in.as_ref().is_some_and(|seen| seen.sees(line.xid));
            let keep = !seen && !ids.contains(id);
            if !keep {
                gone.push(line.clone());
            }
            keep
        });
        self.behind = request.behind.iter().map(|ix| ix.0).collect();
        self.outbox.acked = match request.make_room {
            true => self.outbox.ids,
            false => request.done_to,
        };
        self.outbox.mended = request.mended.unwrap_or(self.outbox.mended);
        Some((self.xids.once(), gone))
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
