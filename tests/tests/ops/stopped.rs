//! What the guard and people keep from leaving, as metrics.

use crate::exposition::of_hub;
use crate::stage::{Stage, settles, shows};
use system_tests::Result;
use system_tests::hub::Hub;

const COUNT: &str = "hubcast_publisher_guarded_total";

/// Waits until something of what is stopped is older than nothing.
async fn has_an_age(hub: &Hub, name: &str) -> Result<()> {
    let is_old = |age: Option<f64>| age.is_some_and(|seconds| seconds > 0.0 && seconds < 600.0);
    settles(name, || of_hub(hub), |seen| is_old(seen.value(name, ""))).await?;
    Ok(())
}

#[tokio::test]
async fn what_the_guard_holds_and_what_is_paused_is_counted_and_is_no_trouble_with_data()
-> Result<()> {
    let mut stage = Stage::new(&["eu-west-1"]).await?;
    stage
        .sql("INSERT INTO item SELECT 'm' || n, 'k' || n, 'one' FROM generate_series(1, 300) n")
        .await?;
    stage.hub.start().await?;
    shows(&stage.hub, "hubcast_publisher_store_behind", "", 0.0).await?;
    for name in [
        "held_removals",
        "held_removals_oldest_seconds",
        "pauses",
        "pauses_oldest_seconds",
    ] {
        shows(&stage.hub, &format!("hubcast_publisher_{name}"), "", 0.0).await?;
    }
    // 95 are below the limit of a hundred; ten more are few and pass, which is said; 150 are held.
    let agent = &stage.agents[0];
    for (from, to, left) in [(1, 95, 207.0), (96, 105, 197.0)] {
        let sql = format!(
            "DELETE FROM item WHERE tenant IN (SELECT 'm' || n FROM generate_series({from}, {to}) n)"
        );
        stage.sql(&sql).await?;
        let what = format!("{left} contexts to be left");
        let ask = || crate::exposition::of_agent(agent);
        settles(&what, ask, |seen| {
            seen.value("hubcast_agent_contexts", "") == Some(left)
        })
        .await?;
    }
    shows(&stage.hub, COUNT, "outcome=\"passed\"", 1.0).await?;
    shows(&stage.hub, COUNT, "outcome=\"held\"", 0.0).await?;
    stage
        .sql("DELETE FROM item WHERE tenant IN (SELECT 'm' || n FROM generate_series(106, 255) n)")
        .await?;
    shows(&stage.hub, "hubcast_publisher_held_removals", "", 150.0).await?;
    shows(&stage.hub, COUNT, "outcome=\"held\"", 1.0).await?;
    has_an_age(&stage.hub, "hubcast_publisher_held_removals_oldest_seconds").await?;

    stage
        .hub
        .run(&["pause", "--reason", "looking into it"])
        .await?
        .ok()?;
    stage
        .sql("UPDATE item SET body = 'two' WHERE tenant = 't1'")
        .await?;
    shows(&stage.hub, "hubcast_publisher_pauses", "", 1.0).await?;
    has_an_age(&stage.hub, "hubcast_publisher_pauses_oldest_seconds").await?;
    // Somebody wants all of this held: nobody has to mend a row.
    let seen = of_hub(&stage.hub).await?;
    assert_eq!(
        seen.value("hubcast_publisher_held_tenants", ""),
        Some(0.0),
        "{}",
        seen.text
    );

    // The scan that follows a resume says that the guard still holds something.
    let resume = ["resume", "--reason", "it was right"];
    let resumed = stage.hub.run(&resume).await?;
    assert_eq!(resumed.code, 1, "{resumed:?}");
    stage.hub.run(&["approve"]).await?.ok()?;
    shows(&stage.hub, "hubcast_publisher_held_removals", "", 0.0).await?;
    shows(&stage.hub, "hubcast_publisher_pauses", "", 0.0).await?;
    stage.hub.stop().await
}
