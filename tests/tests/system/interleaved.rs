//! Transactions that begin, write and commit in unlucky orders. No scan helps: only triggers do.

use crate::kill_points::number;
use crate::order::{Watch, close_gate, gated_world, open_gate, somebody_waits};
use crate::receipts::{arrives, commit, token};
use crate::truth::Kind;
use crate::world::{HEALS_WITHIN, World, scans};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use std::time::Duration;
use system_tests::server::{Database, Server};
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

fn set(tenant: &str, n: i64) -> String {
    format!("UPDATE counters SET n = {n} WHERE tenant = '{tenant}'")
}

/// Begins a transaction, runs a statement in it, and returns it open, with its token.
async fn begin(database: &Database, sql: &str) -> Result<(PgConnection, String)> {
    let mut connection = database.connect().await?;
    connection.execute("BEGIN").await?;
    connection.execute(AssertSqlSafe(sql)).await?;
    let token = token(&mut connection).await?;
    Ok((connection, token))
}

/// Every change that was seen is acknowledged.
async fn outbox_is_empty(database: &Database) -> Result<()> {
    let mut connection = database.connect().await?;
    let sql = "SELECT count(*) FROM hubcast.outbox WHERE mark IS NULL";
    let deadline = tokio::time::Instant::now() + HEALS_WITHIN;
    loop {
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        if left == 0 {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{left} changes are not acknowledged").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Would catch a scan whose snapshot speaks for a tenant that changed since, and receipts that wait for a scan.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_commits_while_a_scan_builds_its_tenant_is_not_lost() -> Result<()> {
    let mut world = gated_world().await?;
    world.runs().await?;
    let watch = Watch::on(&world, "t1");
    let mut gate = world.database.connect().await?;
    close_gate(&mut gate).await?;
    let other = world.another_hub()?;
    let scan = tokio::spawn(async move { other.run(&["scan", "--json"]).await });
    somebody_waits(&world).await?;

    // The snapshot of the scan is taken, and old from here on.
    let mut connection = world.database.connect().await?;
    let passed = commit(&mut connection, &set("t1", 2)).await?;
    arrives(&world.hub, &passed, "").await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(2));
    let waits = commit(&mut connection, &set("gate", 2)).await?;
    let asked = format!("/v1/visible?token={waits}&timeout=300ms");
    assert_eq!(world.hub.get(&asked).await?.0, 504);
    open_gate(&mut gate).await?;
    arrives(&world.hub, &waits, "").await?;
    assert_eq!(number(&world.agents[0], "gate").await?, Some(2));
    let summary = scan.await??.ok()?.json()?;
    for store in summary["stores"].as_array().into_iter().flatten() {
        assert_eq!(
            store["repaired"], 0,
            "it went by its old snapshot: {summary}"
        );
    }
    world.is_true().await?;
    watch.end().await?;
    world.hub.stop().await
}

/// Would catch a look that goes on after the highest id that it saw: rows with lower ones commit later.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_commit_out_of_the_order_of_their_rows_are_all_seen() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 30).await?;
    world.runs().await?;
    let before = scans(&world.hub).await?;
    let mut open = Vec::new();
    for i in 1..=8 {
        open.push(begin(&world.database, &set(&format!("t{i}"), 2)).await?);
    }
    // What is rolled back to a savepoint is not there, and hides nothing else of its transaction.
    let back = "SAVEPOINT a; UPDATE counters SET n = 9 WHERE tenant = 't9'; ROLLBACK TO a; \
                UPDATE counters SET n = 2 WHERE tenant = 't10'";
    sqlx::raw_sql(back).execute(&mut open[7].0).await?;

    // Others pass by in large numbers and are acknowledged, so that whoever counts by ids is far ahead.
    let mut connection = world.database.connect().await?;
    let mut last = String::new();
    for n in 2..60 {
        last = commit(&mut connection, &set(&format!("t{}", 11 + n % 10), n)).await?;
    }
    arrives(&world.hub, &last, "").await?;
    outbox_is_empty(&world.database).await?;
    for (i, (mut transaction, token)) in open.into_iter().enumerate().rev() {
        assert_eq!(
            number(&world.agents[0], &format!("t{}", i + 1)).await?,
            Some(1)
        );
        transaction.execute("COMMIT").await?;
        arrives(&world.hub, &token, "").await?;
        commit(&mut connection, &set("t30", i as i64)).await?;
    }
    outbox_is_empty(&world.database).await?;
    world.is_true().await?;
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    world.hub.stop().await
}

