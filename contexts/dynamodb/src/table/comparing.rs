//! Compares the table with what the hub expects, and lists what it holds.
//!
//! It says "no such key" for a kind only behind a comparison that found all the same.

use super::{Answered, Open, Table};
use crate::audit::{Pace, Round};
use crate::client::TableError;
use crate::layout::{Fence, Place};
use crate::read::Reads;
use crate::units::Cause;
use contexts::name::TenantId;
use contexts::push::{Listed, SyncVerdict, Synced};
use contexts::version::SessionId;
use std::collections::BTreeSet;

impl Table {
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
        let now = self.db.clock.reached().unwrap_or(0);
        // A table of which nobody knows counts from now on.
        let ended = open.progress.audited.map_or(now, |ended| ended.min(now));
        let pace = Pace {
            ended,
            scanned: open.scanned.or(open.progress.fresh).unwrap_or(now),
            within: self.audit_within,
        };
        let is_whole = match synced.reread {
            true => writing.audit_all(round).await.map(|()| true)?,
            false => writing.audit_due(round, pace, now).await?,
        };
        let ended = if is_whole { now } else { ended };
        self.audited(open.session, ended, now);
        let key = &open.facts.digest_key;
        let in_flux: BTreeSet<&TenantId> = synced.in_flux.iter().collect();
        // Half the price, and as good if it agrees: only this session writes, so what agreed a moment ago still does. Where a
        // round ended just now, heads may have been put in doubt.
        let first = match is_whole {
            true => Reads::Strong,
            false => Reads::Weak,
        };
        let mut sums = self.db.sums(key, &in_flux, first).await?;
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

    /// Keeps when the last whole round ended, for the next move of the pulse, and when this scan did.
    fn audited(&self, session: SessionId, ended: u64, scanned: u64) {
        let mut state = self.state();
        if let Some(open) = state.open.as_mut().filter(|open| open.session == session) {
            open.progress.audited = Some(ended);
            open.scanned = Some(scanned);
        }
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
