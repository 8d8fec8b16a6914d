//! A table as a store: the operations of the push protocol, with the types of [`contexts::push`].
//!
//! An agent decides in its own process which writer it listens to. A table has no process, so the writer's own side
//! decides by the same rules ([`contexts::gate`]), and the table makes sure of it: a claim writes a new session into the
//! fence, and nothing is written but while the fence names the session that was read there. Whether a writer is silent
//! shows in a counter that no longer moves.
//!
//! What must hold:
//! * A claim is granted on a fence exactly as it was read, so of two claims at once one is refused.
//! * After a lost answer the session is given up. The next claim ends what it had under way, and whatever was still on
//!   its way names a session that the fence does not.
//! * A push reads what it concerns and writes the difference; it is answered once the service has acknowledged it.

mod beating;
mod claiming;
mod comparing;
mod pushing;

use crate::audit::Round;
use crate::client::{Db, Limits, TableConfig, TableError};
use crate::layout::{FORMAT, Facts, Fence, Place, Pulse};
use crate::pulse::Progress;
use crate::read::Reads;
use contexts::gate::Gate;
use contexts::name::Region;
use contexts::push::{Reading, Refused, Seen, StoreState};
use contexts::version::{Incarnation, SessionId, StoreId, Version};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How far the table is, as a message says: position, freshness, beat.
type Said = (Option<Version>, Option<u64>, Option<u64>);

/// What a call to a table gives: an answer, or a refusal; no answer is a [`TableError`].
pub type Answered<T> = Result<Result<T, Refused>, TableError>;

/// A table, as the hub's writer sees it.
#[derive(Debug)]
pub struct Table {
    db: Db,
    region: Region,
    state: Mutex<State>,
    /// The time within which all items are compared; none of it is a part of them with each scan.
    audit_within: Duration,
    /// Pushes and *synced* go one after the other; whoever has the turn has the round of comparing items.
    turn: tokio::sync::Mutex<Round>,
    /// So do moves of the pulse, so that none of them goes back.
    pulse_turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    /// The pulse when it was looked at last.
    looked: Option<(Option<SessionId>, u64, Instant)>,
    open: Option<Open>,
}

/// What the session that is open knows.
#[derive(Debug, Clone)]
struct Open {
    session: SessionId,
    facts: Facts,
    progress: Progress,
    /// When its last scan ended, by the service's clock.
    scanned: Option<u64>,
    /// Tenants and contexts that came or went, and whether anything was learned, since the pulse moved last.
    uncounted: (i64, i64),
    is_ahead: bool,
    /// Whether what an earlier writer left in the middle was ended.
    is_recovered: bool,
}

/// A fence and a pulse as they were read; none in a new table.
struct Looked {
    fence: Option<Fence>,
    pulse: Pulse,
}

impl Looked {
    fn seen(&self) -> Seen {
        let facts = self.fence.as_ref().map(|fence| &fence.facts);
        Seen {
            store: facts.map_or(StoreId(0), |facts| facts.store),
            granted: facts.map(|facts| facts.granted),
            last_synced: facts.and_then(|facts| facts.last_synced),
        }
    }
}

impl Table {
    /// The table of a configuration. Nothing is asked of it yet.
    pub async fn connect(config: &TableConfig, region: Region) -> Self {
        Self::new(Db::connect(config).await, region)
    }

    /// The table behind a way to it.
    pub fn new(db: Db, region: Region) -> Self {
        Self {
            db,
            region,
            state: Mutex::new(State {
                gate: Gate::default(),
                looked: None,
                open: None,
            }),
            audit_within: Limits::default().audit_within,
            turn: tokio::sync::Mutex::default(),
            pulse_turn: tokio::sync::Mutex::default(),
        }
    }

    /// The same, within these limits.
    #[must_use]
    pub fn limited(mut self, limits: &Limits) -> Self {
        self.audit_within = limits.audit_within;
        self.db = self.db.limited(limits);
        self
    }

