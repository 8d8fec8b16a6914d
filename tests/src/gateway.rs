//! The example gateway, and a loop of requests against it.

use crate::process::{Process, program};
use crate::{Result, free_port, until};
use reqwest::StatusCode;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its region.
    pub region: String,
    /// Its port.
    pub port: u16,
    client: reqwest::Client,
    _process: Option<Process>,
}

/// What a loop of requests saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Requests.
    pub requests: u64,
    /// Those with another answer than the right one.
    pub wrong: u64,
    /// The first of these.
    pub first_wrong: Option<String>,
    /// The largest age that an answer told, in seconds.
    pub oldest: f64,
    /// Answers without an age.
    pub ageless: u64,
}

/// A loop of requests under way.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Seen>,
}

impl Load {
    /// Ends it and says what it saw.
    ///
    /// # Errors
    /// If it ended badly.
    pub async fn end(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

impl Gateway {
    /// Starts a gateway that reads from the agent at `agent`.
    ///
    /// # Errors
    /// If it does not answer within 30 s.
    pub async fn start(dir: &Path, region: &str, agent: &str) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program("gateway")?);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--agent", agent]);
        let process = Process::start(command, &dir.join(format!("gateway-{region}.log")))?;
        Self::reached(region, port, Some(process)).await
    }

    /// A gateway that listens on this port of this machine, whoever runs it.
    ///
    /// # Errors
    /// If it does not answer within 30 s.
    pub async fn at(region: &str, port: u16) -> Result<Self> {
        Self::reached(region, port, None).await
    }

    async fn reached(region: &str, port: u16, process: Option<Process>) -> Result<Self> {
        let client = crate::client()?;
        let gateway = Self {
            region: region.to_owned(),
            port,
            client,
            _process: process,
        };
        until("the gateway to answer", Duration::from_secs(30), || async {
            gateway.ask("none").await.ok()
        })
        .await?;
        Ok(gateway)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// One request with a key: the status, and the age that the answer told.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub async fn ask(&self, key: &str) -> Result<(StatusCode, Option<f64>)> {
        ask(&self.client, &self.url(), key).await
    }

    /// Waits until a key gets this status; returns how long it took since `since`.
    ///
    /// # Errors
    /// If it does not within 30 s.
    pub async fn answers(&self, key: &str, status: StatusCode, since: Instant) -> Result<Duration> {
        until(
            &format!("{status} in {}", self.region),
            Duration::from_secs(30),
            || async {
                self.ask(key)
                    .await
                    .ok()
                    .filter(|(got, _)| *got == status)
                    .map(|_| since.elapsed())
            },
        )
        .await
    }

    /// Asks without end, in turn for each of `keys`, and expects the status that stands with it.
    pub fn load(&self, keys: Vec<(String, StatusCode)>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, url, stopped) = (self.client.clone(), self.url(), stop.clone());
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            for (key, right) in keys.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                seen.requests += 1;
                match ask(&client, &url, key).await {
                    Ok((status, age)) if status == *right => match age {
                        Some(age) => seen.oldest = seen.oldest.max(age),
                        None => seen.ageless += 1,
                    },
                    Ok((status, _)) => note(&mut seen, format!("{status} where {right} was right")),
                    Err(e) => note(&mut seen, e.to_string()),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            seen
        });
        Load { stop, task }
    }
}

fn note(seen: &mut Seen, what: String) {
    seen.wrong += 1;
    seen.first_wrong.get_or_insert(what);
}

async fn ask(client: &reqwest::Client, url: &str, key: &str) -> Result<(StatusCode, Option<f64>)> {
    let response = client
        .get(url)
        .bearer_auth(key)
        .timeout(Duration::from_secs(5))
        .send()
        .await?;
    let age = response
        .headers()
        .get("x-context-age")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    let status = response.status();
    response.bytes().await?;
    Ok((status, age))
}
