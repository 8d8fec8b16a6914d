//! The stop button, and the audit trail of who pressed it.
//!
//! Would catch a pause that lets a change through (one that was queued, or built a moment before), that keeps a revoked
//! key alive, that a restart forgets, or that holds up what is not paused.

use crate::world::{HEALS_WITHIN, World};
use serde_json::{Value, json};
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// The number that a region answers for a counter; none if it says that there is no such key.
async fn number(agent: &Agent, tenant: &str) -> Result<Option<i64>> {
    let (status, body) = agent.get("counter", tenant).await?;
    match status.as_u16() {
        404 => Ok(None),
        200 => Ok(serde_json::from_str::<Value>(&body)?["n"].as_i64()),
        other => Err(format!("{other}: {body}").into()),
    }
}

async fn becomes(agent: &Agent, tenant: &str, n: Option<i64>) -> Result<()> {
    let what = format!("{tenant} to become {n:?} in {}", agent.region);
    until(&what, HEALS_WITHIN, || async {
        (number(agent, tenant).await.ok()? == n).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_region_keeps_its_values_and_lets_only_removals_through() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 5).await?;
    world.runs().await?;
    let pause = ["pause", "--region", "eu-west-1", "--reason", "bad release"];
    world.hub.run(&pause).await?.ok()?;

    let change = "UPDATE counters SET n = 2; DELETE FROM counters WHERE tenant = 't5'; INSERT INTO counters VALUES ('new', 1)";
    world.database.execute(change).await?;
    becomes(&world.agents[1], "t1", Some(2)).await?;
    becomes(&world.agents[1], "new", Some(1)).await?;
    becomes(&world.agents[0], "t5", None).await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(1));
    let (status, body) = world.agents[0].get("counter", "new").await?;
    assert!(status == 503 && body.contains("held"), "{status} {body}");

    // It is shown, and a scan neither undoes it nor calls it clean.
    let status = world.hub.status().await?;
    assert_eq!(status["pauses"][0]["reason"], "bad release", "{status:#}");
    let shown = world.hub.run(&["status"]).await?;
    assert!(
        shown.code == 1 && shown.stdout.contains("PAUSED"),
        "{shown:?}"
    );
    let scan = world.hub.run(&["scan"]).await?;
    assert!(
        scan.code == 1 && scan.stdout.contains("bad release"),
        "{scan:?}"
    );
    assert_eq!(number(&world.agents[0], "t1").await?, Some(1));

    // A restart does not forget it.
    world.hub.kill()?;
    world.hub.start().await?;
    world.database.execute("UPDATE counters SET n = 3").await?;
    becomes(&world.agents[1], "t2", Some(3)).await?;
    world.hub.run(&["scan"]).await?;
    assert_eq!(number(&world.agents[0], "t2").await?, Some(1));

    world
        .hub
        .run(&["resume", "--reason", "fixed"])
        .await?
        .ok()?;
    world.becomes_true().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_goes_despite_a_pause_and_the_next_change_of_it_does_not() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 3).await?;
    world.runs().await?;
    let pause = ["pause", "--kind", "counter", "--reason", "looking into it"];
    world.hub.run(&pause).await?.ok()?;
    world.database.execute("UPDATE counters SET n = 2").await?;
    let plain = world.hub.run(&["republish", "tenant", "t1"]).await?;
    assert!(
        plain.code == 1 && plain.stdout.contains("paused"),
        "{plain:?}"
    );
    let despite = ["republish", "tenant", "t1", "--despite-pause"];
    world.hub.run(&despite).await?.ok()?;
    for agent in &world.agents {
        assert_eq!(number(agent, "t1").await?, Some(2));
        assert_eq!(number(agent, "t2").await?, Some(1));
    }
    world.database.execute("UPDATE counters SET n = 3").await?;
    world.hub.run(&["republish", "tenant", "t1"]).await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(2));
    let (status, body) = world.agents[0].get("twin", "twin of t1").await?;
    assert!(
        status == 200 && body.contains('3'),
        "the other kind goes on: {body}"
    );
    world
        .hub
        .run(&["resume", "--kind", "counter", "--reason", "done"])
        .await?
        .ok()?;
    world.becomes_true().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_built_before_a_pause_does_not_leave_after_it() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 400).await?;
    let relay = world.relay_to(0).await?;
    world.runs().await?;
    // The first region answers no more; its queue fills.
    relay.cut();
    world.database.execute("UPDATE counters SET n = 2").await?;
    becomes(&world.agents[1], "t400", Some(2)).await?;
    world.hub.run(&["pause", "--reason", "stop"]).await?.ok()?;
    relay.mend();
    until("the region to be talked to again", HEALS_WITHIN, || async {
        let status = world.hub.status().await.ok()?;
        let stores = status["engine"]["stores"].as_array()?;
        stores
            .iter()
            .all(|s| s["standing"] == "in step")
            .then_some(())
    })
    .await?;
    assert_eq!(number(&world.agents[0], "t1").await?, Some(1));
    assert_eq!(number(&world.agents[0], "t400").await?, Some(1));
    world.hub.run(&["resume", "--reason", "go"]).await?.ok()?;
    world.becomes_true().await?;
    world.hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_do_what_their_role_says_and_the_trail_names_them() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS[..1], 3).await?;
    let tokens = [
        ("grafana", "read"),
        ("jobs", "republish"),
        ("oncall", "operate"),
    ];
    let tables: Vec<String> = tokens
        .iter()
        .map(|(name, role)| {
            format!("{{ name = \"{name}\", token = \"{name}-secret\", role = \"{role}\" }}")
        })
        .collect();
    world
        .hub
        .configure(&format!("token = [{}]", tables.join(", ")))?;
    world.runs().await?;
    let hub = &world.hub;
    let (pause, republish) = (
        json!({ "reason": "drill" }),
        json!({ "tenant": "t1", "wait": true }),
    );
    for (token, path, body, status) in [
        ("nobody", "/v1/republish", &republish, 401),
        ("grafana-secret", "/v1/republish", &republish, 403),
        ("jobs-secret", "/v1/republish", &republish, 200),
        ("jobs-secret", "/v1/pause", &pause, 403),
        ("oncall-secret", "/v1/pause", &pause, 200),
        (
            "jobs-secret",
            "/v1/republish",
            &json!({ "tenant": "t1", "despite_pause": true }),
            403,
        ),
        ("oncall-secret", "/v1/resume", &pause, 202),
        ("oncall-secret", "/v1/resume", &pause, 404),
    ] {
        let (got, answer) = hub.post(token, path, body).await?;
        assert_eq!(got.as_u16(), status, "{token} {path}: {answer}");
    }
    let (_, refused) = hub.post("jobs-secret", "/v1/pause", &pause).await?;
    assert_eq!(
        refused["message"],
        "the token \"jobs\" has the role republish; this needs operate"
    );
    hub.run(&["scan"]).await?.ok()?;
    let trail = hub
        .run(&["audit", "--json", "--limit", "100"])
        .await?
        .ok()?
        .json()?;
    let acts = trail["acts"].as_array().ok_or("no acts")?;
    let done = |who: &str, action: &str| {
        acts.iter()
            .any(|a| a["who"] == who && a["action"] == action)
    };
    assert!(
        done("jobs", "republish") && done("oncall", "pause") && done("oncall", "resume"),
        "{trail:#}"
    );
    assert!(
        done("publisher", "became the writer") && acts[0]["action"] == "scan",
        "{trail:#}"
    );
    assert!(!trail.to_string().contains("secret"), "{trail:#}");
    let (status, over_api) = hub.get("/v1/audit?limit=1").await?;
    assert!(
        status == 200 && over_api["acts"][0] == acts[0],
        "{over_api:#}"
    );
    world.hub.stop().await
}
