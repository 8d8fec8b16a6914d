//! P5: one UPDATE of every row of a large watched table, beside the same without triggers. The publisher is not
//! running: what is measured is what a statement of the application pays.
//!
//! Every run begins from the same physical state: the table and its indexes rewritten, and a checkpoint behind it.

use crate::primary::{drop_triggers, has_triggers};
use crate::report::{Goal, Row, number};
use crate::stage::{self, wait};
use crate::wire::Session;
use crate::{Plan, clock};
use std::time::Instant;
use system_tests::Result;
use system_tests::hub::Hub;
use system_tests::postgres::Postgres;
use system_tests::region::Agent;
use tokio::runtime::Runtime;

/// Rows.
const ROWS: u32 = 1_000_000;
/// The same, for a try.
const FEW: u32 = 100_000;
/// Tenants.
const TENANTS: u32 = 10_000;

/// What is installed on the table, and which column the statement changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bare,
    Watched,
    WatchedColumn,
    OtherColumn,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Bare,
        Self::Watched,
        Self::WatchedColumn,
        Self::OtherColumn,
    ];

    /// The row that it becomes.
    fn row(self) -> Option<(&'static str, Goal)> {
        match self {
            Self::Bare => None,
            Self::Watched => Some(("without `columns`", Goal::AtMost(1.4, 1.2))),
            Self::WatchedColumn => Some((
                "with `columns`, a watched one changes",
                Goal::AtMost(2.5, 1.2),
            )),
            Self::OtherColumn => Some(("with `columns`, another changes", Goal::AtMost(2.5, 1.2))),
        }
    }

    /// How many tenants it has to leave in the outbox.
    fn tenants(self) -> u32 {
        match self {
            Self::Bare | Self::OtherColumn => 0,
            Self::Watched | Self::WatchedColumn => TENANTS,
        }
    }

    fn statement(self) -> &'static str {
        match self {
            Self::OtherColumn => "UPDATE big SET other = other + 1",
            _ => "UPDATE big SET v = v + 1",
        }
    }
}

/// The table, and the two configurations of it.
struct Bench<'a> {
    runtime: &'a Runtime,
    session: Session,
    watched: Hub,
    columns: Hub,
}

impl Bench<'_> {
    /// One statement; how long it took, in seconds.
    fn run(&mut self, kind: Kind) -> Result<f64> {
        clock::go_on()?;
        drop_triggers(&mut self.session, "big")?;
        self.session.simple("VACUUM FULL big")?;
        let hub = match kind {
            Kind::Bare => None,
            Kind::Watched => Some(&self.watched),
            Kind::WatchedColumn | Kind::OtherColumn => Some(&self.columns),
        };
        if let Some(hub) = hub {
            wait(self.runtime, async {
                hub.run(&["migrate"]).await?.ok()?;
                Ok(())
            })?;
        }
        has_triggers(&mut self.session, "big", kind != Kind::Bare)?;
        self.session.simple("VACUUM ANALYZE big")?;
        let before = self.last_id()?;
        self.session.simple("CHECKPOINT")?;
        let began = Instant::now();
        self.session.simple(kind.statement())?;
        let took = began.elapsed();
        self.check(kind, before)?;
        Ok(took.as_secs_f64())
    }

    fn last_id(&mut self) -> Result<i64> {
        let id = self
            .session
            .simple("SELECT coalesce(max(id), 0) FROM hubcast.outbox")?;
        Ok(id.unwrap_or_default().parse()?)
    }

    /// A statement that left less than one row per tenant did less than it has to.
    fn check(&mut self, kind: Kind, before: i64) -> Result<()> {
        let sql = format!("SELECT count(DISTINCT tenant) FROM hubcast.outbox WHERE id > {before}");
        let left = self.session.simple(&sql)?.unwrap_or_default();
        if left == kind.tenants().to_string() {
            return Ok(());
        }
        Err(format!(
            "{kind:?}: the statement left {left} tenants in the outbox, not {}",
            kind.tenants()
        )
        .into())
    }
}

/// P5, on a cluster that is there.
pub fn measure(
    runtime: &Runtime,
    primary: &Postgres,
    plan: Plan,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let rows = if plan.quick { FEW } else { ROWS };
    let database = wait(runtime, primary.database())?;
    stage::fill(&database, &table(rows))?;
    let dir = tempfile::Builder::new()
        .prefix("hubcast-bench-")
        .tempdir()?;
    // Named in the configuration, never started.
    let agent = Agent::new(dir.path(), "eu-west-1")?;
    let hub = |more: &str| {
        Hub::new(
            dir.path(),
            &database,
            &[&agent],
            &stage::context("item", "big", more),
        )
    };
    let mut bench = Bench {
        runtime,
        session: Session::open(&database)?,
        watched: hub("")?,
        columns: hub(", columns = [\"v\"]")?,
    };
    wait(runtime, async {
        bench.watched.run(&["migrate"]).await?.ok()
    })?;
    // One that does not count: files grow to their size.
    bench.run(Kind::Bare)?;
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        let mut took = [0.0; Kind::ALL.len()];
        for step in 0..Kind::ALL.len() {
            let at = (round + step) % Kind::ALL.len();
            took[at] = bench.run(Kind::ALL[at])?;
        }
        let line = format!(
            "round {}, {rows} rows in one statement: {}",
            round + 1,
            Kind::ALL
                .iter()
                .zip(took)
                .map(|(kind, took)| format!("{kind:?} {} s", number(took)))
                .collect::<Vec<_>>()
                .join(", ")
        );
        eprintln!("{line}");
        notes.push(line);
        rounds.push(took);
    }
    let row = |(at, kind): (usize, &Kind)| {
        let (what, goal) = kind.row()?;
        Some(Row {
            id: "P5",
            what: format!("one update of {rows} watched rows, {what}"),
            unit: "s",
            rounds: rounds.iter().map(|took| (took[0], took[at])).collect(),
            goal: Some(goal),
        })
    };
    Ok(Kind::ALL.iter().enumerate().filter_map(row).collect())
}

fn table(rows: u32) -> String {
    format!(
        "CREATE TABLE big (id integer PRIMARY KEY, tenant text NOT NULL, v bigint NOT NULL, other bigint NOT NULL,
             note text NOT NULL) WITH (autovacuum_enabled = false);
         INSERT INTO big SELECT n, 'tenant-' || n % {TENANTS}, 0, 0, repeat(md5(n::text), 2)
             FROM generate_series(1, {rows}) n;
         CREATE INDEX ON big (tenant)"
    )
}
