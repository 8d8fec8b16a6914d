//! What a scan of everything costs: S1 to S6. Three regions, each with one agent, and all contexts in each of them.
//!
//! The yardstick is what Postgres needs to hand over what a scan asks it for (`COPY ... TO STDOUT` of the queries as the
//! publisher wraps them, so that the server makes the same JSON), over as many connections as a scan uses. The bare rows,
//! of which nobody could make a context, are measured beside it.

use crate::observe::{IDLE, Ours, Seen, one};
use crate::report::{Goal, Report, Row};
use crate::stage::{self, wait};
use crate::wire::Session;
use crate::{Part, Plan, clock};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::postgres::Postgres;
use system_tests::region::Agent;
use system_tests::relay::Relay;
use system_tests::{Result, until_every};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-south-1"];
const PER_TENANT: u32 = 10;
/// Ranges that a scan reads at once, and the connections of the yardstick.
const CONNECTIONS: u32 = 2;
/// Contexts of the very large tenant.
const LARGE: u32 = 100_000;
/// How long the first fill may take.
const FILL: Duration = Duration::from_secs(400);
/// Changes of S6 before the first one that counts: that of a large tenant reads all of it.
const WARM_UP: usize = 20;
/// How often it is asked whether it has ended: each question costs the hub some work.
const ASKED_EVERY: Duration = Duration::from_millis(100);
/// The rows as the publisher asks for them.
const ASKED: &str = "SELECT q.tenant::text, q.key::text, \
                     (to_jsonb(q) - '{key,tenant,regions,expires}'::text[])::text, NULL::text, NULL::bigint \
                     FROM (SELECT id AS key, tenant, v, note FROM items) AS q";
/// The bare rows.
const BARE: &str = "SELECT q.* FROM (SELECT id AS key, tenant, v, note FROM items) AS q";
/// What is published. A change of a row concerns the context with its id, which counts for S6.
const CONTEXT: &str = "[[context]]\nkind = \"item\"\nquery = \"SELECT id AS key, tenant, v, note FROM items\"\n\
                       watch = [{ table = \"items\", tenant = \"tenant\", key = \"id\" }]\n";
/// About half of the tenants sort before it.
const MIDDLE: &str = "tenant-55";

/// A hub with its regions, and a relay before each agent if it is wanted: it counts bytes, and costs a share of the
/// processors where there are many.
struct Bench {
    hub: Hub,
    agents: Vec<Agent>,
    relays: Vec<Relay>,
    database: String,
    contexts: u32,
    rng: SmallRng,
    /// The last value that a change of S6 wrote.
    value: i64,
    _dir: TempDir,
}

impl Bench {
    fn new(runtime: &Runtime, primary: &Postgres, contexts: u32, is_relayed: bool) -> Result<Self> {
        let database = wait(runtime, primary.database())?;
        stage::fill(
            &database,
            &stage::items("items", contexts, contexts / PER_TENANT),
        )?;
        let dir = TempDir::new()?;
        let (mut agents, mut relays) = (Vec::new(), Vec::new());
        for region in REGIONS {
            let mut agent = Agent::new(dir.path(), region)?;
            if is_relayed {
                let relay = wait(runtime, Relay::start(agent.push, Duration::ZERO))?;
                agent.via = Some(relay.port);
                relays.push(relay);
            }
            wait(runtime, agent.start())?;
            agents.push(agent);
        }
        let all: Vec<&Agent> = agents.iter().collect();
        let hub = Hub::new(dir.path(), &database, &all, CONTEXT)?;
        wait(runtime, async { hub.run(&["migrate"]).await?.ok() })?;
        Ok(Self {
            hub,
            agents,
            relays,
            database,
            contexts,
            rng: SmallRng::seed_from_u64(1),
            value: 1_000_000,
            _dir: dir,
        })
    }

