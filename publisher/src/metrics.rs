//! All metrics of the publisher: their names, what they mean, and where `/metrics` takes the gauges from. Nothing else
//! spells a name.
//!
//! Names are `hubcast_publisher_WHAT_UNIT`, in seconds and bytes, with `_total` where it only counts up. Labels are a store's
//! `region` and `store` (its address), and words of this program; never a tenant, a kind or a key, of which there is no end.
//!
//! Counters and histograms are counted where something happens. Gauges are taken from the writer's view at each scrape, so
//! that a publisher which is not the writer, or is no more, has none that speak of stores.

mod scrape;

use crate::writer::{DeltaOutcome, StoreSpec};
use contexts::name::Region;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
pub use scrape::{database_answered, database_failed, render, watch};
use std::time::Duration;

/// The sort of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Goes up and down.
    Gauge,
    /// Only goes up.
    Counter,
    /// Counts how long something took.
    Histogram,
}

/// A metric: its name, its sort, and the text that Prometheus shows beside it.
pub type Family = (&'static str, Sort, &'static str);

macro_rules! families {
    ($($(#[$doc:meta])* $constant:ident $sort:ident $name:literal $help:literal;)*) => {
        $($(#[$doc])* pub const $constant: &str = $name;)*
        /// Every metric of the publisher.
        pub const FAMILIES: &[Family] = &[$(($name, Sort::$sort, $help),)*];
    };
}

families! {
    /// The release, as a label.
    BUILD_INFO Gauge "hubcast_publisher_build_info"
        "Always 1; the label version is the release of this publisher. Two releases for long: an upgrade stopped halfway.";
    /// When the process began.
    STARTED Gauge "process_start_time_seconds"
        "When this process began, in seconds since 1970. Changes at every restart.";
    /// Its memory.
    RESIDENT Gauge "process_resident_memory_bytes"
        "Memory that this process has from the system. Grows with tenants that wait and with queues of stores, both bounded.";
    /// Whether the database answers.
    DATABASE_UP Gauge "hubcast_publisher_database_up"
        "1 if the database answered the last time. 0: nothing is published; regions go on with what they have.";
    /// Whether this is the writer.
    IS_WRITER Gauge "hubcast_publisher_is_writer"
        "1 on the publisher that has the lease and writes to the stores. Over all publishers the sum is 1, but for moments.";
    /// Whether the writer cannot renew its lease.
    IS_SUSPENDED Gauge "hubcast_publisher_is_suspended"
        "1 if the writer could not renew its lease for 3 s and sends nothing until it can. Only the writer has it.";
    /// The epoch of the writer's term.
    EPOCH Gauge "hubcast_publisher_epoch"
        "Epoch of the writer's term. Rises whenever the writer changes; often: publishers take the lease from one another.";
    /// Per store: whether it obeys this writer.
    STORE_UP Gauge "hubcast_publisher_store_up"
        "1 if the store takes what this writer sends. 0: it gets older; store_failure says why.";
    /// Per store and reason: whether that is why it is not up.
    STORE_FAILURE Gauge "hubcast_publisher_store_failure"
        "1 for the reason why the store is not up: unreachable, refused (token, region), busy (passes in seconds), fenced \
         (another database wrote there).";
    /// Per store: whether it needs a scan.
    STORE_BEHIND Gauge "hubcast_publisher_store_behind"
        "1 if the store may miss changes that nobody remembers one by one and waits for a scan. Normal for moments after a \
         start.";
    /// Per store: seconds since the last *synced*.
    STORE_SYNCED_SECONDS Gauge "hubcast_publisher_store_since_synced_seconds"
        "Seconds since a scan of this writer found the store in step. At most the interval of hub.scan and the time of a scan.";
    /// Per store: bytes that wait.
    QUEUE_BYTES Gauge "hubcast_publisher_store_queue_bytes"
        "Bytes that wait for the store. Bounded; near 0 at rest. Stays high: the store or the way to it is slow.";
    /// Per store: pushes answered.
    PUSHES Counter "hubcast_publisher_store_pushes_total"
        "Pushes that the store answered. A push has many bundles, or none but a beat.";
    /// Per store: bundles acknowledged.
    BUNDLES Counter "hubcast_publisher_store_bundles_acked_total"
        "Bundles that the store has on disk, one for each change of a tenant.";
    /// Per store and reason: bundles refused.
    REFUSED Counter "hubcast_publisher_store_bundles_refused_total"
        "Bundles that the store did not take: key_taken (moves of keys settle by themselves) or invalid (it does not).";
    /// Per store and outcome: deltas sent.
    DELTAS Counter "hubcast_publisher_store_deltas_total"
        "Changes of very large tenants that were sent as what differs, by outcome: taken, differs (the store had something else \
         than it confirmed) or unknown (it knows no deltas); then all of the tenant went.";
    /// Per store: seconds from sending a push to its answer.
    PUSH_SECONDS Histogram "hubcast_publisher_store_push_seconds"
        "From sending a push until the store has it on disk: the network and the disk there.";
    /// Per store: seconds from the commit of a beat at the hub until it is durable there.
    LAG_SECONDS Histogram "hubcast_publisher_store_lag_seconds"
        "From a commit at the hub until it is durable in the store, by a row that is changed every 2 s. What a change takes.";
    /// Per store: tenants that scans found to differ and repaired.
    REPAIRED Counter "hubcast_publisher_store_repaired_tenants_total"
        "Tenants that a scan found to differ in the store and repaired. Rises at rest: changes are missed, or a disk rots.";
    /// Tenants that wait to be built or are being built.
    DIRTY Gauge "hubcast_publisher_dirty_tenants"
        "Tenants that wait to be built or are being built. High after bulk changes; has to fall again.";
    /// Tenants that are tried again.
    RETRYING Gauge "hubcast_publisher_retrying_tenants"
        "Tenants that cannot be built at present, such as by a failing query, and are tried again. status names them.";
    /// Tenants of which something is held because of their data.
    HELD_TENANTS Gauge "hubcast_publisher_held_tenants"
        "Tenants of which something is held: stores keep its last good value. Somebody has to mend the data or the query. \
         What is paused and what the guard holds, budgets included, is counted elsewhere.";
    /// Contexts whose removal the guard holds.
    HELD_REMOVALS Gauge "hubcast_publisher_held_removals"
        "Contexts, in each region, whose removal the guard holds until somebody approves or drops it. Their keys go on working.";
    /// Since when.
    HELD_REMOVALS_SECONDS Gauge "hubcast_publisher_held_removals_oldest_seconds"
        "Seconds since the oldest of held_removals was held; 0 without one.";
    /// Contexts whose change the guard holds.
    HELD_CHANGES Gauge "hubcast_publisher_held_changes"
        "Contexts, in each region, whose new value the guard holds until somebody approves or drops it. They keep the old one.";
    /// Since when.
    HELD_CHANGES_SECONDS Gauge "hubcast_publisher_held_changes_oldest_seconds"
        "Seconds since the oldest of held_changes was held; 0 without one.";
    /// New contexts that are beyond a budget.
    HELD_BEYOND Gauge "hubcast_publisher_held_beyond_budget"
        "New contexts, in each region, that are not let in, since their tenant has more than max_contexts of the kind.";
    /// Contexts that a person keeps.
    KEPT Gauge "hubcast_publisher_kept"
        "Contexts, in each region, that stores keep since somebody dropped their removal or change: held shows them.";
    /// Tenants near a budget or over it.
    BUDGET_TENANTS Gauge "hubcast_publisher_tenants_near_budget"
        "Tenants with more than warn_contexts of a kind, those with more than max_contexts among them. status names them.";
    /// Tenants over one.
    OVER_BUDGET Gauge "hubcast_publisher_tenants_over_budget"
        "Tenants with more than max_contexts of a kind at the hub: what is new is held. status names them.";
    /// Pauses.
    PAUSES Gauge "hubcast_publisher_pauses"
        "Pauses that are in force. What is paused keeps its values, and only removals leave.";
    /// Since when.
    PAUSED_SECONDS Gauge "hubcast_publisher_pauses_oldest_seconds"
        "Seconds since the oldest pause began; 0 without one.";
    /// Keys that two tenants have.
    CLASHES Gauge "hubcast_publisher_clashing_keys"
        "Keys that two tenants have at once; the second one's is held.";
    /// Builds that failed as a whole.
    BUILD_FAILURES Counter "hubcast_publisher_build_failures_total"
        "Builds that failed as a whole and are repeated. Rises while the database is away.";
    /// Whether changes may be missed.
    CAPTURE_GAP Gauge "hubcast_publisher_capture_gap"
        "1 if the change triggers cannot be relied on: changes may wait for the next scan. status says which table.";
    /// Changes that are not everywhere.
    UNACKED Gauge "hubcast_publisher_outbox_unacked_changes"
        "Rows of the outbox that were seen and are not in every store yet. A store that is away is no longer waited for \
         after 10 s.";
    /// Whether a scan runs.
    SCAN_RUNNING Gauge "hubcast_publisher_scan_running"
        "1 while a scan runs.";
    /// How far the scan is.
    SCAN_PROGRESS Gauge "hubcast_publisher_scan_progress_ratio"
        "How far the running scan is, from 0 to 1. Only there while one runs.";
    /// Seconds since everything was compared.
    SCANNED_SECONDS Gauge "hubcast_publisher_since_scan_seconds"
        "Seconds since the last scan that read everything at the hub ended (or this term began). Over hub.scan: nothing heals.";
    /// Scans by outcome.
    SCANS Counter "hubcast_publisher_scans_total"
        "Scans that ended: clean, or trouble (a store not in step, something held, a problem at the hub).";
    /// Seconds that the last scan took.
    SCAN_SECONDS Gauge "hubcast_publisher_last_scan_duration_seconds"
        "How long the last scan of this writer took.";
    /// What the last scan found wrong at the hub.
    SCAN_PROBLEMS Gauge "hubcast_publisher_last_scan_problems"
        "Problems at the hub that the last scan of this writer found, such as a kind whose query fails. status names them.";
    /// Causes whose removals or changes reached the limit, by `outcome`.
    GUARDED Counter "hubcast_publisher_guarded_total"
        "Times that the limit of the guard was reached, by outcome: held (removals or changes), or passed (removals) since \
         they were few.";
    /// Per table and op: units that the service charged for.
    TABLE_UNITS Counter "hubcast_publisher_store_units_total"
        "Units that DynamoDB charged for the table since this process began, by op (read, write), and for \
         changes, scans or whatever else. Only tables have it.";
    /// When a certificate of the publisher expires, by `certificate`: the key of the configuration.
    CERTIFICATE_EXPIRES Gauge "hubcast_publisher_certificate_expires_timestamp_seconds"
        "When a certificate of the publisher expires, in seconds since 1970; 0 if none can be used. Then agents take nothing, \
         or nobody comes to the API. Only with TLS.";
    /// Whether new files of a certificate cannot be used.
    CERTIFICATE_STUCK Gauge "hubcast_publisher_certificate_stuck"
        "1 if the files of a certificate cannot be used; the last one that could stays. The log says why. Only with TLS.";
    /// Handshakes that the API refused, by `listener` and `reason`.
    HANDSHAKES_REFUSED Counter "hubcast_publisher_tls_refused_total"
        "Connections to the API that were refused before any request, by listener and reason. Only with TLS.";
    /// Requests of other commands and of the API.
    REQUESTS Counter "hubcast_publisher_requests_total"
        "Requests of commands and of the API that the writer took: republish, scan, visible, recall (of a pause).";
}

/// How long a gauge is shown that nobody sets any more. Every scrape sets those that hold.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

const BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Installs the recorder and describes every metric.
///
/// # Errors
/// If a recorder is there already.
pub fn install() -> Result<PrometheusHandle, String> {
    let builder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .map_err(|e| e.to_string())?
        .idle_timeout(MetricKindMask::GAUGE, Some(FORGOTTEN_AFTER));
    let handle = builder
        .install_recorder()
        .map_err(|e| format!("the metrics cannot be set up: {e}"))?;
    for (name, sort, help) in FAMILIES {
        match sort {
            Sort::Gauge => metrics::describe_gauge!(*name, *help),
            Sort::Counter => metrics::describe_counter!(*name, *help),
            Sort::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
    scrape::begin();
    Ok(handle)
}

/// The labels of a store.
pub type StoreLabels = [(&'static str, String); 2];

/// The labels of a store that messages call by region and address.
pub fn labels(region: &Region, name: &str) -> StoreLabels {
    let address = name
        .strip_prefix(region.as_str())
        .map_or(name, str::trim_start);
    [
        ("region", region.as_str().to_owned()),
        ("store", address.to_owned()),
    ]
}

/// Those labels and one more.
pub fn with(labels: &StoreLabels, name: &'static str, value: &str) -> [(&'static str, String); 3] {
    let [region, store] = labels.clone();
    [region, store, (name, value.to_owned())]
}

/// Counts that are there from the begin of a term, at 0: a count that is born with its first event looks to Prometheus as
/// if nothing had happened.
pub fn begin_term<'a>(stores: impl Iterator<Item = &'a StoreSpec>) {
    for spec in stores {
        let labels = labels(&spec.region, &spec.name);
        for name in [PUSHES, BUNDLES, REPAIRED] {
            metrics::counter!(name, &labels).increment(0);
        }
        for reason in ["key_taken", "invalid"] {
            metrics::counter!(REFUSED, &with(&labels, "reason", reason)).increment(0);
        }
        for outcome in DeltaOutcome::ALL {
            metrics::counter!(DELTAS, &with(&labels, "outcome", outcome.word())).increment(0);
        }
    }
    for outcome in ["clean", "trouble"] {
        metrics::counter!(SCANS, "outcome" => outcome).increment(0);
    }
    for kind in ["republish", "scan", "visible", "recall"] {
        metrics::counter!(REQUESTS, "request" => kind).increment(0);
    }
    for outcome in ["held", "passed"] {
        metrics::counter!(GUARDED, "outcome" => outcome).increment(0);
    }
    metrics::counter!(BUILD_FAILURES).increment(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_its_address() {
        let region = Region::new("eu-west-1").expect("a region");
        let [(_, of), (_, store)] = labels(&region, "eu-west-1 http://10.0.0.7:7511");
        assert_eq!(
            (of.as_str(), store.as_str()),
            ("eu-west-1", "http://10.0.0.7:7511")
        );
    }
}
