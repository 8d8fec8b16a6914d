//! The tasks of a term: builds, messages, heartbeats, the lease, and everything about the outbox.

use super::{Engine, Event};
use crate::failpoint;
use crate::source::hub::Lease;
use crate::source::{Source, SourceError};
use crate::spoke::{CallError, Called, Spoke};
use crate::writer::{
    AckRequest, Answer, BuildRequest, HoldWork, LookRequest, Request, StoreIx, Told, value_of,
};
use contexts::delta::PushedDelta;
use contexts::name::TenantId;
use contexts::push::TenantState;
use contexts::version::Term;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How long a renewal may take; later it would come too late anyway.
const RENEW_WITHIN: Duration = Duration::from_secs(3);
/// How long other short statements may take.
const STATEMENT_WITHIN: Duration = Duration::from_secs(10);
/// How long an acknowledgement may take: with a long backlog it removes many rows.
const ACK_WITHIN: Duration = Duration::from_secs(120);

/// A random id.
pub(super) fn draw() -> u128 {
    let mut bytes = [0; 16];
    // Without the operating system's randomness nothing is safe to go on.
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    u128::from_le_bytes(bytes)
}

/// Forgets tasks that ended. The books wait for the event that a task would have sent, so one that panicked takes the
/// process with it: a new writer starts from the database's and the stores' own state.
pub(super) fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

