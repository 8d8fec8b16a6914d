//! What capture costs the primary. P3: updates of a watched table with capture on, the publisher and an agent running,
//! beside the same with capture off: no triggers on the table, no publisher. For orientation, what the triggers take without
//! a publisher, and what the least trigger takes that leaves a row. P4: the same for a table that nobody
//! watches. P5, in `bulk`: one statement that updates a million rows.
//!
//! The writers are our own (see `writers`). On two cores they, Postgres, the publisher and the agent share the
//! processors, so P3 has the cost of building and delivering what the writers change in it, too.

use crate::report::{Goal, Report, Row, number};
use crate::stage::{self, Stage, wait};
use crate::wire::{Http, Session};
use crate::work::{Clocked, Work};
use crate::writers::{self, Rate};
use crate::{Part, Plan, bulk, clock};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::postgres::Postgres;
use tokio::runtime::Runtime;

/// Rows of either table.
const ROWS: u32 = 100_000;
/// Tenants.
const TENANTS: u32 = 10_000;
/// Writers.
const WRITERS: [u64; 2] = [8, 32];
/// How long the writers are counted.
const WINDOW: Duration = Duration::from_secs(6);
/// The same, for a try.
const SHORT: Duration = Duration::from_secs(2);
/// Rows that are compared between hub and agent: each whose number ends so.
const COMPARED: &str = "id % 500 = 7";
/// How long the agent may need to be in step again.
const BEHIND: Duration = Duration::from_secs(120);

/// The two tables, watched and not, with equal rows.
const WATCHED: &str = "items";
const PLAIN: &str = "plain";

/// Everything that runs.
struct Bench<'a> {
    runtime: &'a Runtime,
    stage: Stage,
    database: String,
    session: Session,
    window: Duration,
}

/// The least trigger that leaves a row and is as safe as ours: always the same row, and it looks at nothing.
const LEAST: &str = "CREATE TABLE IF NOT EXISTS least (tenant text); TRUNCATE least; \
     CREATE OR REPLACE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp \
     AS 'BEGIN INSERT INTO public.least VALUES (''t''); RETURN NULL; END'; \
     CREATE OR REPLACE TRIGGER least AFTER UPDATE ON items FOR EACH STATEMENT EXECUTE FUNCTION leave()";

/// What is there while the writers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Capture {
    /// No triggers, no publisher: the yardstick.
    Off,
    /// The least trigger, and nobody who takes what it leaves: for orientation.
    Least,
    /// Triggers, and nobody who takes what they leave: for orientation.
    Alone,
    /// Triggers, a publisher and an agent.
    On,
}

/// What one round saw with one number of writers: the yardstick and ours.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    writers: u64,
    off: Rate,
    least: Rate,
    alone: Rate,
    on: Rate,
    plain_off: Rate,
    plain_on: Rate,
    /// From the last write until the agent had all of it.
    in_step: Duration,
    /// What ours took of the processors beside the writers of the watched table, and of the other.
    busy: Work,
    idle: Work,
}

/// Removes every trigger from a table.
pub fn drop_triggers(session: &mut Session, table: &str) -> Result<()> {
    session.simple(&format!(
        "DO $$ DECLARE t name; BEGIN
             FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal LOOP
                 EXECUTE format('DROP TRIGGER %I ON {table}', t);
             END LOOP;
         END $$"
    ))?;
    has_triggers(session, table, false)
}

/// Makes sure that a table has triggers, all of them enabled, or none.
pub fn has_triggers(session: &mut Session, table: &str, any: bool) -> Result<()> {
    let state = session.simple(&format!(
        "SELECT string_agg(tgenabled::text, '') FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
    ))?;
    let enabled = state
        .as_ref()
        .is_some_and(|s| s.chars().all(|c| matches!(c, 'O' | 'A')));
    match (any, state) {
        (true, Some(_)) if enabled => Ok(()),
        (false, None) => Ok(()),
        (_, state) => Err(format!(
            "{table} should {} triggers, but has {}",
            if any { "have" } else { "have no" },
            state.as_deref().unwrap_or("none")
        )
        .into()),
    }
}

