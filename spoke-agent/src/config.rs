//! The configuration: a TOML file (`--config`), over it the environment (`HUBCAST_AGENT_<KEY>`), over that the flags.
//!
//! | key | meaning |
//! | --- | --- |
//! | `region` | the region that this agent serves |
//! | `data` | the store file; for `follow`, where the mirror is kept over a restart, if anywhere |
//! | `push_listen` | IP:PORT at which the hub writes |
//! | `push_token` | the hub's token; required for `run` |
//! | `push_token_next` | a second one that is good as well, so that the hub can go over to it |
//! | `push_cert`, `push_key` | TLS on `push_listen`: files in PEM form, read again when they change; also shown to peers |
//! | `push_client_ca` | the CA from which the hub, and peers, must show a certificate; also the one that peers are checked by |
//! | `read_listen` | IP:PORT at which gateways read |
//! | `read_token` | the gateways' token; required if `read_listen` is not loopback |
//! | `read_token_next` | a second one that is good as well |
//! | `read_cert`, `read_key` | TLS on `read_listen` |
//! | `read_socket` | the same as `read_listen`, over a Unix socket |
//! | `peers` | push addresses of other agents of the region, from which a new or emptied one fills itself |
//! | `insecure` | `true`: plain HTTP also off loopback, where the network itself is trusted |
//! | `store` | `"file"`, the default, or `"dynamodb"`: the region's contexts are in a table, and this agent caches them |
//! | `table`, `aws_region` | of a table: its name, and the AWS region that it is in |
//! | `endpoint`, `role_arn` | of a table: another server than AWS itself; a role to take on |
//! | `refresh_seconds` | of a table: what was read longer ago is read again before it is answered, default 10 |
//! | `fills`, `refreshes` | of a table: keys that are not cached, and cached ones, that are read at once, default 64 and 16 |
//! | `from` | for `follow`: the agents of the region that are followed, in the order of preference |
//! | `from_token`, `from_ca` | for `follow`: the gateways' token of those agents; the CA of agents with `https` |
//! | `kinds`, `tenants` | for `follow`: only these; all without any |
//! | `cache_mib` | memory for pages of the store file, default 24 |
//! | `memory_mib` | most memory for the contexts themselves, default all that they need; 0 reads them from the file; of a table 256 |
//!
//! `[[authorize]]` tables, in the file alone, say who is let through; see [`authorize`].
//!
//! `${NAME}` in a value is taken from the environment, `${file:PATH}` from a file. A value is expanded only when a
//! command needs it, so `get` works where the push token is not set. No port is opened and no file created here, and
//! no message contains the value of a token.

pub mod authorize;
mod expand;
mod follow;
mod layers;
mod table;
mod tls;

pub use follow::{FollowRunConfig, for_follow};
pub use layers::{Flags, Layers};
#[cfg(feature = "dynamodb")]
pub use table::TableRunConfig;

use crate::token::Tokens;
use authorize::Policy;
use contexts::name::Region;
use hubcast_tls::client::ClientFiles;
use hubcast_tls::server::ServerFiles;
use secrecy::SecretString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Memory for pages of the store file unless `cache_mib` says otherwise. Enough for the branches of a large tree; what
/// gateways read comes from memory of its own, and the rest from the page cache of the system.
pub const DEFAULT_CACHE_MIB: usize = 24;
/// More than any machine has; a larger number is a mistake.
const MAX_CACHE_MIB: usize = 1 << 20;

/// The keys, in the order in which messages list them.
pub const KEYS: [&str; 31] = [
    "region",
    "data",
    "push_listen",
    "push_token",
    "push_token_next",
    "push_cert",
    "push_key",
    "push_client_ca",
    "read_listen",
    "read_token",
    "read_token_next",
    "read_cert",
    "read_key",
    "read_socket",
    "peers",
    "insecure",
    "cache_mib",
    "memory_mib",
    "store",
    "table",
    "aws_region",
    "endpoint",
    "role_arn",
    "refresh_seconds",
    "fills",
    "refreshes",
    "from",
    "from_token",
    "from_ca",
    "kinds",
    "tenants",
];

