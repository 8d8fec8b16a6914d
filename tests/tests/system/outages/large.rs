//! Values and tenants that are too large for the way.

use crate::world::World;
use std::time::Duration;
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

/// To build hundreds of megabytes takes a debug build its time, and it is done more than once.
const WITHIN: Duration = Duration::from_secs(120);

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// The bytes of a value without those of its body.
const AROUND: u32 = 12;

/// The length of the body that an agent answers.
async fn answers(agent: &Agent, key: &str) -> Result<(u16, usize)> {
    let (status, body) = agent.get("doc", key).await?;
    Ok((status.as_u16(), body.len()))
}

async fn arrives(agent: &Agent, key: &str, bytes: u32) -> Result<()> {
    until(key, WITHIN, || async {
        (answers(agent, key).await.ok()? == (200, bytes as usize)).then_some(())
    })
    .await
}

/// Items of more than 400 KB were left out of a table with a line in a log, and a payload that was too large stopped
/// everything behind it.
///
/// Would catch a value that is dropped in silence, one whose refusal keeps others back, and a tenant that is too large to be
/// sent and takes its region along.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_at_the_hub_by_name_and_others_go_on() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    let fits = 400_000 - AROUND;
    database
        .execute(&format!(
            "CREATE TABLE docs (key text PRIMARY KEY, tenant text NOT NULL, bytes int NOT NULL);
             CREATE INDEX ON docs (tenant);
             INSERT INTO docs SELECT 'd' || g, 't' || g, 10 FROM generate_series(1, 100) AS g;
             INSERT INTO docs VALUES ('fits', 'one', {fits}), ('grows', 'two', 10), ('huge', 'three', 10);
             INSERT INTO docs SELECT 'many' || g, 'many', {fits} FROM generate_series(1, 125) AS g;
             INSERT INTO docs VALUES ('wide0', 'wide', 10)"
        ))
        .await?;
    let contexts = r#"
[[context]]
kind  = "doc"
query = "SELECT key, tenant, repeat('x', bytes) AS body FROM docs"
watch = [{ table = "docs", tenant = "tenant" }]
max_value_bytes = 400000

[[context]]
kind  = "name"
query = "SELECT 'name of ' || tenant AS key, tenant, max(key) AS last FROM docs WHERE {{tenants(tenant)}} GROUP BY tenant"
watch = [{ table = "docs", tenant = "tenant" }]
"#;
    let mut world = World::new(server, database, &REGIONS, contexts, &[]).await?;
    world.runs().await?;
    // Fifty megabytes of one tenant are no trouble, in values that are none.
    for agent in &world.agents {
        assert_eq!(answers(agent, "fits").await?, (200, 400_000));
        assert_eq!(answers(agent, "many125").await?, (200, 400_000));
    }
    // One byte too many; fifty megabytes in one value; and a tenant of more than 240 MiB.
    world
        .database
        .execute(&format!(
            "UPDATE docs SET bytes = {fits} + 1 WHERE key = 'grows';
             UPDATE docs SET bytes = 50000000 WHERE key = 'huge';
             INSERT INTO docs SELECT 'wide' || g, 'wide', {fits} FROM generate_series(1, 700) AS g"
        ))
        .await?;
    world
        .database
        .execute("UPDATE docs SET bytes = 20 WHERE tenant = 't1'")
        .await?;
    for agent in &world.agents {
        arrives(agent, "d1", 20 + AROUND).await?;
    }
    let told = |text: &str| {
        let sizes = ["400001 bytes", "50000012 bytes", "240 MiB"];
        ["two", "three", "wide"]
            .iter()
            .chain(&sizes)
            .all(|word| text.contains(word))
    };
    until("all three to be named", WITHIN, || async {
        let status = world.hub.run(&["status"]).await.ok()?;
        (status.code == 1 && told(&status.stdout)).then_some(())
    })
    .await?;
    assert!(
        world
            .hub
            .metric("hubcast_publisher_held_tenants", "")
            .await?
            >= 3.0
    );
    let scan = world.hub.run(&["scan"]).await?;
    assert!(scan.code == 1 && told(&scan.stdout), "{scan:?}");
    for agent in &world.agents {
        // The last good values, and of the tenant that is too large whatever else it has.
        assert_eq!(answers(agent, "grows").await?, (200, 10 + AROUND as usize));
        assert_eq!(answers(agent, "huge").await?, (200, 10 + AROUND as usize));
        assert_eq!(answers(agent, "wide0").await?, (200, 10 + AROUND as usize));
        let (status, name) = agent.get("name", "name of wide").await?;
        assert!(status == 200 && name.contains("wide99"), "{status} {name}");
        assert_eq!(answers(agent, "nobody").await?.0, 404);
    }
    // With room again it goes, all of it.
    world
        .database
        .execute(
            "DELETE FROM docs WHERE tenant = 'wide' AND bytes > 10 AND key <> 'wide7';
             UPDATE docs SET bytes = 30 WHERE key IN ('grows', 'huge')",
        )
        .await?;
    for agent in &world.agents {
        arrives(agent, "grows", 30 + AROUND).await?;
        arrives(agent, "huge", 30 + AROUND).await?;
        arrives(agent, "wide7", 400_000).await?;
    }
    world.scan().await?;
    world.hub.stop().await
}
