//! Behind a pooler in transaction mode, which the publisher shares with an application that leaves all sorts of things
//! on the connections to the server.

use crate::world::{COUNTER_CONTEXTS, COUNTER_TRUTH, COUNTERS, World};
use sqlx::{AssertSqlSafe, PgConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use system_tests::pgbouncer::{self, PgBouncer};
use system_tests::server::Server;
use system_tests::{Result, until};
use tokio::task::JoinSet;

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
const POOL: u32 = 6;
const CLIENTS: usize = 20;

/// What the application does beside its changes: transactions, and what it leaves behind.
const HABITS: &[&str] = &[
    "BEGIN; UPDATE public.noise SET n = n + 1 WHERE id = {i}; SELECT pg_sleep(0.002); COMMIT",
    "SET search_path = pg_temp",
    "SET bytea_output = 'escape'; SET extra_float_digits = -9; SET \"IntervalStyle\" = 'postgres_verbose'",
    "SET \"DateStyle\" = 'German'; SET \"TimeZone\" = 'Asia/Kolkata'",
    "SET enable_indexscan = off; SET row_security = off; SET standard_conforming_strings = off",
    "DEALLOCATE ALL; PREPARE sqlx_s_1 AS SELECT 1; PREPARE sqlx_s_2 AS SELECT 2; PREPARE sqlx_s_3 AS SELECT 3",
    "SELECT pg_advisory_lock_shared({i})",
];

/// Many clients of the pooler.
struct Crowd {
    stop: Arc<AtomicBool>,
    clients: JoinSet<u64>,
}

impl Crowd {
    fn start(url: &str) -> Self {
        let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for i in 0..CLIENTS {
            clients.spawn(client(url.to_owned(), i, stop.clone()));
        }
        Self { stop, clients }
    }

    /// Ends it and says how much it did.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await.into_iter().sum()
    }
}

/// Connects again whenever its connection breaks. Returns what it did successfully.
async fn client(url: String, i: usize, stop: Arc<AtomicBool>) -> u64 {
    let (mut done, mut at) = (0, i);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut connection) = pgbouncer::connect(&url).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            at += 1;
            let habit = HABITS[at % HABITS.len()].replace("{i}", &i.to_string());
            if execute(&mut connection, &habit).await.is_err() {
                break;
            }
            done += 1;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    done
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Result<()> {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}

/// A change of the application, through the pooler; tried again while that is away.
async fn change(url: &str, sql: &str) -> Result<()> {
    until("the pooler", Duration::from_secs(20), || async {
        let mut connection = pgbouncer::connect(url).await.ok()?;
        execute(&mut connection, sql).await.ok()
    })
    .await
}

/// Changes reach the regions, whoever carries them; commands say so.
async fn goes_on(world: &mut World, url: &str, round: u32) -> Result<()> {
    let sql = format!("UPDATE public.counters SET n = n + {round} WHERE hashtext(tenant) % 3 = 0");
    change(url, &sql).await?;
    let daemon = world.hub.daemon().is_ok();
    if daemon {
        // By the triggers.
        world.becomes_true().await?;
    } else {
        world.scan().await?;
        world.is_true().await?;
    }
    let sql = format!("UPDATE public.counters SET note = 'round {round}' WHERE tenant = 't7'");
    change(url, &sql).await?;
    let ran = world.hub.run(&["republish", "tenant", "t7", "--json"]);
    let receipts = ran.await?.ok()?.json()?;
    let receipts = receipts["receipts"].as_array().ok_or("no receipts")?;
    assert_eq!(receipts.len(), REGIONS.len());
    assert!(receipts.iter().all(|r| r["result"] == "delivered"));
    world.is_true().await?;
    // Without a daemon there is no writer, which somebody should know.
    let status = world.hub.run(&["status"]).await?;
    assert_eq!(status.code, i32::from(!daemon), "{status:?}");
    for args in [&["check"], &["diff"], &["scan"]] {
        world.hub.run(args).await?.ok()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_a_transaction_pooler() -> Result<()> {
    let Some(bin) = pgbouncer::find()? else {
        return Ok(());
    };
    let server = Server::any().await?;
    let database = server.database().await?;
    let noise = "CREATE TABLE noise AS SELECT g AS id, 0 AS n FROM generate_series(0, 100) AS g";
    let fill = "INSERT INTO counters SELECT 't' || g, 1 FROM generate_series(1, 200) AS g";
    database
        .execute(&format!("{COUNTERS}; {fill}; {noise}"))
        .await?;
    let direct = database.url.clone();
    let mut pooler = PgBouncer::start(&bin, &direct, POOL).await?;
    let url = pooler.url(&direct)?;
    let crowd = Crowd::start(&url);
    let mut world = World::with_address(
        server,
        database,
        &url,
        &REGIONS,
        COUNTER_CONTEXTS,
        COUNTER_TRUTH,
    )
    .await?;
    let (one, other) = tokio::join!(world.hub.run(&["migrate"]), world.hub.run(&["migrate"]));
    for ran in [one?.ok()?, other?.ok()?] {
        assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    }
    goes_on(&mut world, &url, 1).await?;

    world.runs().await?;
    goes_on(&mut world, &url, 2).await?;
    pooler.kill()?;
    pooler.resume(&direct).await?;
    goes_on(&mut world, &url, 3).await?;
    // Away for longer than the lease.
    pooler.kill()?;
    until("the lease to run out", Duration::from_secs(30), || async {
        let writes = world
            .hub
            .metric("hubcast_publisher_is_writer", "")
            .await
            .ok()?;
        (writes == 0.0).then_some(())
    })
    .await?;
    pooler.resume(&direct).await?;
    goes_on(&mut world, &url, 4).await?;

    assert!(world.hub.daemon()?.is_running());
    let log = world.hub.daemon()?.log();
    assert!(!log.contains("prepared statement"), "{log}");
    world.hub.stop().await?;
    let done = crowd.end().await;
    assert!(done > 500, "the application was there too: {done}");
    Ok(())
}
