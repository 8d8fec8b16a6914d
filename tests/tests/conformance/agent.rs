//! An agent's store, reached as the hub reaches it: the process, over its push listener.

use contexts::push::{
    Ack, Claim, Granted, Heartbeat, Hello, ListBuckets, Listed, Push, Pushed, ReadTenant, Release,
    StoreState, SyncVerdict, Synced, TenantsRead, decode, encode,
};
use contexts::store::{Answered, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use system_tests::Result;
use system_tests::region::Agent;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A running agent.
pub struct AgentStore {
    agent: Agent,
    client: reqwest::Client,
}

impl AgentStore {
    pub async fn start(dir: &Path, region: &str) -> Result<Self> {
        let mut agent = Agent::new(dir, region)?;
        agent.start().await?;
        let client = agent.client().clone();
        Ok(Self { agent, client })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        call: &str,
        message: &(impl Serialize + Sync),
    ) -> Answered<T, Failed> {
        let url = format!("{}/push/v1/{call}", self.agent.push_url());
        let request = self.client.post(url).bearer_auth(&self.agent.token);
        let answer = request.body(encode(message)?).send().await?;
        let body = answer.error_for_status()?.bytes().await?;
        Ok(decode(&body)?)
    }
}

impl Store for AgentStore {
    type Error = Failed;

    async fn hello(&self) -> Answered<StoreState, Failed> {
        self.call("hello", &Hello).await
    }

    async fn claim(&self, claim: &Claim) -> Answered<Granted, Failed> {
        self.call("claim", claim).await
    }

    async fn push(&self, push: &Push) -> Answered<Pushed, Failed> {
        self.call("push", push).await
    }

    async fn synced(&self, synced: &Synced) -> Answered<SyncVerdict, Failed> {
        self.call("synced", synced).await
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Answered<Ack, Failed> {
        self.call("heartbeat", heartbeat).await
    }

    async fn release(&self, release: &Release) -> Answered<Ack, Failed> {
        self.call("release", release).await
    }

    async fn buckets(&self, buckets: &[u16]) -> Answered<Vec<Listed>, Failed> {
        let buckets = buckets.to_vec();
        self.call("buckets", &ListBuckets { buckets }).await
    }

    async fn read(&self, asked: &ReadTenant) -> Answered<TenantsRead, Failed> {
        self.call("read", asked).await
    }
}
