//! Removing too much at once, as it happened elsewhere: `DELETE` without `WHERE`, a query that suddenly returns nothing, a
//! replica that deleted 127,739 entries because its source came up empty. What is held keeps working, and nothing else waits.
//!
//! Would catch a guard that counts batch by batch (the first batch leaves), that forgets over a restart, that holds a
//! single revocation, that stops what is not removed, or that cannot be told to let it through.

use crate::world::{HEALS_WITHIN, World};
use serde_json::Value;
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

async fn answers(agent: &Agent, tenant: &str) -> Result<u16> {
    Ok(agent.get("counter", tenant).await?.0.as_u16())
}

async fn becomes(agent: &Agent, tenant: &str, status: u16) -> Result<()> {
    let what = format!("{tenant} to answer {status} in {}", agent.region);
    until(&what, HEALS_WITHIN, || async {
        (answers(agent, tenant).await.ok()? == status).then_some(())
    })
    .await
}

/// Removals that wait for a person, summed over regions and kinds.
async fn held(hub: &Hub) -> Result<u64> {
    let listed = hub.run(&["held", "--json"]).await?.json()?;
    let groups = listed["held"].as_array().cloned().unwrap_or_default();
    let waiting = groups.iter().filter(|g| g["state"] == "held");
    Ok(waiting.filter_map(|g| g["contexts"].as_u64()).sum())
}

async fn becomes_held(hub: &Hub, n: u64) -> Result<()> {
    until(
        &format!("{n} removals to be held"),
        HEALS_WITHIN,
        || async { (held(hub).await.ok()? == n).then_some(()) },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_without_where_is_held_and_everything_keeps_working() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 1_200).await?;
    world.runs().await?;
    world.database.execute("DELETE FROM counters").await?;
    // Two kinds, two regions.
    becomes_held(&world.hub, 4 * 1_200).await?;
    for agent in &world.agents {
        for tenant in ["t1", "t600", "t1200"] {
            assert_eq!(answers(agent, tenant).await?, 200, "{tenant}");
        }
    }
    // What is not removed goes on, and so does a small removal beside it.
    world
        .database
        .execute("INSERT INTO counters VALUES ('new', 1)")
        .await?;
    becomes(&world.agents[0], "new", 200).await?;
    world
        .database
        .execute("DELETE FROM counters WHERE tenant = 'new'")
        .await?;
    becomes(&world.agents[0], "new", 404).await?;
    becomes(&world.agents[1], "new", 404).await?;

    // Neither a scan nor a restart forgets it, and both say it.
    let scan = world.hub.run(&["scan"]).await?;
    assert!(
        scan.code == 1 && scan.stdout.contains("publisher approve"),
        "{scan:?}"
    );
    world.hub.kill()?;
    world.hub.start().await?;
    let scan = world.hub.run(&["scan"]).await?;
    assert_eq!(scan.code, 1, "{scan:?}");
    assert_eq!(held(&world.hub).await?, 4 * 1_200);
    assert_eq!(answers(&world.agents[0], "t1").await?, 200);

    let approved = world.hub.run(&["approve"]).await?;
    assert!(approved.code == 0, "{approved:?}");
    world.becomes_true().await?;
    assert_eq!(answers(&world.agents[0], "t1").await?, 404);
    world.scan().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_keeps_its_value_until_the_hub_has_it_again() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS[..1], 300).await?;
    world.runs().await?;
    world
        .database
        .execute("DELETE FROM counters WHERE tenant <> 't1'")
        .await?;
    becomes_held(&world.hub, 2 * 299).await?;
    world.hub.run(&["drop"]).await?.ok()?;
    assert_eq!(held(&world.hub).await?, 0);
    // A person has decided: it is as it should be, at once, and is shown all the same.
    let status = world.hub.run(&["status"]).await?.ok()?;
    assert!(!status.stdout.contains("held "), "{status:?}");
    until("what is kept to be counted", HEALS_WITHIN, || async {
        let status = world.hub.run(&["status"]).await.ok()?.ok().ok()?;
        let says = status.stdout.contains("kept      598 contexts");
        let kept = world.hub.metric("hubcast_publisher_kept", "").await.ok()?;
        (says && kept == 598.0).then_some(())
    })
    .await?;
    world.hub.run(&["scan"]).await?.ok()?;
    assert_eq!(answers(&world.agents[0], "t2").await?, 200);
    let all = world.hub.run(&["diff"]).await?.ok()?;
    let kept = "the same but for 598 contexts that `publisher drop` keeps";
    assert!(all.stdout.contains(kept), "{all:?}");
    let one = world.hub.run(&["diff", "--tenant", "t3"]).await?.ok()?;
    let line = "kept     tenant t3, counter \"t3\"";
    assert!(one.stdout.contains(line), "{one:?}");
    let sent = world.hub.run(&["republish", "tenant", "t3"]).await?.ok()?;
    assert!(sent.stdout.contains("0 contexts and 2 held"), "{sent:?}");
    world
        .database
        .execute("INSERT INTO counters VALUES ('t2', 7)")
        .await?;
    until("the new value", HEALS_WITHIN, || async {
        let (_, body) = world.agents[0].get("counter", "t2").await.ok()?;
        (serde_json::from_str::<Value>(&body).ok()?["n"] == 7).then_some(())
    })
    .await?;
    // It is one of the hub's again, and leaves like any other.
    world
        .database
        .execute("DELETE FROM counters WHERE tenant = 't2'")
        .await?;
    becomes(&world.agents[0], "t2", 404).await?;
    assert_eq!(answers(&world.agents[0], "t3").await?, 200);
    // A row that stays deleted is kept until a person changes their mind, and only that one goes.
    let nothing = world.hub.run(&["approve"]).await?;
    assert!(
        nothing.code == 1 && nothing.stderr.contains("approve --kept"),
        "{nothing:?}"
    );
    let gone = ["approve", "--kept", "--tenant", "t3"];
    world.hub.run(&gone).await?.ok()?;
    becomes(&world.agents[0], "t3", 404).await?;
    world.hub.run(&["scan"]).await?.ok()?;
    assert_eq!(answers(&world.agents[0], "t3").await?, 404);
    assert_eq!(answers(&world.agents[0], "t4").await?, 200);
    let region = world.hub.run(&["approve", "--region", "nowhere"]).await?;
    assert!(
        region.code == 2 && region.stderr.contains("nowhere"),
        "{region:?}"
    );
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_always_passes_and_a_transaction_within_the_limit_too() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS[..1], 300).await?;
    world.runs().await?;
    // Of 300 contexts of a kind, 100 may leave within ten minutes.
    world
        .database
        .execute("DELETE FROM counters WHERE tenant BETWEEN 't10' AND 't16'")
        .await?;
    becomes(&world.agents[0], "t10", 404).await?;
    world
        .database
        .execute("DELETE FROM counters WHERE tenant BETWEEN 't2' AND 't25'")
        .await?;
    until("removals to be held", HEALS_WITHIN, || async {
        (held(&world.hub).await.ok()? > 0).then_some(())
    })
    .await?;
    assert_eq!(answers(&world.agents[0], "t2").await?, 200);
    // Beyond the limit, and few: it passes at once.
    world
        .database
        .execute("DELETE FROM counters WHERE tenant IN ('t9', 't91')")
        .await?;
    becomes(&world.agents[0], "t9", 404).await?;
    world.hub.run(&["approve"]).await?.ok()?;
    world.becomes_true().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_writer_counts_what_left_under_the_last_one() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS[..1], 300).await?;
    world.runs().await?;
    let removes = |from: u32| {
        format!(
            "DELETE FROM counters WHERE tenant IN (SELECT 't' || g FROM generate_series({from}, {from} + 59) g)"
        )
    };
    world.database.execute(&removes(1)).await?;
    becomes(&world.agents[0], "t1", 404).await?;
    until("the count to be written", HEALS_WITHIN, || async {
        let mut connection = world.database.connect().await.ok()?;
        let sql = "SELECT coalesce(sum(count), 0)::bigint FROM hubcast.removals";
        let n: i64 = sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .ok()?;
        (n == 2 * 60).then_some(())
    })
    .await?;
    world.hub.kill()?;
    world.runs().await?;
    // Sixty and sixty of each kind are more than a hundred.
    world.database.execute(&removes(101)).await?;
    becomes_held(&world.hub, 2 * 60).await?;
    assert_eq!(answers(&world.agents[0], "t101").await?, 200);
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_comes_up_empty_removes_nothing() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 400).await?;
    world.runs().await?;
    world.hub.stop().await?;
    // No trigger says so, and no publisher runs: only a scan can find it, and the first writer knows nothing.
    world.database.execute("ALTER TABLE counters DISABLE TRIGGER ALL; DELETE FROM counters WHERE tenant <> 't1'; ALTER TABLE counters ENABLE TRIGGER ALL").await?;
    let scan = world.hub.run(&["scan"]).await?;
    assert!(
        scan.code == 1 && scan.stdout.contains("publisher approve"),
        "{scan:?}"
    );
    assert_eq!(held(&world.hub).await?, 4 * 399);
    for agent in &world.agents {
        assert_eq!(answers(agent, "t2").await?, 200);
        assert_eq!(answers(agent, "t400").await?, 200);
    }
    let allowed = world.hub.run(&["scan", "--allow-mass-delete"]).await?;
    assert_eq!(allowed.code, 0, "{allowed:?}");
    world.is_true().await?;
    assert_eq!(answers(&world.agents[0], "t2").await?, 404);
    Ok(())
}

