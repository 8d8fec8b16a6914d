//! The acts. Each does something, measures what comes of it, prints a line per region, and says whether that is what
//! was promised.

use crate::stage::{Primary, Stage, Verdict};
use reqwest::StatusCode;
use serde_json::Value;
use std::time::{Duration, Instant};
use system_tests::gateway::{Gateway, Seen};
use system_tests::relay::Relay;
use system_tests::{Result, sample, until};

/// The key that acts 1 and 2 create and revoke.
const NEW_KEY: &str = "hk_made_by_the_tour";
/// One way of the link that act 1 compares with.
const LINK_ONE_WAY: Duration = Duration::from_millis(40);
/// Requests that each gateway gets at least while the hub is gone.
const REQUESTS: u64 = 1_000;
/// How long the hub is gone at least.
const GONE_FOR: Duration = Duration::from_secs(8);

fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

/// The publisher starts, and fills three empty regions.
pub async fn fill(stage: &mut Stage) -> Result<Verdict> {
    println!("\n  first fill");
    match &stage.table {
        None => stage.hub.run(&["migrate"]).await?.ok()?,
        Some(_) => stage.hub.run(&["migrate", "--create-tables"]).await?.ok()?,
    };
    let began = Instant::now();
    stage.hub.start().await?;
    stage.ready().await?;
    let took = began.elapsed();
    let mut contexts = Vec::new();
    for agent in &stage.agents {
        let count = agent.status().await?["contexts"].as_u64().unwrap_or(0);
        println!("    {:<15}  {count} contexts, durable", agent.region);
        contexts.push(count);
    }
    if let Some(table) = &stage.table {
        let count = table.contexts().await?;
        let region = &table.region.region;
        println!("    {region:<15}  {count} contexts, in its DynamoDB table");
        contexts.push(count);
        stage.gateways.push(table.gateway().await?);
    }
    let measured = format!(
        "{} contexts in {:.1} s",
        contexts.iter().sum::<u64>(),
        took.as_secs_f64()
    );
    println!(
        "    in {:.1} s from the start of the publisher",
        took.as_secs_f64()
    );
    // How fast the server of the table is says nothing about DynamoDB.
    let (promise, within) = match stage.table {
        None => ("three empty regions filled within 10 s", 10),
        Some(_) => ("three empty regions filled, one on a table", 60),
    };
    let good = contexts.iter().all(|c| *c > 40_000) && took < Duration::from_secs(within);
    Ok(Verdict {
        promise,
        measured,
        good,
    })
}

/// Asks the hub where a transaction is durable, by the token that was taken in it.
async fn visible(stage: &Stage, token: &str) -> Result<Value> {
    let client = stage.agents[0].client();
    let url = format!("/v1/visible?token={token}&timeout=10s");
    let request = client
        .get(stage.hub.url(&url))
        .bearer_auth(&stage.hub.token);
    let response = request.send().await?;
    let (status, body) = (response.status(), response.json::<Value>().await?);
    if status == StatusCode::OK {
        Ok(body)
    } else {
        Err(format!("visible: {status}: {body}").into())
    }
}

/// Waits at every gateway at once for a status.
async fn everywhere(
    stage: &Stage,
    key: &str,
    status: StatusCode,
    since: Instant,
) -> Result<Vec<Duration>> {
    let [us, eu, ap] = &stage.gateways[..] else {
        return Err("three gateways".into());
    };
    let (us, eu, ap) = tokio::join!(
        us.answers(key, status, since),
        eu.answers(key, status, since),
        ap.answers(key, status, since)
    );
    Ok(vec![us?, eu?, ap?])
}

