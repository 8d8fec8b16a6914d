//! The commands. Results go to stdout (as one JSON document with `--json`), everything else to stderr.
//!
//! Exit codes: 0 done and in step; 1 ran, but something differs, was refused, is held or is unreachable; 2 wrong use
//! or wrong configuration.

mod audit;
mod certs;
mod check;
mod compare;
mod decommission;
mod get;
mod held;
mod migrate;
mod pause;
mod progress;
mod republish;
mod run;
mod scan;
mod status;
mod takeover;
pub mod telemetry;
mod uninstall;

use crate::config::{self, Config};
use crate::engine::Parts;
use crate::source::audit::Actor;
use crate::source::{Source, SourceError};
use crate::spoke::Spoke;
use crate::writer::RegionFilter;
use clap::{Args, Parser, Subcommand, ValueEnum};
use contexts::name::{Kind, Region};
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
    /// Plain HTTP also off loopback, where the network itself is trusted; as hub.insecure = true
    #[arg(long, global = true, env = "HUBCAST_INSECURE")]
    insecure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The daemon: scans on schedule, serves the API, answers other commands
    Run,
    /// Install or update the schema `hubcast`, the change triggers, the definitions and the stores
    Migrate {
        /// Write the SQL for somebody else to run, and change nothing
        #[arg(long)]
        print: bool,
        /// Create the DynamoDB tables that are not there yet
        #[arg(long, conflicts_with = "print")]
        create_tables: bool,
    },
    /// Remove the change triggers and the schema `hubcast`; the stores keep what they hold
    Uninstall {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Even while a publisher is the writer
        #[arg(long)]
        force: bool,
    },
    /// Make a CA and certificates for hub and agents, for development; says what to put into the configurations
    Certs(certs::What),
    /// Check the configuration against the database and every spoke; changes nothing
    Check,
    /// Compare everything with every store and repair what differs
    Scan {
        /// Only report on this kind (builds are always whole)
        #[arg(long)]
        kind: Option<String>,
        /// Only the stores of this region
        #[arg(long)]
        region: Option<String>,
        /// Say what would be repaired, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Let everything leave that the hub has no longer, however much it is: removals that are held, and what this scan finds
        #[arg(long, conflicts_with = "dry_run")]
        allow_mass_delete: bool,
    },
    /// Rebuild and push now, wait for durable acknowledgements, print a receipt per store
    Republish {
        #[command(subcommand)]
        what: Republish,
        /// Only check and report this kind (bundles are always whole)
        #[arg(long, global = true)]
        kind: Option<String>,
        /// Only wait for the stores of this region
        #[arg(long, global = true)]
        region: Option<String>,
        /// Wait for the receipts, as it always does: for scripts that say so
        #[arg(long, global = true)]
        wait: bool,
    },
    /// The stop button: what is chosen keeps its values in every store, and only removals leave
    ///
    /// Kept in the database, so that it survives restarts and counts for every publisher. New contexts and changed values
    /// are held meanwhile.
    Pause(pause::What),
    /// End a pause, and send what changed meanwhile
    Resume(pause::What),
    /// What the guard holds, removals, changes and what is beyond a budget: counts and examples; exit code 1 if anything
    /// waits for a decision
    Held,
    /// Let what is held go: exactly what is held now, within the next hour
    Approve(held::Of),
    /// Keep what the stores have of what is held, until the hub changes it again
    Drop(held::Of),
    /// Who did what, when, and from where; the newest first
    Audit {
        /// How many acts
        #[arg(long, default_value = "50")]
        limit: u32,
    },
    /// Stores, lag, counts, the last scan, refusals, what is held
    Status {
        /// The API of the daemon, if it is not at hub.listen
        #[arg(long, value_name = "URL")]
        hub: Option<String>,
    },
    /// Take the lease and the stores from whoever has them, also from a writer that is alive, and scan
    ///
    /// For a database that was restored from a backup or cloned, whose publisher the stores refuse ("fenced"): run with the
    /// right database, it fences the other one for good.
    Takeover {
        /// Yes, take them
        #[arg(long)]
        force: bool,
    },
    /// Give a region up: empty its stores, which answer 503 from then on, and forget them for good
    ///
    /// Asks for the region's name. A configuration that still names the region stops `run` from then on.
    Decommission {
        /// The region
        region: String,
        /// The region's name once more, instead of being asked
        #[arg(long, value_name = "REGION")]
        confirm: Option<String>,
    },
    /// What differs between the hub's truth and the stores; changes nothing; exit code 1 if anything does
    Diff {
        /// Only this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Only the stores of this region
        #[arg(long)]
        region: Option<String>,
    },
    /// A context as the hub builds it now and as each store holds it
    Get {
        /// The kind
        kind: String,
        /// The key
        key: String,
    },
}

#[derive(Debug, Subcommand)]
enum Republish {
    /// These tenants, whatever the stores are believed to hold
    Tenant {
        /// The tenants
        #[arg(required = true)]
        tenants: Vec<String>,
        /// Although they are paused; recorded in the audit trail
        #[arg(long)]
        despite_pause: bool,
    },
    /// All stores of a region: a scan that reads their contents back
    Region {
        /// The region
        name: String,
    },
    /// All stores: a scan that reads their contents back
    All,
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
    pub json: bool,
}

impl Context {
    async fn new(global: &Global) -> Result<Self, Stop> {
        let config = config::load(&global.config, global.insecure)
            .map_err(|e| Stop::Usage(e.to_string()))?;
        let (key, url) = config.hub.address();
        let source = Source::new(key, url).map_err(|e| Stop::Usage(e.to_string()))?;
        let spokes = Spoke::all(&config).await;
        let spokes = spokes.into_iter().map(Arc::new).collect();
        Ok(Self {
            config,
            parts: Parts { source, spokes },
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
        let out = match self.json {
            true => {
                serde_json::to_string_pretty(result).map_err(|e| Stop::Failed(e.to_string()))?
            }
            false => text(),
        };
        use std::io::Write;
        // A reader that went away (`| head`) is no trouble of ours.
        let _ = writeln!(std::io::stdout(), "{}", out.trim_end());
        Ok(())
    }
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
    let outcome = match cli.command {
        // It comes before there is a configuration.
        Command::Certs(what) => certs::run(&what, cli.global.json),
        command => match Context::new(&cli.global).await {
            Ok(context) => dispatch(context, command).await,
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

async fn dispatch(context: Context, command: Command) -> Result<Exit, Stop> {
    match command {
        // Handled before, without a configuration.
        Command::Certs(what) => certs::run(&what, context.json),
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
        Command::Approve(of) => held::approve(&context, &of).await,
        Command::Drop(of) => held::drop(&context, &of).await,
        Command::Audit { limit } => audit::run(&context, limit).await,
        Command::Decommission { region, confirm } => {
            decommission::run(&context, &region, confirm.as_deref()).await
        }
        Command::Takeover { force } => takeover::run(&context, force).await,
        Command::Status { hub } => status::run(&context, hub).await,
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
