//! A store with what its writer knows of it: does deeds, and says what came of them in words that are the same for every
//! store. Sessions, ids of stores, clocks and sizes are each store's own.

use super::deeds::{Deed, KEY, Misclaim, Scanned, Size, Wrong, names, region, tenants};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::{Kind, Region};
use contexts::push::{
    Claim, Heartbeat, Listed, Push, ReadTenant, Refused, Release, StoreState, SyncVerdict, Synced,
    TenantsRead, Verdict,
};
use contexts::store::{Answered, Store};
use contexts::version::{Holder, SessionId, SyncId, Term, Version};
use std::collections::BTreeSet;
use system_tests::Result;

/// What came of a deed.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Granted(Told),
    Pushed(Vec<Verdict>),
    Acked,
    InStep,
    Differs(Buckets),
    Listed(Vec<Listed>),
    Told(Told),
    Refused(Refused),
}

/// What a store says of itself.
#[derive(Debug, PartialEq)]
pub struct Told {
    granted: Option<Term>,
    released: bool,
    last_synced: Option<SyncId>,
    synced_kinds: BTreeSet<Kind>,
    /// Position, beat, tenants and contexts; only if a message of the session made sure that they are of now.
    counted: Option<(Version, u64, u64, u64)>,
}

/// A store and its writer.
pub struct Side<'a, S> {
    store: &'a S,
    session: SessionId,
    number: u64,
    /// Whether no claim ended a session since the last *synced* that had not given the store back.
    is_counted: bool,
}

fn answered<T, E: std::fmt::Debug>(
    answered: Answered<T, E>,
) -> Result<std::result::Result<T, Refused>> {
    answered.map_err(|error| format!("no answer: {error:?}").into())
}

fn told(state: StoreState, is_counted: bool) -> Told {
    let counted = (state.position, state.beat, state.bundles, state.contexts);
    Told {
        granted: state.granted,
        released: state.released,
        last_synced: state.last_synced,
        synced_kinds: state.synced_kinds,
        counted: is_counted.then_some(counted),
    }
}

impl<'a, S: Store> Side<'a, S> {
    pub fn new(store: &'a S) -> Self {
        Self {
            store,
            session: SessionId(0),
            number: 0,
            is_counted: true,
        }
    }

    pub async fn does(&mut self, deed: &Deed) -> Result<Outcome> {
        match deed {
            Deed::Claim {
                epoch,
                force,
                known,
                wrong,
            } => self.claim(*epoch, (*force, *known), *wrong).await,
            Deed::Push {
                bundles,
                beat,
                wrong,
            } => {
                let push = Push {
                    region: match wrong {
                        Wrong::Region => Region::new("elsewhere")?,
                        _ => region(),
                    },
                    session: self.session(*wrong),
                    number: self.number(*wrong),
                    bundles: bundles.clone(),
                    fresh: None,
                    beat: *beat,
                };
                let pushed = answered(self.store.push(&push).await)?;
                let pushed = self.counted(*wrong, pushed);
                Ok(pushed.map_or_else(Outcome::Refused, |p| Outcome::Pushed(p.verdicts)))
            }
            Deed::Synced(scanned, wrong) => self.synced(scanned, *wrong).await,
            Deed::Heartbeat { position, wrong } => {
                let session = self.session(*wrong);
                self.heartbeat(session, *position).await
            }
            Deed::Release { wrong } => {
                let session = self.session(*wrong);
                let released = answered(self.store.release(&Release { session }).await)?;
                Ok(released.map_or_else(Outcome::Refused, |_| Outcome::Acked))
            }
            Deed::Buckets(buckets) => {
                let listed = answered(self.store.buckets(buckets).await)?;
                Ok(listed.map_or_else(Outcome::Refused, |mut listed| {
                    listed.sort_by(|a, b| a.tenant.cmp(&b.tenant));
                    Outcome::Listed(listed)
                }))
            }
            Deed::Hello => {
                let beat = self.heartbeat(self.session, None).await?;
                let state = answered(self.store.hello().await)?;
                let is_counted = self.is_counted && beat == Outcome::Acked;
                let told = |state| Outcome::Told(told(state, is_counted));
                Ok(state.map_or_else(Outcome::Refused, told))
            }
        }
    }

