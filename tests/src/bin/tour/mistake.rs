//! Act 5: somebody deletes every key by mistake.

use crate::stage::{Stage, Verdict};
use reqwest::StatusCode;
use std::time::{Duration, Instant};
use system_tests::{Result, until};

/// Removals that wait for a person.
async fn held(stage: &Stage) -> Option<u64> {
    let listed = stage.hub.run(&["held", "--json"]).await.ok()?.json().ok()?;
    let groups = listed["held"].as_array()?;
    let waiting = groups.iter().filter(|g| g["state"] == "held");
    Some(waiting.filter_map(|g| g["contexts"].as_u64()).sum())
}

/// Waits until nothing waits to be built.
async fn calm(stage: &Stage, held_some: bool) -> Result<u64> {
    until("the guard's decision", Duration::from_secs(90), || async {
        let engine = &stage.hub.status().await.ok()?["engine"];
        let calm = engine["dirty"] == 0;
        let n = held(stage).await?;
        (calm && (n > 0) == held_some).then_some(n)
    })
    .await
}

/// `DELETE FROM api_keys` is held, the keys go on working, and it is undone at the hub.
pub async fn delete_without_where(stage: &Stage) -> Result<Verdict> {
    println!("\n  act 5: DELETE FROM api_keys, without WHERE");
    stage
        .sql("CREATE TABLE api_keys_of_before AS TABLE api_keys")
        .await?;
    let began = Instant::now();
    stage.sql("DELETE FROM api_keys").await?;
    let n = calm(stage, true).await?;
    println!(
        "    the hub              holds {n} removals, {:.1} s after the commit: `publisher held` shows them",
        began.elapsed().as_secs_f64()
    );
    let mut good = true;
    for gateway in &stage.gateways {
        let (status, _) = gateway.ask(&stage.key).await?;
        println!(
            "    {:<19}  answers {status} for a key that the hub has no longer",
            gateway.region
        );
        good &= status == StatusCode::OK;
    }
    println!(
        "    `publisher approve` would let them leave, `publisher drop` keep the old values; here the rows come back"
    );
    stage
        .sql("INSERT INTO api_keys SELECT * FROM api_keys_of_before; DROP TABLE api_keys_of_before")
        .await?;
    let left = calm(stage, false).await?;
    good &= left == 0;
    Ok(Verdict {
        promise: "a DELETE without WHERE stops no key",
        measured: format!("{n} removals held, none after the rows are back"),
        good,
    })
}
