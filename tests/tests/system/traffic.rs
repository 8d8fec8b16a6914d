//! What a scan with nothing to change costs on the wire.

use crate::world::{REGIONS, World, sample_contexts, sample_dir};
use std::time::Duration;
use system_tests::Result;
use system_tests::relay::Relay;
use system_tests::sample::{self, Size};
use system_tests::server::Server;

const LIMIT: u64 = 64 << 10;

/// Bytes in both directions of a scan with nothing to change, command and all, for each store.
async fn idle_scan(size: Size) -> Result<Vec<u64>> {
    let server = Server::any().await?;
    let database = server.database().await?;
    sample::load(&sample_dir(), &database.url, size).await?;
    let kinds = crate::sample_truth::KINDS;
    let mut world = World::new(server, database, &REGIONS, &sample_contexts()?, kinds).await?;
    let mut relays = Vec::new();
    for agent in &mut world.agents {
        let relay = Relay::start(agent.push, Duration::ZERO).await?;
        agent.via = Some(relay.port);
        relays.push(relay);
    }
    world.hub = world.another_hub()?;
    world.hub.run(&["migrate"]).await?.ok()?;
    world.scan().await?;
    world.is_true().await?;
    let before: Vec<u64> = relays.iter().map(Relay::bytes).collect();
    world.scan().await?;
    Ok(relays
        .iter()
        .zip(before)
        .map(|(r, b)| r.bytes() - b)
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_with_nothing_to_change_moves_less_than_64_kib_per_store() -> Result<()> {
    let small = idle_scan(Size {
        tenants: 20,
        clusters: 40,
        keys: 100,
    })
    .await?;
    let large = idle_scan(Size {
        tenants: 500,
        clusters: 1_000,
        keys: 10_000,
    })
    .await?;
    println!(
        "an idle scan moved {small:?} bytes per store with 180 contexts, {large:?} with 12,000"
    );
    for (small, large) in small.into_iter().zip(large) {
        assert!(large > 0 && large < LIMIT, "{large} bytes");
        // It does not grow with the data, so the limit holds for any size.
        assert!(
            large < small + (16 << 10),
            "{small} bytes for little, {large} for much"
        );
    }
    Ok(())
}