    /// Starts the publisher and waits until all regions are in step; the seconds.
    fn fill(&mut self, runtime: &Runtime) -> Result<f64> {
        let began = Instant::now();
        wait(runtime, async {
            self.hub.start().await?;
            let in_step = until_every(ASKED_EVERY, "all regions to be in step", FILL, || async {
                let status = self.hub.status().await.ok()?;
                let stores = status["engine"]["stores"].as_array()?;
                let in_step = stores.iter().filter(|s| s["standing"] == "in step");
                (in_step.count() == REGIONS.len()).then_some(())
            });
            in_step.await
        })?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// One scan by the publisher that runs; the seconds until every region is in step.
    fn scan(&self, runtime: &Runtime) -> Result<f64> {
        let began = Instant::now();
        wait(runtime, async {
            self.hub.run(&["scan", "--json"]).await?.ok()
        })?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// What Postgres needs to hand over these rows; seconds.
    fn copy(&self, select: &str) -> Result<f64> {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let part = |side: &'static str| {
                let database = &self.database;
                move || -> Result<()> {
                    let sql = format!("COPY ({select} WHERE q.tenant {side} '{MIDDLE}') TO STDOUT");
                    Session::open(database)?.simple(&sql).map(drop)
                }
            };
            let parts = ["<", ">="].map(|side| scope.spawn(part(side)));
            parts
                .into_iter()
                .try_for_each(|part| part.join().map_err(|_| "a copy panicked")?)
        })?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// The most memory that the publisher ever had, in MiB.
    fn peak(&mut self) -> Result<f64> {
        let id = self.hub.daemon()?.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.ok_or("no peak")?.parse::<f64>()? / 1024.0)
    }

    /// The most bytes that went to and from one store since `before`, in KiB.
    fn kib_since(&self, before: &[u64]) -> f64 {
        let pairs = self.relays.iter().map(Relay::bytes).zip(before);
        pairs.map(|(now, before)| now - before).max().unwrap_or(0) as f64 / 1024.0
    }

    fn bytes(&self) -> Vec<u64> {
        self.relays.iter().map(Relay::bytes).collect()
    }

    /// Changes one tenant in a hundred where no trigger sees it.
    fn change_unseen(&self, round: usize) -> Result<()> {
        let mut session = Session::open(&self.database)?;
        session.simple("SET session_replication_role = replica")?;
        let tenants = self.contexts / PER_TENANT;
        let from = round as u32 * 13 % 100;
        session.simple(&format!(
            "UPDATE items SET v = v + 1 WHERE tenant IN (SELECT 'tenant-' || n FROM generate_series({from}, {tenants} - 1, 100) n)"
        ))?;
        Ok(())
    }

    /// The peak of a publisher that starts, scans what has not changed, and does nothing else.
    fn peak_of_a_scan(&mut self, runtime: &Runtime) -> Result<f64> {
        wait(runtime, self.hub.stop())?;
        self.fill(runtime)?;
        self.scan(runtime)?;
        self.peak()
    }

    /// Changes of one context of a tenant, one at a time as in P1: what was seen, and the KiB to one store for each.
    fn changes_of(&mut self, tenant: &str, samples: usize) -> Result<(Seen, f64)> {
        let mut session = Session::open(&self.database)?;
        let id = session.simple(&format!(
            "SELECT max(id) FROM items WHERE tenant = '{tenant}'"
        ))?;
        let id = id.ok_or("the tenant has contexts")?.parse()?;
        let mut side = Ours::open(&self.database, self.agents[0].read)?;
        let (mut seen, mut before) = (Seen::default(), self.bytes());
        for at in 0..WARM_UP + samples {
            if at == WARM_UP {
                (seen, before) = (Seen::default(), self.bytes());
            }
            let idle = IDLE.mul_f64(self.rng.random_range(0.0..1.0));
            clock::wait_until(Instant::now() + idle);
            self.value += 1;
            one(&mut side, id, self.value, &mut seen)?;
        }
        let kib = self.kib_since(&before) / samples as f64;
        Ok((seen, kib))
    }

    /// S1 to S4.
    fn scans(&mut self, runtime: &Runtime, plan: Plan, small_peak: f64) -> Result<Vec<Row>> {
        let peak = self.peak_of_a_scan(runtime)?;
        let (mut idle, mut bytes, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        let mut bare = Vec::new();
        for round in 0..plan.rounds {
            let (copy, before) = (self.copy(ASKED)?, self.bytes());
            let scan = self.scan(runtime)?;
            bytes.push((1.0, self.kib_since(&before)));
            idle.push((copy, scan));
            bare.push((self.copy(BARE)?, scan));
            self.change_unseen(round)?;
            changed.push((scan, self.scan(runtime)?));
        }
        Ok(vec![
            row(
                "S1",
                "scan, nothing to change".into(),
                "s",
                idle,
                Goal::AtMost(1.5, 1.1),
            ),
            Row {
                id: "S1",
                what: "the same beside COPY of the bare rows".into(),
                unit: "s",
                rounds: bare,
                goal: None,
            },
            row(
                "S2",
                "peak memory of it".into(),
                "MiB",
                vec![(1.0, peak)],
                Goal::AtMost(150.0, 64.0),
            ),
            row(
                "S2",
                "the same beside a tenth of the contexts".into(),
                "MiB",
                vec![(small_peak, peak)],
                Goal::AtMost(1.5, 1.2),
            ),
            row(
                "S3",
                "bytes to and from each store".into(),
                "KiB",
                bytes,
                Goal::AtMost(128.0, 16.0),
            ),
            row(
                "S4",
                "scan, 1 % of the tenants changed".into(),
                "s",
                changed,
                Goal::AtMost(1.3, 1.1),
            ),
        ])
    }

    /// S6.
    fn large(&mut self, runtime: &Runtime, plan: Plan) -> Result<Vec<Row>> {
        let (contexts, large) = match plan.quick {
            true => (self.contexts, LARGE / 10),
            false => (self.contexts, LARGE),
        };
        // The table has no autovacuum, which would see to the statistics after so many rows.
        stage::fill(
            &self.database,
            &format!(
                "INSERT INTO items SELECT {contexts} + n, 'large', 0, repeat(md5(n::text), 8) FROM generate_series(1, {large}) n; \
                 ANALYZE items"
            ),
        )?;
        self.scan(runtime)?;
        let (mut sent, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let (usual, _) = self.changes_of("tenant-7", plan.samples)?;
            let (large, kib) = self.changes_of("large", plan.samples)?;
            sent.push((1.0, kib));
            p50.push((usual.p(0.5), large.p(0.5)));
            p99.push((usual.p(0.99), large.p(0.99)));
        }
        let late =
            |share: &str| format!("commit to readable of it, beside a tenant with ten, {share}");
        Ok(vec![
            row(
                "S6",
                format!("bytes for one change of a tenant with {large} contexts"),
                "KiB",
                sent,
                Goal::AtMost(64.0, 4.0),
            ),
            row("S6", late("p50"), "ms", p50, Goal::AtMost(3.0, 1.2)),
            row("S6", late("p99"), "ms", p99, Goal::AtMost(3.0, 1.2)),
        ])
    }
}

