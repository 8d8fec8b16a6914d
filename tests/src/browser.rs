//! A real browser without a window, driven over the WebDriver protocol (W3C) of `chromedriver`.

use crate::process::{Process, foreign};
use crate::{Result, free_port, until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a page may take to become what a test waits for.
const WITHIN: Duration = Duration::from_secs(30);

/// A browser, gone with its handle.
#[derive(Debug)]
pub struct Browser {
    driver: Process,
    client: reqwest::Client,
    session: String,
    _dir: TempDir,
}

/// The program; none if its tests have to be left out.
///
/// # Errors
/// As [`foreign`].
pub fn find() -> Result<Option<PathBuf>> {
    foreign("chromedriver", "HUBCAST_CHROMEDRIVER")
}

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    /// If it cannot be started; the message has what it said.
    pub async fn open(driver: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("hubcast-browser-")
            .tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(driver);
        command.arg(format!("--port={port}"));
        let driver = Process::start(command, &dir.path().join("driver.log"))?;
        let client = crate::client()?;
        let base = format!("http://127.0.0.1:{port}");
        until("the driver of the browser", WITHIN, || async {
            let status = client.get(format!("{base}/status")).send().await.ok()?;
            status.status().is_success().then_some(())
        })
        .await?;
        let profile = dir.path().join("profile");
        let arguments = [
            "--headless=new".to_owned(),
            // Root has no sandbox, and containers have little shared memory.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            // It is to talk to the page alone: what it looks up elsewhere may hold up a page for many seconds.
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--window-size=1280,900".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Self {
            driver,
            client,
            session: format!("{base}/session"),
            _dir: dir,
        };
        let opened = browser.ask("", wanted).await?;
        let id = opened["sessionId"].as_str().ok_or("no session")?;
        browser.session = format!("{}/{id}", browser.session);
        Ok(browser)
    }

    async fn ask(&self, command: &str, body: Value) -> Result<Value> {
        let request = self.client.post(format!("{}{command}", self.session));
        let mut answer: Value = request.json(&body).send().await?.json().await?;
        let value = answer["value"].take();
        match value["error"].as_str() {
            None => Ok(value),
            Some(error) => Err(format!("{command}: {error}: {}", value["message"]).into()),
        }
    }

    /// Opens a page.
    ///
    /// # Errors
    /// If the browser fails.
    pub async fn go(&self, url: &str) -> Result<()> {
        self.ask("/url", json!({ "url": url })).await.map(drop)
    }

    /// Gives the page this size.
    ///
    /// # Errors
    /// If the browser fails.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height });
        self.ask("/window/rect", size).await.map(drop)
    }

    /// Runs the body of a function in the page; returns what it returns.
    ///
    /// # Errors
    /// If it throws.
    pub async fn run(&self, script: &str, arguments: &[&str]) -> Result<Value> {
        self.ask(
            "/execute/sync",
            json!({ "script": script, "args": arguments }),
        )
        .await
    }

    /// What a person reads where `selector` points to; empty if there is nothing.
    ///
    /// # Errors
    /// If the browser fails.
    pub async fn text(&self, selector: &str) -> Result<String> {
        let script =
            "const node = document.querySelector(arguments[0]); return node ? node.innerText : ''";
        let text = self.run(script, &[selector]).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a person reads `wanted` where `selector` points to.
    ///
    /// # Errors
    /// If it does not come to that; the message has what was there.
    pub async fn reads(&self, selector: &str, wanted: &str) -> Result<String> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let text = self.text(selector).await?;
            if text.contains(wanted) {
                return Ok(text);
            }
            if Instant::now() > deadline {
                return Err(format!("{selector} does not read {wanted:?}, but:\n{text}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn element(&self, selector: &str) -> Result<String> {
        let by = json!({ "using": "css selector", "value": selector });
        let deadline = Instant::now() + WITHIN;
        loop {
            match self.ask("/element", by.clone()).await {
                Ok(found) => {
                    let ids = found.as_object().into_iter().flatten();
                    let id = ids.filter_map(|(_, id)| id.as_str()).next();
                    return Ok(id.ok_or("an element has no id")?.to_owned());
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Clicks, as a person does: what is covered or disabled cannot be clicked.
    ///
    /// # Errors
    /// If it cannot.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let element = self.element(selector).await?;
            let command = format!("/element/{element}/click");
            match self.ask(&command, json!({})).await {
                Ok(_) => return Ok(()),
                // A page that is live may draw it anew between the look and the click.
                Err(error) if !error.to_string().contains("stale") => return Err(error),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Types a text into a field, and Enter.
    ///
    /// # Errors
    /// If it cannot.
    pub async fn enter(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.element(selector).await?;
        self.ask(&format!("/element/{element}/clear"), json!({}))
            .await?;
        let keys = json!({ "text": format!("{text}\u{e007}") });
        self.ask(&format!("/element/{element}/value"), keys)
            .await
            .map(drop)
    }

    /// What the page complained about: errors of scripts, and what the policy of the page kept it from loading.
    ///
    /// # Errors
    /// If the browser fails.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let log = self.ask("/se/log", json!({ "type": "browser" })).await?;
        let lines = log.as_array().into_iter().flatten();
        let severe = lines.filter(|line| line["level"] == "SEVERE");
        Ok(severe.map(|line| line["message"].to_string()).collect())
    }

    /// A picture of the page, as PNG in base64.
    ///
    /// # Errors
    /// If the browser fails.
    pub async fn picture(&self) -> Result<String> {
        let url = format!("{}/screenshot", self.session);
        let answer: Value = self.client.get(url).send().await?.json().await?;
        Ok(answer["value"].as_str().ok_or("no picture")?.to_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver leaves a browser behind that it was not asked to end. Nothing can be awaited here.
        if let Some((address, session)) = self.session.trim_start_matches("http://").split_once('/')
            && let Ok(mut driver) = TcpStream::connect(address)
        {
            let _ = driver.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = write!(
                driver,
                "DELETE /{session} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            );
            let _ = driver.read_to_end(&mut Vec::new());
        }
        let _ = self.driver.kill();
    }
}
