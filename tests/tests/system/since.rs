//! Very large tenants, built from what was found last and what the outbox says since: it must be what a build of the whole tenant
//! finds, whatever transactions did in between, and whatever was removed from the outbox.

use crate::world::REGIONS;
use contexts::bundle::Bundle;
use contexts::digest::Digest;
use contexts::name::{Region, TenantId};
use contexts::version::{Holder, Term};
use publisher::source::Source;
use publisher::writer::{AckRequest, BatchId, BuildRequest, BuiltBatch, Snapshot, StoreIx, What};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use std::sync::Arc;
use system_tests::Result;
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::server::{Database, Server};
use tempfile::TempDir;

/// Sessions that change their own rows, so that none waits for another.
const SESSIONS: usize = 3;
const STEPS: usize = 600;

const TABLES: &str = "CREATE TABLE items (id text PRIMARY KEY, tenant text, n bigint NOT NULL, pad text NOT NULL DEFAULT repeat('x', 40), \
        unseen bigint NOT NULL DEFAULT 0, is_gone boolean NOT NULL DEFAULT false, regions text[]); \
    CREATE INDEX ON items (tenant); \
    CREATE TABLE plans (id bigint PRIMARY KEY, tenant text NOT NULL, n bigint NOT NULL); \
    INSERT INTO items (id, tenant, n) SELECT (g % 3) || '-' || g, CASE WHEN g <= 900 THEN 'large' ELSE 'other' END, 0 FROM generate_series(1, 930) g; \
    INSERT INTO items (id, tenant, n) SELECT '9-' || g, 'large', 0 FROM generate_series(1, 20) g; \
    INSERT INTO plans SELECT g, 'large', 0 FROM generate_series(0, 2) g";

const CONTEXTS: &str = r#"
[[context]]
kind  = "item"
query = "SELECT id AS key, tenant, n, pad, regions FROM items WHERE NOT is_gone"
watch = [{ table = "items", tenant = "tenant", columns = ["n", "is_gone", "regions"], key = "id" }]

[[context]]
kind  = "plan"
query = "SELECT id::text AS key, tenant, n FROM plans"
watch = [{ table = "plans", tenant = "tenant" }]
"#;

struct Works {
    source: Source,
    term: Term,
    urls: Vec<String>,
    regions: Vec<Region>,
    tenants: Vec<TenantId>,
    /// Reads and removes rows of the outbox.
    session: PgConnection,
    database: Database,
    _agent: Agent,
    _server: Server,
    _dir: TempDir,
}

/// What a store would get: everything but how a bundle is cut, which follows its size at the last whole build.
type Content = Vec<(TenantId, Vec<(Arc<Bundle>, Digest, usize)>)>;

fn content(batch: &BuiltBatch) -> Content {
    let each = batch.tenants.iter().map(|built| {
        let bundles = built.bundles.iter();
        let bundles = bundles.map(|b| (b.bundle.clone(), b.digest, b.weight));
        (built.tenant.clone(), bundles.collect())
    });
    each.collect()
}

impl Works {
    async fn new() -> Result<Self> {
        let server = Server::any().await?;
        let database = server.database().await?;
        database.execute(TABLES).await?;
        let dir = tempfile::Builder::new().prefix("hubcast-test-").tempdir()?;
        let agent = Agent::new(dir.path(), REGIONS[0])?;
        let hub = Hub::new(dir.path(), &database.url, &[&agent], CONTEXTS)?;
        hub.run(&["migrate"]).await?.ok()?;
        let source = Source::new("url", &SecretString::from(database.url.clone()))?;
        let row = source.lease().await?.row;
        let lease = source.take_lease(&row, Holder(7), "test").await?;
        let regions = REGIONS.iter().map(|r| Region::new(r));
        let tenants = ["large", "other", "nobody"].map(TenantId::new);
        Ok(Self {
            source: source.in_term(&lease),
            term: lease.term,
            urls: vec!["http://a".into(), "http://b".into()],
            regions: regions.collect::<std::result::Result<_, _>>()?,
            tenants: tenants.into_iter().collect::<std::result::Result<_, _>>()?,
            session: database.connect().await?,
            database,
            _agent: agent,
            _server: server,
            _dir: dir,
        })
    }

    async fn work(&self, what: What) -> Result<BuiltBatch> {
        let request = BuildRequest::new(BatchId(0), what);
        Ok(self.source.build_in_term(&request, &self.regions).await?)
    }

    /// What the writer finds, which must be what there is. Whether the large tenant was built from its last build.
    async fn build(&self) -> Result<bool> {
        let built = self.work(What::Tenants(self.tenants.clone())).await?;
        let request = BuildRequest::new(BatchId(0), What::Tenants(self.tenants.clone()));
        let whole = self.source.build(&request, &self.regions).await?;
        assert_eq!(content(&built), content(&whole));
        assert_eq!(built.problems, whole.problems);
        Ok(built.contexts < whole.contexts / 2)
    }

