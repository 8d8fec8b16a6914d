//! Nothing is missed by the triggers: many writers at once, in every way in which a transaction can go, and no scan.
//!
//! Would catch any change that is overlooked: a row of the outbox that is passed over because it commits late, a trigger
//! that does not fire, an acknowledgement of what was not built, a build from before a change that counts for it.

use crate::world::{World, scans, settles};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::server::Server;

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
const WRITERS: u64 = 64;
const TENANTS: u32 = 300;
const FOR: Duration = Duration::from_secs(8);

/// Rows that nobody else has locked, so that no transaction waits while it holds a lock.
fn unlocked(rows: u32) -> String {
    format!(
        "tenant IN (SELECT tenant FROM counters ORDER BY random() LIMIT {rows} FOR UPDATE SKIP LOCKED)"
    )
}

/// The statements of a transaction.
fn draw(random: &mut SmallRng) -> Vec<String> {
    let one = format!("UPDATE counters SET n = n + 1 WHERE {}", unlocked(1));
    let name = random.random_range(0..80);
    match random.random_range(0..10) {
        0 => vec![format!(
            "INSERT INTO counters VALUES ('new {name}', 1) ON CONFLICT (tenant) DO UPDATE SET n = counters.n + 1"
        )],
        1 => vec![format!("DELETE FROM counters WHERE {}", unlocked(1))],
        2 => vec![format!(
            "UPDATE counters SET tenant = 'new {name}' WHERE {}",
            unlocked(1)
        )],
        3 => {
            let regions = ["NULL", "'{}'", "'{eu-west-1}'", "'{us-east-1}'"];
            let regions = regions[random.random_range(0..regions.len())];
            vec![format!(
                "UPDATE counters SET regions = {regions} WHERE {}",
                unlocked(1)
            )]
        }
        4 => vec![format!(
            "UPDATE counters SET n = n + 1 WHERE {}",
            unlocked(30)
        )],
        5 => vec![
            "SAVEPOINT a".to_owned(),
            one.clone(),
            "ROLLBACK TO a".to_owned(),
            one,
        ],
        6 => vec!["SAVEPOINT a".to_owned(), one.clone(), one],
        _ => vec![one],
    }
}

/// Writes until the time is over; says how many transactions were committed.
async fn write(url: String, seed: u64) -> Result<u64> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut connection = PgConnection::connect(&url).await?;
    let (began, mut commits) = (Instant::now(), 0);
    while began.elapsed() < FOR {
        let mut transaction = connection.begin().await?;
        let mut went = true;
        for statement in draw(&mut random) {
            let done = transaction.execute(AssertSqlSafe(statement)).await;
            if let Err(e) = done {
                // The name is taken, or two wait for one another: the transaction is over.
                let code = e.as_database_error().and_then(|e| e.code());
                if !matches!(code.as_deref(), Some("23505" | "40P01")) {
                    return Err(e.into());
                }
                went = false;
                break;
            }
        }
        if random.random_ratio(1, 12) {
            // Its rows have low numbers and appear late.
            let long = Duration::from_millis(random.random_range(100..1_500));
            tokio::time::sleep(long).await;
        }
        if !went || random.random_ratio(1, 8) {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
            commits += 1;
        }
        let pause = Duration::from_millis(random.random_range(0..60));
        tokio::time::sleep(pause).await;
    }
    Ok(commits)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_sixty_four_writers_is_missed_without_a_scan() -> Result<()> {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut world = World::with_counters(Server::own().await?, &REGIONS, TENANTS).await?;
    world.runs().await?;
    let before = scans(&world.hub).await?;
    let url = &world.database.url;
    let writers: Vec<_> = (0..WRITERS)
        .map(|i| tokio::spawn(write(url.clone(), seed.wrapping_add(i))))
        .collect();
    let mut commits = 0;
    for writer in writers {
        commits += writer.await??;
    }
    let ended = Instant::now();
    world.becomes_true().await?;
    println!(
        "{commits} transactions, in step {:?} after the last",
        ended.elapsed()
    );
    assert!(commits > 500, "{commits} transactions say little");
    settles(&world.hub).await?;
    world.is_true().await?;
    assert_eq!(scans(&world.hub).await?, before, "a scan helped");
    let summary = world.scan().await?.json()?;
    for store in summary["stores"].as_array().into_iter().flatten() {
        assert_eq!(store["repaired"], 0, "{summary}");
    }
    world.hub.stop().await
}
