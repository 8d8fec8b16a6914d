//! The world in which the blocks of a page run: the sample in a database, a hub, three regions, and a folder with the files that
//! the pages name. Pages use the addresses of the examples; those are replaced by the ones that there are.

use super::page::Run;
use crate::files::root;
use crate::stage::WITHIN;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use system_tests::hub::Hub;
use system_tests::postgres::{self, Postgres};
use system_tests::process::program;
use system_tests::region::Agent;
use system_tests::{Result, sample, until};
use tempfile::TempDir;

const SIZE: sample::Size = sample::Size {
    tenants: 60,
    clusters: 120,
    keys: 600,
};
const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-1"];

/// The world of one page.
pub struct Stage {
    agents: Vec<Agent>,
    hub: Hub,
    database: String,
    dir: TempDir,
    _postgres: Option<Postgres>,
}

impl Stage {
    /// All of it, running and in step.
    pub async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hubcast-docs-").tempdir()?;
        let (postgres, database) = postgres::test_database().await?;
        sample::load(&root().join("ops/sample"), &database, SIZE).await?;
        let mut agents = Vec::new();
        for region in REGIONS {
            let mut agent = Agent::new(dir.path(), region)?;
            let mut command = agent.command()?;
            if region == REGIONS[0] {
                command.arg("--config").arg(agent_file(dir.path(), &agent)?);
            }
            agent.start_as(command).await?;
            agents.push(agent);
        }
        let all: Vec<&Agent> = agents.iter().collect();
        let sample = crate::files::read("ops/sample/publisher.toml")?;
        let contexts = &sample[sample
            .find("[[context]]")
            .ok_or("the sample has no context")?..];
        let mut hub = Hub::new(dir.path(), &database, &all, contexts)?;
        let config = dir.path().join("publisher.toml");
        std::fs::rename(&hub.config, &config)?;
        hub.config = config;
        symlink(root().join("ops"), dir.path().join("ops"))?;
        hub.run(&["migrate"]).await?.ok()?;
        hub.start().await?;
        let stage = Self {
            agents,
            hub,
            database,
            dir,
            _postgres: postgres,
        };
        for agent in &stage.agents {
            until("a region in step", WITHIN, || async {
                agent.is_ready().await.then_some(())
            })
            .await?;
        }
        let settled = || async {
            let status = stage.hub.run(&["status"]).await.ok()?;
            (status.code == 0).then_some(())
        };
        until("a hub with nothing wrong", WITHIN, settled).await?;
        Ok(stage)
    }

    /// Runs a block as a person would, with a shell in the folder.
    pub async fn run(&self, run: &Run) -> Result<Output> {
        let eu = &self.agents[0];
        let socket = eu.socket().display().to_string();
        let script = run
            .script
            .replace("127.0.0.1:7400", &format!("127.0.0.1:{}", self.hub.port))
            .replace("127.0.0.1:7521", &format!("127.0.0.1:{}", eu.read))
            .replace("/run/hubcast/eu-west-1.sock", &socket);
        let mut command = tokio::process::Command::new("bash");
        command.args(["-eu", "-c", &script]);
        command.current_dir(self.dir.path()).env("PATH", path()?);
        command
            .env("DATABASE_URL", &self.database)
            .env("HUBCAST_API_TOKEN", &self.hub.token);
        command
            .env_remove("HUBCAST_FAILPOINT")
            .env("PYTHONPATH", root().join("ops/clients/python"));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let running = command.kill_on_drop(true).output();
        let ran = tokio::time::timeout(WITHIN, running).await;
        Ok(ran.map_err(|_| format!("line {}: no end after {WITHIN:?}", run.line))??)
    }

    /// What the publisher wrote, for who looks why a block failed.
    pub fn log(&mut self) -> String {
        self.hub
            .daemon()
            .map(|daemon| daemon.log())
            .unwrap_or_default()
    }
}

/// The agent's file: the example's policy, and where it is read.
fn agent_file(dir: &Path, agent: &Agent) -> Result<PathBuf> {
    let example = crate::files::read("ops/examples/agent.toml")?;
    let policies = &example[example
        .find("[[authorize]]")
        .ok_or("the example has no policy")?..];
    let (region, data, token) = (&agent.region, &agent.data, &agent.token);
    let (push, read, socket) = (agent.push, agent.read, agent.socket());
    let text = format!(
        "region = {region:?}\ndata = {data:?}\npush_listen = \"127.0.0.1:{push}\"\npush_token = {token:?}\n\
         read_listen = \"127.0.0.1:{read}\"\nread_socket = {socket:?}\n\n{policies}"
    );
    let file = dir.join("agent.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}

/// Our programs first, then those of Postgres.
fn path() -> Result<std::ffi::OsString> {
    let ours = program("publisher")?;
    let ours = ours.parent().ok_or("the program is nowhere")?.to_owned();
    let before = std::env::var_os("PATH").unwrap_or_default();
    let mut all = vec![ours, postgres::find_bin()?];
    all.extend(std::env::split_paths(&before));
    Ok(std::env::join_paths(all)?)
}
