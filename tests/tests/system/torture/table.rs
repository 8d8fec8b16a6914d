//! Reads of the region that is on a table: a tenant with all that it has, straight from the table, strongly consistent.

use super::Counts;
use super::claims::{Claims, Subject};
use super::reads::{NEVER, SLACK};
use super::stage::{ON_TABLE, PLANS, TABLE_INDEX, TENANTS};
use contexts::name::{Region, TenantId};
use contexts::push::{ReadTenant, TenantState};
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::table::Table;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::table::TableRegion;

/// Somebody who reads the table.
pub struct TableReader {
    table: Table,
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

fn n(value: Option<&Value>, field: &str) -> Result<Option<i64>> {
    let Some(value) = value else { return Ok(None) };
    let n = value[field].as_i64().filter(|n| *n < NEVER);
    let n = n.ok_or_else(|| format!("{field} of {value} was never committed"))?;
    Ok(Some(n))
}

impl TableReader {
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
        let judge = |subject, shown| {
            self.claims
                .judge(TABLE_INDEX, subject, shown, &floors, fresh)
        };
        let version = state.version.ok_or("a tenant is not in the table")?;
        let version = i64::try_from(version.epoch << 40 | version.n)?;
        self.claims.judge(
            TABLE_INDEX,
            Subject::Version(tenant),
            Some(version),
            &floors,
            None,
        )?;
        let counter = n(value(state, "counter")?.as_ref(), "n")?;
        let twin = n(value(state, "twin")?.as_ref(), "n")?;
        let notice = n(value(state, "notice")?.as_ref(), "n")?;
        if counter != twin || (counter.is_some() && notice > counter) {
            return Err(format!("the table: half of two bundles: {state:?}").into());
        }
        judge(Subject::Counter(tenant), counter)?;
        if notice.is_some() {
            judge(Subject::Notice(tenant), notice)?;
        }
        let account = value(state, "account")?;
        judge(Subject::Account(tenant), n(account.as_ref(), "n")?)?;
        let account = account.ok_or("an account is absent")?;
        let plan = (0..PLANS).find(|p| account["plan"] == format!("p{p}"));
        let plan = plan.ok_or("an account has no plan")?;
        let subject = Subject::Plan { plan, of: tenant };
        judge(subject, n(Some(&account), "plan_n")?)
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
