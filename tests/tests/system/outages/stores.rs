//! A store came up empty, old, or as another one's; or it accepts everything and never answers.

use crate::kill_points::number;
use crate::receipts::{arrives, commit};
use crate::world::{HEALS_WITHIN, World};
use reqwest::StatusCode;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use system_tests::region::Agent;
use system_tests::server::Server;
use system_tests::{Result, until};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// The files of a stopped agent, copied or put back.
pub struct Files {
    to: PathBuf,
}

impl Files {
    /// Copies them.
    pub fn keep(agent: &Agent, to: &Path) -> Result<Self> {
        std::fs::create_dir_all(to)?;
        for (from, name) in files(&agent.data) {
            std::fs::copy(from, to.join(name))?;
        }
        Ok(Self { to: to.to_owned() })
    }

    /// Puts them back in place of what an agent has.
    pub fn put_back(&self, agent: &Agent) -> Result<()> {
        remove(agent)?;
        for entry in std::fs::read_dir(&self.to)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut data = agent.data.clone().into_os_string();
            data.push(name.strip_prefix("data").unwrap_or_default());
            std::fs::copy(entry.path(), data)?;
        }
        Ok(())
    }
}

/// The store file and its log, if they are there, and what a copy is called.
fn files(data: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut redo = data.to_owned().into_os_string();
    redo.push(".redo");
    let all = [(data.to_owned(), "data"), (redo.into(), "data.redo")];
    all.into_iter().filter(|(path, _)| path.exists()).collect()
}

/// Removes the files of a stopped agent.
pub fn remove(agent: &Agent) -> Result<()> {
    for (path, _) in files(&agent.data) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Starts an agent. A file that is damaged beyond mending, or of another region, is refused with a line, and a person takes it
/// away; whether that was so.
pub async fn starts(agent: &mut Agent) -> Result<bool> {
    let Err(refused) = agent.start().await else {
        return Ok(false);
    };
    let why = refused.to_string();
    assert!(why.contains("spoke-agent: data: "), "{why}");
    remove(agent)?;
    agent.start().await?;
    Ok(true)
}

/// A cache in front of a healthy stream was restarted empty, and nothing wrote it again until somebody restarted the relay.
///
/// Would catch a hub that sends only what it believes a store not to have, and an empty store that answers 404.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_wiped_truncated_or_swapped_heals_under_a_hub_that_runs() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 300).await?;
    world.runs().await?;
    let dir = world.dir.path().join("kept");
    for damage in ["wiped", "truncated", "swapped"] {
        for agent in &mut world.agents {
            agent.stop().await?;
        }
        let other = Files::keep(&world.agents[1], &dir.join(damage))?;
        let agent = &world.agents[0];
        match damage {
            "wiped" => remove(agent)?,
            "truncated" => {
                let file = OpenOptions::new().write(true).open(&agent.data)?;
                file.set_len(file.metadata()?.len() / 3)?;
            }
            _ => other.put_back(agent)?,
        }
        for agent in &mut world.agents {
            starts(agent).await?;
        }
        // Never "no such key" of one that there is.
        until("the store to be whole", HEALS_WITHIN, || async {
            let (status, body) = world.agents[0].get("counter", "t300").await.ok()?;
            assert!(status != 404, "{damage}: {body}");
            (status == 200).then_some(())
        })
        .await?;
        world.becomes_true().await?;
    }
    world.hub.stop().await
}

/// A store was seeded again from an old copy, and some of what it had missed stayed missing.
///
/// Would catch a hub that trusts what it sent once, and an older version over a newer one elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_restored_from_an_old_backup_is_healed_and_named() -> Result<()> {
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 300).await?;
    world.runs().await?;
    world.agents[0].stop().await?;
    let backup = Files::keep(&world.agents[0], &world.dir.path().join("backup"))?;
    world.agents[0].start().await?;
    world
        .database
        .execute(
            "UPDATE counters SET n = 2 WHERE tenant <= 't2'; DELETE FROM counters WHERE tenant IN ('t3', 't4');
             INSERT INTO counters VALUES ('late', 2)",
        )
        .await?;
    world.becomes_true().await?;
    world.agents[0].stop().await?;
    backup.put_back(&world.agents[0])?;
    world.agents[0].start().await?;
    world.becomes_true().await?;
    // The other region never saw any of it.
    assert_eq!(number(&world.agents[1], "t1").await?, Some(2));
    world.scan().await?;
    world.hub.stop().await
}

/// A mirror stood still while every link looked healthy: what is accepted and never answered.
///
/// Would catch a region that is called well because it can be reached, and others that wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_accepts_and_never_answers_is_seen_and_costs_the_others_nothing() -> Result<()>
{
    let mut world = World::with_counters(Server::any().await?, &REGIONS, 100).await?;
    let relay = world.relay_to(0).await?;
    world.runs().await?;
    // Every request from now on arrives nowhere, heartbeats included.
    relay.hold(1);
    let mut connection = world.database.connect().await?;
    let near = format!("&regions={}", REGIONS[1]);
    let mut token = String::new();
    for n in 2..=20 {
        let sql = format!("UPDATE counters SET n = {n} WHERE tenant = 't1'");
        token = commit(&mut connection, &sql).await?;
        arrives(&world.hub, &token, &near).await?;
        assert_eq!(number(&world.agents[1], "t1").await?, Some(n));
    }
    // The hub says that something waits there, long before it gives the store up; and that it is one tenant, however often
    // that was changed.
    let status = world.hub.status().await?;
    let stores = status["engine"]["stores"].as_array().ok_or("no stores")?;
    let stuck = stores.iter().find(|s| s["region"] == REGIONS[0]);
    assert_eq!(stuck.ok_or("no store")?["queued"], 1, "{status:#}");
    let far = format!("/v1/visible?token={token}&timeout=0s");
    assert_eq!(world.hub.get(&far).await?.0, StatusCode::GATEWAY_TIMEOUT);
    // What it has it goes on answering.
    assert_eq!(number(&world.agents[0], "t1").await?, Some(1));
    relay.mend();
    world.becomes_true().await?;
    world.hub.stop().await
}
