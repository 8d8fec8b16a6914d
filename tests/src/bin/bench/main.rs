//! What `ops/bench` runs: each figure with its yardstick in the same run, in interleaved rounds, on real servers with
//! real durability. It ends with 0 also if a goal is missed, since the figure is the result, and with 1 if a
//! measurement was not valid.

mod bulk;
mod clock;
mod console;
mod dynamodb;
mod load;
mod observe;
mod primary;
mod propagation;
mod reads;
mod report;
mod scan;
mod stage;
mod tls;
mod trace;
mod wake;
mod wire;
mod work;
mod writers;

use clap::{Parser, ValueEnum};
use report::Report;
use std::process::ExitCode;
use system_tests::Result;

/// Benchmarks of Hubcast, each beside a yardstick.
#[derive(Debug, Parser)]
#[command(name = "ops/bench")]
struct Args {
    /// What to measure
    name: Name,
    /// Rounds; the figure is the median over them [default: 3, or 5 for primary]
    #[arg(long)]
    rounds: Option<usize>,
    /// Changes per round and side, where single ones are timed
    #[arg(long, default_value_t = 2_000)]
    samples: usize,
    /// One short round: shows that it works, is no figure
    #[arg(long)]
    quick: bool,
    /// One JSON document instead of tables
    #[arg(long)]
    json: bool,
    /// Of `primary`, `reads`, `scan` and `dynamodb`: only this part
    #[arg(long)]
    only: Option<Part>,
    /// Also say where the time of a change goes; the relays that this needs are part of the figures then
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// From a commit at the hub to a reader in a region (P1, P2)
    Propagation,
    /// What capture costs writers at the hub (P3, P4, P5)
    Primary,
    /// From a commit at the hub until the hub knows of it, beside a plain loop on the server
    Wake,
    /// How fast and how small reads are in a region (R1 to R7), also during a rolling restart
    Reads,
    /// How soon the console shows what there is (O1)
    Console,
    /// What a scan of everything costs, and the first fill (S1 to S6)
    Scan,
    /// What a DynamoDB table costs, and how fast its readers are (D1 to D3)
    Dynamodb,
    /// What TLS costs on the push path (O2)
    Tls,
}

/// A part of `primary`, `reads`, `scan` or `dynamodb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// P3, P4
    Writers,
    /// P5
    Bulk,
    /// R1, R2
    Inside,
    /// R3
    Http,
    /// R4, R5
    Starts,
    /// R6
    Followers,
    /// A rolling restart
    Rolling,
    /// R7
    Updates,
    /// S1 to S4
    Scans,
    /// S5
    Fill,
    /// S6
    Large,
    /// D1, D2
    Units,
    /// D3
    Cache,
}

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rounds.
    pub rounds: usize,
    /// Changes per round and side.
    pub samples: usize,
    /// Only this part; all without.
    pub only: Option<Part>,
    /// No figure, only a try.
    pub quick: bool,
    /// Relays that look at what passes.
    pub trace: bool,
}

impl Args {
    fn plan(&self) -> Plan {
        // Rates depend more on what the disk does just then.
        let usual = match self.name {
            Name::Propagation
            | Name::Wake
            | Name::Reads
            | Name::Console
            | Name::Dynamodb
            | Name::Tls
            | Name::Scan => 3,
            Name::Primary => 5,
        };
        let (rounds, samples) = match self.quick {
            true => (1, 300),
            false => (self.rounds.unwrap_or(usual).max(1), self.samples.max(100)),
        };
        Plan {
            rounds,
            samples,
            only: self.only,
            quick: self.quick,
            trace: self.trace,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match measured(&args) {
        Ok(report) => {
            report.print(args.json);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("ops/bench: not a valid measurement: {e}");
            ExitCode::from(1)
        }
    }
}

fn measured(args: &Args) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            clock::stop();
        }
    });
    let busy = stage::other_work()?;
    let mut report = match args.name {
        Name::Primary => primary::measure(&runtime, args.plan())?,
        Name::Propagation => propagation::measure(&runtime, args.plan())?,
        Name::Wake => wake::measure(&runtime, args.plan())?,
        Name::Reads => reads::measure(&runtime, args.plan())?,
        Name::Console => console::measure(&runtime, args.plan())?,
        Name::Scan => scan::measure(&runtime, args.plan())?,
        Name::Dynamodb => dynamodb::measure(&runtime, args.plan())?,
        Name::Tls => tls::measure(&runtime, args.plan())?,
    };
    report.about.push(format!(
        "before it began, other work had {:.0} % of the processors",
        busy * 100.0
    ));
    if args.quick {
        report.notes.push("one short round: no figure".to_owned());
    }
    Ok(report)
}
