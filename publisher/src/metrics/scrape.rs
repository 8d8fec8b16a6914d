//! What `/metrics` answers: gauges taken at that moment, beside what was counted.

use super as m;
use crate::engine::{EngineView, StoreView};
use hubcast_tls::reload::Certificate;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

static BEGAN: OnceLock<f64> = OnceLock::new();
static DATABASE: AtomicU8 = AtomicU8::new(UNKNOWN);
static CERTIFICATES: Mutex<Vec<Weak<Certificate>>> = Mutex::new(Vec::new());
const UNKNOWN: u8 = 0;
const ANSWERS: u8 = 1;
const FAILS: u8 = 2;

/// The reasons for which a store is not up, as [`StoreView::standing`] has them.
const FAILURES: [&str; 4] = ["unreachable", "refused", "busy", "fenced"];

/// Notes when the process began.
pub(super) fn begin() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    BEGAN.get_or_init(|| since.map_or(0.0, |s| s.as_secs_f64()));
}

/// The database did what it was asked.
pub fn database_answered() {
    DATABASE.store(ANSWERS, Ordering::Relaxed);
}

/// The database did not answer.
pub fn database_failed() {
    DATABASE.store(FAILS, Ordering::Relaxed);
}

/// From now on a certificate is shown, as long as somebody uses it.
pub fn watch(certificate: Option<Arc<Certificate>>) {
    let mut all = CERTIFICATES.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|one| one.strong_count() > 0);
    all.extend(certificate.as_ref().map(Arc::downgrade));
}

fn of_certificates() {
    let all = CERTIFICATES.lock().unwrap_or_else(PoisonError::into_inner);
    for one in all.iter().filter_map(Weak::upgrade) {
        let name = [("certificate", one.name.clone())];
        gauge!(m::CERTIFICATE_EXPIRES, &name).set(one.ends() as f64);
        gauge!(m::CERTIFICATE_STUCK, &name).set(bit(one.is_stuck()));
    }
}

/// All metrics as Prometheus reads them; the view is that of the writer, if this is it.
pub fn render(handle: &PrometheusHandle, view: Option<&EngineView>) -> String {
    gauge!(m::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!(m::STARTED).set(BEGAN.get().copied().unwrap_or_default());
    if let Some(bytes) = resident_bytes() {
        gauge!(m::RESIDENT).set(bytes);
    }
    match DATABASE.load(Ordering::Relaxed) {
        UNKNOWN => {}
        state => gauge!(m::DATABASE_UP).set(bit(state == ANSWERS)),
    }
    of_certificates();
    gauge!(m::IS_WRITER).set(bit(view.is_some()));
    if let Some(view) = view {
        of_writer(view);
    }
    handle.run_upkeep();
    handle.render()
}

fn bit(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn of_writer(view: &EngineView) {
    gauge!(m::EPOCH).set(view.epoch as f64);
    gauge!(m::IS_SUSPENDED).set(bit(view.suspended));
    gauge!(m::DIRTY).set(view.dirty as f64);
    gauge!(m::RETRYING).set(view.retrying as f64);
    gauge!(m::HELD_TENANTS).set(view.held_by_data as f64);
    if let Some(stopped) = &view.stopped {
        gauge!(m::HELD_REMOVALS).set(stopped.removals as f64);
        gauge!(m::HELD_REMOVALS_SECONDS).set(stopped.removals_seconds);
        gauge!(m::HELD_CHANGES).set(stopped.changes as f64);
        gauge!(m::HELD_CHANGES_SECONDS).set(stopped.changes_seconds);
        gauge!(m::HELD_BEYOND).set(stopped.beyond as f64);
        gauge!(m::KEPT).set(stopped.kept as f64);
        gauge!(m::PAUSES).set(stopped.pauses as f64);
        gauge!(m::PAUSED_SECONDS).set(stopped.paused_seconds);
    }
    gauge!(m::BUDGET_TENANTS).set(view.budget_tenants as f64);
    gauge!(m::OVER_BUDGET).set(view.over_budget as f64);
    gauge!(m::CLASHES).set(view.clashes as f64);
    gauge!(m::CAPTURE_GAP).set(bit(view.capture_gap.is_some()));
    gauge!(m::UNACKED).set(view.unacked as f64);
    gauge!(m::SCAN_RUNNING).set(bit(view.scan.is_some()));
    if let Some(scan) = &view.scan {
        gauge!(m::SCAN_PROGRESS).set(scan.progress);
    }
    gauge!(m::SCANNED_SECONDS).set(view.scanned_seconds_ago);
    if let Some((seconds, problems)) = view.last_scan {
        gauge!(m::SCAN_SECONDS).set(seconds);
        gauge!(m::SCAN_PROBLEMS).set(problems as f64);
    }
    view.stores.iter().for_each(of_store);
}

fn of_store(store: &StoreView) {
    let labels = m::labels(&store.region, &store.store);
    gauge!(m::STORE_UP, &labels).set(bit(store.up));
    gauge!(m::STORE_BEHIND, &labels).set(bit(store.behind.is_some()));
    gauge!(m::QUEUE_BYTES, &labels).set(store.queued_bytes as f64);
    for reason in FAILURES {
        let is = store.standing == reason;
        gauge!(m::STORE_FAILURE, &m::with(&labels, "reason", reason)).set(bit(is));
    }
    if let Some(seconds) = store.synced_seconds_ago {
        gauge!(m::STORE_SYNCED_SECONDS, &labels).set(seconds);
    }
}

/// Memory from the system, where the system says so.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
