//! What the writer does for the messages of a session that are no pushes: claim, heartbeat, *synced*, release.

use super::Writer;
use crate::clock;
use crate::random;
use crate::store::redb::StoreError;
use crate::store::redb::audit;
use crate::store::redb::changes::Touched;
use crate::store::redb::meta::Meta;
use crate::store::redb::open;
use crate::store::redb::reader::Snapshot;
use crate::store::redb::tables::Tables;
use contexts::digest::{Buckets, DigestKey};
use contexts::gate::GateState;
use contexts::name::TenantId;
use contexts::push::{Ack, Claim, Granted, Heartbeat, Refused, Release, Seen, SyncVerdict, Synced};
use contexts::version::{SessionId, Version};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Writer {
    /// Grants the store: decided by the gate, durable, and only then a session.
    pub(super) fn claim(&mut self, claim: &Claim) -> Result<Granted, Refused> {
        if !self.recover() {
            let why = StoreError::Closed.to_string();
            return Err(Refused::Storage { why });
        }
        let meta = &self.state.meta;
        let other = |key: &DigestKey| *key != claim.digest_key;
        let state = GateState {
            region: &self.region,
            seen: Seen {
                store: meta.store,
                granted: meta.granted,
                last_synced: meta.last_synced,
            },
            released: meta.released,
            other_deployment: meta.digest_key.as_ref().is_some_and(other),
        };
        let term = self.gate.claim(claim, &state)?;
        let session = random::id().map_err(|error| Refused::Storage {
            why: error.to_string(),
        })?;
        let mut granted = Meta {
            granted: Some(term),
            released: false,
            digest_key: Some(claim.digest_key.clone()),
            ..meta.clone()
        };
        if !claim.known {
            // They speak of another database, of which this one knows nothing.
            (granted.fresh, granted.position) = (None, Version::default());
        }
        self.commit_facts("grant a claim", granted)?;
        self.gate.open(SessionId(session));
        tracing::info!(epoch = term.epoch, holder = ?term.holder, "the store is granted to a writer");
        let reading = self.clock.reading();
        Ok(Granted {
            session: SessionId(session),
            state: self.state.live().to_state(reading, self.db.file_bytes()),
        })
    }

    /// Position and age move in memory; the next commit writes them.
    pub(super) fn heartbeat(&mut self, beat: &Heartbeat) -> Result<Ack, Refused> {
        self.gate.heard(beat.session)?;
        let ack = self.ack();
        let meta = &mut self.state.meta;
        meta.position = meta.position.max(beat.position.unwrap_or_default());
        meta.freshen(beat.fresh, ack.reading);
        self.publish();
        Ok(ack)
    }

    pub(super) fn release(&mut self, release: &Release) -> Result<Ack, Refused> {
        self.gate.heard(release.session)?;
        let released = Meta {
            released: true,
            ..self.state.meta.clone()
        };
        self.commit_facts("release the store", released)?;
        self.gate.end();
        tracing::info!("the store is released by its writer");
        Ok(self.ack())
    }

    /// Compares with what the hub expects; says "no such key" for the kinds from then on if it is the same.
    pub(super) fn synced(&mut self, synced: Synced) -> Result<SyncVerdict, Refused> {
        self.gate.admit(synced.session, synced.number)?;
        let Some(key) = self.state.meta.digest_key.clone() else {
            return Err(Refused::Session);
        };
        if synced.reread {
            let reread = self.reread(&key);
            reread.map_err(|error| self.fail("read all of the store", &error))?;
        }
        let in_flux: BTreeSet<&TenantId> = synced.in_flux.iter().collect();
        let buckets = self
            .without(&key, &in_flux)
            .map_err(|error| self.fail("compare with the hub", &error))?;
        if key.root(&buckets) != synced.root {
            return Ok(SyncVerdict::Differs { buckets });
        }
        let now = self.clock.reading();
        let meta = &self.state.meta;
        let as_before = synced.unsure.intersection(&meta.synced_kinds).cloned();
        let kinds = synced.kinds.iter().cloned().chain(as_before).collect();
        let mut in_step = Meta {
            last_synced: Some(synced.id),
            synced_kinds: Arc::new(kinds),
            lost: false,
            position: meta.position.max(synced.position),
            ..meta.clone()
        };
        in_step.freshen(Some(synced.fresh), now);
        self.commit_facts("record that it is in step", in_step)?;
        Ok(SyncVerdict::InStep {
            reading: self.clock.reading(),
        })
    }

    /// The sums without some tenants.
    fn without(
        &self,
        key: &DigestKey,
        tenants: &BTreeSet<&TenantId>,
    ) -> Result<Buckets, StoreError> {
        let mut buckets = self.state.buckets.clone();
        if tenants.is_empty() {
            return Ok(buckets);
        }
        let snapshot = Snapshot::take(&self.db)?;
        for tenant in tenants {
            if let Some(head) = snapshot.head(tenant)? {
                buckets.remove(key, tenant, &head.digest);
            }
        }
        Ok(buckets)
    }

    /// Audits the file and takes the sums from there.
    pub(super) fn reread(&mut self, key: &DigestKey) -> Result<(), StoreError> {
        self.outlines.clear();
        let audited = audit::run(&self.db, key)?;
        open::report(&self.db, &audited);
        let is_mended = !audited.findings.is_empty();
        let now = self.clock.reading();
        let on_disk = Meta::load(&self.db.look()?, now, clock::wall_micros())?;
        // The position in memory is ahead of the one on disk; only what the audit may have changed is taken.
        self.state.meta.synced_kinds = on_disk.synced_kinds;
        self.state.meta.lost = on_disk.lost;
        self.state.buckets = audited.buckets;
        (self.state.contexts, self.state.bundles) = (audited.contexts, audited.bundles);
        self.state.roll_up();
        if is_mended {
            self.state.commit = self.snapshot()?.end()?.commit;
            self.renew_memory();
        }
        self.publish();
        Ok(())
    }

    /// Writes all facts in a commit of their own, then makes them known.
    fn commit_facts(&mut self, doing: &str, meta: Meta) -> Result<(), Refused> {
        let committed = self.db.write().and_then(|txn| {
            let mut tables = Tables::open(&txn)?;
            meta.save_whole(&mut tables, self.clock.reading(), clock::wall_micros())?;
            drop(tables);
            txn.commit()
        });
        committed.map_err(|error| self.fail(doing, &error))?;
        self.state.meta = meta;
        self.state.roll_up();
        self.carry_on(Touched::default());
        self.show_carried();
        self.publish();
        Ok(())
    }

    fn ack(&self) -> Ack {
        Ack {
            reading: self.clock.reading(),
        }
    }
}
