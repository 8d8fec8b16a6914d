//! Keys that move between tenants, noticed by change triggers only.
//!
//! Would catch bundles of one transaction that go in two commits, a key that stays with whom it left, and a key that two
//! tenants have and that flips between them, or is lost when one gives it up.

use crate::order::Watch;
use crate::receipts::{arrives, commit};
use crate::truth::{Kind, Name, batch_get};
use crate::world::{HEALS_WITHIN, World, scans};
use serde_json::Value;
use sqlx::PgConnection;
use system_tests::Result;
use system_tests::server::Server;

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

const KEYS: &str = "
CREATE TABLE keys (id int PRIMARY KEY, key text NOT NULL, tenant text NOT NULL, n bigint NOT NULL);
INSERT INTO keys VALUES (1, 'k', 'a', 1), (2, 'l', 'b', 1), (3, 'of a', 'a', 1), (4, 'of b', 'b', 1);
INSERT INTO keys SELECT g, 'other ' || g, 'other ' || g % 7, 1 FROM generate_series(10, 60) AS g";

const CONTEXTS: &str = r#"
[[context]]
kind  = "counter"
query = "SELECT key, tenant, n FROM keys"
watch = [{ table = "keys", tenant = "tenant" }]
"#;

const TRUTH: &[Kind] = &[Kind {
    name: "counter",
    sql: "SELECT key, tenant, jsonb_build_object('n', n)::text FROM keys WHERE $1 <> ''",
}];

async fn with_keys() -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(KEYS).await?;
    let mut world = World::new(server, database, &REGIONS, CONTEXTS, TRUTH).await?;
    world.runs().await?;
    Ok(world)
}

/// Runs statements one after the other, each in a transaction of its own, and waits until all of them arrived.
async fn one_by_one(world: &World, connection: &mut PgConnection, sql: &[&str]) -> Result<()> {
    let mut tokens = Vec::new();
    for statement in sql {
        tokens.push(commit(connection, statement).await?);
    }
    for token in tokens {
        arrives(&world.hub, &token, "").await?;
    }
    Ok(())
}

/// The tenant and the number that a key has, the same in every region.
async fn owner(world: &World, key: &str) -> Result<(String, i64)> {
    let name: Name = ("counter".to_owned(), key.to_owned());
    let mut found = Vec::new();
    for agent in &world.agents {
        let element = batch_get(agent, &[&name]).await?.pop().flatten();
        let element = element.ok_or_else(|| format!("{key} is absent in {}", agent.region))?;
        let value = element.value.as_ref().map_or("null", |v| v.get());
        let value: Value = serde_json::from_str(value)?;
        let tenant = element.tenant.clone().unwrap_or_default();
        found.push((tenant, value["n"].as_i64().unwrap_or_default()));
    }
    found.dedup();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(format!("{key} is not the same everywhere: {found:?}").into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_in_one_transaction_is_never_absent_and_never_old() -> Result<()> {
    let mut world = with_keys().await?;
    let before = scans(&world.hub).await?;
    let watches = [Watch::on(&world, "k"), Watch::on(&world, "l")];
    let mut connection = world.database.connect().await?;
    for round in 0..12 {
        // Two keys go in opposite directions; every third time one goes alone.
        let (k, l) = [("b", "a"), ("a", "b")][round % 2];
        let sql = match round % 3 {
            2 => format!("UPDATE keys SET tenant = '{k}', n = n + 1 WHERE id = 1"),
            _ => format!(
                "UPDATE keys SET tenant = CASE id WHEN 1 THEN '{k}' ELSE '{l}' END, n = n + 1 WHERE id IN (1, 2)"
            ),
        };
        let token = commit(&mut connection, &sql).await?;
        arrives(&world.hub, &token, "").await?;
        assert_eq!(owner(&world, "k").await?.0, k);
        world.is_true().await?;
    }
    for watch in watches {
        watch.end().await?;
    }
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_in_two_transactions_or_belongs_to_two_tenants_settles() -> Result<()> {
    let mut world = with_keys().await?;
    let before = scans(&world.hub).await?;
    let mut connection = world.database.connect().await?;
    let (take, give) = (
        "INSERT INTO keys VALUES (5, 'k', 'b', 5)",
        "DELETE FROM keys WHERE id = 1",
    );
    let (back, leave) = (
        "INSERT INTO keys VALUES (1, 'k', 'a', 6)",
        "DELETE FROM keys WHERE id = 5",
    );
    // Given up before it is taken, and back the other way round: for a moment two tenants have it.
    one_by_one(&world, &mut connection, &[give, take]).await?;
    assert_eq!(owner(&world, "k").await?, ("b".to_owned(), 5));
    one_by_one(&world, &mut connection, &[back, leave]).await?;
    assert_eq!(owner(&world, "k").await?, ("a".to_owned(), 6));
    world.is_true().await?;

    // Both have it, and not for a moment: who had it keeps it and goes on changing it; the other's rest goes all the same.
    let both =
        "WITH x AS (UPDATE keys SET n = 2 WHERE id = 4) INSERT INTO keys VALUES (5, 'k', 'b', 7)";
    one_by_one(&world, &mut connection, &[both]).await?;
    assert_eq!(owner(&world, "k").await?, ("a".to_owned(), 6));
    assert_eq!(owner(&world, "of b").await?, ("b".to_owned(), 2));
    // What a status shows is some milliseconds old.
    let hub = &world.hub;
    system_tests::until("the key to be shown as held", HEALS_WITHIN, || async {
        let status = hub.status().await.ok()?;
        let held = status["engine"]["held"]["b"].to_string();
        held.contains("\"k\"").then_some(())
    })
    .await?;
    one_by_one(
        &world,
        &mut connection,
        &["UPDATE keys SET n = 8 WHERE id IN (1, 5)"],
    )
    .await?;
    assert_eq!(owner(&world, "k").await?, ("a".to_owned(), 8));
    one_by_one(&world, &mut connection, &[give]).await?;
    world.becomes_true().await?;
    assert_eq!(owner(&world, "k").await?, ("b".to_owned(), 8));
    let hub = &world.hub;
    system_tests::until("nothing to be shown as held", HEALS_WITHIN, || async {
        let engine = &hub.status().await.ok()?["engine"];
        (engine["held_tenants"] == 0 && engine["clashes"] == 0).then_some(())
    })
    .await?;
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    world.hub.stop().await
}
