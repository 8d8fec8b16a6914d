//! The invariants of the design, each checked after every commit of a store.
//!
//! | id | what is checked |
//! | --- | --- |
//! | I1 | the snapshot that a store shows of a tenant never goes back; nor does a reader that changes store by position |
//! | I2 | what is shown of a tenant is one snapshot's content; held names keep an older value of theirs, or none |
//! | I3 | one owner per key, and the owners, heads, digests and buckets agree with the records ([`crate::books`]) |
//! | I5 | what is shown is as new as the age says; a key that was there all the time is never called absent ([`crate::age`]) |
//! | I6 | what was acknowledged is on disk, and a receipt shows what it was asked for |
//! | delta | what a delta is for is what the store has, unless somebody edited it: the hub believes only what was confirmed |
//! | fence | a store goes to a database that does not know its writer only if a person forced it, and takes from no other |
//!
//! A tenant with a value that was edited by hand is left out until the value is written again.

use crate::agent::{Handled, Message, Reply};
use crate::publisher::Wish;
use crate::state::{Name, State};
use crate::store::{Before, Durable, Origin, pushed};
use crate::world::{Checked, World, violated};
use contexts::bundle::{Bundle, HoldReason};
use contexts::name::TenantId;
use contexts::push::{Claim, Pushed, Verdict};
use contexts::version::Version;
use publisher::writer::{Delivery, Republished, Request};
use std::collections::BTreeMap;

impl World {
    pub fn state(&self, origin: Origin) -> &State {
        &self.dbs[origin.db].commits[origin.commit].state
    }

    /// What a store's region has of a tenant in a snapshot.
    fn truth(&self, s: usize, tenant: &TenantId, origin: Origin) -> Bundle {
        self.state(origin).bundle(tenant, &self.agents[s].region)
    }

    /// Whether the content of one snapshot is also that of another one, or of a later one, but for what the store has
    /// to yield to another tenant.
    pub fn still_true(&self, s: usize, tenant: &TenantId, shown: Origin, since: Origin) -> bool {
        let head = self.agents[s].durable.heads.get(tenant);
        let held = head.iter().flat_map(|h| &h.held);
        let yielded: Vec<_> = held
            .filter(|h| matches!(h.why, HoldReason::KeyTaken { .. }))
            .collect();
        let content = |origin| {
            let truth = self.truth(s, tenant, origin);
            let bundle = yielded.iter();
            bundle.fold(truth, |b, h| b.hold(&h.kind, &h.key, h.why.clone()))
        };
        let shown = content(shown);
        let (db, commits) = (since.db, since.commit..self.dbs[since.db].commits.len());
        let mut later = commits.map(|commit| Origin { db, commit });
        later.any(|origin| content(origin) == shown)
    }

    /// After a commit: the step itself, then what it changed.
    pub fn check_commit(
        &mut self,
        s: usize,
        db: usize,
        before: &Before,
        message: &Message,
        handled: &Handled,
    ) -> Checked {
        match message {
            Message::Request(request @ (Request::Push(_) | Request::PushDelta(_)), origins) => {
                let tenants = pushed(request);
                let applied = handled.applied.iter().map(|i| tenants[*i]);
                let applied: Vec<&TenantId> = applied.collect();
                for (i, tenant) in handled.applied.iter().zip(&applied) {
                    self.check_step(s, db, (tenant, before.origins[*i]), origins[*i])?;
                }
                if let Some(Reply::Differs(tenants, _)) = &handled.reply {
                    let edited = &self.agents[s].durable.edited;
                    if let Some(tenant) = tenants.iter().find(|t| !edited.contains(*t)) {
                        let what = format!("store {s} has another {tenant} than it confirmed");
                        return violated("delta", what);
                    }
                }
                if applied.is_empty() {
                    return self.check_age(s);
                }
                if before.owner != Some(db) {
                    return violated("fence", format!("store {s} takes content of db{db}"));
                }
                self.check_books(s)?;
                for tenant in applied {
                    self.check_bundle(s, tenant)?;
                }
                self.check_age(s)?;
                self.check_readers(s)
            }
            Message::Request(Request::Claim(claim), _) => self.check_claim(s, db, before, claim),
            _ => self.check_store(s),
        }
    }

    /// I1.
    fn check_step(
        &self,
        s: usize,
        db: usize,
        (tenant, old): (&TenantId, Option<Origin>),
        new: Origin,
    ) -> Checked {
        let old = old.and_then(|old| self.commit_in(old, db));
        let new = self.commit_in(new, db);
        if old.zip(new).is_some_and(|(old, new)| old > new) {
            let what = format!("store {s}, {tenant}: from {old:?} to {new:?}");
            return violated("I1 no backward step", what);
        }
        Ok(())
    }

