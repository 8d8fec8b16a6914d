//! A table is a store like any other.

use crate::client::TableError;
use crate::table::Table;
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, Listed, Push, Pushed, ReadTenant, Release, StoreState,
    SyncVerdict, Synced, TenantsRead,
};
use contexts::store::{Answered, Store};

impl Store for Table {
    type Error = TableError;

    async fn hello(&self) -> Answered<StoreState, TableError> {
        Self::hello(self).await
    }

    async fn claim(&self, claim: &Claim) -> Answered<Granted, TableError> {
        Self::claim(self, claim).await
    }

    async fn push(&self, push: &Push) -> Answered<Pushed, TableError> {
        Self::push(self, push).await
    }

    async fn synced(&self, synced: &Synced) -> Answered<SyncVerdict, TableError> {
        Self::synced(self, synced).await
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Answered<Ack, TableError> {
        Self::heartbeat(self, heartbeat).await
    }

    async fn release(&self, release: &Release) -> Answered<Ack, TableError> {
        Self::release(self, release).await
    }

    async fn buckets(&self, buckets: &[u16]) -> Answered<Vec<Listed>, TableError> {
        Self::buckets(self, buckets).await
    }

    async fn read(&self, asked: &ReadTenant) -> Answered<TenantsRead, TableError> {
        Self::read(self, asked).await
    }
}
