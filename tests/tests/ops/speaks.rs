//! Alerts, dashboards and runbooks speak only of metrics that programs which run expose, and of commands that there are.
//!
//! Would catch an alert that can never fire since its metric was renamed, and a command of a runbook that does not parse in
//! the night in which it is needed.

use crate::exposition::{Exposition, of_agent, of_hub};
use crate::files::{metrics, names, read, root, selectors};
use crate::stage::{Stage, settles, shows};
use clap::Parser;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use system_tests::Result;

const RULES: &str = "ops/alerts/hubcast.rules.yaml";

/// What is only there under conditions that no stage has: while a scan runs, with a table, with a policy,
/// with TLS of the API.
const ELSEWHERE: [&str; 4] = [
    publisher::metrics::HANDSHAKES_REFUSED,
    publisher::metrics::SCAN_PROGRESS,
    publisher::metrics::TABLE_UNITS,
    spoke_agent::metrics::AUTHORIZED,
];

/// An alert as it stands in the file.
#[derive(Debug, Default)]
struct Alert {
    expr: String,
    runbook: String,
}

/// The alerts by name. The file has each key on a line of its own, which promtool's own reading would not need.
fn alerts() -> Result<BTreeMap<String, Alert>> {
    let text = read(RULES)?;
    let (mut all, mut name) = (BTreeMap::<String, Alert>::new(), String::new());
    for line in text.lines().map(str::trim) {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            name = alert.to_owned();
            all.insert(name.clone(), Alert::default());
        }
        let Some(alert) = all.get_mut(&name) else {
            continue;
        };
        if let Some(expr) = line.strip_prefix("expr: ") {
            alert.expr = expr.to_owned();
        } else if let Some(runbook) = line.strip_prefix("runbook: ") {
            alert.runbook = runbook.to_owned();
        }
    }
    Ok(all)
}

/// The expressions of a dashboard, with the titles of their panels.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_panel = |panel: Value| -> Vec<(String, String)> {
        let title = text(&panel["title"]);
        let targets = list(&panel["targets"]).into_iter();
        targets.map(|t| (title.clone(), text(&t["expr"]))).collect()
    };
    list(&dashboard["panels"])
        .into_iter()
        .flat_map(of_panel)
        .collect()
}

/// All expressions that there are, with where they stand.
fn all_expressions() -> Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = alerts()?
        .into_iter()
        .map(|(name, a)| (name, a.expr))
        .collect();
    for name in names("ops/dashboards", ".json")? {
        let dashboard: Value =
            serde_json::from_str(&read(&format!("ops/dashboards/{name}.json"))?)?;
        let panels = expressions(&dashboard);
        assert!(!panels.is_empty(), "{name} has no panel");
        all.extend(
            panels
                .into_iter()
                .map(|(title, expr)| (format!("{name}: {title}"), expr)),
        );
    }
    Ok(all)
}

/// Whether some sample has the label with a value that was meant; `a|b` means each of them, and a variable anything.
fn has(seen: &[&Exposition], metric: &str, label: &str, wanted: &str) -> bool {
    let mut samples = seen
        .iter()
        .flat_map(|e| &e.samples)
        .filter(|(name, ..)| name == metric);
    match wanted.starts_with('$') || wanted.contains(['*', '.']) {
        true => samples.any(|(_, labels, _)| labels.contains(&format!("{label}=\""))),
        false => {
            let labels: Vec<&String> = samples.map(|(_, labels, _)| labels).collect();
            let is_there = |one: &str| {
                labels
                    .iter()
                    .any(|l| l.contains(&format!("{label}=\"{one}\"")))
            };
            wanted.split('|').all(is_there)
        }
    }
}