    /// The fence: whom a store may go to.
    fn check_claim(&mut self, s: usize, db: usize, before: &Before, claim: &Claim) -> Checked {
        let durable = &mut self.agents[s].durable;
        durable.owner = Some(db);
        if claim.force {
            durable.forced = Some(db);
            return Ok(());
        }
        if let Some(by) = before.forced.filter(|by| !self.descends(db, *by)) {
            let what = format!("store {s}, forced by db{by}, goes to db{db}");
            return violated("fence", what);
        }
        if !self.dbs[db].knows(before.granted, before.last_synced) {
            let what = format!("store {s} goes from {:?} to db{db}", before.owner);
            return violated("fence", what);
        }
        Ok(())
    }

    /// A store as it is.
    ///
    /// # Errors
    /// The first invariant that it breaks.
    pub fn check_store(&self, s: usize) -> Checked {
        self.check_books(s)?;
        for tenant in self.agents[s].durable.origins.keys() {
            self.check_bundle(s, tenant)?;
        }
        self.check_age(s)?;
        self.check_readers(s)
    }

    /// I2 and I3.
    fn check_bundle(&self, s: usize, tenant: &TenantId) -> Checked {
        let d = &self.agents[s].durable;
        let origin = d.origins.get(tenant).filter(|_| !d.edited.contains(tenant));
        if let Some(origin) = origin {
            let truth = self.truth(s, tenant, *origin);
            if let Err(what) = self.shows(s, tenant, &truth) {
                let what = format!("store {s}, {tenant} of commit {}: {what}", origin.commit);
                let records = d.records.get(tenant).into_iter().flatten();
                let mut names = records
                    .map(|(name, _)| name)
                    .filter(|n| !self.is_kept(s, tenant, n));
                return match names.all(|(kind, key)| truth.mentions(kind, key)) {
                    true => violated("I2 all or nothing", what),
                    false => violated("I3 deletes travel", what),
                };
            }
        }
        Ok(())
    }

    /// Whether the guard keeps a context that the hub has no longer, until it is counted.
    pub fn is_kept(&self, s: usize, tenant: &TenantId, name: &Name) -> bool {
        let head = self.agents[s].durable.heads.get(tenant);
        let mut held = head.iter().flat_map(|head| &head.held);
        held.any(|h| h.why == HoldReason::Undecided && (&h.kind, &h.key) == (&name.0, &name.1))
    }

    /// Whether a store shows a bundle: its contexts, but for those held for a clash, and of held names an older value.
    pub fn shows(&self, s: usize, tenant: &TenantId, truth: &Bundle) -> Result<(), String> {
        let d = &self.agents[s].durable;
        let empty = BTreeMap::new();
        let records = d.records.get(tenant).unwrap_or(&empty);
        let Some(head) = d.heads.get(tenant) else {
            return match truth.is_empty() && records.is_empty() {
                true => Ok(()),
                false => Err(format!("no head, {} records", records.len())),
            };
        };
        let mut held = head.held.iter();
        if truth.is_empty() && !held.any(|h| h.why == HoldReason::Undecided) {
            return Err("a head of nothing".into());
        }
        for context in &truth.contexts {
            let name = (context.kind.clone(), context.key.clone());
            let clash = head.held.iter().any(|h| {
                (&h.kind, &h.key) == (&name.0, &name.1)
                    && matches!(h.why, HoldReason::KeyTaken { .. })
            });
            let record = records.get(&name).map(|r| &r.context);
            match (clash, record) {
                (true, None) => {}
                (false, Some(shown)) if shown == context => {}
                _ => return Err(format!("{name:?} should be {context:?}, is {record:?}")),
            }
        }
        for (name, record) in records {
            if self.is_kept(s, tenant, name) {
                continue;
            }
            if truth.has(&name.0, &name.1) {
                continue;
            }
            let was = |state: &State| {
                let row = state.rows.get(tenant).and_then(|rows| rows.get(name));
                row.is_some_and(|row| row.value() == record.context.value)
            };
            if !truth.mentions(&name.0, &name.1) {
                return Err(format!("{name:?} is not in the snapshot"));
            }
            if !self
                .dbs
                .iter()
                .flat_map(|d| &d.commits)
                .any(|c| was(&c.state))
            {
                return Err(format!("{name:?} was never {}", record.context.value));
            }
        }
        Ok(())
    }

    /// I1 for a reader that changes store: where versions and positions let it, it does not go back.
    pub fn check_readers(&self, s: usize) -> Checked {
        for other in 0..self.agents.len() {
            if other != s && self.agents[other].region == self.agents[s].region {
                self.check_reader(s, other)?;
                self.check_reader(other, s)?;
            }
        }
        Ok(())
    }

