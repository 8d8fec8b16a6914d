//! A server with a table, and what a writer of the hub does with it.

use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Credentials, Region as AwsRegion};
use contexts::digest::DigestKey;
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::{Claim, Granted, Push, Pushed, Refused, Sent, SyncVerdict, Synced};
use contexts::version::{Holder, SessionId, SyncId, Term, Version};
use contexts_dynamodb::client::{Db, TableError};
use contexts_dynamodb::table::Table;
use std::sync::atomic::{AtomicU64, Ordering};

/// A server in this process, at an address of its own.
pub struct Server {
    /// Where it is.
    pub url: String,
}

impl Server {
    pub async fn start() -> Self {
        let db = dynoxide::Database::memory().expect("opens");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("is bound"));
        let never = std::future::pending();
        tokio::spawn(dynoxide::server::serve_with_shutdown(listener, db, never));
        // Another server can be named, to see that the tests say the same of it.
        let url = std::env::var("DYNAMODB_ENDPOINT").unwrap_or(url);
        Self { url }
    }
}

/// A way to a table of this name, at this address.
pub fn db(url: &str, table: &str) -> Db {
    let builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(AwsRegion::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(url);
    Db::with(builder, table)
}

/// A new table; its name is its own.
pub async fn new_table(server: &Server) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("contexts-{}-{count}", std::process::id());
    db(&server.url, &name).create().await.expect("creates");
    name
}

pub fn region() -> Region {
    Region::new("eu-west-1").expect("a region")
}

pub fn key() -> DigestKey {
    DigestKey([7; 32])
}

pub fn tenant(text: &str) -> TenantId {
    TenantId::new(text).expect("a tenant")
}

pub fn name(kind: &str, key: &str) -> (Kind, Key) {
    (
        Kind::new(kind).expect("a kind"),
        Key::new(key).expect("a key"),
    )
}

pub fn term(epoch: u64) -> Term {
    let holder = Holder(u128::from(epoch) << 100 | 1);
    Term { epoch, holder }
}

/// A writer of the hub in its term, at one table.
pub struct Writer {
    pub table: Table,
    pub epoch: u64,
    pub session: SessionId,
    pub number: u64,
    pub n: u64,
}

impl Writer {
    /// One that has claimed the table, by force if another one has it.
    pub async fn claim(url: &str, table: &str, epoch: u64) -> Self {
        let mut this = Self {
            table: Table::new(db(url, table), region()),
            epoch,
            session: SessionId(0),
            number: 0,
            n: 0,
        };
        this.claim_again()
            .await
            .expect("answers")
            .expect("is granted");
        this
    }

    /// Claims, as after a lost answer.
    pub async fn claim_again(&mut self) -> Result<Result<Granted, Refused>, TableError> {
        let claim = self.claim_of(true).await?;
        let granted = self.table.claim(&claim).await?;
        if let Ok(granted) = &granted {
            (self.session, self.number) = (granted.session, 0);
        }
        Ok(granted)
    }

    pub async fn claim_of(&self, force: bool) -> Result<Claim, TableError> {
        let state = self.table.hello().await?.expect("is of this region");
        Ok(Claim {
            region: region(),
            term: term(self.epoch),
            seen: state.seen(),
            digest_key: key(),
            force,
            known: true,
        })
    }

    /// The next version.
    pub fn version(&mut self) -> Version {
        self.n += 1;
        Version {
            epoch: self.epoch,
            n: self.n,
        }
    }

    pub fn message(&mut self, bundles: Vec<Sent>) -> Push {
        self.number += 1;
        Push {
            region: region(),
            session: self.session,
            number: self.number,
            bundles,
            fresh: None,
            beat: None,
        }
    }

    pub async fn push(
        &mut self,
        bundles: Vec<Sent>,
    ) -> Result<Result<Pushed, Refused>, TableError> {
        let message = self.message(bundles);
        self.table.push(&message).await
    }

    /// Ends a scan: is the table what the hub believes?
    pub async fn synced(
        &mut self,
        kinds: &[&str],
        root: contexts::digest::Digest,
        reread: bool,
    ) -> Result<Result<SyncVerdict, Refused>, TableError> {
        self.number += 1;
        let state = self.table.hello().await?.expect("is of this region");
        let position = self.version();
        let synced = Synced {
            session: self.session,
            number: self.number,
            id: SyncId(u128::from(self.number)),
            kinds: kinds
                .iter()
                .map(|k| Kind::new(k).expect("a kind"))
                .collect(),
            unsure: Default::default(),
            root,
            in_flux: Vec::new(),
            fresh: state.reading,
            position,
            reread,
        };
        self.table.synced(&synced).await
    }
}

/// A client of the SDK itself, for what nobody but a person does.
pub fn raw_client(url: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(AwsRegion::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(url);
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

/// A way to a table that waits so long for the answer to one attempt.
pub fn impatient_db(url: &str, table: &str, within: std::time::Duration) -> Db {
    Db::within(raw_client(url).config().to_builder(), table, within)
}
