//! Reads of the region that is on a table: a tenant with all that it has, straight from the table, strongly consistent, and
//! through a loading cache, as gateways do.

use super::Counts;
use super::claims::{Claims, Floors, Subject};
use super::reads::{NEVER, SLACK};
use super::stage::{CACHE_INDEX, ON_TABLE, PLANS, TABLE_INDEX, TENANTS};
use contexts::name::{Region, TenantId};
use contexts::push::{ReadTenant, TenantState};
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::table::Table;
use serde_json::Value;
use spoke_agent::reader::table::{TableReader, TableReaderConfig};
use spoke_agent::reader::{Answer, ContextReader, Options, Reply};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::table::TableRegion;

/// What is cached is read again after this, so that all of it is in flux.
const REFRESH_AFTER: Duration = Duration::from_secs(1);
/// What a tenant has under its own name.
const KINDS: [&str; 4] = ["counter", "twin", "account", "notice"];

/// Somebody who reads the table.
pub struct Direct {
    table: Table,
    claims: Arc<Claims>,
    counts: Arc<Counts>,
}

/// Somebody who reads through a cache.
pub struct Cached {
    reader: TableReader,
    claims: Arc<Claims>,
    counts: Arc<Counts>,
}

/// A value of a tenant, if it has one of this kind under its own name.
fn value(state: &TenantState, kind: &str) -> Result<Option<Value>> {
    let own = state.tenant.as_str();
    let mut of_kind = state.contexts.iter().filter(|c| c.kind.as_str() == kind);
    let found = of_kind.find(|context| context.key.as_str() == own);
    Ok(found
        .map(|context| serde_json::from_str(&context.value))
        .transpose()?)
}

/// Judges what a tenant shows of [`KINDS`], each with the moment before which every change must be in it.
fn judge(
    (claims, index): (&Claims, usize),
    tenant: u16,
    shown: &[(Option<Value>, Option<Instant>); 4],
    floors: &Floors,
) -> Result<()> {
    let judge = |subject, shown, fresh| claims.judge(index, subject, shown, floors, fresh);
    let [counter, twin, account, notice] = shown;
    let number = |shown: &(Option<Value>, _)| n(shown.0.as_ref(), "n");
    let numbers = (number(counter)?, number(twin)?, number(notice)?);
    let (of_counter, of_twin, of_notice) = numbers;
    if of_counter != of_twin || (of_counter.is_some() && of_notice > of_counter) {
        return Err(format!("reader {index}: half of two bundles: {shown:?}").into());
    }
    judge(Subject::Counter(tenant), of_counter, counter.1)?;
    if of_notice.is_some() {
        judge(Subject::Notice(tenant), of_notice, notice.1)?;
    }
    judge(Subject::Account(tenant), number(account)?, account.1)?;
    let (account, fresh) = account;
    let account = account.as_ref().ok_or("an account is absent")?;
    let plan = (0..PLANS).find(|p| account["plan"] == format!("p{p}"));
    let plan = plan.ok_or("an account has no plan")?;
    let subject = Subject::Plan { plan, of: tenant };
    judge(subject, n(Some(account), "plan_n")?, *fresh)
}

fn n(value: Option<&Value>, field: &str) -> Result<Option<i64>> {
    let Some(value) = value else { return Ok(None) };
    let n = value[field].as_i64().filter(|n| *n < NEVER);
    let n = n.ok_or_else(|| format!("{field} of {value} was never committed"))?;
    Ok(Some(n))
}

impl Direct {
    pub fn new(region: &TableRegion, claims: &Arc<Claims>, counts: &Arc<Counts>) -> Result<Self> {
        Ok(Self {
            table: Table::new(region.db(), Region::new(ON_TABLE)?),
            claims: claims.clone(),
            counts: counts.clone(),
        })
    }

    /// Reads a tenant, and judges all that it shows.
    async fn tenant(&self, tenant: u16) -> Result<()> {
        let (floors, asked) = (self.claims.floors(TABLE_INDEX), Instant::now());
        let age = self.table.hello().await??.age;
        let ask = ReadTenant {
            tenants: vec![TenantId::new(&format!("t{tenant}"))?],
            owners_of: Vec::new(),
        };
        let read = match self.table.read(&ask).await {
            // It was written each time that it was read.
            Err(TableError::Lost(_)) => return Ok(()),
            read => read??,
        };
        let state = read.tenants.first().ok_or("no answer")?;
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        let age = age.map(Duration::try_from_secs_f64).transpose()?;
        let fresh = age.and_then(|age| asked.checked_sub(age + SLACK));
        let version = state.version.ok_or("a tenant is not in the table")?;
        let version = i64::try_from(version.epoch << 40 | version.n)?;
        self.claims.judge(
            TABLE_INDEX,
            Subject::Version(tenant),
            Some(version),
            &floors,
            None,
        )?;
        let mut shown: [(Option<Value>, Option<Instant>); 4] = Default::default();
        for (shown, kind) in shown.iter_mut().zip(KINDS) {
            *shown = (value(state, kind)?, fresh);
        }
        judge((&self.claims, TABLE_INDEX), tenant, &shown, &floors)
    }

    /// Reads without end until it is to stop. Not as fast as it can: the emulator has more to do.
    pub async fn run(self) -> Result<()> {
        while !self.counts.is_over() {
            for tenant in 0..TENANTS {
                self.tenant(tenant).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}

/// The value of an answer; none of it if the cache cannot say, since the table does not answer or changes too fast.
fn answered(reply: &Reply) -> Result<Option<Option<Value>>> {
    match &reply.answer {
        Answer::Found(found) => Ok(Some(Some(serde_json::from_slice(found.bytes())?))),
        Answer::Absent => Ok(Some(None)),
        Answer::Unreachable(_) | Answer::NotReady => Ok(None),
        other => Err(format!("the cache says {other:?}").into()),
    }
}

impl Cached {
    pub async fn new(
        region: &TableRegion,
        claims: &Arc<Claims>,
        counts: &Arc<Counts>,
    ) -> Result<Self> {
        let mut config = TableReaderConfig::new(region.config(), Region::new(ON_TABLE)?);
        config.refresh_after = REFRESH_AFTER;
        Ok(Self {
            reader: TableReader::on(region.db(), config, Options::default()).await?,
            claims: claims.clone(),
            counts: counts.clone(),
        })
    }

    /// Reads a tenant in one batch, and judges all that it shows.
    async fn tenant(&self, tenant: u16) -> Result<()> {
        let (floors, asked) = (self.claims.floors(CACHE_INDEX), Instant::now());
        let id = format!("t{tenant}");
        let replies = self
            .reader
            .get_many(&KINDS.map(|kind| (kind, id.as_str())))
            .await;
        let mut shown: [(Option<Value>, Option<Instant>); 4] = Default::default();
        for (shown, reply) in shown.iter_mut().zip(&replies) {
            let Some(value) = answered(reply)? else {
                return Ok(());
            };
            let fresh = reply.age.and_then(|age| asked.checked_sub(age + SLACK));
            *shown = (value, fresh);
        }
        self.counts.cached.fetch_add(1, Ordering::Relaxed);
        judge((&self.claims, CACHE_INDEX), tenant, &shown, &floors)
    }

    /// Reads without end until it is to stop.
    pub async fn run(self) -> Result<()> {
        while !self.counts.is_over() {
            for tenant in 0..TENANTS {
                self.tenant(tenant).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}
