//! What nobody could read is not absent; what moves between tenants is never absent; a socket that is in use stays.

use crate::world::World;
use reqwest::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use system_tests::process::Process;
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const ITEMS: &str =
    "CREATE TABLE items (key text PRIMARY KEY, tenant text NOT NULL, v int NOT NULL);
    CREATE INDEX ON items (tenant);
    INSERT INTO items SELECT 'k' || g, 't' || g % 3, g FROM generate_series(1, 9) AS g;";

const ITEM_CONTEXTS: &str = r#"
[[context]]
kind  = "item"
query = "SELECT key, tenant, v FROM items"
watch = [{ table = "items", tenant = "tenant" }]
"#;

async fn items(regions: &[&str]) -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    database.execute(ITEMS).await?;
    World::new(server, database, regions, ITEM_CONTEXTS, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_broke_makes_no_key_absent_where_nothing_was_known() -> Result<()> {
    let mut world = items(&["filled", "lost"]).await?;
    world.scan().await?;
    assert_eq!(world.agents[1].get("item", "k1").await?.0, StatusCode::OK);

    world.agents[1].stop().await?;
    std::fs::remove_file(&world.agents[1].data)?;
    world.agents[1].start().await?;
    world
        .database
        .execute("ALTER TABLE items RENAME COLUMN v TO w")
        .await?;
    let scan = world.hub.run(&["scan"]).await?;
    assert_eq!(scan.code, 1, "{scan:?}");
    assert!(
        scan.stdout.contains("column \"v\" does not exist")
            || scan.stdout.contains("does not exist"),
        "{scan:?}"
    );

    // The store that was in step goes on; the new one knows nothing and says so.
    let (filled, lost) = (&world.agents[0], &world.agents[1]);
    assert_eq!(filled.get("item", "k1").await?.0, StatusCode::OK);
    assert_eq!(filled.get("item", "never").await?.0, StatusCode::NOT_FOUND);
    assert_eq!(
        lost.get("item", "k1").await?.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        lost.get("item", "never").await?.0,
        StatusCode::SERVICE_UNAVAILABLE
    );

    world
        .database
        .execute("ALTER TABLE items RENAME COLUMN w TO v")
        .await?;
    world.scan().await?;
    assert_eq!(world.agents[1].get("item", "k1").await?.0, StatusCode::OK);
    assert_eq!(
        world.agents[1].get("item", "never").await?.0,
        StatusCode::NOT_FOUND
    );
    Ok(())
}

/// Looks at a key without end; ends with whether it was ever absent.
fn watch(
    agent: &Agent,
    key: &'static str,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<(u64, bool)> {
    let (client, url) = (
        agent.client().clone(),
        agent.url(&format!("/v1/contexts/item/{key}")),
    );
    tokio::spawn(async move {
        let (mut looks, mut absent) = (0, false);
        while !stop.load(Ordering::Relaxed) {
            let answer = client.get(&url).send().await;
            absent |= answer.is_ok_and(|a| a.status() == StatusCode::NOT_FOUND);
            looks += 1;
        }
        (looks, absent)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_between_tenants_is_never_absent() -> Result<()> {
    let mut world = items(&["here"]).await?;
    world.scan().await?;
    world.hub.start().await?;
    until(
        "the daemon to have scanned",
        Duration::from_secs(30),
        || async {
            let ran = world.hub.run(&["status", "--json"]).await.ok()?;
            let status = ran.json().ok()?;
            (status["engine"]["stores"][0]["standing"] == "in step").then_some(())
        },
    )
    .await?;
    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch(&world.agents[0], "k1", stop.clone());
    for round in 0..20 {
        let (from, to) = if round % 2 == 0 {
            ("t1", "t2")
        } else {
            ("t2", "t1")
        };
        world
            .database
            .execute(&format!(
                "UPDATE items SET tenant = '{to}' WHERE key = 'k1'"
            ))
            .await?;
        match round % 4 {
            // The old owner first, then the new one, in one request.
            0 | 1 => drop(
                world
                    .hub
                    .run(&["republish", "tenant", from, to])
                    .await?
                    .ok()?,
            ),
            // Nobody says anything: a scan finds it.
            _ => drop(world.hub.run(&["scan"]).await?.ok()?),
        }
        let client = world.agents[0].client();
        let response = client
            .get(world.agents[0].url("/v1/contexts/item/k1"))
            .send()
            .await?;
        assert_eq!(response.headers()["x-context-tenant"], to, "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    let (looks, absent) = watching.await?;
    assert!(looks > 100 && !absent, "{looks} looks, absent: {absent}");
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_take_the_socket_of_one_that_runs() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("hubcast-test-").tempdir()?;
    let mut first = Agent::new(dir.path(), "r")?;
    first.start().await?;
    let second = Agent::new(dir.path(), "r")?;
    let mut command = second.command()?;
    command.arg("--read-socket").arg(first.socket());
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    // The flag stands twice otherwise: only the last may stay.
    let mut once = std::process::Command::new(command.get_program());
    let own = second.socket().into_os_string();
    let kept = args
        .windows(2)
        .position(|w| w[0] == "--read-socket" && w[1] == own);
    once.args(
        args.iter()
            .enumerate()
            .filter(|(i, _)| kept.is_none_or(|k| *i != k && *i != k + 1))
            .map(|(_, a)| a),
    );
    once.env("HUBCAST_AGENT_PUSH_TOKEN", &second.token);
    let mut process = Process::start(once, &dir.path().join("second.log"))?;
    let status = process.ended(Duration::from_secs(20)).await?;
    assert!(
        !status.success() && process.log().contains("another process listens there"),
        "{}",
        process.log()
    );
    assert!(
        first.socket().exists(),
        "the first agent still has its socket"
    );
    first.stop().await
}
