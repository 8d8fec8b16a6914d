//! O2: what mutual TLS costs on the push path, over connections that are kept: the same pushes to two agents, of which one
//! speaks TLS. Both make every push durable before they answer. The sides take turns in short slices, so that whatever the
//! machine does meanwhile is done to both.

use crate::reads::push::{PER_TENANT, Pusher};
use crate::report::{Goal, Report, Row};
use crate::stage::{self, wait};
use crate::{Plan, clock};
use reqwest::Client;
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::certificates::Certificates;
use system_tests::region::Agent;
use tokio::runtime::Runtime;

const REGION: &str = "eu-west-1";
/// Tenants that there are, all of which are pushed again and again.
const TENANTS: u32 = 2_000;
/// Bundles of one push: one change by itself; what is drained together; a part of a first fill.
const SIZES: [u32; 3] = [1, 20, 500];
/// Slices of a round on each side.
const SLICES: u32 = 10;

struct Side {
    pusher: Pusher,
    /// The next tenant.
    at: u32,
    state: u32,
}

impl Side {
    /// Pushes so often so many bundles; how long it took.
    async fn push(&mut self, pushes: u32, bundles: u32) -> Result<Duration> {
        let began = Instant::now();
        for _ in 0..pushes {
            clock::go_on()?;
            let tenants: Vec<u32> = (0..bundles).map(|n| (self.at + n) % TENANTS).collect();
            self.at = (self.at + bundles) % TENANTS;
            self.state += 1;
            self.pusher.push(&tenants, self.state).await?;
        }
        Ok(began.elapsed())
    }
}

async fn side(client: Client, agent: &Agent) -> Result<Side> {
    let mut pusher = Pusher::claim_by(client, &agent.push_url(), REGION, &agent.token, 1).await?;
    pusher.fill(TENANTS * PER_TENANT).await?;
    let (at, state) = (0, 0);
    Ok(Side { pusher, at, state })
}

/// Contexts per second on both sides, in one round.
async fn round(
    plain: &mut Side,
    tls: &mut Side,
    plan: Plan,
    bundles: u32,
    number: usize,
) -> Result<(f64, f64)> {
    let pushes = (plan.samples as u32 / SLICES / bundles.isqrt()).max(2);
    let (mut of_plain, mut of_tls) = (Duration::ZERO, Duration::ZERO);
    for slice in 0..SLICES as usize {
        // Who begins changes from slice to slice.
        if (slice + number).is_multiple_of(2) {
            of_plain += plain.push(pushes, bundles).await?;
            of_tls += tls.push(pushes, bundles).await?;
        } else {
            of_tls += tls.push(pushes, bundles).await?;
            of_plain += plain.push(pushes, bundles).await?;
        }
    }
    let contexts = f64::from(SLICES * pushes * bundles * PER_TENANT);
    Ok((
        contexts / of_plain.as_secs_f64(),
        contexts / of_tls.as_secs_f64(),
    ))
}

/// O2.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let dir = tempfile::Builder::new()
        .prefix("hubcast-bench-")
        .tempdir()?;
    stage::on_disk(dir.path())?;
    let sync = stage::sync_cost(dir.path())?;
    let certificates = Certificates::new(&dir.path().join("certs"), &[REGION])?;
    let mut plain = Agent::new(dir.path(), REGION)?;
    let mut secure = Agent::new(dir.path(), REGION)?;
    secure.scheme = "https";
    let mut command = secure.command()?;
    command.args(certificates.push_flags(REGION));
    let both = async {
        plain.start().await?;
        secure.start_as(command).await?;
        let client = Client::builder().no_proxy().tcp_nodelay(true).build()?;
        let of_plain = side(client, &plain).await?;
        let client = certificates.client(Some((&certificates, "hub")))?;
        Ok((of_plain, side(client, &secure).await?))
    };
    let (mut of_plain, mut of_tls) = wait(runtime, both)?;
    let mut rows = Vec::new();
    for bundles in SIZES {
        let mut rounds = Vec::new();
        for number in 0..plan.rounds {
            let one = round(&mut of_plain, &mut of_tls, plan, bundles, number);
            rounds.push(wait(runtime, one)?);
        }
        rows.push(Row {
            id: "O2",
            what: format!(
                "pushes of {bundles} bundles, {} contexts",
                bundles * PER_TENANT
            ),
            unit: "contexts/s",
            rounds,
            goal: Some(Goal::AtLeast(0.9, 0.95)),
        });
    }
    Ok(Report {
        name: "tls",
        about: vec![
            format!(
                "{} rounds, each of {SLICES} slices on each side",
                plan.rounds
            ),
            "yardstick: the same pushes to an agent without TLS".to_owned(),
            "ours: both sides show certificates; one connection each, kept".to_owned(),
            format!(
                "both: durable before the answer, making 8 KiB durable takes {sync:.2} ms here"
            ),
        ],
        rows,
        notes: Vec::new(),
    })
}
