//! The HTTP API as a job service uses it.

use crate::desk::{Desk, address, expect};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use system_tests::hub::Hub;
use system_tests::relay::Relay;
use system_tests::{Result, until};

const WITHIN: Duration = Duration::from_secs(30);

struct Api<'a> {
    hub: &'a Hub,
    client: reqwest::Client,
}

impl<'a> Api<'a> {
    fn of(hub: &'a Hub) -> Result<Self> {
        let client = system_tests::client()?;
        Ok(Self { hub, client })
    }

    /// One call; the answer's status and body, which is null if it is no JSON.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: &str,
        token: &str,
    ) -> Result<(StatusCode, Value)> {
        let mut request = self
            .client
            .request(method, self.hub.url(path))
            .body(body.to_owned());
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        expect(!text.contains(&self.hub.token), "no token is shown")?;
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Value)> {
        self.call(Method::GET, path, "", &self.hub.token).await
    }

    async fn post(&self, path: &str, body: &str) -> Result<(StatusCode, Value)> {
        self.call(Method::POST, path, body, &self.hub.token).await
    }
}

#[tokio::test]
async fn only_the_open_paths_answer_without_the_token() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    let api = Api::of(&desk.hub)?;
    for token in ["", "wrong", "secret", &desk.agents[0].token.clone()] {
        for (method, path) in [
            (Method::POST, "/v1/republish"),
            (Method::POST, "/v1/scan"),
            (Method::GET, "/v1/status"),
            (Method::GET, "/v1/tenants/t1"),
        ] {
            let (status, body) = api.call(method, path, "{}", token).await?;
            expect(
                status == 401 && body["error"] == "unauthorized",
                format!("{path}: {status} {body}"),
            )?;
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            let (status, _) = api.call(Method::GET, path, "", token).await?;
            expect(status == 200, format!("{path}: {status}"))?;
        }
    }
    let metrics = api
        .client
        .get(desk.hub.url("/metrics"))
        .send()
        .await?
        .text()
        .await?;
    expect(metrics.contains("# TYPE hubcast_"), metrics)?;
    let (status, body) = api.get("/v1/nothing").await?;
    expect(status == 404 && body["error"] == "not_found", body)?;
    let (status, _) = api.get("/v1/republish").await?;
    expect(status == 405, status)
}

#[tokio::test]
async fn republish_answers_at_once_or_after_durable_acks() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.hub.start().await?;
    let api = Api::of(&desk.hub)?;
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let (status, body) = api
        .post("/v1/republish", r#"{"tenant":"t1","wait":true}"#)
        .await?;
    expect(status == 200 && body["delivered"] == true, &body)?;
    let receipts = body["receipts"].as_array().ok_or("no receipts")?;
    expect(
        receipts.len() == 2 && receipts.iter().all(|r| r["version"].is_string()),
        &body,
    )?;
    for region in 0..2 {
        let there = desk.reads(region, "part", "p1").await?;
        expect(
            there.contains("two"),
            format!("readable with the receipt: {there}"),
        )?;
    }
    desk.sql("UPDATE part SET body = 'three' WHERE key = 'p1'")
        .await?;
    let (status, body) = api.post("/v1/republish", r#"{"tenant":"t1"}"#).await?;
    expect(status == 202 && body["accepted"] == true, &body)?;
    until("the value of a republish without wait", WITHIN, || async {
        desk.reads(1, "part", "p1")
            .await
            .ok()
            .filter(|v| v.contains("three"))
    })
    .await?;
    let wanted = r#"{"tenant":"t1","kinds":["item"],"regions":["us"],"wait":true}"#;
    let (status, body) = api.post("/v1/republish", wanted).await?;
    let receipts = body["receipts"].as_array().ok_or("no receipts")?;
    expect(
        status == 200 && receipts.len() == 1 && receipts[0]["region"] == "us",
        &body,
    )?;
    desk.sql("UPDATE item SET body = repeat('x', 300) WHERE key = 'i1'")
        .await?;
    let (status, body) = api
        .post("/v1/republish", r#"{"tenant":"t1","wait":true}"#)
        .await?;
    expect(status == 200 && body["delivered"] == false, &body)?;
    expect(body["held"]["t1"][0]["key"] == "i1", &body)?;
    let (status, body) = api.post("/v1/scan", "").await?;
    expect(status == 202 && body["scan"].is_string(), &body)
}

#[tokio::test]
async fn requests_that_cannot_be_meant_are_400_and_say_why() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    let api = Api::of(&desk.hub)?;
    let mut out = String::new();
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"tenant":null}"#,
        r#"{"tenant":["t1"]}"#,
        r#"{"tenant":""}"#,
        r#"{"tenant":"t1","kind":["item"]}"#,
        r#"{"tenant":"t1","kinds":["itme"]}"#,
        r#"{"tenant":"t1","kinds":["Not A Kind"]}"#,
        r#"{"tenant":"t1","regions":["mars"]}"#,
        r#"{"tenant":"t1","wait":"yes"}"#,
    ] {
        let (status, answer) = api.post("/v1/republish", body).await?;
        expect(
            status == 400 && answer["error"] == "bad_request",
            format!("{body}: {status} {answer}"),
        )?;
        out.push_str(&format!(
            "{body}\n  {}\n",
            answer["message"].as_str().unwrap_or_default()
        ));
    }
    crate::shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_tenant_may_be_a_number_where_tenants_are_numbers() -> Result<()> {
    let schema = "CREATE TABLE item (tenant bigint, key text); CREATE INDEX ON item (tenant);
                  INSERT INTO item VALUES (7, 'seven'), (9007199254740993, 'big');";
    let contexts = "[[context]]\nkind = \"item\"\nquery = \"SELECT key, tenant FROM item\"\n";
    let mut desk = Desk::with(&["eu"], schema, contexts).await?;
    desk.open().await?;
    desk.hub.start().await?;
    let api = Api::of(&desk.hub)?;
    for tenant in ["7", "\"7\"", "9007199254740993"] {
        let (status, body) = api
            .post(
                "/v1/republish",
                &format!("{{\"tenant\":{tenant},\"wait\":true}}"),
            )
            .await?;
        let named = tenant.trim_matches('"');
        expect(
            status == 200 && body["receipts"][0]["tenant"] == named,
            &body,
        )?;
        expect(body["receipts"][0]["contexts"] == 1, &body)?;
    }
    for tenant in ["7.0", "\"007\"", "\"seven\"", "1e3", "true"] {
        let (status, body) = api
            .post(
                "/v1/republish",
                &format!("{{\"tenant\":{tenant},\"wait\":true}}"),
            )
            .await?;
        expect(status == 400, format!("{tenant}: {status} {body}"))?;
    }
    let (status, body) = api.get("/v1/tenants/7").await?;
    expect(status == 200 && body["tenant"] == "7", &body)?;
    expect(body["stores"][0]["contexts"][0]["key"] == "seven", &body)
}

