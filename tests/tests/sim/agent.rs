//! A store's process: the shell around the gate and `apply`, with a crash possible before and after every commit.
//! What is durable comes first, what is answered second.

use crate::clock::Clock;
use crate::store::{Durable, Origin};
use crate::variant::Variant;
use contexts::apply::{Record, apply_changes};
use contexts::bundle::Bundle;
use contexts::delta::{Change, Delta, PushDelta};
use contexts::digest::Buckets;
use contexts::gate::{Gate, GateState};
use contexts::name::{Region, TenantId};
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, ListBuckets, Listed, Pushed, ReadTenant, Reading, Refused,
    Release, Sent, StoreState, SyncVerdict, Synced, Verdict,
};
use contexts::version::{Incarnation, SessionId, Version};
use publisher::writer::{Request, Told, value_of};
use std::collections::BTreeSet;

/// A message to a store.
#[derive(Debug, Clone)]
pub enum Message {
    /// What a writer wants.
    Request(Request, Vec<Origin>),
    /// A heartbeat.
    Heartbeat(Heartbeat),
}

/// What a store answers.
#[derive(Debug)]
pub enum Reply {
    Hello(Box<StoreState>),
    Granted(Box<Granted>),
    Pushed(Pushed),
    Differs(Vec<TenantId>, Reading),
    KnowsNoDeltas,
    Synced(SyncVerdict),
    Listed(Vec<Listed>),
    Names(Vec<(TenantId, Vec<Told>)>),
    Released,
    Ack(Ack),
    Refused(Refused),
}

/// Where a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Before the commit: nothing happened.
    BeforeCommit,
    /// After the commit and before the answer.
    AfterCommit,
}

/// What a running process remembers.
#[derive(Debug)]
pub struct Memory {
    gate: Gate,
    incarnation: Incarnation,
    /// Kept up to date by `apply`'s notes.
    pub buckets: Buckets,
    /// Records, kept up to date likewise.
    pub contexts: u64,
    last_step: u64,
}

/// A store with its process.
#[derive(Debug)]
pub struct Agent {
    /// Its region.
    pub region: Region,
    /// Its disk.
    pub durable: Durable,
    /// Its process; none while it is down.
    pub memory: Option<Memory>,
    /// A copy of the disk of some time ago.
    pub backup: Option<Durable>,
    /// Until when it neither reads nor answers.
    pub paused_until: u64,
    /// Raised when the disk is replaced by another one.
    pub line: u64,
    /// Whether it is of a release that knows deltas.
    pub knows_deltas: bool,
    /// The boot of its machine.
    boot: u128,
    variant: Variant,
    clock: Clock,
}

/// The effect of a message that was handled.
pub struct Handled {
    /// The answer; none if the process died.
    pub reply: Option<Reply>,
    /// The bundles that were applied: index in the push.
    pub applied: Vec<usize>,
    /// Whether something was committed.
    pub committed: bool,
}

impl Agent {
    /// A store that was never started.
    pub fn new(region: Region, durable: Durable, variant: Variant, clock: Clock) -> Self {
        Self {
            region,
            durable,
            memory: None,
            backup: None,
            paused_until: 0,
            line: 0,
            knows_deltas: true,
            boot: 0,
            variant,
            clock,
        }
    }

    /// Opens the file and starts; the machine too, if it boots: then its clock begins anew.
    pub fn start(&mut self, now: u64, id: u128, boots: Option<Clock>) {
        if let Some(clock) = boots {
            (self.boot, self.clock) = (id, clock);
        }
        self.durable.load();
        self.durable.reopen();
        self.memory = Some(Memory {
            gate: Gate::default(),
            incarnation: Incarnation(id),
            buckets: self.durable.buckets(&BTreeSet::new()),
            contexts: self.durable.contexts(),
            last_step: now,
        });
    }

    /// Time passed in which the process ran; after a pause it is one long step.
    pub fn ran(&mut self, now: u64) {
        if let Some(memory) = &mut self.memory {
            memory.gate.ran(self.clock.between(memory.last_step, now));
            memory.last_step = now;
        }
    }

