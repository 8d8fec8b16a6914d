//! What both programs answer at `/metrics`, while they run.

use crate::exposition::{Exposition, of_agent, of_hub};
use crate::stage::{KEY, Stage, TENANT, VALUE, settles, shows};
use std::collections::BTreeSet;
use system_tests::Result;

/// The labels that may be there. Their values are bounded by the configuration and by words of the programs.
const LABELS: &[&str] = &[
    "certificate",
    "finding",
    "for",
    "le",
    "listener",
    "op",
    "outcome",
    "policy",
    "quantile",
    "reason",
    "region",
    "request",
    "route",
    "status",
    "store",
    "verdict",
    "version",
];

/// Units that are no base units, or are none at all.
const NOT_UNITS: &[&str] = &[
    "_ms",
    "_millis",
    "_milliseconds",
    "_minutes",
    "_kib",
    "_mib",
    "_kb",
    "_mb",
    "_percent",
];

/// Checks names, texts, sorts and labels.
fn check(seen: &Exposition, prefix: &str) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, labels, _) in &seen.samples {
        let family = seen.family(name);
        let sort = seen.types.get(family).map(String::as_str);
        if sort.is_none() || seen.help.get(family).is_none_or(|help| help.len() < 20) {
            wrong.push(format!(
                "{family} has no TYPE or no HELP that says something"
            ));
        }
        if !family.starts_with(prefix) && !family.starts_with("process_") {
            wrong.push(format!("{family} does not begin with {prefix}"));
        }
        if (sort == Some("counter")) != family.ends_with("_total") {
            wrong.push(format!(
                "{family} is a {sort:?}: counters, and only those, end in _total"
            ));
        }
        if NOT_UNITS.iter().any(|unit| family.ends_with(unit)) {
            wrong.push(format!("{family} is not in seconds or bytes"));
        }
        if sort == Some("histogram") && !family.ends_with("_seconds") {
            wrong.push(format!("{family} does not say its unit"));
        }
        if [TENANT, KEY, VALUE]
            .iter()
            .any(|name| labels.contains(name))
        {
            wrong.push(format!("{name}{{{labels}}} names what it must not"));
        }
    }
    let known: BTreeSet<String> = LABELS.iter().map(|&l| l.to_owned()).collect();
    wrong.extend(
        seen.label_names()
            .difference(&known)
            .map(|l| format!("label {l} is not allowed")),
    );
    wrong.sort();
    wrong.dedup();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\n{}", wrong.join("\n"), seen.text).into()),
    }
}

/// All of these are there.
fn has_all<'a>(seen: &Exposition, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let missing: Vec<&str> = names
        .into_iter()
        .filter(|n| !seen.types.contains_key(*n))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("not there: {missing:?}\n{}", seen.text).into()),
    }
}

#[tokio::test]
async fn the_publisher_shows_what_an_operator_needs() -> Result<()> {
    let mut stage = Stage::new(&["eu-west-1", "us-east-1"]).await?;
    stage.hub.start().await?;
    let (eu, us) = ("region=\"eu-west-1\"", "region=\"us-east-1\"");
    for region in [eu, us] {
        shows(&stage.hub, "hubcast_publisher_store_behind", region, 0.0).await?;
        shows(&stage.hub, "hubcast_publisher_store_up", region, 1.0).await?;
    }
    let seen = settles(
        "the beat to come, and what is stopped to be counted",
        || of_hub(&stage.hub),
        |seen| {
            let beats = seen.value("hubcast_publisher_store_lag_seconds_count", us);
            let pauses = seen.value("hubcast_publisher_pauses", "");
            beats.is_some_and(|n| n > 0.0) && pauses.is_some()
        },
    )
    .await?;
    check(&seen, "hubcast_publisher_")?;
    // How far a scan is only shows while one runs, only tables have units, and this API has no TLS.
    let elsewhere = [
        publisher::metrics::SCAN_PROGRESS,
        publisher::metrics::TABLE_UNITS,
        publisher::metrics::HANDSHAKES_REFUSED,
    ];
    let at_rest = publisher::metrics::FAMILIES.iter().map(|f| f.0);
    has_all(&seen, at_rest.filter(|n| !elsewhere.contains(n)))?;
    for (name, value) in [
        ("is_writer", 1.0),
        ("is_suspended", 0.0),
        ("database_up", 1.0),
        ("held_tenants", 0.0),
        ("capture_gap", 0.0),
        ("scan_running", 0.0),
        ("last_scan_problems", 0.0),
    ] {
        let name = format!("hubcast_publisher_{name}");
        assert_eq!(seen.value(&name, ""), Some(value), "{name}");
    }
    let scanned = seen
        .value("hubcast_publisher_since_scan_seconds", "")
        .unwrap_or(1e9);
    assert!(scanned < 60.0, "{scanned}");
    let store = format!("store=\"{}\"", stage.agents[0].push_url());
    assert_eq!(
        seen.value("hubcast_publisher_store_up", &store),
        Some(1.0),
        "{}",
        seen.text
    );

    // A region that is gone, a value that is too large, a trigger that is off.
    stage.agents[1].kill()?;
    stage
        .sql(&format!(
            "UPDATE item SET body = repeat('x', 500) WHERE tenant = '{TENANT}'"
        ))
        .await?;
    let unreachable = format!(
        "{us},store=\"{}\",reason=\"unreachable\"",
        stage.agents[1].push_url()
    );
    shows(
        &stage.hub,
        "hubcast_publisher_store_failure",
        &unreachable,
        1.0,
    )
    .await?;
    shows(&stage.hub, "hubcast_publisher_store_up", us, 0.0).await?;
    shows(&stage.hub, "hubcast_publisher_store_behind", us, 1.0).await?;
    shows(&stage.hub, "hubcast_publisher_held_tenants", "", 1.0).await?;
    shows(&stage.hub, "hubcast_publisher_store_up", eu, 1.0).await?;
    stage.sql("ALTER TABLE item DISABLE TRIGGER USER").await?;
    // The triggers are looked at with every scan.
    let _ = stage.hub.run(&["scan"]).await?;
    shows(&stage.hub, "hubcast_publisher_capture_gap", "", 1.0).await?;
    check(&of_hub(&stage.hub).await?, "hubcast_publisher_")?;
    stage.hub.stop().await
}