/// Act 1: a cluster and a key, by plain SQL.
pub async fn create(stage: &Stage) -> Result<Verdict> {
    println!("\n  act 1: a cluster and an API key are created by plain SQL; nobody tells Hubcast");
    let hash = sample::key_hash(NEW_KEY);
    stage
        .sql(&format!(
            "BEGIN; INSERT INTO clusters (id, tenant_id, name, host, status) \
             VALUES ('cl-tour', 'acme-0001', 'tour', 'tour.example.com', 'ready'); \
             INSERT INTO api_keys (tenant_id, cluster_id, key_hash, scopes) \
             VALUES ('acme-0001', 'cl-tour', '{hash}', '{{read}}'); COMMIT"
        ))
        .await?;
    let committed = Instant::now();
    let times = everywhere(stage, NEW_KEY, StatusCode::OK, committed).await?;
    let far = across_a_long_link(stage).await?;
    for (gateway, time) in stage.gateways.iter().zip(&times) {
        println!(
            "    {:<15}  the key works {} after the commit",
            gateway.region,
            ms(*time)
        );
    }
    println!(
        "    one read across a simulated 80 ms link would cost {} on every request",
        ms(far)
    );
    let slowest = times.iter().max().copied().unwrap_or_default();
    let measured = format!("usable everywhere {} after the commit", ms(slowest));
    Ok(Verdict {
        promise: "a new key works in every region",
        measured,
        good: slowest < Duration::from_secs(2),
    })
}

/// One read of a context over a link with a round trip of 80 ms, on a connection that is there already.
async fn across_a_long_link(stage: &Stage) -> Result<Duration> {
    let relay = Relay::start(stage.agents[0].read, LINK_ONE_WAY).await?;
    let url = format!(
        "http://127.0.0.1:{}/v1/contexts/cluster/cl-000001",
        relay.port
    );
    let client = system_tests::client()?;
    client.get(&url).send().await?.bytes().await?;
    let began = Instant::now();
    client.get(&url).send().await?.bytes().await?;
    Ok(began.elapsed())
}

/// Act 2: the key is revoked, and the hub is asked where that is durable.
pub async fn revoke(stage: &Stage) -> Result<Verdict> {
    println!(
        "\n  act 2: the key is revoked by plain SQL, with SELECT hubcast.token() in the same transaction"
    );
    let hash = sample::key_hash(NEW_KEY);
    let revoked = format!("UPDATE api_keys SET revoked_at = now() WHERE key_hash = '{hash}'");
    let token = stage.sql_with_token(&revoked).await?;
    let committed = Instant::now();
    let (times, body) = tokio::join!(
        everywhere(stage, NEW_KEY, StatusCode::FORBIDDEN, committed),
        visible(stage, &token)
    );
    let (times, body) = (times?, body?);
    for (gateway, time) in stage.gateways.iter().zip(&times) {
        println!(
            "    {:<15}  403 {} after the commit",
            gateway.region,
            ms(*time)
        );
    }
    let stores = body["stores"].as_array().cloned().unwrap_or_default();
    for store in &stores {
        println!(
            "    GET /v1/visible: {:<40}  durable {} ms after it was asked",
            store["store"].as_str().unwrap_or("-"),
            store["ms"]
        );
    }
    let slowest = times.iter().max().copied().unwrap_or_default();
    let durable = stores.len() == 3 && body["visible"] == true;
    let measured = format!(
        "403 everywhere {} after the commit, {} stores confirm it",
        ms(slowest),
        stores.len()
    );
    Ok(Verdict {
        promise: "a revoked key is dead in every region",
        measured,
        good: durable && slowest < Duration::from_secs(2),
    })
}

/// What requests of the truth look like: a good key, the revoked one, and one that never was.
fn truth(stage: &Stage) -> Vec<(String, StatusCode)> {
    vec![
        (stage.key.clone(), StatusCode::OK),
        (NEW_KEY.to_owned(), StatusCode::FORBIDDEN),
        ("hk_never_made".to_owned(), StatusCode::UNAUTHORIZED),
    ]
}

