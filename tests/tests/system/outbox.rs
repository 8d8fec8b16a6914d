//! The outbox is full, because a region or the publisher itself is away for long.

use crate::ages::Ages;
use crate::alone::age;
use crate::kill_points::number;
use crate::receipts::{arrives, commit};
use crate::world::{HEALS_WITHIN, World, scans, settles};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use system_tests::server::Server;
use system_tests::{Result, until};
use tokio::task::JoinHandle;

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-1"];
const CAP: i64 = 50;

async fn lower_cap(world: &World) -> Result<()> {
    let sql = format!("SELECT setval('hubcast.outbox_cap', {CAP})");
    world.database.execute(&sql).await
}

/// The rows that wait, and whether there is room for more.
async fn rows(connection: &mut PgConnection) -> Result<(i64, bool)> {
    let sql = "SELECT count(*), hubcast.has_room() FROM hubcast.outbox";
    Ok(sqlx::query_as(sql).fetch_one(connection).await?)
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
        assert!(rows(&mut connection).await?.0 <= CAP);
    }
    println!("the slowest change elsewhere took {slowest:?}");
    assert_eq!(scans(&world.hub).await?, before, "the others needed a scan");
    world.agents[0].start().await?;
    arrives(&world.hub, &last, "").await?;
    world.becomes_true().await?;
    settles(&world.hub).await?;
    world.hub.stop().await
}

/// Four that change `t2` to `t17` until they are stopped.
struct Writers {
    made: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<sqlx::Result<()>>>,
}

impl Writers {
    fn on(world: &World) -> Self {
        let (made, stop) = (Arc::<AtomicI64>::default(), Arc::<AtomicBool>::default());
        let write = |i: i64| {
            let (url, made, stop) = (world.database.url.clone(), made.clone(), stop.clone());
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await?;
                let sql = "UPDATE counters SET n = n + 1 WHERE tenant = 't' || $1";
                while !stop.load(Ordering::SeqCst) {
                    let n = made.fetch_add(1, Ordering::SeqCst);
                    let change = sqlx::query(sql).bind(2 + i * 4 + n % 4);
                    change.execute(&mut connection).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            })
        };
        let tasks = (0..4).map(write).collect();
        Self { made, stop, tasks }
    }

    /// Waits for so many changes more.
    async fn make(&self, more: i64) -> Result<()> {
        let enough = self.made.load(Ordering::SeqCst) + more;
        until("the writers to write", HEALS_WITHIN, || async {
            (self.made.load(Ordering::SeqCst) >= enough).then_some(())
        })
        .await
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

/// The publisher is away and comes back, while others write all the time.
async fn is_away(world: &mut World, ages: &Ages, round: i64, clean: bool) -> Result<()> {
    let mut connection = world.database.connect().await?;
    let writers = Writers::on(world);
    writers.make(20).await?;
    match clean {
        true => world.hub.stop().await?,
        false => world.hub.kill()?,
    }
    let first = ages.change(&mut connection, 2 * round, "''").await?;
    writers.make(4 * CAP).await?;
    // Those who look at the same time may each leave one more.
    let (waiting, has_room) = rows(&mut connection).await?;
    assert!(waiting <= CAP + 8 && !has_room, "{waiting} rows wait");
    // By now a change leaves no row, and yet it arrives.
    let last = ages.change(&mut connection, 2 * round + 1, "''").await?;
    world.hub.start().await?;
    until("the publisher to write", HEALS_WITHIN, || async {
        let status = world.hub.status().await.ok()?;
        let stores = status["engine"]["stores"].as_array()?;
        let obey = |s: &Value| s["standing"] == "behind" || s["standing"] == "in step";
        stores.iter().all(obey).then_some(())
    })
    .await?;
    writers.make(2 * CAP).await?;
    writers.end().await?;
    for token in [first, last] {
        arrives(&world.hub, &token, "").await?;
    }
    assert_eq!(number(&world.agents[0], "t1").await?, Some(2 * round + 1));
    settles(&world.hub).await?;
    world.is_true().await
}

/// Would catch an outbox that grows while nobody reads it, a writer that fails or waits because it is full, changes that
/// are lost because they left no row, and an age that says less than it should.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_away_leaves_nothing_that_grows_and_loses_nothing() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS[..2], 20).await?;
    world.runs().await?;
    lower_cap(&world).await?;
    let ages = Ages::of(&world.agents);
    for (round, clean) in [(1, true), (2, false)] {
        is_away(&mut world, &ages, round, clean).await?;
    }
    // Triggers write again, and a change needs no scan.
    let before = scans(&world.hub).await?;
    let mut connection = world.database.connect().await?;
    let last = ages.change(&mut connection, 9, "''").await?;
    arrives(&world.hub, &last, "").await?;
    for agent in &world.agents {
        until("a young answer", HEALS_WITHIN, || async {
            age(agent).await.filter(|age| *age < 3.0)
        })
        .await?;
    }
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    println!("the oldest answer said {} s", ages.end().await?);
    world.hub.stop().await
}
