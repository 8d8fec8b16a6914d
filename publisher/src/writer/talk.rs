//! The talk with one store: what to send next, and what an answer means.

use super::deltas::DeltaOutcome;
use super::dirty::Lane;
use super::guard::Told;
use super::queue::Queued;
use super::scan::Outcome;
use super::store::{Failure, FailureSort, Link, Outstanding};
use super::{Millis, Report, StoreIx, Suspicion, Writer};
use contexts::delta::PushDelta;
use contexts::name::{Key, Kind, TenantId};
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, ListBuckets, Listed, Push, Pushed, ReadTenant, Reading,
    Refused, Release, StoreState, SyncVerdict, Synced, Verdict,
};
use contexts::version::{SessionId, Term};

/// A message for a store.
#[derive(Debug, Clone)]
pub enum Request {
    /// Ask who it is; the answer comes with whether the database knows its writer and its last *synced*.
    Hello,
    /// Claim it.
    Claim(Claim),
    /// Send bundles.
    Push(Push),
    /// Send bundles, some of them as deltas.
    PushDelta(PushDelta),
    /// End a scan. To be recorded in the database first.
    Synced(Box<Synced>),
    /// Ask for the names of what it holds of some tenants.
    Names(ReadTenant),
    /// Ask for tenants by bucket.
    ListBuckets(ListBuckets),
    /// Give it back.
    Release(Release),
}

/// What came back.
#[derive(Debug)]
pub enum Answer {
    /// Who it is.
    Hello {
        /// What it says.
        state: Box<StoreState>,
        /// Whether the database knows the writer and the *synced* that it names.
        known: bool,
    },
    /// It obeys us.
    Granted(Box<Granted>),
    /// Verdicts on bundles.
    Pushed(Pushed),
    /// It does not have what the deltas of these tenants were made for, and applied nothing.
    Differs(Vec<TenantId>, Reading),
    /// It knows no deltas, and has not looked at them.
    KnowsNoDeltas,
    /// Whether it is in step.
    Synced(SyncVerdict),
    /// The names of what it holds of some tenants.
    Names(Vec<(TenantId, Vec<Told>)>),
    /// The tenants of some buckets.
    Listed(Vec<Listed>),
    /// It was given back.
    Released,
    /// It understood and refused.
    Refused(Refused),
    /// It does not accept us: wrong token, wrong protocol, no agent.
    Rejected(String),
    /// No answer, and no telling whether the message arrived.
    Lost(String),
}

/// After so many heartbeats without an answer the session is given up.
const MISSED_MAX: u8 = 5;

impl Writer {
    /// The next message for a store, unless one is under way. `draw` gives random ids.
    pub fn next_request(
        &mut self,
        ix: StoreIx,
        now: Millis,
        draw: &mut dyn FnMut() -> u128,
    ) -> Option<Request> {
        let store = &mut self.stores[ix.0];
        if store.outstanding.is_some() {
            return None;
        }
        if self.suspended || self.closing {
            let session = store.session()?.id;
            store.outstanding = Some(Outstanding::Release);
            return Some(Request::Release(Release { session }));
        }
        match &store.link {
            Link::Down { retry_at } if now < *retry_at => None,
            Link::Down { .. } => {
                store.outstanding = Some(Outstanding::Hello);
                Some(Request::Hello)
            }
            Link::Greeted { state, known } => {
                let (region, seen) = (store.spec.region.clone(), state.seen());
                let known = *known;
                store.outstanding = Some(Outstanding::Claim);
                Some(Request::Claim(Claim {
                    region,
                    term: self.term,
                    seen,
                    digest_key: self.key.clone(),
                    force: self.force,
                    known,
                }))
            }
            Link::Open(_) => self
                .next_names(ix)
                .or_else(|| self.next_scan_step(ix, draw))
                .or_else(|| self.next_push(ix, now)),
        }
    }

    fn next_push(&mut self, ix: StoreIx, now: Millis) -> Option<Request> {
        let (is_filled, most) = (self.is_filled(ix), self.limits.push_bytes);
        let store = &mut self.stores[ix.0];
        let bulk = store.push_size(is_filled).bytes(most);
        let bundles = store.queue.next(most, bulk, &|q| store.confirmed.cost(q));
        let beat = store.beat.take();
        if bundles.is_empty() && beat.is_none() {
            return None;
        }
        bundles
            .iter()
            .for_each(|q| store.forget(&q.sent.bundle.tenant));
        let numbered = store.next_number()?;
        let (request, deltas) = self.message(ix, numbered, &bundles, beat);
        self.stores[ix.0].outstanding = Some(Outstanding::Push {
            bundles,
            deltas,
            beat,
            sent_at: now,
        });
        Some(request)
    }

