//! How a command gets something done: by the writer that there is, through `hubcast.requests`; without one, by being
//! the writer itself for as long as it takes. A writer that has gone silent is waited for until its lease has run out.

use crate::ask::{Ask, Orders, Reply};
use crate::candidate::{Candidate, Look};
use crate::engine::{EngineView, Parts, TermEnd};
use crate::source::SourceError;
use crate::source::hub::Lease;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Longest wait for an answer that the writer owes while it shows no sign of life, or for receipts.
const WITHIN: Duration = Duration::from_secs(40);
/// How long the database may take to answer.
const DATABASE_WITHIN: Duration = Duration::from_secs(15);
const LOOK_AT_LEASE: Duration = Duration::from_millis(250);
/// A receipt is looked for after a twentieth of the time that was waited for it, between these: what takes milliseconds is
/// answered at once, and what takes half a minute costs the primary a statement now and then.
const LOOK_FOR_RECEIPT: Duration = Duration::from_millis(2);
const LOOK_FOR_RECEIPT_MAX: Duration = Duration::from_millis(250);

/// What a waiting command shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Nothing to tell yet.
    Connecting,
    /// Another process does it.
    Asked {
        /// Which.
        host: String,
    },
    /// This process does it.
    Writing(Box<EngineView>),
}

/// Gets something done.
///
/// # Errors
/// A line for a person, if it cannot be asked of anybody.
pub async fn ask(parts: &Parts, ask: Ask, stage: &watch::Sender<Stage>) -> Result<Reply, String> {
    let mut candidate = Candidate::default();
    match wait(parts, &ask, Some(&mut candidate), stage).await? {
        Waited::Reply(reply) => Ok(reply),
        Waited::Lease(lease) => be_the_writer(parts, &mut candidate, *lease, ask, stage).await,
    }
}

/// Asks the writer that there is, and never becomes it: for a daemon that stands by, and does so itself.
///
/// # Errors
/// A line for a person, if there is no answer.
pub async fn ask_the_writer(
    parts: &Parts,
    ask: Ask,
    stage: &watch::Sender<Stage>,
) -> Result<Reply, String> {
    match wait(parts, &ask, None, stage).await? {
        Waited::Reply(reply) => Ok(reply),
        Waited::Lease(_) => Err("there is no writer".to_owned()),
    }
}

/// Becomes the writer by force, takes the stores by force, and does it.
///
/// # Errors
/// A line for a person, if the lease cannot be taken.
pub async fn take_over(
    parts: &Parts,
    ask: Ask,
    stage: &watch::Sender<Stage>,
) -> Result<Reply, String> {
    let mut candidate = Candidate::default();
    let lease = bounded(parts, candidate.take_by_force(parts)).await?;
    be_the_writer(parts, &mut candidate, lease, ask, stage).await
}

enum Waited {
    Reply(Reply),
    Lease(Box<Lease>),
}

/// Leaves the request and waits for its receipt, or until the candidate has the lease.
async fn wait(
    parts: &Parts,
    ask: &Ask,
    mut candidate: Option<&mut Candidate>,
    stage: &watch::Sender<Stage>,
) -> Result<Waited, String> {
    let mut request: Option<i64> = None;
    let began = Instant::now();
    let mut looked: Option<Instant> = None;
    let text = serde_json::to_string(ask).map_err(|e| e.to_string())?;
    loop {
        if looked.is_none_or(|at| at.elapsed() >= LOOK_AT_LEASE) {
            looked = Some(Instant::now());
            let look = match &mut candidate {
                Some(candidate) => {
                    parts
                        .source
                        .within(DATABASE_WITHIN, candidate.look(parts))
                        .await
                }
                None => parts
                    .source
                    .within(DATABASE_WITHIN, parts.source.lease())
                    .await
                    .map(Look::Held),
            };
            match look.map_err(|e| e.to_string())? {
                Look::Taken(lease) => {
                    if let Some(id) = request.take() {
                        // It may have been answered just before.
                        if let Some(reply) = receipt(parts, id).await? {
                            let _ = parts.source.release_lease(lease.term).await;
                            return Ok(Waited::Reply(reply));
                        }
                        bounded(parts, parts.source.withdraw_request(id)).await?;
                    }
                    return Ok(Waited::Lease(Box::new(lease)));
                }
                Look::Held(info) => {
                    stage.send_replace(Stage::Asked { host: info.host });
                    if let Some(id) = request
                        && !bounded(parts, parts.source.has_request(id)).await?
                        && receipt(parts, id).await?.is_none()
                    {
                        let hint = "run the command again";
                        return Err(format!(
                            "the request was dropped before it was answered; {hint}"
                        ));
                    }
                    if request.is_none() {
                        request = Some(bounded(parts, parts.source.leave_request(&text)).await?);
                    }
                }
            }
        }
        if let Some(id) = request
            && let Some(reply) = receipt(parts, id).await?
        {
            return Ok(Waited::Reply(reply));
        }
        // A scan takes as long as it takes while its writer lives; were it silent, the lease would have been taken.
        let owed = !matches!(ask, Ask::Scan { .. }) || candidate.is_none();
        if owed && began.elapsed() > WITHIN {
            if let Some(id) = request {
                let _ = bounded(parts, parts.source.withdraw_request(id)).await;
            }
            return Err(
                "the publisher that is the writer did not answer within 40 s; see its log"
                    .to_owned(),
            );
        }
        let pause = began.elapsed() / 20;
        tokio::time::sleep(pause.clamp(LOOK_FOR_RECEIPT, LOOK_FOR_RECEIPT_MAX)).await;
    }
}

async fn receipt(parts: &Parts, id: i64) -> Result<Option<Reply>, String> {
    let text = bounded(parts, parts.source.fetch_receipt(id)).await?;
    text.map(|t| serde_json::from_str(&t).map_err(|e| format!("the receipt cannot be read: {e}")))
        .transpose()
}

async fn bounded<T>(
    parts: &Parts,
    asking: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, String> {
    parts
        .source
        .within(DATABASE_WITHIN, asking)
        .await
        .map_err(|e| e.to_string())
}

async fn be_the_writer(
    parts: &Parts,
    candidate: &mut Candidate,
    lease: Lease,
    ask: Ask,
    stage: &watch::Sender<Stage>,
) -> Result<Reply, String> {
    let (orders, mut incoming) = Orders::new();
    let (view, mut seen) = watch::channel(None);
    let (stop, mut stopped) = watch::channel(false);
    let term = candidate.serve(parts, lease, &mut incoming, &view, &mut stopped);
    let work = async {
        let reply = orders.ask(ask).await;
        stop.send_replace(true);
        reply
    };
    let show = async {
        while seen.changed().await.is_ok() {
            if let Some(view) = seen.borrow_and_update().clone() {
                stage.send_replace(Stage::Writing(Box::new(view)));
            }
        }
    };
    tokio::pin!(term, work, show);
    let mut reply = None;
    loop {
        tokio::select! {
            end = &mut term => {
                return match (reply.flatten(), end) {
                    (Some(reply), _) => Ok(reply),
                    (None, Ok(TermEnd::Lost(why))) => Err(format!("another publisher became the writer ({why}); run the command again")),
                    (None, Ok(TermEnd::Stopped)) => Err("interrupted".to_owned()),
                    (None, Err(e)) => Err(e.to_string()),
                };
            }
            done = &mut work, if reply.is_none() => reply = Some(done),
            () = &mut show => {}
        }
    }
}