    fn session(&self, wrong: Wrong) -> SessionId {
        match wrong {
            Wrong::Session => SessionId(self.session.0 ^ 1),
            _ => self.session,
        }
    }

    fn number(&self, wrong: Wrong) -> u64 {
        match wrong {
            Wrong::Again => self.number,
            Wrong::Ahead => self.number + 2,
            _ => self.number + 1,
        }
    }

    /// A message that was right used its number.
    fn counted<T>(&mut self, wrong: Wrong, answer: T) -> T {
        if wrong == Wrong::Nothing {
            self.number += 1;
        }
        answer
    }

    async fn claim(
        &mut self,
        epoch: u64,
        (force, known): (bool, bool),
        wrong: Misclaim,
    ) -> Result<Outcome> {
        let state = match answered(self.store.hello().await)? {
            Ok(state) => state,
            Err(refused) => return Ok(Outcome::Refused(refused)),
        };
        let mut seen = state.seen();
        if wrong == Misclaim::Seen {
            seen.last_synced = Some(SyncId(u128::MAX));
        }
        let claim = Claim {
            region: match wrong {
                Misclaim::Region => Region::new("elsewhere")?,
                _ => region(),
            },
            term: Term {
                epoch,
                holder: Holder(u128::from(epoch) << 64 | u128::from(wrong == Misclaim::Holder)),
            },
            seen,
            digest_key: match wrong {
                Misclaim::Deployment => DigestKey([8; 32]),
                _ => KEY,
            },
            force,
            known,
        };
        let granted = answered(self.store.claim(&claim).await)?;
        self.is_counted &= state.released || granted.is_err();
        Ok(granted.map_or_else(Outcome::Refused, |granted| {
            (self.session, self.number) = (granted.session, 0);
            Outcome::Granted(told(granted.state, false))
        }))
    }

    async fn heartbeat(&self, session: SessionId, position: Option<Version>) -> Result<Outcome> {
        let heartbeat = Heartbeat {
            session,
            position,
            fresh: None,
        };
        let acked = answered(self.store.heartbeat(&heartbeat).await)?;
        Ok(acked.map_or_else(Outcome::Refused, |_| Outcome::Acked))
    }

    async fn synced(&mut self, scanned: &Scanned, wrong: Wrong) -> Result<Outcome> {
        let reading = match answered(self.store.hello().await)? {
            Ok(state) => state.reading,
            Err(refused) => return Ok(Outcome::Refused(refused)),
        };
        let synced = Synced {
            session: self.session(wrong),
            number: self.number(wrong),
            id: SyncId(scanned.id),
            kinds: scanned.kinds.clone(),
            unsure: scanned.unsure.clone(),
            root: scanned.root,
            in_flux: scanned.in_flux.clone(),
            fresh: reading,
            position: scanned.position,
            reread: scanned.reread,
        };
        let verdict = answered(self.store.synced(&synced).await)?;
        let verdict = self.counted(wrong, verdict);
        Ok(match verdict {
            Ok(SyncVerdict::InStep { .. }) => {
                self.is_counted = true;
                Outcome::InStep
            }
            Ok(SyncVerdict::Differs { buckets }) => Outcome::Differs(buckets),
            Err(refused) => Outcome::Refused(refused),
        })
    }

    /// All that the store holds.
    pub async fn all(&self, size: Size) -> Result<TenantsRead> {
        let asked = ReadTenant {
            tenants: tenants(),
            owners_of: names(size),
        };
        let mut read = answered(self.store.read(&asked).await)??;
        for tenant in &mut read.tenants {
            tenant.contexts.sort_by(|a, b| a.name().cmp(&b.name()));
            tenant.held.sort();
            tenant.held_kinds.sort();
        }
        Ok(read)
    }
}
