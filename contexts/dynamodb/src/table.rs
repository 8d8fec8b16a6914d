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

use crate::audit::{PARTS, Round};
use crate::client::{Db, Limits, TableConfig, TableError};
use crate::commit::Writing;
use crate::layout::{FORMAT, Facts, Fence, Place, Pulse};
use crate::pulse::{self, Counts, Progress};
use crate::read::Reads;
use crate::transaction::{Expect, Transaction};
use crate::units::Cause;
use crate::{random, sizes, working};
use contexts::apply::{Applied, apply};
use contexts::gate::{Gate, GateState};
use contexts::name::{Region, TenantId};
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, Listed, Push, Pushed, Reading, Refused, Release, Seen, Sent,
    StoreState, SyncVerdict, Synced, Verdict,
};
use contexts::version::{Incarnation, SessionId, StoreId, Version};
use std::collections::BTreeSet;
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
    /// The time within which all items are compared.
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
    /// When items were compared last.
    audited: Option<Instant>,
}

/// What the session that is open knows.
#[derive(Debug, Clone)]
struct Open {
    session: SessionId,
    facts: Facts,
    progress: Progress,
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
                audited: None,
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

    /// Claims the table: a new session in the fence, if the fence is as the claim says.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn claim(&self, claim: &Claim) -> Answered<Granted> {
        let looked = self.look().await?;
        if let Err(refused) = self.right_region(&looked) {
            return Ok(Err(refused));
        }
        let fence = looked.fence.as_ref();
        let other = |fence: &Fence| fence.facts.digest_key != claim.digest_key;
        let state = GateState {
            region: &self.region,
            seen: looked.seen(),
            released: fence.is_some_and(|fence| fence.facts.released),
            other_deployment: fence.is_some_and(other),
        };
        let term = match self.state().gate.claim(claim, &state) {
            Ok(term) => term,
            Err(refused) => return Ok(Err(refused)),
        };
        let new_store = match fence {
            Some(fence) => fence.facts.store,
            None => StoreId(random::id()?),
        };
        let facts = Facts {
            format: FORMAT,
            store: new_store,
            region: self.region.clone(),
            digest_key: claim.digest_key.clone(),
            granted: term,
            released: false,
            last_synced: looked.seen().last_synced,
            synced_kinds: fence
                .map(|f| f.facts.synced_kinds.clone())
                .unwrap_or_default(),
        };
        let session = SessionId(random::id()?);
        let mut pulse = Pulse {
            session: Some(session),
            beats: looked.pulse.beats + 1,
            ..looked.pulse
        };
        if !claim.known {
            // They speak of another database, of which this one knows nothing.
            (pulse.fresh, pulse.position) = (None, Default::default());
        }
        let granted = Fence { session, facts };
        let seen = fence.map(Fence::to_item).transpose()?;
        let expect = seen.as_ref().map_or(Expect::Nothing, Expect::Fence);
        let mut transaction = Transaction::unfenced();
        transaction.put(&self.db, granted.to_item()?, expect)?;
        transaction.put(&self.db, pulse.to_item(), Expect::Any)?;
        match transaction.commit(&self.db).await {
            Ok(()) => {}
            Err(TableError::Fenced) => return Ok(Err(Refused::Changed)),
            Err(error) => return Err(error),
        }
        tracing::info!(table = %self.db.table, epoch = term.epoch, "the table is granted to this writer");
        self.open(session, granted.facts.clone(), &pulse);
        let fence = Some(granted);
        let state = self.told(&Looked { fence, pulse });
        Ok(Ok(Granted { session, state }))
    }

    fn open(&self, session: SessionId, facts: Facts, pulse: &Pulse) {
        let mut state = self.state();
        state.gate.open(session);
        state.open = Some(Open {
            session,
            facts,
            progress: Progress::of(pulse),
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

    /// Applies bundles: each group of tenants that have to do with one another at once.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer; then the session is over.
    pub async fn push(&self, push: &Push) -> Answered<Pushed> {
        if push.region != self.region {
            return Ok(Err(Refused::Region {
                mine: self.region.clone(),
                asked: push.region.clone(),
            }));
        }
        let mut turn = self.turn.lock().await;
        let open = match self.admitted(push.session, push.number) {
            Ok(open) => open,
            Err(refused) => return Ok(Err(refused)),
        };
        // What the SDK needs for a call is much, and the stack of whoever asks is his own.
        let applying = Box::pin(self.apply(&open, push, &mut turn));
        match Cause::Change.of(applying).await {
            Ok(verdicts) => Ok(Ok(Pushed {
                verdicts,
                reading: self.reading(open.facts.store),
            })),
            Err(error) => self.failed(push.session, error),
        }
    }

    async fn apply(
        &self,
        open: &Open,
        push: &Push,
        round: &mut Round,
    ) -> Result<Vec<Verdict>, TableError> {
        let (mut verdicts, mut is_seen) = (Vec::new(), false);
        if !push.bundles.is_empty() {
            let writing = self.writing(open);
            self.recover(&writing).await?;
            let (sound, invalid): (Vec<Sent>, Vec<_>) = sizes::split(&push.bundles);
            let key = &open.facts.digest_key;
            let kinds = &open.facts.synced_kinds;
            let read = working::Working::read(&self.db, key, kinds, &sound).await?;
            let mut after = read.maps.clone();
            let Ok(applied) = apply(&mut after, key, &sound);
            let groups = read.differences(&after, &sound, random::id)?;
            for changed in groups.iter().flat_map(|group| &group.heads) {
                round.writes(&changed.stored.tenant);
            }
            is_seen = writing.commit(&groups).await?;
            self.count(open.session, &applied);
            verdicts = sizes::join(applied.verdicts, invalid);
        }
        let said = (None, self.named(open, push.fresh), push.beat);
        match is_seen {
            // What the pulse is to say waits for the heartbeat, which comes every second.
            true => self.learn(open.session, said),
            false => self.beat(open.session, said, None).await?,
        }
        Ok(verdicts)
    }

    /// Keeps how many there are for the next move of the pulse.
    fn count(&self, session: SessionId, applied: &Applied) {
        let count = |is_there: bool| i64::from(is_there);
        let moved = applied.moved.iter();
        let bundles =
            moved.map(|moved| count(moved.after.is_some()) - count(moved.before.is_some()));
        let mut state = self.state();
        if let Some(open) = state.open.as_mut().filter(|open| open.session == session) {
            open.uncounted.0 += bundles.sum::<i64>();
            open.uncounted.1 += applied.contexts;
        }
    }

    fn learn(&self, session: SessionId, (position, fresh, beat): Said) {
        let mut state = self.state();
        if let Some(open) = state.open.as_mut().filter(|open| open.session == session) {
            open.progress.advance(position, fresh, beat);
            open.is_ahead = true;
        }
    }

    fn writing<'a>(&'a self, open: &'a Open) -> Writing<'a> {
        Writing {
            db: &self.db,
            key: &open.facts.digest_key,
            session: open.session,
        }
    }

    /// Before a session writes anything else it ends what an earlier one left in the middle.
    async fn recover(&self, writing: &Writing<'_>) -> Result<(), TableError> {
        let is_open = |open: &&mut Open| open.session == writing.session;
        let done = self
            .state()
            .open
            .as_mut()
            .filter(is_open)
            .is_some_and(|o| o.is_recovered);
        if done {
            return Ok(());
        }
        writing.recover().await?;
        if let Some(open) = self.state().open.as_mut().filter(is_open) {
            open.is_recovered = true;
        }
        Ok(())
    }

    /// A moment that the hub names, if it is one of this table's clock.
    fn named(&self, open: &Open, reading: Option<Reading>) -> Option<u64> {
        let reading = reading.filter(|reading| reading.boot == open.facts.store.0)?;
        self.db.clock.reached().map(|now| reading.micros.min(now))
    }

    /// Moves the pulse; `counted` is how many tenants and contexts there are, if that is known.
    async fn beat(
        &self,
        session: SessionId,
        (position, fresh, beat): Said,
        counted: Option<(u64, u64)>,
    ) -> Result<(), TableError> {
        let _turn = self.pulse_turn.lock().await;
        let (progress, counts) = {
            let mut state = self.state();
            let open = state.open.as_mut().filter(|open| open.session == session);
            let open = open.ok_or(TableError::Fenced)?;
            open.progress.advance(position, fresh, beat);
            open.is_ahead = false;
            let (bundles, contexts) = std::mem::take(&mut open.uncounted);
            let by = Counts::By(bundles, contexts);
            let counts = counted.map_or(by, |(bundles, contexts)| Counts::Are(bundles, contexts));
            (open.progress, counts)
        };
        pulse::beat(&self.db, session, &progress, counts).await
    }

    /// Keeps the session alive and moves the position.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Answered<Ack> {
        let heard = {
            let mut state = self.state();
            let heard = state.gate.heard(heartbeat.session);
            heard.and_then(|()| state.open.clone().ok_or(Refused::Session))
        };
        let open = match heard {
            Ok(open) => open,
            Err(refused) => return Ok(Err(refused)),
        };
        let fresh = self.named(&open, heartbeat.fresh);
        let said = (heartbeat.position, fresh, None);
        match self.beat(open.session, said, None).await {
            Ok(()) => Ok(Ok(self.ack(&open))),
            Err(TableError::Fenced) => self.failed(open.session, TableError::Fenced),
            Err(error) => Err(error),
        }
    }

    fn ack(&self, open: &Open) -> Ack {
        Ack {
            reading: self.reading(open.facts.store),
        }
    }

    /// Gives the table back.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn release(&self, release: &Release) -> Answered<Ack> {
        let _turn = self.turn.lock().await;
        let open = self.state().open.clone();
        let Some(open) = open.filter(|open| open.session == release.session) else {
            return Ok(Err(Refused::Session));
        };
        let mut facts = open.facts.clone();
        facts.released = true;
        let told = match open.is_ahead {
            true => self.beat(open.session, (None, None, None), None).await,
            false => Ok(()),
        };
        let written = match told {
            Ok(()) => self.write_facts(&open, facts).await,
            Err(error) => Err(error),
        };
        self.give_up(open.session);
        match written {
            Ok(()) => Ok(Ok(self.ack(&open))),
            Err(error) => self.failed(open.session, error),
        }
    }

    async fn write_facts(&self, open: &Open, facts: Facts) -> Result<(), TableError> {
        let before = Fence {
            session: open.session,
            facts: open.facts.clone(),
        };
        let seen = before.to_item()?;
        let after = Fence {
            session: open.session,
            facts: facts.clone(),
        };
        let mut transaction = Transaction::unfenced();
        transaction.put(&self.db, after.to_item()?, Expect::Fence(&seen))?;
        transaction.commit(&self.db).await?;
        let mut state = self.state();
        if let Some(now) = state
            .open
            .as_mut()
            .filter(|now| now.session == open.session)
        {
            now.facts = facts;
        }
        Ok(())
    }

    /// Compares with what the hub expects; says "no such key" for the kinds from then on if it is the same.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer; then the session is over.
    pub async fn synced(&self, synced: &Synced) -> Answered<SyncVerdict> {
        let mut turn = self.turn.lock().await;
        let open = match self.admitted(synced.session, synced.number) {
            Ok(open) => open,
            Err(refused) => return Ok(Err(refused)),
        };
        let comparing = Box::pin(self.compare(&open, synced, &mut turn));
        match Cause::Scan.of(comparing).await {
            Ok(verdict) => Ok(Ok(verdict)),
            Err(error) => self.failed(synced.session, error),
        }
    }

    async fn compare(
        &self,
        open: &Open,
        synced: &Synced,
        round: &mut Round,
    ) -> Result<SyncVerdict, TableError> {
        let writing = self.writing(open);
        self.recover(&writing).await?;
        let round = round.of(open.facts.granted);
        if synced.reread {
            round.begin(open.facts.granted);
            for _ in 0..PARTS {
                writing.audit(round, Reads::Strong).await?;
            }
        } else if self.is_audit_due() {
            writing.audit(round, Reads::Weak).await?;
        }
        let key = &open.facts.digest_key;
        let in_flux: BTreeSet<&TenantId> = synced.in_flux.iter().collect();
        // Half the price, and as good if it agrees: only this session writes, so what agreed a moment ago still does.
        let mut sums = self.db.sums(key, &in_flux, Reads::Weak).await?;
        if key.root(&sums.buckets) != synced.root {
            sums = self.db.sums(key, &in_flux, Reads::Strong).await?;
        }
        let counts = Some((sums.bundles, sums.contexts));
        if key.root(&sums.buckets) != synced.root {
            self.beat(open.session, (None, None, None), counts).await?;
            return Ok(SyncVerdict::Differs {
                buckets: sums.buckets,
            });
        }
        let mut facts = open.facts.clone();
        let as_before = synced.unsure.intersection(&facts.synced_kinds).cloned();
        facts.synced_kinds = synced.kinds.iter().cloned().chain(as_before).collect();
        facts.last_synced = Some(synced.id);
        self.write_facts(open, facts).await?;
        let fresh = self.named(open, Some(synced.fresh));
        let said = (Some(synced.position), fresh, None);
        self.beat(open.session, said, counts).await?;
        Ok(SyncVerdict::InStep {
            reading: self.reading(open.facts.store),
        })
    }

    /// Whether it is time for the next part of the round. A round takes half of the time that is promised, so that one which
    /// was begun anew by another writer is still in time.
    fn is_audit_due(&self) -> bool {
        let mut state = self.state();
        let every = self.audit_within / 2 / u32::from(PARTS);
        let is_due = state.audited.is_none_or(|at| at.elapsed() >= every);
        if is_due {
            state.audited = Some(Instant::now());
        }
        is_due
    }

    /// The tenants of some buckets.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn buckets(&self, buckets: &[u16]) -> Answered<Vec<Listed>> {
        Cause::Scan.of(self.db.list(buckets)).await.map(Ok)
    }

    /// The digest key that the table was filled under, to find heads by.
    pub(crate) async fn digest_key(
        &self,
    ) -> Result<Option<contexts::digest::DigestKey>, TableError> {
        let fence = self.db.get(&Place::fence()).await?;
        let fence = fence.as_ref().map(Fence::of).transpose()?;
        Ok(fence.map(|fence| fence.facts.digest_key))
    }
}
