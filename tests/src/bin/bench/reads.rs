//! How fast and how small reads are: R1 to R7, and reads while agents are restarted in turn.

mod followers;
mod http;
pub mod inside;
pub mod push;
mod rolling;

use crate::clock;
use crate::report::{Goal, Report, Row};
use crate::{Part, Plan};
use http::Address;
use hubcast_tls::client::ClientFiles;
use inside::{Map, of_map, of_reader};
use push::{KIND, Pusher, VALUE_BYTES, key, value};
use spoke_agent::agent::Agent as Inside;
use spoke_agent::config::{ReadConfig, RunConfig};
use spoke_agent::reader::Options;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use system_tests::process::{Process, program};
use system_tests::region::Agent;
use system_tests::{Result, free_port, until};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The region of what is read.
pub const REGION: &str = "eu-west-1";
/// Random reads of one side in one round.
const READS: usize = 1_000_000;
/// Contexts changed per second in R2.
const APPLIED: u32 = 5_000;
/// How many bundles each push of R2 has.
const AT_ONCE: u32 = 20;
/// Random updates of R7.
const UPDATES: u32 = 10_000_000;
/// Changes of R6.
const CHANGES: u32 = 40;

/// How much there is of everything.
struct Size {
    contexts: u32,
    reads: usize,
    updates: u32,
}

/// Measures all of them.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let size = match plan.quick {
        true => Size {
            contexts: 50_000,
            reads: 50_000,
            updates: 100_000,
        },
        false => Size {
            contexts: 1_000_000,
            reads: READS,
            updates: UPDATES,
        },
    };
    let dir = TempDir::new()?;
    let mut report = Report {
        name: "reads",
        about: vec![
            format!("{} contexts of {VALUE_BYTES} bytes, ten per tenant, keys of 32; random order", size.contexts),
            "R1, R2: one thread; each read is timed by itself, on both sides, and the clock is part of both".into(),
            "R3: one client thread on the same processors as the server; agent and yardstick are processes of their own".into(),
            "the agent is durable as always; the yardsticks are in memory only".into(),
        ],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let mut agent = Agent::new(dir.path(), REGION)?;
    runtime.block_on(async {
        agent.start().await?;
        let mut pusher = Pusher::claim(agent.push, REGION, &agent.token, 1).await?;
        let begin = Instant::now();
        pusher.fill(size.contexts).await?;
        eprintln!("filled in {:.1} s", begin.elapsed().as_secs_f64());
        agent.stop().await
    })?;
    let is_wanted = |part| plan.only.is_none_or(|only| only == part);
    if is_wanted(Part::Inside) {
        inside(runtime, plan, &size, &agent, &mut report)?;
    }
    if is_wanted(Part::Starts) {
        starts(runtime, plan, &size, &mut agent, &mut report)?;
    }
    if is_wanted(Part::Http) {
        over_http(runtime, plan, &size, &agent, &mut report)?;
    }
    if is_wanted(Part::Followers) {
        runtime.block_on(followers(plan, &mut agent, &mut report))?;
    }
    if is_wanted(Part::Rolling) {
        runtime.block_on(rolling(plan, dir.path(), &mut report))?;
    }
    if is_wanted(Part::Updates) {
        runtime.block_on(updates(&size, &mut agent, &mut report))?;
    }
    Ok(report)
}

/// The agent in this process, on the file that was filled.
pub async fn start_inside(agent: &Agent, memory_bytes: usize) -> Result<Inside> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = RunConfig {
        region: REGION.parse_region()?,
        data: agent.data.clone(),
        push_listen: any,
        push_token: agent.token.clone().into(),
        push_tls: None,
        read: ReadConfig {
            listen: Some(any),
            socket: None,
            token: None,
            tls: None,
        },
        authorize: Vec::new(),
        peers: Vec::new(),
        peers_tls: ClientFiles::default(),
        memory_bytes,
        cache_bytes: 64 << 20,
    };
    Ok(Inside::start(config).await?)
}

trait ParseRegion {
    fn parse_region(&self) -> Result<contexts::name::Region>;
}

impl ParseRegion for str {
    fn parse_region(&self) -> Result<contexts::name::Region> {
        Ok(contexts::name::Region::new(self)?)
    }
}

