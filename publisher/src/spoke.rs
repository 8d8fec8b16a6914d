//! The stores of the configuration, as the writer talks to them: one type, whether a store is an agent or a table. No
//! decisions: it sends what it is given and says what came back, or that nothing did.

mod agent;
mod table;

use crate::config::{Config, SpokeConfig, StoreConfig};
use agent::Agent;
use contexts::delta::{PushDelta, PushedDelta};
use contexts::name::Region;
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, Hello, ListBuckets, Listed, Push, Pushed, ReadTenant, Refused,
    Release, StoreState, SyncVerdict, Synced, TenantsRead,
};
use contexts_dynamodb::table::Table;
use hubcast_tls::reload::Reloading;
use std::time::Duration;

/// For questions and claims.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// For pushes: a slow link may need this long for eight mebibytes.
const PUSH_WITHIN: Duration = Duration::from_secs(60);
/// For giving a store back: whoever stops does not wait long.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing came back, and there is no telling whether the message arrived.
    #[error("{0}")]
    Lost(String),
    /// The store, or whatever is at the address, does not accept us.
    #[error("{0}")]
    Rejected(String),
    /// Whatever is at the address does not know this call, and did nothing.
    #[error("{0}")]
    Unknown(String),
}

/// What comes of a call: an answer or a refusal, or neither.
pub type Called<A> = Result<Result<A, Refused>, CallError>;

/// A store.
#[derive(Debug)]
pub struct Spoke {
    /// What the database calls it: the push address of an agent, or where a table is.
    pub url: String,
    /// Its region.
    pub region: Region,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Agent(Agent),
    Table(Box<Table>),
}

impl Spoke {
    /// All stores of a configuration. One whose certificates cannot be used is there, and cannot be reached until they can.
    pub async fn all(config: &Config) -> Vec<Self> {
        let mut clients = agent::Clients::of(&config.hub);
        let mut all = Vec::new();
        for spoke in &config.spokes {
            match &spoke.store {
                StoreConfig::Agents { agents, token, tls } => {
                    let client = clients.client(&spoke.region, tls.as_ref());
                    let agents = agents.iter();
                    all.extend(agents.map(|url| Self::agent(spoke, &client, url, token)));
                }
                StoreConfig::Table(table, limits) => all.push(Self {
                    url: table.url(),
                    region: spoke.region.clone(),
                    store: Store::Table(Box::new(
                        Table::connect(table, spoke.region.clone())
                            .await
                            .limited(limits),
                    )),
                }),
            }
        }
        all
    }

    fn agent(
        spoke: &SpokeConfig,
        client: &Reloading<reqwest::Client>,
        url: &str,
        token: &secrecy::SecretString,
    ) -> Self {
        let region = spoke.region.clone();
        Self {
            url: url.to_owned(),
            region: region.clone(),
            store: Store::Agent(Agent {
                client: client.clone(),
                url: url.to_owned(),
                region,
                token: token.clone(),
            }),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        format!("{} {}", self.region, self.url)
    }

    /// The table, if it is one.
    pub fn table(&self) -> Option<&Table> {
        match &self.store {
            Store::Agent(_) => None,
            Store::Table(table) => Some(table),
        }
    }

    /// Asks who it is.
    ///
    /// # Errors
    /// [`CallError`] if there is no answer; so it is with the calls below.
    pub async fn greet(&self) -> Called<StoreState> {
        match &self.store {
            Store::Agent(agent) => agent.call("hello", &Hello, ASK_WITHIN).await,
            Store::Table(table) => table::within(ASK_WITHIN, table.hello()).await,
        }
    }

    /// Claims it.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn claim(&self, claim: &Claim) -> Called<Granted> {
        match &self.store {
            Store::Agent(agent) => agent.call("claim", claim, ASK_WITHIN).await,
            Store::Table(table) => table::within(ASK_WITHIN, table.claim(claim)).await,
        }
    }

    /// Sends bundles.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn push(&self, push: &Push) -> Called<Pushed> {
        match &self.store {
            Store::Agent(agent) => agent.call("push", push, PUSH_WITHIN).await,
            Store::Table(table) => table::within(table::WRITE_WITHIN, table.push(push)).await,
        }
    }

    /// Sends bundles, some of them as deltas. A table takes none: its items carry the build that they are of.
    ///
    /// # Errors
    /// [`CallError::Unknown`] if the store knows no deltas.
    pub async fn push_delta(&self, push: &PushDelta) -> Called<PushedDelta> {
        match &self.store {
            Store::Agent(agent) => agent.call("delta", push, PUSH_WITHIN).await,
            Store::Table(_) => Err(CallError::Unknown("a table takes whole bundles".to_owned())),
        }
    }

    /// Ends a scan.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn synced(&self, synced: &Synced) -> Called<SyncVerdict> {
        match &self.store {
            Store::Agent(agent) => agent.call("synced", synced, PUSH_WITHIN).await,
            Store::Table(table) => table::within(table::WRITE_WITHIN, table.synced(synced)).await,
        }
    }

    /// Keeps the session alive.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Called<Ack> {
        match &self.store {
            Store::Agent(agent) => agent.call("heartbeat", heartbeat, ASK_WITHIN).await,
            Store::Table(table) => table::within(ASK_WITHIN, table.heartbeat(heartbeat)).await,
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn release(&self, release: &Release) -> Called<Ack> {
        match &self.store {
            Store::Agent(agent) => agent.call("release", release, RELEASE_WITHIN).await,
            Store::Table(table) => table::within(RELEASE_WITHIN, table.release(release)).await,
        }
    }

    /// Asks which tenants some buckets hold.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn list(&self, list: &ListBuckets) -> Called<Vec<Listed>> {
        match &self.store {
            Store::Agent(agent) => agent.call("buckets", list, PUSH_WITHIN).await,
            Store::Table(table) => table::within(PUSH_WITHIN, table.buckets(&list.buckets)).await,
        }
    }

    /// Asks for all that it holds of some tenants, and who owns some keys.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn read_from(&self, ask: &ReadTenant) -> Called<TenantsRead> {
        match &self.store {
            Store::Agent(agent) => agent.call("read", ask, PUSH_WITHIN).await,
            Store::Table(table) => table::within(PUSH_WITHIN, table.read(ask)).await,
        }
    }

    /// Asks who it is, for a person.
    ///
    /// # Errors
    /// As a line for a person; also if it serves another region.
    pub async fn hello(&self) -> Result<StoreState, String> {
        let state = flatten(self.greet().await)?;
        match state.region == self.region {
            true => Ok(state),
            false => Err(format!(
                "the agent serves region {:?}, not {:?}: the address or the region is wrong in the configuration",
                state.region, self.region
            )),
        }
    }

    /// Asks which tenants some buckets hold, for a person.
    ///
    /// # Errors
    /// As a line for a person.
    pub async fn buckets(&self, buckets: Vec<u16>) -> Result<Vec<Listed>, String> {
        flatten(self.list(&ListBuckets { buckets }).await)
    }

    /// Asks for all that it holds of some tenants, and who owns some keys.
    ///
    /// # Errors
    /// As a line for a person.
    pub async fn read(&self, ask: &ReadTenant) -> Result<TenantsRead, String> {
        flatten(self.read_from(ask).await)
    }
}

fn flatten<A>(answer: Called<A>) -> Result<A, String> {
    answer
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}
