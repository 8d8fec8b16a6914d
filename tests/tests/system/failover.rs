//! A standby is promoted that never got the last changes, with the old primary's publisher still alive.
//!
//! Would catch two writers of which each believes in another database, a failover that keeps what the new primary does
//! not have, and an old primary that comes back and writes again.

use crate::copies::{is_fenced, publishes};
use crate::truth::fingerprint;
use crate::world::{HEALS_WITHIN, World, settles};
use system_tests::hub::Hub;
use system_tests::postgres::execute;
use system_tests::server::{Database, Server};
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// A world on a primary with a standby that has everything, up to now: it follows no more.
async fn split() -> Result<(World, Server, Database)> {
    let mut world = World::with_counters(Server::own().await?, &REGIONS, 20).await?;
    let standby = world.server.standby().await?;
    let twin = standby.twin(&world.database)?;
    world.runs().await?;
    world.is_true().await?;
    let marked = "INSERT INTO counters VALUES ('marked', 1, '{}')";
    world.database.execute(marked).await?;
    until("the standby to catch up", HEALS_WITHIN, || async {
        let mut connection = twin.connect().await.ok()?;
        let sql = "SELECT count(*) FROM counters WHERE tenant = 'marked'";
        let found: i64 = sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .ok()?;
        (found == 1).then_some(())
    })
    .await?;
    execute(&twin.url, "ALTER SYSTEM SET primary_conninfo = ''").await?;
    execute(&twin.url, "SELECT pg_reload_conf()").await?;
    until("the standby to be alone", HEALS_WITHIN, || async {
        let mut connection = twin.connect().await.ok()?;
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver";
        let receivers: i64 = sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .ok()?;
        (receivers == 0).then_some(())
    })
    .await?;
    Ok((world, standby, twin))
}

/// Changes on the old primary that arrive in the regions, and that the standby never gets.
async fn lose_some(world: &mut World) -> Result<()> {
    let lost = "UPDATE counters SET n = 2 WHERE tenant IN ('t1', 't2'); DELETE FROM counters WHERE tenant = 't3'; \
                INSERT INTO counters VALUES ('lost', 1)";
    world.database.execute(lost).await?;
    world.becomes_true().await
}

/// Promotes the standby; returns a publisher for it.
async fn promote(world: &World, twin: &Database) -> Result<Hub> {
    execute(&twin.url, "SELECT pg_promote()").await?;
    twin.execute("UPDATE counters SET n = 7 WHERE tenant = 't4'")
        .await?;
    world.hub_of(twin)
}

/// The old primary comes back: its publisher is fenced, and the regions stay as the new one says.
async fn old_primary_returns(world: &mut World, hub: &Hub, twin: &Database) -> Result<()> {
    world.server.process()?.resume(false).await?;
    is_fenced(&mut world.hub).await?;
    world.truth.holds(twin, &world.agents).await?;
    world.database.execute("UPDATE counters SET n = 50").await?;
    publishes(world, hub, twin, 60).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_lost_changes_is_what_the_regions_get() -> Result<()> {
    let (mut world, _standby, twin) = split().await?;
    lose_some(&mut world).await?;
    let mut other = promote(&world, &twin).await?;
    other.start().await?;
    // The stores obey a writer that is alive: nobody takes them from it without being told to.
    until(
        "the new primary's publisher to wait",
        HEALS_WITHIN,
        || async {
            let status = other.status().await.ok()?;
            let stores = status["engine"]["stores"].as_array()?;
            stores.iter().all(|s| s["standing"] == "busy").then_some(())
        },
    )
    .await?;
    world.is_true().await?;

    world.server.process()?.kill()?;
    settles(&other).await?;
    world.truth.holds(&twin, &world.agents).await?;
    assert_eq!(world.agents[0].get("counter", "lost").await?.0, 404);
    old_primary_returns(&mut world, &other, &twin).await?;
    other.stop().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_lost_a_term_is_fenced_until_a_person_decides() -> Result<()> {
    let (mut world, _standby, twin) = split().await?;
    // The stores obey a term that the standby never heard of.
    world.hub.stop().await?;
    world.runs().await?;
    lose_some(&mut world).await?;
    let before = fingerprint(&world.truth, &world.agents).await?;
    let mut other = promote(&world, &twin).await?;
    world.server.process()?.kill()?;
    other.start().await?;
    is_fenced(&mut other).await?;
    assert_eq!(before, fingerprint(&world.truth, &world.agents).await?);
    other.run(&["takeover", "--force"]).await?.ok()?;
    world.truth.holds(&twin, &world.agents).await?;
    settles(&other).await?;
    old_primary_returns(&mut world, &other, &twin).await?;
    other.stop().await?;
    world.hub.stop().await
}
