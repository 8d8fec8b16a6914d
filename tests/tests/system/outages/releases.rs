//! Releases that do not understand one another, and a store that does not take what it is sent.

use super::between::{Between, Part};
use crate::kill_points::number;
use crate::world::{HEALS_WITHIN, World};
use contexts::push::PROTOCOL;
use std::time::{Duration, Instant};
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// A world of which the hub comes to the first region through somebody.
async fn world(part: Part) -> Result<(World, Between)> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 30).await?;
    let between = Between::before(&mut world.agents[0], part).await?;
    world.hub = world.another_hub()?;
    world.hub.run(&["migrate"]).await?.ok()?;
    Ok((world, between))
}

async fn change(world: &World, n: i64) -> Result<()> {
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    world.database.execute(&sql).await
}

async fn arrives(world: &World, agent: usize, n: i64) -> Result<()> {
    until("a change", HEALS_WITHIN, || async {
        (number(&world.agents[agent], "t1").await.ok()? == Some(n)).then_some(())
    })
    .await
}

/// What `status` says of the first region's store: its standing, and why.
async fn standing(world: &World) -> Result<(String, String)> {
    let status = world.hub.status().await?;
    let stores = status["engine"]["stores"].as_array().ok_or("no stores")?;
    let store = stores.iter().find(|s| s["region"] == REGIONS[0]);
    let store = store.ok_or("no such store")?;
    let text = |key: &str| store[key].as_str().unwrap_or_default().to_owned();
    Ok((text("standing"), store.to_string()))
}

/// A new column was known on one side of a fleet and not on the other, and what was sent could not be applied.
///
/// Would catch a hub and an agent of different protocols that believe each other, a hub that says only "cannot be decoded", and
/// other regions that wait.
#[tokio::test(flavor = "multi_thread")]
async fn releases_that_do_not_understand_each_other_say_so_and_harm_nobody() -> Result<()> {
    let (mut world, between) = world(Part::Silent).await?;
    world.runs().await?;
    world.is_true().await?;
    let (newer, ours) = (PROTOCOL + 1, PROTOCOL);
    for (n, part, says) in [
        (2, Part::HubSpeaks(newer), format!("push protocol {newer}")),
        (
            3,
            Part::HubSpeaks(PROTOCOL - 1),
            format!("push protocol {}", PROTOCOL - 1),
        ),
        (
            4,
            Part::AgentSpeaks(newer),
            format!("push protocol {newer}"),
        ),
    ] {
        between.plays(part.clone());
        change(&world, n).await?;
        arrives(&world, 1, n).await?;
        until("the store to be refused", HEALS_WITHIN, || async {
            let (standing, _) = standing(&world).await.ok()?;
            (standing == "refused").then_some(())
        })
        .await?;
        // Both numbers, and what to do.
        let (_, said) = standing(&world).await?;
        let is_said = [says.as_str(), &format!("{ours} to {ours}"), "upgrade"]
            .iter()
            .all(|w| said.contains(w));
        assert!(is_said, "{part:?}: {said}");
        let check = world.hub.run(&["check"]).await?;
        assert!(
            check.code == 1 && check.stdout.contains(&says),
            "{part:?}: {check:?}"
        );
        // What it has it goes on answering. One that answers otherwise has understood.
        let has = number(&world.agents[0], "t1").await?;
        let is_right = has == Some(n - 1) || matches!(part, Part::AgentSpeaks(_)) && has == Some(n);
        assert!(is_right, "{part:?}: {has:?}");
        // Whoever is upgraded is brought up to date by nobody.
        between.plays(Part::Silent);
        arrives(&world, 0, n).await?;
        world.becomes_true().await?;
    }
    world.hub.stop().await
}

/// A version that was refused was sent again at once, for ever, and nothing else moved.
///
/// Would catch a refusal that is repeated without a pause or not at all, that keeps other tenants or regions back, or that nobody
/// sees.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_a_store_refuses_is_tried_ever_more_rarely_and_the_rest_goes_on() -> Result<()>
{
    let (mut world, between) = world(Part::Refuses("t3")).await?;
    world.hub.start().await?;
    // A region that is filled for the first time, around the tenant that it does not take.
    until("the others", HEALS_WITHIN, || async {
        for n in (1..=30).filter(|n| *n != 3) {
            let tenant = format!("t{n}");
            (number(&world.agents[0], &tenant).await.ok()? == Some(1)).then_some(())?;
        }
        Some(())
    })
    .await?;
    // Whether there is such a key it cannot know.
    for tenant in ["t3", "nobody"] {
        assert_eq!(
            world.agents[0].get("counter", tenant).await?.0,
            503,
            "{tenant}"
        );
    }
    for n in 2..6 {
        change(&world, n).await?;
        arrives(&world, 0, n).await?;
        arrives(&world, 1, n).await?;
    }
    assert_eq!(number(&world.agents[1], "t3").await?, Some(1));
    until("a few refusals", HEALS_WITHIN, || async {
        (between.refused().len() >= 4).then_some(())
    })
    .await?;
    let (began, before) = (Instant::now(), between.refused().len());
    let seen = until("a pause", HEALS_WITHIN, || async {
        let refused = between.refused();
        let last = refused.last()?;
        (last.elapsed() > Duration::from_secs(3)).then_some(refused.len())
    })
    .await?;
    let within = began.elapsed().as_secs();
    assert!(
        seen - before <= 4 + usize::try_from(within)?,
        "{seen} refusals, {before} before, in {within} s"
    );
    // A person sees which tenant, where and why.
    let status = world.hub.run(&["status"]).await?;
    assert_eq!(status.code, 1);
    for word in ["t3", REGIONS[0], "a field that it does not know"] {
        assert!(status.stdout.contains(word), "{word}: {status:?}");
    }
    let refused = "hubcast_publisher_store_bundles_refused_total";
    assert!(world.hub.metric(refused, "invalid").await? >= 4.0);
    // Once, however often it is tried; each scan says only how it ended.
    let log = world.hub.daemon()?.log();
    let lines = log
        .lines()
        .filter(|l| l.contains("a store refused a bundle"));
    assert_eq!(lines.count(), 1, "{log}");
    // Once it takes them, a scan makes it whole.
    between.plays(Part::Silent);
    world.scan().await?;
    world.becomes_true().await?;
    world.hub.stop().await
}
