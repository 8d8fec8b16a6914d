//! Two databases that both believe to be the hub's.
//!
//! Would catch a publisher that writes a store which was written from another database, and a takeover after which the
//! other side can still write.

use crate::receipts::{arrives, commit};
use crate::truth::fingerprint;
use crate::world::{HEALS_WITHIN, World, settles};
use system_tests::hub::Hub;
use system_tests::server::{Database, Server};
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_of_a_cloned_database_is_fenced() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    let clone = world.server.copy(&world.database).await?;
    world.database.execute("UPDATE counters SET n = 2").await?;
    world.scan().await?;
    world.is_true().await?;

    let before = fingerprint(&world.truth, &world.agents).await?;
    clone
        .execute("UPDATE counters SET n = 99; DELETE FROM counters WHERE tenant = 't1'")
        .await?;
    let fenced = world.hub_of(&clone)?;
    for command in [
        &["scan"][..],
        &["republish", "tenant", "t1", "t2"],
        &["republish", "all"],
    ] {
        let ran = fenced.run(command).await?;
        assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
        assert!(
            ran.stdout.contains("fenced") || ran.stderr.contains("fenced"),
            "{command:?}: {ran:?}"
        );
        assert_eq!(
            before,
            fingerprint(&world.truth, &world.agents).await?,
            "{command:?}"
        );
    }

    world.database.execute("UPDATE counters SET n = 3").await?;
    world.scan().await?;
    world.is_true().await
}

/// Waits until a publisher that runs says of every store that it is fenced, and what a person can do: in its log, over
/// the API and as text.
pub async fn is_fenced(hub: &mut Hub) -> Result<()> {
    until("the publisher to be fenced", HEALS_WITHIN, || async {
        let status = hub.status().await.ok()?;
        let stores = status["engine"]["stores"].as_array()?;
        let fenced = stores.iter().all(|s| s["standing"] == "fenced");
        (fenced && !stores.is_empty()).then_some(())
    })
    .await?;
    let ran = hub.run(&["status", "--hub", &hub.url("")]).await?;
    assert_eq!(ran.code, 1, "{ran:?}");
    for text in [ran.stdout, hub.daemon()?.log()] {
        for words in ["clone or an older copy", "takeover --force"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    Ok(())
}

/// The stores are this database's, by triggers alone.
pub async fn publishes(world: &mut World, hub: &Hub, database: &Database, n: i64) -> Result<()> {
    let mut connection = database.connect().await?;
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant IN ('t1', 't2')");
    let token = commit(&mut connection, &sql).await?;
    arrives(hub, &token, "").await?;
    world.truth.holds(database, &world.agents).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_by_force_fences_the_other_side_for_good() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    let clone = world.server.copy(&world.database).await?;
    world.runs().await?;
    world.database.execute("UPDATE counters SET n = 2").await?;
    world.becomes_true().await?;

    clone
        .execute("UPDATE counters SET n = 99; DELETE FROM counters WHERE tenant = 't9'")
        .await?;
    let mut other = world.hub_of(&clone)?;
    assert_eq!(other.run(&["takeover"]).await?.code, 2);
    other.start().await?;
    is_fenced(&mut other).await?;
    world.is_true().await?;

    // Beside both daemons, which are alive.
    other.run(&["takeover", "--force"]).await?.ok()?;
    world.truth.holds(&clone, &world.agents).await?;
    settles(&other).await?;
    publishes(&mut world, &other, &clone, 100).await?;
    is_fenced(&mut world.hub).await?;
    let before = fingerprint(&world.truth, &world.agents).await?;
    world.database.execute("UPDATE counters SET n = 3").await?;
    assert_eq!(world.hub.run(&["scan"]).await?.code, 1);
    world.hub.stop().await?;
    world.hub.start().await?;
    is_fenced(&mut world.hub).await?;
    assert_eq!(before, fingerprint(&world.truth, &world.agents).await?);
    publishes(&mut world, &other, &clone, 101).await?;
    other.stop().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_from_a_backup_is_fenced_until_a_person_decides() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    let backup = world.server.copy(&world.database).await?;
    let change = "UPDATE counters SET n = 2; INSERT INTO counters VALUES ('lost', 1)";
    world.database.execute(change).await?;
    world.runs().await?;
    world.is_true().await?;
    let before = fingerprint(&world.truth, &world.agents).await?;

    // In place, with the publisher running: its database is suddenly an older one.
    world.server.restore(&world.database, &backup).await?;
    is_fenced(&mut world.hub).await?;
    world.database.execute("UPDATE counters SET n = 3").await?;
    assert_eq!(world.hub.run(&["scan"]).await?.code, 1);
    assert_eq!(before, fingerprint(&world.truth, &world.agents).await?);
    world.hub.run(&["takeover", "--force"]).await?.ok()?;
    world.is_true().await?;
    settles(&world.hub).await?;
    assert_eq!(world.agents[0].get("counter", "lost").await?.0, 404);
    let mut connection = world.database.connect().await?;
    let token = commit(&mut connection, "UPDATE counters SET n = 4").await?;
    arrives(&world.hub, &token, "").await?;
    world.is_true().await?;
    world.hub.stop().await
}

/// Would catch a publisher that takes a restore which lasts for minutes for a mistake in its configuration, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn publishers_wait_for_a_database_that_is_gone_while_it_is_restored() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    let backup = world.server.copy(&world.database).await?;
    world.runs().await?;
    let mut other = world.another_hub()?;
    other.start().await?;
    let daemon = other.daemon()?;
    until("the other one to stand by", HEALS_WITHIN, || async {
        daemon.log().contains("standing by: ").then_some(())
    })
    .await?;

    world.server.remove(&world.database).await?;
    for hub in [&mut other, &mut world.hub] {
        let daemon = hub.daemon()?;
        let waits = || async {
            let log = daemon.log();
            let mut lines = log.lines();
            let said = lines.any(|l| l.contains("waiting: ") && l.contains("does not exist"));
            said.then_some(())
        };
        let waited = until(
            "the publisher to wait for the database",
            HEALS_WITHIN,
            waits,
        )
        .await;
        let is_there = daemon.is_running();
        assert!(waited.is_ok() && is_there, "{is_there}: {}", daemon.log());
    }

    world.server.rename(&backup, &world.database).await?;
    until("a publisher to go on", HEALS_WITHIN, || async {
        let status = world.hub.status().await.ok()?;
        let stores = status["engine"]["stores"].as_array().cloned();
        let theirs = other.status().await.ok()?;
        let theirs = theirs["engine"]["stores"].as_array().cloned();
        stores.or(theirs)
    })
    .await?;
    assert!(world.hub.daemon()?.is_running() && other.daemon()?.is_running());
    other.stop().await?;
    world.hub.stop().await
}
