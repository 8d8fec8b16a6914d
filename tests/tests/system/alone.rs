//! Regions without a hub.

use crate::truth::{Content, Name};
use crate::world::{HEALS_WITHIN, World};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

/// The age that an agent tells.
pub async fn age(agent: &Agent) -> Option<f64> {
    let url = agent.url("/v1/contexts/counter/t1");
    let response = agent.client().get(url).send().await.ok()?;
    response
        .headers()
        .get("x-context-age")?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_restarts_and_serves_with_postgres_gone() -> Result<()> {
    let regions = ["eu-west-1", "us-east-1"];
    let mut world = World::with_counters(Server::own().await?, &regions, 20).await?;
    world.hub.start().await?;
    world.becomes_true().await?;
    let mut should: BTreeMap<String, BTreeMap<Name, Content>> = BTreeMap::new();
    for region in regions {
        should.insert(
            region.to_owned(),
            world.truth.of(&world.database, region).await?,
        );
    }
    world.server.process()?.kill()?;
    world.hub.kill()?;

    for clean in [false, true] {
        for agent in &mut world.agents {
            let before = age(agent).await.ok_or("no age")?;
            if clean {
                agent.stop().await?
            } else {
                agent.kill()?
            }
            let began = Instant::now();
            agent.start().await?;
            let seen = &*agent;
            until("readiness", Duration::from_secs(5), || async {
                seen.is_ready().await.then_some(())
            })
            .await?;
            println!("ready {:?} after its start, clean {clean}", began.elapsed());
            let after = age(agent).await.ok_or("no age after the restart")?;
            assert!(
                after >= before,
                "the age went from {before} to {after} by a restart"
            );
        }
        world.truth.answers_are(&world.agents, &should).await?;
    }

    // A publisher that starts with the database gone waits for it, and says so.
    world.hub.start().await?;
    let client = world.agents[0].client().clone();
    assert_eq!(
        client.get(world.hub.url("/healthz")).send().await?.status(),
        200
    );
    assert_eq!(
        client.get(world.hub.url("/readyz")).send().await?.status(),
        503
    );
    world.truth.answers_are(&world.agents, &should).await?;
    world.server.process()?.resume(false).await?;
    until("the publisher to be ready", HEALS_WITHIN, || async {
        let ready = client.get(world.hub.url("/readyz")).send().await.ok()?;
        ready.status().is_success().then_some(())
    })
    .await?;
    let change = "UPDATE counters SET n = 2; DELETE FROM counters WHERE tenant = 't9'";
    world.database.execute(change).await?;
    world.scan().await?;
    world.is_true().await?;
    world.hub.stop().await
}
