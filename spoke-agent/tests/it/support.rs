//! A hub as the tests play it, and an agent: in this process, or (`process`) as a process of its own.

pub mod direct;
mod process;

pub use process::{Process, Sidecar, program, program_of, program_on};

use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, Hello, ListBuckets, Listed, Push, Pushed, ReadTenant, Refused,
    Release, Sent, StoreState, SyncVerdict, Synced, TenantsRead, Verdict, decode, encode,
};
use contexts::version::{Holder, SessionId, SyncId, Term, Version};
use hubcast_tls::client::ClientFiles;
use reqwest::{Client, ClientBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Digest;
use spoke_agent::agent::{Agent, StartError};
use spoke_agent::clock::Clock;
use spoke_agent::config::authorize::Policy;
use spoke_agent::config::{Layers, ReadConfig, RunConfig};
use spoke_agent::reader::Options;
use spoke_agent::reader::embedded::Embedded;
use spoke_agent::store::redb::db::Db;
use spoke_agent::store::redb::open;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub const TOKEN: &str = "push-secret";
pub const REGION: &str = "eu-west-1";

pub fn digest_key() -> DigestKey {
    DigestKey([7; 32])
}

pub fn region() -> Region {
    Region::new(REGION).expect("a region")
}

pub fn kind(text: &str) -> Kind {
    Kind::new(text).expect("a kind")
}

pub fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

pub fn tenant(text: &str) -> TenantId {
    TenantId::new(text).expect("a tenant")
}

pub fn context(kind_: &str, key_: &str, value: &str) -> Context {
    Context {
        kind: kind(kind_),
        key: key(key_),
        value: value.into(),
        expires: None,
    }
}

pub fn held(kind_: &str, key_: &str) -> Held {
    Held {
        kind: kind(kind_),
        key: key(key_),
        why: HoldReason::Duplicate,
    }
}

pub fn held_kind(kind_: &str) -> HeldKind {
    HeldKind {
        kind: kind(kind_),
        why: HoldReason::CannotBuild {
            why: "division by zero".into(),
        },
    }
}

pub fn bundle(tenant_: &str, contexts: Vec<Context>) -> Bundle {
    Bundle::new(tenant(tenant_), contexts, vec![], vec![]).expect("a bundle")
}

pub fn version(epoch: u64, n: u64) -> Version {
    Version { epoch, n }
}

pub fn client() -> Client {
    builder().build().expect("a client")
}

fn builder() -> ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy()
}

/// The writer of a hub, in a session or before one.
pub struct Hub {
    client: Client,
    base: String,
    pub term: Term,
    pub session: SessionId,
    pub number: u64,
    pub n: u64,
}

impl Hub {
    pub fn new(address: SocketAddr, epoch: u64) -> Self {
        Self {
            client: client(),
            base: format!("http://{address}/push/v1"),
            term: Term {
                epoch,
                holder: Holder(u128::from(epoch)),
            },
            session: SessionId(0),
            number: 0,
            n: 0,
        }
    }

    pub async fn post(&self, call: &str, token: &str, body: Vec<u8>) -> reqwest::Result<Response> {
        let url = format!("{}/{call}", self.base);
        self.client
            .post(url)
            .bearer_auth(token)
            .body(body)
            .send()
            .await
    }

    pub async fn call<T: DeserializeOwned>(
        &self,
        call: &str,
        message: &impl Serialize,
    ) -> Result<T, Refused> {
        let body = encode(message).expect("encodes");
        let response = self.post(call, TOKEN, body).await.expect("an answer");
        assert_eq!(response.status(), 200, "{call}");
        decode::<Result<T, Refused>>(&response.bytes().await.expect("a body")).expect("decodes")
    }

    pub async fn hello(&self) -> StoreState {
        self.call("hello", &Hello)
            .await
            .expect("hello is never refused")
    }

    pub async fn claim(&mut self) -> Result<StoreState, Refused> {
        self.claim_as(true).await
    }

    /// A claim whose database knows the writer that the store obeyed, or takes it all the same.
    pub async fn claim_as(&mut self, known: bool) -> Result<StoreState, Refused> {
        let claim = Claim {
            region: region(),
            term: self.term,
            seen: self.hello().await.seen(),
            digest_key: digest_key(),
            force: !known,
            known,
        };
        let granted: Granted = self.call("claim", &claim).await?;
        (self.session, self.number) = (granted.session, 0);
        Ok(granted.state)
    }

    pub fn next_push(&mut self, bundles: Vec<Bundle>) -> Push {
        self.number += 1;
        self.n += 1;
        let version = version(self.term.epoch, self.n);
        let sent = |bundle| Sent {
            version,
            bundle: Arc::new(bundle),
        };
        Push {
            region: region(),
            session: self.session,
            number: self.number,
            bundles: bundles.into_iter().map(sent).collect(),
            fresh: None,
            beat: None,
        }
    }

    pub async fn push(&mut self, bundles: Vec<Bundle>) -> Vec<Verdict> {
        let push = self.next_push(bundles);
        let pushed: Pushed = self.call("push", &push).await.expect("pushed");
        pushed.verdicts
    }

    pub fn next_synced(&mut self, kinds: &[&str], buckets: &Buckets, fresh: &StoreState) -> Synced {
        self.number += 1;
        Synced {
            session: self.session,
            number: self.number,
            id: SyncId(u128::from(self.number) << 64 | u128::from(self.term.epoch)),
            kinds: kinds.iter().map(|text| kind(text)).collect::<BTreeSet<_>>(),
            unsure: BTreeSet::new(),
            root: digest_key().root(buckets),
            in_flux: Vec::new(),
            fresh: fresh.reading,
            position: version(self.term.epoch, self.n),
            reread: false,
        }
    }

