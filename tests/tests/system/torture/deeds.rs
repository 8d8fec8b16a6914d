//! What the application does: plain SQL on watched tables, and what each statement claims.

use super::claims::{Claim, Claims, Subject, elsewhere};
use super::reads::NEVER;
use super::stage::{EVERYWHERE, KEYS, PLANS, REGIONS, Regions, TENANTS, is_steady, steady_plan};
use rand::Rng;
use rand::rngs::SmallRng;
use sqlx::{AssertSqlSafe, PgConnection};
use system_tests::Result;

/// Something to be done in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Raises a tenant's counter and its twin.
    Count { tenant: u16, detour: bool },
    /// The same, and says so in a notice.
    Notice { tenant: u16 },
    /// Raises all counters that nobody else is at.
    CountAll,
    /// Deletes a tenant's counter and twin, or inserts them again.
    ComeOrGo { tenant: u16, regions: Regions },
    /// Sends a tenant's counter and twin to other regions.
    Region { tenant: u16, regions: Regions },
    /// Gives a key to another tenant.
    Move { key: u16, to: u16 },
    /// Gives it to another and back.
    ThereAndBack { key: u16, to: u16 },
    /// Changes the tenants of two keys.
    Swap { a: u16, b: u16 },
    /// The first half of a move in two transactions.
    Take { key: u16 },
    /// The second.
    Give { key: u16, to: u16, n: i64 },
    /// A change of every key.
    Label,
    /// A plan that many accounts have.
    Plan { plan: u16 },
    /// An account: of another plan, unless it is steady.
    Account { tenant: u16, plan: u16 },
    /// All notices.
    Truncate,
}

impl Deed {
    /// One at random.
    pub fn random(random: &mut SmallRng) -> Self {
        let tenant = random.random_range(0..TENANTS);
        let (to, key) = (
            random.random_range(0..TENANTS),
            random.random_range(0..KEYS),
        );
        let goer = tenant / 2 * 2 + 1;
        let plan = random.random_range(0..PLANS);
        let regions = match random.random_range(0..6) {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => EVERYWHERE,
        };
        match random.random_range(0..100) {
            0..34 => Self::Count {
                tenant,
                detour: random.random_ratio(1, 5),
            },
            34..39 => Self::Notice { tenant },
            39..42 => Self::CountAll,
            42..49 => Self::ComeOrGo {
                tenant: goer,
                regions,
            },
            49..55 => Self::Region {
                tenant: goer,
                regions,
            },
            55..67 => Self::Move { key, to },
            67..71 => Self::ThereAndBack { key, to },
            71..76 => Self::Swap {
                a: key,
                b: (key + 1 + to % (KEYS - 1)) % KEYS,
            },
            76..83 => Self::Take {
                key: key / 2 * 2 + 1,
            },
            83..85 => Self::Label,
            85..92 => Self::Plan { plan },
            _ => Self::Account { tenant, plan },
        }
    }

    /// Whether it holds up so many others that it has to be over soon.
    pub fn is_in_the_way(self) -> bool {
        matches!(self, Self::CountAll | Self::Label | Self::Truncate)
    }

    /// Does it. The claims are true once the transaction is committed.
    pub async fn run(self, db: &mut PgConnection, claims: &Claims) -> Result<Vec<Claim>> {
        match self {
            Self::Count { tenant, detour } => count(db, tenant, detour, false).await,
            Self::Notice { tenant } => count(db, tenant, false, true).await,
            Self::CountAll => count_all(db).await,
            Self::ComeOrGo { tenant, regions } => come_or_go(db, claims, tenant, regions).await,
            Self::Region { tenant, regions } => region(db, claims, tenant, regions).await,
            Self::Move { key, to } => give(db, claims, key, &[to]).await,
            Self::ThereAndBack { key, to } => there_and_back(db, claims, key, to).await,
            Self::Swap { a, b } => swap(db, claims, a, b).await,
            Self::Take { key } => take(db, claims, key).await,
            Self::Give { key, to, n } => {
                let sql = "INSERT INTO keys (key, tenant, n) VALUES ($1, $2, $3) RETURNING key, n";
                let query = sqlx::query_as(sql).bind(format!("k{key}"));
                let rows = query.bind(format!("t{to}")).bind(n).fetch_all(db).await?;
                keys(claims, rows)
            }
            Self::Label => {
                let sql = "UPDATE keys SET label = 'label ' || txid_current()";
                sqlx::query(sql).execute(db).await?;
                Ok(Vec::new())
            }
            Self::Plan { plan } => raise_plan(db, plan).await,
            Self::Account { tenant, plan } => account(db, tenant, plan).await,
            Self::Truncate => {
                sqlx::query("TRUNCATE notices").execute(db).await?;
                Ok(Vec::new())
            }
        }
    }
}

