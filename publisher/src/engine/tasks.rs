//! The tasks of a term: builds, messages, heartbeats, the lease, requests of other commands.

use super::{Engine, Event};
use crate::ask::Ask;
use crate::failpoint;
use crate::source::hub::Lease;
use crate::source::{Source, SourceError};
use crate::spoke::{ASK_WITHIN, CallError, PUSH_WITHIN, Spoke};
use crate::writer::{Answer, BuildRequest, Request, StoreIx};
use contexts::push::{Ack, Granted, Hello, Listed, Pushed, Refused, StoreState, SyncVerdict};
use contexts::version::Term;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How long a renewal may take; later it would come too late anyway.
const RENEW_WITHIN: Duration = Duration::from_secs(3);
/// How long other short statements may take.
const STATEMENT_WITHIN: Duration = Duration::from_secs(10);
/// How often the server looks for requests while it waits for one.
const LOOK_EVERY_MS: i32 = 5;

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
            let result = source.build(&request, &regions).await;
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
                let answer = spoke
                    .call::<_, Ack>("heartbeat", &heartbeat, ASK_WITHIN)
                    .await
                    .ok();
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

    /// Hands requests of other commands to the writer, and drops what it cannot read.
    pub(super) fn spawn_requests(&mut self) {
        let (source, events, term) = (
            self.parts.source.clone(),
            self.events.clone(),
            self.lease.term,
        );
        self.tasks.spawn(async move {
            let (mut again, mut seen) = (false, HashSet::new());
            loop {
                let waiting = source.wait_for_requests(term, LOOK_EVERY_MS, again);
                let pending = match source.within(STATEMENT_WITHIN, waiting).await {
                    Ok(pending) => pending,
                    Err(_) => {
                        again = true;
                        // The lease says that the database is away; no need to say it twice.
                        tokio::time::sleep(RENEW_EVERY).await;
                        continue;
                    }
                };
                again = false;
                let pending: Vec<_> = pending.into_iter().filter(|r| seen.insert(r.id)).collect();
                for request in pending {
                    match serde_json::from_str::<Ask>(&request.request) {
                        Ok(ask) => {
                            if events.send(Event::Asked(request.id, ask)).await.is_err() {
                                return;
                            }
                        }
                        Err(e) => {
                            let reply = crate::ask::Reply::Failed(format!(
                                "the writer cannot read the request: {e}"
                            ));
                            let receipt = serde_json::to_string(&reply).unwrap_or_default();
                            let _ = source.write_receipt(term, request.id, &receipt).await;
                        }
                    }
                }
            }
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
        Request::Claim(claim) => answer(
            spoke.call::<_, Granted>("claim", &claim, ASK_WITHIN).await,
            |g| Answer::Granted(Box::new(g)),
        ),
        Request::Push(push) => {
            failpoint::pass(failpoint::BEFORE_PUSH);
            let answered = spoke.call::<_, Pushed>("push", &push, PUSH_WITHIN).await;
            failpoint::pass(failpoint::AFTER_ACK);
            answer(answered, Answer::Pushed)
        }
        Request::Synced(synced) => {
            let recording = source.record_synced(term, synced.id, &spoke.url);
            if let Err(e) = source.within(STATEMENT_WITHIN, recording).await {
                return Answer::Lost(e.to_string());
            }
            answer(
                spoke
                    .call::<_, SyncVerdict>("synced", &synced, PUSH_WITHIN)
                    .await,
                Answer::Synced,
            )
        }
        Request::ListBuckets(list) => answer(
            spoke
                .call::<_, Vec<Listed>>("buckets", &list, PUSH_WITHIN)
                .await,
            Answer::Listed,
        ),
        Request::Release(release) => answer(
            spoke
                .call::<_, Ack>("release", &release, Duration::from_secs(2))
                .await,
            |_| Answer::Released,
        ),
    }
}

/// Asks a store who it is, and the database whether it knows the writer that the store names.
async fn greet(source: &Source, spoke: &Spoke) -> Answer {
    match spoke
        .call::<_, StoreState>("hello", &Hello, ASK_WITHIN)
        .await
    {
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
        Err(CallError::Rejected(why)) => Answer::Rejected(why),
    }
}

fn answer<A>(
    answered: Result<Result<A, Refused>, CallError>,
    good: impl FnOnce(A) -> Answer,
) -> Answer {
    match answered {
        Ok(Ok(answer)) => good(answer),
        Ok(Err(refused)) => Answer::Refused(refused),
        Err(CallError::Lost(why)) => Answer::Lost(why),
        Err(CallError::Rejected(why)) => Answer::Rejected(why),
    }
}