/// What is wrong with a configuration, in one line that says where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: the configuration cannot be read: {why}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        why: String,
    },
    /// The file is not TOML.
    #[error("{file}:{line}: this is not TOML: {why}")]
    Syntax {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// A key that does not exist.
    #[error("{file}:{line}: there is no key {key:?}; {hint}")]
    UnknownKey {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The nearest one, or all.
        hint: String,
    },
    /// A required key that nobody sets.
    #[error(
        "{key} is not set; name a configuration file that has it (--config FILE), or set {env} or {flag}"
    )]
    Missing {
        /// The key.
        key: &'static str,
        /// Its environment variable.
        env: String,
        /// Its flag.
        flag: String,
    },
    /// A value of the wrong type or form.
    #[error("{place}: {key} {why}")]
    Bad {
        /// Where the value was set.
        place: String,
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// What `run` needs.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The region that this agent serves.
    pub region: Region,
    /// The store file.
    pub data: PathBuf,
    /// Where the hub writes.
    pub push_listen: SocketAddr,
    /// The hub's token, or two.
    pub push_token: Tokens,
    /// TLS on the push listener.
    pub push_tls: Option<ServerFiles>,
    /// Where gateways read.
    pub read: ReadConfig,
    /// Who is let through.
    pub authorize: Vec<Policy>,
    /// Other agents of the region, from which a new one fills itself, as `https://HOST:PORT`.
    pub peers: Vec<String>,
    /// Whom of those it trusts, and as whom it goes.
    pub peers_tls: ClientFiles,
    /// Most memory for the contexts themselves, in bytes.
    pub memory_bytes: usize,
    /// Memory for pages of the store file, in bytes.
    pub cache_bytes: usize,
}

/// What a command that looks at the store file itself needs.
#[derive(Debug, Clone)]
pub struct FileConfig {
    /// The region whose store it must be, if that is said.
    pub region: Option<Region>,
    /// The store file.
    pub data: PathBuf,
    /// Memory for pages of the store file, in bytes.
    pub cache_bytes: usize,
}

/// What `export` needs to ask the agent that runs.
#[derive(Debug, Clone)]
pub struct PushConfig {
    /// The region that the agent serves.
    pub region: Region,
    /// Where the hub writes.
    pub listen: SocketAddr,
    /// The hub's token.
    pub token: SecretString,
    /// TLS there.
    pub tls: Option<ServerFiles>,
}

/// Where gateways read, and the commands `get`, `list` and `stats`.
#[derive(Debug, Clone)]
pub struct ReadConfig {
    /// Over TCP.
    pub listen: Option<SocketAddr>,
    /// Over a Unix socket.
    pub socket: Option<PathBuf>,
    /// The gateways' token, or two.
    pub token: Option<Tokens>,
    /// TLS over TCP.
    pub tls: Option<ServerFiles>,
}

/// What `run` and `follow` run.
#[derive(Debug, Clone)]
pub enum Run {
    /// An agent with a store file.
    File(RunConfig),
    /// One that answers from a table.
    #[cfg(feature = "dynamodb")]
    Table(TableRunConfig),
    /// One that answers from a mirror of another one.
    Follow(FollowRunConfig),
}

