//! The names of all metrics, and the text that `/metrics` answers.

use axum::http::StatusCode;
use metrics::Counter;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use std::sync::{Mutex, PoisonError};

/// Requests of readers, by `route` and `status`.
pub const REQUESTS: &str = "hubcast_agent_requests_total";
/// Decisions of policies, by `policy` and `outcome`: allowed, or the error that was answered.
pub const AUTHORIZED: &str = "hubcast_agent_authorized_total";
/// Contexts in the store.
pub const CONTEXTS: &str = "hubcast_agent_contexts";
/// Bundles in the store, one per tenant.
pub const BUNDLES: &str = "hubcast_agent_bundles";
/// Seconds since the moment up to which every change at the hub is here; absent while that is not known.
pub const AGE: &str = "hubcast_agent_age_seconds";
/// Bytes of the store file.
pub const FILE_BYTES: &str = "hubcast_agent_file_bytes";
/// Whether the store is ready, 1 or 0.
pub const READY: &str = "hubcast_agent_ready";
/// Pushes, by `outcome`: committed, refused, failed.
pub const PUSHES: &str = "hubcast_agent_pushes_total";
/// Bundles of pushes, by `verdict`: applied, already_there, key_taken, invalid.
pub const BUNDLES_PUSHED: &str = "hubcast_agent_bundles_pushed_total";
/// Seconds that a commit took until it was durable.
pub const COMMIT_SECONDS: &str = "hubcast_agent_commit_seconds";
/// Watchers that were dropped because they did not read.
pub const WATCHERS_DROPPED: &str = "hubcast_agent_watchers_dropped_total";
/// Keys of a table that are cached.
pub const CACHED: &str = "hubcast_agent_cached_contexts";
/// Bytes that they take.
pub const CACHE_BYTES: &str = "hubcast_agent_cache_bytes";
/// Keys that were read from the table, by `why`: fill, refresh.
pub const TABLE_READS: &str = "hubcast_agent_table_reads_total";
/// Read units that the table counted.
pub const READ_UNITS: &str = "hubcast_agent_table_read_units";
/// Findings of the audit at start-up, by `finding`.
pub const REPAIRED: &str = "hubcast_agent_repaired_total";

/// Answers of one route by their status, counted without looking for the counter each time.
pub struct StatusCounts {
    route: &'static str,
    counters: Vec<(StatusCode, Counter)>,
}

impl StatusCounts {
    /// Of this route, which is expected to answer these.
    pub fn of(route: &'static str, statuses: &[StatusCode]) -> Self {
        let counter = |status: &StatusCode| {
            let label = status.as_str().to_owned();
            (
                *status,
                metrics::counter!(REQUESTS, "route" => route, "status" => label),
            )
        };
        let counters = statuses.iter().map(counter).collect();
        Self { route, counters }
    }

    /// Counts one answer.
    pub fn count(&self, status: StatusCode) {
        match self
            .counters
            .iter()
            .find(|(expected, _)| *expected == status)
        {
            Some((_, counter)) => counter.increment(1),
            None => {
                let status = status.as_str().to_owned();
                metrics::counter!(REQUESTS, "route" => self.route, "status" => status).increment(1);
            }
        }
    }
}

const COMMIT_BOUNDS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Starts counting in this process, once; every call returns the same counts.
///
/// # Errors
/// If another recorder was installed by the program that embeds the agent.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let mut handle = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*handle {
        return Ok(handle.clone());
    }
    let fresh = PrometheusBuilder::new()
        .set_buckets(&COMMIT_BOUNDS)?
        .install_recorder()?;
    *handle = Some(fresh.clone());
    drop(handle);
    describe();
    Ok(fresh)
}

fn describe() {
    metrics::describe_counter!(REQUESTS, "Requests of readers, by route and status");
    metrics::describe_counter!(AUTHORIZED, "Decisions, by policy and outcome");
    metrics::describe_gauge!(CONTEXTS, "Contexts in the store");
    metrics::describe_gauge!(BUNDLES, "Bundles in the store, one per tenant");
    metrics::describe_gauge!(
        AGE,
        "Seconds since the moment up to which every change is here"
    );
    metrics::describe_gauge!(FILE_BYTES, "Bytes of the store file");
    metrics::describe_gauge!(READY, "Whether the store is ready");
    metrics::describe_counter!(PUSHES, "Pushes, by outcome");
    metrics::describe_counter!(BUNDLES_PUSHED, "Bundles of pushes, by verdict");
    metrics::describe_histogram!(
        COMMIT_SECONDS,
        "Seconds that a commit took until it was durable"
    );
    metrics::describe_counter!(
        WATCHERS_DROPPED,
        "Watchers that were dropped because they did not read"
    );
    metrics::describe_gauge!(CACHED, "Keys of the table that are cached");
    metrics::describe_gauge!(CACHE_BYTES, "Bytes that they take");
    metrics::describe_counter!(TABLE_READS, "Keys read from the table, by why");
    metrics::describe_gauge!(READ_UNITS, "Read units that the table counted");
    metrics::describe_counter!(
        REPAIRED,
        "What the audit of the store file found and mended"
    );
}
