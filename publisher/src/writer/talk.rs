//! The talk with one store: what to send next, and what an answer means.

use super::dirty::Lane;
use super::queue::Queued;
use super::scan::{Outcome, Phase, ROUNDS_MAX, Scan, Target};
use super::store::{Failure, FailureSort, Link, Outstanding, Store};
use super::{Millis, Report, ScanId, StoreIx, Suspicion, Writer};
use contexts::digest::Buckets;
use contexts::name::TenantId;
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, ListBuckets, Listed, Push, Pushed, Refused, Release, Sent,
    StoreState, SyncVerdict, Synced, Verdict,
};
use contexts::version::{SessionId, SyncId, Term};
use std::collections::{BTreeSet, HashSet};

/// A message for a store.
#[derive(Debug, Clone)]
pub enum Request {
    /// Ask who it is; the answer comes with whether the database knows its writer and its last *synced*.
    Hello,
    /// Claim it.
    Claim(Claim),
    /// Send bundles.
    Push(Push),
    /// End a scan. To be recorded in the database first.
    Synced(Box<Synced>),
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
    /// Whether it is in step.
    Synced(SyncVerdict),
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

/// Tenants in flux that one *synced* may name; with more, it waits.
const IN_FLUX_MAX: usize = 50_000;
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
            Link::Greeted(state) => {
                let (region, seen) = (store.spec.region.clone(), state.seen());
                store.outstanding = Some(Outstanding::Claim);
                Some(Request::Claim(Claim {
                    region,
                    term: self.term,
                    seen,
                    digest_key: self.key.clone(),
                }))
            }
            Link::Open(_) => self
                .next_scan_step(ix, draw)
                .or_else(|| self.next_push(ix, now)),
        }
    }

    fn next_push(&mut self, ix: StoreIx, now: Millis) -> Option<Request> {
        let store = &mut self.stores[ix.0];
        let bundles = store.queue.next(self.limits.push_bytes);
        if bundles.is_empty() {
            return None;
        }
        bundles
            .iter()
            .for_each(|q| store.forget(&q.sent.bundle.tenant));
        let (session, number) = store.next_number()?;
        let sent: Vec<Sent> = bundles.iter().map(|q| q.sent.clone()).collect();
        let region = store.spec.region.clone();
        store.outstanding = Some(Outstanding::Push {
            bundles,
            sent_at: now,
        });
        Some(Request::Push(Push {
            region,
            session,
            number,
            bundles: sent,
        }))
    }

    /// What the scan wants of this store now: a listing of buckets, or *synced*.
    fn next_scan_step(&mut self, ix: StoreIx, draw: &mut dyn FnMut() -> u128) -> Option<Request> {
        let position = self.reached(ix);
        let region = self.region_of(ix);
        let scan = self.scan.as_mut()?;
        let target = scan.targets.get_mut(&ix).filter(|t| t.outcome.is_none())?;
        let store = &mut self.stores[ix.0];
        if let Some(buckets) = target.differing.take() {
            store.outstanding = Some(Outstanding::Buckets(scan.id, buckets.clone()));
            return Some(Request::ListBuckets(ListBuckets { buckets }));
        }
        let settled = matches!(scan.phase, Phase::Settling) && target.unconfirmed.is_empty();
        // What waited when the scan began is older than the age that *synced* stands for.
        let old = |t: &TenantId| !target.confirmed.contains(t);
        if !settled || store.queue.has_fill() || store.queue.tenants().any(old) {
            return None;
        }
        let in_flux: HashSet<TenantId> = self
            .dirty
            .iter()
            .chain(self.builds.iter())
            .chain(store.queue.tenants())
            .cloned()
            .collect();
        if in_flux.len() > IN_FLUX_MAX {
            return None;
        }
        let (fresh, reread) = (target.fresh, scan.reread);
        let expected = scan.expected(&self.key, region, &in_flux);
        let kinds = scan
            .definitions
            .as_ref()
            .map(|(_, kinds)| kinds.clone())
            .unwrap_or_default();
        let (session, number) = store.next_number()?;
        let synced = Synced {
            session,
            number,
            id: SyncId(draw()),
            kinds,
            root: self.key.root(&expected),
            in_flux: in_flux.iter().cloned().collect(),
            fresh,
            position,
            reread,
        };
        store.outstanding = Some(Outstanding::Synced(scan.id, Box::new(expected)));
        Some(Request::Synced(Box::new(synced)))
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
            (Outstanding::Claim, Answer::Granted(granted)) => self.granted(ix, *granted),
            (Outstanding::Push { bundles, sent_at }, Answer::Pushed(pushed))
                if pushed.verdicts.len() == bundles.len() =>
            {
                self.stores[ix.0].reading = Some(pushed.reading);
                self.pushed(ix, now, bundles, pushed.verdicts, sent_at);
            }
            (Outstanding::Synced(scan, expected), Answer::Synced(verdict)) => {
                self.synced(ix, now, scan, &expected, verdict)
            }
            (Outstanding::Buckets(scan, buckets), Answer::Listed(listed)) => {
                if self.scan.as_ref().is_some_and(|s| s.id == scan) {
                    self.compare(ix, &buckets, &listed)
                }
            }
            (Outstanding::Release, Answer::Released) => {
                if let Some(scan) = &mut self.scan {
                    scan.end(ix, Outcome::Failed("the store was given back".into()));
                }
                self.stores[ix.0].closed(ix, now, None);
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
        if known {
            store.link = Link::Greeted(Box::new(state));
            return;
        }
        let epoch = state.granted.map_or(0, |t: Term| t.epoch);
        store.state = Some(state);
        let why = format!(
            "fenced: it obeys a writer of epoch {epoch} that this database does not know, so this database is a clone or \
             an older copy of the one that writer used; nothing is sent to it"
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

    fn granted(&mut self, ix: StoreIx, granted: Granted) {
        let opened = self.now();
        let store = &mut self.stores[ix.0];
        let before = match &store.link {
            Link::Greeted(state) => state.granted,
            _ => None,
        };
        let ours = before == Some(self.term);
        let again = store.opened(granted.session, opened, granted.state, ours);
        again.iter().for_each(|t| self.mark(t, Lane::Change));
        // What was built for a request before the session opened could not be sent: it is built again.
        let asked = self.waits.pending(ix);
        asked.iter().for_each(|t| self.mark(t, Lane::Change));
        self.reports.push_back(Report::Opened { store: ix });
    }

    fn close_store(&mut self, ix: StoreIx, now: Millis, failure: Failure) {
        if let Some(scan) = &mut self.scan {
            scan.end(ix, Outcome::Failed(failure.why.clone()));
        }
        let store = &mut self.stores[ix.0];
        let news = store.failure.as_ref() != Some(&failure);
        store.closed(ix, now, Some(failure.clone()));
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
        let mut applied = 0;
        for (queued, verdict) in bundles.into_iter().zip(verdicts) {
            let tenant = queued.sent.bundle.tenant.clone();
            match verdict {
                Verdict::Applied | Verdict::AlreadyThere => {
                    applied += 1;
                    self.stores[ix.0].learn(tenant.clone(), queued.digest);
                    if let Some(target) = self.scan.as_mut().and_then(|s| s.targets.get_mut(&ix)) {
                        target.pushed += u64::from(verdict == Verdict::Applied);
                    }
                    let there = verdict == Verdict::AlreadyThere;
                    let contexts = queued.sent.bundle.contexts.len();
                    self.delivered(
                        now,
                        ix,
                        &tenant,
                        queued.started,
                        queued.sent.version,
                        contexts,
                        there,
                    );
                }
                Verdict::KeyTaken { kind, key, owner } => {
                    let region = self.stores[ix.0].spec.region.clone();
                    let verdict = Verdict::KeyTaken {
                        kind: kind.clone(),
                        key: key.clone(),
                        owner: owner.clone(),
                    };
                    self.reports.push_back(Report::Refused {
                        store: ix,
                        tenant: tenant.clone(),
                        verdict,
                    });
                    self.mark_together(vec![tenant.clone(), owner.clone()]);
                    let suspicion = Suspicion {
                        region,
                        kind,
                        key,
                        owner,
                        tenant,
                    };
                    if !self.suspicions.contains(&suspicion) {
                        self.suspicions.push(suspicion);
                    }
                }
                Verdict::Invalid { why } => {
                    if let Some(scan) = &mut self.scan {
                        scan.end(
                            ix,
                            Outcome::Failed(format!(
                                "the store refused the bundle of tenant {tenant:?}: {why}"
                            )),
                        );
                    }
                    self.stores[ix.0]
                        .behind
                        .get_or_insert_with(|| format!("it refused tenant {tenant:?}: {why}"));
                    self.reports.push_back(Report::Refused {
                        store: ix,
                        tenant,
                        verdict: Verdict::Invalid { why },
                    });
                }
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

    /// An answer counts only while its scan goes on for this store: one that was given up meanwhile may have been given
    /// up because the store misses something.
    fn synced(
        &mut self,
        ix: StoreIx,
        now: Millis,
        scan: ScanId,
        expected: &Buckets,
        verdict: SyncVerdict,
    ) {
        let store = &mut self.stores[ix.0];
        let scan = self.scan.as_mut().filter(|s| s.id == scan);
        let target = scan.and_then(|s| s.targets.get_mut(&ix));
        let Some(target) = target.filter(|t| t.outcome.is_none()) else {
            return;
        };
        match verdict {
            SyncVerdict::InStep { reading } => {
                (store.reading, store.synced, store.synced_at) = (Some(reading), true, Some(now));
                store.behind = None;
                target.outcome = Some(Outcome::Synced);
                let under_way = self.dirty.iter().chain(self.builds.iter());
                let in_flux = under_way.chain(store.queue.tenants()).cloned().collect();
                store.compared(&in_flux);
            }
            SyncVerdict::Differs { buckets } => {
                target.rounds += 1;
                target.differing = Some(expected.differing(&buckets));
                if target.rounds > ROUNDS_MAX {
                    let why = format!("it still differs after {ROUNDS_MAX} comparisons");
                    target.outcome.get_or_insert(Outcome::Failed(why));
                }
            }
        }
    }

    /// Tenants of the listed buckets that are not as expected, and of which nothing is under way, are built again.
    fn compare(&mut self, ix: StoreIx, buckets: &[u16], listed: &[Listed]) {
        let region = self.region_of(ix);
        let Some(scan) = &self.scan else { return };
        let wanted: HashSet<usize> = buckets.iter().map(|b| usize::from(*b)).collect();
        let held: HashSet<&TenantId> = listed.iter().map(|l| &l.tenant).collect();
        let missing = scan
            .in_buckets(&self.key, region, &wanted)
            .filter(|t| !held.contains(t))
            .cloned();
        let wrong = listed
            .iter()
            .filter(|l| scan.digest(&l.tenant, region) != Some(l.digest))
            .map(|l| l.tenant.clone());
        let store = &self.stores[ix.0];
        let under_way =
            |t: &TenantId| self.dirty.contains(t) || self.builds.has(t) || store.queue.contains(t);
        // Sorted, so that what follows does not depend on the order of a hash map.
        let differing: BTreeSet<TenantId> =
            missing.chain(wrong).filter(|t| !under_way(t)).collect();
        for tenant in differing {
            self.stores[ix.0].forget(&tenant);
            self.mark(&tenant, Lane::Repair);
            if let Some(target) = self.scan.as_mut().and_then(|s| s.targets.get_mut(&ix)) {
                distrust(target, tenant);
            }
        }
    }

    /// The heartbeat that is due for a store.
    pub fn heartbeat(&self, ix: StoreIx) -> Option<Heartbeat> {
        let session = self.stores[ix.0].session()?;
        let quiet = self.suspended || self.closing;
        (!quiet).then(|| Heartbeat {
            session: session.id,
            position: self.position(ix),
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

/// The store was found to differ: earlier confirmations do not count.
fn distrust(target: &mut Target, tenant: TenantId) {
    target.confirmed.remove(&tenant);
    target.unconfirmed.insert(tenant.clone());
    target.repaired.insert(tenant);
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

impl Scan {
    /// Progress, from 0 to 1, for a person.
    pub fn progress(&self) -> f64 {
        match (&self.phase, self.ranges) {
            (Phase::Settling, _) => 1.0,
            (_, (0, _)) => 0.0,
            (_, (all, read)) => read as f64 / all as f64,
        }
    }
}

impl Store {
    /// One word for the state of the store.
    pub fn standing(&self) -> &'static str {
        match (&self.link, &self.failure, &self.behind) {
            (
                _,
                Some(Failure {
                    sort: FailureSort::Fenced,
                    ..
                }),
                _,
            ) => "fenced",
            (
                _,
                Some(Failure {
                    sort: FailureSort::Refused,
                    ..
                }),
                _,
            ) => "refused",
            (
                _,
                Some(Failure {
                    sort: FailureSort::Busy,
                    ..
                }),
                _,
            ) => "busy",
            (_, Some(_), _) => "unreachable",
            (Link::Open(_), _, None) => "in step",
            (Link::Open(_), _, Some(_)) => "behind",
            _ => "connecting",
        }
    }
}
