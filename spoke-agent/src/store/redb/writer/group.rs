//! Pushes that wait together, in one commit.

use super::{Waiting, Writer, count_push};
use crate::clock;
use crate::failpoint;
use crate::store::redb::StoreError;
use crate::store::redb::changes::{self, Notes};
use crate::store::redb::replay::Record;
use crate::store::redb::tables::Tables;
use crate::store::redb::txn::Txn;
use contexts::apply::{Applied, apply_changes};
use contexts::delta::{PushDelta, PushedDelta};
use contexts::name::TenantId;
use contexts::push::{Pushed, Verdict};
use std::time::Instant;

/// What came of a push: what was applied, or the tenants whose deltas were made for something else.
type Outcome = Result<Applied, Vec<TenantId>>;

impl Writer {
    pub(super) fn commit_group(&mut self, group: &mut Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let group = std::mem::take(group);
        match self.apply_group(&group) {
            Ok(outcomes) => {
                if outcomes.iter().any(Result::is_ok) {
                    self.state.last_push = Some(self.clock.reading());
                    if !is_beat(&group) {
                        self.settle_later();
                    }
                    self.state.roll_up();
                    self.publish();
                    pass(&group, failpoint::AFTER_COMMIT);
                }
                for (waiting, outcome) in group.into_iter().zip(outcomes) {
                    let reading = self.clock.reading();
                    let _ = waiting.reply.send(Ok(match outcome {
                        Ok(Applied { verdicts, .. }) => {
                            count_push("committed");
                            verdicts.iter().for_each(count_verdict);
                            PushedDelta::Pushed(Pushed { verdicts, reading })
                        }
                        Err(tenants) => {
                            count_push("differs");
                            PushedDelta::Differs { tenants, reading }
                        }
                    }));
                }
            }
            Err(error) => {
                let refused = self.fail("apply a push", &error);
                for waiting in group {
                    count_push("failed");
                    let _ = waiting.reply.send(Err(refused.clone()));
                }
            }
        }
    }

    /// Applies a group in one commit; the memory of the store follows only what is committed.
    fn apply_group(&mut self, group: &[Waiting]) -> Result<Vec<Outcome>, StoreError> {
        let Some(key) = self.state.meta.digest_key.clone() else {
            // No session without a claim, and no claim without the key.
            return Err(StoreError::Damaged {
                what: "the digest key".into(),
            });
        };
        let db = self.db.clone();
        let txn = db.write()?;
        let mut tables = Tables::open(&txn)?;
        let mut outcomes = Vec::with_capacity(group.len());
        let mut notes = Notes::default();
        for waiting in group {
            let view = Txn::new(&mut tables, &key, &mut notes);
            let mut view = view.with_outlines(&mut self.outlines);
            let outcome = apply_changes(&mut view, &key, &waiting.push.changes)?;
            if let Ok(applied) = &outcome {
                notes.push(&waiting.push.changes, &applied.verdicts);
            }
            outcomes.push(outcome);
        }
        let pairs = group.iter().zip(&outcomes);
        let applied: Vec<&PushDelta> = pairs
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(waiting, _)| &waiting.push)
            .collect();
        if applied.is_empty() {
            return Ok(outcomes);
        }
        let touched = notes.touched();
        changes::append(&mut tables, &touched)?;
        let commit = changes::end(&tables.changes)?.commit;
        let now = self.clock.reading();
        for push in &applied {
            self.state.meta.beat = push.beat.unwrap_or(0).max(self.state.meta.beat);
            self.state.meta.freshen(push.fresh, now);
        }
        let progress = &self.state.meta.progress(now, clock::wall_micros());
        progress.save(&mut tables.meta)?;
        let (contexts, bundles) = tables.counts()?;
        drop(tables);
        let granted = self.state.meta.granted;
        let record = Record {
            granted,
            pushes: applied.iter().map(|p| p.changes.as_slice()).collect(),
            progress,
        };
        let record = record.encode()?;
        pass(group, failpoint::BEFORE_COMMIT);
        let started = Instant::now();
        let unseen = txn.commit_logged(&record, !is_beat(group))?;
        // The disk is at work meanwhile.
        self.carry_on(touched);
        unseen.show()?;
        metrics::histogram!(crate::metrics::COMMIT_SECONDS).record(started.elapsed());
        (self.state.contexts, self.state.bundles) = (contexts, bundles);
        self.state.commit = commit;
        for moved in outcomes.iter().flatten().flat_map(|a| &a.moved) {
            if let Some(before) = &moved.before {
                self.state.buckets.remove(&key, &moved.tenant, before);
            }
            if let Some(after) = &moved.after {
                self.state.buckets.add(&key, &moved.tenant, after);
            }
        }
        self.show_carried();
        Ok(outcomes)
    }
}

/// Whether a group carries but beats. They are durable like anything else, since the hub measures by them when that is;
/// but there is nothing to lose, and no reason to touch the store file every two seconds.
fn is_beat(group: &[Waiting]) -> bool {
    group.iter().all(|w| w.push.changes.is_empty())
}

fn pass(group: &[Waiting], name: &'static str) {
    if !is_beat(group) {
        failpoint::hit(name);
    }
}

fn count_verdict(verdict: &Verdict) {
    let verdict = match verdict {
        Verdict::Applied => "applied",
        Verdict::AlreadyThere => "already_there",
        Verdict::KeyTaken { .. } => "key_taken",
        Verdict::Invalid { .. } => "invalid",
    };
    metrics::counter!(crate::metrics::BUNDLES_PUSHED, "verdict" => verdict).increment(1);
}
