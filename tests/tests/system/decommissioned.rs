//! A region that is given up: its stores become empty and say nothing of any key, and nothing fills them again.
//!
//! Would catch a region that answers 404 for keys which exist, one that is filled by the next scan, a guard that holds what
//! is meant, and a configuration that brings it back.

use crate::world::{HEALS_WITHIN, World};
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

async fn answers(agent: &Agent, tenant: &str) -> Result<u16> {
    Ok(agent.get("counter", tenant).await?.0.as_u16())
}

/// The region is empty and says of no key that it does not exist; the other one goes on.
async fn is_given_up(world: &World) -> Result<()> {
    for tenant in ["t1", "t300", "never"] {
        assert_eq!(answers(&world.agents[1], tenant).await?, 503, "{tenant}");
    }
    assert_eq!(world.agents[1].status().await?["contexts"], 0);
    assert_eq!(answers(&world.agents[0], "t300").await?, 200);
    assert_eq!(answers(&world.agents[0], "never").await?, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_decommissioned_is_empty_answers_503_and_stays_so() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 300).await?;
    world.runs().await?;
    for (args, why) in [
        (&["decommission", "us-east-1"][..], "--confirm us-east-1"),
        (
            &["decommission", "us-east-1", "--confirm", "eu-west-1"],
            "nothing was changed",
        ),
        (
            &["decommission", "us-west-7", "--confirm", "us-west-7"],
            "us-west-7",
        ),
    ] {
        let refused = world.hub.run(args).await?;
        assert!(
            refused.code == 2 && refused.stderr.contains(why),
            "{refused:?}"
        );
    }
    assert_eq!(answers(&world.agents[1], "t1").await?, 200);

    // One that is away is not empty, and is told so.
    world.agents[1].kill()?;
    let given_up = ["decommission", "us-east-1", "--confirm", "us-east-1"];
    let away = world.hub.run(&given_up).await?;
    assert!(
        away.code == 1 && away.stderr.contains("run this again"),
        "{away:?}"
    );
    world.agents[1].start().await?;
    until("its store to be emptied", HEALS_WITHIN, || async {
        (world.hub.run(&given_up).await.ok()?.code == 0).then_some(())
    })
    .await?;
    is_given_up(&world).await?;
    let audit = world.hub.run(&["audit"]).await?.ok()?.stdout;
    assert!(audit.contains("decommission"), "{audit}");

    // Nothing that still names it runs.
    world.hub.stop().await?;
    for command in ["run", "scan", "migrate", "check"] {
        let refused = world.hub.run(&[command]).await?;
        let named = format!("{}{}", refused.stdout, refused.stderr);
        assert!(
            refused.code == 2 && named.contains("us-east-1 was decommissioned"),
            "{command}: {refused:?}"
        );
    }
    let only: Vec<&Agent> = world.agents.iter().take(1).collect();
    let mut without = Hub::new(
        world.dir.path(),
        &world.database.url,
        &only,
        &world.contexts,
    )?;
    without.run(&["migrate"]).await?.ok()?;
    without.start().await?;
    world
        .database
        .execute("UPDATE counters SET n = 2 WHERE tenant = 't1'")
        .await?;
    until(
        "the change in the region that is left",
        HEALS_WITHIN,
        || async {
            let (_, body) = world.agents[0].get("counter", "t1").await.ok()?;
            body.contains("\"n\": 2").then_some(())
        },
    )
    .await?;
    without.run(&["scan"]).await?.ok()?;
    is_given_up(&world).await?;
    without.stop().await
}
