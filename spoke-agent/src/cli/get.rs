//! `spoke-agent get KIND KEY`: what gateways see, read through the running agent like any gateway.

use crate::config::ReadConfig;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Client, Response};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::value::RawValue;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// An agent answers from memory or disk; one that takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(10);

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
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let (client, base) = client(read)?;
    let mut request = client.get(format!(
        "{base}/v1/contexts/{}/{}",
        encode(kind),
        encode(key)
    ));
    if let Some(token) = &read.token {
        request = request.bearer_auth(token.expose_secret());
    }
    let from = place(read);
    let response = request
        .send()
        .await
        .map_err(|error| format!("the agent at {from} cannot be asked: {}", chain(&error)))?;
    let status = response.status().as_u16();
    match status {
        200 => found(response, kind, key, json).await,
        404 | 503 => absent(response, kind, key, json).await,
        401 => Err(format!(
            "the agent at {from} refuses the token: read_token is missing or wrong"
        )),
        _ => Err(format!(
            "the agent at {from} answers {status}: {}",
            text(response).await
        )),
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

async fn text(response: Response) -> String {
    response.text().await.unwrap_or_default().trim().to_owned()
}

/// Through the socket where there is one, else over TCP.
fn client(read: &ReadConfig) -> Result<(Client, String), String> {
    // The client wants a TLS provider even for plain HTTP. A second installation only says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().no_proxy().timeout(TIMEOUT);
    let (builder, base) = match (socket(read), read.listen) {
        (Some(socket), _) => (builder.unix_socket(socket), "http://agent".to_owned()),
        (None, Some(address)) => (builder, format!("http://{}", reachable(address))),
        (None, None) => (builder, "http://agent".to_owned()),
    };
    let client = builder.build().map_err(|error| chain(&error))?;
    Ok((client, base))
}

fn socket(read: &ReadConfig) -> Option<&Path> {
    let path = read.socket.as_deref()?;
    (path.exists() || read.listen.is_none()).then_some(path)
}

fn place(read: &ReadConfig) -> String {
    match (socket(read), read.listen) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(address)) => reachable(address).to_string(),
        (None, None) => "no address".into(),
    }
}

/// Where to ask an agent that listens on every address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
