//! A spoke-agent of one region.

use crate::process::{Process, program};
use crate::{Result, free_port, until};
use reqwest::StatusCode;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// An agent, running or not.
#[derive(Debug)]
pub struct Agent {
    /// Its region.
    pub region: String,
    /// Where the hub writes.
    pub push: u16,
    /// How the hub writes: `http`, or `https` for one that is started with certificates.
    pub scheme: &'static str,
    /// Where gateways read.
    pub read: u16,
    /// What the hub has to show.
    pub token: String,
    /// Its store file.
    pub data: PathBuf,
    /// The port of this machine by which the hub comes, if it is not the agent's own.
    pub via: Option<u16>,
    dir: PathBuf,
    process: Option<Process>,
    client: reqwest::Client,
}

impl Agent {
    /// An agent whose files are in `dir`, not yet started.
    ///
    /// # Errors
    /// If there are no free ports.
    pub fn new(dir: &Path, region: &str) -> Result<Self> {
        let (push, read) = (free_port()?, free_port()?);
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            region: region.to_owned(),
            push,
            scheme: "http",
            read,
            token: format!("token-of-{region}-{push}"),
            data: dir.join(format!("{region}-{push}.redb")),
            via: None,
            dir: dir.to_owned(),
            process: None,
            client: crate::client()?,
        })
    }

    /// A handle on the same agent, to read while others start and kill it.
    pub fn reader(&self) -> Self {
        let (region, token) = (self.region.clone(), self.token.clone());
        Self {
            region,
            push: self.push,
            scheme: self.scheme,
            read: self.read,
            token,
            data: self.data.clone(),
            via: self.via,
            dir: self.dir.clone(),
            process: None,
            client: self.client.clone(),
        }
    }

    /// The command that runs it.
    ///
    /// # Errors
    /// If the program was not built.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(program("spoke-agent")?);
        command
            .arg("run")
            .arg("--region")
            .arg(&self.region)
            .arg("--data")
            .arg(&self.data);
        command
            .arg("--push-listen")
            .arg(format!("127.0.0.1:{}", self.push));
        command
            .arg("--read-listen")
            .arg(format!("127.0.0.1:{}", self.read));
        command.arg("--read-socket").arg(self.socket());
        command
            .env("HUBCAST_AGENT_PUSH_TOKEN", &self.token)
            .env_remove("HUBCAST_FAILPOINT");
        Ok(command)
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!("{}-{}.sock", self.region, self.push))
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// If it ends, or does not answer within 30 s.
    pub async fn start(&mut self) -> Result<()> {
        let command = self.command()?;
        self.start_as(command).await
    }

    /// The same with a failpoint.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_with_failpoint(&mut self, failpoint: &str) -> Result<()> {
        let mut command = self.command()?;
        command.env("HUBCAST_FAILPOINT", failpoint);
        self.start_as(command).await
    }

    /// The same by a command of the caller's.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_as(&mut self, command: Command) -> Result<()> {
        let log = self.dir.join(format!("{}-{}.log", self.region, self.push));
        let mut process = Process::start(command, &log)?;
        let url = self.url("/healthz");
        let client = self.client.clone();
        let started = until("the agent to answer", Duration::from_secs(30), || {
            let (client, url, gone) = (client.clone(), url.clone(), !process.is_running());
            async move {
                if gone {
                    Some(false)
                } else {
                    client.get(&url).send().await.ok().map(|_| true)
                }
            }
        });
        let alive = started.await?;
        if !alive {
            return Err(format!("the agent ended: {}", process.log()).into());
        }
        self.process = Some(process);
        Ok(())
    }

    /// Its process, if it was started.
    ///
    /// # Errors
    /// If it was not.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .ok_or_else(|| "the agent is not running".into())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().ok_or("the agent is not running")?;
        process.kill()
    }

    /// Stops it cleanly.
    ///
    /// # Errors
    /// If it is not running or does not end.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().ok_or("the agent is not running")?;
        let status = process.stop().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the agent ended with {status}: {}", process.log()).into())
        }
    }

    /// Where the hub writes.
    pub fn push_url(&self) -> String {
        format!(
            "{}://127.0.0.1:{}",
            self.scheme,
            self.via.unwrap_or(self.push)
        )
    }

    /// An address of the read API.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.read)
    }

    /// One context: the status, and the body as text.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub async fn get(&self, kind: &str, key: &str) -> Result<(StatusCode, String)> {
        let url = self.url(&format!("/v1/contexts/{kind}/{}", percent_encoded(key)));
        let response = self.client.get(url).send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Its status.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub async fn status(&self) -> Result<Value> {
        Ok(self
            .client
            .get(self.url("/v1/status"))
            .send()
            .await?
            .json()
            .await?)
    }

    /// Whether it is ready.
    pub async fn is_ready(&self) -> bool {
        self.client
            .get(self.url("/readyz"))
            .send()
            .await
            .is_ok_and(|r| r.status().is_success())
    }

    /// A client for its API.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }
}

/// Every byte that is not a letter or a digit as `%XX`: a URL library would drop tabs and newlines.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
