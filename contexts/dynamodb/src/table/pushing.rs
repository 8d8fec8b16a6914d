//! Applies bundles: reads what a push concerns, lets the rules of all stores decide, and writes the difference.
//!
//! It never writes for a session before what an earlier one left in the middle was ended. It takes whole bundles only: each item
//! carries the build that it is of, so of a delta nobody could say which items are of the bundle that it is for, and what is
//! written is no more than what differs anyway.
//!
//! One tenant must never stop the others: what an item has no room for is refused with its bundle.

use super::{Answered, Open, Said, Table};
use crate::audit::Round;
use crate::client::TableError;
use crate::commit::Writing;
use crate::random;
use crate::sizes::{self, Refused as WithoutRoom};
use crate::units::Cause;
use crate::working::Working;
use contexts::apply::{Applied, apply};
use contexts::push::{Push, Pushed, Refused, Sent, Verdict};
use contexts::version::SessionId;

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
            let (applied, seen) = self.write(open, &push.bundles, round).await?;
            self.count(open.session, &applied);
            (verdicts, is_seen) = (applied.verdicts, seen);
        }
        let said = (None, self.named(open, push.fresh), push.beat);
        match is_seen {
            // What the pulse is to say waits for the heartbeat, which comes every second.
            true => self.learn(open.session, said),
            false => self.beat(open.session, said, None).await?,
        }
        Ok(verdicts)
    }

    /// Writes the difference that these bundles make, as far as there is room for it.
    async fn write(
        &self,
        open: &Open,
        bundles: &[Sent],
        round: &mut Round,
    ) -> Result<(Applied, bool), TableError> {
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
        let is_seen = self.writing(open).commit(&groups).await?;
        let mut sound = std::mem::take(&mut applied.verdicts).into_iter();
        let verdict = |sent: &Sent| match refused.get(&sent.bundle.tenant) {
            Some(why) => Some(Verdict::Invalid { why: why.clone() }),
            None => sound.next(),
        };
        applied.verdicts = bundles.iter().filter_map(verdict).collect();
        Ok((applied, is_seen))
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