/// R1 and R2.
fn inside(
    runtime: &Runtime,
    plan: Plan,
    size: &Size,
    agent: &Agent,
    report: &mut Report,
) -> Result<()> {
    let map: Map = inside::map(size.contexts);
    // The agent's own threads: its writer, and one for what it is asked.
    let running = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let embedded = running.block_on(start_inside(agent, usize::MAX))?;
    let reader = embedded.reader(Options::default());
    let in_memory = async {
        until(
            "all contexts to be in memory",
            Duration::from_secs(60),
            || async {
                let found = reader.look_up(KIND, &key(0)).answer;
                let absent = reader.look_up(KIND, "none").answer;
                use spoke_agent::reader::Answer::{Absent, Found};
                matches!((found, absent), (Found(_), Absent)).then_some(())
            },
        )
        .await
    };
    runtime.block_on(in_memory)?;
    let mut pusher = running.block_on(claim(embedded.push_addr.port(), &agent.token, 2))?;
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let keys = inside::keys(size.contexts, size.reads, round as u64);
        let theirs = of_map(&map, &keys)?;
        let ours = of_reader(&reader, &keys)?;
        quiet.push((theirs.p50, ours.p50));
        let over = Arc::new(AtomicBool::new(false));
        let changing = running.spawn(change(pusher, size.contexts, over.clone()));
        clock::wait_until(Instant::now() + Duration::from_millis(500));
        let busily = of_reader(&reader, &keys);
        over.store(true, Ordering::Relaxed);
        let rate;
        (pusher, rate) = running.block_on(changing)??;
        busy.push((ours.p99, busily?.p99));
        let last = busy[busy.len() - 1];
        eprintln!(
            "round {}: map p50 {:.0} p99 {:.0} ns, reader p50 {:.0} p99 {:.0} ns, with {rate:.0} contexts/s applied p99 {:.0} ns",
            round + 1,
            theirs.p50,
            theirs.p99,
            ours.p50,
            ours.p99,
            last.1
        );
    }
    running.block_on(embedded.stop());
    let from_file = running.block_on(start_inside(agent, 0))?;
    let reader = from_file.reader(Options::default());
    let mut bounded = Vec::new();
    for (round, (_, ours)) in quiet.iter().enumerate() {
        let keys = inside::keys(size.contexts, size.reads / 10, round as u64);
        bounded.push((*ours, of_reader(&reader, &keys)?.p50));
    }
    running.block_on(from_file.stop());
    report.rows.push(Row {
        id: "",
        what: "the same without memory (`memory_mib = 0`), beside R1".into(),
        unit: "ns",
        rounds: bounded,
        goal: None,
    });
    report.rows.push(Row {
        id: "R1",
        what: "in-process get, p50, beside HashMap<String, Arc<[u8]>>".into(),
        unit: "ns",
        rounds: quiet,
        goal: Some(Goal::AtMost(2.0, 1.25)),
    });
    report.rows.push(Row {
        id: "R2",
        what: format!(
            "the same while {APPLIED} contexts/s are applied, p99, beside its p99 without"
        ),
        unit: "ns",
        rounds: busy,
        goal: Some(Goal::AtMost(1.5, 1.1)),
    });
    Ok(())
}

/// Changes contexts at a steady rate until it is over; returns the rate that it reached.
async fn change(mut pusher: Pusher, contexts: u32, over: Arc<AtomicBool>) -> Result<(Pusher, f64)> {
    let tenants = contexts / push::PER_TENANT;
    let mut ticks =
        tokio::time::interval(Duration::from_secs(1) * AT_ONCE * push::PER_TENANT / APPLIED);
    let (mut state, mut at, mut pushed) = (0, 0, 0_u32);
    let begin = Instant::now();
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        state += 1;
        let some: Vec<u32> = (0..AT_ONCE).map(|n| (at + n * 7_919) % tenants).collect();
        at = (at + 1) % tenants;
        pusher.push(&some, state).await?;
        pushed += AT_ONCE * push::PER_TENANT;
    }
    let rate = f64::from(pushed) / begin.elapsed().as_secs_f64();
    Ok((pusher, rate))
}

/// Claims once the last writer has been silent for long enough.
async fn claim(port: u16, token: &str, epoch: u64) -> Result<Pusher> {
    until(
        "the agent to grant a claim",
        Duration::from_secs(30),
        || async { Pusher::claim(port, REGION, token, epoch).await.ok() },
    )
    .await
}