impl Engine<'_> {
    pub(super) fn spawn_build(&mut self, request: BuildRequest) {
        let (source, regions, events) = (
            self.parts.source.clone(),
            self.regions.clone(),
            self.events.clone(),
        );
        self.tasks.spawn(async move {
            let result = source.build_in_term(&request, &regions).await;
            failpoint::pass(failpoint::AFTER_SNAPSHOT);
            let _ = events.send(Event::Built(request.id, result)).await;
        });
    }

    pub(super) fn spawn_request(&mut self, ix: StoreIx, request: Request) {
        let (source, spoke, events) = (
            self.parts.source.clone(),
            self.parts.spokes[ix.0].clone(),
            self.events.clone(),
        );
        let term = self.lease.term;
        self.tasks.spawn(async move {
            let answer = send(&source, &spoke, term, request).await;
            let _ = events.send(Event::Answered(ix, answer)).await;
        });
    }

    pub(super) fn spawn_heartbeats(&mut self) {
        for ix in (0..self.parts.spokes.len()).map(StoreIx) {
            let Some(heartbeat) = self.writer.heartbeat(ix).filter(|_| !self.beating[ix.0]) else {
                continue;
            };
            self.beating[ix.0] = true;
            let (spoke, events) = (self.parts.spokes[ix.0].clone(), self.events.clone());
            self.tasks.spawn(async move {
                let answer = spoke.heartbeat(&heartbeat).await.ok();
                let _ = events
                    .send(Event::Heartbeat(ix, heartbeat.session, answer))
                    .await;
            });
        }
    }

    /// Renews the lease every second, as long as it is ours.
    pub(super) fn spawn_lease(&mut self) {
        let (source, events, mut lease) = (
            self.parts.source.clone(),
            self.events.clone(),
            self.lease.clone(),
        );
        self.tasks.spawn(async move {
            loop {
                tokio::time::sleep(RENEW_EVERY).await;
                let event = match renew(&source, &mut lease).await {
                    Ok(sent) => Event::Renewed(sent),
                    Err(SourceError::TermOver) => Event::LeaseLost(
                        "another publisher took the lease, or the database was replaced".into(),
                    ),
                    Err(e) => {
                        crate::metrics::database_failed();
                        tracing::warn!(error = %e, "the lease cannot be renewed");
                        continue;
                    }
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Looks at the outbox; requests of other commands come with it.
    pub(super) fn spawn_look(&mut self, request: LookRequest) {
        let (source, events) = (self.parts.source.clone(), self.events.clone());
        let (term, again) = (self.lease.term, self.take_again);
        self.tasks.spawn(async move {
            // What was found before leaves first.
            tokio::task::yield_now().await;
            let looking = source.look(term, &request, again);
            let found = source.within(STATEMENT_WITHIN, looking).await;
            let _ = events.send(Event::Looked(request.id, found)).await;
        });
    }

    /// Acknowledges rows of the outbox.
    pub(super) fn spawn_ack(&mut self, request: AckRequest) {
        let (source, events, term) = (
            self.parts.source.clone(),
            self.events.clone(),
            self.lease.term,
        );
        let urls: Vec<String> = self.parts.spokes.iter().map(|s| s.url.clone()).collect();
        self.tasks.spawn(async move {
            let acknowledging = source.acknowledge(term, &request, &urls);
            let xid = match source.within(ACK_WITHIN, acknowledging).await {
                Ok(xid) => Some(xid),
                // A term that is over shows at the lease.
                Err(e) => {
                    tracing::debug!(error = %e, "changes were not acknowledged");
                    None
                }
            };
            let _ = events.send(Event::Acked(xid)).await;
        });
    }

    /// Writes down what is held, and forgets what is held no longer.
    pub(super) fn spawn_hold_work(&mut self, work: HoldWork) {
        let (source, events, term) = (
            self.parts.source.clone(),
            self.events.clone(),
            self.lease.term,
        );
        self.tasks.spawn(async move {
            let writing = async {
                if let Some(hold) = &work.hold {
                    source.hold(term, hold).await?;
                }
                if !work.void.is_empty() {
                    source.forget_holds(term, &work.void).await?;
                }
                if !work.passed.is_empty() {
                    source.record_passed(term, &work.passed).await?;
                }
                match work.settled.is_empty() {
                    true => Ok(()),
                    false => source.record_settled(term, &work.settled).await,
                }
            };
            let written = source.within(ACK_WITHIN, writing).await;
            if let Err(e) = &written {
                tracing::warn!(error = %e, "what is held could not be written down; nothing of it leaves until it is");
            }
            let _ = events.send(Event::HoldsWritten(written.is_ok())).await;
        });
    }

    /// Changes the row of the beat.
    pub(super) fn spawn_beat(&mut self) {
        let (source, events, term) = (
            self.parts.source.clone(),
            self.events.clone(),
            self.lease.term,
        );
        self.tasks.spawn(async move {
            let beat = source.within(STATEMENT_WITHIN, source.beat(term)).await;
            let beat = beat.ok().map(|n| (n, Instant::now()));
            let _ = events.send(Event::Beat(beat)).await;
        });
    }

    /// Counts what is paused, and what the guard holds.
    pub(super) fn spawn_count_of_stopped(&mut self) {
        let (source, events) = (self.parts.source.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let stopped = source.within(STATEMENT_WITHIN, source.stopped()).await;
            let _ = events.send(Event::Stopped(stopped.ok())).await;
        });
    }

    /// Looks whether every change still leaves a row.
    pub(super) fn spawn_trigger_check(&mut self) {
        let (source, events) = (self.parts.source.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let checked = source
                .within(STATEMENT_WITHIN, source.look_at_triggers())
                .await;
            let _ = events.send(Event::Triggers(checked)).await;
        });
    }
}

async fn renew(source: &Source, lease: &mut Lease) -> Result<Instant, SourceError> {
    let sent = Instant::now();
    source
        .within(RENEW_WITHIN, source.renew_lease(lease))
        .await?;
    Ok(sent)
}

async fn send(source: &Source, spoke: &Spoke, term: Term, request: Request) -> Answer {
    match request {
        Request::Hello => greet(source, spoke).await,
        Request::Claim(claim) => {
            if let Some(id) = claim.seen.last_synced.filter(|_| !claim.known) {
                let recording = source.record_synced(term, id, &spoke.url);
                if let Err(e) = source.within(STATEMENT_WITHIN, recording).await {
                    return Answer::Lost(e.to_string());
                }
            }
            answer(spoke.claim(&claim).await, |g| Answer::Granted(Box::new(g)))
        }
        Request::Push(push) => {
            // A push that carries but a beat has nothing to lose.
            let pass = |name| match push.bundles.is_empty() {
                true => {}
                false => failpoint::pass(name),
            };
            pass(failpoint::BEFORE_PUSH);
            let answered = spoke.push(&push).await;
            pass(failpoint::AFTER_ACK);
            answer(answered, Answer::Pushed)
        }
        Request::PushDelta(push) => {
            failpoint::pass(failpoint::BEFORE_PUSH);
            let answered = spoke.push_delta(&push).await;
            failpoint::pass(failpoint::AFTER_ACK);
            match answered {
                Err(CallError::Unknown(_)) => Answer::KnowsNoDeltas,
                answered => answer(answered, |pushed| match pushed {
                    PushedDelta::Pushed(pushed) => Answer::Pushed(pushed),
                    PushedDelta::Differs { tenants, reading } => Answer::Differs(tenants, reading),
                }),
            }
        }
        Request::Synced(synced) => {
            let recording = source.record_synced(term, synced.id, &spoke.url);
            if let Err(e) = source.within(STATEMENT_WITHIN, recording).await {
                return Answer::Lost(e.to_string());
            }
            answer(spoke.synced(&synced).await, Answer::Synced)
        }
        Request::ListBuckets(list) => answer(spoke.list(&list).await, Answer::Listed),
        Request::Names(ask) => answer(spoke.read_from(&ask).await, |read| {
            Answer::Names(read.tenants.into_iter().map(names).collect())
        }),
        Request::Release(release) => answer(spoke.release(&release).await, |_| Answer::Released),
    }
}

/// What a store has of a tenant.
fn names(state: TenantState) -> (TenantId, Vec<Told>) {
    let told = state.contexts.into_iter().map(|context| Told {
        value: value_of(&context),
        kind: context.kind,
        key: context.key,
    });
    (state.tenant, told.collect())
}

/// Asks a store who it is, and the database whether it knows the writer that the store names.
async fn greet(source: &Source, spoke: &Spoke) -> Answer {
    match spoke.greet().await {
        Ok(Ok(state)) => match source
            .within(STATEMENT_WITHIN, source.knows(&state.seen()))
            .await
        {
            Ok(known) => Answer::Hello {
                state: Box::new(state),
                known,
            },
            Err(e) => Answer::Lost(e.to_string()),
        },
        Ok(Err(refused)) => Answer::Refused(refused),
        Err(CallError::Lost(why)) => Answer::Lost(why),
        Err(CallError::Rejected(why) | CallError::Unknown(why)) => Answer::Rejected(why),
    }
}

fn answer<A>(answered: Called<A>, good: impl FnOnce(A) -> Answer) -> Answer {
    match answered {
        Ok(Ok(answer)) => good(answer),
        Ok(Err(refused)) => Answer::Refused(refused),
        Err(CallError::Lost(why)) => Answer::Lost(why),
        Err(CallError::Rejected(why) | CallError::Unknown(why)) => Answer::Rejected(why),
    }
}