/// Would catch a scan that counts as the truth of transactions which were open while it read.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_open_throughout_a_scan_is_seen_when_it_commits() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    // One is older than the publisher itself.
    let (mut older, first) = begin(&world.database, &set("t1", 2)).await?;
    world.runs().await?;
    let (mut newer, second) = begin(&world.database, &set("t2", 2)).await?;
    let mut connection = world.database.connect().await?;
    let other = commit(&mut connection, &set("t3", 2)).await?;
    arrives(&world.hub, &other, "").await?;
    world.scan().await?;
    let before = scans(&world.hub).await?;
    // What is not committed yet makes nobody older.
    for agent in &world.agents {
        until("a young answer", HEALS_WITHIN, || async {
            crate::alone::age(agent).await.filter(|age| *age < 3.0)
        })
        .await?;
        assert_eq!(number(agent, "t1").await?, Some(1));
    }
    for (transaction, token) in [(&mut newer, second), (&mut older, first)] {
        transaction.execute("COMMIT").await?;
        arrives(&world.hub, &token, "").await?;
    }
    world.is_true().await?;
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    world.hub.stop().await
}

const PLANS: &str = "
CREATE TABLE plans (id text PRIMARY KEY, quota bigint NOT NULL);
CREATE TABLE tenants (id text PRIMARY KEY, plan text NOT NULL REFERENCES plans);
INSERT INTO plans VALUES ('free', 1), ('pro', 10);
INSERT INTO tenants SELECT 't' || g, 'free' FROM generate_series(1, 20) AS g;
INSERT INTO tenants SELECT 'p' || g, 'pro' FROM generate_series(1, 20) AS g";

const PLAN_CONTEXTS: &str = r#"
[[context]]
kind  = "quota"
query = "SELECT t.id AS key, t.id AS tenant, p.quota FROM tenants t JOIN plans p ON p.id = t.plan"
watch = [
  { table = "tenants", tenant = "id" },
  { table = "plans", tenants = "SELECT t.id FROM tenants t JOIN changed c ON t.plan = c.id" },
]
"#;

const PLAN_TRUTH: &[Kind] = &[Kind {
    name: "quota",
    sql: "SELECT t.id, t.id, jsonb_build_object('quota', p.quota)::text FROM tenants t JOIN plans p ON p.id = t.plan \
          WHERE $1 <> ''",
}];

async fn with_plans() -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(PLANS).await?;
    World::new(server, database, &REGIONS, PLAN_CONTEXTS, PLAN_TRUTH).await
}

/// The quota that a tenant has in each region.
async fn quotas(world: &World, tenant: &str) -> Result<Vec<i64>> {
    let mut found = Vec::new();
    for agent in &world.agents {
        let (_, body) = agent.get("quota", tenant).await?;
        let value: serde_json::Value = serde_json::from_str(&body)?;
        found.extend(value["quota"].as_i64());
    }
    Ok(found)
}

/// Would catch a `tenants` query that runs in the trigger: neither transaction sees what the other is about to commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_and_a_tenant_that_is_put_on_it_at_the_same_time_both_arrive() -> Result<()> {
    let mut world = with_plans().await?;
    world.runs().await?;
    let before = scans(&world.hub).await?;
    for (n, plan_first) in [(1, true), (2, false)] {
        let quota = 10 + n;
        let plan = format!("UPDATE plans SET quota = {quota} WHERE id = 'pro'");
        let plan = begin(&world.database, &plan).await?;
        let tenant = format!("UPDATE tenants SET plan = 'pro' WHERE id = 't{n}'");
        let tenant = begin(&world.database, &tenant).await?;
        let (first, second) = match plan_first {
            true => (plan, tenant),
            false => (tenant, plan),
        };
        for (mut transaction, token) in [first, second] {
            transaction.execute("COMMIT").await?;
            arrives(&world.hub, &token, "").await?;
        }
        assert_eq!(quotas(&world, &format!("t{n}")).await?, [quota, quota]);
        world.is_true().await?;
    }
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    world.hub.stop().await
}

/// What a tenant has as soon as there is a receipt.
async fn quotas_by_receipt(world: &World, token: &str, tenant: &str) -> Result<Vec<i64>> {
    arrives(&world.hub, token, "").await?;
    quotas(world, tenant).await
}

/// Would catch a receipt for a changed plan that does not wait for the tenants on it, because the same look found
/// another transaction's change of a plan.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_plans_that_one_look_finds_have_receipts_of_their_own() -> Result<()> {
    let mut world = with_plans().await?;
    world.runs().await?;
    for quota in 20..26 {
        let mut connection = world.database.connect().await?;
        let daemon = world.hub.daemon()?;
        daemon.signal(rustix::process::Signal::STOP)?;
        let mut tokens = Vec::new();
        for plan in ["free", "pro"] {
            let sql = format!("UPDATE plans SET quota = {quota} WHERE id = '{plan}'");
            tokens.push(commit(&mut connection, &sql).await?);
        }
        daemon.signal(rustix::process::Signal::CONT)?;
        // The questions wait in the socket until the publisher goes on.
        let (free, pro) = tokio::try_join!(
            quotas_by_receipt(&world, &tokens[0], "t20"),
            quotas_by_receipt(&world, &tokens[1], "p20")
        )?;
        assert_eq!((free, pro), (vec![quota; 2], vec![quota; 2]));
    }
    world.hub.stop().await
}
