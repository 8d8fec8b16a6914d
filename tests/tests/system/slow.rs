//! One store is slow, or one change is large: nobody else waits.

use crate::ages::{Ages, LARGE, LARGE_BYTES};
use crate::alone::age;
use crate::kill_points::number;
use crate::order::Watch;
use crate::receipts::{arrives, commit};
use crate::world::{HEALS_WITHIN, World};
use reqwest::StatusCode;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Executor};
use std::time::Instant;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// Would catch a queue of messages instead of a set of tenants, and a store that waits for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_changed_a_thousand_times_is_one_push_to_a_slow_store() -> Result<()> {
    const BUNDLES: &str = "hubcast_publisher_store_bundles_acked_total";
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.runs().await?;
    let watch = Watch::on_some(&world.agents[1..], "t1");
    let mut before = Vec::new();
    for region in REGIONS {
        before.push(world.hub.metric(BUNDLES, region).await?);
    }
    world.agents[0].process()?.signal(Signal::STOP)?;
    let mut connection = world.database.connect().await?;
    let near = format!("&regions={}", REGIONS[1]);
    let began = Instant::now();
    let mut last = String::new();
    for hundred in 1..=10 {
        let n = hundred * 100;
        let changes = format!(
            "DO $$ BEGIN FOR i IN {}..{} LOOP UPDATE counters SET n = i WHERE tenant = 't1'; COMMIT; END LOOP; END $$",
            n - 99,
            n - 1
        );
        connection.execute(AssertSqlSafe(changes)).await?;
        let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
        last = commit(&mut connection, &sql).await?;
        arrives(&world.hub, &last, &near).await?;
        assert_eq!(number(&world.agents[1], "t1").await?, Some(n));
    }
    println!(
        "a thousand changes beside a slow store took {:?}",
        began.elapsed()
    );
    let far = format!("/v1/visible?token={last}&timeout=0s&regions={}", REGIONS[0]);
    assert_eq!(world.hub.get(&far).await?.0, StatusCode::GATEWAY_TIMEOUT);
    world.agents[0].process()?.signal(Signal::CONT)?;
    arrives(&world.hub, &last, "").await?;
    world.is_true().await?;
    watch.end().await?;
    let [slow, other] = [0, 1].map(|i| (REGIONS[i], before[i]));
    let slow = world.hub.metric(BUNDLES, slow.0).await? - slow.1;
    let other = world.hub.metric(BUNDLES, other.0).await? - other.1;
    // One may have been under way when it became slow; all others are one.
    assert!(
        (1.0..=2.0).contains(&slow),
        "{slow} bundles to the slow store"
    );
    assert!(other >= 10.0, "{other} bundles to the other");
    world.hub.stop().await
}

/// Would catch an age that counts from the last heartbeat, or the last look, whatever has not arrived.
#[tokio::test(flavor = "multi_thread")]
async fn an_age_is_true_while_a_push_is_on_its_way() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    let relay = world.relay_to(0).await?;
    world.runs().await?;
    let ages = Ages::of(&world.agents);
    let mut connection = world.database.connect().await?;
    // The push is held up; heartbeats pass, and so does everything to the other region.
    relay.hold(LARGE_BYTES);
    let token = ages.change(&mut connection, 2, LARGE).await?;
    let near = format!("&regions={}", REGIONS[1]);
    arrives(&world.hub, &token, &near).await?;
    until("an age that grows", HEALS_WITHIN, || async {
        age(&world.agents[0]).await.filter(|age| *age > 4.0)
    })
    .await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(1));
    until(
        "a young answer in the other region",
        HEALS_WITHIN,
        || async { age(&world.agents[1]).await.filter(|age| *age < 3.0) },
    )
    .await?;
    relay.mend();
    arrives(&world.hub, &token, "").await?;
    world.is_true().await?;
    ages.end().await?;
    world.hub.stop().await
}

/// Would catch changes that are built and sent in the order in which they came.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_overtakes_a_bulk_load() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 3_000).await?;
    world.runs().await?;
    let mut connection = world.database.connect().await?;
    let bulk = "UPDATE counters SET n = 2 WHERE tenant <> 't2999'";
    let bulk = commit(&mut connection, bulk).await?;
    let began = Instant::now();
    let revocation = "UPDATE counters SET n = 2 WHERE tenant = 't2999'";
    commit(&mut connection, revocation).await?;
    // Its receipt would wait for all that was committed before.
    for agent in &world.agents {
        until("the revocation", HEALS_WITHIN, || async {
            let shown = number(agent, "t2999").await.ok()?;
            (shown == Some(2)).then_some(())
        })
        .await?;
    }
    let took = began.elapsed();
    let asked = format!("/v1/visible?token={bulk}&timeout=0s");
    let (status, _) = world.hub.get(&asked).await?;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "the bulk came first");
    arrives(&world.hub, &bulk, "").await?;
    println!(
        "the revocation took {took:?}, the bulk {:?}",
        began.elapsed()
    );
    world.is_true().await?;
    world.hub.stop().await
}
