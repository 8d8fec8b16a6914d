//! P1: a commit at the hub has returned; when can it be read at a store? Ours beside Postgres's own logical
//! replication into a second cluster, one change at a time. P2: the same at a steady rate over many tenants.
//!
//! Both sides have an equal table, in two databases of one cluster, so that both run beside the same idle load: the
//! publisher's waiting and the replication's. The observer is the same on both sides, too: see `observe`.

use crate::load::Loaded;
use crate::observe::{IDLE, Ours, PAUSE, Seen, Side, changer, one};
use crate::report::{Goal, Report, Row, number, percentile};
use crate::stage::{self, Stage, wait};
use crate::trace::Milestones;
use crate::wire::Session;
use crate::{Plan, clock, load};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::postgres::Postgres;
use tokio::runtime::Runtime;

/// Contexts.
pub const ROWS: u32 = 10_000;
/// Tenants.
pub const TENANTS: u32 = 1_000;
/// The sides take turns after so many changes, so that both meet the same machine.
const TURN: usize = 250;
/// Changes before the first one that counts.
const WARM_UP: usize = 200;

/// Logical replication into a second cluster.
#[derive(Debug)]
struct Native {
    hub: Session,
    store: Session,
}

impl Side for Native {
    fn change(&mut self, id: u32, value: i64) -> Result<()> {
        self.hub
            .run("change", &[&id.to_string(), &value.to_string()])?;
        Ok(())
    }

    fn look(&mut self, id: u32) -> Result<i64> {
        let value = self.store.run("look", &[&id.to_string()])?;
        Ok(value.ok_or("the row is not there")?.parse()?)
    }

