//! A hub that has nothing else to do: it fills a table and changes what it has, by the operations that the publisher uses.

use crate::reads::push::{KIND, PER_TENANT, key, value};
use contexts::bundle::{Bundle, Context};
use contexts::digest::{Buckets, DigestKey};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts::push::{Claim, Push, Sent, SyncVerdict, Synced, Verdict};
use contexts::version::{Holder, SessionId, SyncId, Term, Version};
use contexts_dynamodb::client::Limits;
use contexts_dynamodb::table::Table;
use std::sync::Arc;
use std::time::Duration;
use system_tests::Result;
use system_tests::table::TableRegion;

/// Bundles of one push while the table is filled.
const BUNDLES: usize = 200;
const KEY: DigestKey = DigestKey([7; 32]);

/// The writer of a hub, at one table.
pub struct Writer {
    table: Table,
    region: Region,
    epoch: u64,
    session: SessionId,
    number: u64,
    n: u64,
    buckets: Buckets,
    /// The bundle of each tenant as it was sent last.
    sent: Vec<Option<Bundle>>,
}

/// A tenant as it is to be: which, the state of its first context, and how many keys more than usual it has.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// Which.
    pub tenant: u32,
    /// The state of its first context.
    pub state: u32,
    /// Keys more than usual.
    pub more: u32,
    /// How often each value is repeated: it is an array then.
    pub times: usize,
}

impl State {
    /// As usual, with its first context in this state.
    pub fn of(tenant: u32, state: u32) -> Self {
        Self {
            tenant,
            state,
            more: 0,
            times: 1,
        }
    }

    fn bundle(self) -> Result<Bundle> {
        let first = self.tenant * PER_TENANT;
        let numbers =
            (first..first + PER_TENANT).chain((0..self.more).map(|n| 1_000_000_000 + first + n));
        let context = |number: u32| {
            let state = if number == first { self.state } else { 0 };
            let value = match self.times {
                1 => value(number, state),
                times => format!("[{}]", vec![value(number, state); times].join(",")),
            };
            Ok(Context {
                kind: Kind::new(KIND)?,
                key: Key::new(&key(number))?,
                value: value.into(),
                expires: None,
            })
        };
        let contexts: Result<Vec<Context>> = numbers.map(context).collect();
        let name = TenantId::new(&format!("tenant-{}", self.tenant))?;
        Ok(Bundle::new(name, contexts?, Vec::new(), Vec::new())?)
    }
}

impl Writer {
    /// Claims a new table. All items are compared within this time.
    pub async fn claim(on: &TableRegion, audit_within: Duration) -> Result<Self> {
        Self::claim_as(on, audit_within, 1).await
    }

    async fn claim_as(on: &TableRegion, audit_within: Duration, epoch: u64) -> Result<Self> {
        on.db().create().await?;
        let region = Region::new(&on.region)?;
        let limits = Limits {
            audit_within,
            ..Limits::default()
        };
        let table = Table::new(on.db(), region.clone()).limited(&limits);
        let claim = Claim {
            region: region.clone(),
            term: Term {
                epoch,
                holder: Holder(1),
            },
            seen: table.hello().await??.seen(),
            digest_key: KEY,
            force: epoch > 1,
            known: true,
        };
        let session = table.claim(&claim).await??.session;
        Ok(Self {
            table,
            region,
            epoch,
            session,
            number: 0,
            n: 0,
            buckets: Buckets::default(),
            sent: Vec::new(),
        })
    }

    /// A writer of the next epoch, on what this one has sent, for which items are compared within a day.
    pub async fn successor(&self, on: &TableRegion) -> Result<Self> {
        let mut next = Self::claim_as(on, Limits::default().audit_within, self.epoch + 1).await?;
        (next.buckets, next.sent) = (self.buckets.clone(), self.sent.clone());
        next.n = self.n;
        Ok(next)
    }

    /// Units used up to now: read, written.
    pub fn units(&self) -> (f64, f64) {
        let used = self.table.db().units.used();
        (used.read, used.write)
    }

    /// The first context of a tenant, as text: what a plain write of it would have.
    pub fn first(state: State) -> Result<(String, String)> {
        let bundle = state.bundle()?;
        let first = key(state.tenant * PER_TENANT);
        let found = bundle.contexts.iter().find(|c| c.key.as_str() == first);
        let found = found.ok_or("a tenant without its first context")?;
        Ok((first, found.value.to_string()))
    }

    /// Sends these tenants in one message.
    pub async fn push(&mut self, states: &[State]) -> Result<()> {
        self.number += 1;
        let mut bundles = Vec::with_capacity(states.len());
        for state in states {
            self.n += 1;
            let version = Version {
                epoch: self.epoch,
                n: self.n,
            };
            let bundle = Arc::new(state.bundle()?);
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
        let pushed = self.table.push(&push).await??;
        if let Some(other) = pushed.verdicts.iter().find(|v| **v != Verdict::Applied) {
            return Err(format!("a bundle was not applied: {other:?}").into());
        }
        for (state, sent) in states.iter().zip(push.bundles) {
            let (at, bundle) = (state.tenant as usize, &sent.bundle);
            self.sent.resize(self.sent.len().max(at + 1), None);
            if let Some(before) = &self.sent[at] {
                let digest = before.digest(&KEY);
                self.buckets.remove(&KEY, &before.tenant, &digest);
            }
            self.buckets.add(&KEY, &bundle.tenant, &bundle.digest(&KEY));
            self.sent[at] = Some(Bundle::clone(bundle));
        }
        Ok(())
    }

    /// Sends all tenants of so many contexts.
    pub async fn fill(&mut self, contexts: u32) -> Result<()> {
        let all: Vec<State> = (0..contexts / PER_TENANT)
            .map(|t| State::of(t, 0))
            .collect();
        for some in all.chunks(BUNDLES) {
            crate::clock::go_on()?;
            self.push(some).await?;
        }
        Ok(())
    }

    /// The end of a scan that found nothing to change.
    pub async fn scanned(&mut self) -> Result<()> {
        self.number += 1;
        let synced = Synced {
            session: self.session,
            number: self.number,
            id: SyncId(u128::from(self.number)),
            kinds: [Kind::new(KIND)?].into(),
            unsure: Default::default(),
            root: KEY.root(&self.buckets),
            in_flux: Vec::new(),
            fresh: self.table.hello().await??.reading,
            position: Version {
                epoch: self.epoch,
                n: self.n,
            },
            reread: false,
        };
        match self.table.synced(&synced).await?? {
            SyncVerdict::InStep { .. } => Ok(()),
            SyncVerdict::Differs { .. } => {
                Err("the table has something else than it was sent".into())
            }
        }
    }
}
