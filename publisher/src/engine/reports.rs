//! What happened, told to whoever wants to know: logs, metrics, the database and those who asked.

use super::{Asker, Engine};
use crate::ask::{Receipts, Reply};
use crate::metrics as m;
use crate::source::stopped::Stopped;
use crate::spoke::Spoke;
use crate::writer::{
    BudgetNews, DeltaOutcome, Level, Millis, Report, ScanSummary, StoreIx, StoreSpec, StoreSummary,
    UnitsUsed, Writer,
};
use contexts::push::Verdict;
use contexts_dynamodb::units::{Cause, Used};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The same refusal is logged once in this time.
const SAY_AGAIN_AFTER_MS: Millis = 3_600_000;
/// How often, and for how long each time, the writing of a receipt is tried.
const RECEIPT_TRIES: u32 = 5;
const RECEIPT_WITHIN: Duration = Duration::from_secs(2);
/// Refusals that are remembered.
const REFUSALS_MAX: usize = 200;

/// A bundle that a store did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The store.
    pub store: String,
    /// Whose bundle.
    pub tenant: String,
    /// Why.
    pub why: String,
    /// How often.
    pub times: u64,
    #[serde(skip)]
    said_at: Millis,
}

/// Remembers what was said.
#[derive(Debug)]
pub(super) struct Reporter {
    refusals: VecDeque<Refusal>,
    /// How old the last scan that read everything at the hub was at this moment.
    scanned: (Instant, f64),
    last_scan: Option<(f64, usize)>,
    pub(super) stopped: Option<Stopped>,
}

impl Reporter {
    /// Of a term that begins so many seconds after the last scan of an earlier one.
    pub(super) fn new(scanned_seconds_ago: f64) -> Self {
        Self {
            refusals: VecDeque::new(),
            scanned: (Instant::now(), scanned_seconds_ago),
            last_scan: None,
            stopped: None,
        }
    }

    pub(super) fn scanned_seconds_ago(&self) -> f64 {
        self.scanned.1 + self.scanned.0.elapsed().as_secs_f64()
    }

    /// Seconds that the last scan of this term took, and the problems that it found.
    pub(super) fn last_scan(&self) -> Option<(f64, usize)> {
        self.last_scan
    }

    fn scanned(&mut self, summary: &ScanSummary, stores: usize) {
        self.last_scan = Some((summary.ms as f64 / 1000.0, summary.problems.len()));
        // A store is in step only if all ranges were read.
        if summary.stores.len() == stores && summary.stores.iter().any(|s| s.in_step) {
            self.scanned = (Instant::now(), 0.0);
        }
    }

    pub(super) fn refusals(&self) -> &VecDeque<Refusal> {
        &self.refusals
    }

    fn refused(&mut self, spec: &StoreSpec, tenant: &str, verdict: &Verdict, now: Millis) {
        let (reason, why) = match verdict {
            Verdict::KeyTaken { kind, key, owner } => (
                "key_taken",
                format!("{kind} {key:?} belongs to tenant {owner:?} there"),
            ),
            Verdict::Invalid { why } => ("invalid", why.clone()),
            Verdict::Applied | Verdict::AlreadyThere => return,
        };
        let labels = m::labels(&spec.region, &spec.name);
        metrics::counter!(m::REFUSED, &m::with(&labels, "reason", reason)).increment(1);
        let store = spec.name.as_str();
        let same = |r: &&mut Refusal| r.store == store && r.tenant == tenant && r.why == why;
        if let Some(known) = self.refusals.iter_mut().find(same) {
            known.times += 1;
            if now.saturating_sub(known.said_at) < SAY_AGAIN_AFTER_MS {
                return;
            }
            known.said_at = now;
        } else {
            if self.refusals.len() >= REFUSALS_MAX {
                self.refusals.pop_front();
            }
            let (store, tenant) = (store.to_owned(), tenant.to_owned());
            self.refusals.push_back(Refusal {
                store,
                tenant,
                why: why.clone(),
                times: 1,
                said_at: now,
            });
        }
        let [(_, region), (_, address)] = labels;
        tracing::warn!(
            region,
            store = address,
            tenant,
            reason,
            error = why,
            "a store refused a bundle"
        );
    }
}