#[tokio::test]
async fn alerts_dashboards_and_runbooks_name_metrics_that_running_programs_expose() -> Result<()> {
    let mut stage = Stage::new(&["eu-west-1"]).await?;
    stage.hub.start().await?;
    let agent = &stage.agents[0];
    shows(&stage.hub, "hubcast_publisher_store_behind", "", 0.0).await?;
    let mut watching = agent.client().get(agent.url("/v1/watch")).send().await?;
    watching.chunk().await?;
    stage
        .sql("UPDATE item SET body = 'two' WHERE tenant = 't1'")
        .await?;
    let of_agent = settles(
        "the file to settle",
        || of_agent(agent),
        |seen| {
            let some = |name: &str| seen.value(name, "").is_some_and(|v| v > 0.0);
            some("hubcast_agent_settle_seconds_count")
                && some("hubcast_agent_watch_lag_seconds_count")
        },
    )
    .await?;
    let of_hub = settles(
        "a beat, and what is stopped",
        || of_hub(&stage.hub),
        |seen| {
            let pauses = seen.value("hubcast_publisher_pauses", "");
            pauses.is_some()
                && seen
                    .value("hubcast_publisher_store_lag_seconds_count", "")
                    .is_some()
        },
    )
    .await?;
    stage.hub.stop().await?;
    let seen = [&of_agent, &of_hub];
    let of_tables = spoke_agent::metrics::OF_TABLES;
    let elsewhere = ELSEWHERE.iter().chain(&of_tables);
    let mut known: BTreeSet<String> = elsewhere.map(|&name| name.to_owned()).collect();
    for one in seen {
        known.extend(one.samples.iter().map(|(name, ..)| name.clone()));
    }
    let families: BTreeSet<&String> = seen.iter().flat_map(|one| one.types.keys()).collect();
    let mut wrong = Vec::new();
    for (place, expr) in all_expressions()? {
        let names = metrics(&expr);
        if names.is_empty() {
            wrong.push(format!("{place}: no metric of Hubcast in {expr:?}"));
        }
        wrong.extend(
            names
                .difference(&known)
                .map(|name| format!("{place}: {name}")),
        );
        for (metric, labels) in selectors(&expr) {
            let missing = labels.iter().filter(|(label, value)| {
                !ELSEWHERE.contains(&metric.as_str())
                    && !of_tables.contains(&metric.as_str())
                    && label != "job"
                    && !has(&seen, &metric, label, value)
            });
            wrong.extend(
                missing.map(|(label, value)| format!("{place}: {metric} has no {label} {value:?}")),
            );
        }
    }
    for runbook in names("ops/runbooks", ".md")? {
        let named = metrics(&read(&format!("ops/runbooks/{runbook}.md"))?);
        let unknown = named
            .iter()
            .filter(|name| !known.contains(*name) && !families.contains(name));
        wrong.extend(unknown.map(|name| format!("{runbook}: {name}")));
    }
    assert!(wrong.is_empty(), "not exposed:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() -> Result<()> {
    let alerts = alerts()?;
    assert!(alerts.len() >= 15, "{alerts:?}");
    for (name, alert) in &alerts {
        assert_eq!(alert.runbook, format!("ops/runbooks/{name}.md"));
        let text = read(&alert.runbook)?;
        assert!(
            text.starts_with(&format!("# {name}\n")),
            "{}",
            alert.runbook
        );
        for heading in ["What gateways get", "Look at", "Do", "Do not", "Over when"] {
            assert!(
                text.contains(&format!("\n## {heading}\n")),
                "{name} does not say: {heading}"
            );
        }
    }
    let named: BTreeSet<String> = alerts.into_keys().collect();
    assert_eq!(names("ops/runbooks", ".md")?, named);
    let tested = read("ops/alerts/hubcast.test.yaml")?;
    let tested = |name: &&String| !tested.contains(&format!("alertname: {name}\n"));
    let untested: Vec<&String> = named.iter().filter(tested).collect();
    assert!(untested.is_empty(), "without a test: {untested:?}");
    Ok(())
}

#[test]
fn every_command_of_a_runbook_parses() -> Result<()> {
    let (mut wrong, mut commands) = (Vec::new(), 0);
    for runbook in names("ops/runbooks", ".md")? {
        let text = read(&format!("ops/runbooks/{runbook}.md"))?;
        for command in text.split('`').skip(1).step_by(2) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let refused = match words.first() {
                Some(&"publisher") => publisher::cli::Cli::try_parse_from(&words).err(),
                Some(&"spoke-agent") => spoke_agent::cli::Cli::try_parse_from(&words).err(),
                _ => continue,
            };
            commands += 1;
            wrong.extend(refused.map(|e| format!("{runbook}: `{command}`: {e}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(commands > 20, "only {commands} commands were found");
    Ok(())
}

/// Prometheus's own tool, which the tests of the alerts need. Without it they are left out, which is said; where nobody
/// looks (CI=true), nothing is left out.
fn promtool() -> Option<PathBuf> {
    let given = std::env::var_os("HUBCAST_PROMTOOL").filter(|path| !path.is_empty());
    let found = given.map(PathBuf::from).or_else(|| {
        let places = ["/usr/bin/promtool", "/usr/local/bin/promtool"];
        places.iter().map(PathBuf::from).find(|path| path.exists())
    });
    if found.is_none() {
        let missing =
            "there is no promtool: install Prometheus, or set HUBCAST_PROMTOOL to its path";
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{missing}"
        );
        eprintln!("left out: {missing}");
    }
    found
}

#[test]
fn prometheus_itself_takes_the_alerts_and_the_configuration() -> Result<()> {
    let Some(promtool) = promtool() else {
        return Ok(());
    };
    for args in [
        ["check", "rules", RULES],
        ["test", "rules", "ops/alerts/hubcast.test.yaml"],
        ["check", "config", "ops/prometheus.yaml"],
    ] {
        let ran = Command::new(&promtool)
            .args(args)
            .current_dir(root())
            .output()?;
        let said = [ran.stdout, ran.stderr].concat();
        assert!(
            ran.status.success(),
            "promtool {args:?}: {}",
            String::from_utf8_lossy(&said)
        );
    }
    Ok(())
}
