//! The writer alone is cut off from the database, while who stands by still reaches it and both reach the stores.
//!
//! Would catch a writer that goes on pushing after somebody else became the writer, a takeover that waits for its silence
//! for ever, and one that does not stand by once it is back.

use crate::vanished::by_relay;
use crate::world::{HEALS_WITHIN, World, settles};
use system_tests::server::{Database, Server};
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_takes_over_from_a_writer_that_lost_the_database() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    let (relay, url) = by_relay(&world.database).await?;
    world.hub = world.hub_of(&Database::at(&url))?;
    world.runs().await?;
    let mut other = world.another_hub()?;
    other.start().await?;
    for n in [2, 3] {
        relay.cut();
        world
            .database
            .execute(&format!("UPDATE counters SET n = {n} WHERE tenant < 't15'"))
            .await?;
        // Whoever writes can only be the other one.
        world.becomes_true().await?;
        settles(&other).await?;
        relay.mend();
        until("the first one to stand by", HEALS_WITHIN, || async {
            let status = other.status().await.ok()?;
            let standbys = status["writer"]["standbys"].as_array()?.len();
            (standbys > 0).then_some(())
        })
        .await?;
        world
            .database
            .execute(&format!("UPDATE counters SET note = 'after {n}'"))
            .await?;
        world.becomes_true().await?;
        // And back again, for the second round.
        other.stop().await?;
        settles(&world.hub).await?;
        other.start().await?;
    }
    other.stop().await?;
    world.hub.stop().await
}