/// Act 3: the hub is killed, and an agent is killed and restarted, under load.
pub async fn hub_gone(stage: &mut Stage) -> Result<Verdict> {
    let what = if matches!(stage.primary, Primary::Own(_)) {
        "Postgres and the publisher are killed"
    } else {
        "the publisher is killed and Postgres cut off"
    };
    println!(
        "\n  act 3: {what}, and the agent of {} too; requests go on",
        stage.agents[1].region
    );
    let loads: Vec<_> = stage
        .gateways
        .iter()
        .map(|g| g.load(truth(stage)))
        .collect();
    let began = Instant::now();
    stage.hub.kill()?;
    stage.lose_database()?;
    stage.agents[1].kill()?;
    let gone = Instant::now();
    stage.agents[1].start().await?;
    let (gateway, key) = (&stage.gateways[1], stage.key.clone());
    let back = gateway.answers(&key, StatusCode::OK, gone).await?;
    tokio::time::sleep(GONE_FOR.saturating_sub(began.elapsed())).await;
    let mut seen = Vec::new();
    for load in loads {
        seen.push(load.end().await?);
    }
    let (mut good, mut requests, mut failed) = (true, 0, 0);
    for (i, (gateway, seen)) in stage.gateways.iter().zip(&seen).enumerate() {
        good &= region_line(gateway, seen, i == 1, back);
        if i != 1 {
            requests += seen.requests;
            failed += seen.wrong;
        }
    }
    let oldest = seen.iter().map(|s| s.oldest).fold(0.0, f64::max);
    println!(
        "    an answer's age counts from the last sign of the hub, so it grows while the hub is gone"
    );
    let measured = format!(
        "{failed} of {requests} requests failed, oldest answer {oldest:.0} s old and says so"
    );
    Ok(Verdict {
        promise: "requests do not notice that the hub is gone",
        measured,
        good,
    })
}

fn region_line(gateway: &Gateway, seen: &Seen, was_down: bool, back: Duration) -> bool {
    let Seen {
        requests,
        wrong,
        oldest,
        ..
    } = seen;
    let mut line = format!(
        "    {:<15}  {wrong} of {requests} requests failed, oldest answer {oldest:.0} s old",
        gateway.region
    );
    if was_down {
        line.push_str(&format!(
            "; its own agent was down for {} (counted apart)",
            ms(back)
        ));
    }
    println!("{line}");
    if let Some(first) = seen.first_wrong.as_ref().filter(|_| !was_down) {
        println!("    {:<15}  the first failure: {first}", "");
    }
    let only_while_down = !was_down
        || (seen
            .first_wrong
            .as_ref()
            .is_none_or(|w| w.starts_with("503"))
            && *wrong < requests / 2);
    *requests >= REQUESTS
        && seen.ageless == 0
        && if was_down {
            only_while_down
        } else {
            *wrong == 0
        }
}

/// Act 4: the hub comes back, and a region has lost its file.
pub async fn disk_lost(stage: &mut Stage) -> Result<Verdict> {
    let last = stage.last();
    println!(
        "\n  act 4: {} loses its file, then the hub comes back",
        stage.agents[last].region
    );
    stage.agents[last].kill()?;
    std::fs::remove_file(&stage.agents[last].data)?;
    stage.agents[last].start().await?;
    let (status, _) = stage.gateways[last].ask(&stage.key).await?;
    println!(
        "    {:<15}  answers {status} for a good key: it does not know, and says so",
        stage.gateways[last].region
    );
    let mut good = status == StatusCode::SERVICE_UNAVAILABLE;
    stage.regain_database().await?;
    let began = Instant::now();
    stage.hub.start().await?;
    let (gateway, key) = (&stage.gateways[last], stage.key.clone());
    let never_unknown = until(
        "the region to be whole",
        Duration::from_secs(60),
        || async {
            match gateway.ask(&key).await {
                Ok((StatusCode::OK, _)) => Some(true),
                Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => Some(false),
                _ => None,
            }
        },
    );
    good &= never_unknown.await?;
    stage.ready().await?;
    let whole = began.elapsed();
    println!(
        "    {:<15}  whole again {:.1} s after the publisher started, without anyone's help",
        gateway.region,
        whole.as_secs_f64()
    );
    let (status, _) = gateway.ask(NEW_KEY).await?;
    good &= status == StatusCode::FORBIDDEN;
    let measured = format!(
        "503 until it is whole, {:.1} s after the hub's return",
        whole.as_secs_f64()
    );
    Ok(Verdict {
        promise: "a lost disk answers 503, never 401, and heals",
        measured,
        good,
    })
}