    fn reading(&self, now: u64) -> Reading {
        Reading {
            boot: self.boot,
            micros: self.clock.micros(now),
        }
    }

    /// Every change before this reading is here. One of another boot says nothing, and nothing makes the store older.
    fn freshen(&mut self, named: Option<Reading>, db: usize) {
        let named = named.filter(|reading| reading.boot == self.boot);
        let fresh = named.map(|reading| self.clock.when(reading.micros));
        if fresh > self.durable.fresh {
            (self.durable.fresh, self.durable.fresh_db) = (fresh, db);
        }
    }

    fn state(&self, now: u64) -> StoreState {
        let d = &self.durable;
        let memory = self.memory.as_ref().expect("it runs");
        StoreState {
            store: d.id,
            incarnation: memory.incarnation,
            region: self.region.clone(),
            granted: d.granted,
            released: d.released,
            last_synced: d.last_synced,
            synced_kinds: d.kinds.clone(),
            position: d.position,
            bundles: d.heads.len() as u64,
            contexts: memory.contexts,
            file_bytes: 0,
            root: d.key.as_ref().map(|k| k.root(&memory.buckets)),
            reading: self.reading(now),
            age: None,
            beat: d.beat,
            release: String::new(),
        }
    }

    /// Handles a message; `crash` says where the process dies, `id` is a fresh random id.
    pub fn handle(
        &mut self,
        now: u64,
        (message, db): (&Message, usize),
        crash: Option<Crash>,
        id: u128,
    ) -> Handled {
        let (mut applied, mut committed) = (Vec::new(), false);
        let before = crash == Some(Crash::BeforeCommit);
        let result = match message {
            Message::Request(Request::Hello, _) => Ok(Reply::Hello(Box::new(self.state(now)))),
            Message::Request(Request::ListBuckets(list), _) => Ok(Reply::Listed(self.list(list))),
            Message::Request(Request::Names(ask), _) => Ok(Reply::Names(self.names(ask))),
            Message::Request(Request::PushDelta(_), _) if !self.knows_deltas => {
                Ok(Reply::KnowsNoDeltas)
            }
            Message::Heartbeat(heartbeat) => self.heartbeat(now, heartbeat, db),
            Message::Request(request, origins) => {
                let was = before.then(|| self.durable.clone());
                let result = match request {
                    Request::Claim(claim) => self.claim(now, claim, id),
                    Request::Push(push) => {
                        self.push(now, &push.clone().into(), (origins, db), &mut applied)
                    }
                    Request::PushDelta(push) => self.push(now, push, (origins, db), &mut applied),
                    Request::Synced(synced) => self.synced(now, synced, db),
                    Request::Release(release) => self.release(release),
                    Request::Hello | Request::ListBuckets(_) | Request::Names(_) => {
                        unreachable!("handled above")
                    }
                };
                committed = result.is_ok();
                self.durable.save();
                if let Some(was) = was {
                    self.durable = was;
                    committed = false;
                }
                result
            }
        };
        if crash.is_some() {
            self.memory = None;
        }
        let lies = self.variant == Variant::AcksBeforeCommit && before;
        let answers = crash.is_none() || lies;
        Handled {
            reply: answers.then(|| result.unwrap_or_else(Reply::Refused)),
            applied: if before { Vec::new() } else { applied },
            committed,
        }
    }

    fn gate(&mut self) -> &mut Gate {
        &mut self.memory.as_mut().expect("it runs").gate
    }

    fn claim(&mut self, now: u64, claim: &Claim, id: u128) -> Result<Reply, Refused> {
        let seen = self.state(now).seen();
        let state = GateState {
            region: &self.region.clone(),
            seen,
            released: self.durable.released,
            other_deployment: self
                .durable
                .key
                .as_ref()
                .is_some_and(|k| *k != claim.digest_key),
        };
        let term = self.gate().claim(claim, &state)?;
        if !(claim.force && self.variant == Variant::ForgetsForce) {
            self.durable.granted = Some(term);
        }
        self.durable.released = false;
        if !claim.known {
            (self.durable.fresh, self.durable.position) = (None, Version::default());
        }
        self.durable.key = Some(claim.digest_key.clone());
        self.gate().open(SessionId(id));
        Ok(Reply::Granted(Box::new(Granted {
            session: SessionId(id),
            state: self.state(now),
        })))
    }

