//! What the engine shows of itself: a small copy of the writer's state, made after every step.

use super::reports::{Refusal, Reporter};
use crate::source::stopped::Stopped;
use crate::writer::{HeldReport, Millis, Usage, Writer};
use contexts::name::{Region, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// One store as the writer sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreView {
    /// Region and address.
    pub store: String,
    /// Its region.
    pub region: Region,
    /// One word: in step, behind, connecting, busy, unreachable, refused, fenced.
    pub standing: String,
    /// Why it needs a scan, if it does.
    pub behind: Option<String>,
    /// Why it cannot be used, if it cannot.
    pub failure: Option<String>,
    /// Whether it takes what this writer sends.
    #[serde(default)]
    pub up: bool,
    /// Bundles that wait for it.
    pub queued: usize,
    /// Their bytes.
    #[serde(default)]
    pub queued_bytes: usize,
    /// Bundles that it acknowledged in this term.
    pub acked: u64,
    /// Milliseconds of the last push.
    pub last_push_ms: Option<Millis>,
    /// Milliseconds that the last beat took from its commit until it was durable there.
    #[serde(default)]
    pub lag_ms: Option<Millis>,
    /// Seconds since it was last found in step, in this term.
    pub synced_seconds_ago: Option<f64>,
}

/// The scan that is running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanView {
    /// Its number within the term.
    pub id: u64,
    /// Why it runs.
    pub cause: String,
    /// From 0 to 1.
    pub progress: f64,
    /// Contexts read so far.
    pub contexts: u64,
    /// Ranges in all, and read.
    pub ranges: (usize, usize),
}

/// The writer as it sees itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineView {
    /// The epoch of its term.
    pub epoch: u64,
    /// Whether it cannot renew its lease and sends nothing.
    pub suspended: bool,
    /// Tenants that wait to be built or are being built.
    pub dirty: usize,
    /// Why the change triggers cannot be relied on, if they cannot.
    #[serde(default)]
    pub capture_gap: Option<String>,
    /// Changes that were seen and are not everywhere yet.
    #[serde(default)]
    pub unacked: usize,
    /// Tenants that cannot be built at present and are tried again.
    #[serde(default)]
    pub retrying: usize,
    /// Keys that two tenants have.
    pub clashes: usize,
    /// The stores.
    pub stores: Vec<StoreView>,
    /// The scan that is running.
    pub scan: Option<ScanView>,
    /// Seconds since the last scan that read everything at the hub, or since the term began where none is recorded.
    #[serde(default)]
    pub scanned_seconds_ago: f64,
    /// Seconds that the last scan of this term took, and the problems that it found at the hub.
    #[serde(default)]
    pub last_scan: Option<(f64, usize)>,
    /// Tenants of which something is held; the first hundred.
    pub held: BTreeMap<TenantId, Vec<HeldReport>>,
    /// How many tenants that are.
    pub held_tenants: usize,
    /// How many of them because of their data, and not because somebody or the guard wants it so.
    #[serde(default)]
    pub held_by_data: usize,
    /// Tenants that are near a budget or over it; the first hundred.
    #[serde(default)]
    pub budgets: BTreeMap<TenantId, Vec<Usage>>,
    /// How many tenants that are.
    #[serde(default)]
    pub budget_tenants: usize,
    /// How many of them are over one.
    #[serde(default)]
    pub over_budget: usize,
    /// What is paused, and what the guard holds, as the database said last.
    #[serde(default)]
    pub stopped: Option<Stopped>,
    /// Bundles that stores refused.
    pub refusals: VecDeque<Refusal>,
}

/// Tenants that are shown, of those of which something is held, and of those near a budget.
const HELD_SHOWN: usize = 100;

impl EngineView {
    pub(super) fn of(writer: &Writer, now: Millis, reporter: &Reporter) -> Self {
        let store = |store: &crate::writer::Store| StoreView {
            store: store.spec.name.clone(),
            region: store.spec.region.clone(),
            standing: store.standing().to_owned(),
            behind: store.behind.as_ref().map(|b| b.why.clone()),
            lag_ms: store.lag,
            failure: store.failure.as_ref().map(|f| f.why.clone()),
            up: store.session().is_some(),
            queued: store.queue.len(),
            queued_bytes: store.queue.bytes(),
            acked: store.acked,
            last_push_ms: store.last_push_ms,
            synced_seconds_ago: store
                .synced_at
                .map(|at| now.saturating_sub(at) as f64 / 1000.0),
        };
        Self {
            epoch: writer.term().epoch,
            suspended: writer.is_suspended(),
            dirty: writer.dirty(),
            capture_gap: writer.capture_gap().map(ToOwned::to_owned),
            unacked: writer.unacked().0,
            retrying: writer.unacked().1,
            clashes: writer.clashes(),
            stores: writer.stores().map(|(_, s)| store(s)).collect(),
            scan: writer.scan().map(|s| ScanView {
                id: s.id.0,
                cause: s.cause.clone(),
                progress: s.progress(),
                contexts: s.contexts,
                ranges: s.ranges,
            }),
            scanned_seconds_ago: reporter.scanned_seconds_ago(),
            last_scan: reporter.last_scan(),
            held: writer
                .held()
                .iter()
                .take(HELD_SHOWN)
                .map(|(t, h)| (t.clone(), h.clone()))
                .collect(),
            held_tenants: writer.held().len(),
            held_by_data: writer.held_by_data(),
            budgets: writer.budgets().first(HELD_SHOWN),
            budget_tenants: writer.budgets().tenants(),
            over_budget: writer.budgets().over(),
            stopped: reporter.stopped.clone(),
            refusals: reporter.refusals().clone(),
        }
    }
}