#[tokio::test]
async fn a_publisher_that_another_database_fences_says_so_and_one_that_stands_by_has_no_stores()
-> Result<()> {
    let mut stage = Stage::new(&["eu-west-1"]).await?;
    stage.hub.run(&["scan"]).await?.ok()?;
    let mut other = stage.other_hub().await?;
    other.start().await?;
    shows(
        &other,
        "hubcast_publisher_store_failure",
        "reason=\"fenced\"",
        1.0,
    )
    .await?;
    shows(&other, "hubcast_publisher_store_up", "", 0.0).await?;
    other.stop().await?;

    stage.hub.start().await?;
    shows(&stage.hub, "hubcast_publisher_store_up", "", 1.0).await?;
    let agents: Vec<_> = stage.agents.iter().collect();
    let text = std::fs::read_to_string(&stage.hub.config)?;
    let at = text.find("[[context]]").ok_or("no context")?;
    let mut second =
        system_tests::hub::Hub::new(stage.dir.path(), &stage.database, &agents, &text[at..])?;
    second.configure(&stage.certificates.hub_line())?;
    second.start().await?;
    shows(&second, "hubcast_publisher_database_up", "", 1.0).await?;
    shows(&second, "hubcast_publisher_is_writer", "", 0.0).await?;
    let seen = of_hub(&second).await?;
    assert_eq!(
        seen.value("hubcast_publisher_store_up", ""),
        None,
        "{}",
        seen.text
    );
    second.stop().await?;
    stage.hub.stop().await
}

#[tokio::test]
async fn an_agent_shows_what_an_operator_needs() -> Result<()> {
    let mut stage = Stage::new(&["eu-west-1"]).await?;
    let new = of_agent(&stage.agents[0]).await?;
    check(&new, "hubcast_agent_")?;
    assert_eq!(new.value("hubcast_agent_ready", ""), Some(0.0));
    assert_eq!(
        new.value("hubcast_agent_age_seconds", ""),
        None,
        "nobody knows: {}",
        new.text
    );
    stage.hub.start().await?;
    let (eu, hub) = ("region=\"eu-west-1\"", &stage.hub);
    shows(hub, "hubcast_publisher_store_behind", eu, 0.0).await?;
    let agent = &stage.agents[0];
    let mut watching = agent.client().get(agent.url("/v1/watch")).send().await?;
    watching.chunk().await?;
    stage
        .sql("UPDATE item SET body = 'two' WHERE tenant = 't1'")
        .await?;
    // Under a writer that stays: one that goes releases the store, which makes the file durable at once.
    let what = "the watcher to be told, the file to settle, and the scrub to pass";
    let seen = settles(
        what,
        || of_agent(agent),
        |seen| {
            let some = |name: &str| seen.value(name, "").is_some_and(|v| v > 0.0);
            some("hubcast_agent_watch_lag_seconds_count")
                && some("hubcast_agent_settle_seconds_count")
                && some("hubcast_agent_scrub_passes_total")
        },
    )
    .await?;
    check(&seen, "hubcast_agent_")?;
    // Policies are of the configuration, and this one has none; nor is there a table.
    let all = spoke_agent::metrics::FAMILIES.iter().map(|f| f.0);
    has_all(
        &seen,
        all.filter(|n| {
            *n != spoke_agent::metrics::AUTHORIZED && !spoke_agent::metrics::OF_TABLES.contains(n)
        }),
    )?;
    for (name, value) in [
        ("ready", 1.0),
        ("checked", 1.0),
        ("contexts", 2.0),
        ("bundles", 2.0),
        ("watchers", 1.0),
        ("memory_whole", 1.0),
        ("store_failures_total", 0.0),
    ] {
        let name = format!("hubcast_agent_{name}");
        assert_eq!(
            seen.value(&name, "region=\"eu-west-1\""),
            Some(value),
            "{name}: {}",
            seen.text
        );
    }
    let bytes = |name: &str| seen.value(name, "").unwrap_or_default();
    let (free, size) = (
        bytes("hubcast_agent_disk_free_bytes"),
        bytes("hubcast_agent_disk_size_bytes"),
    );
    assert!(free > 0.0 && free <= size, "{free} of {size}");
    assert!(bytes("process_resident_memory_bytes") > 1e6);
    assert!(bytes("hubcast_agent_position_epoch") <= bytes("hubcast_agent_granted_epoch"));
    stage.hub.stop().await
}
