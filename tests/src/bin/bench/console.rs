//! O1: how soon the console shows thirty regions with a million contexts, and one tenant of them, in a real browser;
//! and what an open console costs the publisher. The yardstick is one millisecond: what is asked for are milliseconds.

use crate::report::{Goal, Report, Row};
use crate::stage::{self, wait};
use crate::{Plan, clock};
use std::time::Duration;
use system_tests::browser::{self, Browser};
use system_tests::hub::Hub;
use system_tests::region::Agent;
use system_tests::{Result, until};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const REGIONS: u32 = 30;
const PER_TENANT: u32 = 10;
/// Looks per round; their median counts.
const LOOKS: u32 = 10;
/// How long an open console is watched.
const OPEN: Duration = Duration::from_secs(30);
/// How long the first fill may take.
const FILL: Duration = Duration::from_secs(500);

/// Each tenant lives in one region.
fn table(contexts: u32) -> String {
    let tenants = contexts / PER_TENANT;
    format!(
        "CREATE TABLE item (id integer PRIMARY KEY, tenant text NOT NULL, region text NOT NULL, note text NOT NULL);
         INSERT INTO item SELECT n, 'tenant-' || n % {tenants}, 'region-' || n % {tenants} % {REGIONS},
             repeat(md5(n::text), 8) FROM generate_series(1, {contexts}) n;
         CREATE INDEX ON item (tenant);
         ANALYZE item"
    )
}

const CONTEXT: &str = r#"
[[context]]
kind = "item"
query = "SELECT id::text AS key, tenant, ARRAY[region] AS regions, note FROM item"
watch = [{ table = "item", tenant = "tenant" }]
"#;

/// O1.
pub fn measure(runtime: &Runtime, plan: Plan) -> Result<Report> {
    let contexts = if plan.quick { 10_000 } else { 1_000_000 };
    let driver = browser::find()?.ok_or("there is no browser")?;
    let primary = wait(runtime, stage::cluster(&[]))?;
    let database = wait(runtime, primary.database())?;
    stage::fill(&database, &table(contexts))?;
    let dir = TempDir::new()?;
    let names = (0..REGIONS).map(|n| format!("region-{n}"));
    let mut agents: Vec<Agent> = names
        .map(|name| Agent::new(dir.path(), &name))
        .collect::<Result<_>>()?;
    let mut hub = Hub::new(
        dir.path(),
        &database,
        &agents.iter().collect::<Vec<_>>(),
        CONTEXT,
    )?;
    wait(runtime, async {
        for agent in &mut agents {
            agent.start().await?;
        }
        hub.run(&["migrate"]).await?.ok()?;
        hub.start().await?;
        until("all regions to be in step", FILL, || async {
            let status = hub.status().await.ok()?;
            let stores = status["engine"]["stores"].as_array()?;
            let in_step = stores.iter().filter(|s| s["standing"] == "in step");
            (in_step.count() == REGIONS as usize).then_some(())
        })
        .await
    })?;
    let closed = wait(runtime, cpu(&mut hub))?;
    let browser = wait(runtime, async {
        let browser = Browser::open(&driver).await?;
        browser.go(&hub.url("/")).await?;
        browser.enter("#token", &hub.token).await?;
        browser.reads("h1", "Overview").await?;
        Ok(browser)
    })?;
    let open = wait(runtime, cpu(&mut hub))?;
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 0..plan.rounds as u32 {
        let mut looks = [Vec::new(), Vec::new()];
        for look in 0..LOOKS {
            let tenant = (round * LOOKS + look) * 997 % (contexts / PER_TENANT);
            let pages = [
                ("overview", "/".to_owned()),
                ("tenant", format!("/#/tenant/tenant-{tenant}")),
            ];
            for (times, (mark, page)) in looks.iter_mut().zip(pages) {
                clock::go_on()?;
                times.push(wait(runtime, shown(&browser, &hub.url(&page), mark))?);
                if plan.trace {
                    eprintln!("{mark}: {}", wait(runtime, timeline(&browser))?);
                }
            }
        }
        for (rounds, mut times) in rounds.iter_mut().zip(looks) {
            times.sort_by(f64::total_cmp);
            rounds.push((1.0, times[times.len() / 2]));
        }
    }
    let [overview, tenant] = rounds;
    let row = |what: String, rounds, goal| Row {
        id: "O1",
        what,
        unit: "ms",
        rounds,
        goal: Some(goal),
    };
    Ok(Report {
        name: "console",
        about: vec![
            format!("{REGIONS} regions, {contexts} contexts, each tenant in one region; all of it and the browser on this machine"),
            "from the begin of the navigation to the mark that the page sets once it is drawn, median of ten".into(),
        ],
        rows: vec![
            row("overview of all regions, signed in".into(), overview, Goal::AtMost(300.0, 100.0)),
            row("a tenant side by side".into(), tenant, Goal::AtMost(200.0, 80.0)),
        ],
        notes: vec![format!(
            "the publisher took {:.2} % of a processor with the console closed, {:.2} % with it open",
            closed * 100.0,
            open * 100.0
        )],
    })
}

/// Opens a page anew; the milliseconds until it was drawn.
async fn shown(browser: &Browser, url: &str, mark: &str) -> Result<f64> {
    // A change of what stands after # alone opens no page.
    browser.go("about:blank").await?;
    browser.go(url).await?;
    let script = "return performance.getEntriesByName(arguments[0]).map((mark) => mark.startTime)[0] || null";
    until("the page to be drawn", Duration::from_secs(30), || async {
        browser.run(script, &[mark]).await.ok()?.as_f64()
    })
    .await
}

/// What the browser did for a page, and when, in milliseconds: begin, request sent, first byte, last byte.
async fn timeline(browser: &Browser) -> Result<String> {
    let script = "return performance.getEntries().map((e) => [e.name.replace(/^.*:\\/\\/[^/]*/, ''), \
                  ...[e.startTime, e.requestStart, e.responseStart, e.responseEnd].map((at) => Math.round(at || 0))].join(' ')).join(', ')";
    let timeline = browser.run(script, &[]).await?;
    Ok(timeline.as_str().unwrap_or_default().to_owned())
}

/// Which share of a processor the publisher takes, over a while.
async fn cpu(hub: &mut Hub) -> Result<f64> {
    let id = hub.daemon()?.id();
    let ticks = || -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let (_, fields) = stat.rsplit_once(") ").ok_or("no fields")?;
        let fields = fields.split(' ').skip(11).take(2);
        Ok(fields.map(str::parse::<f64>).sum::<Result<f64, _>>()?)
    };
    let before = ticks()?;
    tokio::time::sleep(OPEN).await;
    // A hundred ticks are a second (proc(5), USER_HZ).
    Ok((ticks()? - before) / 100.0 / OPEN.as_secs_f64())
}
