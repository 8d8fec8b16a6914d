//! `publisher status`: through the daemon's API, or without it from the database and the spokes.

use super::remote::{self, Hub, Refusal};
use super::{Context, Exit, Stop, scan, watch};
use crate::source::pauses::Paused;
use crate::status::{self, Status, StoreReport};
use std::fmt::Write;

pub(super) async fn run(context: &Context, every: Option<f64>) -> Result<Exit, Stop> {
    let hub = Hub::own(context)?;
    let look = async || match over(&hub).await {
        Ok(status) => status,
        // The database and the stores know what a daemon would tell.
        Err(_) => status::collect(&context.parts, &context.config, None).await,
    };
    match every {
        Some(every) => Ok(watch::watch(every, context.json, async || Ok(look().await)).await),
        None => shown(context.json, &look().await),
    }
}

/// The status as a publisher has it.
pub(super) async fn over(hub: &Hub) -> Result<Status, Refusal> {
    hub.get("/v1/status", &[], remote::short()).await
}

/// Prints a status, and says how it is.
pub(super) fn shown(json: bool, status: &Status) -> Result<Exit, Stop> {
    super::print(json, status, || text(status))?;
    Ok(if status.is_well() {
        Exit::Done
    } else {
        Exit::Trouble
    })
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

pub(super) fn text(status: &Status) -> String {
    let mut out = String::new();
    writer_lines(&mut out, status);
    for Paused {
        pause,
        who,
        seconds_ago,
    } in &status.pauses
    {
        let when = age(*seconds_ago);
        let _ = writeln!(
            out,
            "PAUSED    {pause} (by {who}, {when} ago); values stay, only removals leave; `publisher resume` ends it"
        );
    }
    for tenant in &status.pause_exceptions {
        let _ = writeln!(out, "PAUSED    but tenant {tenant} is let through");
    }
    let _ = match &status.last_scan {
        None => writeln!(out, "last scan none recorded"),
        Some(scan) => {
            let s = &scan.summary;
            let in_step = s.stores.iter().filter(|x| x.in_step).count();
            writeln!(
                out,
                "last scan {} ago, {:.1} s, {} contexts of {} tenants, {in_step} of {} stores in step",
                age(scan.seconds_ago),
                s.ms as f64 / 1000.0,
                s.contexts,
                s.tenants,
                s.stores.len()
            )
        }
    };
    let width = status
        .stores
        .iter()
        .map(|s| s.store.len())
        .max()
        .unwrap_or(5)
        .max(5);
    let _ = writeln!(
        out,
        "\n{:width$}  {:12}  {:>8}  {:>8}  {:>9}  {:>8}  position",
        "store", "state", "age", "lag", "contexts", "tenants"
    );
    for store in &status.stores {
        store_lines(&mut out, store, width);
    }
    if let Some(engine) = &status.engine {
        if let Some(scan) = &engine.scan {
            let _ = writeln!(
                out,
                "\na scan is running: {:.0} % ({})",
                scan.progress * 100.0,
                scan.cause
            );
        }
        if let Some(gap) = &engine.capture_gap {
            let _ = writeln!(
                out,
                "problem   changes may be missed until the next scan: {gap}"
            );
        }
        for r in &engine.refusals {
            let _ = writeln!(
                out,
                "refused   {} times by {}: tenant {}: {}",
                r.times, r.store, r.tenant, r.why
            );
        }
    }
    // The writer knows what is held now; without one, the last scan knew.
    let (held, all) = match (&status.engine, &status.last_scan) {
        (Some(engine), _) => (Some(&engine.held), engine.held_tenants),
        (None, scan) => scan.as_ref().map_or((None, 0), |s| {
            (Some(&s.summary.held), s.summary.held_tenants)
        }),
    };
    for line in held
        .into_iter()
        .flat_map(|held| scan::held_lines(held, all))
    {
        let _ = writeln!(out, "held      {line}");
    }
    let stopped = status.engine.as_ref().and_then(|e| e.stopped.as_ref());
    if let Some(kept) = stopped.map(|s| s.kept).filter(|kept| *kept > 0) {
        let _ = writeln!(
            out,
            "kept      {kept} contexts stay as the stores have them, by `publisher drop`; `publisher held` shows them"
        );
    }
    let (budgets, all) = match (&status.engine, &status.last_scan) {
        (Some(engine), _) => (Some(&engine.budgets), engine.budget_tenants),
        (None, scan) => scan.as_ref().map_or((None, 0), |s| {
            (Some(&s.summary.budgets), s.summary.budget_tenants)
        }),
    };
    for line in budgets
        .into_iter()
        .flat_map(|budgets| scan::budget_lines(budgets, all))
    {
        let _ = writeln!(out, "budget    {line}");
    }
    for problem in status.last_scan.iter().flat_map(|s| &s.summary.problems) {
        let _ = writeln!(out, "problem   {problem}");
    }
    for difference in &status.differences {
        let _ = writeln!(
            out,
            "problem   {difference}: run `publisher migrate`, or start the publisher with the configuration that it was run with"
        );
    }
    out
}

fn writer_lines(out: &mut String, status: &Status) {
    let _ = match (&status.writer, &status.database) {
        (_, Some(why)) => writeln!(out, "writer    unknown: {why}"),
        (Some(w), _) if w.epoch == 0 => {
            writeln!(out, "writer    NONE yet: `publisher run` is one")
        }
        (Some(w), _) if w.released => writeln!(
            out,
            "writer    NONE, nothing is sent: start `publisher run`; the last was {}, epoch {}",
            w.host, w.epoch
        ),
        (Some(w), _) if !w.is_alive() => writeln!(
            out,
            "writer    NONE, nothing is sent: start `publisher run`; {}, epoch {}, gave no sign of life for {}",
            w.host,
            w.epoch,
            age(w.renewed_seconds_ago)
        ),
        (Some(w), _) => writeln!(out, "writer    {}, epoch {}", w.host, w.epoch),
        (None, None) => writeln!(out, "writer    unknown"),
    };
    for standby in status.writer.iter().flat_map(|w| &w.standbys) {
        let _ = writeln!(out, "stands by {}", standby.host);
    }
}

fn store_lines(out: &mut String, store: &StoreReport, width: usize) {
    let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let view = store.writer_view.as_ref();
    let state = match (&store.unreachable, view) {
        (Some(_), _) => "unreachable",
        (None, Some(view)) => view.standing.as_str(),
        (None, None) if store.synced_kinds.is_empty() => "never synced",
        (None, None) => "serving",
    };
    let _ = writeln!(
        out,
        "{:width$}  {state:12}  {:>8}  {:>8}  {:>9}  {:>8}  {}",
        store.store,
        store.age_seconds.map_or("-".to_owned(), age),
        view.and_then(|v| v.lag_ms)
            .map_or("-".to_owned(), |ms| format!("{ms} ms")),
        number(store.contexts),
        number(store.tenants),
        store.position.as_deref().unwrap_or("-"),
    );
    let why = store
        .unreachable
        .as_ref()
        .or(view.and_then(|v| v.failure.as_ref()))
        .or(view.and_then(|v| v.behind.as_ref()));
    if let Some(why) = why {
        let _ = writeln!(out, "{:width$}    {why}", "");
    } else if store.store.contains(" dynamodb://") {
        let caches = "what is durable here at T is in every cache by T + 10 s (refresh_seconds of its readers)";
        let _ = writeln!(out, "{:width$}    {caches}", "");
    }
}