    /// A *synced* for exactly these bundles.
    pub async fn synced(&mut self, kinds: &[&str], bundles: &[&Bundle]) -> SyncVerdict {
        let began = self.hello().await;
        let synced = self.next_synced(kinds, &buckets_of(bundles), &began);
        self.call("synced", &synced).await.expect("not refused")
    }

    pub async fn heartbeat(&self, position: Option<Version>) -> Result<Ack, Refused> {
        let session = self.session;
        self.call(
            "heartbeat",
            &Heartbeat {
                session,
                position,
                fresh: None,
            },
        )
        .await
    }

    pub async fn release(&self) -> Result<Ack, Refused> {
        self.call(
            "release",
            &Release {
                session: self.session,
            },
        )
        .await
    }

    pub async fn list(&self) -> Vec<Listed> {
        let buckets = (0..1024).collect();
        self.call("buckets", &ListBuckets { buckets })
            .await
            .expect("listed")
    }

    pub async fn read(&self, tenants: &[&str], owners_of: &[(&str, &str)]) -> TenantsRead {
        let asked = ReadTenant {
            tenants: tenants.iter().map(|text| tenant(text)).collect(),
            owners_of: owners_of.iter().map(|(k, n)| (kind(k), key(n))).collect(),
        };
        self.call("read", &asked).await.expect("read")
    }
}

pub fn buckets_of(bundles: &[&Bundle]) -> Buckets {
    let mut buckets = Buckets::default();
    for bundle in bundles.iter().filter(|bundle| !bundle.is_empty()) {
        buckets.add(&digest_key(), &bundle.tenant, &bundle.digest(&digest_key()));
    }
    buckets
}

/// An agent in this process, with a directory of its own.
pub struct Spoke {
    pub dir: Arc<TempDir>,
    agent: Agent,
}

pub fn config(dir: &Path) -> RunConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    RunConfig {
        region: region(),
        data: dir.join("store.redb"),
        push_listen: any,
        push_token: TOKEN.to_owned().into(),
        push_tls: None,
        read: ReadConfig {
            listen: Some(any),
            socket: Some(dir.join("read.sock")),
            token: None,
            tls: None,
        },
        authorize: Vec::new(),
        peers: Vec::new(),
        peers_tls: ClientFiles::default(),
        memory_bytes: usize::MAX,
        cache_bytes: 8 << 20,
    }
}

impl Spoke {
    pub async fn start() -> Self {
        let dir = Arc::new(TempDir::new().expect("a directory"));
        Self::start_in(dir).await.expect("starts")
    }

    pub async fn start_in(dir: Arc<TempDir>) -> Result<Self, StartError> {
        let config = config(dir.path());
        Self::start_with(dir, config).await
    }

    pub async fn start_with(dir: Arc<TempDir>, config: RunConfig) -> Result<Self, StartError> {
        let agent = Agent::start(config).await?;
        Ok(Self { dir, agent })
    }

    pub async fn stop(self) -> Arc<TempDir> {
        self.agent.stop().await;
        self.dir
    }

    pub async fn restart(self) -> Self {
        let dir = self.stop().await;
        Self::start_in(dir).await.expect("starts again")
    }

    pub fn hub(&self, epoch: u64) -> Hub {
        Hub::new(self.agent.push_addr, epoch)
    }

    pub fn push_addr(&self) -> SocketAddr {
        self.agent.push_addr
    }

    /// Reads it as a gateway in whose process it runs.
    pub fn reader(&self, options: Options) -> Embedded {
        self.agent.reader(options)
    }

    /// The writer that goes on after a restart of the agent.
    pub fn hub_after(&self, before: &Hub) -> Hub {
        let (term, n) = (before.term, before.n);
        Hub {
            term,
            n,
            ..self.hub(term.epoch)
        }
    }

    pub fn url(&self, path: &str) -> String {
        let address = self.agent.read_addr.expect("a read listener");
        format!("http://{address}{path}")
    }

    pub async fn get(&self, path: &str) -> Response {
        client()
            .get(self.url(path))
            .send()
            .await
            .expect("an answer")
    }

    /// Status and body of one context.
    pub async fn look_up(&self, kind: &str, key: &str) -> (u16, String) {
        status_and_body(self.get(&format!("/v1/contexts/{kind}/{key}")).await).await
    }
}

pub async fn status_and_body(response: Response) -> (u16, String) {
    (
        response.status().as_u16(),
        response.text().await.expect("a body"),
    )
}

/// Opens the file of a stopped agent and changes it behind the agent's back.
pub fn tamper(dir: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(dir.join("store.redb")).expect("opens");
    let txn = database.begin_write().expect("begins");
    change(&txn);
    txn.commit().expect("commits");
}

/// The store file without an agent.
pub fn open_store(dir: &Path) -> (Db, open::Checked) {
    let db = opened_store(dir).0;
    let checked = open::check(&db, &region(), &Clock::new()).expect("can be checked");
    (db, checked)
}

/// The same, before its rows are checked.
pub fn opened_store(dir: &Path) -> (Db, open::Opened) {
    let path = dir.join("store.redb");
    open::open(&path, &region(), 8 << 20, &Clock::new()).expect("opens")
}

/// A file in a directory of its own.
pub fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// The policies of a file that has nothing else.
pub fn policies(text: &str) -> Vec<Policy> {
    let dir = TempDir::new().expect("a directory");
    let path = file(dir.path(), "agent.toml", text);
    let layers = Layers::read(Some(&path), vec![], BTreeMap::new()).expect("good");
    layers.policies().to_vec()
}

/// The SHA-256 of a secret as a key has it.
pub fn sha256(secret: &str) -> String {
    let bytes = sha2::Sha256::digest(secret);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
