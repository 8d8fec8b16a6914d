//! What the hub does with a table, as far as readers see it.

use contexts::bundle::{Bundle, Context};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::{Claim, Push, Sent, Synced};
use contexts::version::{Holder, SessionId, SyncId, Term, Version};
use contexts_dynamodb::table::Table;
use std::sync::Arc;
use system_tests::Result;
use system_tests::table::TableRegion;

const KEY: DigestKey = DigestKey([9; 32]);
/// The region.
pub const REGION: &str = "eu-west-1";

/// A writer of one table.
pub struct Hub {
    table: Table,
    session: SessionId,
    number: u64,
    n: u64,
    buckets: Buckets,
}

impl Hub {
    /// Creates the table and claims it.
    pub async fn new(region: &TableRegion) -> Result<Self> {
        region.db().create().await?;
        let table = Table::new(region.db(), Region::new(REGION)?);
        let state = table.hello().await??;
        let claim = Claim {
            region: Region::new(REGION)?,
            term: Term {
                epoch: 1,
                holder: Holder(1),
            },
            seen: state.seen(),
            digest_key: KEY,
            force: false,
            known: true,
        };
        let session = table.claim(&claim).await??.session;
        Ok(Self {
            table,
            session,
            number: 0,
            n: 0,
            buckets: Buckets::default(),
        })
    }

    /// Pushes a tenant whose keys have this value, in place of what it had.
    pub async fn push(
        &mut self,
        tenant: &str,
        before: Option<&Bundle>,
        keys: impl IntoIterator<Item = usize>,
        value: u32,
    ) -> Result<Bundle> {
        let context = |n| {
            Ok(Context {
                kind: Kind::new("item")?,
                key: Key::new(&format!("{tenant} {n}"))?,
                value: value.to_string().into(),
                expires: None,
            })
        };
        let contexts: Result<Vec<Context>> = keys.into_iter().map(context).collect();
        let bundle = Bundle::new(TenantId::new(tenant)?, contexts?, vec![], vec![])?;
        self.push_bundle(before, bundle).await
    }

    /// Pushes a bundle in place of what its tenant had.
    pub async fn push_bundle(&mut self, before: Option<&Bundle>, bundle: Bundle) -> Result<Bundle> {
        (self.number, self.n) = (self.number + 1, self.n + 1);
        let push = Push {
            region: Region::new(REGION)?,
            session: self.session,
            number: self.number,
            bundles: vec![Sent {
                version: Version {
                    epoch: 1,
                    n: self.n,
                },
                bundle: Arc::new(bundle.clone()),
            }],
            fresh: None,
            beat: None,
        };
        self.table.push(&push).await??;
        if let Some(before) = before {
            self.buckets
                .remove(&KEY, &before.tenant, &before.digest(&KEY));
        }
        if !bundle.is_empty() {
            self.buckets.add(&KEY, &bundle.tenant, &bundle.digest(&KEY));
        }
        Ok(bundle)
    }

    /// Ends a scan.
    pub async fn synced(&mut self) -> Result<()> {
        self.compared(false).await
    }

    /// Compares all items with their heads.
    pub async fn reread(&mut self) -> Result<()> {
        self.compared(true).await
    }

    async fn compared(&mut self, reread: bool) -> Result<()> {
        self.number += 1;
        let synced = Synced {
            session: self.session,
            number: self.number,
            id: SyncId(1),
            kinds: [Kind::new("item")?].into(),
            unsure: Default::default(),
            root: KEY.root(&self.buckets),
            in_flux: Vec::new(),
            fresh: self.table.hello().await??.reading,
            position: Version::default(),
            reread,
        };
        self.table.synced(&synced).await??;
        Ok(())
    }
}
