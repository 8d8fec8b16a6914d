//! Asks the hub where a transaction is visible, and reads there whether it is.

use super::Counts;
use super::claims::{Claim, Claims};
use super::reads::Reader;
use reqwest::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::hub::Hub;
use tokio::sync::{Mutex, mpsc};

/// How long one transaction is followed.
const FOLLOW_FOR: Duration = Duration::from_secs(6);

/// A transaction that has ended.
pub struct Ended {
    pub token: String,
    /// What it changed; nothing is expected of one that was rolled back but that the hub says so.
    pub claims: Option<Vec<Claim>>,
}

/// Whom to ask: address and token of each publisher, whichever writes.
#[derive(Clone)]
pub struct Desk {
    client: reqwest::Client,
    hubs: Vec<(String, String)>,
    /// How the names of the stores end, in the order of the agents.
    stores: Vec<String>,
    counts: Arc<Counts>,
}

/// What the hub says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Nothing of use now.
    Nothing,
    Aborted,
    /// Per agent, whether it is visible.
    Stores(Vec<bool>),
}

impl Desk {
    pub fn new(hubs: &[Hub], readers: &[Reader], counts: Arc<Counts>) -> Result<Self> {
        let hub = |h: &Hub| (h.url("/v1/visible"), h.token.clone());
        Ok(Self {
            client: system_tests::client()?,
            hubs: hubs.iter().map(hub).collect(),
            stores: readers.iter().map(|r| r.agent.push_url()).collect(),
            counts,
        })
    }

    async fn ask(&self, hub: usize, token: &str, within: &str) -> Result<Said> {
        let (url, secret) = &self.hubs[hub % self.hubs.len()];
        let url = format!("{url}?token={token}&timeout={within}");
        let request = self.client.get(url).bearer_auth(secret);
        let sent = request.timeout(Duration::from_secs(8)).send().await;
        let Ok(response) = sent else {
            return Ok(Said::Nothing);
        };
        let status = response.status();
        let Ok(body) = response.text().await else {
            return Ok(Said::Nothing);
        };
        match status {
            StatusCode::OK | StatusCode::GATEWAY_TIMEOUT => {
                let body: Value = serde_json::from_str(&body)?;
                let all = body["stores"].as_array().ok_or("no list of stores")?;
                let visible = |store: &String| {
                    let is_it =
                        |s: &&Value| s["store"].as_str().is_some_and(|n| n.ends_with(store));
                    let at = all.iter().find(is_it);
                    at.and_then(|s| s["visible"].as_bool())
                        .ok_or_else(|| format!("{store} is not in {body}").into())
                };
                let stores: Result<Vec<bool>> = self.stores.iter().map(visible).collect();
                Ok(Said::Stores(stores?))
            }
            StatusCode::CONFLICT => Ok(Said::Aborted),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR => {
                Ok(Said::Nothing)
            }
            _ => Err(format!("visible?token={token}: {status} {body}").into()),
        }
    }

    /// Asks while the transaction is open; it must be visible nowhere.
    pub async fn is_open(&self, hub: usize, token: &str) -> Result<()> {
        match self.ask(hub, token, "300ms").await? {
            Said::Stores(stores) if stores.contains(&true) => {
                Err(format!("{token} is visible before its commit: {stores:?}").into())
            }
            Said::Aborted => Err(format!("{token} is not rolled back").into()),
            Said::Stores(_) | Said::Nothing => Ok(()),
        }
    }

    /// Asks until a transaction is visible at all stores; nothing if that takes too long.
    pub async fn is_everywhere(&self, token: &str, within: Duration) -> Result<Option<Duration>> {
        let began = Instant::now();
        for hub in 0.. {
            match self.ask(hub, token, "2s").await? {
                Said::Stores(stores) if !stores.contains(&false) => {
                    return Ok(Some(began.elapsed()));
                }
                Said::Aborted => return Err(format!("{token} was committed").into()),
                Said::Stores(_) => {}
                Said::Nothing => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            if began.elapsed() > within {
                break;
            }
        }
        Ok(None)
    }
}

/// Follows transactions, one after the other.
pub struct Follower {
    pub desk: Desk,
    pub readers: Arc<Vec<Reader>>,
    pub claims: Arc<Claims>,
    pub ended: Arc<Mutex<mpsc::Receiver<Ended>>>,
}

impl Follower {
    /// Until nobody sends any more.
    pub async fn run(self) -> Result<()> {
        loop {
            let next = self.ended.lock().await.recv().await;
            let Some(Ended { token, claims }) = next else {
                return Ok(());
            };
            match claims {
                Some(claims) => self.follow(&token, &claims).await?,
                None => match self.desk.ask(0, &token, "100ms").await? {
                    Said::Stores(stores) => {
                        return Err(format!("{token} was rolled back: {stores:?}").into());
                    }
                    Said::Aborted | Said::Nothing => {}
                },
            }
        }
    }

    async fn follow(&self, token: &str, claims: &[Claim]) -> Result<()> {
        let (began, mut seen) = (Instant::now(), vec![false; self.readers.len()]);
        for hub in 0.. {
            match self.desk.ask(hub, token, "1s").await? {
                Said::Aborted => return Err(format!("{token} was committed").into()),
                Said::Nothing => tokio::time::sleep(Duration::from_millis(50)).await,
                Said::Stores(stores) => {
                    for agent in (0..seen.len()).filter(|i| stores[*i]) {
                        if std::mem::replace(&mut seen[agent], true) {
                            continue;
                        }
                        self.claims.visible(agent, claims);
                        self.desk.counts.visible.fetch_add(1, Ordering::Relaxed);
                        self.read(agent, token, claims).await?;
                    }
                }
            }
            let patience = !self.desk.counts.is_over() && began.elapsed() < FOLLOW_FOR;
            if !seen.contains(&false) || !patience {
                break;
            }
        }
        Ok(())
    }

    /// Reads at once what was just said to be visible. An agent that is away shows it when it is back: to whoever reads.
    async fn read(&self, agent: usize, token: &str, claims: &[Claim]) -> Result<()> {
        for claim in claims.iter().take(8) {
            let read = self.readers[agent].subject(claim.subject).await;
            read.map_err(|e| format!("{token} is said to be visible: {e}"))?;
        }
        Ok(())
    }
}
