//! A running agent, asked like any gateway asks it: through its socket where there is one, else over TCP.
//!
//! It must never show the token.

use crate::client;
pub use crate::client::chain;
use crate::config::ReadConfig;
use hubcast_tls::client::pinned;
use hubcast_tls::trouble;
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use reqwest::{Client, ClientBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// An agent answers from memory or disk; one that says nothing for longer is not well.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An agent that can be asked.
pub struct Ask {
    client: Client,
    base: String,
    token: Option<SecretString>,
    /// Where it is, for people.
    pub place: String,
}

impl Ask {
    /// The agent that the configuration names.
    ///
    /// # Errors
    /// One line if there can be no client.
    pub fn of(read: &ReadConfig) -> Result<Self, String> {
        let builder = client::builder();
        let builder = builder.connect_timeout(TIMEOUT).read_timeout(TIMEOUT);
        let agent = "http://agent".to_owned();
        let plain = |builder: ClientBuilder| builder.build().map_err(|error| chain(&error));
        let (client, base) = match (socket(read), read.listen, &read.tls) {
            (Some(socket), ..) => (plain(builder.unix_socket(socket))?, agent),
            // Whatever host names it has, it is the certificate of this very configuration.
            (None, Some(address), Some(tls)) => {
                let client = pinned(tls, builder);
                let client = client.map_err(|error| error.to_string())?;
                (client, format!("https://{}", reachable(address)))
            }
            (None, Some(address), None) => {
                (plain(builder)?, format!("http://{}", reachable(address)))
            }
            (None, None, _) => (plain(builder)?, agent),
        };
        Ok(Self {
            client,
            base,
            token: read.token.as_ref().map(|tokens| tokens.shown()),
            place: place(read),
        })
    }

    /// Whatever it answers to a path, but for a refused token.
    ///
    /// # Errors
    /// One line if it cannot be asked or refuses the token.
    pub async fn get(&self, path: &str) -> Result<Response, String> {
        let mut request = self.client.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let place = &self.place;
        let response = request.send().await.map_err(|error| {
            let why = trouble::of(&error).map_or_else(|| chain(&error), |t| t.text.to_owned());
            format!("the agent at {place} cannot be asked: {why}")
        })?;
        match response.status().as_u16() {
            401 => Err(format!(
                "the agent at {place} refuses the token: read_token is missing or wrong"
            )),
            _ => Ok(response),
        }
    }

    /// A line about an answer that nobody expects.
    pub async fn refusal(&self, response: Response) -> String {
        let (place, status) = (&self.place, response.status().as_u16());
        format!(
            "the agent at {place} answers {status}: {}",
            text(response).await
        )
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// One line if it cannot be asked or says nothing that can be understood.
    pub async fn status(&self) -> Result<serde_json::Value, String> {
        let response = self.get("/v1/status").await?;
        if response.status().as_u16() != 200 {
            return Err(self.refusal(response).await);
        }
        let status = response.json().await;
        status.map_err(|error| {
            format!(
                "the agent at {} says no status: {}",
                self.place,
                chain(&error)
            )
        })
    }
}

/// A text as a part of a path.
pub fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// The body of an answer that is shown to people.
pub async fn text(response: Response) -> String {
    response.text().await.unwrap_or_default().trim().to_owned()
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
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