    fn refresh(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Everything that runs, and where we are.
struct Bench {
    native: Native,
    ours: Ours,
    rng: SmallRng,
    value: i64,
    milestones: Milestones,
    stage: Stage,
    database: String,
    // Dropped last: the servers.
    _replica: Postgres,
    _primary: Postgres,
}

impl Bench {
    fn start(runtime: &Runtime, plan: Plan) -> Result<Self> {
        let logical = ["wal_level=logical"];
        let primary = wait(runtime, stage::cluster(&logical))?;
        let replica = wait(runtime, stage::cluster(&[]))?;
        let (theirs, database) = wait(runtime, async {
            Ok((primary.database().await?, primary.database().await?))
        })?;
        let table = stage::items("items", ROWS, TENANTS);
        for address in [&theirs, &database] {
            stage::fill(address, &table)?;
        }
        let copy = wait(runtime, replicate(&theirs, &replica))?;
        let contexts = stage::context("item", "items", "");
        let mut stage = wait(runtime, Stage::set(&database, &contexts, plan.trace))?;
        wait(runtime, stage.start())?;
        let mut store = Session::open(&copy)?;
        store.prepare("look", "SELECT v FROM items WHERE id = $1")?;
        let port = stage.agent.read;
        Ok(Self {
            native: Native {
                hub: changer(&theirs)?,
                store,
            },
            ours: Ours::open(&database, port)?,
            rng: SmallRng::seed_from_u64(1),
            value: 0,
            milestones: Milestones::default(),
            stage,
            database,
            _replica: replica,
            _primary: primary,
        })
    }

    /// Some changes of one side, one at a time.
    fn turn(&mut self, ours: bool, changes: usize, seen: &mut Seen) -> Result<()> {
        let side: &mut dyn Side = if ours {
            &mut self.ours
        } else {
            &mut self.native
        };
        side.refresh()?;
        for _ in 0..changes {
            let idle = IDLE.mul_f64(self.rng.random_range(0.0..1.0));
            clock::wait_until(Instant::now() + idle);
            self.value += 1;
            let id = self.rng.random_range(1..=ROWS);
            if let Some(relays) = &self.stage.relays {
                relays.take();
            }
            let (committed, arrived) = one(side, id, self.value, seen)?;
            if let (true, Some(relays)) = (ours, &self.stage.relays) {
                self.milestones.add(&relays.take(), committed, arrived);
            }
        }
        Ok(())
    }

    /// A round of P1: the sides take turns.
    fn round(&mut self, round: usize, samples: usize) -> Result<(Seen, Seen)> {
        let (mut native, mut ours) = (Seen::default(), Seen::default());
        let mut left = samples;
        while left > 0 {
            let changes = left.min(TURN);
            left -= changes;
            let first = round % 2 == 1;
            for mine in [first, !first] {
                let seen = if mine { &mut ours } else { &mut native };
                self.turn(mine, changes, seen)?;
            }
        }
        Ok((native, ours))
    }

    /// All rounds, after some changes that do not count.
    fn rounds(&mut self, plan: Plan) -> Result<Rounds> {
        for ours in [false, true] {
            self.turn(ours, WARM_UP, &mut Seen::default())?;
        }
        self.milestones = Milestones::default();
        let mut all = Rounds::default();
        for round in 0..plan.rounds {
            let (native, ours) = self.round(round, plan.samples)?;
            let (database, agent) = (&self.database, self.ours.port());
            let loaded = load::run(database, agent, &mut self.value, plan.samples)?;
            all.add(round, native, ours, &loaded);
        }
        Ok(all)
    }
}

/// What the rounds came to: pairs of the yardstick and ours.
#[derive(Debug, Default)]
struct Rounds {
    p50: Vec<(f64, f64)>,
    p99: Vec<(f64, f64)>,
    loaded: Vec<(f64, f64)>,
    looks: (Vec<Duration>, Vec<Duration>),
    notes: Vec<String>,
}

impl Rounds {
    fn add(&mut self, round: usize, native: Seen, ours: Seen, loaded: &Loaded) {
        self.p50.push((native.p(0.5), ours.p(0.5)));
        self.p99.push((native.p(0.99), ours.p(0.99)));
        self.loaded
            .push((ours.p(0.99), percentile(&loaded.delays, 0.99)));
        let line = format!(
            "round {}: p50/p99 of logical replication {}, of ours {}, in ms; of the commits alone {} and {}; {}",
            round + 1,
            both(&native.delays),
            both(&ours.delays),
            both(&native.commits),
            both(&ours.commits),
            loaded.line(),
        );
        eprintln!("{line}");
        self.notes.push(line);
        self.looks.0.extend(native.looks);
        self.looks.1.extend(ours.looks);
    }
}

/// p50 and p99.
fn both(times: &[Duration]) -> String {
    let (half, most) = (percentile(times, 0.5), percentile(times, 0.99));
    format!("{}/{}", number(half), number(most))
}

/// Sets up logical replication of `items` into a second cluster; returns the address of the copy.
async fn replicate(from: &str, replica: &Postgres) -> Result<String> {
    let copy = replica.database().await?;
    stage::fill(from, "CREATE PUBLICATION bench FOR TABLE items")?;
    stage::fill(&copy, &stage::items("items", 0, TENANTS))?;
    let mut store = Session::open(&copy)?;
    store.simple(&format!(
        "CREATE SUBSCRIPTION bench CONNECTION '{from}' PUBLICATION bench WITH (synchronous_commit = on)"
    ))?;
    let mut copied = async || {
        let state =
            store.simple("SELECT string_agg(srsubstate::text, '') FROM pg_subscription_rel");
        state.ok().flatten().filter(|s| s == "r").map(|_| ())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while copied().await.is_none() {
        if Instant::now() > deadline {
            return Err("the second cluster did not get its first copy".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let synchronous = store.simple("SELECT subsynccommit FROM pg_subscription")?;
    match synchronous.as_deref() {
        Some("on") => Ok(copy),
        other => Err(format!("the subscription has synchronous_commit = {other:?}").into()),
    }
}

/// P1 and P2.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let mut bench = Bench::start(runtime, plan)?;
    let sync = stage::sync_cost(bench.stage.dir.path())?;
    let rounds = bench.rounds(plan).map_err(|e| bench.stage.blame(e))?;
    let (look_native, look_ours) = rounds.looks;
    let mut notes = vec![format!(
        "one look took {} ms at the second cluster and {} ms at the agent (p50)",
        number(percentile(&look_native, 0.5)),
        number(percentile(&look_ours, 0.5)),
    )];
    notes.extend(rounds.notes);
    notes.extend(bench.milestones.lines());
    let alone = Goal::AtMost(5.0, 2.0);
    let loaded = Goal::AtMost(3.0, 1.5);
    Ok(Report {
        name: "propagation",
        about: about(plan, sync),
        rows: vec![
            row("P1", "commit returned -> readable, p50", rounds.p50, alone),
            row("P1", "commit returned -> readable, p99", rounds.p99, alone),
            row(
                "P2",
                "the same at 200 changes/s, p99, beside ours of P1",
                rounds.loaded,
                loaded,
            ),
        ],
        notes,
    })
}

fn row(id: &'static str, what: &str, rounds: Vec<(f64, f64)>, goal: Goal) -> Row {
    Row {
        id,
        what: what.to_owned(),
        unit: "ms",
        rounds,
        goal: Some(goal),
    }
}

fn about(plan: Plan, sync: f64) -> Vec<String> {
    let Plan {
        rounds, samples, ..
    } = plan;
    vec![
        format!(
            "{rounds} rounds of {samples} changes on each side, the sides taking turns every {TURN}; {ROWS} contexts of 300 bytes, {TENANTS} tenants"
        ),
        "yardstick: Postgres logical replication into a second cluster, subscription with synchronous_commit = on; durable before it is readable".to_owned(),
        "ours: one publisher and one agent, real processes with their normal settings, HTTP over loopback; durable before it is readable".to_owned(),
        format!(
            "both: a look every {} us beside the time that it takes, on one kept connection; fsync on everywhere, making 8 KiB durable takes {} ms here",
            PAUSE.as_micros(),
            number(sync)
        ),
    ]
}