impl Bench<'_> {
    /// Makes it so; back when everything is in step.
    fn set(&mut self, capture: Capture) -> Result<()> {
        let runs = self.stage.hub.daemon().is_ok();
        // Also before it is to run: the turn before may have been one with it.
        if runs {
            wait(self.runtime, self.stage.hub.stop())?;
        }
        match capture {
            Capture::Off => drop_triggers(&mut self.session, WATCHED)?,
            Capture::Least => {
                drop_triggers(&mut self.session, WATCHED)?;
                self.session.simple(LEAST)?;
            }
            Capture::Alone => self.install()?,
            Capture::On => {
                self.install()?;
                wait(self.runtime, self.stage.start())?;
                self.in_step()?;
            }
        }
        has_triggers(&mut self.session, PLAIN, false)
    }

    fn install(&mut self) -> Result<()> {
        drop_triggers(&mut self.session, WATCHED)?;
        wait(self.runtime, async {
            self.stage.hub.run(&["migrate"]).await?.ok()
        })?;
        has_triggers(&mut self.session, WATCHED, true)
    }

    /// Every window begins with the same state of its table, and with a checkpoint behind it.
    fn prepare(&mut self, table: &str) -> Result<()> {
        self.session.simple(&format!("VACUUM {table}"))?;
        self.session.simple("CHECKPOINT")?;
        Ok(())
    }

    fn rate(&mut self, table: &str, writers: u64) -> Result<Rate> {
        self.prepare(table)?;
        writers::run(&self.database, table, ROWS, writers, self.window)
    }

    /// The same, and what the publisher and the agent take of the processors meanwhile.
    fn rate_beside(&mut self, table: &str, writers: u64) -> Result<(Rate, Work)> {
        self.prepare(table)?;
        let clocked = Clocked::start(&mut self.stage, &mut self.session)?;
        let rate = writers::run(&self.database, table, ROWS, writers, self.window)?;
        Ok((rate, clocked.stop()))
    }

    /// All turns of a round with one number of writers; which side begins is the caller's choice.
    fn pair(&mut self, writers: u64, on_first: bool) -> Result<Pair> {
        let mut turns = [Capture::Off, Capture::Least, Capture::Alone, Capture::On];
        if on_first {
            turns.reverse();
        }
        let mut pair = Pair {
            writers,
            ..Pair::default()
        };
        for capture in turns {
            self.set(capture)?;
            match capture {
                Capture::Off => {
                    pair.off = self.rate(WATCHED, writers)?;
                    pair.plain_off = self.rate(PLAIN, writers)?;
                }
                Capture::Least => pair.least = self.rate(WATCHED, writers)?,
                Capture::Alone => pair.alone = self.rate(WATCHED, writers)?,
                Capture::On => {
                    (pair.on, pair.busy) = self.rate_beside(WATCHED, writers)?;
                    pair.in_step = self.in_step()?;
                    (pair.plain_on, pair.idle) = self.rate_beside(PLAIN, writers)?;
                }
            }
        }
        Ok(pair)
    }

    /// All rounds, by the number of writers.
    fn rounds(&mut self, rounds: usize) -> Result<[Vec<Pair>; WRITERS.len()]> {
        let mut all = WRITERS.map(|_| Vec::new());
        for round in 0..rounds {
            for (pairs, writers) in all.iter_mut().zip(WRITERS) {
                // Who begins changes from round to round.
                let pair = self.pair(writers, round % 2 == 1)?;
                eprintln!("{}", pair.line());
                pairs.push(pair);
            }
        }
        Ok(all)
    }

    /// Waits until the agent has what the hub has: a figure without that would not be one.
    fn in_step(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let mut list = |column: &str| {
            let sql = format!(
                "SELECT string_agg({column}::text, ' ' ORDER BY id) FROM {WATCHED} WHERE {COMPARED}"
            );
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                self.session.simple(&sql)?.unwrap_or_default(),
            )
        };
        let (ids, values) = (list("id")?, list("v")?);
        let keys: Vec<Value> = ids
            .split(' ')
            .map(|id| json!({ "kind": "item", "key": id }))
            .collect();
        let question = json!({ "keys": keys }).to_string();
        let mut agent = Http::open(self.stage.agent.read)?;
        loop {
            clock::go_on()?;
            let answer: Value =
                serde_json::from_str(&agent.post("/v1/contexts/batch-get", &question)?)?;
            let contexts = answer["contexts"].as_array().ok_or("no contexts")?;
            let there: Vec<String> = contexts
                .iter()
                .map(|c| c["value"]["v"].to_string())
                .collect();
            if there.join(" ") == values {
                return Ok(began.elapsed());
            }
            if began.elapsed() > BEHIND {
                let after = BEHIND.as_secs();
                return Err(
                    format!("the agent was not in step {after} s after the writers").into(),
                );
            }
            clock::wait_until(Instant::now() + Duration::from_millis(20));
        }
    }
}

