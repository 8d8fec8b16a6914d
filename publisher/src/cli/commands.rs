//! What can be said on the command line. Its words are what `--help` shows.

use super::{certs, held, init, pause, tail, watch};
use clap::Subcommand;
use clap_complete::Shell;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
    /// Look at tables of your own and write a first configuration for them, for one agent on this machine
    ///
    /// Writes publisher.toml (or what --config names), a file for the agent and two files with tokens beside it, runs `check`
    /// on them and says what to type next. Changes nothing in the database.
    Init(init::What),
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
    Approve {
        #[command(flatten)]
        of: held::Of,
        /// Of what `drop` kept, instead of what waits for a decision
        #[arg(long)]
        kept: bool,
    },
    /// Keep what the stores have of what is held, until the hub changes it again; `approve --kept` lets it go after all
    Drop(held::Of),
    /// Who did what, when, and from where; the newest first
    Audit {
        /// How many acts
        #[arg(long, default_value = "50")]
        limit: u32,
    },
    /// Stores, lag, counts, the last scan, refusals, what is held
    Status {
        /// Again and again, in place on a terminal, and on when the hub cannot be reached
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = watch::DEFAULT, value_parser = watch::seconds)]
        watch: Option<f64>,
    },
    /// Changes as they become durable in stores, a line each with its latency; never values
    ///
    /// Latency counts from when the hub noticed the commit, some 10 ms after it at most. Kinds are those of which something
    /// changed; the first time that a tenant goes to a store while somebody looks, all that it has. It goes on until it is
    /// stopped or has --limit lines: a publisher that does not answer is named and waited for.
    Tail(tail::What),
    /// Print a file for your shell, with which it completes commands and flags
    ///
    /// For example: publisher completions bash > ~/.local/share/bash-completion/completions/publisher
    Completions {
        /// The shell
        shell: Shell,
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
pub(super) enum Republish {
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
