//! A revocation while a bulk change of many tenants, its own among them, is being counted by the guard.
//!
//! Would catch a guard that lets what a small transaction removes wait until a large one is built (or holds it with the
//! large one), and one that lets what the large one removes leave because of the small one.

use crate::order::{close_gate, open_gate, somebody_waits};
use crate::truth::Kind;
use crate::world::{HEALS_WITHIN, World, settles};
use rustix::process::Signal;
use sqlx::PgConnection;
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

/// Six keys of each tenant, of which 841 may leave within ten minutes. The build of the last tenant waits at a gate.
const KEYS: &str = "
CREATE TABLE keys (tenant text, n int, PRIMARY KEY (tenant, n));
CREATE FUNCTION gate(tenant text) RETURNS boolean LANGUAGE plpgsql STABLE COST 1000000 AS $$
BEGIN
    IF tenant = 'zzz' THEN
        PERFORM pg_advisory_xact_lock_shared(4711);
    END IF;
    RETURN true;
END $$;
INSERT INTO keys SELECT t, n FROM (SELECT 't' || g FROM generate_series(1, 700) g UNION ALL SELECT 'zzz') AS t (t), generate_series(1, 6) AS n;
";
const CONTEXTS: &str = r#"
[[context]]
kind  = "key"
query = "SELECT tenant || ' ' || n AS key, tenant FROM keys WHERE gate(tenant)"
watch = [{ table = "keys", tenant = "tenant" }]
"#;
const TRUTH: &[Kind] = &[Kind {
    name: "key",
    sql: "SELECT tenant || ' ' || n, tenant, '{}' FROM keys WHERE $1 IS NOT NULL",
}];

/// Everything runs, the gate is closed, and the bulk change waits at it: the tenants before it are built.
async fn world() -> Result<(World, PgConnection)> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(KEYS).await?;
    let regions = ["eu-west-1"];
    let mut world = World::new(server, database, &regions, CONTEXTS, TRUTH).await?;
    world.runs().await?;
    let mut gate = world.database.connect().await?;
    close_gate(&mut gate).await?;
    Ok((world, gate))
}

async fn answers(agent: &Agent, key: &str) -> Result<u16> {
    Ok(agent.get("key", key).await?.0.as_u16())
}

async fn is_revoked(agent: &Agent, key: &str) -> Result<()> {
    let what = format!("{key:?} to be revoked");
    until(&what, HEALS_WITHIN, || async {
        (answers(agent, key).await.ok()? == 404).then_some(())
    })
    .await
}

async fn becomes_held(world: &World, n: u64) -> Result<()> {
    let what = format!("{n} removals to be held");
    until(&what, HEALS_WITHIN, || async {
        let listed = world.hub.run(&["held", "--json"]).await.ok()?.json().ok()?;
        let groups = listed["held"].as_array()?;
        let held = groups.iter().filter_map(|g| g["contexts"].as_u64());
        (held.sum::<u64>() == n).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_does_not_wait_until_a_mass_delete_of_its_tenant_is_counted() -> Result<()> {
    let (mut world, mut gate) = world().await?;
    world
        .database
        .execute("DELETE FROM keys WHERE n <= 2")
        .await?;
    somebody_waits(&world).await?;
    assert_eq!(answers(&world.agents[0], "t1 1").await?, 200);
    world
        .database
        .execute("DELETE FROM keys WHERE tenant = 't1' AND n = 3")
        .await?;
    is_revoked(&world.agents[0], "t1 3").await?;
    // And a new key of the tenant arrives as well, while what the large one removed stays.
    world
        .database
        .execute("INSERT INTO keys VALUES ('t1', 7)")
        .await?;
    until("the new key", HEALS_WITHIN, || async {
        (answers(&world.agents[0], "t1 7").await.ok()? == 200).then_some(())
    })
    .await?;
    assert_eq!(answers(&world.agents[0], "t1 1").await?, 200);

    open_gate(&mut gate).await?;
    becomes_held(&world, 2 * 701).await?;
    assert_eq!(answers(&world.agents[0], "t1 1").await?, 200);
    assert_eq!(answers(&world.agents[0], "t1 3").await?, 404);
    world.hub.run(&["approve"]).await?.ok()?;
    world.becomes_true().await?;
    world.scan().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_of_a_tenant_leaves_once_the_bulk_change_may() -> Result<()> {
    let (mut world, mut gate) = world().await?;
    world
        .database
        .execute("DELETE FROM keys WHERE n = 1")
        .await?;
    somebody_waits(&world).await?;
    world
        .database
        .execute("DELETE FROM keys WHERE tenant = 't1' AND n = 2")
        .await?;
    is_revoked(&world.agents[0], "t1 2").await?;
    assert_eq!(answers(&world.agents[0], "t1 1").await?, 200);
    open_gate(&mut gate).await?;
    world.becomes_true().await?;
    settles(&world.hub).await?;
    world.scan().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_in_the_same_moment_as_a_mass_delete_does_not_wait_for_it() -> Result<()> {
    let (mut world, mut gate) = world().await?;
    // Both are committed before the publisher looks, so no build has only one of them.
    world.hub.daemon()?.signal(Signal::STOP)?;
    world
        .database
        .execute("DELETE FROM keys WHERE n <= 2")
        .await?;
    world
        .database
        .execute("DELETE FROM keys WHERE tenant = 't1' AND n = 3")
        .await?;
    world.hub.daemon()?.signal(Signal::CONT)?;
    is_revoked(&world.agents[0], "t1 3").await?;
    somebody_waits(&world).await?;
    assert_eq!(answers(&world.agents[0], "t2 1").await?, 200);
    open_gate(&mut gate).await?;
    // What could not be told apart left with the revocation; nothing else did.
    becomes_held(&world, 2 * 700).await?;
    world.hub.run(&["approve"]).await?.ok()?;
    world.becomes_true().await?;
    world.hub.stop().await
}
