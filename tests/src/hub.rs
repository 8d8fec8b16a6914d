//! The publisher: its configuration, its commands, its daemon.

use crate::process::{Process, program};
use crate::region::Agent;
use crate::{Result, free_port, until};
use reqwest::StatusCode;
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A publisher with its configuration file.
#[derive(Debug)]
pub struct Hub {
    /// The configuration.
    pub config: PathBuf,
    /// The port of its API.
    pub port: u16,
    /// What callers of the API show.
    pub token: String,
    dir: PathBuf,
    /// What its programs have in their environment beside ours.
    pub env: Vec<(String, String)>,
    daemon: Option<Process>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// Its results.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Self {
            code,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// The result as JSON.
    ///
    /// # Errors
    /// If it is none; the message has all that the command wrote.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).map_err(|e| format!("{e}: {self:?}").into())
    }

    /// The same, if the exit code was 0.
    ///
    /// # Errors
    /// If it was not; the message has all that the command wrote.
    pub fn ok(self) -> Result<Self> {
        if self.code == 0 {
            Ok(self)
        } else {
            Err(format!("exit code {}: {}{}", self.code, self.stdout, self.stderr).into())
        }
    }
}

impl Hub {
    /// A hub with a configuration of its own for these agents and contexts (the TOML of the `[[context]]` tables).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn new(dir: &Path, database: &str, agents: &[&Agent], contexts: &str) -> Result<Self> {
        let port = free_port()?;
        let token = format!("api-{port}");
        let mut text = String::new();
        writeln!(
            text,
            "[hub]\ndatabase_url = \"{database}\"\nlisten = \"127.0.0.1:{port}\""
        )?;
        // Never by itself, so that a test decides when; start-up scans happen all the same.
        writeln!(text, "scan = \"0 0 0 1 1 *\"\napi_token = \"{token}\"")?;
        let mut regions: Vec<&str> = Vec::new();
        for agent in agents {
            if regions.contains(&agent.region.as_str()) {
                continue;
            }
            regions.push(&agent.region);
            let same: Vec<String> = agents
                .iter()
                .filter(|a| a.region == agent.region)
                .map(|a| format!("{:?}", a.push_url()))
                .collect();
            let (region, token) = (&agent.region, &agent.token);
            writeln!(
                text,
                "[[spoke]]\nregion = \"{region}\"\nagents = [{}]\ntoken = \"{token}\"",
                same.join(", ")
            )?;
        }
        text.push_str(contexts);
        let config = dir.join(format!("publisher-{port}.toml"));
        std::fs::write(&config, text)?;
        Ok(Self {
            config,
            port,
            token,
            dir: dir.to_owned(),
            env: Vec::new(),
            daemon: None,
        })
    }

    /// A hub with a configuration file that exists, and the variables that it uses.
    pub fn with_config(
        dir: &Path,
        config: &Path,
        port: u16,
        token: &str,
        env: Vec<(String, String)>,
    ) -> Self {
        Self {
            config: config.to_owned(),
            port,
            token: token.to_owned(),
            dir: dir.to_owned(),
            env,
            daemon: None,
        }
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program("publisher")?);
        command
            .env("HUBCAST_CONFIG", &self.config)
            .envs(self.env.clone())
            .env_remove("HUBCAST_FAILPOINT");
        Ok(command)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn run(&self, args: &[&str]) -> Result<Ran> {
        let mut command = self.command()?;
        command.args(args);
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await?;
        Ok(Ran::of(output))
    }

    /// Starts the daemon and waits until its API answers.
    ///
    /// # Errors
    /// If it ends, or does not answer within 30 s.
    pub async fn start(&mut self) -> Result<()> {
        self.start_with_failpoint(None).await
    }

    /// The same, perhaps with a failpoint.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub async fn start_with_failpoint(&mut self, failpoint: Option<&str>) -> Result<()> {
        let mut command = self.command()?;
        command
            .arg("run")
            .envs(failpoint.map(|f| ("HUBCAST_FAILPOINT", f)));
        let log = self.dir.join(format!("publisher-{}.log", self.port));
        let mut process = Process::start(command, &log)?;
        let url = self.url("/healthz");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = crate::client()?;
        let alive = until("the publisher to answer", Duration::from_secs(30), || {
            let (client, url, gone) = (client.clone(), url.clone(), !process.is_running());
            async move {
                if gone {
                    Some(false)
                } else {
                    client.get(&url).send().await.ok().map(|_| true)
                }
            }
        });
        if !alive.await? {
            return Err(format!("the publisher ended: {}", process.log()).into());
        }
        self.daemon = Some(process);
        Ok(())
    }

    /// Runs the daemon with a failpoint that ends it, and waits for that.
    ///
    /// # Errors
    /// If it does not end within 30 s.
    pub async fn run_to_death(&self, failpoint: &str) -> Result<()> {
        let mut command = self.command()?;
        command.arg("run").env("HUBCAST_FAILPOINT", failpoint);
        let log = self.dir.join(format!("publisher-{}.log", self.port));
        let mut process = Process::start(command, &log)?;
        let status = process.ended(Duration::from_secs(30)).await?;
        match status.code() {
            // Ended by a signal, as the failpoint does.
            None => Ok(()),
            Some(code) => Err(format!("it ended with {code}: {}", process.log()).into()),
        }
    }

    /// The daemon.
    ///
    /// # Errors
    /// If it was not started.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        self.daemon
            .as_mut()
            .ok_or_else(|| "the publisher is not running".into())
    }

    /// `kill -9` of the daemon.
    ///
    /// # Errors
    /// If it was not started.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon
            .take()
            .ok_or("the publisher is not running")?
            .kill()
    }

    /// Stops the daemon cleanly.
    ///
    /// # Errors
    /// If it was not started, or does not end cleanly.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.daemon.take().ok_or("the publisher is not running")?;
        let status = process.stop().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the publisher ended with {status}: {}", process.log()).into())
        }
    }

    /// Asks its API: the status, and the body as JSON.
    ///
    /// # Errors
    /// If it does not answer, or with something else.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, Value)> {
        let client = crate::client()?;
        let asked = client.get(self.url(path)).bearer_auth(&self.token);
        let response = asked.send().await?;
        Ok((response.status(), response.json().await?))
    }

    /// Posts to its API with some token: the status, and the body as JSON.
    ///
    /// # Errors
    /// If it does not answer, or with something else.
    pub async fn post(&self, token: &str, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let client = crate::client()?;
        let asked = client.post(self.url(path)).bearer_auth(token).json(body);
        let response = asked.send().await?;
        Ok((response.status(), response.json().await?))
    }

    /// Adds lines to the table `[hub]` of its configuration.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn configure(&self, lines: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.config)?;
        let text = text.replacen("[hub]\n", &format!("[hub]\n{lines}\n"), 1);
        Ok(std::fs::write(&self.config, text)?)
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self) -> Result<Value> {
        Ok(self.get("/v1/status").await?.1)
    }

    /// A metric: the sum over all of its lines whose labels contain `label`.
    ///
    /// # Errors
    /// If the publisher does not answer.
    pub async fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let client = crate::client()?;
        let text = client.get(self.url("/metrics")).send().await?;
        let value = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            let wanted = found == name && labels.contains(label);
            wanted.then(|| value.parse::<f64>().ok()).flatten()
        };
        Ok(text.text().await?.lines().filter_map(value).sum())
    }

    /// The program, for a person to call.
    pub fn program(&self) -> String {
        program("publisher").map_or_else(|_| "publisher".to_owned(), |p| p.display().to_string())
    }

    /// An address of its API.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}
