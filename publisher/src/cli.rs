//! The commands. Results go to stdout (as one JSON document with `--json`), everything else to stderr.
//!
//! Exit codes: 0 done and in step; 1 ran, but something differs, was refused, is held or is unreachable; 2 wrong use
//! or wrong configuration.

mod audit;
mod certs;
mod check;
mod commands;
mod compare;
mod decommission;
mod get;
mod held;
mod init;
mod migrate;
mod over;
mod pause;
mod progress;
mod remote;
mod republish;
mod run;
mod scan;
mod status;
mod tail;
mod takeover;
pub mod telemetry;
mod uninstall;
mod watch;

use crate::config::{self, Config, ConfigError};
use crate::engine::Parts;
use crate::reload::Origin;
use crate::source::audit::Actor;
use crate::source::{Source, SourceError};
use crate::spoke::Spoke;
use crate::writer::RegionFilter;
use clap::{Args, CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use commands::{Command, Republish};
use contexts::name::{Kind, Region};
use remote::Hub;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Replicates contexts from the primary Postgres to every region, by push.
#[derive(Debug, Parser)]
#[command(
    name = "publisher",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// The configuration
    #[arg(
        long,
        global = true,
        env = "HUBCAST_CONFIG",
        default_value = "publisher.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    /// How logs are written (to stderr; RUST_LOG chooses what)
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Print the result as one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Ask the publisher at this address over its API, with the token in HUBCAST_API_TOKEN and nothing else
    #[arg(long, global = true, value_name = "URL")]
    hub: Option<String>,
    /// The CA by which that publisher's certificate is checked, if it is not one that the system trusts
    #[arg(long, global = true, value_name = "FILE", env = "HUBCAST_HUB_CA")]
    hub_ca: Option<PathBuf>,
    /// Plain HTTP also off loopback, where the network itself is trusted; as hub.insecure = true
    #[arg(long, global = true, env = "HUBCAST_INSECURE")]
    insecure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// How a command ended.
pub(crate) enum Exit {
    /// Exit code 0.
    Done,
    /// Exit code 1; what it is about was printed.
    Trouble,
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Exit code 1 and a line.
    Failed(String),
    /// Exit code 2 and a line.
    Usage(String),
}

impl From<SourceError> for Stop {
    fn from(e: SourceError) -> Self {
        match e {
            SourceError::NotMigrated { .. }
            | SourceError::Denied { .. }
            | SourceError::NotPermitted { .. } => Self::Usage(e.to_string()),
            _ => Self::Failed(e.to_string()),
        }
    }
}

/// What commands work with.
pub(crate) struct Context {
    pub config: Config,
    pub parts: Parts,
    pub origin: Origin,
    pub json: bool,
}

impl Context {
    async fn new(global: &Global) -> Result<Self, Stop> {
        let config = config::load(&global.config, global.insecure);
        Self::of(config, global).await
    }

    async fn of(config: Result<Config, ConfigError>, global: &Global) -> Result<Self, Stop> {
        let config = config.map_err(|e| Stop::Usage(e.to_string()))?;
        let (key, url) = config.hub.address();
        let source = Source::new(key, url).map_err(|e| Stop::Usage(e.to_string()))?;
        let spokes = Spoke::all(&config).await;
        let spokes = spokes.into_iter().map(Arc::new).collect();
        Ok(Self {
            config,
            parts: Parts {
                source,
                spokes,
                tail: Arc::default(),
            },
            origin: Origin {
                path: global.config.clone(),
                insecure: global.insecure,
            },
            json: global.json,
        })
    }

    /// The configuration must be what `migrate` put into the database: builds do what the database says.
    async fn require_migrated(&self) -> Result<(), Stop> {
        self.parts.source.ping().await?;
        let definitions = self.parts.source.definitions().await?;
        if let Some(why) = definitions.refusal(&self.config) {
            return Err(Stop::Usage(why));
        }
        let differences = definitions.differences(&self.config);
        match differences.first() {
            None => Ok(()),
            Some(_) => {
                let all = differences.join("; ");
                let hint = "run `publisher migrate`, or use the configuration that it was run with";
                Err(Stop::Usage(format!("{all}: {hint}")))
            }
        }
    }

    fn regions(&self, region: Option<&str>) -> Result<RegionFilter, Stop> {
        let Some(name) = region else {
            return Ok(RegionFilter::All);
        };
        let region = Region::new(name).map_err(|e| Stop::Usage(e.to_string()))?;
        let only = [region].into();
        crate::api::known(&self.config, None, Some(&only)).map_err(Stop::Usage)?;
        Ok(RegionFilter::Only(only))
    }

    fn kind(&self, kind: Option<&str>) -> Result<Option<Kind>, Stop> {
        let Some(name) = kind else { return Ok(None) };
        let kind = Kind::new(name).map_err(|e| Stop::Usage(e.to_string()))?;
        crate::api::known(&self.config, Some(std::slice::from_ref(&kind)), None)
            .map_err(Stop::Usage)?;
        Ok(Some(kind))
    }

    /// Prints a result: as JSON, or as the text that `text` makes.
    fn print<T: Serialize>(&self, result: &T, text: impl FnOnce() -> String) -> Result<(), Stop> {
        print(self.json, result, text)
    }
}

/// Prints a result: as JSON, or as the text that `text` makes.
fn print<T: Serialize>(json: bool, result: &T, text: impl FnOnce() -> String) -> Result<(), Stop> {
    let out = match json {
        true => serde_json::to_string_pretty(result).map_err(|e| Stop::Failed(e.to_string()))?,
        false => text(),
    };
    use std::io::Write;
    // A reader that went away (`| head`) is no trouble of ours.
    let _ = writeln!(std::io::stdout(), "{}", out.trim_end());
    Ok(())
}

/// Who runs a command. The name of the user is what the environment says; the number is what the system says.
fn actor(command: &str) -> Actor {
    let uid = rustix::process::getuid().as_raw();
    let name = ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|name| !name.is_empty());
    let who = match name {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    };
    let origin = format!("publisher {command} on {}", crate::candidate::host());
    Actor { who, origin }
}

