//! Applies bundles: reads what a push concerns, lets the rules of all stores decide, and writes the difference.
//!
//! It never writes for a session before what an earlier one left in the middle was ended. It takes whole bundles only: each item
//! carries the build that it is of, so of a delta nobody could say which items are of the bundle that it is for, and what is
//! written is no more than what differs anyway.
//!
//! One tenant must never stop the others: what an item has no room for is refused with its bundle, and tenants that are too many
//! to be written at once go one by one.

use super::{Answered, Open, Said, Table};
use crate::audit::Round;
use crate::client::TableError;
use crate::commit::Writing;
use crate::moves::{Moves, ROUNDS};
use crate::random;
use crate::sizes::{self, Refused as WithoutRoom};
use crate::units::Cause;
use crate::working::Working;
use contexts::apply::{Applied, apply};
use contexts::push::{Push, Pushed, Refused, Sent, Verdict};
use contexts::version::SessionId;

/// What was written.
struct Written {
    applied: Applied,
    /// Whether the fence was seen with the last of it.
    is_seen: bool,
    /// Groups of which nothing was.
    left: Vec<Moves>,
}

fn is_accepted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Applied | Verdict::AlreadyThere)
}

impl Table {
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
            self.recover(&self.writing(open)).await?;
            let written = self.write(open, &push.bundles, round).await?;
            if !written.left.is_empty() {
                let verdicts = push.bundles.iter().zip(&written.applied.verdicts);
                let accepted = verdicts.filter(|(_, verdict)| is_accepted(verdict));
                let accepted: Vec<Sent> = accepted.map(|(sent, _)| sent.clone()).collect();
                for moves in &written.left {
                    self.write_in_rounds(open, moves, &accepted, round).await?;
                }
            }
            self.count(open.session, &written.applied);
            (verdicts, is_seen) = (written.applied.verdicts, written.is_seen);
        }
        let said = (None, self.named(open, push.fresh), push.beat);
        match is_seen {
            // What the pulse is to say waits for the heartbeat, which comes every second.
            true => self.learn(open.session, said),
            false => self.beat(open.session, said, None).await?,
        }
        Ok(verdicts)
    }

    /// Writes the difference that these bundles make, as far as their tenants can be written at once.
    async fn write(
        &self,
        open: &Open,
        bundles: &[Sent],
        round: &mut Round,
    ) -> Result<Written, TableError> {
        let key = &open.facts.digest_key;
        let read = Working::read(&self.db, key, &open.facts.synced_kinds, bundles).await?;
        let mut refused = WithoutRoom::new();
        let (mut applied, groups) = loop {
            let mut after = read.maps.clone();
            let is_sound = |sent: &&Sent| !refused.contains_key(&sent.bundle.tenant);
            let sound: Vec<Sent> = bundles.iter().filter(is_sound).cloned().collect();
            let Ok(applied) = apply(&mut after, key, &sound);
            let groups = read.differences(&after, &sound, random::id)?;
            let without_room = sizes::without_room(key, &groups)?;
            if without_room.is_empty() {
                break (applied, groups);
            }
            refused.extend(without_room);
        };
        for changed in groups.iter().flat_map(|group| &group.heads) {
            round.writes(&changed.stored.tenant);
        }
        let done = self.writing(open).commit(&groups).await?;
        let mut sound = std::mem::take(&mut applied.verdicts).into_iter();
        let verdict = |sent: &Sent| match refused.get(&sent.bundle.tenant) {
            Some(why) => Some(Verdict::Invalid { why: why.clone() }),
            None => sound.next(),
        };
        applied.verdicts = bundles.iter().filter_map(verdict).collect();
        let left = done.left.into_iter();
        Ok(Written {
            applied,
            is_seen: done.is_seen,
            left: left.map(|group| Moves::of(group, &read.maps)).collect(),
        })
    }

    /// Writes the bundles of tenants that cannot be written at once. What the rules accepted together they accept in rounds,
    /// unless somebody else wrote meanwhile.
    async fn write_in_rounds(
        &self,
        open: &Open,
        moves: &Moves,
        bundles: &[Sent],
        round: &mut Round,
    ) -> Result<(), TableError> {
        tracing::info!(
            table = %self.db.table, tenants = moves.tenants(),
            "keys move between more tenants than one transaction has room for: they go one by one"
        );
        for part in ROUNDS {
            let named = moves.bundles(part, bundles, true)?;
            let without_room = self.write_each(open, named, round).await?;
            let is_without = |sent: &&Sent| {
                let mut all = without_room.iter();
                all.any(|other| other.bundle.tenant == sent.bundle.tenant)
            };
            let bare: Vec<Sent> = bundles.iter().filter(is_without).cloned().collect();
            let bare = moves.bundles(part, &bare, false)?;
            if let Some(sent) = self.write_each(open, bare, round).await?.first() {
                let what = format!("tenant {:?}", sent.bundle.tenant);
                return Err(TableError::Changed { what });
            }
        }
        Ok(())
    }

    /// Writes bundles of which none needs another one. Returns those that were refused.
    async fn write_each(
        &self,
        open: &Open,
        bundles: Vec<Sent>,
        round: &mut Round,
    ) -> Result<Vec<Sent>, TableError> {
        let (mut refused, mut parts) = (Vec::new(), vec![&bundles[..]]);
        while let Some(part) = parts.pop().filter(|part| !part.is_empty()) {
            let written = self.write(open, part, round).await?;
            let is_whole = written.left.is_empty();
            if !is_whole && part.len() > 1 {
                // Too many that wait for one another's keys.
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
                continue;
            }
            let verdicts = part.iter().zip(&written.applied.verdicts);
            let others = verdicts.filter(|(_, verdict)| !is_whole || !is_accepted(verdict));
            refused.extend(others.map(|(sent, _)| sent.clone()));
        }
        Ok(refused)
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

    pub(super) fn writing<'a>(&'a self, open: &'a Open) -> Writing<'a> {
        Writing {
            db: &self.db,
            key: &open.facts.digest_key,
            session: open.session,
        }
    }

    /// Before a session writes anything else it ends what an earlier one left in the middle.
    pub(super) async fn recover(&self, writing: &Writing<'_>) -> Result<(), TableError> {
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
}
