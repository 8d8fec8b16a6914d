//! `spoke-agent run` with a table instead of a store file, as gateways in other languages use it.
//!
//! Would catch an answer that an agent with a file would not give, a key that is said to be absent while nobody can know,
//! and an agent that is of no use while the table is gone.

use super::table_hub::{Hub, REGION};
use reqwest::{Response, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use spoke_agent::reader::remote::{Remote, RemoteConfig};
use spoke_agent::reader::{Answer, Options};
use std::process::Command;
use std::time::Duration;
use system_tests::process::{Process, program};
use system_tests::relay::Relay;
use system_tests::table::TableRegion;
use system_tests::{Result, free_port, until};
use tempfile::TempDir;

const POLICY: &str = r#"
[[authorize]]
name = "api"
header = "X-Key"
kind = "item"
require = []
headers = {}
tenant_header = "X-Tenant"
"#;

struct Agent {
    port: u16,
    client: reqwest::Client,
    process: Process,
    _dir: TempDir,
}

impl Agent {
    async fn start(region: &TableRegion, endpoint: &str) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (dir, port) = (TempDir::new()?, free_port()?);
        let config = dir.path().join("agent.toml");
        let keys = format!(
            "region = \"{REGION}\"\nstore = \"dynamodb\"\ntable = \"{}\"\naws_region = \"{REGION}\"\n\
             endpoint = \"{endpoint}\"\nread_listen = \"127.0.0.1:{port}\"\nrefresh_seconds = 1\nfills = 8\nrefreshes = 4\n",
            region.table
        );
        std::fs::write(&config, keys + POLICY)?;
        let mut command = Command::new(program("spoke-agent")?);
        command.arg("run").arg("--config").arg(&config);
        command.envs(TableRegion::env());
        let process = Process::start(command, &dir.path().join("log"))?;
        let client = system_tests::client()?;
        let agent = Self {
            port,
            client,
            process,
            _dir: dir,
        };
        until("the agent", Duration::from_secs(30), || async {
            agent.get("/healthz").await.ok()
        })
        .await?;
        Ok(agent)
    }

    async fn get(&self, path: &str) -> Result<Response> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        Ok(self.client.get(url).send().await?)
    }

    /// Status and body.
    async fn asked(&self, path: &str) -> Result<(u16, String)> {
        let response = self.get(path).await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    async fn until(&self, path: &str, status: u16, body: &str) -> Result<()> {
        let what = format!("{status} {body} to {path}");
        until(&what, Duration::from_secs(15), || async {
            let asked = self.asked(path).await.ok()?;
            (asked.0 == status && asked.1.contains(body)).then_some(())
        })
        .await
    }

    async fn batch(&self, keys: &[&str]) -> Result<Value> {
        let names = keys.iter().map(|key| json!({"kind": "item", "key": key}));
        let url = format!("http://127.0.0.1:{}/v1/contexts/batch-get", self.port);
        let body = json!({ "keys": names.collect::<Vec<_>>() });
        let response = self.client.post(url).json(&body).send().await?;
        assert_eq!(response.status(), StatusCode::OK);
        Ok(response.json().await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_api_answers_from_the_table() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    hub.push("t1", None, 0..3, 1).await?;
    let mut agent = Agent::start(&region, &region.endpoint).await?;
    agent.until("/v1/contexts/item/t1%200", 200, "1").await?;
    let unknown = "/v1/contexts/item/nobody%27s";
    assert_eq!(agent.asked(unknown).await?.0, 503, "nobody can know yet");
    assert_eq!(agent.asked("/readyz").await?.0, 503);
    hub.synced().await?;
    agent.until(unknown, 404, "not_found").await?;
    agent.until("/readyz", 200, "true").await?;

    let response = agent.get("/v1/contexts/item/t1%201").await?;
    let headers = response.headers().clone();
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    assert_eq!(header("x-context-tenant"), Some("t1"));
    assert_eq!(header("x-context-version"), Some("1.1"));
    assert!(header("x-context-age").is_some_and(|age| age.parse::<f64>().is_ok()));
    let etag = header("etag").ok_or("has one")?.to_owned();
    let url = format!("http://127.0.0.1:{}/v1/contexts/item/t1%201", agent.port);
    let ask = |name: &str, value: &str| agent.client.get(&url).header(name, value).send();
    let known = ask("If-None-Match", &etag).await?;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let newer = ask("X-Context-Min-Version", "1.9").await?;
    assert_eq!(newer.status(), StatusCode::PRECONDITION_FAILED);

    let batch = agent.batch(&["t1 2", "nobody's"]).await?;
    assert_eq!(batch["contexts"][0]["value"], 1);
    assert_eq!(batch["contexts"][0]["tenant"], "t1");
    assert_eq!(batch["contexts"][1], Value::Null);
    let (_, whole) = agent.asked("/v1/tenants/t1/contexts").await?;
    let whole: Value = serde_json::from_str(&whole)?;
    assert_eq!(whole["version"], "1.1");
    assert_eq!(whole["contexts"].as_array().map(Vec::len), Some(3));
    let (_, nobody) = agent.asked("/v1/tenants/nobody/contexts").await?;
    assert_eq!(
        serde_json::from_str::<Value>(&nobody)?["contexts"],
        json!([])
    );

    let authorize = format!("http://127.0.0.1:{}/v1/authorize/api", agent.port);
    let decide = |key: &str| agent.client.get(&authorize).header("X-Key", key).send();
    let allowed = decide("t1 0").await?;
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(allowed.headers()["x-tenant"], "t1");
    assert_eq!(decide("nobody's").await?.status(), StatusCode::UNAUTHORIZED);

    let (status, why) = agent.asked("/v1/watch").await?;
    assert!(
        status == 501 && why.contains("has no watch"),
        "{status} {why}"
    );
    assert_eq!(agent.asked("/v1/contexts/item/a/b").await?.0, 400);
    let (_, status) = agent.asked("/v1/status").await?;
    let status: Value = serde_json::from_str(&status)?;
    assert_eq!(status["contexts"], 3);
    assert_eq!(status["in_caches_after_seconds"], 1.0);
    let (_, metrics) = agent.asked("/metrics").await?;
    let lines = [
        "hubcast_agent_ready{region=",
        "hubcast_agent_cached_contexts",
        "reason=\"fill\"",
    ];
    assert!(lines.iter().all(|line| metrics.contains(line)), "{metrics}");
    assert!(agent.process.stop().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_go_on_while_the_table_is_gone() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let first = hub.push("t1", None, 0..3, 1).await?;
    hub.synced().await?;
    let relay = Relay::start(region.port()?, Duration::ZERO).await?;
    let agent = Agent::start(&region, &format!("http://127.0.0.1:{}", relay.port)).await?;
    let (known, unknown) = ("/v1/contexts/item/t1%200", "/v1/contexts/item/nobody%27s");
    agent.until(known, 200, "1").await?;
    agent.until(unknown, 404, "not_found").await?;
    relay.cut();
    hub.push("t1", Some(&first), 0..3, 2).await?;
    until("the age to grow", Duration::from_secs(20), || async {
        let asked = agent.asked("/readyz?max_age=3").await.ok()?;
        (asked.0 == 503).then_some(())
    })
    .await?;
    // Who wants more than can be known now must not cost the others what is known.
    let url = format!("http://127.0.0.1:{}{known}", agent.port);
    let newer = agent.client.get(url).header("X-Context-Min-Version", "1.2");
    assert_eq!(
        newer.send().await?.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(agent.asked(known).await?, (200, "1".into()));
    assert_eq!(
        agent.asked(unknown).await?.0,
        404,
        "what was absent is so still"
    );
    let (status, why) = agent.asked("/v1/contexts/item/t1%202").await?;
    assert!(
        status == 503 && why.contains("unreachable"),
        "{status} {why}"
    );
    relay.mend();
    agent.until(known, 200, "2").await?;
    agent.until("/v1/contexts/item/t1%202", 200, "2").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_go_on_while_the_server_is_dead_and_with_it_when_it_is_back() -> Result<()> {
    let (dir, address) = (TempDir::new()?, format!("127.0.0.1:{}", free_port()?));
    let serve = || {
        let mut command = Command::new(program("dynamodb-server")?);
        command.arg(&address).arg(dir.path().join("tables"));
        Process::start(command, &dir.path().join("server.log"))
    };
    let region = TableRegion::at(REGION, &format!("http://{address}"), "contexts");
    let answers = async || {
        let check = || async { region.db().check().await.ok() };
        until("the server", Duration::from_secs(30), check).await
    };
    let mut server = serve()?;
    answers().await?;
    let mut hub = Hub::new(&region).await?;
    let first = hub.push("t1", None, 0..3, 1).await?;
    hub.synced().await?;
    let agent = Agent::start(&region, &region.endpoint).await?;
    let (known, unknown) = ("/v1/contexts/item/t1%200", "/v1/contexts/item/nobody%27s");
    agent.until(known, 200, "1").await?;
    agent.until(unknown, 404, "not_found").await?;
    server.kill()?;
    until("the age to grow", Duration::from_secs(20), || async {
        let asked = agent.asked("/readyz?max_age=3").await.ok()?;
        (asked.0 == 503).then_some(())
    })
    .await?;
    assert_eq!(agent.asked(known).await?, (200, "1".into()));
    assert_eq!(agent.asked(unknown).await?.0, 404);
    let other = "/v1/contexts/item/t1%202";
    assert_eq!(agent.asked(other).await?.0, 503);
    let _server = serve()?;
    answers().await?;
    hub.push("t1", Some(&first), 0..3, 2).await?;
    agent.until(known, 200, "2").await?;
    agent.until(other, 200, "2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tenant_is_cached_at_one_agent_and_found_at_the_other_when_that_is_gone() -> Result<()>
{
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let tenants: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    for tenant in &tenants {
        hub.push(tenant, None, 0..2, 1).await?;
    }
    hub.synced().await?;
    let agents = [
        Agent::start(&region, &region.endpoint).await?,
        Agent::start(&region, &region.endpoint).await?,
    ];
    let mut config = RemoteConfig::new(
        agents
            .iter()
            .map(|a| format!("http://127.0.0.1:{}", a.port)),
    );
    config.timeout = Duration::from_secs(10);
    let reader = Remote::connect(config, Options::default())?;
    let read = async |tenant: &String| {
        let reply = reader.get_of(tenant, "item", &format!("{tenant} 1")).await;
        assert!(
            matches!(reply.answer, Answer::Found(_)),
            "{tenant}: {reply:?}"
        );
    };
    for tenant in tenants.iter().chain(&tenants) {
        read(tenant).await;
    }
    let cached = async |agent: &Agent| -> Result<u64> {
        let (_, status) = agent.asked("/v1/status").await?;
        let status: Value = serde_json::from_str(&status)?;
        Ok(status["cache"]["fills"].as_u64().ok_or("has a count")?)
    };
    let (first, second) = (cached(&agents[0]).await?, cached(&agents[1]).await?);
    assert_eq!(first + second, tenants.len() as u64, "each is cached once");
    assert!(first > 0 && second > 0, "{first} and {second}");
    agents[0].process.signal(Signal::KILL)?;
    for tenant in &tenants {
        read(tenant).await;
    }
    assert_eq!(cached(&agents[1]).await?, tenants.len() as u64);
    Ok(())
}