    async fn scan(&self) -> Result<()> {
        for range in self.work(What::Bounds).await?.ranges {
            self.work(What::Range(range)).await?;
        }
        Ok(())
    }

    /// The rows of the outbox that a look finds now.
    async fn look(&mut self) -> Result<Vec<i64>> {
        let rows = self
            .session
            .fetch_all("SELECT id FROM hubcast.outbox")
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn acknowledge(&self, request: AckRequest) -> Result<()> {
        self.source
            .acknowledge(self.term, &request, &self.urls)
            .await?;
        Ok(())
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        self.session.execute(AssertSqlSafe(sql)).await?;
        Ok(())
    }
}

fn removed(ids: Vec<i64>, behind: usize) -> AckRequest {
    AckRequest {
        ids,
        all_in: None,
        make_room: false,
        mended: None,
        done_to: 0,
        behind: (0..behind).map(StoreIx).collect(),
        retries: Vec::new(),
    }
}

/// A statement that a session may run: all its rows begin with its number.
fn statement(random: &mut SmallRng, session: usize) -> String {
    let some = |n: usize| {
        format!(
            "id IN (SELECT id FROM items WHERE id LIKE '{session}-%' ORDER BY hashtextextended(id, {n}) LIMIT 1)"
        )
    };
    let one = some(random.random_range(0..1_000));
    let n = random.random_range(1..1_000_000);
    match random.random_range(0..14) {
        0..4 => format!("UPDATE items SET n = {n} WHERE {one}"),
        4 => format!("UPDATE items SET n = {n} WHERE {one} OR {}", some(n)),
        5 => format!(
            "UPDATE items SET n = {n} WHERE id IN (SELECT id FROM items WHERE id LIKE '{session}-%' ORDER BY id LIMIT 40)"
        ),
        6 => format!(
            "INSERT INTO items (id, tenant, n) VALUES ('{session}-{n}', 'large', {n}) ON CONFLICT DO NOTHING"
        ),
        7 => format!("DELETE FROM items WHERE {one}"),
        8 => format!(
            "UPDATE items SET tenant = CASE tenant WHEN 'large' THEN 'other' WHEN 'other' THEN NULL ELSE 'large' END WHERE {one}"
        ),
        9 => format!("UPDATE items SET id = '{session}-{n}-moved' WHERE {one}"),
        10 => format!("UPDATE items SET is_gone = NOT is_gone WHERE {one}"),
        11 => format!(
            "UPDATE items SET regions = CASE WHEN regions IS NULL THEN '{{{}}}'::text[] END WHERE {one}",
            REGIONS[0]
        ),
        12 => match random.random_range(0..3) {
            0 => format!("UPDATE plans SET n = {n} WHERE id = {session}"),
            1 => "SELECT hubcast.touch('large')".to_owned(),
            _ => "INSERT INTO hubcast.outbox (mark) VALUES ('all')".to_owned(),
        },
        _ => format!("SAVEPOINT s; UPDATE items SET n = {n} WHERE {one}; ROLLBACK TO s"),
    }
}

/// Would catch a change that is taken for seen: by a transaction that was open in the last build, by a row that was removed
/// meanwhile, by what a row does not name.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_from_the_last_build_is_what_the_whole_tenant_is() -> Result<()> {
    let mut works = Works::new().await?;
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let random = &mut SmallRng::seed_from_u64(seed);
    let (mut sessions, mut is_open) = (Vec::new(), [false; SESSIONS]);
    for _ in 0..SESSIONS {
        sessions.push(works.database.connect().await?);
    }
    works.scan().await?;
    let mut from_last = 0;
    for _ in 0..STEPS {
        let s = random.random_range(0..SESSIONS);
        let session = &mut sessions[s];
        if !is_open[s] {
            session.execute("BEGIN").await?;
        }
        let sql = statement(random, s);
        session.execute(AssertSqlSafe(sql)).await?;
        is_open[s] = random.random_ratio(1, 3);
        if !is_open[s] {
            let is_kept = random.random_ratio(5, 6);
            session
                .execute(if is_kept { "COMMIT" } else { "ROLLBACK" })
                .await?;
        }
        if random.random_ratio(1, 3) {
            continue;
        }
        let seen = works.look().await?;
        if random.random_ratio(1, 15) {
            // No store waits for these rows, so no build does either.
            works.acknowledge(removed(seen.clone(), 2)).await?;
        }
        from_last += usize::from(works.build().await?);
        match random.random_range(0..20) {
            0..12 => works.acknowledge(removed(seen, 1)).await?,
            // What no trigger saw is found by the next scan.
            12 => {
                // Not of rows that a transaction has locked.
                let unseen = "SET session_replication_role = replica; UPDATE items SET n = n + 1 WHERE id LIKE '9-%'";
                works.run(unseen).await?;
                works.run("RESET session_replication_role").await?;
                let seen = works.look().await?;
                works.scan().await?;
                works.acknowledge(removed(seen, 1)).await?;
            }
            13 => {
                let seen = works.look().await?;
                works.work(What::Bounds).await?;
                assert!(!works.build().await?, "no range was read yet");
                works.scan().await?;
                works.acknowledge(removed(seen, 0)).await?;
            }
            _ => {}
        }
    }
    assert!(from_last > STEPS / 8, "{from_last}");
    Ok(())
}

