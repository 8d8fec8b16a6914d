//! Logs, to stderr.

use super::{Cli, Command, LogFormat};
use tracing_subscriber::EnvFilter;

/// The daemon tells what it does; other commands only what is wrong.
fn default_filter(cli: &Cli) -> &'static str {
    match cli.command {
        Command::Run => "info,tokio_cron_scheduler=warn,sqlx=warn",
        _ => "error",
    }
}

/// Starts logging as the command line and RUST_LOG say.
pub fn init(cli: &Cli) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter(cli)));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match cli.global.log_format {
        LogFormat::Text => logs.with_ansi(is_terminal).with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}
