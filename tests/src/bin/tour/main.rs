//! What `ops/quickstart` shows: a hub, three regions and three gateways on this machine, and what happens to requests
//! when something changes, when the hub is gone, and when a region loses its disk. Every figure is measured.

mod acts;
mod mistake;
mod stage;
mod table;

use clap::Parser;
use stage::{Stage, Verdict};
use std::path::PathBuf;
use std::process::ExitCode;
use system_tests::Result;

/// The tour of ops/quickstart.
#[derive(Debug, Parser)]
struct Args {
    /// The sample: schema.sql, data.sql, publisher.toml
    #[arg(long, default_value = "ops/sample")]
    sample: PathBuf,
    /// The Postgres server programs, for a throw-away server; else DATABASE_URL is used
    #[arg(long)]
    pg_bin: Option<PathBuf>,
    /// The last region is on a DynamoDB table, on a server of its own
    #[arg(long)]
    dynamodb: bool,
    /// End after the tour
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("quickstart: the runtime cannot be started: {e}");
            return ExitCode::from(1);
        }
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = tour(&args) => ended,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("quickstart: {e}");
            ExitCode::from(1)
        }
    }
}

async fn tour(args: &Args) -> Result<bool> {
    let mut stage = Stage::set(&args.sample, args.pg_bin.as_deref(), args.dynamodb).await?;
    let mut verdicts = Vec::new();
    verdicts.push(acts::fill(&mut stage).await?);
    verdicts.push(acts::create(&stage).await?);
    verdicts.push(acts::revoke(&stage).await?);
    verdicts.push(acts::hub_gone(&mut stage).await?);
    verdicts.push(acts::disk_lost(&mut stage).await?);
    verdicts.push(mistake::delete_without_where(&stage).await?);
    let good = show(&verdicts);
    if args.once {
        stage.clear().await;
        return Ok(good);
    }
    stage.addresses();
    println!("\nIt stays up until Ctrl-C; everything that was started here ends with it.");
    let _ = tokio::signal::ctrl_c().await;
    println!();
    stage.clear().await;
    Ok(good)
}

fn show(verdicts: &[Verdict]) -> bool {
    println!("\n  verdict");
    for verdict in verdicts {
        let word = if verdict.good {
            "as promised"
        } else {
            "NOT AS PROMISED"
        };
        println!(
            "    {:<15}  {:<46}  {}",
            word, verdict.promise, verdict.measured
        );
    }
    verdicts.iter().all(|v| v.good)
}