/// R4 and R5: from `exec` to the first answer, and what the process takes once all is in memory.
fn starts(
    runtime: &Runtime,
    plan: Plan,
    size: &Size,
    agent: &mut Agent,
    report: &mut Report,
) -> Result<()> {
    let (mut clean, mut killed, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let raw: usize = (0..size.contexts)
        .map(|n| key(n).len() + value(n, 0).len())
        .sum();
    for round in 0..plan.rounds {
        for is_clean in [true, false] {
            // Something that only the redo log has, where the end is not clean.
            runtime.block_on(async {
                agent.start().await?;
                whole(agent).await?;
                let mut pusher = claim(
                    agent.push,
                    &agent.token,
                    100 + 2 * round as u64 + u64::from(!is_clean),
                )
                .await?;
                for state in 0..50 {
                    pusher.push(&[state], 7).await?;
                }
                if is_clean {
                    memory.push((raw as f64 / MIB, rss(agent)? / MIB));
                    agent.stop().await
                } else {
                    agent.kill()
                }
            })?;
            let begin = Instant::now();
            let mut process = Process::start(agent.command()?, &agent.data.with_extension("log"))?;
            let seconds_until = |moment: Instant| moment.duration_since(begin).as_secs_f64();
            let first = runtime.block_on(first_answer(agent, &key(12_345), 200))?;
            let seconds = seconds_until(first);
            let checked = seconds_until(runtime.block_on(first_answer(agent, "none", 404))?);
            runtime.block_on(whole(agent))?;
            let all = seconds_until(Instant::now());
            report.notes.push(format!(
                "R5, round {}, {}: first answer {seconds:.3} s after exec, absence known after {checked:.1} s, all in memory after {all:.1} s",
                round + 1,
                if is_clean { "clean stop" } else { "kill -9" },
            ));
            match is_clean {
                true => clean.push((1.0, seconds)),
                false => killed.push((1.0, seconds)),
            }
            runtime.block_on(process.stop())?;
        }
    }
    let row = |id, what: &str, unit, rounds, goal| Row {
        id,
        what: what.into(),
        unit,
        rounds,
        goal: Some(goal),
    };
    report.rows.push(row(
        "R4",
        "memory of the agent with all contexts in it, beside the bytes of keys and values",
        "MiB",
        memory,
        Goal::AtMost(1.6, 1.3),
    ));
    report.rows.push(row(
        "R5",
        "exec to the first answer after a clean stop, beside one second",
        "s",
        clean,
        Goal::AtMost(1.0, 0.2),
    ));
    report.rows.push(row(
        "R5",
        "the same after kill -9",
        "s",
        killed,
        Goal::AtMost(2.0, 0.2),
    ));
    Ok(())
}

const MIB: f64 = 1_048_576.0;

/// Bytes that the agent keeps in memory.
fn rss(agent: &mut Agent) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process()?.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.ok_or("the kernel does not say how much memory the agent has")? * 1_024.0)
}

/// Waits until all is checked and in memory.
async fn whole(agent: &Agent) -> Result<()> {
    until(
        "all contexts to be in memory",
        Duration::from_secs(120),
        || async {
            let status = agent.status().await.ok()?;
            (status["memory"]["reads"] == "memory").then_some(())
        },
    )
    .await
}