/// A tenant came near a budget, over it, or has room again: said once each time.
fn budget(news: &BudgetNews) {
    let BudgetNews {
        tenant,
        kind,
        usage,
    } = news;
    match usage {
        Some(usage) => {
            let reason = match usage.level() {
                Level::Over => "over",
                Level::Near | Level::Fine => "near",
            };
            tracing::warn!(tenant = %tenant, kind = %kind, reason, contexts = usage.contexts, error = %usage, "the budget of a tenant");
        }
        None => {
            tracing::info!(tenant = %tenant, kind = %kind, "the budget of a tenant has room again");
        }
    }
}

/// What tables cost.
pub(super) fn units(spokes: &[Arc<Spoke>]) {
    for spoke in spokes {
        let Some(table) = spoke.table() else { continue };
        let labels = m::labels(&spoke.region, &spoke.name());
        for (cause, what_for) in Cause::ALL {
            let used = table.db().units.used_for(cause);
            for (op, units) in [("read", used.read), ("write", used.write)] {
                let [region, store, op] = m::with(&labels, "op", op);
                let labels = [region, store, op, ("for", what_for.to_owned())];
                metrics::counter!(m::TABLE_UNITS, &labels).absolute(units as u64);
            }
        }
    }
}

/// What each store has cost so far; nothing if it is not a table.
pub(super) fn used(spokes: &[Arc<Spoke>]) -> Vec<Used> {
    let used = spokes.iter().map(|spoke| {
        let table = spoke.table();
        table.map_or_else(Used::default, |table| table.db().units.used())
    });
    used.collect()
}