/// Would catch a person who doubts what is published, and gets what was remembered of it.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_whole_tenant_gets_what_no_trigger_told_of() -> Result<()> {
    let mut works = Works::new().await?;
    works.scan().await?;
    works.build().await?;
    works
        .run("SET session_replication_role = replica; UPDATE items SET n = 7 WHERE id = '1-1'")
        .await?;
    let what = What::Tenants(works.tenants.clone());
    let whole = BuildRequest {
        whole: works.tenants.iter().cloned().collect(),
        ..BuildRequest::new(BatchId(0), what)
    };
    let asked = works.source.build_in_term(&whole, &works.regions).await?;
    assert!(asked.contexts > 900, "{}", asked.contexts);
    assert!(works.build().await?, "and that is what is remembered");
    Ok(())
}

/// Would catch a last build that outlives a later one which could not be kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_before_a_build_with_something_held_is_forgotten() -> Result<()> {
    let mut works = Works::new().await?;
    works.scan().await?;
    works.build().await?;
    works.run("UPDATE items SET n = 1 WHERE id = '1-1'").await?;
    let seen = works.look().await?;
    // No column that counts.
    works
        .run("UPDATE items SET pad = repeat('x', 1000000) WHERE id = '1-4'")
        .await?;
    let whole = BuildRequest {
        whole: works.tenants.iter().cloned().collect(),
        ..BuildRequest::new(BatchId(0), What::Tenants(works.tenants.clone()))
    };
    let built = works.source.build_in_term(&whole, &works.regions).await?;
    assert!(
        built
            .tenants
            .iter()
            .any(|t| !t.bundles[0].bundle.held.is_empty())
    );
    works.acknowledge(removed(seen, 1)).await?;
    works
        .run("UPDATE items SET pad = repeat('x', 40) WHERE id = '1-4'")
        .await?;
    assert!(!works.build().await?, "there is none to build from");
    assert!(works.build().await?);
    Ok(())
}

/// One change is read beside the outbox, and nothing else of the tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_among_very_many_reads_one_context() -> Result<()> {
    let mut works = Works::new().await?;
    works.scan().await?;
    let large = || What::Tenants(vec![TenantId::new("large").expect("a tenant")]);
    assert_eq!(
        works.work(large()).await?.contexts,
        923,
        "there was none before"
    );
    assert_eq!(works.work(large()).await?.contexts, 0);
    works.run("UPDATE items SET n = 1 WHERE id = '1-1'").await?;
    assert_eq!(works.work(large()).await?.contexts, 1);
    works
        .run("UPDATE items SET unseen = 1 WHERE id = '1-1'")
        .await?;
    assert_eq!(works.work(large()).await?.contexts, 0);
    // Too many to be named.
    works.run("UPDATE items SET n = 1").await?;
    assert_eq!(works.work(large()).await?.contexts, 923);
    works.run("TRUNCATE plans").await?;
    assert_eq!(works.work(large()).await?.contexts, 920);
    works.run("DELETE FROM items WHERE id = '1-1'").await?;
    assert_eq!(works.work(large()).await?.contexts, 0);
    assert!(works.build().await?);
    Ok(())
}

/// Would catch rows of triggers that found no room: they were never there.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_for_which_there_was_no_room_is_found_by_a_whole_build() -> Result<()> {
    let mut works = Works::new().await?;
    works.scan().await?;
    works.build().await?;
    assert!(works.build().await?);
    works.run("SELECT setval('hubcast.outbox_cap', 1)").await?;
    works.run("UPDATE items SET n = 1 WHERE id = '1-1'").await?;
    works
        .run("SELECT setval('hubcast.outbox_cap', 1000000)")
        .await?;
    assert!(!works.build().await?, "something was missed");
    works.run("UPDATE items SET n = 2 WHERE id = '1-4'").await?;
    let row = works
        .session
        .fetch_one("SELECT last_value FROM hubcast.outbox_missed, pg_current_snapshot()");
    let missed: i64 = row.await?.get(0);
    let snapshot = works
        .session
        .fetch_one("SELECT pg_current_snapshot()::text")
        .await?;
    let made_up_for = AckRequest {
        mended: Some(missed),
        all_in: Snapshot::parse(snapshot.get(0)),
        ..removed(Vec::new(), 2)
    };
    works.acknowledge(made_up_for).await?;
    assert!(!works.build().await?);
    assert!(
        !works.build().await?,
        "whoever found no room may not have ended"
    );
    works.scan().await?;
    works.build().await?;
    assert!(works.build().await?);
    Ok(())
}