/// The moment of the first answer with this status over a connection of its own.
async fn first_answer(agent: &Agent, key: &str, status: u16) -> Result<Instant> {
    let url = agent.url(&format!("/v1/contexts/{KIND}/{key}"));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        let answer = agent.client().get(&url).send().await;
        if answer.is_ok_and(|answer| answer.status() == status) {
            return Ok(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("the agent does not answer".into())
}

/// R3.
fn over_http(
    runtime: &Runtime,
    plan: Plan,
    size: &Size,
    agent: &Agent,
    report: &mut Report,
) -> Result<()> {
    let dir = agent.data.parent().unwrap_or(Path::new("."));
    let (port, socket) = (free_port()?, dir.join("bare.sock"));
    let mut bare = std::process::Command::new(program("bare")?);
    bare.arg(port.to_string()).arg(&socket);
    let mut bare = Process::start(bare, &dir.join("bare.log"))?;
    let mut process = Process::start(agent.command()?, &dir.join("agent.log"))?;
    runtime.block_on(whole(agent))?;
    runtime.block_on(until(
        "the yardstick to listen",
        Duration::from_secs(10),
        || async {
            std::os::unix::net::UnixStream::connect(&socket)
                .ok()
                .map(|_| ())
        },
    ))?;
    let requests = http::requests(&inside::keys(size.contexts, 10_000, 5));
    let sides = [
        ("TCP", Address::Tcp(port), Address::Tcp(agent.read)),
        (
            "Unix socket",
            Address::Unix(socket),
            Address::Unix(agent.socket()),
        ),
    ];
    for (over, theirs, ours) in &sides {
        for connections in [1, 16, 64] {
            let mut rounds = Vec::new();
            for _ in 0..plan.rounds {
                let rates = http::rates([theirs, ours], connections, &requests);
                rounds.push(runtime.block_on(rates)?);
            }
            report.rows.push(Row {
                id: "R3",
                what: format!("HTTP get over {over}, {connections} connections"),
                unit: "/s",
                rounds,
                goal: Some(Goal::AtLeast(0.85, 0.95)),
            });
        }
    }
    runtime.block_on(process.stop())?;
    bare.kill()
}

/// R6.
async fn followers(plan: Plan, agent: &mut Agent, report: &mut Report) -> Result<()> {
    agent.start().await?;
    whole(agent).await?;
    let mut pusher = claim(agent.push, &agent.token, 1_000).await?;
    let mut rounds = Vec::new();
    for round in 0..plan.rounds as u32 {
        let begin = 1_000_000 + round * CHANGES;
        let changes = begin..begin + CHANGES;
        let p99 = followers::p99(&mut pusher, agent.read, changes).await?;
        rounds.push((1.0, p99));
    }
    report.rows.push(Row {
        id: "R6",
        what: format!(
            "push of one change to {} followers of one agent, p99, beside one millisecond",
            followers::FOLLOWERS
        ),
        unit: "ms",
        rounds,
        goal: Some(Goal::AtMost(200.0, 50.0)),
    });
    agent.stop().await
}

/// A rolling restart.
async fn rolling(plan: Plan, dir: &Path, report: &mut Report) -> Result<()> {
    let (mut longest, mut failed) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let dir = dir.join(format!("rolling-{round}"));
        std::fs::create_dir(&dir)?;
        let rolled = rolling::restarts(&dir).await?;
        report.notes.push(format!(
            "rolling restart, round {}: {} reads, of which 1 in 1,000 took more than {:.1} ms",
            round + 1,
            rolled.reads,
            rolled.p999
        ));
        longest.push((1.0, rolled.longest));
        failed.push((1.0, rolled.failed as f64));
    }
    report.rows.push(Row {
        id: "",
        what: "longest read while two agents are restarted in turn, beside one millisecond".into(),
        unit: "ms",
        rounds: longest,
        goal: Some(Goal::AtMost(50.0, 50.0)),
    });
    report.rows.push(Row {
        id: "",
        what: "reads that were not answered with the value then".into(),
        unit: "",
        rounds: failed,
        goal: Some(Goal::AtMost(0.0, 0.0)),
    });
    Ok(())
}

/// R7.
async fn updates(size: &Size, agent: &mut Agent, report: &mut Report) -> Result<()> {
    use rand::{Rng, SeedableRng};
    agent.start().await?;
    whole(agent).await?;
    let mut pusher = claim(agent.push, &agent.token, 2_000).await?;
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let tenants = size.contexts / push::PER_TENANT;
    let begin = Instant::now();
    let (mut done, mut state) = (0, 0);
    while done < size.updates {
        clock::go_on()?;
        state += 1;
        let some: std::collections::BTreeSet<u32> = (0..1_000)
            .map(|_| random.random_range(0..tenants))
            .collect();
        let some: Vec<u32> = some.into_iter().collect();
        pusher.push(&some, state).await?;
        done += some.len() as u32 * push::PER_TENANT;
    }
    let seconds = begin.elapsed().as_secs_f64();
    agent.stop().await?;
    let file = std::fs::metadata(&agent.data)?;
    // redb doubles a file that is full. What is not written of that takes no room.
    let on_disk = (file.blocks() * 512) as f64 / MIB;
    let length = file.len() as f64 / MIB;
    let live: usize = (0..size.contexts)
        .map(|n| key(n).len() + value(n, 0).len())
        .sum();
    report.rows.push(Row {
        id: "R7",
        what: format!(
            "store file on the disk after {done} random updates, beside the bytes of keys and values"
        ),
        unit: "MiB",
        rounds: vec![(live as f64 / MIB, on_disk)],
        goal: Some(Goal::AtMost(3.0, 2.0)),
    });
    report.rows.push(Row {
        id: "",
        what: "its length, with the part that redb has doubled it by and never wrote".into(),
        unit: "MiB",
        rounds: vec![(live as f64 / MIB, length)],
        goal: None,
    });
    report.notes.push(format!(
        "R7: {:.0} contexts/s were applied",
        f64::from(done) / seconds
    ));
    Ok(())
}
