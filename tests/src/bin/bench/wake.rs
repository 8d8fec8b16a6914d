//! From the answer to a commit until the hub knows of it, and what waiting costs while nothing happens: our wait on the
//! server beside the simplest one that is fast, a loop there that looks for a new row and sleeps for a millisecond.
//!
//! Both look at the same outbox, which the same triggers fill; no publisher runs. One thread commits, another one waits.

use crate::observe::changer;
use crate::propagation::{ROWS, TENANTS};
use crate::report::{Goal, Report, Row, percentile};
use crate::stage::{self, Stage, wait};
use crate::wire::Session;
use crate::work::seconds;
use crate::{Plan, clock};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use system_tests::Result;
use tokio::runtime::Runtime;

/// The yardstick. Like ours it is called for a second at most, and returns the last id.
const LOOP: &str = "CREATE FUNCTION plain_wait(last bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE until timestamptz := clock_timestamp() + interval '1 s'; found bigint;
BEGIN
    LOOP
        SELECT max(id) INTO found FROM hubcast.outbox WHERE id > last;
        IF found IS NOT NULL OR clock_timestamp() >= until THEN RETURN coalesce(found, last); END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$";
/// Ours, as the publisher calls it when everything that it knows of is acknowledged; so long it may spin at a time.
const OURS: &str = "SELECT CASE WHEN waiting > 0 THEN last_id ELSE $1::bigint END || ' ' || seen::text \
     FROM hubcast.wait(1000, 1, 3000, 1, $1::bigint, $2::pg_snapshot, $1::bigint + 1, 20000)";
/// Before each change passes a random time up to this.
const IDLE: Duration = Duration::from_millis(20);
/// How long nothing happens while the processor time is counted.
const NOTHING: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
enum Side {
    Plain,
    Ours,
}

/// What one round saw of one side.
struct Seen {
    delays: Vec<Duration>,
    /// Of one processor, while nothing happens.
    idle: f64,
}

/// Waits again and again, and says when a row was told. Ends when nobody listens.
fn watch(
    database: &str,
    side: Side,
    told: &Sender<(i64, Instant)>,
    pid: &Sender<u32>,
) -> Result<()> {
    let mut session = Session::open(database)?;
    session.prepare("plain", "SELECT plain_wait($1::bigint)")?;
    session.prepare("ours", OURS)?;
    let me = session.simple("SELECT pg_backend_pid()")?;
    let now = session.simple(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END || ' ' || pg_current_snapshot()::text FROM hubcast.outbox_ids",
    )?;
    let (mut last, mut seen) = read(&now.ok_or("no outbox")?)?;
    let _ = pid.send(me.ok_or("no process")?.parse()?);
    loop {
        let answer = match side {
            Side::Plain => session.run("plain", &[&last.to_string()])?,
            Side::Ours => session.run("ours", &[&last.to_string(), &seen])?,
        };
        let at = Instant::now();
        let answer = answer.ok_or("no answer")?;
        let before = last;
        match side {
            Side::Plain => last = answer.parse()?,
            Side::Ours => (last, seen) = read(&answer)?,
        }
        if last > before && told.send((last, at)).is_err() {
            return Ok(());
        }
    }
}

fn read(text: &str) -> Result<(i64, String)> {
    let (id, snapshot) = text.split_once(' ').ok_or("no snapshot")?;
    Ok((id.parse()?, snapshot.to_owned()))
}

fn round(database: &str, side: Side, samples: usize, seed: u64) -> Result<Seen> {
    let mut hub = changer(database)?;
    hub.simple("DELETE FROM hubcast.outbox")?;
    let mut random = SmallRng::seed_from_u64(seed);
    let (told, heard) = channel();
    let (pid, waiting) = channel();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(move || watch(database, side, &told, &pid));
        let seen = waiting.recv().map_err(Into::into).and_then(|pid| {
            let delays = changes(&mut hub, &heard, samples, &mut random)?;
            let (began, before) = (Instant::now(), seconds(pid));
            clock::wait_until(began + NOTHING);
            let idle = (seconds(pid) - before) / began.elapsed().as_secs_f64();
            Ok(Seen { delays, idle })
        });
        drop(heard);
        // One more, for the watcher to see that nobody listens.
        hub.run("change", &["1", "-1"])?;
        let watched = watcher.join().map_err(|_| "the watcher panicked")?;
        watched.and(seen)
    })
}

fn changes(
    hub: &mut Session,
    heard: &Receiver<(i64, Instant)>,
    samples: usize,
    random: &mut SmallRng,
) -> Result<Vec<Duration>> {
    let mut delays = Vec::with_capacity(samples);
    for n in 0..samples {
        clock::go_on()?;
        clock::wait_until(Instant::now() + IDLE.mul_f64(random.random()));
        let id = random.random_range(1..=ROWS).to_string();
        hub.run("change", &[&id, &n.to_string()])?;
        let committed = Instant::now();
        let (_, at) = heard.recv_timeout(Duration::from_secs(5))?;
        // It may know before whoever committed does.
        delays.push(at.saturating_duration_since(committed));
    }
    Ok(delays)
}

/// All rounds of both sides.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let primary = wait(runtime, stage::cluster(&[]))?;
    let database = wait(runtime, primary.database())?;
    stage::fill(&database, &stage::items("items", ROWS, TENANTS))?;
    let contexts = stage::context("item", "items", "");
    let stage = wait(runtime, Stage::set(&database, &contexts, false))?;
    let mut session = Session::open(&database)?;
    session.simple(LOOP)?;
    session.simple("ALTER TABLE hubcast.outbox SET (autovacuum_enabled = false)")?;
    let sync = stage::sync_cost(stage.dir.path())?;
    let mut rounds = Vec::new();
    for n in 0..plan.rounds {
        let side = |side| round(&database, side, plan.samples, n as u64);
        // Who begins changes from round to round.
        let pair = match n % 2 {
            0 => (side(Side::Plain)?, side(Side::Ours)?),
            _ => {
                let ours = side(Side::Ours)?;
                (side(Side::Plain)?, ours)
            }
        };
        rounds.push(pair);
        session.simple("VACUUM hubcast.outbox")?;
    }
    let row = |what: &str, unit, goal, of: &dyn Fn(&Seen) -> f64| Row {
        id: "",
        what: what.to_owned(),
        unit,
        rounds: rounds
            .iter()
            .map(|(plain, ours)| (of(plain), of(ours)))
            .collect(),
        goal,
    };
    let quicker = Some(Goal::AtMost(1.0, 0.5));
    Ok(Report {
        name: "wake",
        about: vec![
            format!(
                "{} rounds of {} changes on each side",
                plan.rounds, plan.samples
            ),
            "yardstick: a loop on the server that looks at the outbox and sleeps for 1 ms"
                .to_owned(),
            "ours: hubcast.wait, as the publisher calls it after all is acknowledged".to_owned(),
            format!("both: fsync on, making 8 KiB durable takes {sync:.2} ms here"),
        ],
        rows: vec![
            row("commit returned -> known, p50", "ms", quicker, &|s| {
                percentile(&s.delays, 0.5)
            }),
            row("commit returned -> known, p99", "ms", quicker, &|s| {
                percentile(&s.delays, 0.99)
            }),
            row("while nothing happens", "% of a processor", None, &|s| {
                s.idle * 100.0
            }),
        ],
        notes: vec![
            "pg_sleep of 1 ms takes two here; ours asks for half and gets one, so it wakes up twice as often. The publisher \
             makes the step longer the longer nothing is changed, up to 10 ms."
                .to_owned(),
        ],
    })
}
