//! Commands beside a daemon, without one, and beside one that is stopped.

use crate::kill_points::{delivered, number};
use crate::world::{HEALS_WITHIN, World};
use std::time::{Duration, Instant};
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// The epoch, and how many requests were ever left.
async fn epoch_and_requests(world: &World) -> Result<(i64, i64)> {
    let mut connection = world.database.connect().await?;
    let sql = "SELECT (SELECT epoch FROM hubcast.writer), \
               (SELECT coalesce(last_value, 0) FROM pg_sequences WHERE schemaname = 'hubcast' AND sequencename = 'requests_id_seq')";
    Ok(sqlx::query_as(sql).fetch_one(&mut connection).await?)
}

async fn change_and_republish(world: &World, n: i64) -> Result<Duration> {
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    world.database.execute(&sql).await?;
    let began = Instant::now();
    let ran = world
        .hub
        .run(&["republish", "tenant", "t1", "--json"])
        .await?
        .ok()?;
    let took = began.elapsed();
    let receipts = ran.json()?;
    assert_eq!(delivered(&receipts).len(), REGIONS.len(), "{receipts}");
    for receipt in receipts["receipts"].as_array().into_iter().flatten() {
        assert_eq!(receipt["contexts"], 2, "{receipt}");
        assert!(
            receipt["version"].as_str().is_some_and(|v| v.contains('.')),
            "{receipt}"
        );
        assert!(receipt["ms"].is_u64(), "{receipt}");
    }
    // A receipt says that the value is readable now.
    for agent in &world.agents {
        assert_eq!(number(agent, "t1").await?, Some(n), "{}", agent.region);
    }
    Ok(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_asks_the_daemon_and_is_the_writer_without_one() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    let before = epoch_and_requests(&world).await?;
    change_and_republish(&world, 2).await?;
    let alone = epoch_and_requests(&world).await?;
    assert!(
        alone.0 > before.0 && alone.1 == before.1,
        "the command was the writer: {before:?} {alone:?}"
    );

    world.hub.start().await?;
    until("the daemon to be the writer", HEALS_WITHIN, || async {
        epoch_and_requests(&world)
            .await
            .ok()
            .filter(|now| now.0 > alone.0)
    })
    .await?;
    world.becomes_true().await?;
    let daemon = epoch_and_requests(&world).await?;
    let took = change_and_republish(&world, 3).await?;
    println!("republish through the daemon took {took:?}");
    let asked = epoch_and_requests(&world).await?;
    assert!(
        asked.0 == daemon.0 && asked.1 > daemon.1,
        "the daemon was asked: {daemon:?} {asked:?}"
    );
    world.database.execute("UPDATE counters SET n = 4").await?;
    world.scan().await?;
    world.is_true().await?;
    assert_eq!(epoch_and_requests(&world).await?.0, daemon.0);
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_republish_of_what_did_not_change_is_delivered_all_the_same() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    // The build is often done before the stores obey the command that republishes; and `nobody` has no row.
    for tenant in ["t1", "nobody", "t2", "t3"] {
        let ran = world
            .hub
            .run(&["republish", "tenant", tenant, "--json"])
            .await?;
        let receipts = ran.ok()?.json()?;
        assert_eq!(delivered(&receipts).len(), REGIONS.len(), "{receipts}");
    }
    // The same after a writer that was killed, whose stores obey nobody for a while.
    world.hub.start().await?;
    world.becomes_true().await?;
    world.hub.kill()?;
    let ran = world
        .hub
        .run(&["republish", "tenant", "t1", "--json"])
        .await?;
    let receipts = ran.ok()?.json()?;
    assert_eq!(delivered(&receipts).len(), REGIONS.len(), "{receipts}");
    world.is_true().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_beside_a_stopped_daemon_ends_within_40_s() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.hub.start().await?;
    world.becomes_true().await?;
    let daemon = world.hub.daemon()?;
    daemon.signal(rustix::process::Signal::STOP)?;
    until("the daemon to stop", HEALS_WITHIN, || async {
        daemon.is_stopped().then_some(())
    })
    .await?;
    let took = change_and_republish(&world, 2).await?;
    println!("republish beside a stopped daemon took {took:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");
    world.hub.daemon()?.signal(rustix::process::Signal::CONT)?;
    world.becomes_true().await?;
    world.hub.stop().await
}
