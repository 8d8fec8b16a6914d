//! Changing too much at once, where that is guarded: `UPDATE api_keys SET revoked_at = now()` without WHERE, which revokes
//! every key of every tenant in every region moments later, and is no removal.
//!
//! Would catch a guard that holds a single revocation, that lets a second one wait behind what is held, that forgets over a
//! restart, that takes a first fill or another query for a change, or that keeps an old value that nobody holds.

use crate::world::{HEALS_WITHIN, World};
use serde_json::Value;
use system_tests::hub::Hub;
use system_tests::server::Server;
use system_tests::{Result, until};

const TABLE: &str = "CREATE TABLE api_keys (key text PRIMARY KEY, tenant text NOT NULL, scope text NOT NULL DEFAULT 'read', revoked_at timestamptz)";
const FILL: &str =
    "INSERT INTO api_keys SELECT 'k' || g, 't' || g % 30 FROM generate_series(1, 300) g";
const CONTEXTS: &str = r#"
[[context]]
kind  = "api_key"
query = "SELECT key, tenant, scope, (revoked_at IS NULL) AS active FROM api_keys"
watch = [{ table = "api_keys", tenant = "tenant" }]
"#;
const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// A publisher that guards changes, in step.
async fn world() -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(TABLE).await?;
    database.execute(FILL).await?;
    let mut world = World::new(server, database, &REGIONS, CONTEXTS, &[]).await?;
    world.hub.configure("max_change_share = 0.3")?;
    let differs = world.hub.run(&["scan"]).await?;
    assert!(
        differs.code == 2 && differs.stderr.contains("hub.max_change_share"),
        "{differs:?}"
    );
    world.hub.run(&["migrate"]).await?.ok()?;
    // A first fill, of 300 new contexts, is none.
    world.runs().await?;
    assert_eq!(held(&world.hub).await?, 0);
    Ok(world)
}

/// Something of the value of a key, or the status if it has none.
async fn reads(world: &World, agent: usize, key: &str, field: &str) -> Result<Value> {
    let (status, body) = world.agents[agent].get("api_key", key).await?;
    Ok(match status.as_u16() {
        200 => serde_json::from_str::<Value>(&body)?[field].clone(),
        status => status.into(),
    })
}

async fn becomes(world: &World, key: &str, field: &str, expected: impl Into<Value>) -> Result<()> {
    let expected = expected.into();
    for (agent, region) in REGIONS.iter().enumerate() {
        let what = format!("{field} of {key} to be {expected} in {region}");
        until(&what, HEALS_WITHIN, || async {
            (reads(world, agent, key, field).await.ok()? == expected).then_some(())
        })
        .await?;
    }
    Ok(())
}

/// Changes that wait for a person, in all regions.
async fn held(hub: &Hub) -> Result<u64> {
    let listed = hub.run(&["held", "--json"]).await?.json()?;
    let groups = listed["held"].as_array().cloned().unwrap_or_default();
    let waiting = groups
        .iter()
        .filter(|g| g["state"] == "held" && g["reason"] == "changed");
    Ok(waiting.filter_map(|g| g["contexts"].as_u64()).sum())
}

