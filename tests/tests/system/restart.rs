//! The primary restarts under a publisher that runs: by a kill, and in order.
//!
//! Would catch a publisher that has to be started again, changes of the time of the restart that nobody carries, and a
//! receipt that is given for a transaction of which the server that runs now says nothing.

use crate::kill_points::number;
use crate::receipts::{arrives, commit};
use crate::world::{HEALS_WITHIN, World};
use reqwest::StatusCode;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// A change by plain SQL is in every region.
async fn change_arrives(world: &World, n: i64) -> Result<()> {
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    world.database.execute(&sql).await?;
    until("the change to arrive", HEALS_WITHIN, || async {
        for agent in &world.agents {
            if number(agent, "t1").await.ok()? != Some(n) {
                return None;
            }
        }
        Some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_go_on_after_the_primary_was_restarted() -> Result<()> {
    let mut world = World::with_counters(Server::own().await?, &REGIONS, 20).await?;
    world.runs().await?;
    for n in [2, 3] {
        let mut connection = world.database.connect().await?;
        let sql = format!("UPDATE counters SET note = 'before {n}' WHERE tenant = 't2'");
        let old = commit(&mut connection, &sql).await?;
        world.server.process()?.kill()?;
        world.server.process()?.resume(false).await?;
        change_arrives(&world, n).await?;
        let (status, answer) = world.hub.get(&format!("/v1/visible?token={old}")).await?;
        assert_eq!(
            (status, &answer["error"]),
            (StatusCode::CONFLICT, &"replaced".into()),
            "{answer}"
        );
        let mut connection = world.database.connect().await?;
        let new = commit(&mut connection, "SELECT 1").await?;
        arrives(&world.hub, &new, "").await?;
        world.is_true().await?;
    }
    assert!(world.hub.daemon()?.is_running());
    world.hub.stop().await
}
