//! Two databases that both believe to be the hub's.

use crate::truth::fingerprint;
use crate::world::World;
use system_tests::Result;
use system_tests::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_of_a_cloned_database_is_fenced() -> Result<()> {
    let regions = ["eu-west-1", "us-east-1"];
    let mut world = World::with_counters(Server::any().await?, &regions, 20).await?;
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
