//! `kill -9` at the places where it could hurt most.

use crate::truth::{Name, batch_get};
use crate::world::World;
use serde_json::Value;
use std::collections::BTreeMap;
use system_tests::Result;
use system_tests::region::Agent;
use system_tests::server::Server;

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// Region and tenant of what was delivered, from the receipts of a republish.
pub fn delivered(receipts: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let all = receipts["receipts"].as_array().into_iter().flatten();
    all.filter(|r| r["result"] == "delivered")
        .map(|r| (text(&r["region"]), text(&r["tenant"])))
        .collect()
}

/// The number that both contexts of a tenant have in a region; an error if they differ: half a bundle.
pub async fn number(agent: &Agent, tenant: &str) -> Result<Option<i64>> {
    let names: [Name; 2] = [
        ("counter".to_owned(), tenant.to_owned()),
        ("twin".to_owned(), format!("twin of {tenant}")),
    ];
    let mut numbers = Vec::new();
    for element in batch_get(agent, &[&names[0], &names[1]]).await? {
        let value = element.and_then(|e| e.value);
        let json: Option<Value> = value.map(|v| serde_json::from_str(v.get())).transpose()?;
        numbers.push(json.and_then(|v| v["n"].as_i64()));
    }
    match numbers[0] == numbers[1] {
        true => Ok(numbers[0]),
        false => Err(format!(
            "{tenant} in {} is half of two bundles: {numbers:?}",
            agent.region
        )
        .into()),
    }
}

async fn agent_dies_at(point: &str) -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 30).await?;
    world.scan().await?;
    world.is_true().await?;
    world.agents[0].stop().await?;
    world.agents[0]
        .start_with_failpoint(&format!("{point}:7=kill"))
        .await?;
    let mut acked: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut last = 1;
    while world.agents[0].process()?.is_running() {
        last += 1;
        assert!(last < 20, "the failpoint was never passed");
        let tenant = format!("t{last}");
        let sql = format!("UPDATE counters SET n = {last} WHERE tenant = '{tenant}'");
        world.database.execute(&sql).await?;
        let ran = world
            .hub
            .run(&["republish", "tenant", &tenant, "--json"])
            .await?;
        for name in delivered(&ran.json()?) {
            acked.insert(name, last);
        }
    }
    let here = |(region, _): &&(String, String)| *region == REGIONS[0];
    // A change goes up to three times: a trigger saw it, the first scan of a term found it, and it is republished.
    let count = acked.keys().filter(here).count();
    assert!((2..=6).contains(&count), "acked there: {acked:?}");

    // Nobody writes from here on: what was acked has to be in the file.
    world.agents[0].start().await?;
    for agent in &world.agents {
        for tenant in (1..=30).map(|i| format!("t{i}")) {
            let got = number(agent, &tenant).await?;
            match acked.get(&(agent.region.clone(), tenant.clone())) {
                Some(n) => assert_eq!(got, Some(*n), "{tenant} was acked in {}", agent.region),
                None => assert!(got == Some(1) || got == Some(last), "{tenant}: {got:?}"),
            }
        }
        assert_eq!(agent.get("counter", "t31").await?.0, 404);
    }
    world.scan().await?;
    world.is_true().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_after_decoding_a_push_loses_nothing_acked() -> Result<()> {
    agent_dies_at("agent.after_decode").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_before_a_commit_loses_nothing_acked() -> Result<()> {
    agent_dies_at("agent.before_commit").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_between_commit_and_ack_loses_nothing_acked() -> Result<()> {
    agent_dies_at("agent.after_commit").await
}

async fn publisher_dies_at(point: &str) -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 30).await?;
    // Once while the stores are empty, once with content in them.
    for n in [2, 3] {
        let sql = format!("UPDATE counters SET n = {n}");
        world.database.execute(&sql).await?;
        world.hub.run_to_death(&format!("{point}=kill")).await?;
        for agent in world.agents.iter().filter(|_| n == 3) {
            for tenant in (1..=30).map(|i| format!("t{i}")) {
                let got = number(agent, &tenant).await?;
                assert!(got == Some(2) || got == Some(3), "{tenant}: {got:?}");
            }
        }
        world.hub.start().await?;
        world.becomes_true().await?;
        world.hub.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_killed_after_its_snapshot_leaves_nothing_behind() -> Result<()> {
    // The first build of a scan reads the bounds of its ranges, the second a range.
    publisher_dies_at("publisher.after_snapshot:2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_killed_before_a_push_leaves_nothing_behind() -> Result<()> {
    publisher_dies_at("publisher.before_push").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_killed_after_an_ack_leaves_nothing_behind() -> Result<()> {
    publisher_dies_at("publisher.after_ack").await
}
