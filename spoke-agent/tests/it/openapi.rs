//! The OpenAPI document against the running agent: every route is described, every answer is as described, and every
//! status that is described is one that the agent gives.
//!
//! A new route needs its description in `openapi.json`, and here a line in [`probes`] for each of its statuses.

use super::support::*;
use contexts::bundle::Bundle;
use contexts::push::SyncVerdict;
use reqwest::Response;
use serde_json::{Value, json};
use spoke_agent::clock::wall_micros;
use spoke_agent::serve::openapi::DOCUMENT;
use spoke_agent::serve::{Asks, ROUTES};
use std::collections::BTreeSet;
use std::sync::Arc;
use tempfile::TempDir;

const SECRET: &str = "read-secret";

/// Statuses that cannot be brought about in a test: a writer that stopped ends the process, and 4096 watchers are many.
const UNPROVOKED: [(&str, &str, u16); 2] = [("get", "/healthz", 503), ("get", "/v1/watch", 503)];

/// One request, and the status that it is to get.
struct Probe {
    method: &'static str,
    /// As the document names it.
    route: &'static str,
    /// What is asked.
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
    status: u16,
}

/// A probe with the token.
fn probe(route: &'static str, path: &str, status: u16) -> Probe {
    Probe {
        method: "get",
        route,
        path: path.into(),
        headers: vec![("authorization", format!("Bearer {SECRET}"))],
        body: None,
        status,
    }
}

impl Probe {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn without_token(mut self) -> Self {
        self.headers.clear();
        self
    }

    fn posts(mut self, body: Value) -> Self {
        (self.method, self.body) = ("post", Some(body.to_string()));
        self
    }
}

/// What is asked of an agent that is in step for `k`, with `t` as in [`filled`].
fn probes(etag: &str) -> Vec<Probe> {
    let one = "/v1/contexts/{kind}/{key}";
    let batch = "/v1/contexts/batch-get";
    let tenant = "/v1/tenants/{tenant}/contexts";
    let authorize = "/v1/authorize/{policy}";
    let keys = |kind: &str| {
        let names = ["a", "none", "held"].map(|key| json!({"kind": kind, "key": key}));
        json!({ "keys": names })
    };
    let least = "x-context-min-version";
    vec![
        probe(one, "/v1/contexts/k/a", 200),
        probe(one, "/v1/contexts/k/a", 304).with("if-none-match", etag),
        probe(one, "/v1/contexts/k/%ff", 400),
        probe(one, "/v1/contexts/k/a", 401).without_token(),
        probe(one, "/v1/contexts/k/none", 404),
        probe(one, "/v1/contexts/k/over", 404),
        probe(one, "/v1/contexts/k/a", 412).with(least, "9.9"),
        probe(one, "/v1/contexts/k/held", 503),
        probe(one, "/v1/contexts/other/a", 503),
        probe(batch, batch, 200).posts(keys("k")),
        probe(batch, batch, 400).posts(json!([])),
        probe(batch, batch, 401).posts(keys("k")).without_token(),
        probe(batch, batch, 412).posts(keys("k")).with(least, "9.9"),
        probe(batch, batch, 503).posts(keys("other")),
        probe(tenant, "/v1/tenants/t/contexts", 200),
        probe(tenant, "/v1/tenants/t/contexts?kind=other", 200),
        probe(tenant, "/v1/tenants/none/contexts", 200),
        probe(tenant, "/v1/tenants/t/contexts?key=a", 400),
        probe(tenant, "/v1/tenants/t/contexts", 401).without_token(),
        probe(tenant, "/v1/tenants/t/contexts", 412).with(least, "9.9"),
        probe(tenant, "/v1/tenants/none/contexts?kind=other", 503),
        probe("/v1/watch", "/v1/watch", 200),
        probe("/v1/watch", "/v1/watch?follow=true", 200),
        probe("/v1/watch", "/v1/watch?follow=maybe", 400),
        probe("/v1/watch", "/v1/watch", 401).without_token(),
        probe(authorize, "/v1/authorize/api", 200).with("x-api-key", "a"),
        probe(authorize, "/v1/authorize/api", 401),
        probe(authorize, "/v1/authorize/api", 401).with("x-api-key", "none"),
        probe(authorize, "/v1/authorize/api", 401).without_token(),
        probe(authorize, "/v1/authorize/none", 403),
        probe(authorize, "/v1/authorize/api", 503).with("x-api-key", "held"),
        probe("/v1/status", "/v1/status", 200),
        probe("/v1/status", "/v1/status", 401).without_token(),
        probe("/v1/openapi.json", "/v1/openapi.json", 200).without_token(),
        probe("/healthz", "/healthz", 200).without_token(),
        probe("/readyz", "/readyz", 200).without_token(),
        probe("/readyz", "/readyz?max_age=0", 503).without_token(),
        probe("/readyz", "/readyz?max_age=soon", 400).without_token(),
        probe("/metrics", "/metrics", 200).without_token(),
    ]
}