fn row(
    id: &'static str,
    what: String,
    unit: &'static str,
    rounds: Vec<(f64, f64)>,
    goal: Goal,
) -> Row {
    Row {
        id,
        what,
        unit,
        rounds,
        goal: Some(goal),
    }
}

/// S1 to S6.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let contexts = if plan.quick { 50_000 } else { 1_000_000 };
    let wanted = |part| plan.only.is_none_or(|only| only == part);
    let primary = wait(runtime, stage::cluster(&[]))?;
    let mut rows = Vec::new();
    let small_peak = match wanted(Part::Scans) {
        true => {
            let mut small = Bench::new(runtime, &primary, contexts / 10, true)?;
            small.fill(runtime)?;
            small.peak_of_a_scan(runtime)?
        }
        false => 0.0,
    };
    if wanted(Part::Fill) {
        let mut bench = Bench::new(runtime, &primary, contexts, false)?;
        let pair = (bench.copy(ASKED)?, bench.fill(runtime)?);
        rows.push(row(
            "S5",
            "first fill of three empty regions".into(),
            "s",
            vec![pair],
            Goal::AtMost(4.0, 1.5),
        ));
    }
    if wanted(Part::Scans) || wanted(Part::Large) {
        let mut bench = Bench::new(runtime, &primary, contexts, true)?;
        bench.fill(runtime)?;
        if wanted(Part::Scans) {
            rows.extend(bench.scans(runtime, plan, small_peak)?);
        }
        if wanted(Part::Large) {
            rows.extend(bench.large(runtime, plan)?);
        }
    }
    Ok(Report {
        name: "scan",
        about: vec![
            format!(
                "{contexts} contexts of 300 bytes, ten per tenant, in each of three regions; all of it on this machine"
            ),
            format!(
                "the yardstick of S1 and S5 is COPY of what a scan asks for, over {CONNECTIONS} connections"
            ),
        ],
        rows,
        notes: Vec::new(),
    })
}
