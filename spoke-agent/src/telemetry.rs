//! Logs: to stderr, as text or JSON, filtered by `RUST_LOG` (default `info`). Results never go here, secrets never
//! anywhere.

use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging for this process.
///
/// # Errors
/// A line that names `RUST_LOG` if it cannot be understood.
pub fn start(format: LogFormat) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .map_err(|error| format!("RUST_LOG={text:?} cannot be understood: {error}"))?,
        _ => EnvFilter::new("info"),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .try_init(),
    };
    started.map_err(|error| format!("logging cannot be started: {error}"))
}