impl Run {
    /// What of it counts only from a start on, each key or keys with a text of the value. No secret is among them.
    pub(crate) fn fixed(&self) -> Vec<(&'static str, String)> {
        fn text(value: &dyn std::fmt::Debug) -> String {
            format!("{value:?}")
        }
        let read = |read: &ReadConfig| {
            [
                ("read_listen", text(&read.listen)),
                ("read_socket", text(&read.socket)),
                ("read_cert, read_key", text(&read.tls)),
                (
                    "read_token, which must be set or not",
                    text(&read.token.is_some()),
                ),
            ]
        };
        match self {
            Self::File(config) => {
                let mut all = vec![
                    ("store", text(&"file")),
                    ("region", text(&config.region)),
                    ("data", text(&config.data)),
                    ("push_listen", text(&config.push_listen)),
                    (
                        "push_cert, push_key, push_client_ca",
                        text(&config.push_tls),
                    ),
                    ("peers", text(&config.peers)),
                    ("memory_mib", text(&config.memory_bytes)),
                    ("cache_mib", text(&config.cache_bytes)),
                ];
                all.extend(read(&config.read));
                all
            }
            #[cfg(feature = "dynamodb")]
            Self::Table(config) => {
                let mut all = vec![
                    ("store", text(&"dynamodb")),
                    ("region", text(&config.reader.region)),
                    (
                        "table, aws_region, endpoint, role_arn",
                        text(&config.reader.table),
                    ),
                    ("memory_mib", text(&config.reader.memory_bytes)),
                    ("refresh_seconds", text(&config.reader.refresh_after)),
                    ("fills", text(&config.reader.fills)),
                    ("refreshes", text(&config.reader.refreshes)),
                ];
                all.extend(read(&config.read));
                all
            }
            Self::Follow(config) => {
                let follower = &config.follower;
                let mut all = vec![
                    ("region", text(&config.region)),
                    ("data", text(&follower.file)),
                    ("from", text(&follower.agents)),
                    ("from_ca", text(&follower.ca)),
                    ("kinds", text(&follower.kinds)),
                    ("tenants", text(&follower.tenants)),
                ];
                all.extend(read(&config.read));
                all
            }
        }
    }
}

/// What the layers say, for `run`.
///
/// # Errors
/// [`ConfigError`] names the first key that is missing or wrong, and where it was set.
pub fn for_run(layers: &Layers) -> Result<Run, ConfigError> {
    let store = layers.optional("store")?;
    match store.as_ref().map(|set| set.value.as_str()) {
        None | Some("file") => for_file_run(layers).map(Run::File),
        #[cfg(feature = "dynamodb")]
        Some("dynamodb") => table::for_run(layers).map(Run::Table),
        _ => Err(layers
            .required("store")?
            .bad(match cfg!(feature = "dynamodb") {
                true => "must be \"file\" or \"dynamodb\"",
                false => "must be \"file\": this program was built without the feature dynamodb",
            })),
    }
}

/// Sees that none of these keys is set, which belong to something else.
fn none(
    layers: &Layers,
    keys: impl IntoIterator<Item = &'static str>,
    owner: &str,
) -> Result<(), ConfigError> {
    for key in keys {
        if let Some(set) = layers.optional(key)? {
            return Err(set.bad(format!("belongs to {owner}; remove it")));
        }
    }
    Ok(())
}

fn region(layers: &Layers) -> Result<Region, ConfigError> {
    let region = layers.required("region")?;
    Region::new(&region.value).map_err(|bad| region.bad(bad.to_string()))
}

/// What the layers say, for `run` with a store file.
///
/// # Errors
/// As [`for_run`].
pub fn for_file_run(layers: &Layers) -> Result<RunConfig, ConfigError> {
    table::none_of(layers)?;
    follow::none_of(layers)?;
    let checked = region(layers)?;
    let data = layers.required("data")?;
    let push_listen = layers.required("push_listen")?.address()?;
    let push_token = tokens(layers, "push_token", "push_token_next")?;
    let push_token = push_token.ok_or_else(|| layers.missing("push_token"))?;
    let push_tls = tls::push(layers)?;
    let read = for_serving(layers, Some((push_listen, push_tls.is_some())))?;
    let cache_bytes = cache_bytes(layers)?;
    let peers = match layers.optional("peers")? {
        Some(set) => set.addresses()?,
        None => Vec::new(),
    };
    let memory_bytes = match layers.optional("memory_mib")? {
        Some(set) => set.number(0, MAX_CACHE_MIB)? << 20,
        None => usize::MAX,
    };
    Ok(RunConfig {
        region: checked,
        peers,
        peers_tls: tls::peers(push_tls.as_ref()),
        memory_bytes,
        data: data.value.into(),
        push_listen,
        push_token,
        push_tls,
        read,
        authorize: layers.policies().to_vec(),
        cache_bytes,
    })
}

