//! What came out of the database was wrong, or only looked different.

use crate::world::{COUNTER_TRUTH, HEALS_WITHIN, World};
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

async fn answers(agent: &Agent, kind: &str, key: &str) -> Result<(u16, String)> {
    let (status, body) = agent.get(kind, key).await?;
    Ok((status.as_u16(), body))
}

/// A permission change doubled the rows of a query, and what was made of them went everywhere, good and bad in turns.
///
/// Would catch a bundle made of doubled rows, a key that is removed because it is held, and values that flap.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_fans_out_after_a_permission_change_keeps_the_last_good_values() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database
        .execute(
            "CREATE TABLE counters (tenant text PRIMARY KEY, n bigint NOT NULL, regions text[], note text NOT NULL DEFAULT '');
             CREATE TABLE visible (schema_name text);
             INSERT INTO visible VALUES ('default');
             INSERT INTO counters SELECT 't' || g, 1 FROM generate_series(1, 200) AS g",
        )
        .await?;
    let contexts = r#"
[[context]]
kind  = "counter"
query = "SELECT tenant AS key, tenant, regions, n, note FROM counters, visible"
watch = [{ table = "counters", tenant = "tenant" }, { table = "visible", tenants = "all" }]
"#;
    let truth = &COUNTER_TRUTH[..1];
    let mut world = World::new(server, database, &REGIONS, contexts, truth).await?;
    world.runs().await?;
    for _ in 0..3 {
        world
            .database
            .execute("INSERT INTO visible VALUES ('r0')")
            .await?;
        let scan = world.hub.run(&["scan"]).await?;
        assert!(
            scan.code == 1 && scan.stdout.contains("more than once"),
            "{scan:?}"
        );
        for agent in &world.agents {
            for tenant in ["t1", "t200"] {
                let (status, body) = answers(agent, "counter", tenant).await?;
                assert!(
                    status == 200 && body.contains("\"n\": 1"),
                    "{tenant} {body}"
                );
            }
        }
        world
            .database
            .execute("DELETE FROM visible WHERE schema_name = 'r0'")
            .await?;
        world.hub.run(&["scan"]).await?.ok()?;
    }
    world.is_true().await?;
    world.hub.stop().await
}

/// A policy with blank fields was replicated everywhere within seconds, and every reader crashed on it, again and again.
///
/// Would catch a NULL that stops a scan, the publisher or an agent, and one that takes neighbours along.
#[tokio::test(flavor = "multi_thread")]
async fn rows_with_blank_fields_crash_nobody_and_concern_only_themselves() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database
        .execute(
            "CREATE TABLE policies (id text, tenant text, regions text[], expires timestamptz, quota jsonb, note text);
             INSERT INTO policies SELECT 'p' || g, 't' || g, NULL, NULL, '{\"limit\": 5}', 'fine' FROM generate_series(1, 50) AS g",
        )
        .await?;
    let contexts = r#"
[[context]]
kind  = "policy"
query = "SELECT id AS key, tenant, regions, expires, quota, note FROM policies"
watch = [{ table = "policies", tenant = "tenant" }]
"#;
    let mut world = World::new(server, database, &REGIONS, contexts, &[]).await?;
    world.runs().await?;
    // Blank in every column there is, for some tenants; and a row that is nothing but blank.
    world
        .database
        .execute(
            "UPDATE policies SET quota = NULL, note = NULL WHERE tenant = 't1';
             UPDATE policies SET id = NULL WHERE tenant = 't2';
             UPDATE policies SET id = '' WHERE tenant = 't3';
             UPDATE policies SET regions = ARRAY[NULL]::text[] WHERE tenant = 't4';
             UPDATE policies SET quota = 'null', note = '' WHERE tenant = 't5';
             INSERT INTO policies VALUES (NULL, NULL, NULL, NULL, NULL, NULL), ('', '', '{}', NULL, '{}', '');
             UPDATE policies SET note = 'changed' WHERE tenant = 't6'",
        )
        .await?;
    until("the good change", HEALS_WITHIN, || async {
        let (_, body) = answers(&world.agents[0], "policy", "p6").await.ok()?;
        body.contains("changed").then_some(())
    })
    .await?;
    let scan = world.hub.run(&["scan"]).await?;
    assert_eq!(scan.code, 1, "{scan:?}");
    for agent in &mut world.agents {
        let (_, blank) = answers(agent, "policy", "p1").await?;
        assert!(blank.contains("\"quota\": null"), "{blank}");
        // Of these the last good value stays.
        for key in ["p2", "p4"] {
            let (status, body) = answers(agent, "policy", key).await?;
            assert!(status == 200 && body.contains("fine"), "{key} {body}");
        }
        assert_eq!(answers(agent, "policy", "p50").await?.0, 200);
        assert!(agent.process()?.is_running());
    }
    world.hub.stop().await
}

/// A nullable column was added to a large table, and every node filled in every row again.
///
/// Would catch a digest that depends on columns which the query does not have, or on how rows are stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_nullable_column_that_is_added_to_a_table_pushes_nothing() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 500).await?;
    world.runs().await?;
    world
        .database
        .execute(
            "ALTER TABLE counters ADD COLUMN memo text; ALTER TABLE counters ADD COLUMN kept boolean NOT NULL DEFAULT false",
        )
        .await?;
    world.database.execute("VACUUM FULL counters").await?;
    let summary = world.scan().await?.json()?;
    for store in summary["stores"].as_array().ok_or("no stores")? {
        assert_eq!(
            (&store["pushed"], &store["repaired"]),
            (&0.into(), &0.into()),
            "{store}"
        );
    }
    world.is_true().await?;
    world.hub.stop().await
}

/// The largest tenant leaves: legitimate, and larger than anything that may leave at once. Elsewhere its deletes jammed the
/// log that everybody else read.
///
/// Would catch a large removal before which others wait, and one that can never be let through.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_tenant_leaves_and_nobody_waits_for_it() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database
        .execute(
            "CREATE TABLE keys (tenant text, n int, body text, PRIMARY KEY (tenant, n));
             INSERT INTO keys SELECT 'largest', g, repeat('x', 2000) FROM generate_series(1, 6000) AS g;
             INSERT INTO keys SELECT 't' || g, 1, 'one' FROM generate_series(1, 200) AS g",
        )
        .await?;
    let contexts = r#"
[[context]]
kind  = "key"
query = "SELECT tenant || ' ' || n AS key, tenant, body FROM keys"
watch = [{ table = "keys", tenant = "tenant" }]
"#;
    let mut world = World::new(server, database, &REGIONS, contexts, &[]).await?;
    world.runs().await?;
    world
        .database
        .execute("DELETE FROM keys WHERE tenant = 'largest'; UPDATE keys SET body = 'two'")
        .await?;
    until("the others' change", HEALS_WITHIN, || async {
        let (_, body) = answers(&world.agents[1], "key", "t200 1").await.ok()?;
        body.contains("two").then_some(())
    })
    .await?;
    until("the removal to be asked for", HEALS_WITHIN, || async {
        (world.hub.run(&["held"]).await.ok()?.code == 1).then_some(())
    })
    .await?;
    assert_eq!(
        answers(&world.agents[0], "key", "largest 6000").await?.0,
        200
    );
    let approve = ["approve", "--tenant", "largest"];
    world.hub.run(&approve).await?.ok()?;
    for agent in &world.agents {
        until("the tenant to be gone", HEALS_WITHIN, || async {
            let (status, _) = answers(agent, "key", "largest 6000").await.ok()?;
            (status == 404).then_some(())
        })
        .await?;
    }
    world.scan().await?;
    world.hub.stop().await
}
