//! Where a transaction is visible: `SELECT hubcast.token()` in it, then `GET /v1/visible`.
//!
//! Would catch a receipt that is given when a bundle was sent, or built from an older snapshot, instead of durable; one
//! for a transaction that is open or rolled back; one that a region which is away withholds from the others.

use crate::kill_points::number;
use crate::truth::Kind;
use crate::world::{HEALS_WITHIN, World};
use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// Runs a statement in a transaction of its own and returns its token.
pub async fn commit(connection: &mut PgConnection, sql: &str) -> Result<String> {
    let mut transaction = connection.begin().await?;
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut *transaction)
        .await?;
    let token = token(&mut transaction).await?;
    transaction.commit().await?;
    Ok(token)
}

/// The token of the transaction that is open.
pub async fn token(connection: &mut PgConnection) -> Result<String> {
    let sql = "SELECT hubcast.token()";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// Waits until a transaction is visible in every region, or in those that `regions` names (`&regions=..`).
pub async fn arrives(hub: &Hub, token: &str, regions: &str) -> Result<()> {
    let path = format!("/v1/visible?token={token}&timeout=20s{regions}");
    match hub.get(&path).await? {
        (StatusCode::OK, answer) if answer["visible"] == true => Ok(()),
        (status, answer) => Err(format!("{token} is not visible: {status} {answer}").into()),
    }
}

fn set(tenant: &str, n: i64) -> String {
    format!("UPDATE counters SET n = {n} WHERE tenant = '{tenant}'")
}

/// Asks, and expects this status and this `error` (none: no error).
async fn expect(hub: &Hub, query: &str, status: u16, error: Option<&str>) -> Result<Value> {
    let (got, answer) = hub.get(&format!("/v1/visible?{query}")).await?;
    assert_eq!(
        (got.as_u16(), answer["error"].as_str()),
        (status, error),
        "{query}: {answer}"
    );
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_says_what_became_of_a_transaction() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.runs().await?;
    let mut standby = world.another_hub()?;
    standby.start().await?;
    let mut connection = world.database.connect().await?;

    // Committed: also asked of the publisher that stands by.
    for (n, hub) in [(2, &world.hub), (3, &standby)] {
        let token = commit(&mut connection, &set("t1", n)).await?;
        let answer = expect(hub, &format!("token={token}"), 200, None).await?;
        assert!(answer["visible"] == true && answer["token"] == *token);
        let stores = answer["stores"].as_array().ok_or("no stores")?;
        assert_eq!(stores.len(), 2, "{answer}");
        for agent in &world.agents {
            assert_eq!(number(agent, "t1").await?, Some(n), "{}", agent.region);
        }
    }

    // Open, then rolled back; a token that nobody got; one that is none.
    let mut transaction = connection.begin().await?;
    let token = token(&mut transaction).await?;
    let open = format!("token={token}&timeout=100ms");
    let answer = expect(&world.hub, &open, 504, None).await?;
    let why = answer["stores"][0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("has not ended"), "{answer}");
    transaction.rollback().await?;
    expect(&world.hub, &format!("token={token}"), 409, Some("aborted")).await?;
    let (xid, server) = token.split_once('-').ok_or("the token names no server")?;
    let far = format!("token={}-{server}", xid.parse::<u64>()? + 1_000_000_000);
    expect(&world.hub, &far, 404, Some("unknown")).await?;
    for wrong in [
        "",
        "token=",
        "token=x",
        "token=-1",
        "token=5&timeout=soon",
        "token=5&timeout=31s",
        "token=5&regions=",
        "token=5&regions=nowhere",
        "token=5&region=eu-west-1",
    ] {
        expect(&world.hub, wrong, 400, Some("bad_request")).await?;
    }
    let stranger = system_tests::client()?;
    let asked = stranger.get(world.hub.url("/v1/visible?token=5"));
    assert_eq!(asked.send().await?.status(), 401);
    standby.stop().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_table_is_not_watched_a_later_scan_gives_the_receipt() -> Result<()> {
    const CONTEXTS: &str = r#"
[[context]]
kind  = "counter"
query = "SELECT c.tenant AS key, c.tenant, c.n, p.note FROM counters c JOIN plans p ON p.tenant = c.tenant"
watch = [{ table = "counters", tenant = "tenant" }]
"#;
    const TRUTH: &[Kind] = &[Kind {
        name: "counter",
        sql: "SELECT c.tenant, c.tenant, jsonb_build_object('n', c.n, 'note', p.note)::text FROM counters c \
              JOIN plans p USING (tenant) WHERE $1 <> ''",
    }];
    let server = Server::any().await?;
    let database = server.database().await?;
    let tables = "CREATE TABLE counters (tenant text PRIMARY KEY, n bigint NOT NULL); \
                  CREATE TABLE plans (tenant text PRIMARY KEY, note text NOT NULL); \
                  INSERT INTO counters VALUES ('t1', 1); INSERT INTO plans VALUES ('t1', 'free')";
    database.execute(tables).await?;
    let mut world = World::new(server, database, &REGIONS, CONTEXTS, TRUTH).await?;
    world.hub.start().await?;
    world.becomes_true().await?;
    let mut connection = world.database.connect().await?;
    let sql = "UPDATE plans SET note = 'large' WHERE tenant = 't1'";
    let token = commit(&mut connection, sql).await?;
    let asked = format!("token={token}&timeout=300ms");
    let answer = expect(&world.hub, &asked, 504, None).await?;
    let why = answer["stores"][0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("plans") && why.contains("scan"), "{answer}");
    world.scan().await?;
    expect(&world.hub, &asked, 200, None).await?;
    world.is_true().await?;
    world.hub.stop().await
}

/// Would catch a region of which it is said that a key is revoked there while somebody holds the change back.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_is_not_said_to_be_visible() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.runs().await?;
    let mut connection = world.database.connect().await?;
    let [open, paused] = REGIONS;
    world
        .hub
        .run(&["pause", "--region", paused, "--reason", "test"])
        .await?
        .ok()?;
    let token = commit(&mut connection, &set("t1", 2)).await?;
    arrives(&world.hub, &token, &format!("&regions={open}")).await?;
    let answer = expect(
        &world.hub,
        &format!("token={token}&timeout=500ms"),
        504,
        None,
    )
    .await?;
    assert_eq!(answer["visible"], false);
    let stores = answer["stores"].as_array().ok_or("no stores")?;
    for store in stores {
        let is_open = store["region"] == open;
        assert!(
            store["visible"] == is_open && store["held"].is_object() != is_open,
            "{answer}"
        );
        let why = store["why"].as_str().unwrap_or_default();
        assert_eq!(
            why.starts_with("held: counter all of tenant t1: "),
            !is_open,
            "{answer}"
        );
    }
    assert_eq!(number(&world.agents[1], "t1").await?, Some(1));
    // Removals leave, and nothing else of that tenant is held.
    let gone = commit(&mut connection, "DELETE FROM counters WHERE tenant = 't9'").await?;
    arrives(&world.hub, &gone, "").await?;
    world
        .hub
        .run(&["resume", "--region", paused, "--reason", "test"])
        .await?
        .ok()?;
    arrives(&world.hub, &token, "").await?;
    assert_eq!(number(&world.agents[1], "t1").await?, Some(2));

    // What the hub cannot publish is named, and stops nothing else.
    let large = "UPDATE counters SET note = repeat('x', 2000000) WHERE tenant = 't2'";
    let token = commit(&mut connection, large).await?;
    let answer = expect(&world.hub, &format!("token={token}&timeout=20s"), 200, None).await?;
    let held = &answer["stores"][0]["held"]["t2"];
    assert_eq!(
        (held[0]["kind"].as_str(), held[0]["reason"].as_str()),
        (Some("counter"), Some("too_large")),
        "{answer}"
    );
    let mended = "UPDATE counters SET note = '' WHERE tenant = 't2'";
    let token = commit(&mut connection, mended).await?;
    let answer = expect(&world.hub, &format!("token={token}&timeout=20s"), 200, None).await?;
    assert!(answer["stores"][0]["held"].is_null(), "{answer}");
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_away_withholds_the_receipt_of_no_other() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.runs().await?;
    let mut connection = world.database.connect().await?;
    world.agents[1].kill()?;
    let token = commit(&mut connection, &set("t1", 2)).await?;
    let answer = expect(
        &world.hub,
        &format!("token={token}&timeout=300ms"),
        504,
        None,
    )
    .await?;
    assert_eq!(answer["visible"], false);
    for store in answer["stores"].as_array().into_iter().flatten() {
        let is_there = store["region"] == REGIONS[0];
        assert_eq!(store["visible"], is_there, "{answer}");
        assert_eq!(store["why"].is_null(), is_there, "{answer}");
    }
    let near = format!("token={token}&regions={}", REGIONS[0]);
    expect(&world.hub, &near, 200, None).await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(2));
    world.agents[1].start().await?;
    arrives(&world.hub, &token, "").await?;
    assert_eq!(number(&world.agents[1], "t1").await?, Some(2));
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_receipt_is_read_at_once_under_load() -> Result<()> {
    // Up to so many, for as long as this; how many there were is printed.
    const ROUNDS: i64 = 300;
    const FOR: Duration = Duration::from_secs(6);
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 40).await?;
    world.runs().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..3)
        .map(|i| {
            let (stop, url) = (stop.clone(), world.database.url.clone());
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await?;
                let sql = "UPDATE counters SET n = n + 1 WHERE tenant = 't' || (2 + $1 * 12 + (random() * 11)::int)";
                let mut changes = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let change = sqlx::query(sql).bind(i);
                    changes += change.execute(&mut connection).await?.rows_affected();
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                Ok::<u64, sqlx::Error>(changes)
            })
        })
        .collect();
    let mut connection = world.database.connect().await?;
    let (mut slowest, began) = (Duration::ZERO, Instant::now());
    let mut n = 1;
    while n <= ROUNDS && (began.elapsed() < FOR || n < 20) {
        n += 1;
        let at = Instant::now();
        let token = commit(&mut connection, &set("t1", n)).await?;
        arrives(&world.hub, &token, "").await?;
        slowest = slowest.max(at.elapsed());
        for agent in &world.agents {
            assert_eq!(number(agent, "t1").await?, Some(n), "{}", agent.region);
        }
    }
    println!(
        "{n} receipts in {:?}, the slowest {slowest:?}",
        began.elapsed()
    );
    stop.store(true, Ordering::SeqCst);
    for changes in load {
        assert!(changes.await?? > 20, "no load");
    }
    until("everything to be in step", HEALS_WITHIN, || async {
        world.scan().await.ok()
    })
    .await?;
    world.is_true().await?;
    world.hub.stop().await
}
