//! Who has the table: claims, and giving it back.
//!
//! A fence is written only over the one that was read, so of two claims at once one is refused.

use super::{Answered, Looked, Open, Table};
use crate::client::TableError;
use crate::layout::{FORMAT, Facts, Fence, Pulse};
use crate::random;
use crate::transaction::{Expect, Transaction};
use contexts::gate::GateState;
use contexts::push::{Ack, Claim, Granted, Refused, Release};
use contexts::version::{SessionId, StoreId};

impl Table {
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

    pub(super) async fn write_facts(&self, open: &Open, facts: Facts) -> Result<(), TableError> {
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
}