#[tokio::test]
async fn status_and_tenants_have_their_documented_parts() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.hub.start().await?;
    let api = Api::of(&desk.hub)?;
    let status = until("the daemon to be the writer", WITHIN, || async {
        let (_, status) = api.get("/v1/status").await.ok()?;
        (status["engine"].is_object() && status["last_scan"].is_object()).then_some(status)
    })
    .await?;
    for part in [
        "/writer/host",
        "/engine/held",
        "/engine/refusals",
        "/stores/1/writer_view/standing",
    ] {
        expect(
            status.pointer(part).is_some(),
            format!("no {part} in {status:#}"),
        )?;
    }
    let (code, tenant) = api.get("/v1/tenants/t1").await?;
    expect(
        code == 200 && tenant["stores"].as_array().is_some_and(|s| s.len() == 2),
        &tenant,
    )?;
    expect(tenant["stores"][0]["version"].is_string(), &tenant)?;
    expect(
        tenant["stores"][0]["contexts"][0]["value"] == json!({"body": "one", "share": 100}),
        &tenant,
    )?;
    let (code, nobody) = api.get("/v1/tenants/no%2Fbody%20here").await?;
    expect(code == 200 && nobody["tenant"] == "no/body here", &nobody)?;
    let ran = desk.hub.run(&["status", "--json"]).await?;
    expect(
        ran.json()?["engine"].is_object(),
        "the command asks the daemon",
    )
}

#[tokio::test]
async fn readiness_follows_the_database_and_liveness_does_not() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    let server: reqwest::Url = desk.database.parse()?;
    let relay = Relay::start(server.port().unwrap_or(5432), Duration::ZERO).await?;
    let through = address(&desk.database, |url| {
        let _ = (
            url.set_host(Some("127.0.0.1")),
            url.set_port(Some(relay.port)),
        );
    })?;
    let mut hub = desk.edited(&desk.database, &through)?;
    hub.start().await?;
    let api = Api::of(&hub)?;
    let is = async |wanted: u16| {
        until(
            &format!("readyz {wanted}"),
            Duration::from_secs(60),
            || async {
                let (status, _) = api.get("/readyz").await.ok()?;
                (status == wanted).then_some(())
            },
        )
        .await
    };
    is(200).await?;
    relay.cut();
    is(503).await?;
    let (status, body) = api.get("/readyz").await?;
    expect(status == 503 && body["error"] == "not_ready", &body)?;
    expect(api.get("/healthz").await?.0 == 200, "it lives")?;
    expect(api.get("/metrics").await?.0 == 200, "it is measured")?;
    let (status, body) = api
        .post("/v1/republish", r#"{"tenant":"t1","wait":true}"#)
        .await?;
    expect(status == 503, format!("{status} {body}"))?;
    let (status, body) = api.get("/v1/status").await?;
    expect(status == 200 && body["database"].is_string(), &body)?;
    relay.mend();
    is(200).await?;
    let healed = until(
        "a republish after the outage",
        Duration::from_secs(60),
        || async {
            let answer = api
                .post("/v1/republish", r#"{"tenant":"t1","wait":true}"#)
                .await;
            // A connection from before may be found broken once more.
            answer
                .ok()
                .filter(|(status, body)| *status == 200 && body["delivered"] == true)
        },
    );
    healed.await?;
    // The regions do not matter to readiness.
    desk.agents[0].stop().await?;
    expect(
        api.get("/readyz").await?.0 == 200,
        "a region that is gone is no reason",
    )
}
