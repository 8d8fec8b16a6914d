//! What lies between the publisher and the primary vanishes without a word, and another one takes its address: no packet
//! says that the old connections are dead, and the server behind is the same.

use crate::world::{COUNTER_CONTEXTS, COUNTER_TRUTH, COUNTERS, World};
use std::time::Duration;
use system_tests::relay::Relay;
use system_tests::server::{Database, Server};
use system_tests::{Result, until};

/// The address of a database by way of a relay.
pub async fn by_relay(database: &Database) -> Result<(Relay, String)> {
    let mut url = reqwest::Url::parse(&database.url)?;
    let relay = Relay::start(url.port().ok_or("no port")?, Duration::ZERO).await?;
    url.set_port(Some(relay.port)).map_err(|()| "no port")?;
    Ok((relay, url.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_connection_died_unseen_is_done_again() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    let fill = "INSERT INTO counters SELECT 't' || g, 1 FROM generate_series(1, 20) AS g";
    database.execute(&format!("{COUNTERS}; {fill}")).await?;
    let mut locker = database.connect().await?;
    let direct = Database::at(&database.url);
    let (relay, url) = by_relay(&database).await?;
    let (contexts, truth) = (COUNTER_CONTEXTS, COUNTER_TRUTH);
    let mut world =
        World::with_address(server, database, &url, &["eu-west-1"], contexts, truth).await?;
    world.runs().await?;

    // A build of one tenant hangs on the table.
    let lock = "BEGIN; LOCK TABLE counters; UPDATE counters SET n = 2 WHERE tenant = 't1'";
    sqlx::raw_sql(lock).execute(&mut locker).await?;
    direct.execute("SELECT hubcast.touch('t1')").await?;
    let waits = "DO $$ BEGIN ASSERT (SELECT count(*) > 0 FROM pg_locks WHERE relation = 'counters'::regclass AND NOT granted); END $$";
    until("a build that waits", Duration::from_secs(20), || async {
        direct.execute(waits).await.ok()
    })
    .await?;
    relay.vanish();
    sqlx::raw_sql("COMMIT").execute(&mut locker).await?;
    world.becomes_true().await?;
    world.hub.stop().await
}
