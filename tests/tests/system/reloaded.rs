//! A publisher that reads its configuration again while a writer changes rows: a region and a kind come in, nothing is
//! lost, and a configuration that cannot be used changes nothing.

use crate::kill_points::number;
use crate::truth::Kind;
use crate::world::{COUNTER_CONTEXTS, COUNTER_TRUTH, HEALS_WITHIN, World, settles};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const NEW_KIND: &str = r#"
[[context]]
kind  = "note"
query = "SELECT 'note of ' || tenant AS key, tenant, regions, note FROM counters"
watch = [{ table = "counters", tenant = "tenant" }]
"#;
const NEW_TRUTH: Kind = Kind {
    name: "note",
    sql: "SELECT 'note of ' || tenant, tenant, jsonb_build_object('note', note)::text FROM counters \
          WHERE regions IS NULL OR $1 = ANY (regions)",
};

/// Sends SIGHUP and waits until the log has these words once more than before.
async fn reread(world: &mut World, words: &str) -> Result<()> {
    let daemon = world.hub.daemon()?;
    let before = daemon.log().matches(words).count();
    daemon.signal(Signal::HUP)?;
    until(words, HEALS_WITHIN, || {
        let log = world.hub.daemon().map(|d| d.log()).unwrap_or_default();
        async move { (log.matches(words).count() > before).then_some(()) }
    })
    .await
}

/// Would catch a change that is lost while one term ends and the next begins, a region or kind that needs a restart, and a
/// wrong configuration that stops what runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_and_a_kind_come_in_while_everything_changes() -> Result<()> {
    const IN_FORCE: &str = "the new configuration is in force";
    const REFUSED: &str = "the new configuration is refused";
    let mut world = World::with_counters(Server::any().await?, &["eu-west-1"], 20).await?;
    world.runs().await?;

    let (goes_on, committed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicI64::new(0)));
    let mut connection = world.database.connect().await?;
    let writing = {
        let (goes_on, committed) = (goes_on.clone(), committed.clone());
        tokio::spawn(async move {
            let mut n = 1;
            while goes_on.load(Ordering::Relaxed) {
                n += 1;
                let change = format!(
                    "UPDATE counters SET n = {n}, note = 'n{n}' WHERE tenant = 't{}'",
                    1 + n % 20
                );
                sqlx::raw_sql(sqlx::AssertSqlSafe(change))
                    .execute(&mut connection)
                    .await?;
                committed.store(n, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, sqlx::Error>(())
        })
    };

    // A file that is no configuration, and one that the database does not have yet, change nothing.
    let good = std::fs::read_to_string(&world.hub.config)?;
    std::fs::write(&world.hub.config, good.replace("[[spoke]]", "[[spoek]]"))?;
    reread(&mut world, REFUSED).await?;
    let mut agent = Agent::new(world.dir.path(), "us-east-1")?;
    agent.start().await?;
    let contexts = format!("{COUNTER_CONTEXTS}{NEW_KIND}");
    let both = [&world.agents[0], &agent];
    let other = Hub::new(world.dir.path(), &world.database.url, &both, &contexts)?;
    let new = std::fs::read_to_string(&other.config)?;
    let new = new
        .replace(&other.token, &world.hub.token)
        .replace(&other.port.to_string(), &world.hub.port.to_string())
        .replace("0 0 0 1 1 *", "0 0 0 2 1 *");
    std::fs::write(&world.hub.config, &new)?;
    reread(&mut world, REFUSED).await?;
    let log = world.hub.daemon()?.log();
    assert!(log.contains("run `publisher migrate` with it"), "{log}");

    // Another address needs a restart, and keeps nothing else out.
    let port = world.hub.port.to_string();
    std::fs::write(&world.hub.config, new.replacen(&port, "1", 1))?;
    world.hub.run(&["migrate"]).await?.ok()?;
    reread(&mut world, IN_FORCE).await?;
    let log = world.hub.daemon()?.log();
    assert!(log.contains("hub.listen"), "{log}");
    std::fs::write(&world.hub.config, new)?;
    world.agents.push(agent);
    let arrived = committed.load(Ordering::Relaxed) + 100;
    until("changes to go on", HEALS_WITHIN, || async {
        (committed.load(Ordering::Relaxed) > arrived).then_some(())
    })
    .await?;
    reread(&mut world, IN_FORCE).await?;
    goes_on.store(false, Ordering::Relaxed);
    writing.await??;
    settles(&world.hub).await?;
    let kinds: Vec<Kind> = COUNTER_TRUTH.iter().copied().chain([NEW_TRUTH]).collect();
    world.truth = crate::truth::Truth::new(&kinds);
    world.becomes_true().await?;
    assert!(world.hub.daemon()?.is_running());

    // By triggers, not by a scan: they are those of the new configuration.
    let scans = crate::world::scans(&world.hub).await?;
    world
        .database
        .execute("UPDATE counters SET n = 1000000 WHERE tenant = 't7'")
        .await?;
    for agent in &world.agents {
        until("a change after it", HEALS_WITHIN, || async {
            (number(agent, "t7").await.ok()? == Some(1_000_000)).then_some(())
        })
        .await?;
    }
    assert_eq!(crate::world::scans(&world.hub).await?, scans);
    world.hub.stop().await
}

/// Would catch a token that is good for longer than the configuration says, and a publisher that stands by and ends
/// because somebody migrated before it was told.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_replaced_and_one_that_stands_by_waits() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &["eu-west-1"], 3).await?;
    world.runs().await?;
    let mut second = world.another_hub()?;
    second.start().await?;
    let old = world.hub.token.clone();
    let text = std::fs::read_to_string(&world.hub.config)?;
    let text = text.replace(&format!("\"{old}\""), "\"another\"") + NEW_KIND;
    std::fs::write(&world.hub.config, text)?;
    world.hub.run(&["migrate"]).await?.ok()?;
    until("the second to wait", HEALS_WITHIN, || {
        let log = second.daemon().map(|d| d.log()).unwrap_or_default();
        async move { log.contains("read it again (SIGHUP)").then_some(()) }
    })
    .await?;
    assert_eq!(world.hub.get("/v1/status").await?.0, 200);
    reread(&mut world, "the new configuration is in force").await?;
    assert_eq!(world.hub.get("/v1/status").await?.0, 401);
    world.hub.token = "another".into();
    settles(&world.hub).await?;

    // The second one reads the same and takes over.
    let config = std::fs::read_to_string(&second.config)? + NEW_KIND;
    std::fs::write(&second.config, config)?;
    second.daemon()?.signal(Signal::HUP)?;
    until("the second to stand by", HEALS_WITHIN, || {
        let log = second.daemon().map(|d| d.log()).unwrap_or_default();
        async move {
            log.contains("the new configuration is in force")
                .then_some(())
        }
    })
    .await?;
    world.hub.kill()?;
    settles(&second).await?;
    second.stop().await
}