/// An agent with a token, in step for `k`: a value, one that has expired, and a name that is held.
async fn filled() -> (Spoke, Hub) {
    let dir = Arc::new(TempDir::new().expect("a directory"));
    let mut config = config(dir.path());
    config.read.token = Some(SECRET.to_owned().into());
    let policy = "[[authorize]]\nname = \"api\"\nheader = \"x-api-key\"\nkind = \"k\"\n";
    config.authorize = policies(policy);
    let spoke = Spoke::start_with(dir, config).await.expect("starts");
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let mut over = context("k", "over", "{}");
    over.expires = Some(wall_micros() - 1);
    let contexts = vec![context("k", "a", "[1.50, null]"), over];
    let t = Bundle::new(tenant("t"), contexts, vec![held("k", "held")], vec![]);
    let t = t.expect("a bundle");
    hub.push(vec![t.clone()]).await;
    let verdict = hub.synced(&["k"], &[&t]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    (spoke, hub)
}

async fn send(spoke: &Spoke, probe: &Probe) -> Response {
    let method = probe.method.to_uppercase().parse().expect("a method");
    let mut request = client().request(method, spoke.url(&probe.path));
    for (name, value) in &probe.headers {
        request = request.header(*name, value);
    }
    if let Some(body) = &probe.body {
        request = request.body(body.clone());
    }
    request.send().await.expect("an answer")
}

/// The document, with its references followed.
struct Document(Value);

impl Document {
    fn read() -> Self {
        Self(serde_json::from_str(DOCUMENT).expect("JSON"))
    }

    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            None => value,
            Some(place) => {
                let pointer = place.strip_prefix('#').expect("within the document");
                let found = self.0.pointer(pointer);
                self.follow(found.unwrap_or_else(|| panic!("there is no {place}")))
            }
        }
    }

    /// Method, path and operation.
    fn operations(&self) -> Vec<(&str, &str, &Value)> {
        let paths = self.0["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods");
            let all = methods.iter();
            all.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
        });
        operations.collect()
    }

    /// What is wrong with a value, by a schema of the few words that the document uses.
    fn misfit(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.follow(schema).as_object().expect("a schema");
        schema
            .iter()
            .find_map(|(word, says)| self.word(schema, word, says, value, at))
    }

    fn word(
        &self,
        schema: &serde_json::Map<String, Value>,
        word: &str,
        says: &Value,
        value: &Value,
        at: &str,
    ) -> Option<String> {
        match word {
            "type" => (!is_of_type(value, says.as_str().expect("one type")))
                .then(|| format!("{at}: {value} is no {says}")),
            "enum" => {
                let all = says.as_array().expect("values");
                (!all.contains(value)).then(|| format!("{at}: {value} is none of {says}"))
            }
            "minimum" => {
                (value.as_f64() < says.as_f64()).then(|| format!("{at}: {value} < {says}"))
            }
            "maxItems" => {
                let count = value.as_array().map_or(0, Vec::len) as u64;
                (Some(count) > says.as_u64()).then(|| format!("{at}: {count} items"))
            }
            "oneOf" => {
                let all = says.as_array().expect("schemas").iter();
                let fit = all.filter(|schema| self.misfit(schema, value, at).is_none());
                let count = fit.count();
                (count != 1).then(|| format!("{at}: {value} fits {count} of {says}"))
            }
            "required" => {
                let names = says.as_array().expect("names").iter();
                let mut missing =
                    names.filter(|name| value.get(name.as_str().expect("a name")).is_none());
                missing
                    .next()
                    .map(|name| format!("{at}: {name} is missing in {value}"))
            }
            "items" => {
                let items = value.as_array()?.iter().enumerate();
                items
                    .filter_map(|(n, item)| self.misfit(says, item, &format!("{at}[{n}]")))
                    .next()
            }
            "properties" => {
                let properties = says.as_object().expect("properties").iter();
                properties
                    .filter_map(|(name, schema)| {
                        self.misfit(schema, value.get(name)?, &format!("{at}.{name}"))
                    })
                    .next()
            }
            "additionalProperties" => match says.as_bool().expect("a word") {
                true => None,
                false => {
                    let known = schema["properties"].as_object().expect("properties");
                    let mut names = value.as_object()?.keys();
                    let unknown = names.find(|name| !known.contains_key(*name));
                    unknown.map(|name| format!("{at}: {name} is not described"))
                }
            },
            "description" | "examples" => None,
            other => Some(format!("{at}: this test does not know the word {other:?}")),
        }
    }

    /// What is wrong with an answer.
    async fn misfit_of(&self, method: &str, route: &str, response: Response) -> Option<String> {
        let status = response.status().as_str().to_owned();
        let described = &self.0["paths"][route][method]["responses"][&status];
        if described.is_null() {
            return Some("the status is not described".into());
        }
        let described = self.follow(described);
        if let Some(wrong) = self.wrong_headers(described, &response) {
            return Some(wrong);
        }
        let kind = response.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or_default().to_owned();
        let Some(content) = described["content"].as_object() else {
            let body = response.text().await.expect("a body");
            return (!body.is_empty()).then(|| format!("a body that is not described: {body}"));
        };
        let Some(content) = content.get(&kind) else {
            return Some(format!("the type {kind:?} is not described"));
        };
        match kind.as_str() {
            "application/json" => {
                let body = response.json().await.expect("JSON");
                self.misfit(&content["schema"], &body, "body")
            }
            "text/event-stream" => self.wrong_events(&content["x-events"], response).await,
            _ => {
                let body = Value::from(response.text().await.expect("text"));
                self.misfit(&content["schema"], &body, "body")
            }
        }
    }

    fn wrong_headers(&self, described: &Value, response: &Response) -> Option<String> {
        let headers = described["headers"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for (name, header) in &headers {
            let header = self.follow(header);
            match response.headers().get(name) {
                None if header["required"] == true => return Some(format!("{name} is missing")),
                None => {}
                Some(value) => {
                    let value = Value::from(value.to_str().expect("text"));
                    let wrong = self.misfit(&header["schema"], &value, name);
                    if wrong.is_some() {
                        return wrong;
                    }
                }
            }
        }
        let described: BTreeSet<String> = headers.keys().map(|name| name.to_lowercase()).collect();
        let mut sent = response.headers().keys().map(|name| name.as_str());
        let ours =
            |name: &str| name.starts_with("x-context") || ["etag", "cache-control"].contains(&name);
        let unknown = sent.find(|name| ours(name) && !described.contains(*name));
        unknown.map(|name| format!("the header {name} is not described"))
    }

    /// Reads a stream up to its first `sync`, and the first `state` behind it if there is one within a second.
    async fn wrong_events(&self, described: &Value, mut response: Response) -> Option<String> {
        let (mut text, mut told) = (String::new(), BTreeSet::new());
        let follows = response
            .url()
            .query()
            .is_some_and(|query| query.contains("follow"));
        let last = if follows { "state" } else { "sync" };
        while !told.contains(last) {
            let chunk = response.chunk().await.expect("readable").expect("more");
            text += std::str::from_utf8(&chunk).expect("text");
            while let Some(end) = text.find("\n\n") {
                let block: String = text.drain(..end + 2).collect();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let (Some(name), Some(data)) = (field("event: "), field("data: ")) else {
                    continue;
                };
                if described[name].is_null() {
                    return Some(format!("the event {name} is not described"));
                }
                let data = serde_json::from_str(data).expect("JSON");
                let wrong = self.misfit(&described[name], &data, name);
                if wrong.is_some() {
                    return wrong;
                }
                told.insert(name.to_owned());
            }
        }
        let expected = if follows { "withheld" } else { "put" };
        (!told.contains(expected)).then(|| format!("no event {expected}: {told:?}"))
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[test]
fn every_route_is_described_with_its_parts_and_its_guard_and_no_other() {
    let document = Document::read();
    let described: BTreeSet<(&str, &str)> = document
        .operations()
        .into_iter()
        .map(|(method, path, _)| (method, path))
        .collect();
    let served: BTreeSet<(&str, &str)> = ROUTES
        .iter()
        .map(|route| (route.method, route.path))
        .collect();
    assert_eq!(described, served);
    for route in ROUTES {
        let operation = &document.0["paths"][route.path][route.method];
        let is_open = operation["security"] == json!([]);
        assert_eq!(is_open, route.asks == Asks::Nothing, "{}", route.path);
        let may_refuse = operation["responses"].get("401").is_some();
        assert_eq!(may_refuse, route.asks != Asks::Nothing, "{}", route.path);
        let parameters = operation["parameters"].as_array();
        let parameters = parameters.into_iter().flatten();
        let in_path = parameters
            .map(|parameter| document.follow(parameter))
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| format!("{{{}}}", parameter["name"].as_str().expect("a name")));
        let in_path: Vec<String> = in_path.collect();
        let parts = route.path.split('/').filter(|part| part.starts_with('{'));
        assert_eq!(in_path, parts.collect::<Vec<_>>(), "{}", route.path);
    }
}

#[tokio::test]
async fn every_answer_is_as_it_is_described() {
    let document = Document::read();
    let (spoke, _hub) = filled().await;
    let first = send(&spoke, &probe("", "/v1/contexts/k/a", 200)).await;
    let etag = first.headers()["etag"].to_str().expect("text").to_owned();
    let mut seen = BTreeSet::new();
    for probe in probes(&etag) {
        let response = send(&spoke, &probe).await;
        let (at, status) = (
            format!("{} {}", probe.method, probe.path),
            response.status(),
        );
        assert_eq!(status, probe.status, "{at}");
        let misfit = document
            .misfit_of(probe.method, probe.route, response)
            .await;
        assert_eq!(misfit, None, "{at}: {status}");
        seen.insert((probe.method, probe.route, probe.status));
    }
    for (method, path, operation) in document.operations() {
        for status in operation["responses"]
            .as_object()
            .expect("responses")
            .keys()
        {
            let all = (method, path, status.parse().expect("a status"));
            let is_known = seen.contains(&all) || UNPROVOKED.contains(&all);
            assert!(
                is_known,
                "{method} {path}: {status} is described and never seen"
            );
        }
    }
}

/// The checker itself: it would be worth nothing if everything fitted.
#[test]
fn what_does_not_fit_is_found() {
    let document = Document::read();
    let schema = json!({"$ref": "#/components/schemas/Contexts"});
    let fits = |body: Value| document.misfit(&schema, &body, "body").is_none();
    let context = json!({"kind": "k", "key": "a", "tenant": "t", "version": "1.1", "value": null});
    let held = json!({"kind": "k", "key": "a", "error": "held"});
    assert!(fits(json!({"contexts": [context, held, null]})));
    for wrong in [
        json!([]),
        json!({}),
        json!({"contexts": null}),
        json!({"contexts": [1]}),
        json!({"contexts": [], "more": 1}),
        json!({"contexts": [{"kind": "k", "key": "a", "error": "gone"}]}),
        json!({"contexts": [{"kind": "k", "key": "a", "tenant": 7, "version": "1.1", "value": 1}]}),
    ] {
        assert!(!fits(wrong.clone()), "{wrong}");
    }
}