    /// The answer to the message that is under way to a store.
    pub fn answered(&mut self, ix: StoreIx, now: Millis, answer: Answer) {
        let Some(outstanding) = self.stores[ix.0].outstanding.take() else {
            return;
        };
        match (outstanding, answer) {
            (Outstanding::Hello, Answer::Hello { state, known }) => {
                self.greeted(ix, now, *state, known)
            }
            (Outstanding::Claim, Answer::Granted(granted)) => self.granted(ix, now, *granted),
            (
                Outstanding::Push {
                    bundles,
                    deltas,
                    beat,
                    sent_at,
                },
                Answer::Pushed(pushed),
            ) if pushed.verdicts.len() == bundles.len() => {
                self.stores[ix.0].reading = Some(pushed.reading);
                self.tell_delta(ix, DeltaOutcome::Taken, deltas);
                self.pushed(ix, now, bundles, pushed.verdicts, sent_at);
                beat.into_iter().for_each(|n| self.beat_arrived(now, ix, n));
            }
            (
                Outstanding::Push {
                    bundles,
                    deltas,
                    beat,
                    ..
                },
                Answer::Differs(tenants, reading),
            ) if deltas > 0 => {
                self.stores[ix.0].reading = Some(reading);
                self.stores[ix.0].beat = self.stores[ix.0].beat.max(beat);
                self.differed(ix, &tenants, bundles);
            }
            (
                Outstanding::Push {
                    bundles,
                    deltas,
                    beat,
                    ..
                },
                Answer::KnowsNoDeltas,
            ) if deltas > 0 => {
                self.stores[ix.0].beat = self.stores[ix.0].beat.max(beat);
                self.takes_no_deltas(ix, deltas, bundles);
            }
            (Outstanding::Synced(scan, expected), Answer::Synced(verdict)) => {
                self.synced(ix, now, scan, &expected, verdict)
            }
            (Outstanding::Buckets(scan, buckets), Answer::Listed(listed)) => {
                if self.scan.as_ref().is_some_and(|s| s.id == scan) {
                    self.compare(ix, &buckets, &listed)
                }
            }
            (Outstanding::Names(asked), Answer::Names(told)) => {
                self.names_told(ix, &asked, &told);
                self.tick_guard(now);
            }
            (Outstanding::Release, Answer::Released) => {
                if let Some(scan) = &mut self.scan {
                    scan.end(ix, Outcome::Failed("the store was given back".into()));
                }
                self.end_session(ix, now, None);
            }
            (outstanding, answer) => {
                self.stores[ix.0].outstanding = Some(outstanding);
                self.close_store(ix, now, failure_of(answer));
            }
        }
    }

    fn greeted(&mut self, ix: StoreIx, now: Millis, state: StoreState, known: bool) {
        let store = &mut self.stores[ix.0];
        store.reading = Some(state.reading);
        if known || self.force {
            let state = Box::new(state);
            store.link = Link::Greeted { state, known };
            return;
        }
        let epoch = state.granted.map_or(0, |t: Term| t.epoch);
        store.state = Some(state);
        let why = format!(
            "fenced: it obeys a writer of epoch {epoch} that this database does not know, so this database is a clone or \
             an older copy of the one that writer used; nothing is sent to it. If this is the right database, run \
             `publisher takeover --force` with it: then the other side is fenced for good"
        );
        self.close_store(
            ix,
            now,
            Failure {
                why,
                sort: FailureSort::Fenced,
            },
        );
    }

    fn granted(&mut self, ix: StoreIx, now: Millis, granted: Granted) {
        let opened = self.now();
        let store = &mut self.stores[ix.0];
        let before = match &store.link {
            Link::Greeted { state, .. } => state.granted,
            _ => None,
        };
        let ours = before == Some(self.term);
        let again = store.opened(granted.session, opened, granted.state, ours);
        if store.behind.is_some() {
            self.capture.strike_store(now, ix);
        }
        // A build from before the session was not sent, and a scan sends only what differs: whoever waits for a receipt
        // gets a build of this session.
        let awaited = self.waits.pending_at(ix);
        let awaited = awaited.into_iter().map(|tenant| (tenant, Lane::Change));
        again
            .into_iter()
            .chain(awaited)
            .for_each(|(tenant, lane)| self.mark(&tenant, lane));
        self.reports.push_back(Report::Opened { store: ix });
    }

    fn end_session(&mut self, ix: StoreIx, now: Millis, failure: Option<Failure>) {
        self.stores[ix.0].closed(ix, now, failure);
        if self.stores[ix.0].behind.is_some() {
            self.capture.strike_store(now, ix);
        }
    }

    fn close_store(&mut self, ix: StoreIx, now: Millis, failure: Failure) {
        if let Some(scan) = &mut self.scan {
            scan.end(ix, Outcome::Failed(failure.why.clone()));
        }
        let news = self.stores[ix.0].failure.as_ref() != Some(&failure);
        self.end_session(ix, now, Some(failure.clone()));
        if news {
            self.reports
                .push_back(Report::Closed { store: ix, failure });
        }
    }