fn answered_otherwise() -> Stop {
    Stop::Failed("the writer answered something else than was asked".into())
}

/// Runs a command and returns the exit code.
pub async fn execute(cli: Cli) -> u8 {
    let Cli { global, command } = cli;
    let outcome = match (command, &global.hub) {
        // They come before there is a configuration.
        (Command::Certs(what), None) => certs::run(&what, global.json),
        (Command::Init(what), None) => Box::pin(init::run(&global, &what)).await,
        (Command::Completions { shell }, _) => completions(shell),
        (command, Some(url)) => match Hub::named(&global, url) {
            Ok(hub) => Box::pin(over::dispatch(&hub, global.json, command)).await,
            Err(stop) => Err(stop),
        },
        (command, None) => match Context::new(&global).await {
            Ok(context) => Box::pin(dispatch(context, command)).await,
            Err(stop) => Err(stop),
        },
    };
    match outcome {
        Ok(Exit::Done) => 0,
        Ok(Exit::Trouble) => 1,
        Err(Stop::Failed(why)) => {
            eprintln!("publisher: {why}");
            1
        }
        Err(Stop::Usage(why)) => {
            eprintln!("publisher: {why}");
            2
        }
    }
}

fn completions(shell: Shell) -> Result<Exit, Stop> {
    let mut file = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "publisher", &mut file);
    use std::io::Write;
    // A reader that went away is no trouble of ours.
    let _ = std::io::stdout().write_all(&file);
    Ok(Exit::Done)
}

async fn dispatch(context: Context, command: Command) -> Result<Exit, Stop> {
    match command {
        // Handled before, without a configuration.
        Command::Certs(what) => certs::run(&what, context.json),
        Command::Init(_) => Err(Stop::Usage("init comes before a configuration".into())),
        Command::Completions { shell } => completions(shell),
        Command::Run => run::run(context).await,
        Command::Migrate {
            print,
            create_tables,
        } => migrate::run(&context, print, create_tables).await,
        Command::Uninstall { yes, force } => uninstall::run(&context, yes, force).await,
        Command::Check => check::run(&context).await,
        Command::Scan {
            kind,
            region,
            dry_run: true,
            ..
        } => compare::dry_run(&context, kind.as_deref(), region.as_deref()).await,
        Command::Scan {
            kind,
            region,
            dry_run: false,
            allow_mass_delete,
        } => {
            scan::run(
                &context,
                kind.as_deref(),
                region.as_deref(),
                allow_mass_delete,
            )
            .await
        }
        Command::Republish {
            what,
            kind,
            region,
            wait: _,
        } => republish::run(&context, what, kind.as_deref(), region.as_deref()).await,
        Command::Pause(what) => pause::pause(&context, &what).await,
        Command::Resume(what) => pause::resume(&context, &what).await,
        Command::Held => held::held(&context).await,
        Command::Approve { of, kept } => held::approve(&context, &of, kept).await,
        Command::Drop(of) => held::drop(&context, &of).await,
        Command::Audit { limit } => audit::run(&context, limit).await,
        Command::Decommission { region, confirm } => {
            decommission::run(&context, &region, confirm.as_deref()).await
        }
        Command::Takeover { force } => takeover::run(&context, force).await,
        Command::Status { watch } => status::run(&context, watch).await,
        Command::Tail(what) => {
            let hub = Hub::own(&context)?;
            tail::run(&hub, context.json, &what).await
        }
        Command::Diff { tenant, region } => {
            compare::diff(&context, tenant.as_deref(), region.as_deref()).await
        }
        Command::Get { kind, key } => get::run(&context, &kind, &key).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_stand_before_or_after_the_command() {
        for line in [
            ["publisher", "--config", "x", "check"],
            ["publisher", "check", "--config", "x"],
        ] {
            let cli = Cli::try_parse_from(line).expect("parses");
            assert_eq!(cli.global.config, PathBuf::from("x"));
        }
    }
}