impl Engine<'_> {
    /// Tells everything that happened since the last time.
    pub(super) fn report(&mut self) {
        let now = self.now();
        let spec = |writer: &Writer, ix: StoreIx| writer.store(ix).spec.clone();
        let labels = |writer: &Writer, ix: StoreIx| {
            let spec = &writer.store(ix).spec;
            m::labels(&spec.region, &spec.name)
        };
        while let Some(report) = self.writer.next_report() {
            match report {
                Report::Opened { store } => {
                    let [(_, region), (_, store)] = labels(&self.writer, store);
                    tracing::info!(region, store, "the store obeys this publisher");
                }
                Report::Closed { store, failure } => {
                    let [(_, region), (_, store)] = labels(&self.writer, store);
                    let error = failure.why;
                    tracing::warn!(region, store, error, "the store cannot be used for now");
                }
                Report::Pushed { store, applied, ms } => {
                    let labels = labels(&self.writer, store);
                    let seconds = ms as f64 / 1000.0;
                    metrics::counter!(m::PUSHES, &labels).increment(1);
                    metrics::counter!(m::BUNDLES, &labels).increment(applied as u64);
                    metrics::histogram!(m::PUSH_SECONDS, &labels).record(seconds);
                    let [(_, region), (_, store)] = labels;
                    tracing::debug!(region, store, bundles = applied, seconds, "pushed");
                }
                Report::Delta {
                    store,
                    outcome,
                    count,
                } => {
                    let labels = labels(&self.writer, store);
                    let all = m::with(&labels, "outcome", outcome.word());
                    metrics::counter!(m::DELTAS, &all).increment(count as u64);
                    if outcome != DeltaOutcome::Taken {
                        let [(_, region), (_, store)] = labels;
                        let reason = outcome.word();
                        tracing::info!(
                            region,
                            store,
                            reason,
                            bundles = count,
                            "bundles that were sent as deltas go whole"
                        );
                    }
                }
                Report::Gone { store, gone } => {
                    self.parts.tail.tell(&spec(&self.writer, store), &gone);
                }
                Report::Refused {
                    store,
                    tenant,
                    verdict,
                } => {
                    let spec = spec(&self.writer, store);
                    self.reporter.refused(&spec, tenant.as_str(), &verdict, now);
                }
                Report::Held { tenant, held } => {
                    // What the guard, a budget or a person holds is told once for all of it.
                    for h in held.iter().filter(|h| h.is_of_data()) {
                        let key = h.key.as_ref().map_or("(all keys)", |k| k.as_str());
                        tracing::warn!(tenant = %tenant, kind = %h.kind, key, error = h.why, "held: the last good value stays");
                    }
                    if held.is_empty() {
                        tracing::info!(tenant = %tenant, "nothing is held any more");
                    }
                }
                Report::Guarded(alert) => {
                    let reason = if alert.is_held { "held" } else { "passed" };
                    metrics::counter!(m::GUARDED, "outcome" => reason).increment(1);
                    tracing::warn!(reason, error = alert.line, "the guard");
                }
                Report::Budget(news) => budget(&news),
                Report::BuildFailed { why } => {
                    metrics::counter!(m::BUILD_FAILURES).increment(1);
                    tracing::warn!(error = why, "a build failed and is repeated");
                }
                Report::ScanEnded(summary) => self.scan_ended(summary),
                Report::Republished(done) => {
                    if let Some(asker) = self.republishing.remove(&done.ticket) {
                        let receipts = Receipts {
                            receipts: done.receipts,
                            held: done.held,
                        };
                        self.reply(asker, Reply::Republished(receipts));
                    }
                }
                Report::Recalled { ticket } => {
                    if let Some(asker) = self.recalling.remove(&ticket) {
                        self.reply(asker, Reply::Recalled);
                    }
                }
                Report::Visible(visible) => {
                    if let Some(asker) = self.asking.remove(&visible.ticket) {
                        self.reply(asker, Reply::Visible(visible.stores));
                    }
                }
                Report::Capturing { gap: None } => {
                    tracing::info!("the change triggers are all in place");
                }
                Report::Capturing { gap: Some(gap) } => {
                    tracing::warn!(error = gap, "changes may be missed until the next scan");
                }
                Report::Beat { store, ms } => {
                    let labels = labels(&self.writer, store);
                    metrics::histogram!(m::LAG_SECONDS, &labels).record(ms as f64 / 1000.0);
                }
            }
        }
    }

    fn scan_ended(&mut self, mut summary: ScanSummary) {
        let used = used(&self.parts.spokes);
        for (ix, spoke) in self.parts.spokes.iter().enumerate() {
            let before = self.units_before.get(ix).copied().unwrap_or_default();
            let (units, name) = (used[ix] - before, spoke.name());
            let is_it = |store: &&mut StoreSummary| spoke.table().is_some() && store.store == name;
            for store in summary.stores.iter_mut().filter(is_it) {
                let Used { read, write } = units;
                store.units = Some(UnitsUsed { read, write });
            }
        }
        let in_step = summary.stores.iter().filter(|s| s.in_step).count();
        let repaired: u64 = summary.stores.iter().map(|s| s.repaired).sum();
        let outcome = if summary.is_clean() {
            "clean"
        } else {
            "trouble"
        };
        metrics::counter!(m::SCANS, "outcome" => outcome).increment(1);
        for store in &summary.stores {
            let labels = m::labels(&store.region, &store.store);
            metrics::counter!(m::REPAIRED, &labels).increment(store.repaired);
        }
        let stores = summary.stores.len();
        self.reporter.scanned(&summary, self.parts.spokes.len());
        tracing::info!(
            cause = summary.cause,
            seconds = summary.ms as f64 / 1000.0,
            contexts = summary.contexts,
            stores,
            in_step,
            repaired,
            "scan ended"
        );
        for problem in &summary.problems {
            tracing::warn!(error = problem, "the scan found something wrong at the hub");
        }
        for warning in &summary.warnings {
            tracing::warn!(error = warning, "the scan found something odd at the hub");
        }
        for store in summary.stores.iter().filter(|s| !s.in_step) {
            let [(_, region), (_, address)] = m::labels(&store.region, &store.store);
            tracing::warn!(
                region,
                store = address,
                error = store.why,
                "the store is not in step"
            );
        }
        let (source, term) = (self.parts.source.clone(), self.lease.term);
        if let Ok(json) = serde_json::to_string(&summary) {
            self.errands.spawn(async move {
                if let Err(e) = source.record_scan(term, &json).await {
                    tracing::warn!(error = %e, "the scan could not be recorded");
                }
            });
        }
        let asker = self.scanning.keys().find(|id| id.0 == summary.id).copied();
        if let Some(asker) = asker.and_then(|id| self.scanning.remove(&id)) {
            self.reply(asker, Reply::Scanned(Box::new(summary)));
        }
    }

    pub(super) fn reply(&mut self, asker: Asker, reply: Reply) {
        match asker {
            Asker::Here(sender) => drop(sender.send(reply)),
            Asker::Database(id) => {
                let (source, term) = (self.parts.source.clone(), self.lease.term);
                self.errands.spawn(async move {
                    let receipt = serde_json::to_string(&reply).unwrap_or_else(|_| "null".to_owned());
                    for _ in 0..RECEIPT_TRIES {
                        let writing = source.write_receipt(term, id, &receipt);
                        match source.within(RECEIPT_WITHIN, writing).await {
                            Ok(()) => return,
                            Err(e) => tracing::warn!(error = %e, request = id, "a receipt could not be written"),
                        }
                        tokio::time::sleep(RECEIPT_WITHIN).await;
                    }
                });
            }
        }
    }
}
