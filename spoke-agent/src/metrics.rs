//! All metrics of the agent: their names, what they mean, and the text that `/metrics` answers. Nothing else spells a name.
//!
//! Names are `hubcast_agent_WHAT_UNIT`, in seconds and bytes, with `_total` where it only counts up. Every one has the label
//! `region`; others are words of this program and the names of policies; never a tenant, a kind or a key.

use axum::http::StatusCode;
use hubcast_tls::reload::Certificate;
use metrics::{Counter, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
        /// Every metric of the agent.
        pub const FAMILIES: &[Family] = &[$(($name, Sort::$sort, $help),)*];
    };
}

families! {
    /// The release, as a label.
    BUILD_INFO Gauge "hubcast_agent_build_info"
        "Always 1; the label version is the release of this agent. Two releases for long: an upgrade stopped halfway.";
    /// When the process began.
    STARTED Gauge "process_start_time_seconds"
        "When this process began, in seconds since 1970. Changes at every restart.";
    /// Its memory.
    RESIDENT Gauge "process_resident_memory_bytes"
        "Memory that this process has from the system: memory_bytes, cache_mib, and what connections need.";
    /// Whether the store is ready, 1 or 0.
    READY Gauge "hubcast_agent_ready"
        "1 if the store was in step once, so that gateways get answers. 0: they get 503; it is new, emptied or was damaged.";
    /// Whether the rows of the file are checked.
    CHECKED Gauge "hubcast_agent_checked"
        "1 once the file was checked after the start. Before, the agent says what is there, but never that a key does not \
         exist.";
    /// Seconds since the moment up to which every change at the hub is here; absent while that is not known.
    AGE Gauge "hubcast_agent_age_seconds"
        "Seconds since the moment up to which every change at the hub is here; about 2 at rest, grows while the hub is away. \
         Not there: unknown.";
    /// The writer's epoch that the store obeys.
    GRANTED_EPOCH Gauge "hubcast_agent_granted_epoch"
        "Epoch of the writer that the store obeys. Differs between agents for long: one of them obeys another hub.";
    /// The epoch of the store's position.
    POSITION_EPOCH Gauge "hubcast_agent_position_epoch"
        "Epoch of the store's position. Below granted_epoch: no scan of the present writer ended here yet.";
    /// Contexts in the store.
    CONTEXTS Gauge "hubcast_agent_contexts"
        "Contexts in the store. The agents of a region have the same number at rest.";
    /// Bundles in the store, one per tenant.
    BUNDLES Gauge "hubcast_agent_bundles"
        "Bundles in the store, one for each tenant.";
    /// Bytes of the store file.
    FILE_BYTES Gauge "hubcast_agent_file_bytes"
        "Bytes of the store file. Some times the contexts; does not shrink by itself.";
    /// Bytes that are free where the store file is.
    DISK_FREE Gauge "hubcast_agent_disk_free_bytes"
        "Bytes that this agent can still write on the volume of the store file. At 0 pushes are refused; reads go on.";
    /// Bytes of that volume.
    DISK_SIZE Gauge "hubcast_agent_disk_size_bytes"
        "Bytes of the volume of the store file.";
    /// Bytes of contexts in memory.
    MEMORY_BYTES Gauge "hubcast_agent_memory_bytes"
        "Bytes of the contexts in memory. Bounded by memory_mib; beyond, reads go to the file.";
    /// Whether all contexts are in memory.
    MEMORY_WHOLE Gauge "hubcast_agent_memory_whole"
        "1 if all contexts are in memory. 0: not filled yet, or memory_mib is less than they need; reads are slower.";
    /// Requests of readers, by `route` and `status`.
    REQUESTS Counter "hubcast_agent_requests_total"
        "Requests of readers, by route and status. 503: the store could not say; gateways must not take that for a refusal.";
    /// Decisions of policies, by `policy` and `outcome`: allowed, or the error that was answered.
    AUTHORIZED Counter "hubcast_agent_authorized_total"
        "Decisions, by policy and outcome: allowed, or the error that was answered.";
    /// Pushes, by `outcome`: committed, differs, refused, failed.
    PUSHES Counter "hubcast_agent_pushes_total"
        "Pushes, by outcome: committed, differs (a delta for something else than is here; all of the tenant follows), refused \
         (another session or region), failed (the disk).";
    /// Bundles of pushes, by `verdict`: applied, already_there, key_taken, invalid.
    BUNDLES_PUSHED Counter "hubcast_agent_bundles_pushed_total"
        "Bundles of pushes, by verdict: applied, already_there, key_taken, invalid.";
    /// Seconds that a commit took until it was durable.
    COMMIT_SECONDS Histogram "hubcast_agent_commit_seconds"
        "From the begin of a commit until it is durable: a sync of the disk, and beside it what brings the commit to the memory. \
         Tens of milliseconds: a slow disk.";
    /// Seconds that it took to make the store file durable.
    SETTLE_SECONDS Histogram "hubcast_agent_settle_seconds"
        "How long it took to make the store file itself durable, once pushes pause. Pushes wait meanwhile.";
    /// Watchers that are connected.
    WATCHERS Gauge "hubcast_agent_watchers"
        "Watchers that are connected, followers included. At most 4096.";
    /// Watchers that were dropped because they did not read.
    WATCHERS_DROPPED Counter "hubcast_agent_watchers_dropped_total"
        "Watchers that were dropped because they did not read for 10 s. They connect again and are told what they missed.";
    /// Seconds from a push until it is told to watchers.
    WATCH_SECONDS Histogram "hubcast_agent_watch_lag_seconds"
        "From the commit of a push until what it changed is handed to all watchers. Each may still be slow to read.";
    /// Passes of the scrub.
    SCRUBS Counter "hubcast_agent_scrub_passes_total"
        "Times that all records of the file were compared with their hashes. About one an hour where pushes leave time.";
    /// Records that the scrub looked at.
    SCRUBBED Counter "hubcast_agent_scrub_records_total"
        "Records that were compared with their hashes.";
    /// What audits found, by `finding`.
    DAMAGE Counter "hubcast_agent_damaged_records_total"
        "Records that were found damaged, by finding. They are not answered, and the hub's next scan brings them again. Look \
         at the disk.";
    /// Keys of a table that are cached.
    CACHED Gauge "hubcast_agent_cached_contexts"
        "Keys of the table that are cached, absent ones included. Only an agent that answers from a table has it.";
    /// Bytes that they take.
    CACHE_BYTES Gauge "hubcast_agent_cache_bytes"
        "Bytes that the cache of the table takes. Bounded by memory_mib. Only an agent that answers from a table has it.";
    /// Keys that were read from the table, by `reason`: fill, refresh.
    TABLE_READS Counter "hubcast_agent_table_reads_total"
        "Keys that were read from the table, by reason: fill (somebody waits), refresh (behind the answer).";
    /// Read units that the table counted.
    READ_UNITS Counter "hubcast_agent_table_read_units_total"
        "Read units that DynamoDB charged this agent for, since it began.";
    /// When the certificate of a listener expires, by `certificate`: push, read.
    CERTIFICATE_EXPIRES Gauge "hubcast_agent_certificate_expires_timestamp_seconds"
        "When the certificate of a listener (push, read) expires, in seconds since 1970; 0 if none can be used. Then the \
         hub can push no longer; reads go on. Only with TLS.";
    /// Whether new files of a certificate cannot be used, by `certificate`.
    CERTIFICATE_STUCK Gauge "hubcast_agent_certificate_stuck"
        "1 if the files of a listener's certificate cannot be used; the last one that could stays. The log says why. Only \
         with TLS.";
    /// Handshakes that were refused, by `listener` and `reason`.
    HANDSHAKES_REFUSED Counter "hubcast_agent_tls_refused_total"
        "Connections that were refused before any request, by listener and reason, such as expired or no_certificate. Only \
         with TLS.";
    /// Failures of the file.
    FAILURES Counter "hubcast_agent_store_failures_total"
        "Times that the store file could not be read or written. The file is opened again; the log says why.";
}

