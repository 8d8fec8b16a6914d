//! The primary restarts under a publisher that runs: by a kill, and in order.
//!
//! Would catch a publisher that has to be started again, changes of the time of the restart that nobody carries, and a
//! receipt that is given for a transaction of which the server that runs now says nothing.

use crate::receipts::{arrives, commit};
use crate::takeover::change_arrives;
use crate::world::World;
use reqwest::StatusCode;
use std::time::Instant;
use system_tests::Result;
use system_tests::server::Server;

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

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
        change_arrives(&world, n, Instant::now()).await?;
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