async fn becomes_held(hub: &Hub, n: u64) -> Result<()> {
    let what = format!("{n} changes to be held");
    until(&what, HEALS_WITHIN, || async {
        (held(hub).await.ok()? == n).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_without_where_is_held_and_a_single_revocation_goes() -> Result<()> {
    let mut world = world().await?;
    let database = &world.database;
    database
        .execute("UPDATE api_keys SET revoked_at = now() WHERE key = 'k1'")
        .await?;
    becomes(&world, "k1", "active", false).await?;
    world
        .database
        .execute("UPDATE api_keys SET revoked_at = now()")
        .await?;
    becomes_held(&world.hub, 2 * 299).await?;
    becomes(&world, "k2", "active", true).await?;
    let held_now = world
        .hub
        .metric("hubcast_publisher_held_changes", "")
        .await?;
    assert!(held_now == 0.0 || held_now == 598.0, "{held_now}");

    // Beside what is held everything goes: what is new, what is removed, what is put back, what is changed once more.
    world
        .database
        .execute("INSERT INTO api_keys VALUES ('new', 't1')")
        .await?;
    becomes(&world, "new", "active", true).await?;
    world
        .database
        .execute("DELETE FROM api_keys WHERE key = 'k3'")
        .await?;
    becomes(&world, "k3", "active", 404).await?;
    world
        .database
        .execute("UPDATE api_keys SET revoked_at = NULL WHERE key = 'k4'")
        .await?;
    world
        .database
        .execute("UPDATE api_keys SET scope = 'none' WHERE key = 'k5'")
        .await?;
    becomes(&world, "k5", "active", false).await?;
    becomes(&world, "k4", "active", true).await?;
    becomes_held(&world.hub, 2 * 296).await?;

    // Neither a restart nor a scan forgets it, and both say it.
    world.hub.kill()?;
    world.runs().await?;
    let scan = world.hub.run(&["scan"]).await?;
    assert!(
        scan.code == 1 && scan.stdout.contains("publisher approve"),
        "{scan:?}"
    );
    assert_eq!(held(&world.hub).await?, 2 * 296);
    becomes(&world, "k2", "active", true).await?;
    // That removals were approved says nothing of changes.
    let scan = world.hub.run(&["scan", "--allow-mass-delete"]).await?;
    assert_eq!(scan.code, 1, "{scan:?}");

    world.hub.run(&["approve"]).await?.ok()?;
    becomes(&world, "k2", "active", false).await?;
    becomes(&world, "k300", "active", false).await?;
    becomes(&world, "k4", "active", true).await?;
    assert_eq!(held(&world.hub).await?, 0);
    world.hub.run(&["scan"]).await?.ok()?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_keeps_its_value_and_another_query_is_no_change() -> Result<()> {
    let mut world = world().await?;
    // No publisher runs, and the next one knows nothing: it asks the stores.
    world.hub.stop().await?;
    world
        .database
        .execute("UPDATE api_keys SET scope = 'all' WHERE tenant <> 't1'")
        .await?;
    world.runs().await?;
    becomes_held(&world.hub, 2 * 290).await?;
    becomes(&world, "k2", "scope", "read").await?;
    world
        .hub
        .run(&["drop", "--reason", "changed"])
        .await?
        .ok()?;
    // A person has decided: it is as it should be.
    world.hub.run(&["scan"]).await?.ok()?;
    becomes(&world, "k2", "scope", "read").await?;
    // Until the hub changes it again.
    world
        .database
        .execute("UPDATE api_keys SET scope = 'some' WHERE key = 'k2'")
        .await?;
    becomes(&world, "k2", "scope", "some").await?;
    becomes(&world, "k3", "scope", "read").await?;

    // Another query gives all of them another value, on purpose.
    world.hub.stop().await?;
    let text = std::fs::read_to_string(&world.hub.config)?;
    let text = text.replace("key, tenant, scope,", "key, tenant, scope, 2 AS format,");
    std::fs::write(&world.hub.config, text)?;
    world.hub.run(&["migrate"]).await?.ok()?;
    world.runs().await?;
    becomes(&world, "k3", "format", 2).await?;
    becomes(&world, "k30", "format", 2).await?;
    assert_eq!(held(&world.hub).await?, 0);
    // From then on changes count again.
    world
        .database
        .execute("UPDATE api_keys SET scope = 'every'")
        .await?;
    becomes_held(&world.hub, 2 * 300).await?;
    // What is held stays so under yet another query, whatever value that gives.
    world.hub.stop().await?;
    let text = std::fs::read_to_string(&world.hub.config)?;
    std::fs::write(
        &world.hub.config,
        text.replace("2 AS format", "3 AS format"),
    )?;
    world.hub.run(&["migrate"]).await?.ok()?;
    world.runs().await?;
    assert_eq!(held(&world.hub).await?, 2 * 300);
    becomes(&world, "k3", "format", 2).await?;
    world.hub.run(&["approve"]).await?.ok()?;
    becomes(&world, "k3", "scope", "every").await?;
    becomes(&world, "k3", "format", 3).await?;
    world.hub.stop().await
}