/// P3, P4 and P5.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let primary = wait(runtime, stage::cluster(&[]))?;
    let wanted = |part| plan.only.is_none_or(|only| only == part);
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    let dir = tempfile::tempdir()?;
    stage::on_disk(dir.path())?;
    let sync = stage::sync_cost(dir.path())?;
    if wanted(Part::Writers) {
        rows.extend(writing(runtime, &primary, plan, &mut notes)?);
    }
    if wanted(Part::Bulk) {
        rows.extend(bulk::measure(runtime, &primary, plan, &mut notes)?);
    }
    Ok(Report {
        name: "primary",
        about: about(plan, sync),
        rows,
        notes,
    })
}

/// P3 and P4.
fn writing(
    runtime: &Runtime,
    primary: &Postgres,
    plan: Plan,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let database = wait(runtime, primary.database())?;
    for table in [WATCHED, PLAIN] {
        stage::fill(&database, &stage::items(table, ROWS, TENANTS))?;
    }
    let contexts = stage::context("item", WATCHED, "");
    let mut bench = Bench {
        runtime,
        stage: wait(runtime, Stage::set(&database, &contexts, false))?,
        session: Session::open(&database)?,
        database,
        window: if plan.quick { SHORT } else { WINDOW },
    };
    let pairs = bench
        .rounds(plan.rounds)
        .map_err(|e| bench.stage.blame(e))?;
    notes.extend(pairs.iter().flatten().map(Pair::line));
    let of = |figure: &Figure| {
        let with = |(pairs, writers): (&Vec<Pair>, u64)| figure.row(pairs, writers);
        pairs.iter().zip(WRITERS).map(with).collect::<Vec<_>>()
    };
    Ok(Figure::ALL.iter().flat_map(of).collect())
}

impl Pair {
    fn line(&self) -> String {
        let rate = |r: Rate| format!("{} TPS (p99 {} ms)", number(r.tps), number(r.p99));
        let work = |w: Work| {
            let Work {
                publisher,
                sessions,
                agent,
            } = w;
            format!("publisher {publisher:.2}, its sessions {sessions:.2}, agent {agent:.2}")
        };
        format!(
            "{} writers: watched {}, with the least trigger {}, with triggers alone {}, with all {}, in step {} s later; not watched {}, with all {}; beside them, in processors: {}, and {}",
            self.writers,
            rate(self.off),
            rate(self.least),
            rate(self.alone),
            rate(self.on),
            number(self.in_step.as_secs_f64()),
            rate(self.plain_off),
            rate(self.plain_on),
            work(self.busy),
            work(self.idle),
        )
    }
}

/// The rows that come of the pairs.
#[derive(Debug, Clone, Copy)]
enum Figure {
    Watched,
    Alone,
    Least,
    Plain,
}

impl Figure {
    const ALL: [Self; 4] = [Self::Watched, Self::Alone, Self::Least, Self::Plain];

    fn row(self, pairs: &[Pair], writers: u64) -> Row {
        let (id, what, goal) = match self {
            Self::Watched => ("P3", "watched table", Some(Goal::AtLeast(0.75, 0.9))),
            Self::Alone => ("", "the same, triggers but no publisher", None),
            Self::Least => (
                "",
                "the same, a trigger that leaves a constant row, no publisher",
                None,
            ),
            Self::Plain => (
                "P4",
                "table that is not watched",
                Some(Goal::AtLeast(0.97, 1.0)),
            ),
        };
        let both = |p: &Pair| match self {
            Self::Watched => (p.off.tps, p.on.tps),
            Self::Alone => (p.off.tps, p.alone.tps),
            Self::Least => (p.off.tps, p.least.tps),
            Self::Plain => (p.plain_off.tps, p.plain_on.tps),
        };
        Row {
            id,
            what: format!("{what}, {writers} writers"),
            unit: "TPS",
            rounds: pairs.iter().map(both).collect(),
            goal,
        }
    }
}

fn about(plan: Plan, sync: f64) -> Vec<String> {
    let window = if plan.quick { SHORT } else { WINDOW };
    vec![
        format!(
            "{} rounds; P3 and P4: {ROWS} rows of 300 bytes, {TENANTS} tenants, single updates by primary key for {} s after a checkpoint",
            plan.rounds,
            window.as_secs()
        ),
        "yardstick: the same with no triggers on the table and no publisher running".to_owned(),
        "ours: triggers installed; for P3 and P4 one publisher and one agent run, and the agent was found in step after the writers; for P5 they are stopped".to_owned(),
        format!(
            "both: fsync, full_page_writes and synchronous_commit on; making 8 KiB durable takes {} ms here",
            number(sync)
        ),
    ]
}
