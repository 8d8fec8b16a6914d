//! The files of TLS, and where plain HTTP may be spoken: within this machine, and elsewhere only if `insecure` says so.

use super::model::{Config, StoreConfig};
use super::{Fault, fault};
use hubcast_tls::client::ClientFiles;
use hubcast_tls::files::Identity;
use hubcast_tls::is_loopback;
use hubcast_tls::server::ServerFiles;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `hub.tls`.
#[derive(Debug, Deserialize)]
pub(super) struct RawServer {
    cert: PathBuf,
    key: PathBuf,
}

/// `hub.spoke_tls`, `spoke.tls`.
#[derive(Debug, Deserialize)]
pub(super) struct RawClient {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

pub(super) fn server(raw: RawServer) -> ServerFiles {
    let RawServer { cert, key } = raw;
    ServerFiles {
        identity: Identity { cert, key },
        client_ca: None,
    }
}

pub(super) fn client(place: &str, raw: RawClient) -> Result<ClientFiles, Fault> {
    let identity = match (raw.cert, raw.key) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        (None, None) => None,
        (Some(_), None) => return Err(fault(place, "cert needs key beside it")),
        (None, Some(_)) => return Err(fault(place, "key needs cert beside it")),
    };
    match (&raw.ca, &identity) {
        (None, None) => Err(fault(
            place,
            "it is empty: give ca, the CA of the agents, or cert and key, which the hub shows them, or all three",
        )),
        _ => Ok(ClientFiles {
            ca: raw.ca,
            identity,
        }),
    }
}

/// Files are relative to the configuration.
pub(super) fn relative_to(base: &Path, config: &mut Config) {
    let at = |path: &mut PathBuf| *path = base.join(&*path);
    let of_client = |files: &mut ClientFiles| {
        if let Some(ca) = &mut files.ca {
            at(ca);
        }
        if let Some(Identity { cert, key }) = &mut files.identity {
            at(cert);
            at(key);
        }
    };
    if let Some(files) = &mut config.hub.tls {
        at(&mut files.identity.cert);
        at(&mut files.identity.key);
    }
    of_client(&mut config.hub.spoke_tls);
    for spoke in &mut config.spokes {
        if let StoreConfig::Agents {
            tls: Some(files), ..
        } = &mut spoke.store
        {
            of_client(files);
        }
    }
}

/// Sees that nothing leaves the machine in plain text.
pub(super) fn none_is_plain(config: &Config) -> Result<(), Fault> {
    let listen = config.hub.listen;
    if config.hub.tls.is_none() && !listen.ip().is_loopback() {
        let message = format!(
            "{listen} is not loopback, and without TLS tokens can be read on the way: set hub.tls = {{ cert, key }} \
             (`publisher certs` makes a set for development), or insecure = true where the network itself is trusted"
        );
        return Err(fault("hub.listen", message));
    }
    for (i, spoke) in config.spokes.iter().enumerate() {
        let (key, urls) = match &spoke.store {
            StoreConfig::Agents { agents, .. } => ("agents", agents.as_slice()),
            StoreConfig::Table(table, _) => ("endpoint", table.endpoint.as_slice()),
        };
        if let Some(url) = urls.iter().find(|url| is_plain(url)) {
            let message = format!(
                "{url} is not loopback and not encrypted, so that tokens and contexts can be read on the way: use https \
                 (`publisher certs` makes a set for development), or set hub.insecure = true where the network itself is \
                 trusted"
            );
            return Err(fault(format!("spoke[{i}].{key}"), message));
        }
    }
    Ok(())
}

/// Whether an address, which was checked, is plain HTTP to another machine.
fn is_plain(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    url.is_some_and(|url| url.scheme() == "http" && !url.host_str().is_some_and(is_loopback))
}
