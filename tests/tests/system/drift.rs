//! Changes that no trigger sees, because somebody disabled one, or because a table is newer than the triggers.
//!
//! Would catch a publisher that goes on calling its answers fresh while changes are missed, that does not say so, and
//! that does not heal when the triggers are back.

use crate::alone::age;
use crate::kill_points::number;
use crate::receipts::{arrives, commit};
use crate::world::{COUNTER_CONTEXTS, COUNTER_TRUTH, HEALS_WITHIN, World, scans, settles};
use std::time::Instant;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

const PARTITIONED: &str = "
CREATE TABLE counters (tenant text PRIMARY KEY, n bigint NOT NULL, regions text[], note text NOT NULL DEFAULT '')
    PARTITION BY LIST (tenant);
CREATE TABLE counters_rest PARTITION OF counters DEFAULT;
INSERT INTO counters SELECT 't' || g, 1 FROM generate_series(1, 20) AS g";

/// Makes a change that no trigger sees. Before the scan that heals it ends, the trouble is known by these words, and
/// from then on answers count from scans.
async fn is_found_and_healed(world: &mut World, change: &str, words: &str) -> Result<()> {
    world.database.execute(change).await?;
    let check = world.hub.run(&["check"]).await?;
    assert!(format!("{check:?}").contains(words), "{check:?}");
    let began = Instant::now();
    world.scan().await?;
    until("the publisher to say so", HEALS_WITHIN, || async {
        let status = world.hub.status().await.ok()?;
        let gap = status["engine"]["capture_gap"].to_string();
        gap.contains(words).then_some(())
    })
    .await?;
    let text = world
        .hub
        .run(&["status", "--hub", &world.hub.url("")])
        .await?;
    assert!(text.stdout.contains(words), "{text:?}");
    world.is_true().await?;
    for agent in &world.agents {
        until("an age that counts from the scan", HEALS_WITHIN, || async {
            let since = began.elapsed().as_secs_f64();
            age(agent).await.filter(|age| *age > 3.0 && since > 3.0)
        })
        .await?;
    }
    Ok(())
}

/// `migrate` puts the triggers right; the publisher notices at its next look, which comes with a scan at the latest.
async fn is_right_after_migrate(world: &mut World, change: &str) -> Result<()> {
    world.hub.run(&["migrate"]).await?.ok()?;
    world.hub.run(&["check"]).await?.ok()?;
    world.scan().await?;
    settles(&world.hub).await?;
    let before = scans(&world.hub).await?;
    let mut connection = world.database.connect().await?;
    let token = commit(&mut connection, change).await?;
    arrives(&world.hub, &token, "").await?;
    world.is_true().await?;
    for agent in &world.agents {
        until("a young answer", HEALS_WITHIN, || async {
            age(agent).await.filter(|age| *age < 3.0)
        })
        .await?;
    }
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_trigger_and_a_new_partition_are_found_said_and_healed() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(PARTITIONED).await?;
    let mut world = World::new(server, database, &REGIONS, COUNTER_CONTEXTS, COUNTER_TRUTH).await?;
    world.runs().await?;
    let disabled =
        "ALTER TABLE counters DISABLE TRIGGER USER; UPDATE counters SET n = 2 WHERE tenant = 't1'";
    is_found_and_healed(&mut world, disabled, "disabled").await?;
    is_right_after_migrate(&mut world, "UPDATE counters SET n = 3 WHERE tenant = 't1'").await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(3));

    let added = "CREATE TABLE counters_new PARTITION OF counters FOR VALUES IN ('new'); \
                 INSERT INTO counters_new VALUES ('new', 1)";
    is_found_and_healed(&mut world, added, "counters_new").await?;
    is_right_after_migrate(&mut world, "UPDATE counters_new SET n = 2").await?;
    assert_eq!(number(&world.agents[0], "new").await?, Some(2));
    world.hub.stop().await
}
