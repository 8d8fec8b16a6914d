//! The names of all metrics, and what they mean. Nothing else spells them.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// 1 on the publisher that is the writer.
pub const IS_WRITER: &str = "hubcast_is_writer";
/// The epoch of the writer's term.
pub const EPOCH: &str = "hubcast_writer_epoch";
/// Per store: 1 if it obeys this writer.
pub const STORE_UP: &str = "hubcast_store_up";
/// Per store: 1 if it needs a scan.
pub const STORE_BEHIND: &str = "hubcast_store_behind";
/// Per store: seconds since the last *synced*.
pub const STORE_SYNCED_SECONDS: &str = "hubcast_store_seconds_since_synced";
/// Per store: bytes that wait.
pub const QUEUE_BYTES: &str = "hubcast_store_queue_bytes";
/// Per store: pushes answered.
pub const PUSHES: &str = "hubcast_pushes_total";
/// Per store: bundles acknowledged.
pub const BUNDLES: &str = "hubcast_bundles_acked_total";
/// Per store: seconds from sending a push to its answer.
pub const PUSH_SECONDS: &str = "hubcast_push_seconds";
/// Per store and reason: bundles refused.
pub const REFUSED: &str = "hubcast_bundles_refused_total";
/// Tenants that wait to be built or are being built.
pub const DIRTY: &str = "hubcast_dirty_tenants";
/// Builds that failed as a whole.
pub const BUILD_FAILURES: &str = "hubcast_build_failures_total";
/// Tenants of which something is held.
pub const HELD_TENANTS: &str = "hubcast_held_tenants";
/// Causes whose removals reached the limit.
pub const GUARDED: &str = "hubcast_guarded_total";
/// Scans by outcome.
pub const SCANS: &str = "hubcast_scans_total";
/// Seconds that the last scan took.
pub const SCAN_SECONDS: &str = "hubcast_scan_seconds";
/// Tenants that scans found to differ and repaired.
pub const REPAIRED: &str = "hubcast_scan_repaired_tenants_total";
/// Requests of other commands and of the API.
pub const REQUESTS: &str = "hubcast_requests_total";

/// Per store: seconds from the commit of a beat at the hub until it is durable there.
pub const LAG_SECONDS: &str = "hubcast_store_lag_seconds";

/// Per table: units that the service charged for, by `op` read or write.
pub const TABLE_UNITS: &str = "hubcast_table_units_total";

/// Installs the recorder and describes every metric.
///
/// # Errors
/// If a recorder is there already.
pub fn install() -> Result<PrometheusHandle, String> {
    let buckets = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ];
    let builder = PrometheusBuilder::new()
        .set_buckets(&buckets)
        .map_err(|e| e.to_string())?;
    let handle = builder
        .install_recorder()
        .map_err(|e| format!("the metrics cannot be set up: {e}"))?;
    describe_gauge!(IS_WRITER, "1 on the publisher that is the writer");
    describe_gauge!(EPOCH, "epoch of the writer's term");
    describe_gauge!(STORE_UP, "1 if the store obeys this writer");
    describe_gauge!(STORE_BEHIND, "1 if the store needs a scan");
    describe_gauge!(
        STORE_SYNCED_SECONDS,
        Unit::Seconds,
        "seconds since the store was last found in step"
    );
    describe_gauge!(QUEUE_BYTES, Unit::Bytes, "bytes that wait for the store");
    describe_counter!(PUSHES, "pushes that the store answered");
    describe_counter!(BUNDLES, "bundles that the store acknowledged as durable");
    describe_histogram!(
        PUSH_SECONDS,
        Unit::Seconds,
        "from sending a push to its durable acknowledgement"
    );
    describe_counter!(REFUSED, "bundles that the store refused, by reason");
    describe_gauge!(DIRTY, "tenants that wait to be built or are being built");
    describe_counter!(BUILD_FAILURES, "builds that failed as a whole");
    describe_counter!(
        GUARDED,
        "causes whose removals reached the limit of the guard"
    );
    describe_gauge!(HELD_TENANTS, "tenants of which something is held");
    describe_counter!(SCANS, "scans, by outcome");
    describe_gauge!(SCAN_SECONDS, Unit::Seconds, "how long the last scan took");
    describe_counter!(REPAIRED, "tenants that a scan found to differ and repaired");
    describe_counter!(
        REQUESTS,
        "requests of other commands and of the API, by kind"
    );
    describe_histogram!(
        LAG_SECONDS,
        Unit::Seconds,
        "from a commit at the hub until it is durable in the store, measured by a beat"
    );
    describe_counter!(
        TABLE_UNITS,
        "read and write units that the service charged for the table since the start"
    );
    Ok(handle)
}
