//! `spoke-agent`: arguments, configuration, logs, and the exit code. Everything else is in the library.

use clap::{CommandFactory, Parser};
use spoke_agent::agent::{Agent, StartError};
use spoke_agent::cli::list::{self, Asked};
use spoke_agent::cli::out::{self, Stop};
use spoke_agent::cli::{Cli, Command, get, portable, stats, verify};
use spoke_agent::config::{self, ConfigError, Layers, Run};
use spoke_agent::follow_agent::FollowAgent;
use spoke_agent::peer::portable::PortableError;
use spoke_agent::reload::{self, Reload};
use spoke_agent::store::redb::open::OpenError;
#[cfg(feature = "dynamodb")]
use spoke_agent::table_agent::TableAgent;
use spoke_agent::{supervisor, telemetry};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// It ran, but did not succeed.
const FAILED: u8 = 1;
/// Wrong use or wrong configuration.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err((code, line)) => {
            let _ = writeln!(std::io::stderr(), "spoke-agent: {line}");
            ExitCode::from(code)
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode, (u8, String)> {
    if let Command::Completions { shell } = cli.command {
        let mut file = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "spoke-agent", &mut file);
        // A reader that went away is no trouble of ours.
        let _ = std::io::stdout().write_all(&file);
        return Ok(ExitCode::SUCCESS);
    }
    let misused = |error: &dyn std::fmt::Display| (MISUSED, error.to_string());
    let failed = |error: &dyn std::fmt::Display| (FAILED, error.to_string());
    telemetry::start(cli.log_format).map_err(|error| misused(&error))?;
    // Variables that are no text cannot be meant: no key and no reference names them.
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let (file, mut flags, env) = (
        cli.config,
        cli.keys.into_flags(),
        env.collect::<BTreeMap<_, _>>(),
    );
    if let Command::Follow { keys } = &cli.command {
        flags.extend(keys.clone().into_flags());
    }
    let layers = Layers::read(file.as_deref(), flags.clone(), env.clone());
    let layers = layers.map_err(|error| misused(&error))?;
    match cli.command {
        Command::Run | Command::Follow { .. } => {
            let read_as = match cli.command {
                Command::Follow { .. } => config::for_follow,
                _ => config::for_run,
            };
            let config = read_as(&layers).map_err(|error| misused(&error))?;
            let runtime = Runtime::new().map_err(|error| failed(&error))?;
            let read = move || {
                let layers = Layers::read(file.as_deref(), flags.clone(), env.clone())?;
                read_as(&layers)
            };
            runtime.block_on(Box::pin(run(config, read)))
        }
        Command::Get { kind, key, json } => {
            let read = config::for_read(&layers).map_err(|error| misused(&error))?;
            let runtime = Runtime::new().map_err(|error| failed(&error))?;
            let printed = runtime.block_on(get::get(&read, &kind, &key, json));
            print(&printed.map_err(|error| failed(&error))?)
        }
        Command::List {
            tenant,
            kind: kinds,
            keys,
            json,
        } => {
            let read = config::for_read(&layers).map_err(|error| misused(&error))?;
            let runtime = Runtime::new().map_err(|error| failed(&error))?;
            let asked = Asked {
                tenant,
                kinds,
                json,
                keys,
            };
            let stdout = std::io::stdout();
            let mut out = out::buffered(&stdout);
            let listed = runtime.block_on(list::list(&read, &asked, &mut out));
            // What was listed before something went wrong is shown all the same.
            let shown = out.flush().map_err(Stop::from);
            ended(listed.and(shown), true)
        }
        Command::Stats { json } => {
            let read = config::for_read(&layers).map_err(|error| misused(&error))?;
            let runtime = Runtime::new().map_err(|error| failed(&error))?;
            let printed = runtime.block_on(stats::stats(&read, json));
            ended(out::line(&printed.map_err(|error| failed(&error))?), true)
        }
        Command::Export { out, json } => {
            let file = config::for_file(&layers).map_err(|error| misused(&error))?;
            let summary = match portable::export(&file, &out).map_err(carried)? {
                Some(summary) => summary,
                None => {
                    let push = config::for_push(&layers).map_err(|error| misused(&error))?;
                    let runtime = Runtime::new().map_err(|error| failed(&error))?;
                    let exported = runtime.block_on(portable::export_running(push, &out));
                    exported.map_err(carried)?
                }
            };
            let ended_so = format!("written to {}", out.display());
            ended(out::line(&portable::text(&summary, json, &ended_so)), true)
        }
        Command::Import {
            from,
            other_region,
            json,
        } => {
            let file = config::for_file(&layers).map_err(|error| misused(&error))?;
            let summary = portable::import(&file, &from, other_region).map_err(carried)?;
            let ended_so = format!("imported into {}", file.data.display());
            ended(out::line(&portable::text(&summary, json, &ended_so)), true)
        }
        // Before there is a configuration.
        Command::Completions { .. } => Ok(ExitCode::SUCCESS),
        Command::Verify { json } => {
            let file = config::for_file(&layers).map_err(|error| misused(&error))?;
            let printed = verify::run(&file, json).map_err(|error| match error {
                // It is a store, and that is what is wrong with it.
                OpenError::Damaged { .. } => failed(&error),
                _ => misused(&error),
            })?;
            ended(out::line(&printed.out), printed.sound)
        }
    }
}