    fn admit(&mut self, session: SessionId, number: u64) -> Result<(), Refused> {
        match self.variant {
            Variant::IgnoresSessions => Ok(()),
            _ => self.gate().admit(session, number),
        }
    }

    /// A bundle as this store takes it: as it is, but for its mistakes.
    fn taken(&self, change: &Change) -> Change {
        let sent = match change {
            Change::Whole(sent) => sent,
            Change::Delta(delta) if self.variant == Variant::TrustsDeltas => {
                return Change::Whole(self.trusted(delta));
            }
            Change::Delta(_) => return change.clone(),
        };
        let mut taken = sent.clone();
        let tenant = &sent.bundle.tenant;
        match self.variant {
            Variant::HalfBundles => {
                let mut bundle = Bundle::clone(&sent.bundle);
                bundle.contexts.pop();
                taken.bundle = bundle.into();
            }
            Variant::KeepsDeleted if sent.bundle.is_empty() => {
                let records = self.durable.records.get(tenant).into_iter().flatten();
                let contexts = records.map(|(_, r)| r.context.clone()).collect();
                let kept = Bundle::new(tenant.clone(), contexts, Vec::new(), Vec::new());
                taken.bundle = kept.expect("a sound bundle").into();
            }
            _ => {}
        }
        Change::Whole(taken)
    }

    /// What comes of a delta, whatever it should be.
    fn trusted(&self, delta: &Delta) -> Sent {
        let (d, tenant) = (&self.durable, &delta.tenant);
        let (key, head) = (d.key.clone().expect("claimed"), d.heads.get(tenant));
        let stays = |r: &&Record| {
            let (kind, name) = r.context.name();
            let part = key.place(kind, name) % delta.parts;
            let is_kept = head.is_some_and(|h| h.keeps(kind, name));
            !is_kept && !delta.replaced.contains(&part) && r.is_sound(&key)
        };
        let records = d.records.get(tenant).into_iter().flat_map(|r| r.values());
        let stay = records.filter(stays).map(|r| r.context.clone());
        let contexts = stay.chain(delta.contexts.iter().cloned()).collect();
        let (held, held_kinds) = (delta.held.clone(), delta.held_kinds.clone());
        let bundle = Bundle::new(tenant.clone(), contexts, held, held_kinds);
        Sent {
            version: delta.version,
            bundle: bundle.expect("a sound bundle").into(),
        }
    }

    /// A running process finds that bytes of its file changed.
    pub fn scrub(&mut self) {
        self.durable.reopen();
        let buckets = self.durable.buckets(&BTreeSet::new());
        if let Some(memory) = &mut self.memory {
            memory.buckets = buckets;
        }
    }

    /// What this store does wrong after a push.
    fn err(&mut self) {
        let d = &mut self.durable;
        match self.variant {
            Variant::ForgetsHeld => d.owners.retain(|_, owner| owner.has_value),
            Variant::PositionIsHighest => d.position = d.position.max(d.highest),
            _ => {}
        }
    }