/// A token, and the one that takes its place, if one is set.
fn tokens(
    layers: &Layers,
    key: &'static str,
    next: &'static str,
) -> Result<Option<Tokens>, ConfigError> {
    let token = layers.optional(key)?;
    let next = layers.optional(next)?;
    match (token, next) {
        (Some(token), next) => {
            let next = next.map(|set| set.token()).transpose()?;
            Ok(Some(Tokens::new(token.token()?, next)))
        }
        (None, Some(next)) => Err(next.bad(format!("needs {key} beside it"))),
        (None, None) => Ok(None),
    }
}

/// Where gateways read, if that is safe; beside the push listener, if there is one, and whether that has TLS.
fn for_serving(
    layers: &Layers,
    push: Option<(SocketAddr, bool)>,
) -> Result<ReadConfig, ConfigError> {
    let read = for_read(layers)?;
    if let (Some(address), None) = (read.listen, &read.token)
        && !address.ip().is_loopback()
    {
        let listen = layers.required("read_listen")?;
        return Err(listen.bad(format!(
            "is {address}, which is not loopback: set read_token, or every host that reaches it can read"
        )));
    }
    let listener = read.listen.map(|address| (address, read.tls.is_some()));
    tls::none_is_plain(layers, push, listener)?;
    Ok(read)
}

fn cache_bytes(layers: &Layers) -> Result<usize, ConfigError> {
    let mib = match layers.optional("cache_mib")? {
        Some(set) => set.number(1, MAX_CACHE_MIB)?,
        None => DEFAULT_CACHE_MIB,
    };
    Ok(mib << 20)
}

/// What the layers say, for a command that looks at the store file itself.
///
/// # Errors
/// [`ConfigError`] names the first key that is missing or wrong, and where it was set.
pub fn for_file(layers: &Layers) -> Result<FileConfig, ConfigError> {
    let region = layers.optional("region")?;
    let checked = region.map(|set| Region::new(&set.value).map_err(|bad| set.bad(bad.to_string())));
    Ok(FileConfig {
        region: checked.transpose()?,
        data: layers.required("data")?.value.into(),
        cache_bytes: cache_bytes(layers)?,
    })
}

/// What the layers say, for a command that asks a running agent for its store.
///
/// # Errors
/// [`ConfigError`] names the first key that is missing or wrong, and where it was set.
pub fn for_push(layers: &Layers) -> Result<PushConfig, ConfigError> {
    Ok(PushConfig {
        region: region(layers)?,
        listen: layers.required("push_listen")?.address()?,
        token: layers.required("push_token")?.token()?,
        tls: tls::push(layers)?,
    })
}

/// What the layers say, for a command that reads through a running agent.
///
/// # Errors
/// [`ConfigError`] names the first key that is missing or wrong, and where it was set.
pub fn for_read(layers: &Layers) -> Result<ReadConfig, ConfigError> {
    let listen = layers.optional("read_listen")?;
    let socket = layers.optional("read_socket")?;
    if listen.is_none() && socket.is_none() {
        return Err(layers.missing("read_listen"));
    }
    Ok(ReadConfig {
        listen: listen.map(|set| set.address()).transpose()?,
        socket: socket.map(|set| set.value.into()),
        token: tokens(layers, "read_token", "read_token_next")?,
        tls: tls::read(layers)?,
    })
}