/// Writes what is never committed: whoever rolls back does this first.
pub async fn spoil(db: &mut PgConnection, deed: Deed) -> Result<()> {
    let tenant = match deed {
        Deed::Count { tenant, .. } | Deed::ComeOrGo { tenant, .. } => tenant,
        _ => return Ok(()),
    };
    let sql = format!(
        "UPDATE counters SET n = n + {NEVER} WHERE tenant = 't{tenant}';
         INSERT INTO counters VALUES ('ghost of t{tenant}', {NEVER})"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await?;
    Ok(())
}

/// The next number of a tenant. Others who want one wait until this transaction ends.
async fn next(db: &mut PgConnection, tenant: u16) -> Result<i64> {
    let sql = "UPDATE tenants SET n = n + 1 WHERE id = $1 RETURNING n";
    let query = sqlx::query_scalar(sql).bind(format!("t{tenant}"));
    Ok(query.fetch_one(db).await?)
}

/// Where `regions` says that a row is.
fn set(regions: Option<&[String]>) -> Regions {
    let bit = |r: usize| match regions {
        Some(names) if !names.iter().any(|n| n == REGIONS[r]) => 0,
        _ => 1 << r,
    };
    (0..REGIONS.len()).map(bit).sum()
}

/// The other way round.
fn column(regions: Regions) -> Option<Vec<&'static str>> {
    let is_in = |r: &usize| regions & (1 << r) != 0;
    let names = (0..REGIONS.len()).filter(is_in).map(|r| REGIONS[r]);
    (regions != EVERYWHERE).then(|| names.collect())
}

async fn twin(db: &mut PgConnection, tenant: u16, n: i64) -> Result<()> {
    let sql = "UPDATE twins SET n = $2 WHERE tenant = $1";
    let query = sqlx::query(sql).bind(format!("t{tenant}")).bind(n);
    query.execute(db).await?;
    Ok(())
}

async fn count(
    db: &mut PgConnection,
    tenant: u16,
    detour: bool,
    notice: bool,
) -> Result<Vec<Claim>> {
    let n = next(db, tenant).await?;
    if detour {
        sqlx::query("SAVEPOINT detour").execute(&mut *db).await?;
        spoil(db, Deed::Count { tenant, detour }).await?;
        let sql = "ROLLBACK TO SAVEPOINT detour";
        sqlx::query(sql).execute(&mut *db).await?;
    }
    let sql = "UPDATE counters SET n = $2 WHERE tenant = $1 RETURNING regions";
    let query = sqlx::query_scalar(sql).bind(format!("t{tenant}")).bind(n);
    let regions: Option<Option<Vec<String>>> = query.fetch_optional(&mut *db).await?;
    let Some(regions) = regions else {
        return Ok(Vec::new());
    };
    if notice {
        let sql =
            "INSERT INTO notices VALUES ($1, $2) ON CONFLICT (tenant) DO UPDATE SET n = excluded.n";
        let query = sqlx::query(sql).bind(format!("t{tenant}")).bind(n);
        query.execute(&mut *db).await?;
    }
    twin(db, tenant, n).await?;
    let subject = Subject::Counter(tenant);
    Ok(vec![Claim::new(subject, n, set(regions.as_deref()))])
}

async fn count_all(db: &mut PgConnection) -> Result<Vec<Claim>> {
    let sql = "WITH free AS (SELECT id FROM tenants ORDER BY id FOR UPDATE SKIP LOCKED) \
               UPDATE tenants t SET n = t.n + 1 FROM free WHERE free.id = t.id RETURNING t.id";
    let ids: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut *db).await?;
    let sql = "UPDATE counters c SET n = t.n FROM tenants t WHERE t.id = c.tenant AND t.id = ANY ($1) \
               RETURNING c.tenant, c.n, c.regions";
    let query = sqlx::query_as(sql).bind(&ids);
    let rows: Vec<(String, i64, Option<Vec<String>>)> = query.fetch_all(&mut *db).await?;
    let sql = "UPDATE twins w SET n = t.n FROM tenants t WHERE t.id = w.tenant AND t.id = ANY ($1)";
    sqlx::query(sql).bind(&ids).execute(db).await?;
    let claim = |(tenant, n, regions): (String, i64, Option<Vec<String>>)| {
        let subject = Subject::Counter(tenant[1..].parse()?);
        Ok(Claim::new(subject, n, set(regions.as_deref())))
    };
    rows.into_iter().map(claim).collect()
}

async fn come_or_go(
    db: &mut PgConnection,
    claims: &Claims,
    tenant: u16,
    regions: Regions,
) -> Result<Vec<Claim>> {
    let (id, n, subject) = (
        format!("t{tenant}"),
        next(db, tenant).await?,
        Subject::Counter(tenant),
    );
    // The twin goes with it.
    let sql = "DELETE FROM counters WHERE tenant = $1";
    let gone = sqlx::query(sql).bind(&id).execute(&mut *db).await?;
    if gone.rows_affected() == 1 {
        claims.taking(subject, n, EVERYWHERE);
        return Ok(vec![Claim::new(subject, n, 0)]);
    }
    let sql = "INSERT INTO counters VALUES ($1, $2, $3)";
    let query = sqlx::query(sql).bind(&id).bind(n).bind(column(regions));
    query.execute(&mut *db).await?;
    let sql = "INSERT INTO twins VALUES ($1, $2)";
    sqlx::query(sql).bind(&id).bind(n).execute(db).await?;
    Ok(vec![Claim::new(subject, n, regions)])
}

