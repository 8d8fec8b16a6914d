//! `spoke-agent get KIND KEY`: what gateways see, read through the running agent like any gateway.

use super::ask::{Ask, chain, encoded, text};
use crate::config::ReadConfig;
use percent_encoding::percent_decode_str;
use reqwest::Response;
use serde::Serialize;
use serde_json::value::RawValue;

/// What is printed.
#[derive(Debug)]
pub struct Printed {
    /// To stdout.
    pub out: String,
    /// To stderr.
    pub note: String,
    /// Whether there is such a context.
    pub found: bool,
}

/// A context as `--json` prints it.
#[derive(Serialize)]
struct Document<'a> {
    kind: &'a str,
    key: &'a str,
    tenant: String,
    version: String,
    age: Option<f64>,
    value: Box<RawValue>,
}

/// Asks the agent for one context.
///
/// # Errors
/// One line if the agent cannot be asked or answers something that is no context.
pub async fn get(read: &ReadConfig, kind: &str, key: &str, json: bool) -> Result<Printed, String> {
    let ask = Ask::of(read)?;
    let path = format!("/v1/contexts/{}/{}", encoded(kind), encoded(key));
    let response = ask.get(&path).await?;
    match response.status().as_u16() {
        200 => found(response, kind, key, json).await,
        404 | 503 => absent(response, kind, key, json).await,
        _ => Err(ask.refusal(response).await),
    }
}

async fn found(response: Response, kind: &str, key: &str, json: bool) -> Result<Printed, String> {
    let header = |name: &str| {
        let value = response.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
            .to_owned()
    };
    let tenant = percent_decode_str(&header("x-context-tenant"))
        .decode_utf8_lossy()
        .into_owned();
    let version = header("x-context-version");
    let age: Option<f64> = header("x-context-age").parse().ok();
    let value = response.text().await.map_err(|error| chain(&error))?;
    if json {
        let value = RawValue::from_string(value)
            .map_err(|error| format!("the value is not JSON: {error}"))?;
        let document = Document {
            kind,
            key,
            tenant,
            version,
            age,
            value,
        };
        let out = serde_json::to_string(&document).map_err(|error| error.to_string())?;
        return Ok(Printed {
            out,
            note: String::new(),
            found: true,
        });
    }
    let age = age.map_or("unknown".into(), |age| format!("{age:.1} s"));
    Ok(Printed {
        out: value,
        note: format!("tenant {tenant:?}, version {version}, age {age}"),
        found: true,
    })
}

async fn absent(response: Response, kind: &str, key: &str, json: bool) -> Result<Printed, String> {
    let body = text(response).await;
    let parsed: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let error = parsed["error"].as_str().unwrap_or("unknown").to_owned();
    let why = match error.as_str() {
        "not_found" => "does not exist",
        "expired" => "has expired",
        "not_ready" => "is not known here: this kind is not synced yet",
        "held" => "exists, but the hub holds it and no good value ever came",
        _ => "cannot be answered",
    };
    let out = match json {
        true => serde_json::json!({ "kind": kind, "key": key, "error": error }).to_string(),
        false => String::new(),
    };
    let note = format!("{kind} {key:?} {why} ({error})");
    Ok(Printed {
        out,
        note,
        found: false,
    })
}
