//! No backward step: a slow scan, a publisher that was stopped in the middle of its work, an answer that is lost.

use crate::ages::{Ages, LARGE, LARGE_BYTES};
use crate::kill_points::number;
use crate::receipts::{arrives, commit};
use crate::world::{
    COUNTER_CONTEXTS, COUNTER_TRUTH, COUNTERS, HEALS_WITHIN, World, scans, settles,
};
use sqlx::PgConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use system_tests::process::Process;
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};
use tokio::task::JoinHandle;

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// A query waits for this lock when it comes to the row of the tenant `gate`, and its snapshot grows old.
pub const GATE: &str = r"
CREATE FUNCTION gate(tenant text) RETURNS boolean LANGUAGE plpgsql STABLE COST 1000000 AS $$
BEGIN
    IF tenant = 'gate' THEN
        PERFORM pg_advisory_xact_lock_shared(4711);
    END IF;
    RETURN true;
END $$;
INSERT INTO counters VALUES ('gate', 1)";

/// Tenants `t1` to `t5` and `gate`, whose builds stand still while the gate is closed.
pub async fn gated_world() -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(COUNTERS).await?;
    database.execute(GATE).await?;
    database
        .execute("INSERT INTO counters SELECT 't' || g, 1 FROM generate_series(1, 5) g")
        .await?;
    let contexts = COUNTER_CONTEXTS.replace("FROM counters", "FROM counters WHERE gate(tenant)");
    World::new(server, database, &REGIONS, &contexts, COUNTER_TRUTH).await
}

/// Reads a tenant in every region without end; its number never becomes smaller.
pub struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<u64>>,
}

impl Watch {
    pub fn on(world: &World, tenant: &'static str) -> Self {
        Self::on_some(&world.agents, tenant)
    }

