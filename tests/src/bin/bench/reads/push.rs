//! A hub that has nothing else to do: it fills an agent and changes what it has, over the push listener like any hub.

use contexts::bundle::{Bundle, Context};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::{
    Claim, Granted, Hello, Push, Pushed, Refused, Sent, StoreState, SyncVerdict, Synced, decode,
    encode,
};
use contexts::version::{Holder, SyncId, Term, Version};
use reqwest::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::sync::Arc;
use system_tests::Result;

/// The kind of all contexts.
pub const KIND: &str = "item";
/// Contexts of a tenant.
pub const PER_TENANT: u32 = 10;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 300;
/// Bundles of one push while a store is filled.
const BUNDLES: usize = 1_000;

/// The key of a context: as long as a hash of 128 bits.
pub fn key(number: u32) -> String {
    // An odd factor, so that all differ and neighbours are far apart.
    let low = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let high = low.rotate_left(32) ^ 0x5851_f42d_4c95_7f2d;
    format!("{high:016x}{low:016x}")
}

/// The value of a context: JSON of 300 bytes.
pub fn value(number: u32, state: u32) -> String {
    let head = format!("{{\"number\":{number},\"state\":{state},\"note\":\"");
    let fill = VALUE_BYTES - head.len() - 2;
    let note: String = key(number).chars().cycle().take(fill).collect();
    format!("{head}{note}\"}}")
}

/// The writer of a hub.
pub struct Pusher {
    client: Client,
    base: String,
    token: String,
    key: DigestKey,
    region: Region,
    kind: Kind,
    term: Term,
    session: contexts::version::SessionId,
    number: u64,
    n: u64,
    buckets: Buckets,
}

impl Pusher {
    /// Claims the agent at this port.
    pub async fn claim(port: u16, region: &str, token: &str, epoch: u64) -> Result<Self> {
        let client = Client::builder().no_proxy().build()?;
        let url = format!("http://127.0.0.1:{port}");
        Self::claim_by(client, &url, region, token, epoch).await
    }

    /// Claims the agent at this address by this client.
    pub async fn claim_by(
        client: Client,
        url: &str,
        region: &str,
        token: &str,
        epoch: u64,
    ) -> Result<Self> {
        let mut pusher = Self {
            client,
            base: format!("{url}/push/v1"),
            token: token.to_owned(),
            key: DigestKey([7; 32]),
            region: Region::new(region)?,
            kind: Kind::new(KIND)?,
            term: Term {
                epoch,
                holder: Holder(1),
            },
            session: contexts::version::SessionId(0),
            number: 0,
            n: 0,
            buckets: Buckets::default(),
        };
        let claim = Claim {
            region: pusher.region.clone(),
            term: pusher.term,
            seen: pusher.hello().await?.seen(),
            digest_key: pusher.key.clone(),
            force: false,
            known: true,
        };
        let granted: Granted = pusher.call("claim", &claim).await?;
        pusher.session = granted.session;
        Ok(pusher)
    }

    async fn hello(&self) -> Result<StoreState> {
        self.call("hello", &Hello).await
    }

    async fn call<T: DeserializeOwned>(&self, call: &str, message: &impl Serialize) -> Result<T> {
        let request = self.client.post(format!("{}/{call}", self.base));
        let request = request.bearer_auth(&self.token).body(encode(message)?);
        let body = request.send().await?.error_for_status()?.bytes().await?;
        let answer: std::result::Result<T, Refused> = decode(&body)?;
        answer.map_err(|refused| format!("the agent refuses {call}: {refused:?}").into())
    }

    fn bundle(&self, tenant: u32, state: u32) -> Result<Bundle> {
        let numbers = tenant * PER_TENANT..(tenant + 1) * PER_TENANT;
        let context = |number: u32| {
            Ok(Context {
                kind: self.kind.clone(),
                key: Key::new(&key(number))?,
                value: value(number, state).into(),
                expires: None,
            })
        };
        let contexts: Result<Vec<Context>> = numbers.map(context).collect();
        let name = TenantId::new(&format!("tenant-{tenant}"))?;
        Ok(Bundle::new(name, contexts?, Vec::new(), Vec::new())?)
    }

    /// Pushes these tenants in this state.
    pub async fn push(&mut self, tenants: &[u32], state: u32) -> Result<()> {
        let mut bundles = Vec::with_capacity(tenants.len());
        self.number += 1;
        for tenant in tenants {
            self.n += 1;
            let version = Version {
                epoch: self.term.epoch,
                n: self.n,
            };
            let bundle = Arc::new(self.bundle(*tenant, state)?);
            bundles.push(Sent { version, bundle });
        }
        let push = Push {
            region: self.region.clone(),
            session: self.session,
            number: self.number,
            bundles,
            fresh: None,
            beat: None,
        };
        let _: Pushed = self.call("push", &push).await?;
        Ok(())
    }

    /// Pushes all tenants of so many contexts, and says that this is all.
    pub async fn fill(&mut self, contexts: u32) -> Result<()> {
        let began = self.hello().await?;
        let tenants: Vec<u32> = (0..contexts / PER_TENANT).collect();
        for some in tenants.chunks(BUNDLES) {
            self.push(some, 0).await?;
        }
        for tenant in tenants {
            let bundle = self.bundle(tenant, 0)?;
            self.buckets
                .add(&self.key, &bundle.tenant, &bundle.digest(&self.key));
        }
        self.number += 1;
        let synced = Synced {
            session: self.session,
            number: self.number,
            id: SyncId(1),
            kinds: BTreeSet::from([self.kind.clone()]),
            unsure: BTreeSet::new(),
            root: self.key.root(&self.buckets),
            in_flux: Vec::new(),
            fresh: began.reading,
            position: Version {
                epoch: self.term.epoch,
                n: self.n,
            },
            reread: false,
        };
        match self.call("synced", &synced).await? {
            SyncVerdict::InStep { .. } => Ok(()),
            SyncVerdict::Differs { .. } => {
                Err("the agent has something else than it was sent".into())
            }
        }
    }
}
