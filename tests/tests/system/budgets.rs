//! Budgets: a tenant that writes more and more rows, because of a loop in somebody's code, say, may fill neither the regions
//! nor what others have there, and what it had goes on working.
//!
//! Would catch a budget that holds what was there, that pushes one key out for another, that forgets over a restart whom it
//! let in, that does not count what a first fill brings, or that lets nothing in when there is room again.

use crate::world::{HEALS_WITHIN, World};
use serde_json::Value;
use system_tests::hub::Hub;
use system_tests::server::Server;
use system_tests::{Result, until};

const TABLE: &str =
    "CREATE TABLE items (tenant text, key text PRIMARY KEY, n bigint NOT NULL DEFAULT 1)";
const CONTEXTS: &str = r#"
[[context]]
kind  = "item"
query = "SELECT key, tenant, n FROM items"
watch = [{ table = "items", tenant = "tenant" }]
warn_contexts = 3
max_contexts  = 5
"#;
const LIMIT: &str = "max_contexts  = 5";

async fn world(regions: &[&str], rows: &str) -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(TABLE).await?;
    database.execute(&inserts(rows)).await?;
    World::new(server, database, regions, CONTEXTS, &[]).await
}

fn inserts(rows: &str) -> String {
    format!("INSERT INTO items (tenant, key) VALUES {rows}")
}

/// What an agent answers for keys.
async fn answers(world: &World, agent: usize, keys: &[&str]) -> Result<Vec<u16>> {
    let mut answers = Vec::new();
    for key in keys {
        answers.push(world.agents[agent].get("item", key).await?.0.as_u16());
    }
    Ok(answers)
}

async fn become_answers(
    world: &World,
    agent: usize,
    keys: &[&str],
    expected: &[u16],
) -> Result<()> {
    let what = format!("{keys:?} to answer {expected:?}");
    until(&what, HEALS_WITHIN, || async {
        (answers(world, agent, keys).await.ok()? == expected).then_some(())
    })
    .await
}

/// The contexts that wait for room, in all regions.
async fn held(hub: &Hub) -> Result<u64> {
    let listed = hub.run(&["held", "--json"]).await?.json()?;
    let groups = listed["held"].as_array().cloned().unwrap_or_default();
    let waiting = |g: &&Value| g["state"] == "held" && g["reason"] == "budget";
    let waiting = groups.iter().filter(waiting);
    Ok(waiting.filter_map(|g| g["contexts"].as_u64()).sum())
}