    /// What a store shows of a tenant, and the newest commit that this is known to include: that of the bundle, or of
    /// the age.
    fn known_since(&self, d: &Durable, tenant: &TenantId, db: usize) -> Option<(Origin, usize)> {
        let shown = d.origins.get(tenant).copied();
        let shown = shown.unwrap_or(Origin { db, commit: 0 });
        // Once a clone has part of the stores, a reader that goes from one side to the other is beyond help.
        let aged = match d.fresh {
            None => 0,
            Some(_) if d.fresh_db != db => return None,
            Some(fresh) => self.dbs[db].index_at(fresh),
        };
        Some((shown, self.commit_in(shown, db)?.max(aged)))
    }

    fn check_reader(&self, from: usize, to: usize) -> Checked {
        let (a, b) = (&self.agents[from].durable, &self.agents[to].durable);
        // Two databases count their versions from the same epoch; between their stores nothing is promised.
        if a.owner != b.owner {
            return Ok(());
        }
        for (tenant, origin) in &a.origins {
            let (Some(seen), Some(reach)) = (mark(a, tenant), reach(b, tenant)) else {
                continue;
            };
            if reach < seen || a.edited.contains(tenant) || b.edited.contains(tenant) {
                continue;
            }
            let db = origin.db;
            if !self.owes(to, *origin) {
                continue;
            }
            let Some((shown, known)) = self.known_since(b, tenant, db) else {
                continue;
            };
            if known < origin.commit && !self.still_true(to, tenant, shown, *origin) {
                let what = format!(
                    "a reader of {tenant} that goes from store {from} ({seen}, commit {}) to {to} ({reach}, commit {}) goes back",
                    origin.commit, known
                );
                return violated("I1 no reader goes back", what);
            }
        }
        Ok(())
    }

    /// I6: what the writer hears to be applied is on disk.
    pub fn check_durable(
        &self,
        s: usize,
        line: u64,
        push: &[(TenantId, Origin)],
        pushed: &Pushed,
    ) -> Checked {
        let agent = &self.agents[s];
        if agent.line != line {
            return Ok(());
        }
        for ((tenant, origin), verdict) in push.iter().zip(&pushed.verdicts) {
            if !matches!(verdict, Verdict::Applied | Verdict::AlreadyThere)
                || !self.owes(s, *origin)
            {
                continue;
            }
            let on_disk = agent.durable.origins.get(tenant);
            let there = match on_disk.map(|o| self.commit_in(*o, origin.db)) {
                None => false,
                Some(None) => true,
                Some(Some(commit)) => commit >= origin.commit,
            };
            if !there {
                let what = format!("store {s} has {on_disk:?} of {tenant}, acked {origin:?}");
                return violated("I6 acked is durable", what);
            }
        }
        Ok(())
    }

    /// I6: a receipt that says delivered means that the store shows what was there when it was asked for, or later.
    pub fn check_receipts(&self, wish: &Wish, republished: &Republished) -> Checked {
        for receipt in &republished.receipts {
            if !matches!(receipt.delivery, Delivery::Delivered { .. }) {
                continue;
            }
            let s: usize = receipt.store[1..].parse().unwrap_or(0);
            let d = &self.agents[s].durable;
            let there = self.agents[s].line == wish.lines[s] && self.owes(s, wish.origin);
            if !there || d.edited.contains(&receipt.tenant) {
                continue;
            }
            let db = wish.origin.db;
            let shown = d.origins.get(&receipt.tenant).copied();
            let shown = shown.unwrap_or(Origin { db, commit: 0 });
            let Some(commit) = self.commit_in(shown, db) else {
                continue;
            };
            let (tenant, asked) = (&receipt.tenant, wish.origin);
            if commit < asked.commit && !self.still_true(s, tenant, shown, asked) {
                let what = format!("store {s} shows {tenant} of {commit}, asked for {asked:?}");
                return violated("I6 a receipt is true", what);
            }
        }
        Ok(())
    }
}

/// What a reader of a tenant remembers to have seen of a store; none if the store says "not ready".
fn mark(d: &Durable, tenant: &TenantId) -> Option<Version> {
    match d.heads.get(tenant) {
        Some(head) => Some(head.version.max(d.position)),
        None => (!d.kinds.is_empty()).then(|| d.highest.max(d.position)),
    }
}

/// How far a store is for a reader of a tenant; none if it says "not ready".
fn reach(d: &Durable, tenant: &TenantId) -> Option<Version> {
    match d.heads.get(tenant) {
        Some(head) => Some(head.version.max(d.position)),
        None => (!d.kinds.is_empty()).then_some(d.position),
    }
}
