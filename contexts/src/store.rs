//! What every store is to the hub, whatever it keeps its contexts in: the operations of the push protocol, and what they
//! promise. `tests/tests/conformance` asks the same of all of them.
//!
//! Every store promises:
//! * **Claims** are decided by [`crate::gate`]. A grant is durable before it is answered; it opens a session, and whatever
//!   names another one is refused.
//! * **Pushes** are decided by [`crate::apply`]. A bundle is as it was or as it is to be, for whoever reads, and durable
//!   before the answer; what is to leave is gone. Of a push that is not answered nobody knows whether it was applied,
//!   but the next claim ends it: what is read in that session is what stays.
//! * **Tenants that exchange a key** within a push are applied together: nobody sees the key of both or of none.
//! * ***Synced*** compares what is stored with what the hub expects, and changes nothing if it differs.
//! * **Questions** ([`Store::hello`], [`Store::buckets`], [`Store::read`]) need no session. A tenant that is read is of one
//!   state. Counts, position and beat are at least those of the last heartbeat; counts only from the next *synced* on where a
//!   claim ended a session that had not given the store back.
//!
//! Only redb promises, and nobody may rely on it:
//! * *One commit for all bundles of a push.* A table writes tenants that have nothing to do with each other one after the
//!   other.
//! * *Damage is found at once.* An agent checks all records when it opens its file, and its digests are those of what is
//!   on disk. A table compares its items in rounds, within a day, or when *synced* asks for it.
//! * *Room.* A table has none for values over 400 KB, nor for held names of a tenant over that: such a bundle is invalid
//!   there. Nor has it for more than some hundred tenants that exchange keys: those are applied one by one, and a key on
//!   its way is held for a moment.
//!
//! What an implementation must never do: decide for itself what `gate` and `apply` decide.

pub mod model;

use crate::push::{
    Ack, Claim, Granted, Heartbeat, Listed, Push, Pushed, ReadTenant, Refused, Release, StoreState,
    SyncVerdict, Synced, TenantsRead,
};
use std::future::Future;

/// An answer, or a refusal; no answer is an error.
pub type Answered<T, E> = Result<Result<T, Refused>, E>;

/// A store, as the hub's writer sees it.
pub trait Store {
    /// Why there is no answer.
    type Error: std::fmt::Debug;

    /// Who it is and whom it obeys.
    fn hello(&self) -> impl Future<Output = Answered<StoreState, Self::Error>> + Send;

    /// Claims it.
    fn claim(&self, claim: &Claim) -> impl Future<Output = Answered<Granted, Self::Error>> + Send;

    /// Applies bundles.
    fn push(&self, push: &Push) -> impl Future<Output = Answered<Pushed, Self::Error>> + Send;

    /// Ends a scan.
    fn synced(
        &self,
        synced: &Synced,
    ) -> impl Future<Output = Answered<SyncVerdict, Self::Error>> + Send;

    /// Keeps the session alive.
    fn heartbeat(
        &self,
        heartbeat: &Heartbeat,
    ) -> impl Future<Output = Answered<Ack, Self::Error>> + Send;

    /// Gives it back.
    fn release(&self, release: &Release)
    -> impl Future<Output = Answered<Ack, Self::Error>> + Send;

    /// The tenants of some buckets.
    fn buckets(
        &self,
        buckets: &[u16],
    ) -> impl Future<Output = Answered<Vec<Listed>, Self::Error>> + Send;

    /// All that it holds of some tenants, and who owns some keys.
    fn read(
        &self,
        asked: &ReadTenant,
    ) -> impl Future<Output = Answered<TenantsRead, Self::Error>> + Send;
}