    /// The way to it.
    pub fn db(&self) -> &Db {
        &self.db
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is a whole one, so what a panicked task left can be used.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Who it is and whom it obeys. A new table has no identity until it is claimed.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn hello(&self) -> Answered<StoreState> {
        let looked = self.look().await?;
        Ok(self.right_region(&looked).map(|()| self.told(&looked)))
    }

    async fn look(&self) -> Result<Looked, TableError> {
        let places = [Place::fence(), Place::pulse()];
        let items = self.db.get_all_as(places, Reads::Urgent).await?;
        let fence = items.get(&Place::fence()).map(Fence::of).transpose()?;
        let pulse = items.get(&Place::pulse()).map(Pulse::of).transpose()?;
        let looked = Looked {
            fence,
            pulse: pulse.unwrap_or_default(),
        };
        self.listen(&looked.pulse);
        Ok(looked)
    }

    /// A pulse that did not move since the last look is silence, in which this process ran; one that moved begins it anew.
    fn listen(&self, pulse: &Pulse) {
        let mut state = self.state();
        let now = Instant::now();
        match state.looked {
            Some((session, beats, at)) if (session, beats) == (pulse.session, pulse.beats) => {
                state.gate.ran(now - at);
            }
            _ if state.open.is_none() => state.gate = Gate::default(),
            _ => {}
        }
        state.looked = Some((pulse.session, pulse.beats, now));
    }

    fn right_region(&self, looked: &Looked) -> Result<(), Refused> {
        let theirs = looked.fence.as_ref().map(|fence| &fence.facts.region);
        match theirs.filter(|theirs| **theirs != self.region) {
            None => Ok(()),
            Some(mine) => Err(Refused::Region {
                mine: mine.clone(),
                asked: self.region.clone(),
            }),
        }
    }

    fn told(&self, Looked { fence, pulse }: &Looked) -> StoreState {
        let facts = fence.as_ref().map(|fence| &fence.facts);
        let store = facts.map_or(StoreId(0), |facts| facts.store);
        let reading = self.reading(store);
        let age = pulse.fresh.map(|fresh| {
            let now = self.db.clock.not_passed().unwrap_or(fresh);
            now.saturating_sub(fresh) as f64 / 1e6
        });
        StoreState {
            store,
            incarnation: Incarnation(store.0),
            region: self.region.clone(),
            granted: facts.map(|facts| facts.granted),
            released: facts.is_some_and(|facts| facts.released),
            last_synced: facts.and_then(|facts| facts.last_synced),
            synced_kinds: facts.map(|f| f.synced_kinds.clone()).unwrap_or_default(),
            position: pulse.position,
            bundles: pulse.bundles,
            contexts: pulse.contexts,
            file_bytes: 0,
            root: None,
            reading,
            age,
            beat: pulse.beat,
            release: format!("DynamoDB, format {FORMAT}"),
        }
    }

    /// The service's clock, as this table's.
    fn reading(&self, store: StoreId) -> Reading {
        Reading {
            boot: store.0,
            micros: self.db.clock.reached().unwrap_or(0),
        }
    }

    fn open(&self, session: SessionId, facts: Facts, pulse: &Pulse) {
        let mut state = self.state();
        state.gate.open(session);
        state.open = Some(Open {
            session,
            facts,
            progress: Progress::of(pulse),
            scanned: None,
            uncounted: (0, 0),
            is_ahead: false,
            is_recovered: false,
        });
    }

    /// Ends the session, if it is this one: what it had under way is ended by the next claim.
    fn give_up(&self, session: SessionId) {
        let mut state = self.state();
        if state
            .open
            .as_ref()
            .is_some_and(|open| open.session == session)
        {
            state.gate.end();
            state.open = None;
        }
    }

    /// What a failed write means for the session that sent it.
    fn failed<T>(&self, session: SessionId, error: TableError) -> Answered<T> {
        self.give_up(session);
        match error {
            TableError::Fenced => Ok(Err(Refused::Session)),
            error => Err(error),
        }
    }

    fn admitted(&self, session: SessionId, number: u64) -> Result<Open, Refused> {
        let mut state = self.state();
        state.gate.admit(session, number)?;
        state.open.clone().ok_or(Refused::Session)
    }
}
