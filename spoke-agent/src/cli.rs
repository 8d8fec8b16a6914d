//! The command line. Every key of the configuration is a flag too, before or after the command.
//!
//! | module | is about |
//! | --- | --- |
//! | [`get`], [`list`], [`stats`] | what a running agent answers |
//! | [`verify`] | the file of a stopped one |
//! | [`portable`] | a store as one file, and back |
//! | [`ask`], [`out`] | how it is asked, and where results go |

pub mod ask;
pub mod get;
pub mod list;
pub mod out;
pub mod portable;
pub mod stats;
pub mod verify;

use crate::config::Flags;
use crate::telemetry::LogFormat;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Keeps a region's contexts on disk and answers gateways from there.
#[derive(Debug, Parser)]
#[command(name = "spoke-agent", version, about)]
pub struct Cli {
    /// The configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE", env = "HUBCAST_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
    /// How logs are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// The keys of the configuration.
    #[command(flatten)]
    pub keys: Keys,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The agent: takes what the hub pushes and answers gateways.
    Run,
    /// A sidecar: mirrors an agent of the region, and answers a gateway in the same pod or on the same machine as that agent
    /// does, also while the agent is away.
    Follow {
        /// What is followed.
        #[command(flatten)]
        keys: FollowKeys,
    },
    /// Prints one context, read through the running agent.
    Get {
        /// The kind, such as `cluster`.
        kind: String,
        /// The key.
        key: String,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Lists contexts, read through the running agent: kind, key, tenant, version, value.
    List {
        /// Only those of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only those of this kind; may be given more than once.
        #[arg(long, value_name = "KIND")]
        kind: Vec<String>,
        /// Without the values.
        #[arg(long)]
        keys: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Says what the running agent holds, how large it is, and how old.
    Stats {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Writes the whole store into one file, of an agent that is stopped or runs; the file is as secret as the store.
    Export {
        /// The file to write; it must not be there yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Makes a new store (`--data`) of a file that `export` wrote; then start the agent.
    Import {
        /// The file.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Take it although it is another region's: it is shown as of unknown age until the hub has scanned it.
        #[arg(long)]
        other_region: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Prints a file for your shell, with which it completes commands and flags.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Checks every record of a stopped agent's file against its hash; changes nothing.
    Verify {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

/// One flag per key; a flag overrides the environment, which overrides the file.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Configuration keys (override HUBCAST_AGENT_<KEY>, which overrides the file)"
)]
pub struct Keys {
    /// The region that this agent serves.
    #[arg(long, global = true)]
    region: Option<String>,
    /// The store file; for `follow`, where the mirror is kept over a restart (default: nowhere).
    #[arg(long, global = true, value_name = "FILE")]
    data: Option<String>,
    /// Where the hub writes.
    #[arg(long, global = true, value_name = "IP:PORT")]
    push_listen: Option<String>,
    /// The hub's token.
    #[arg(long, global = true, value_name = "TOKEN")]
    push_token: Option<String>,
    /// A second token of the hub, so that it can go over to it.
    #[arg(long, global = true, value_name = "TOKEN")]
    push_token_next: Option<String>,
    /// TLS for the hub: the certificate, in PEM form.
    #[arg(long, global = true, value_name = "FILE")]
    push_cert: Option<String>,
    /// The key of `push_cert`.
    #[arg(long, global = true, value_name = "FILE")]
    push_key: Option<String>,
    /// The CA from which the hub must show a certificate.
    #[arg(long, global = true, value_name = "FILE")]
    push_client_ca: Option<String>,
    /// Where gateways read.
    #[arg(long, global = true, value_name = "IP:PORT")]
    read_listen: Option<String>,
    /// The gateways' token; required if `read_listen` is not loopback.
    #[arg(long, global = true, value_name = "TOKEN")]
    read_token: Option<String>,
    /// A second token of the gateways.
    #[arg(long, global = true, value_name = "TOKEN")]
    read_token_next: Option<String>,
    /// TLS for gateways: the certificate, in PEM form.
    #[arg(long, global = true, value_name = "FILE")]
    read_cert: Option<String>,
    /// The key of `read_cert`.
    #[arg(long, global = true, value_name = "FILE")]
    read_key: Option<String>,
    /// The same as `read_listen`, over a Unix socket.
    #[arg(long, global = true, value_name = "PATH")]
    read_socket: Option<String>,
    /// Push addresses of other agents of the region, with commas between them, from which a new agent fills itself.
    #[arg(long, global = true, value_name = "URLS")]
    peers: Option<String>,
    /// Plain HTTP also off loopback, where the network itself is trusted.
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    insecure: Option<String>,
    /// Memory for pages of the store file, in MiB (default 24).
    #[arg(long, global = true, value_name = "MIB")]
    cache_mib: Option<String>,
    /// Most memory for the contexts themselves, in MiB (default: all that they need; 0 reads them from the file; of a
    /// table 256).
    #[arg(long, global = true, value_name = "MIB")]
    memory_mib: Option<String>,
    /// Where the region's contexts are: `file`, the default, or `dynamodb`.
    #[arg(long, global = true, value_name = "STORE")]
    store: Option<String>,
    /// The table of a region on DynamoDB.
    #[arg(long, global = true, value_name = "NAME")]
    table: Option<String>,
    /// The AWS region that the table is in.
    #[arg(long, global = true, value_name = "REGION")]
    aws_region: Option<String>,
    /// A server that speaks the API of DynamoDB, instead of AWS.
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,
    /// A role to take on for the table.
    #[arg(long, global = true, value_name = "ARN")]
    role_arn: Option<String>,
    /// What is cached of a table and was read longer ago is read again before it is answered (default 10).
    #[arg(long, global = true, value_name = "SECONDS")]
    refresh_seconds: Option<String>,
    /// Keys of a table that are not cached and are read at once (default 64).
    #[arg(long, global = true, value_name = "N")]
    fills: Option<String>,
    /// Cached keys of a table that are read again at once (default 16).
    #[arg(long, global = true, value_name = "N")]
    refreshes: Option<String>,
}

/// The keys that only `follow` has.
#[derive(Debug, Clone, Args)]
pub struct FollowKeys {
    /// Agents of the region, with commas between them, in the order of preference: `unix:PATH`, `http://HOST:PORT` or
    /// `https://HOST:PORT` of their read listeners.
    #[arg(long, value_name = "URLS")]
    from: Option<String>,
    /// The gateways' token of those agents.
    #[arg(long, value_name = "TOKEN")]
    from_token: Option<String>,
    /// The CA of agents with `https`, in PEM form; those of the system without it.
    #[arg(long, value_name = "FILE")]
    from_ca: Option<String>,
    /// Only these kinds, with commas between them; 503 for others.
    #[arg(long, value_name = "KINDS")]
    kinds: Option<String>,
    /// Only these tenants, with commas between them; 503 for every key that is not theirs.
    #[arg(long, value_name = "TENANTS")]
    tenants: Option<String>,
}

impl FollowKeys {
    /// The flags that were given.
    pub fn into_flags(self) -> Flags {
        let all = [
            ("from", self.from),
            ("from_token", self.from_token),
            ("from_ca", self.from_ca),
            ("kinds", self.kinds),
            ("tenants", self.tenants),
        ];
        let given = all.into_iter().filter_map(|(key, text)| Some((key, text?)));
        given.collect()
    }
}

impl Keys {
    /// The flags that were given.
    pub fn into_flags(self) -> Flags {
        let Self {
            region,
            data,
            push_listen,
            push_token,
            push_token_next,
            push_cert,
            push_key,
            push_client_ca,
            read_listen,
            read_token,
            read_token_next,
            read_cert,
            read_key,
            read_socket,
            peers,
            insecure,
            cache_mib,
            memory_mib,
            store,
            table,
            aws_region,
            endpoint,
            role_arn,
            refresh_seconds,
            fills,
            refreshes,
        } = self;
        let all = [
            ("region", region),
            ("data", data),
            ("push_listen", push_listen),
            ("push_token", push_token),
            ("push_token_next", push_token_next),
            ("push_cert", push_cert),
            ("push_key", push_key),
            ("push_client_ca", push_client_ca),
            ("read_listen", read_listen),
            ("read_token", read_token),
            ("read_token_next", read_token_next),
            ("read_cert", read_cert),
            ("read_key", read_key),
            ("read_socket", read_socket),
            ("peers", peers),
            ("insecure", insecure),
            ("cache_mib", cache_mib),
            ("memory_mib", memory_mib),
            ("store", store),
            ("table", table),
            ("aws_region", aws_region),
            ("endpoint", endpoint),
            ("role_arn", role_arn),
            ("refresh_seconds", refresh_seconds),
            ("fills", fills),
            ("refreshes", refreshes),
        ];
        let given = all.into_iter().filter_map(|(key, text)| Some((key, text?)));
        given.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_flags_stand_on_either_side() {
        Cli::command().debug_assert();
        for args in [
            ["spoke-agent", "--config", "a.toml", "--region", "r", "run"],
            ["spoke-agent", "run", "--config", "a.toml", "--region", "r"],
        ] {
            let cli = Cli::try_parse_from(args).expect("parses");
            assert_eq!(cli.config, Some("a.toml".into()));
            assert_eq!(cli.keys.into_flags(), [("region", "r".to_owned())]);
        }
    }
}
