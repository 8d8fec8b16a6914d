//! The keys of TLS, and where plain HTTP may be spoken: within this machine, and elsewhere only if `insecure` says so.

use super::ConfigError;
use super::layers::{Layers, Set};
use hubcast_tls::client::ClientFiles;
use hubcast_tls::files::Identity;
use hubcast_tls::is_loopback;
use hubcast_tls::server::ServerFiles;
use std::net::SocketAddr;

/// The keys of one listener.
struct Keys {
    listen: &'static str,
    cert: &'static str,
    key: &'static str,
    client_ca: Option<&'static str>,
}

const PUSH: Keys = Keys {
    listen: "push_listen",
    cert: "push_cert",
    key: "push_key",
    client_ca: Some("push_client_ca"),
};
const READ: Keys = Keys {
    listen: "read_listen",
    cert: "read_cert",
    key: "read_key",
    client_ca: None,
};

/// The files of the push listener.
pub(super) fn push(layers: &Layers) -> Result<Option<ServerFiles>, ConfigError> {
    files(layers, &PUSH)
}

/// The files of the read listener.
pub(super) fn read(layers: &Layers) -> Result<Option<ServerFiles>, ConfigError> {
    files(layers, &READ)
}

fn files(layers: &Layers, keys: &Keys) -> Result<Option<ServerFiles>, ConfigError> {
    let (cert, key) = (layers.optional(keys.cert)?, layers.optional(keys.key)?);
    let ca = keys.client_ca.map(|key| layers.optional(key)).transpose()?;
    let ca = ca.flatten();
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(ServerFiles {
            identity: Identity {
                cert: cert.value.into(),
                key: key.value.into(),
            },
            client_ca: ca.map(|set| set.value.into()),
        })),
        (Some(set), None) => Err(set.bad(format!("needs {} beside it", keys.key))),
        (None, Some(set)) => Err(set.bad(format!("needs {} beside it", keys.cert))),
        (None, None) => match ca {
            Some(set) => Err(set.bad(format!("needs {} and {} beside it", keys.cert, keys.key))),
            None => Ok(None),
        },
    }
}

/// Whom the agent trusts when it asks a peer, and as whom it goes: what its own push listener has.
pub(super) fn peers(push: Option<&ServerFiles>) -> ClientFiles {
    ClientFiles {
        ca: push.and_then(|files| files.client_ca.clone()),
        identity: push.map(|files| files.identity.clone()),
    }
}

/// Sees that nothing leaves the machine in plain text, unless `insecure` says so.
pub(super) fn none_is_plain(
    layers: &Layers,
    push: Option<(SocketAddr, bool)>,
    read: Option<(SocketAddr, bool)>,
) -> Result<(), ConfigError> {
    if is_insecure(layers)? {
        return Ok(());
    }
    for (keys, listener) in [(&PUSH, push), (&READ, read)] {
        let Some((address, false)) = listener else {
            continue;
        };
        if !address.ip().is_loopback() {
            let (cert, key) = (keys.cert, keys.key);
            return Err(layers.required(keys.listen)?.bad(format!(
                "is {address}, which is not loopback, and without TLS tokens and contexts can be read on the way: set \
                 {cert} and {key} (`publisher certs` makes a set for development), or insecure = true where the network \
                 itself is trusted"
            )));
        }
    }
    for key in ["peers", "endpoint", "from"] {
        let Some(set) = layers.optional(key)? else {
            continue;
        };
        if let Some(address) = set
            .value
            .split(',')
            .map(str::trim)
            .find(|url| is_plain(url))
        {
            return Err(set.bad(format!(
                "has {address}, which is not loopback and not encrypted: use https, or set insecure = true where the \
                 network itself is trusted"
            )));
        }
    }
    Ok(())
}

fn is_insecure(layers: &Layers) -> Result<bool, ConfigError> {
    let set: Option<Set> = layers.optional("insecure")?;
    match set.as_ref().map(|set| set.value.as_str()) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(layers.required("insecure")?.bad("must be true or false")),
    }
}

/// Whether an address is plain HTTP to another machine.
fn is_plain(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    !is_loopback(host)
}
