//! The outbox is full, because a region or the publisher itself is away for long.

use crate::kill_points::number;
use crate::receipts::{arrives, commit};
use crate::world::{HEALS_WITHIN, World, scans, settles};
use sqlx::PgConnection;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};
use tokio::task::JoinHandle;

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-1"];
const CAP: i64 = 50;

async fn lower_cap(world: &World) -> Result<()> {
    let sql = format!("SELECT setval('hubcast.outbox_cap', {CAP})");
    world.database.execute(&sql).await
}

async fn rows(connection: &mut PgConnection) -> Result<i64> {
    let sql = "SELECT count(*) FROM hubcast.outbox";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// Would catch a region that is away and lets the outbox fill up, so that all others need a scan too.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_away_for_more_changes_than_the_outbox_holds_costs_the_others_nothing()
-> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 20).await?;
    world.runs().await?;
    lower_cap(&world).await?;
    let before = scans(&world.hub).await?;
    let mut connection = world.database.connect().await?;
    world.agents[0].kill()?;
    let near = format!("&regions={},{}", REGIONS[1], REGIONS[2]);
    let (mut slowest, mut last) = (Duration::ZERO, String::new());
    for n in 2..2 + CAP + CAP / 2 {
        let began = Instant::now();
        let sql = format!(
            "UPDATE counters SET n = {n} WHERE tenant = 't{}'",
            1 + n % 20
        );
        last = commit(&mut connection, &sql).await?;
        arrives(&world.hub, &last, &near).await?;
        slowest = slowest.max(began.elapsed());
        assert!(rows(&mut connection).await? <= CAP);
    }
    println!("the slowest change elsewhere took {slowest:?}");
    assert_eq!(scans(&world.hub).await?, before, "the others needed a scan");
    world.agents[0].start().await?;
    arrives(&world.hub, &last, "").await?;
    world.becomes_true().await?;
    settles(&world.hub).await?;
    world.hub.stop().await
}

/// The numbers that `t1` was given, each with the moment at which that was committed.
type Commits = Mutex<Vec<(i64, Instant)>>;

/// Gives `t1` a number.
async fn change(connection: &mut PgConnection, commits: &Commits, n: i64) -> Result<String> {
    let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
    let token = commit(connection, &sql).await?;
    commits.lock().expect("lock").push((n, Instant::now()));
    Ok(token)
}

/// Reads `t1` of an agent without end. Whenever the answer is older than the last commit, its age says so.
fn ages_are_true(
    agent: Agent,
    commits: Arc<Commits>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Result<f64>> {
    tokio::spawn(async move {
        let mut oldest = 0.0_f64;
        while !stop.load(Ordering::SeqCst) {
            let asked = Instant::now();
            let response = agent.client().get(agent.url("/v1/contexts/counter/t1"));
            let response = response.send().await?;
            let age = response.headers().get("x-context-age");
            let age: f64 = age.ok_or("no age")?.to_str()?.parse()?;
            let value: serde_json::Value = response.json().await?;
            let n = value["n"].as_i64().ok_or("no number")?;
            // The first commit that is not in the answer: it was made so long before the question.
            let missed = {
                let commits = commits.lock().expect("lock");
                let missed = commits.iter().find(|(m, _)| *m > n);
                missed.map(|(_, at)| asked.saturating_duration_since(*at))
            };
            if let Some(missed) = missed.filter(|m| m.as_secs_f64() > age + 0.005) {
                return Err(
                    format!("an answer without a change of {missed:?} ago says {age} s").into(),
                );
            }
            oldest = oldest.max(age);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(oldest)
    })
}

/// Writes for a while with the publisher away; says how many changes were made.
async fn write_meanwhile(world: &World) -> Result<i64> {
    let made = Arc::new(AtomicI64::new(0));
    let writers: Vec<_> = (0..4)
        .map(|i| {
            let (url, made) = (world.database.url.clone(), made.clone());
            tokio::spawn(async move {
                let mut connection = <PgConnection as sqlx::Connection>::connect(&url).await?;
                let sql = "UPDATE counters SET n = n + 1 WHERE tenant = 't' || $1";
                for n in 0..100 {
                    let change = sqlx::query(sql).bind(2 + i * 4 + n % 4);
                    change.execute(&mut connection).await?;
                    made.fetch_add(1, Ordering::SeqCst);
                }
                Ok::<(), sqlx::Error>(())
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    Ok(made.load(Ordering::SeqCst))
}

/// Would catch an outbox that grows while nobody reads it, a writer that fails or waits because it is full, changes that
/// are lost because they left no row, and an age that says less than it should.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_away_leaves_nothing_that_grows_and_loses_nothing() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS[..2], 20).await?;
    world.runs().await?;
    lower_cap(&world).await?;
    let (commits, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = world
        .agents
        .iter()
        .map(|a| ages_are_true(a.reader(), Arc::clone(&commits), stop.clone()))
        .collect();
    let mut connection = world.database.connect().await?;
    for (round, clean) in [(1, true), (2, false)] {
        match clean {
            true => world.hub.stop().await?,
            false => world.hub.kill()?,
        }
        let first = change(&mut connection, &commits, 2 * round).await?;
        assert_eq!(write_meanwhile(&world).await?, 400);
        let waiting = rows(&mut connection).await?;
        // Who looks at the same time may each leave one more.
        assert!((CAP..=CAP + 8).contains(&waiting), "{waiting} rows wait");
        // Now nothing leaves a row any more, and yet it arrives.
        let last = change(&mut connection, &commits, 2 * round + 1).await?;
        world.hub.start().await?;
        for token in [first, last] {
            until("the publisher to be the writer", HEALS_WITHIN, || async {
                arrives(&world.hub, &token, "").await.ok()
            })
            .await?;
        }
        assert_eq!(number(&world.agents[0], "t1").await?, Some(2 * round + 1));
        world.becomes_true().await?;
        settles(&world.hub).await?;
    }
    // Triggers write again, and a change needs no scan.
    let before = scans(&world.hub).await?;
    let last = change(&mut connection, &commits, 9).await?;
    arrives(&world.hub, &last, "").await?;
    for agent in &world.agents {
        until("a young answer", HEALS_WITHIN, || async {
            crate::alone::age(agent).await.filter(|age| *age < 3.0)
        })
        .await?;
    }
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        println!("the oldest answer said {} s", reader.await??);
    }
    world.hub.stop().await
}