/// The exit code and the line of what did not go over.
fn carried(error: PortableError) -> (u8, String) {
    let code = if error.is_misuse() { MISUSED } else { FAILED };
    (code, error.to_string())
}

/// An agent of any kind.
enum Running {
    File(Box<Agent>),
    #[cfg(feature = "dynamodb")]
    Table(TableAgent),
    Follow(Box<FollowAgent>),
}

impl Running {
    async fn start(config: Run, reload: &Reload) -> Result<Self, StartError> {
        Ok(match config {
            Run::File(config) => {
                let started = Box::pin(Agent::start_with(config, reload)).await;
                Self::File(Box::new(started?))
            }
            #[cfg(feature = "dynamodb")]
            Run::Table(config) => {
                Self::Table(Box::pin(TableAgent::start_with(config, reload)).await?)
            }
            Run::Follow(config) => {
                let started = Box::pin(FollowAgent::start_with(config, reload)).await;
                Self::Follow(Box::new(started?))
            }
        })
    }

    async fn failed(&self) {
        match self {
            Self::File(agent) => agent.failed().await,
            #[cfg(feature = "dynamodb")]
            Self::Table(_) => std::future::pending().await,
            Self::Follow(_) => std::future::pending().await,
        }
    }

    async fn stop(self) {
        match self {
            Self::File(agent) => agent.stop().await,
            #[cfg(feature = "dynamodb")]
            Self::Table(agent) => agent.stop().await,
            Self::Follow(agent) => agent.stop().await,
        }
    }
}

async fn run(
    config: Run,
    read: impl Fn() -> Result<Run, ConfigError>,
) -> Result<ExitCode, (u8, String)> {
    let failed = |error: std::io::Error| (FAILED, error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let reload = Reload::of(&config);
    let agent = tokio::select! {
        started = Running::start(config, &reload) => started.map_err(|error: StartError| {
            let code = if error.is_configuration() { MISUSED } else { FAILED };
            (code, error.to_string())
        })?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    supervisor::ready();
    let living = tokio::spawn(supervisor::keep_alive());
    let asked_to = loop {
        tokio::select! {
            _ = terminate.recv() => break true,
            _ = interrupt.recv() => break true,
            () = agent.failed() => break false,
            Some(()) = hangup.recv() => reload::again(&reload, &read),
        }
    };
    tracing::info!("stopping");
    supervisor::stopping();
    agent.stop().await;
    living.abort();
    match asked_to {
        true => Ok(ExitCode::SUCCESS),
        false => Err((
            FAILED,
            "the writer of the store has stopped; see the log".into(),
        )),
    }
}

fn print(printed: &get::Printed) -> Result<ExitCode, (u8, String)> {
    let written = match printed.out.is_empty() {
        true => Ok(()),
        false => out::line(&printed.out),
    };
    let code = ended(written, printed.found)?;
    if !printed.note.is_empty() {
        let _ = writeln!(std::io::stderr(), "{}", printed.note);
    }
    Ok(code)
}

/// The exit code once all was printed that somebody wanted to read.
fn ended(printed: Result<(), Stop>, good: bool) -> Result<ExitCode, (u8, String)> {
    match printed {
        Err(Stop::Failed(line)) => Err((FAILED, line)),
        Ok(()) | Err(Stop::Closed) => Ok(match good {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        }),
    }
}
