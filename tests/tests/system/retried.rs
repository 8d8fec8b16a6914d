//! A tenant that cannot be built is written down and tried again, less and less often, without a scan and by whoever is the
//! writer by then; the others go on.

use crate::receipts::{arrives, commit};
use crate::truth::Kind;
use crate::world::{HEALS_WITHIN, World, scans, settles};
use std::time::Duration;
use system_tests::server::{Database, Server};
use system_tests::{Result, until_every};

const CONTEXTS: &str = r#"
[[context]]
kind  = "share"
query = "SELECT tenant AS key, tenant, 100 / n AS share FROM counters"
watch = [{ table = "counters", tenant = "tenant" }]
"#;
const TRUTH: &[Kind] = &[Kind {
    name: "share",
    sql: "SELECT tenant, tenant, jsonb_build_object('share', 100 / n)::text FROM counters WHERE $1 <> ''",
}];

/// Tenants that are tried again, with how often they were, and whether the next time is still to come.
async fn waiting(database: &Database) -> Result<Vec<(String, i32, bool)>> {
    let sql = "SELECT tenant, attempts::int, next_at > asked.at FROM hubcast.retry, (SELECT now() AS at) asked";
    let mut connection = database.connect().await?;
    Ok(sqlx::query_as(sql).fetch_all(&mut connection).await?)
}

/// Waits until what is tried again is as expected.
async fn until_waiting(
    database: &Database,
    what: &str,
    is_so: impl Fn(&[(String, i32, bool)]) -> bool,
) -> Result<Vec<(String, i32, bool)>> {
    until_every(Duration::from_millis(50), what, HEALS_WITHIN, || async {
        waiting(database).await.ok().filter(|rows| is_so(rows))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_be_built_is_tried_again_and_stops_nobody() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database
        .execute(
            "CREATE TABLE counters (tenant text PRIMARY KEY, n bigint NOT NULL); \
                  INSERT INTO counters SELECT 't' || g, g FROM generate_series(1, 20) AS g",
        )
        .await?;
    let mut world = World::new(server, database, &["eu-west-1"], CONTEXTS, TRUTH).await?;
    world.runs().await?;
    let before = scans(&world.hub).await?;
    let mut connection = world.database.connect().await?;
    let poison = "UPDATE counters SET n = CASE tenant WHEN 't3' THEN 0 ELSE 50 END WHERE tenant IN ('t3', 't4')";
    world.database.execute(poison).await?;
    let other = "UPDATE counters SET n = 10 WHERE tenant = 't5'";
    let token = commit(&mut connection, other).await?;
    arrives(&world.hub, &token, "").await?;
    let rows = until_waiting(&world.database, "the tenant to be written down", |rows| {
        !rows.is_empty()
    })
    .await?;
    assert!(
        rows.len() == 1 && rows[0].0 == "t3" && rows[0].1 >= 1,
        "{rows:?}"
    );
    assert_eq!(
        world.agents[0].get("share", "t4").await?.1,
        r#"{"share": 2}"#
    );
    assert_eq!(
        world.agents[0].get("share", "t3").await?.1,
        r#"{"share": 33}"#,
        "the last good value"
    );

    // Mended where no trigger sees it: nothing but the next try finds that.
    let mended =
        "SET session_replication_role = replica; UPDATE counters SET n = 25 WHERE tenant = 't3'";
    world.database.execute(mended).await?;
    world.becomes_true().await?;
    until_waiting(
        &world.database,
        "the tenant to be forgotten",
        <[_]>::is_empty,
    )
    .await?;
    assert_eq!(scans(&world.hub).await?, before, "a scan found it");

    // The next writer goes on where this one was.
    world
        .database
        .execute("UPDATE counters SET n = 0 WHERE tenant = 't7'")
        .await?;
    until_waiting(&world.database, "it to be tried twice", |rows| {
        rows.iter().any(|row| row.1 >= 2)
    })
    .await?;
    world.hub.kill()?;
    world.hub.start().await?;
    until_waiting(&world.database, "the next writer to try it again", |rows| {
        rows.iter().any(|row| row.1 >= 3)
    })
    .await?;
    world
        .database
        .execute("UPDATE counters SET n = 7 WHERE tenant = 't7'")
        .await?;
    world.becomes_true().await?;
    settles(&world.hub).await?;
    world.hub.stop().await
}
