//! Changes of every sort, followed to the regions by the triggers alone: no scan runs.

use crate::truth::Kind;
use crate::world::{HEALS_WITHIN, World, scans, settles};
use sqlx::PgConnection;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

const TABLES: &str = "
CREATE TABLE plans (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE tenants (id text PRIMARY KEY, plan int REFERENCES plans, n int NOT NULL DEFAULT 0);
CREATE TABLE keys (id int PRIMARY KEY, tenant text NOT NULL REFERENCES tenants ON DELETE CASCADE, note text NOT NULL);
INSERT INTO plans VALUES (1, 'free'), (2, 'small'), (3, 'large');
INSERT INTO tenants SELECT 't' || g, 1 + g % 3 FROM generate_series(1, 12) AS g;
INSERT INTO tenants VALUES ('7', 1), ('6a2f41a3-c54c-fce8-32d2-0324e1c32e22', 2);
INSERT INTO keys SELECT g, 't' || 1 + g % 12, 'first' FROM generate_series(1, 60) AS g";

const CONTEXTS: &str = r#"
[[context]]
kind  = "tenant"
query = "SELECT t.id AS key, t.id AS tenant, p.name, t.n FROM tenants t JOIN plans p ON p.id = t.plan"
watch = [
  { table = "tenants", tenant = "id" },
  { table = "plans", tenants = "SELECT t.id FROM tenants t JOIN changed c ON t.plan = c.id" },
]

[[context]]
kind  = "key"
query = "SELECT id::text AS key, tenant, note FROM keys"
watch = [{ table = "keys", tenant = "tenant" }]
"#;

const TRUTH: &[Kind] = &[
    Kind {
        name: "tenant",
        sql: "SELECT t.id, t.id, jsonb_build_object('name', p.name, 'n', t.n)::text FROM tenants t JOIN plans p ON p.id = t.plan \
              WHERE $1 <> ''",
    },
    Kind {
        name: "key",
        sql: "SELECT id::text, tenant, jsonb_build_object('note', note)::text FROM keys WHERE $1 <> ''",
    },
];

/// Statements of every sort that changes rows.
const CHANGES: &[&str] = &[
    "INSERT INTO keys VALUES (61, 't1', 'new')",
    "UPDATE keys SET tenant = 't2' WHERE id = 61",
    "DELETE FROM keys WHERE id = 61",
    "DELETE FROM tenants WHERE id = 't12'",
    "MERGE INTO keys USING (VALUES (1, 'merged'), (2, NULL), (62, 'new')) AS s(id, note) ON keys.id = s.id \
     WHEN MATCHED AND s.note IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET note = s.note \
     WHEN NOT MATCHED THEN INSERT VALUES (s.id, 't3', s.note)",
    "INSERT INTO keys VALUES (62, 't3', 'again') ON CONFLICT (id) DO UPDATE SET note = excluded.note",
    "WITH gone AS (DELETE FROM keys WHERE id = 62 RETURNING *) INSERT INTO keys SELECT 63, 't4', note FROM gone",
    "BEGIN; UPDATE keys SET note = 'two phases' WHERE id = 63; PREPARE TRANSACTION 'followed'; COMMIT PREPARED 'followed'",
    "UPDATE plans SET name = name || '!' WHERE id IN (1, 2)",
    "UPDATE tenants SET plan = 3 WHERE id = 't5'",
];

/// What no trigger sees, and what the application says of it.
const TOUCHES: &[(&str, &str)] = &[
    ("t1", "SELECT hubcast.touch('t1'::text)"),
    ("7", "SELECT hubcast.touch(7::bigint)"),
    (
        "6a2f41a3-c54c-fce8-32d2-0324e1c32e22",
        "SELECT hubcast.touch('6a2f41a3-c54c-fce8-32d2-0324e1c32e22'::uuid)",
    ),
];

async fn world() -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(TABLES).await?;
    let mut world = World::new(server, database, &REGIONS, CONTEXTS, TRUTH).await?;
    world.runs().await?;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_that_changes_rows_is_followed_to_the_regions() -> Result<()> {
    let mut world = world().await?;
    let before = scans(&world.hub).await?;
    for sql in CHANGES {
        // Not as one batch: two phases end a transaction block each.
        let mut connection = world.database.connect().await?;
        for part in sql.split("; ") {
            sqlx::raw_sql(part).execute(&mut connection).await?;
        }
        world
            .becomes_true()
            .await
            .map_err(|e| format!("{sql}: {e}"))?;
    }
    let mut connection = world.database.connect().await?;
    let mut copy = connection.copy_in_raw("COPY keys FROM STDIN").await?;
    copy.send(&b"100\tt1\tone\n101\tt2\ttwo\n102\tt2\tthree\n"[..])
        .await?;
    copy.finish().await?;
    world.becomes_true().await?;
    for (tenant, touch) in TOUCHES {
        let unseen = format!(
            "SET session_replication_role = replica; UPDATE tenants SET n = n + 1 WHERE id = '{tenant}'; \
             SET session_replication_role = DEFAULT; {touch}"
        );
        world.database.execute(&unseen).await?;
        world
            .becomes_true()
            .await
            .map_err(|e| format!("{touch}: {e}"))?;
    }
    assert_eq!(scans(&world.hub).await?, before, "a scan did it");
    // Every tenant may have changed: that is for a scan, and asked for by the trigger.
    world.database.execute("TRUNCATE keys").await?;
    world.becomes_true().await?;
    assert!(scans(&world.hub).await? > before);
    world.hub.stop().await
}

async fn rows(connection: &mut PgConnection, which: &str) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM hubcast.outbox WHERE {which}");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
    Ok(query.fetch_one(connection).await?)
}

/// Would catch rows that are gone while what they stand for is on its way: if the publisher dies then, nobody carries it.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_waits_in_the_outbox_until_its_tenants_are_delivered() -> Result<()> {
    let mut world = world().await?;
    let mut connection = world.database.connect().await?;
    world.agents[0].kill()?;
    let change = "UPDATE plans SET name = name || '?' WHERE id < 3";
    world.database.execute(change).await?;
    // Old and new of two rows. A row that nothing is built for comes later and is acknowledged.
    world.database.execute("SELECT hubcast.token()").await?;
    until("the later row to be acknowledged", HEALS_WITHIN, || async {
        let mut connection = world.database.connect().await.ok()?;
        (rows(&mut connection, "mark = 'token'").await.ok()? == 0).then_some(())
    })
    .await?;
    assert_eq!(rows(&mut connection, "watch IS NOT NULL").await?, 4);
    world.agents[0].start().await?;
    world.becomes_true().await?;
    settles(&world.hub).await?;
    assert_eq!(rows(&mut connection, "watch IS NOT NULL").await?, 0);
    world.hub.stop().await
}