    fn push(
        &mut self,
        now: u64,
        push: &PushDelta,
        (origins, db): (&[Origin], usize),
        applied: &mut Vec<usize>,
    ) -> Result<Reply, Refused> {
        self.admit(push.session, push.number)?;
        let Some(key) = self.durable.key.clone() else {
            return Err(Refused::Session);
        };
        let changes: Vec<Change> = push.changes.iter().map(|c| self.taken(c)).collect();
        let outcome = match apply_changes(&mut self.durable, &key, &changes) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(tenants)) => return Ok(Reply::Differs(tenants, self.reading(now))),
            Err(never) => match never {},
        };
        for (i, verdict) in outcome.verdicts.iter().enumerate() {
            if matches!(verdict, Verdict::Applied | Verdict::AlreadyThere) {
                let tenant = push.changes[i].tenant();
                self.durable.origins.insert(tenant.clone(), origins[i]);
                self.durable.edited.remove(tenant);
                self.durable.highest = self.durable.highest.max(push.changes[i].version());
                applied.push(i);
            }
        }
        let memory = self.memory.as_mut().expect("it runs");
        memory.contexts = memory.contexts.wrapping_add_signed(outcome.contexts);
        for moved in &outcome.moved {
            let (tenant, buckets) = (&moved.tenant, &mut memory.buckets);
            moved
                .before
                .iter()
                .for_each(|d| buckets.remove(&key, tenant, d));
            moved
                .after
                .iter()
                .for_each(|d| buckets.add(&key, tenant, d));
        }
        self.err();
        self.freshen(push.fresh, db);
        if self.variant != Variant::ForgetsBeats {
            self.durable.beat = self.durable.beat.max(push.beat.unwrap_or(0));
        }
        Ok(Reply::Pushed(Pushed {
            verdicts: outcome.verdicts,
            reading: self.reading(now),
        }))
    }

    fn synced(&mut self, now: u64, synced: &Synced, db: usize) -> Result<Reply, Refused> {
        self.admit(synced.session, synced.number)?;
        let Some(key) = self.durable.key.clone() else {
            return Err(Refused::Session);
        };
        let without: BTreeSet<_> = synced.in_flux.iter().cloned().collect();
        if synced.reread {
            self.scrub();
        }
        let buckets = self.durable.buckets(&without);
        if key.root(&buckets) != synced.root {
            return Ok(Reply::Synced(SyncVerdict::Differs { buckets }));
        }
        let d = &mut self.durable;
        d.last_synced = Some(synced.id);
        let as_before: Vec<_> = synced.unsure.intersection(&d.kinds).cloned().collect();
        d.kinds = synced.kinds.iter().cloned().chain(as_before).collect();
        d.position = d.position.max(synced.position);
        self.durable.scanned_line = Some(self.line);
        self.durable.scanned = Some((db, self.clock.when(synced.fresh.micros)));
        self.freshen(Some(synced.fresh), db);
        let reading = self.reading(now);
        Ok(Reply::Synced(SyncVerdict::InStep { reading }))
    }

    fn release(&mut self, release: &Release) -> Result<Reply, Refused> {
        self.gate().heard(release.session)?;
        self.gate().end();
        self.durable.released = true;
        Ok(Reply::Released)
    }

    /// Position and age move in memory; the next commit writes them.
    fn heartbeat(&mut self, now: u64, heartbeat: &Heartbeat, db: usize) -> Result<Reply, Refused> {
        self.gate().heard(heartbeat.session)?;
        if let Some(position) = heartbeat.position {
            self.durable.position = self.durable.position.max(position);
        }
        self.freshen(heartbeat.fresh, db);
        let reading = self.reading(now);
        Ok(Reply::Ack(Ack { reading }))
    }

    /// What it has of some tenants.
    fn names(&self, ask: &ReadTenant) -> Vec<(TenantId, Vec<Told>)> {
        let told = |tenant: &TenantId| {
            let records = self.durable.records.get(tenant).into_iter().flatten();
            let told = records.map(|((kind, key), record)| Told {
                value: value_of(&record.context),
                kind: kind.clone(),
                key: key.clone(),
            });
            (tenant.clone(), told.collect())
        };
        ask.tenants.iter().map(told).collect()
    }

    fn list(&self, list: &ListBuckets) -> Vec<Listed> {
        let Some(key) = &self.durable.key else {
            return Vec::new();
        };
        let wanted: BTreeSet<usize> = list.buckets.iter().map(|b| usize::from(*b)).collect();
        let heads = self.durable.heads.iter();
        heads
            .filter(|_| self.variant != Variant::ListsNothing)
            .filter(|(tenant, _)| wanted.contains(&key.bucket(tenant)))
            .map(|(tenant, head)| Listed {
                tenant: tenant.clone(),
                digest: head.digest,
                version: head.version,
            })
            .collect()
    }
}