    /// The same in some regions.
    pub fn on_some(agents: &[Agent], tenant: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let agents: Vec<Agent> = agents.iter().map(Agent::reader).collect();
        let task = tokio::spawn(async move {
            let (mut last, mut reads) = (vec![None; agents.len()], 0);
            while !stopped.load(Ordering::SeqCst) {
                for (agent, last) in agents.iter().zip(&mut last) {
                    let n = number_if_ready(agent, tenant).await?;
                    if n < *last {
                        return Err(format!("{} went from {last:?} to {n:?}", agent.region).into());
                    }
                    (*last, reads) = (n, reads + 1);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(reads)
        });
        Self { stop, task }
    }

    pub async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let reads = self.task.await??;
        assert!(reads > 20, "only {reads} reads");
        Ok(())
    }
}

/// The counter of a tenant; none while the region does not know.
pub async fn number_if_ready(agent: &Agent, tenant: &str) -> Result<Option<i64>> {
    let (status, body) = agent.get("counter", tenant).await?;
    match status.as_u16() {
        200 => Ok(serde_json::from_str::<serde_json::Value>(&body)?["n"].as_i64()),
        503 => Ok(None),
        _ => Err(format!("{}: {status} {body}", agent.region).into()),
    }
}

pub async fn close_gate(connection: &mut PgConnection) -> Result<()> {
    let sql = "SELECT pg_advisory_lock(4711)";
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

pub async fn open_gate(connection: &mut PgConnection) -> Result<()> {
    let sql = "SELECT pg_advisory_unlock(4711)";
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

/// Waits until a build stands at the gate, its snapshot taken.
pub async fn somebody_waits(world: &World) -> Result<()> {
    let sql = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("a build to wait at the gate", HEALS_WITHIN, || async {
        let mut connection = world.database.connect().await.ok()?;
        let waits: bool = sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .ok()?;
        waits.then_some(())
    })
    .await
}

/// Sets the counter of `t1`, and republishes it while the scan stands still.
async fn overtake(world: &World, n: i64) -> Result<()> {
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    world.database.execute(&sql).await?;
    world.hub.run(&["republish", "tenant", "t1"]).await?.ok()?;
    for agent in &world.agents {
        assert_eq!(
            number_if_ready(agent, "t1").await?,
            Some(n),
            "{}",
            agent.region
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_a_republish_overtakes_does_not_step_back() -> Result<()> {
    let mut world = gated_world().await?;
    let mut gate = world.database.connect().await?;

    // The first scan fills empty stores from its snapshot, the second compares full ones.
    close_gate(&mut gate).await?;
    world.hub.start().await?;
    somebody_waits(&world).await?;
    let watch = Watch::on(&world, "t1");
    overtake(&world, 2).await?;
    open_gate(&mut gate).await?;
    world.becomes_true().await?;

    close_gate(&mut gate).await?;
    let other = world.another_hub()?;
    let scan = tokio::spawn(async move { other.run(&["scan"]).await });
    somebody_waits(&world).await?;
    overtake(&world, 3).await?;
    open_gate(&mut gate).await?;
    scan.await??.ok()?;
    world.is_true().await?;
    watch.end().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_stopped_before_a_push_changes_nothing_when_it_goes_on() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    world.database.execute("UPDATE counters SET n = 2").await?;
    world
        .hub
        .start_with_failpoint(Some("publisher.before_push=stop"))
        .await?;
    let stopped = world.hub.daemon()?;
    until("the publisher to stop", HEALS_WITHIN, || async {
        stopped.is_stopped().then_some(())
    })
    .await?;

    world.database.execute("UPDATE counters SET n = 3").await?;
    let began = Instant::now();
    let other = world.another_hub()?;
    other.run(&["scan"]).await?.ok()?;
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(40),
        "a scan beside a stopped publisher took {took:?}"
    );
    world.is_true().await?;

    let watch = Watch::on(&world, "t1");
    let daemon = world.hub.daemon()?;
    daemon.signal(rustix::process::Signal::CONT)?;
    until(
        "the old publisher to see that its term is over",
        HEALS_WITHIN,
        || async {
            let log = daemon.log();
            log.contains("no longer the writer").then_some(())
        },
    )
    .await?;
    world.is_true().await?;
    // It stands by, becomes the writer in a term of its own, and then works like any other.
    world
        .database
        .execute("UPDATE counters SET n = 4 WHERE tenant = 't1'")
        .await?;
    other.run(&["republish", "tenant", "t1"]).await?.ok()?;
    for agent in &world.agents {
        assert_eq!(number(agent, "t1").await?, Some(4));
    }
    watch.end().await?;
    world.becomes_true().await?;
    world.hub.stop().await
}

async fn stops(daemon: &Process) -> Result<()> {
    until("the publisher to stop", HEALS_WITHIN, || async {
        daemon.is_stopped().then_some(())
    })
    .await
}

/// Would catch a store that takes what an earlier writer built, and a publisher that does not notice that its term ended.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_publisher_has_in_hand_is_refused_when_it_goes_on() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    let failpoint = Some("publisher.before_push=stop");
    world.hub.start_with_failpoint(failpoint).await?;
    settles(&world.hub).await?;
    let watch = Watch::on(&world, "t1");
    let change = |n| format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    world.database.execute(&change(2)).await?;
    stops(world.hub.daemon()?).await?;

    world.database.execute(&change(3)).await?;
    let mut other = world.another_hub()?;
    other.start().await?;
    world.becomes_true().await?;
    let daemon = world.hub.daemon()?;
    daemon.signal(rustix::process::Signal::CONT)?;
    until(
        "the old publisher to see that its term is over",
        HEALS_WITHIN,
        || async { daemon.log().contains("no longer the writer").then_some(()) },
    )
    .await?;
    world.is_true().await?;
    let mut connection = world.database.connect().await?;
    let token = commit(&mut connection, &change(4)).await?;
    arrives(&world.hub, &token, "").await?;
    world.is_true().await?;
    watch.end().await?;
    other.stop().await?;
    world.hub.stop().await
}

/// Would catch a hub that sends a change only to where the tenant is now, or only to where it was acknowledged before.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_leaves_a_region_before_its_first_push_lands_is_not_left_there() -> Result<()>
{
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.scan().await?;
    let failpoint = Some("publisher.before_push=stop");
    world.hub.start_with_failpoint(failpoint).await?;
    settles(&world.hub).await?;
    let before = scans(&world.hub).await?;
    let here = format!(
        "INSERT INTO counters VALUES ('new', 1, '{{{}}}')",
        REGIONS[0]
    );
    world.database.execute(&here).await?;
    let daemon = world.hub.daemon()?;
    stops(daemon).await?;
    let mut connection = world.database.connect().await?;
    let there = format!(
        "UPDATE counters SET regions = '{{{}}}', n = 2 WHERE tenant = 'new'",
        REGIONS[1]
    );
    let token = commit(&mut connection, &there).await?;
    daemon.signal(rustix::process::Signal::CONT)?;
    arrives(&world.hub, &token, "").await?;
    assert_eq!(world.agents[0].get("counter", "new").await?.0, 404);
    assert_eq!(number(&world.agents[1], "new").await?, Some(2));
    world.is_true().await?;
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    world.hub.stop().await
}

/// Would catch a hub that repeats what was not answered after it sent something newer, or that forgets it, or that calls
/// the store fresh meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_undoes_no_later_build() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    let relay = world.relay_to(0).await?;
    world.runs().await?;
    let before = scans(&world.hub).await?;
    let (watch, ages) = (Watch::on(&world, "t1"), Ages::of(&world.agents));
    let mut connection = world.database.connect().await?;

    relay.lose_answer_to(LARGE_BYTES);
    // One of the two is not changed again: its receipt needs the lost answer, or a build that makes up for it.
    let beside = format!("UPDATE counters SET n = 2, note = {LARGE} WHERE tenant IN ('t1', 't2')");
    let first = commit(&mut connection, &beside).await?;
    until("the answer to be lost", HEALS_WITHIN, || async {
        relay.is_cut().then_some(())
    })
    .await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(2), "it arrived");
    let later = ages.change(&mut connection, 3, "''").await?;
    arrives(&world.hub, &later, &format!("&regions={}", REGIONS[1])).await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(2));
    relay.mend();
    for token in [first, later] {
        arrives(&world.hub, &token, "").await?;
    }
    assert_eq!(number(&world.agents[0], "t1").await?, Some(3));
    world.becomes_true().await?;
    watch.end().await?;
    ages.end().await?;
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    world.hub.stop().await
}