/// The writer claimed the store when it was empty, which is no reason to take a later scan for its first fill.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_filled_in_this_session_is_guarded_like_any_other() -> Result<()> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database
        .execute("CREATE TABLE api_keys (key text PRIMARY KEY, tenant text NOT NULL)")
        .await?;
    database
        .execute(
            "INSERT INTO api_keys SELECT 'k' || g, 't' || g % 30 FROM generate_series(1, 300) g",
        )
        .await?;
    let contexts = "[[context]]\nkind = \"api_key\"\nquery = \"SELECT key, tenant FROM api_keys\"\n\
                    watch = [{ table = \"api_keys\", tenant = \"tenant\" }]\n";
    let mut world = World::new(server, database, &REGIONS[..1], contexts, &[]).await?;
    world.runs().await?;
    // Nothing says which tenants, and each of them keeps a key.
    world
        .database
        .execute(
            "ALTER TABLE api_keys DISABLE TRIGGER ALL; \
             DELETE FROM api_keys WHERE key NOT IN (SELECT 'k' || g FROM generate_series(1, 30) g); \
             ALTER TABLE api_keys ENABLE TRIGGER ALL; \
             INSERT INTO hubcast.outbox (mark) VALUES ('all')",
        )
        .await?;
    becomes_held(&world.hub, 270).await?;
    assert_eq!(world.agents[0].get("api_key", "k31").await?.0.as_u16(), 200);
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_off_lets_everything_through() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS[..1], 400).await?;
    world.hub.configure("max_delete_share = 1.0")?;
    let differs = world.hub.run(&["scan"]).await?;
    assert!(
        differs.code == 2 && differs.stderr.contains("hub.max_delete_share"),
        "{differs:?}"
    );
    world.hub.run(&["migrate"]).await?.ok()?;
    world.runs().await?;
    world.database.execute("DELETE FROM counters").await?;
    world.becomes_true().await?;
    world.hub.stop().await
}