async fn becomes_held(hub: &Hub, n: u64) -> Result<()> {
    let what = format!("{n} contexts to wait for room");
    until(&what, HEALS_WITHIN, || async {
        (held(hub).await.ok()? == n).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_a_budget_waits_for_room_and_pushes_nothing_out() -> Result<()> {
    let mut world = world(
        &["eu-west-1"],
        "('a','a1'),('a','a2'),('a','a3'),('b','b1')",
    )
    .await?;
    world.runs().await?;
    assert!(!world.hub.run(&["status"]).await?.stdout.contains("budget"));
    world.database.execute(&inserts("('a','a4')")).await?;
    become_answers(&world, 0, &["a4"], &[200]).await?;
    // The agent answers before the publisher knows that it has it.
    until("the budget to be said to be near", HEALS_WITHIN, || async {
        let status = world.hub.run(&["status"]).await.ok()?.ok().ok()?;
        let said = "tenant a has 4 contexts of kind item";
        status.stdout.contains(said).then_some(())
    })
    .await?;
    let near = "hubcast_publisher_tenants_near_budget";
    assert_eq!(world.hub.metric(near, "").await?, 1.0);

    // One of three has room: the first. What was there is changed and goes on.
    let more = format!(
        "{}; UPDATE items SET n = 2 WHERE key = 'a3'",
        inserts("('a','a7'),('a','a6'),('a','a5')")
    );
    world.database.execute(&more).await?;
    become_answers(&world, 0, &["a3", "a5", "a6", "a7"], &[200, 200, 503, 503]).await?;
    until("the new value", HEALS_WITHIN, || async {
        let (_, body) = world.agents[0].get("item", "a3").await.ok()?;
        body.contains('2').then_some(())
    })
    .await?;
    becomes_held(&world.hub, 2).await?;
    let scan = world.hub.run(&["scan"]).await?;
    assert!(
        scan.code == 1
            && scan
                .stdout
                .contains("tenant a has 7 contexts of kind item, more than max_contexts (5)"),
        "{scan:?}"
    );
    let over = world
        .hub
        .metric("hubcast_publisher_tenants_over_budget", "")
        .await?;
    assert_eq!(over, 1.0);
    let text = world.hub.run(&["held"]).await?;
    assert!(
        text.code == 1 && text.stdout.contains("2 new contexts of kind item"),
        "{text:?}"
    );
    // It is nobody's data that is to be mended, and nobody else waits.
    assert_eq!(
        world
            .hub
            .metric("hubcast_publisher_held_tenants", "")
            .await?,
        0.0
    );
    world.database.execute(&inserts("('b','b2')")).await?;
    become_answers(&world, 0, &["b2"], &[200]).await?;

    // A restart forgets nobody who was let in, and one that comes before them in order pushes nobody out.
    world.hub.kill()?;
    world.database.execute(&inserts("('a','a0')")).await?;
    world.runs().await?;
    becomes_held(&world.hub, 3).await?;
    let all = ["a0", "a1", "a4", "a5", "a6", "a7"];
    assert_eq!(
        answers(&world, 0, &all).await?,
        [503, 200, 200, 200, 503, 503]
    );

    // Somebody makes room.
    world
        .database
        .execute("DELETE FROM items WHERE key IN ('a1', 'a2')")
        .await?;
    become_answers(&world, 0, &all, &[200, 404, 200, 200, 200, 503]).await?;
    becomes_held(&world.hub, 1).await?;
    // A person lets in what is beyond.
    world
        .hub
        .run(&["approve", "--reason", "budget"])
        .await?
        .ok()?;
    become_answers(&world, 0, &["a7"], &[200]).await?;
    assert_eq!(held(&world.hub).await?, 0);
    world.hub.run(&["scan"]).await?.ok()?;
    assert_eq!(answers(&world, 0, &["a0", "a7"]).await?, [200, 200]);
    // Said once each time: near, over, and after a restart over.
    let log = world.hub.daemon()?.log();
    let said = log.matches("the budget of a tenant").count();
    assert_eq!(said, 3, "{log}");
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_fill_has_a_budget_too_and_a_larger_one_lets_everybody_in() -> Result<()> {
    let rows: Vec<String> = (1..=8).map(|n| format!("('a','a{n}')")).collect();
    let mut world = world(&["eu-west-1", "us-east-1"], &rows.join(",")).await?;
    world.hub.start().await?;
    becomes_held(&world.hub, 2 * 3).await?;
    let all = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"];
    let expected = [200, 200, 200, 200, 200, 503, 503, 503];
    for agent in 0..2 {
        become_answers(&world, agent, &all, &expected).await?;
    }
    world.hub.stop().await?;
    let text = std::fs::read_to_string(&world.hub.config)?;
    std::fs::write(&world.hub.config, text.replace(LIMIT, "max_contexts = 7"))?;
    let differs = world.hub.run(&["scan"]).await?;
    assert!(
        differs.code == 2 && differs.stderr.contains("max_contexts"),
        "{differs:?}"
    );
    world.hub.run(&["migrate"]).await?.ok()?;
    world.hub.start().await?;
    for agent in 0..2 {
        become_answers(&world, agent, &["a6", "a7", "a8"], &[200, 200, 503]).await?;
    }
    // A person leaves it so: nobody is asked any more.
    becomes_held(&world.hub, 2).await?;
    world.hub.run(&["drop"]).await?.ok()?;
    world.hub.run(&["scan"]).await?.ok()?;
    assert_eq!(answers(&world, 0, &["a8"]).await?, [503]);
    world.hub.stop().await?;
    // Without a budget there is nothing to keep out.
    let text = std::fs::read_to_string(&world.hub.config)?;
    let text = text.replace("max_contexts = 7", "");
    std::fs::write(&world.hub.config, text)?;
    world.hub.run(&["migrate"]).await?.ok()?;
    world.hub.start().await?;
    become_answers(&world, 0, &["a8"], &[200]).await?;
    world.hub.stop().await
}
