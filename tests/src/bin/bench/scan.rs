//! What a scan of everything costs: S1 to S6. Three regions, each with one agent, and all contexts in each of them.
//!
//! The yardstick is what Postgres needs to hand over what a scan asks it for (`COPY ... TO STDOUT` of the queries as the
//! publisher wraps them, so that the server makes the same JSON), over as many connections as a scan uses. The bare rows,
//! of which nobody could make a context, are measured beside it.

use crate::report::{Goal, Report, Row};
use crate::stage::{self, wait};
use crate::wire::Session;
use crate::{Part, Plan, clock};
use std::time::{Duration, Instant};
use system_tests::hub::Hub;
use system_tests::postgres::Postgres;
use system_tests::region::Agent;
use system_tests::relay::Relay;
use system_tests::{Result, until};
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
/// Changes of S6.
const CHANGES: u32 = 20;
/// The rows as the publisher asks for them.
const ASKED: &str = "SELECT q.tenant::text, q.key::text, \
                     (to_jsonb(q) - '{key,tenant,regions,expires}'::text[])::text, NULL::text, NULL::bigint \
                     FROM (SELECT id AS key, tenant, v, note FROM item) AS q";
/// The bare rows.
const BARE: &str = "SELECT q.* FROM (SELECT id AS key, tenant, v, note FROM item) AS q";
/// What is published. A change of a row concerns the context with its id, which counts for S6.
const CONTEXT: &str = "[[context]]\nkind = \"item\"\nquery = \"SELECT id AS key, tenant, v, note FROM item\"\n\
                       watch = [{ table = \"item\", tenant = \"tenant\", key = \"id\" }]\n";
/// About half of the tenants sort before it.
const MIDDLE: &str = "tenant-55";

/// A hub with its regions, and a relay before each agent.
struct Bench {
    hub: Hub,
    agents: Vec<Agent>,
    relays: Vec<Relay>,
    database: String,
    contexts: u32,
    _dir: TempDir,
}

impl Bench {
    fn new(runtime: &Runtime, primary: &Postgres, contexts: u32) -> Result<Self> {
        let database = wait(runtime, primary.database())?;
        stage::fill(
            &database,
            &stage::items("item", contexts, contexts / PER_TENANT),
        )?;
        let dir = TempDir::new()?;
        let (mut agents, mut relays) = (Vec::new(), Vec::new());
        for region in REGIONS {
            let mut agent = Agent::new(dir.path(), region)?;
            let relay = wait(runtime, Relay::start(agent.push, Duration::ZERO))?;
            agent.via = Some(relay.port);
            wait(runtime, agent.start())?;
            agents.push(agent);
            relays.push(relay);
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
            _dir: dir,
        })
    }

    /// Starts the publisher and waits until all regions are in step; the seconds.
    fn fill(&mut self, runtime: &Runtime) -> Result<f64> {
        let began = Instant::now();
        wait(runtime, async {
            self.hub.start().await?;
            until("all regions to be in step", FILL, || async {
                let status = self.hub.status().await.ok()?;
                let stores = status["engine"]["stores"].as_array()?;
                let in_step = stores.iter().filter(|s| s["standing"] == "in step");
                (in_step.count() == REGIONS.len()).then_some(())
            })
            .await
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
            "UPDATE item SET v = v + 1 WHERE tenant IN (SELECT 'tenant-' || n FROM generate_series({from}, {tenants} - 1, 100) n)"
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

    /// From the return of a commit until a store has it: the median in milliseconds, and the KiB to one store for each change.
    fn change_of(&self, runtime: &Runtime, tenant: &str) -> Result<(f64, f64)> {
        let mut session = Session::open(&self.database)?;
        let id = session.simple(&format!(
            "SELECT max(id) FROM item WHERE tenant = '{tenant}'"
        ))?;
        let id = id.ok_or("the tenant has contexts")?;
        let (mut times, before) = (Vec::new(), self.bytes());
        for _ in 0..CHANGES {
            clock::go_on()?;
            let now = session.simple(&format!(
                "UPDATE item SET v = v + 1 WHERE id = {id} RETURNING v"
            ))?;
            let (began, wanted) = (Instant::now(), format!("\"v\": {}", now.ok_or("a value")?));
            wait(
                runtime,
                until("the change", Duration::from_secs(60), || async {
                    let (_, value) = self.agents[0].get("item", &id).await.ok()?;
                    value.contains(&wanted).then_some(())
                }),
            )?;
            times.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        let kib = self.kib_since(&before) / f64::from(CHANGES);
        Ok((times[times.len() / 2], kib))
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
                "INSERT INTO item SELECT {contexts} + n, 'large', 0, repeat(md5(n::text), 8) FROM generate_series(1, {large}) n; \
                 ANALYZE item"
            ),
        )?;
        self.scan(runtime)?;
        let (mut sent, mut late) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let (usual, _) = self.change_of(runtime, "tenant-7")?;
            let (ms, kib) = self.change_of(runtime, "large")?;
            sent.push((1.0, kib));
            late.push((usual, ms));
        }
        Ok(vec![
            row(
                "S6",
                format!("bytes for one change of a tenant with {large} contexts"),
                "KiB",
                sent,
                Goal::AtMost(64.0, 4.0),
            ),
            row(
                "S6",
                "commit to readable of it, beside a tenant with ten".into(),
                "ms",
                late,
                Goal::AtMost(3.0, 1.2),
            ),
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
            let mut small = Bench::new(runtime, &primary, contexts / 10)?;
            small.fill(runtime)?;
            small.peak_of_a_scan(runtime)?
        }
        false => 0.0,
    };
    let mut bench = Bench::new(runtime, &primary, contexts)?;
    let first_copy = bench.copy(ASKED)?;
    let fill = bench.fill(runtime)?;
    if wanted(Part::Scans) {
        rows.extend(bench.scans(runtime, plan, small_peak)?);
    }
    if wanted(Part::Fill) {
        rows.push(row(
            "S5",
            "first fill of three empty regions".into(),
            "s",
            vec![(first_copy, fill)],
            Goal::AtMost(4.0, 1.5),
        ));
    }
    if wanted(Part::Large) {
        rows.extend(bench.large(runtime, plan)?);
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
