//! A publisher that stands by becomes the writer: after a crash within 6 s, after a clean stop at once.
//!
//! Would catch a lease that runs out late, a clean stop that gives nothing back, and a status that names the wrong one.

use crate::kill_points::number;
use crate::world::{HEALS_WITHIN, World, settles};
use serde_json::Value;
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// The process of a publisher, as a status names it.
fn process(hub: &mut Hub) -> Result<String> {
    Ok(format!("(process {})", hub.daemon()?.id()))
}

/// Waits until the status, as a person asks for it and over the API, says who writes and who stands by.
async fn status_says(asked: &Hub, writer: &str, standby: &str) -> Result<()> {
    let says = |status: &Value| {
        let standbys = status["writer"]["standbys"].as_array();
        let mut hosts = standbys.into_iter().flatten().map(|s| &s["host"]);
        let ends = |host: &Value, name: &str| host.as_str().is_some_and(|h| h.ends_with(name));
        ends(&status["writer"]["host"], writer) && hosts.any(|h| ends(h, standby))
    };
    until("the status to name both", HEALS_WITHIN, || async {
        says(&asked.status().await.ok()?).then_some(())
    })
    .await?;
    let text = asked.run(&["status"]).await?.stdout;
    let line = |begin: &str, name: &str| {
        let mut lines = text.lines().filter(|l| l.starts_with(begin));
        assert!(lines.any(|l| l.contains(name)), "{begin}{name}: {text}");
    };
    line("writer    ", writer);
    line("stands by ", standby);
    Ok(())
}

/// Makes a change and waits until it is in every region; says how long after `since` that was.
pub async fn change_arrives(world: &World, n: i64, since: Instant) -> Result<Duration> {
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    world.database.execute(&sql).await?;
    until("the change to arrive", HEALS_WITHIN, || async {
        for agent in &world.agents {
            if number(agent, "t1").await.ok()? != Some(n) {
                return None;
            }
        }
        Some(since.elapsed())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_stands_by_takes_over_from_a_killed_and_from_a_stopped_one() -> Result<()>
{
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.runs().await?;
    let mut other = world.another_hub()?;
    other.start().await?;
    let (first, second) = (process(&mut world.hub)?, process(&mut other)?);
    status_says(&world.hub, &first, &second).await?;
    status_says(&other, &first, &second).await?;

    let since = Instant::now();
    world.hub.kill()?;
    let took = change_arrives(&world, 2, since).await?;
    println!("the first push after a kill came after {took:?}");
    // Six seconds, on a machine with nothing else to do.
    assert!(took < Duration::from_secs(12), "{took:?}");

    settles(&other).await?;
    world.hub.start().await?;
    let first = process(&mut world.hub)?;
    status_says(&world.hub, &second, &first).await?;
    let since = Instant::now();
    other.stop().await?;
    let took = change_arrives(&world, 3, since).await?;
    println!("the first push after a clean stop came after {took:?}");
    // Before the lease would have run out.
    assert!(took < Duration::from_millis(4_500), "{took:?}");
    world.becomes_true().await?;
    world.hub.stop().await
}
