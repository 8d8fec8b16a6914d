//! A store file that changed without its agent.

use crate::world::World;
use redb::ReadableTable;
use spoke_agent::store::redb::tables::CONTEXTS;
use std::path::Path;
use std::time::Duration;
use system_tests::server::Server;
use system_tests::{Result, until};

/// Changes the number in a value, and nothing else: the digests stay as they were.
fn edit(file: &Path, tenant: &str, kind: &str, key: &str) -> Result<()> {
    let database = redb::Database::open(file)?;
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(CONTEXTS)?;
        let name = (tenant.as_bytes(), kind.as_bytes(), key.as_bytes());
        let mut bytes = table.get(name)?.ok_or("no such record")?.value().to_vec();
        let number = br#""n": 1"#;
        let at = bytes.windows(number.len()).position(|w| w == number);
        let at = at.ok_or("the value does not have the number")?;
        bytes[at + number.len() - 1] = b'7';
        table.insert(name, bytes.as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_value_is_never_served_and_one_scan_heals_it() -> Result<()> {
    let regions = ["eu-west-1", "us-east-1"];
    let mut world = World::with_counters(Server::any().await?, &regions, 20).await?;
    world.scan().await?;
    world.agents[0].stop().await?;
    edit(&world.agents[0].data, "t3", "counter", "t3")?;
    world.agents[0].start().await?;

    let agent = &world.agents[0];
    assert_eq!(
        agent.get("counter", "t3").await?.0,
        503,
        "neither the wrong value nor its absence"
    );
    assert_eq!(
        agent.get("counter", "t4").await?.0,
        200,
        "the neighbours answer"
    );
    assert_eq!(
        agent.get("twin", "twin of t3").await?.0,
        200,
        "and so does the rest of the bundle"
    );
    // What does not exist is known once all rows were checked, which goes on behind the open listeners.
    until("absence", Duration::from_secs(30), || async {
        let (status, _) = agent.get("twin", "nobody").await.ok()?;
        (status == 404).then_some(())
    })
    .await?;

    let summary = world.scan().await?.json()?;
    let stores = summary["stores"].as_array().ok_or("no stores")?;
    let repaired: Vec<_> = stores
        .iter()
        .map(|s| (s["region"].as_str(), s["repaired"].as_u64()))
        .collect();
    assert_eq!(
        repaired,
        [(Some("eu-west-1"), Some(1)), (Some("us-east-1"), Some(0))]
    );
    assert_eq!(stores[0]["repaired_tenants"][0], "t3");
    world.is_true().await
}
