//! A region that lost its agent, file and all, is brought back from an export while the hub is away.
//!
//! Would catch an import that the hub fences, refuses or fills again, and one that keeps what has changed since.

use crate::world::World;
use std::path::Path;
use std::process::Command;
use system_tests::Result;
use system_tests::process::program;
use system_tests::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_store_is_in_step_with_the_hub_and_heals_by_scan() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &["eu-west-1"], 50).await?;
    world.scan().await?;
    let out = world.dir.path().join("export");
    exchange(&world, "export", "--out", &out)?;
    world.agents[0].kill()?;
    let (data, lost) = (
        world.agents[0].data.clone(),
        world.dir.path().join("lost.redb"),
    );
    std::fs::rename(&data, lost)?;
    std::fs::remove_file(data.with_extension("redb.redo"))?;
    exchange(&world, "import", "--from", &out)?;
    world.agents[0].start().await?;
    // Nothing was changed meanwhile, so that there is nothing to repair.
    let scanned = world.scan().await?.json()?;
    let store = &scanned["stores"][0];
    assert_eq!(
        (&store["in_step"], &store["repaired"]),
        (&true.into(), &0.into()),
        "{scanned:#}"
    );
    world.is_true().await?;

    // What is older than the hub is healed.
    world.agents[0].kill()?;
    std::fs::remove_file(&data)?;
    let change = "UPDATE counters SET n = 2 WHERE tenant IN ('t1', 't2'); DELETE FROM counters WHERE tenant = 't3'";
    world.database.execute(change).await?;
    exchange(&world, "import", "--from", &out)?;
    world.agents[0].start().await?;
    assert_eq!(world.agents[0].get("counter", "t3").await?.0, 200);
    world.scan().await?;
    world.is_true().await
}

/// Runs `export` or `import` with the configuration of the agent, which may run.
fn exchange(world: &World, command: &str, flag: &str, file: &Path) -> Result<()> {
    exchange_with(world, command, flag, file, &[])
}

fn exchange_with(
    world: &World,
    command: &str,
    flag: &str,
    file: &Path,
    more: &[String],
) -> Result<()> {
    let agent = &world.agents[0];
    let mut process = Command::new(program("spoke-agent")?);
    process
        .arg(command)
        .arg(flag)
        .arg(file)
        .arg("--data")
        .arg(&agent.data);
    process.args([
        "--region",
        &agent.region,
        "--push-listen",
        &format!("127.0.0.1:{}", agent.push),
    ]);
    let ran = process
        .args(more)
        .env("HUBCAST_AGENT_PUSH_TOKEN", &agent.token)
        .output()?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ran.stderr).into()),
    }
}

/// Would catch an export that asks in plain text where the hub does not, or shows no certificate.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_certificates_is_exported_while_it_runs() -> Result<()> {
    let (world, certificates) = crate::tls::world().await?;
    let out = world.dir.path().join("export");
    let flags = certificates.push_flags(&world.agents[0].region);
    exchange_with(&world, "export", "--out", &out, &flags)?;
    assert!(out.metadata()?.len() > 0);
    Ok(())
}