/// Those that only an agent has which answers from a table.
pub const OF_TABLES: [&str; 4] = [CACHED, CACHE_BYTES, TABLE_READS, READ_UNITS];

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

const BOUNDS: [f64; 11] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// How long a gauge is shown that nobody sets any more. Every scrape sets those that hold.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

/// What audits find.
const FINDINGS: [&str; 11] = [
    "blind_entry_missing",
    "blind_entry_without_cause",
    "head_disagrees_with_records",
    "head_unreadable",
    "owner_without_record",
    "record_disagrees_with_its_hash",
    "record_of_another_owner",
    "record_unreadable",
    "record_without_head",
    "record_without_owner",
    "store_emptied",
];

static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
static BEGAN: OnceLock<f64> = OnceLock::new();
static CERTIFICATES: Mutex<Vec<Weak<Certificate>>> = Mutex::new(Vec::new());

/// Starts counting in this process, once; every call returns the same counts, with the region of the first.
///
/// # Errors
/// If another recorder was installed by the program that embeds the agent.
pub fn install(region: &str) -> Result<PrometheusHandle, BuildError> {
    let mut handle = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*handle {
        return Ok(handle.clone());
    }
    let fresh = PrometheusBuilder::new()
        .set_buckets(&BOUNDS)?
        .idle_timeout(MetricKindMask::GAUGE, Some(FORGOTTEN_AFTER))
        .add_global_label("region", region)
        .install_recorder()?;
    *handle = Some(fresh.clone());
    drop(handle);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    BEGAN.get_or_init(|| since.map_or(0.0, |since| since.as_secs_f64()));
    for (name, sort, help) in FAMILIES {
        match sort {
            Sort::Gauge => metrics::describe_gauge!(*name, *help),
            Sort::Counter => metrics::describe_counter!(*name, *help),
            Sort::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
    Ok(fresh)
}

/// Counts of an agent with a store that are there from the begin, at 0: a count that is born with its first event looks to
/// Prometheus as if nothing had happened.
pub fn begin_store() {
    for name in [WATCHERS_DROPPED, SCRUBS, SCRUBBED, FAILURES] {
        metrics::counter!(name).increment(0);
    }
    for outcome in ["committed", "differs", "refused", "failed"] {
        metrics::counter!(PUSHES, "outcome" => outcome).increment(0);
    }
    for verdict in ["applied", "already_there", "key_taken", "invalid"] {
        metrics::counter!(BUNDLES_PUSHED, "verdict" => verdict).increment(0);
    }
    for finding in FINDINGS {
        metrics::counter!(DAMAGE, "finding" => finding).increment(0);
    }
}

/// Sets what is of an agent with a store: its process, and the volume of its file.
pub fn set_system(file: &Path) {
    set_process();
    if let Ok(volume) = rustix::fs::statvfs(file) {
        gauge!(DISK_FREE).set(volume.f_bavail as f64 * volume.f_frsize as f64);
        gauge!(DISK_SIZE).set(volume.f_blocks as f64 * volume.f_frsize as f64);
    }
}

/// From now on a certificate is shown, as long as somebody uses it.
pub fn watch(certificate: Option<Arc<Certificate>>) {
    let mut all = CERTIFICATES.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|one| one.strong_count() > 0);
    all.extend(certificate.as_ref().map(Arc::downgrade));
}

fn set_certificates() {
    let all = CERTIFICATES.lock().unwrap_or_else(PoisonError::into_inner);
    for one in all.iter().filter_map(Weak::upgrade) {
        let stuck = f64::from(u8::from(one.is_stuck()));
        gauge!(CERTIFICATE_EXPIRES, "certificate" => one.name.clone()).set(one.ends() as f64);
        gauge!(CERTIFICATE_STUCK, "certificate" => one.name.clone()).set(stuck);
    }
}

/// Sets what is of every agent: its release, its process and its certificates.
pub fn set_process() {
    set_certificates();
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!(STARTED).set(BEGAN.get().copied().unwrap_or_default());
    if let Some(bytes) = resident_bytes() {
        gauge!(RESIDENT).set(bytes);
    }
}

/// Memory from the system, where the system says so.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
