//! What happened, told to whoever wants to know: logs, metrics, the database and those who asked.

use super::{Asker, Engine};
use crate::ask::{Receipts, Reply};
use crate::metrics as m;
use crate::spoke::Spoke;
use crate::writer::{Millis, Report, ScanSummary, StoreIx, Writer};
use contexts::push::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

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
#[derive(Debug, Default)]
pub(super) struct Reporter {
    refusals: VecDeque<Refusal>,
}

impl Reporter {
    pub(super) fn refusals(&self) -> &VecDeque<Refusal> {
        &self.refusals
    }

    fn refused(&mut self, store: &str, tenant: &str, verdict: &Verdict, now: Millis) {
        let (reason, why) = match verdict {
            Verdict::KeyTaken { kind, key, owner } => (
                "key_taken",
                format!("{kind} {key:?} belongs to tenant {owner:?} there"),
            ),
            Verdict::Invalid { why } => ("invalid", why.clone()),
            Verdict::Applied | Verdict::AlreadyThere => return,
        };
        metrics::counter!(m::REFUSED, "store" => store.to_owned(), "reason" => reason).increment(1);
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
        tracing::warn!(store, tenant, reason, why, "a store refused a bundle");
    }

    pub(super) fn gauges(&self, writer: &Writer, now: Millis) {
        for (_, store) in writer.stores() {
            let name = store.spec.name.clone();
            let up = f64::from(u8::from(store.session().is_some()));
            metrics::gauge!(m::STORE_UP, "store" => name.clone()).set(up);
            let behind = f64::from(u8::from(store.behind.is_some()));
            metrics::gauge!(m::STORE_BEHIND, "store" => name.clone()).set(behind);
            metrics::gauge!(m::QUEUE_BYTES, "store" => name.clone())
                .set(store.queue.bytes() as f64);
            if let Some(at) = store.synced_at {
                let seconds = now.saturating_sub(at) as f64 / 1000.0;
                metrics::gauge!(m::STORE_SYNCED_SECONDS, "store" => name).set(seconds);
            }
        }
        metrics::gauge!(m::DIRTY).set(writer.dirty() as f64);
        metrics::gauge!(m::HELD_TENANTS).set(writer.held().len() as f64);
    }
}

/// What tables cost.
pub(super) fn units(spokes: &[Arc<Spoke>]) {
    for spoke in spokes {
        let Some(table) = spoke.table() else { continue };
        let used = table.db().units.used();
        for (op, units) in [("read", used.read), ("write", used.write)] {
            metrics::counter!(m::TABLE_UNITS, "store" => spoke.name(), "op" => op)
                .absolute(units as u64);
        }
    }
}

impl Engine<'_> {
    /// Tells everything that happened since the last time.
    pub(super) fn report(&mut self) {
        let now = self.now();
        let name = |writer: &Writer, ix: StoreIx| writer.store(ix).spec.name.clone();
        while let Some(report) = self.writer.next_report() {
            match report {
                Report::Opened { store } => {
                    tracing::info!(
                        store = name(&self.writer, store),
                        "the store obeys this publisher"
                    );
                }
                Report::Closed { store, failure } => {
                    let name = name(&self.writer, store);
                    tracing::warn!(
                        store = name,
                        why = failure.why,
                        "the store cannot be used for now"
                    );
                }
                Report::Pushed { store, applied, ms } => {
                    let name = name(&self.writer, store);
                    metrics::counter!(m::PUSHES, "store" => name.clone()).increment(1);
                    metrics::counter!(m::BUNDLES, "store" => name.clone())
                        .increment(applied as u64);
                    metrics::histogram!(m::PUSH_SECONDS, "store" => name.clone())
                        .record(ms as f64 / 1000.0);
                    tracing::debug!(store = name, bundles = applied, ms, "pushed");
                }
                Report::Refused {
                    store,
                    tenant,
                    verdict,
                } => {
                    let name = name(&self.writer, store);
                    self.reporter.refused(&name, tenant.as_str(), &verdict, now);
                }
                Report::Held { tenant, held } => {
                    for h in held.iter().filter(|h| !h.is_pause()) {
                        let key = h.key.as_ref().map_or("(all keys)", |k| k.as_str());
                        tracing::warn!(tenant = %tenant, kind = %h.kind, key, why = h.why, "held: the last good value stays");
                    }
                    if held.is_empty() {
                        tracing::info!(tenant = %tenant, "nothing is held any more");
                    }
                }
                Report::Guarded { line } => {
                    metrics::counter!(m::GUARDED).increment(1);
                    tracing::warn!(line, "the guard against mass deletes");
                }
                Report::BuildFailed { why } => {
                    metrics::counter!(m::BUILD_FAILURES).increment(1);
                    tracing::warn!(why, "a build failed and is repeated");
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
                    tracing::warn!(gap, "changes may be missed until the next scan");
                }
                Report::Beat { store, ms } => {
                    let name = name(&self.writer, store);
                    metrics::histogram!(m::LAG_SECONDS, "store" => name).record(ms as f64 / 1000.0);
                }
            }
        }
    }

    fn scan_ended(&mut self, summary: ScanSummary) {
        let in_step = summary.stores.iter().filter(|s| s.in_step).count();
        let repaired: u64 = summary.stores.iter().map(|s| s.repaired).sum();
        let outcome = if summary.is_clean() {
            "clean"
        } else {
            "trouble"
        };
        metrics::counter!(m::SCANS, "outcome" => outcome).increment(1);
        metrics::gauge!(m::SCAN_SECONDS).set(summary.ms as f64 / 1000.0);
        metrics::counter!(m::REPAIRED).increment(repaired);
        let stores = summary.stores.len();
        tracing::info!(
            cause = summary.cause,
            ms = summary.ms,
            contexts = summary.contexts,
            stores,
            in_step,
            repaired,
            "scan ended"
        );
        for problem in &summary.problems {
            tracing::warn!(problem, "the scan found something wrong at the hub");
        }
        for warning in &summary.warnings {
            tracing::warn!(warning, "the scan found something odd at the hub");
        }
        for store in summary.stores.iter().filter(|s| !s.in_step) {
            tracing::warn!(
                store = store.store,
                why = store.why,
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
