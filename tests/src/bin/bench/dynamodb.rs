//! What a table costs, in units, and how fast its readers are: D1 to D3.
//!
//! The table is on the emulator, a process of its own. The units are those that it returns, and it counts as DynamoDB says
//! that it does: a write is a unit for each KiB of an item, begun ones counted whole, twice that in a transaction, where
//! looking at an item is paid for like writing it; a strongly consistent read is a unit for each 4 KiB, any other one half
//! of it, rounded for each item of a batch and for the sum of a page of a query or scan.

mod hub;

use crate::reads::inside::{self, of_reader, of_table};
use crate::reads::push::{KIND, PER_TENANT, Pusher, VALUE_BYTES, key};
use crate::reads::{REGION, start_inside};
use crate::report::{Goal, Report, Row};
use crate::{Part, Plan, clock};
use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity};
use contexts::name::Region;
use futures_util::{StreamExt, stream};
use hub::{State, Writer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use spoke_agent::reader::table::{TableReader, TableReaderConfig};
use spoke_agent::reader::{Answer, ContextReader, Options};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use system_tests::process::{Process, program};
use system_tests::region::Agent;
use system_tests::table::TableRegion;
use system_tests::{Result, free_port, until};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Changes of one kind in one round.
const CHANGES: u32 = 50;
/// Tenants of a batch.
const BATCH: usize = 20;
/// Parts of a round over all items.
const PARTS: u32 = 64;
/// Scans of a day, one every ten minutes, as by default.
const SCANS_A_DAY: f64 = 144.0;
/// Transactions of which the fence's share is looked at.
const CHECKS: u32 = 500;
/// Checks of one item that a partition takes in a second: 1,000 units, two for each.
const CHECKS_A_PARTITION_TAKES: f64 = 500.0;
/// Keys that are loaded at once while the cache is warmed.
const FILLS: usize = 64;

/// How a context is changed.
#[derive(Clone, Copy)]
struct Change {
    /// Tenants in one message, each with one change.
    at_once: usize,
    /// How often the value is repeated in itself.
    times: usize,
    /// Whether the tenant gets a key more, instead of another value.
    is_new: bool,
}

struct Bench {
    dir: TempDir,
    table: TableRegion,
    contexts: u32,
    _server: Process,
}

impl Bench {
    async fn new(contexts: u32) -> Result<Self> {
        let dir = TempDir::new()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = std::process::Command::new(program("dynamodb-server")?);
        command.arg(&address);
        let server = Process::start(command, &dir.path().join("dynamodb-server.log"))?;
        let table = TableRegion::at(REGION, &format!("http://{address}"), "contexts");
        until(
            "the emulator to answer",
            Duration::from_secs(30),
            || async { table.db().check().await.ok() },
        )
        .await?;
        Ok(Self {
            dir,
            table,
            contexts,
            _server: server,
        })
    }

    /// Write units of a plain write of the same context, and ours, for each change.
    async fn changes(&self, hub: &mut Writer, change: Change, seed: u64) -> Result<(f64, f64)> {
        let mut random = SmallRng::seed_from_u64(seed);
        let tenants = self.contexts / PER_TENANT;
        let (mut plain, mut ours, mut count) = (0.0, 0.0, 0.0);
        for n in 0..CHANGES.div_ceil(change.at_once as u32) {
            clock::go_on()?;
            let mut some = BTreeSet::new();
            while some.len() < change.at_once {
                some.insert(random.random_range(0..tenants));
            }
            let state = |tenant: &u32, state: u32| State {
                times: change.times,
                ..State::of(*tenant, state)
            };
            // As it is before the change: of the same size.
            let before: Vec<State> = some.iter().map(|t| state(t, 10_000 + 2 * n)).collect();
            hub.push(&before).await?;
            let after = some.iter().map(|t| match change.is_new {
                true => State {
                    more: 1,
                    ..state(t, 10_000 + 2 * n)
                },
                false => state(t, 10_001 + 2 * n),
            });
            let after: Vec<State> = after.collect();
            let used = hub.units().1;
            hub.push(&after).await?;
            ours += hub.units().1 - used;
            for state in after {
                plain += self.plain(state).await?;
                count += 1.0;
            }
        }
        Ok((plain / count, ours / count))
    }

    /// How often the fence is checked in a second by a writer that never waits, each time for another change: a real service
    /// answers later than this emulator, so no writer checks it more often there.
    async fn checks(&self, hub: &mut Writer, round: u32) -> Result<f64> {
        let tenants = self.contexts / PER_TENANT;
        let begin = Instant::now();
        for n in 0..CHECKS {
            clock::go_on()?;
            let state = 20_000 + round * CHECKS + n;
            hub.push(&[State::of(n % tenants, state)]).await?;
        }
        Ok(f64::from(CHECKS) / begin.elapsed().as_secs_f64())
    }

    /// Write units of a plain write of the first context of a tenant, by nothing but its key.
    async fn plain(&self, state: State) -> Result<f64> {
        let (key, value) = Writer::first(state)?;
        let written = self
            .table
            .client(&self.table.endpoint)
            .put_item()
            .table_name(&self.table.table)
            .item("pk", AttributeValue::S(format!("plain#{key}")))
            .item("sk", AttributeValue::S("=".into()))
            .item("value", AttributeValue::S(value))
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send();
        Ok(units(written.await?.consumed_capacity()))
    }

    /// Read units of a strongly consistent read of the whole table.
    async fn full_read(&self) -> Result<f64> {
        let client = self.table.client(&self.table.endpoint);
        let (mut used, mut from) = (0.0, None);
        loop {
            let page = client
                .scan()
                .table_name(&self.table.table)
                .consistent_read(true)
                .set_exclusive_start_key(from)
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await?;
            used += units(page.consumed_capacity());
            from = page.last_evaluated_key;
            if from.is_none() {
                return Ok(used);
            }
        }
    }

    /// Read units of a scan without items, and of a whole round over all items.
    async fn scans(&self, hub: &mut Writer) -> Result<(f64, f64)> {
        let asked = |hub: &Writer| hub.units().0;
        let before = asked(hub);
        for _ in 0..PARTS {
            clock::go_on()?;
            hub.scanned().await?;
        }
        let with_round = asked(hub) - before;
        // Another writer, which has compared its first part and has time for the next.
        let mut patient = hub.successor(&self.table).await?;
        patient.scanned().await?;
        let before = asked(&patient);
        patient.scanned().await?;
        let scan = asked(&patient) - before;
        *hub = patient;
        Ok((scan, with_round - f64::from(PARTS) * scan))
    }

    /// Fills an agent and the cache of a reader with the same contexts, and reads both.
    fn reads(&self, runtime: &Runtime, plan: Plan) -> Result<Vec<(f64, f64)>> {
        let mut agent = Agent::new(self.dir.path(), REGION)?;
        runtime.block_on(async {
            agent.start().await?;
            let mut pusher = Pusher::claim(agent.push, REGION, &agent.token, 1).await?;
            pusher.fill(self.contexts).await?;
            agent.stop().await
        })?;
        let running = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let embedded = running.block_on(start_inside(&agent, usize::MAX))?;
        let reader = embedded.reader(Options::default());
        runtime.block_on(until(
            "all contexts to be in memory",
            Duration::from_secs(60),
            || async {
                let found = reader.look_up(KIND, &key(0)).answer;
                let absent = reader.look_up(KIND, "none").answer;
                matches!((found, absent), (Answer::Found(_), Answer::Absent)).then_some(())
            },
        ))?;
        let mut config = TableReaderConfig::new(self.table.config(), Region::new(REGION)?);
        // Hits are measured, so nothing is loaded again meanwhile, and there is room for all.
        config.refresh_after = Duration::from_secs(24 * 3_600);
        config.memory_bytes = 4 << 30;
        let cached =
            running.block_on(TableReader::on(self.table.db(), config, Options::default()))?;
        let begin = Instant::now();
        running.block_on(warm(&cached, self.contexts))?;
        eprintln!(
            "the cache was warm after {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        let mut rounds = Vec::new();
        for round in 0..plan.rounds {
            let count = if plan.quick { 50_000 } else { 1_000_000 };
            let keys = inside::keys(self.contexts, count, round as u64);
            let theirs = of_reader(&reader, &keys)?;
            let ours = running.block_on(of_table(&cached, &keys))?;
            eprintln!(
                "round {}: embedded p50 {:.0} p99 {:.0} ns, cache p50 {:.0} p99 {:.0} ns",
                round + 1,
                theirs.p50,
                theirs.p99,
                ours.p50,
                ours.p99
            );
            rounds.push((theirs.p50, ours.p50));
        }
        running.block_on(embedded.stop());
        Ok(rounds)
    }
}

/// Loads all keys.
async fn warm(reader: &TableReader, contexts: u32) -> Result<()> {
    let all = stream::iter(0..contexts).map(|number| async move {
        let reply = reader.get(KIND, &key(number)).await;
        matches!(reply.answer, Answer::Found(_))
    });
    let found = all
        .buffer_unordered(FILLS)
        .filter(|found| std::future::ready(*found));
    match found.count().await == contexts as usize {
        true => Ok(()),
        false => Err("the cache does not find all contexts".into()),
    }
}

fn units(consumed: Option<&ConsumedCapacity>) -> f64 {
    consumed.and_then(|c| c.capacity_units()).unwrap_or(0.0)
}

/// All figures.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let contexts = if plan.quick { 5_000 } else { 100_000 };
    let (bench, mut hub) = runtime.block_on(async {
        let bench = Bench::new(contexts).await?;
        let mut hub = Writer::claim(&bench.table, Duration::ZERO).await?;
        let begin = Instant::now();
        hub.fill(contexts).await?;
        eprintln!("filled in {:.1} s", begin.elapsed().as_secs_f64());
        let filled: Result<_> = Ok((bench, hub));
        filled
    })?;
    let is_wanted = |part| plan.only.is_none_or(|only| only == part);
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    if is_wanted(Part::Units) {
        // Before anything is changed, so that the table has nothing but contexts.
        let (row, note) = runtime.block_on(scans(&bench, &mut hub))?;
        rows.push(row);
        notes.push(note);
    }
    if is_wanted(Part::Cache) {
        rows.push(Row {
            id: "D3",
            what: format!(
                "hit of the loading cache, p50, {contexts} contexts, beside an embedded agent with the same"
            ),
            unit: "ns",
            rounds: bench.reads(runtime, plan)?,
            goal: Some(Goal::AtMost(2.0, 1.2)),
        });
    }
    if is_wanted(Part::Units) {
        rows.splice(0..0, changes(runtime, plan, &bench, &mut hub)?);
    }
    Ok(Report {
        name: "dynamodb",
        about: vec![
            format!("{contexts} contexts of {VALUE_BYTES} bytes, ten per tenant, keys of 32; on an emulator, over loopback"),
            "units as the server returns them: in a transaction 2 per KiB written or looked at, reads 1 per 4 KiB, weak ones half".into(),
            "D1: what the heartbeat costs stands beside: one write unit a second for a table, however much changes".into(),
            "D2: a full read is one Scan, strongly consistent".into(),
            "D3: one thread; each read is timed by itself, on both sides; nothing is loaded again meanwhile; a million contexts, as \
             R1 has, would take ten times as long to load, so both sides have fewer"
                .into(),
        ],
        rows,
        notes,
    })
}

/// D1.
fn changes(runtime: &Runtime, plan: Plan, bench: &Bench, hub: &mut Writer) -> Result<Vec<Row>> {
    let change = |at_once, times, is_new| Change {
        at_once,
        times,
        is_new,
    };
    let alone = ("D1", "one changed context of 300 bytes, alone");
    let batch = ("D1", "the same, 20 tenants with one each in one message");
    let kinds = [
        (alone, change(1, 1, false), Some((6.0, 4.0))),
        (batch, change(BATCH, 1, false), Some((4.5, 4.0))),
        (("", "one of 3 KiB, alone"), change(1, 9, false), None),
        (
            ("", "a new key of a tenant, alone"),
            change(1, 1, true),
            None,
        ),
    ];
    let mut rows = Vec::new();
    for ((id, what), change, goal) in kinds {
        let mut rounds = Vec::new();
        for n in 0..plan.rounds {
            let measured = bench.changes(hub, change, n as u64);
            rounds.push(runtime.block_on(measured)?);
        }
        rows.push(Row {
            id,
            what: format!("{what}: write units beside those of a plain PutItem"),
            unit: "",
            rounds,
            goal: goal.map(|(goal, aim)| Goal::AtMost(goal, aim)),
        });
    }
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        let checks = runtime.block_on(bench.checks(hub, round as u32))?;
        rounds.push((CHECKS_A_PARTITION_TAKES, checks));
    }
    rows.push(Row {
        id: "",
        what: "checks of the fence by a writer that never waits, beside what one partition takes"
            .into(),
        unit: "/s",
        rounds,
        goal: Some(Goal::AtMost(1.0, 0.5)),
    });
    Ok(rows)
}

/// D2, and what it is made of.
async fn scans(bench: &Bench, hub: &mut Writer) -> Result<(Row, String)> {
    let full = bench.full_read().await?;
    let (scan, round) = bench.scans(hub).await?;
    // Twice a day all items are compared, in parts.
    let share = 2.0 * round / SCANS_A_DAY;
    let row = Row {
        id: "D2",
        what: format!(
            "scan of {} contexts, nothing to change: read units beside 1 % of a full read",
            bench.contexts
        ),
        unit: "",
        rounds: vec![(full / 100.0, scan + share)],
        goal: Some(Goal::AtMost(2.0, 0.5)),
    };
    let note = format!(
        "D2: a full read {full:.0}, the digests {scan:.0}, all items once {round:.0} units; they are read twice a day, which is \
         {share:.0} for a scan every ten minutes"
    );
    Ok((row, note))
}