    fn pushed(
        &mut self,
        ix: StoreIx,
        now: Millis,
        bundles: Vec<Queued>,
        verdicts: Vec<Verdict>,
        sent_at: Millis,
    ) {
        let ms = now.saturating_sub(sent_at);
        if bundles.iter().any(|q| !q.is_urgent) {
            let (is_filled, most) = (self.is_filled(ix), self.limits.push_bytes);
            self.stores[ix.0].push_size(is_filled).took(ms, most);
        }
        let mut applied = 0;
        for (queued, verdict) in bundles.into_iter().zip(verdicts) {
            let tenant = queued.sent.bundle.tenant.clone();
            self.stores[ix.0].confirm(&queued, &verdict);
            match verdict {
                Verdict::Applied | Verdict::AlreadyThere => {
                    applied += 1;
                    if verdict == Verdict::Applied {
                        self.note_gone(now, ix, &queued);
                    }
                    if let Some(target) = self.scan.as_mut().and_then(|s| s.targets.get_mut(&ix)) {
                        target.pushed += u64::from(verdict == Verdict::Applied);
                    }
                    let there = verdict == Verdict::AlreadyThere;
                    let (bundle, version) = (&queued.sent.bundle, queued.sent.version);
                    self.delivered(now, ix, bundle, queued.started, version, there);
                }
                Verdict::KeyTaken { kind, key, owner } => {
                    self.key_taken(ix, tenant, kind, key, owner)
                }
                Verdict::Invalid { why } => self.invalid(now, ix, tenant, why),
            }
        }
        let store = &mut self.stores[ix.0];
        store.acked += applied as u64;
        store.last_push_ms = Some(ms);
        self.reports.push_back(Report::Pushed {
            store: ix,
            applied,
            ms,
        });
    }

    /// Another tenant owns a key in the store: both are built in one snapshot and sent as one commit.
    fn key_taken(&mut self, ix: StoreIx, tenant: TenantId, kind: Kind, key: Key, owner: TenantId) {
        let region = self.stores[ix.0].spec.region.clone();
        let suspicion = Suspicion {
            region,
            kind,
            key,
            owner,
            tenant,
        };
        self.mark_together(vec![suspicion.tenant.clone(), suspicion.owner.clone()]);
        self.reports.push_back(Report::Refused {
            store: ix,
            tenant: suspicion.tenant.clone(),
            verdict: Verdict::KeyTaken {
                kind: suspicion.kind.clone(),
                key: suspicion.key.clone(),
                owner: suspicion.owner.clone(),
            },
        });
        let theirs = self.suspicions.entry(suspicion.tenant.clone());
        let theirs = theirs.or_default();
        if !theirs.contains(&suspicion) {
            theirs.push(suspicion);
        }
    }

    /// A store that takes a bundle for nonsense is not in step, and sending the same again would not help.
    fn invalid(&mut self, now: Millis, ix: StoreIx, tenant: TenantId, why: String) {
        let what = format!("it refused the bundle of tenant {tenant:?}: {why}");
        if let Some(scan) = &mut self.scan {
            scan.end(ix, Outcome::Failed(what.clone()));
        }
        let since = self.now();
        self.stores[ix.0].set_behind(what, since);
        self.capture.strike_store(now, ix);
        let verdict = Verdict::Invalid { why };
        self.reports.push_back(Report::Refused {
            store: ix,
            tenant,
            verdict,
        });
    }

    /// The heartbeat that is due for a store.
    pub fn heartbeat(&mut self, ix: StoreIx) -> Option<Heartbeat> {
        let session = self.stores[ix.0].session()?.id;
        let quiet = self.suspended || self.closing;
        (!quiet).then(|| Heartbeat {
            session,
            position: self.position(ix),
            fresh: self.fresh(ix),
        })
    }

    /// The answer to a heartbeat; none if there was none.
    pub fn heartbeat_answered(
        &mut self,
        ix: StoreIx,
        now: Millis,
        session: SessionId,
        answer: Option<Result<Ack, Refused>>,
    ) {
        let store = &mut self.stores[ix.0];
        let busy = store.outstanding.is_some();
        let Link::Open(open) = &mut store.link else {
            return;
        };
        if open.id != session {
            return;
        }
        match answer {
            Some(Ok(ack)) => {
                open.missed = 0;
                store.reading = Some(ack.reading);
            }
            Some(Err(refused)) if !busy => {
                self.close_store(ix, now, failure_of(Answer::Refused(refused)))
            }
            // The message that is under way will tell.
            Some(Err(_)) => {}
            None => {
                open.missed = open.missed.saturating_add(1);
                if open.missed >= MISSED_MAX && !busy {
                    self.close_store(
                        ix,
                        now,
                        failure_of(Answer::Lost("heartbeats are not answered".into())),
                    );
                }
            }
        }
    }
}

fn failure_of(answer: Answer) -> Failure {
    let (why, sort) = match answer {
        Answer::Refused(refused @ Refused::Busy { .. }) => (refused.to_string(), FailureSort::Busy),
        Answer::Refused(
            refused @ (Refused::Session | Refused::Number { .. } | Refused::Changed),
        ) => (refused.to_string(), FailureSort::Unreachable),
        Answer::Refused(refused) => (refused.to_string(), FailureSort::Refused),
        Answer::Rejected(why) => (why, FailureSort::Refused),
        Answer::Lost(why) => (why, FailureSort::Unreachable),
        _ => (
            "it answered something else than was asked".to_owned(),
            FailureSort::Refused,
        ),
    };
    Failure { why, sort }
}
