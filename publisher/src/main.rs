//! The hub's command line: arguments, configuration, telemetry, one command, exit code.

use clap::Parser;
use mimalloc::MiMalloc;
use publisher::cli::{self, Cli};
use std::process::ExitCode;

/// Builds and pushes come and go by the megabyte. The system's allocator gives such memory back each time and takes it again
/// page by page, which was a third of the time of a scan (`ops/decisions/0015`).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::telemetry::init(&cli);
    // The only TLS that is compiled in; a second call would mean that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("publisher: the runtime cannot be started: {e}");
            return ExitCode::from(1);
        }
    };
    let code = runtime.block_on(cli::execute(cli));
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ExitCode::from(code)
}