async fn region(
    db: &mut PgConnection,
    claims: &Claims,
    tenant: u16,
    regions: Regions,
) -> Result<Vec<Claim>> {
    let (n, subject) = (next(db, tenant).await?, Subject::Counter(tenant));
    let sql = "UPDATE counters SET n = $2, regions = $3 WHERE tenant = $1";
    let query = sqlx::query(sql).bind(format!("t{tenant}")).bind(n);
    let moved = query.bind(column(regions)).execute(&mut *db).await?;
    if moved.rows_affected() == 0 {
        return Ok(Vec::new());
    }
    twin(db, tenant, n).await?;
    claims.taking(subject, n, elsewhere(regions));
    Ok(vec![Claim::new(subject, n, regions)])
}

fn keys(claims: &Claims, rows: Vec<(String, i64)>) -> Result<Vec<Claim>> {
    let claim = |(key, n): (String, i64)| {
        let subject = Subject::Key(key[1..].parse()?);
        // An agent may get the tenant that gives it away before the one that gets it.
        claims.taking(subject, n, EVERYWHERE);
        Ok(Claim::new(subject, n, EVERYWHERE))
    };
    rows.into_iter().map(claim).collect()
}

/// Gives a key to one tenant after the other.
async fn give(db: &mut PgConnection, claims: &Claims, key: u16, to: &[u16]) -> Result<Vec<Claim>> {
    let mut rows = Vec::new();
    for to in to {
        let sql = "UPDATE keys SET tenant = $2, n = n + 1 WHERE key = $1 RETURNING key, n";
        let query = sqlx::query_as(sql).bind(format!("k{key}"));
        rows = query.bind(format!("t{to}")).fetch_all(&mut *db).await?;
    }
    keys(claims, rows)
}

async fn there_and_back(
    db: &mut PgConnection,
    claims: &Claims,
    key: u16,
    to: u16,
) -> Result<Vec<Claim>> {
    let sql = "SELECT tenant FROM keys WHERE key = $1 FOR UPDATE";
    let query = sqlx::query_scalar(sql).bind(format!("k{key}"));
    let owner: Option<String> = query.fetch_optional(&mut *db).await?;
    match owner {
        Some(owner) => give(db, claims, key, &[to, owner[1..].parse()?]).await,
        None => Ok(Vec::new()),
    }
}

async fn swap(db: &mut PgConnection, claims: &Claims, a: u16, b: u16) -> Result<Vec<Claim>> {
    let sql = "UPDATE keys k SET tenant = o.tenant, n = k.n + 1 FROM keys o \
               WHERE (k.key, o.key) IN (($1, $2), ($2, $1)) RETURNING k.key, k.n";
    let query = sqlx::query_as(sql).bind(format!("k{a}"));
    keys(claims, query.bind(format!("k{b}")).fetch_all(db).await?)
}

async fn take(db: &mut PgConnection, claims: &Claims, key: u16) -> Result<Vec<Claim>> {
    let sql = "DELETE FROM keys WHERE key = $1 RETURNING n + 1";
    let query = sqlx::query_scalar(sql).bind(format!("k{key}"));
    let n: Option<i64> = query.fetch_optional(db).await?;
    let claim = n.map(|n| Claim::new(Subject::Key(key), n, 0));
    if let Some(claim) = claim {
        claims.taking(claim.subject, claim.n, EVERYWHERE);
    }
    Ok(claim.into_iter().collect())
}

async fn raise_plan(db: &mut PgConnection, plan: u16) -> Result<Vec<Claim>> {
    let sql = "UPDATE plans SET n = n + 1 WHERE id = $1 RETURNING n";
    let query = sqlx::query_scalar(sql).bind(format!("p{plan}"));
    let n: i64 = query.fetch_one(db).await?;
    let claim = |of| Claim {
        by_age_only: steady_plan(of) != Some(plan),
        ..Claim::new(Subject::Plan { plan, of }, n, EVERYWHERE)
    };
    let mut all: Vec<Claim> = (0..TENANTS).map(claim).collect();
    // What is visible first.
    all.sort_by_key(|c| c.by_age_only);
    Ok(all)
}

async fn account(db: &mut PgConnection, tenant: u16, plan: u16) -> Result<Vec<Claim>> {
    let plan = (!is_steady(tenant)).then(|| format!("p{plan}"));
    let sql =
        "UPDATE accounts SET plan = coalesce($2, plan), n = n + 1 WHERE tenant = $1 RETURNING n";
    let query = sqlx::query_scalar(sql).bind(format!("t{tenant}"));
    let n = query.bind(plan).fetch_one(db).await?;
    Ok(vec![Claim::new(Subject::Account(tenant), n, EVERYWHERE)])
}
