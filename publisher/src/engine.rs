//! Runs the writer: does what [`crate::writer::Writer`] decides, and tells it what came of it.
//!
//! One loop owns the writer; builds, pushes, heartbeats and the lease are tasks that report back to it. Nothing here
//! decides what to build or to send.

mod reports;
mod tasks;
mod view;

pub use view::{EngineView, ScanView, StoreView};

use crate::ask::{Ask, Order, RECEIPTS_WITHIN, Reply};
use crate::source::capture::Found;
use crate::source::hub::{Lease, PendingRequest};
use crate::source::stopped::Stopped;
use crate::source::{Source, SourceError};
use crate::spoke::Spoke;
use crate::tail::Tail;
use crate::writer::lease::Tenure;
use crate::writer::{
    Answer, BatchId, BuiltBatch, LookId, ScanId, StoreIx, StoreSpec, Ticket, Writer, WriterLimits,
};
use contexts::name::Region;
use contexts::push::{Ack, Refused};
use contexts::version::SessionId;
use contexts_dynamodb::units::Used;
use reports::Reporter;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// How a term ended.
#[derive(Debug)]
pub enum TermEnd {
    /// It was asked to stop, and gave everything back.
    Stopped,
    /// Somebody else is the writer, or the database is another one.
    Lost(String),
}

/// Something that a task reports.
#[derive(Debug)]
pub(crate) enum Event {
    Built(BatchId, Result<BuiltBatch, SourceError>),
    Answered(StoreIx, Answer),
    Heartbeat(StoreIx, SessionId, Option<Result<Ack, Refused>>),
    Renewed(Instant),
    LeaseLost(String),
    Looked(LookId, Result<Found, SourceError>),
    Acked(Option<u64>),
    Beat(Option<(u64, Instant)>),
    Triggers(Result<(String, Option<String>), SourceError>),
    HoldsWritten(bool),
    Stopped(Option<Stopped>),
}

/// Where the answer to a request goes.
#[derive(Debug)]
enum Asker {
    Here(oneshot::Sender<Reply>),
    Database(i64),
}

/// What the engine works with.
#[derive(Debug)]
pub struct Parts {
    /// The primary.
    pub source: Source,
    /// The stores of the configuration.
    pub spokes: Vec<Arc<Spoke>>,
    /// Where it is told what goes out.
    pub tail: Arc<Tail>,
}

/// The writer in its term, with everything around it.
struct Engine<'a> {
    parts: &'a Parts,
    lease: Lease,
    writer: Writer,
    regions: Arc<[Region]>,
    born: Instant,
    tenure: Tenure,
    events: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    /// What is to be finished although the term ends.
    errands: JoinSet<()>,
    beating: Vec<bool>,
    beat_at: Instant,
    /// Requests of other commands that were taken in this term, and whether some may have been missed.
    taken: BTreeSet<i64>,
    take_again: bool,
    /// When the row of the beat is due, unless one is under way.
    own_beat_at: Option<Instant>,
    /// When it is counted again what is stopped, unless that is under way.
    stopped_at: Option<Instant>,
    /// When the triggers are looked at again, unless that is under way.
    triggers_at: Option<Instant>,
    scans_seen: Option<ScanId>,
    /// What tables had cost when the scan began.
    units_before: Vec<Used>,
    shown_at: Instant,
    republishing: HashMap<Ticket, Asker>,
    scanning: HashMap<ScanId, Asker>,
    asking: HashMap<Ticket, Asker>,
    recalling: HashMap<Ticket, Asker>,
    reporter: Reporter,
    view: &'a watch::Sender<Option<EngineView>>,
}

const TICK: Duration = Duration::from_millis(50);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often the row of the beat is changed.
const OWN_BEAT: Duration = Duration::from_secs(2);
/// How often it is counted what is stopped.
const COUNT_STOPPED: Duration = Duration::from_secs(10);
/// How often the triggers themselves are looked at, beside every scan.
const LOOK_AT_TRIGGERS: Duration = Duration::from_secs(60);
/// The same, if that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long receipts and records may take after the end of a term.
const ERRANDS_WITHIN: Duration = Duration::from_secs(2);
/// How long the giving back of the lease may take.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);
/// How long a clean stop may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(4);
/// Requests of which it is remembered that they were taken, the last ones.
const TAKEN_MAX: usize = 100_000;

/// Is the writer until `stop` or until the lease is lost. The view is kept up to date, and taken away at the end.
///
/// # Errors
/// [`SourceError`] if the definitions cannot be read at the beginning.
pub async fn run_term(
    parts: &Parts,
    lease: Lease,
    orders: &mut mpsc::Receiver<Order>,
    view: &watch::Sender<Option<EngineView>>,
    stop: &mut watch::Receiver<bool>,
) -> Result<TermEnd, SourceError> {
    let parts = &Parts {
        source: parts.source.in_term(&lease),
        spokes: parts.spokes.clone(),
        tail: parts.tail.clone(),
    };
    let definitions = parts.source.definitions().await?;
    let spec = |s: &Arc<Spoke>| StoreSpec {
        name: s.name(),
        region: s.region.clone(),
    };
    let stores = parts.spokes.iter().map(spec).collect();
    let limits = WriterLimits::default();
    let mut writer = Writer::new(
        lease.term,
        definitions.digest_key.clone(),
        stores,
        limits,
        0,
    );
    if lease.is_forced {
        writer.force();
    }
    writer.resume_retries(parts.source.retries().await?);
    writer.guard_by(definitions.guards);
    let last_scan = parts.source.last_scan().await?;
    crate::metrics::database_answered();
    crate::metrics::begin_term(writer.stores().map(|(_, store)| &store.spec));
    writer.resume_guard(
        &parts.source.passed().await?,
        &parts.source.settled().await?,
    );
    let (events, mut incoming) = mpsc::channel(1024);
    let now = Instant::now();
    let mut engine = Engine {
        parts,
        regions: writer.regions().into(),
        beating: vec![false; parts.spokes.len()],
        writer,
        lease: lease.clone(),
        // The lease counts from when it was asked for.
        born: lease.sent,
        tenure: Tenure::new(Duration::ZERO),
        events,
        tasks: JoinSet::new(),
        errands: JoinSet::new(),
        beat_at: now,
        taken: BTreeSet::new(),
        take_again: false,
        own_beat_at: Some(now),
        stopped_at: Some(now),
        triggers_at: Some(now),
        scans_seen: None,
        units_before: Vec::new(),
        shown_at: now,
        republishing: HashMap::new(),
        scanning: HashMap::new(),
        asking: HashMap::new(),
        recalling: HashMap::new(),
        reporter: Reporter::new(last_scan.map_or(0.0, |(seconds_ago, _)| seconds_ago)),
        view,
    };
    tracing::info!(epoch = lease.term.epoch, "this publisher is the writer");
    engine.spawn_lease();
    let end = engine.run(&mut incoming, orders, stop).await;
    engine.tasks.abort_all();
    let errands = async { while engine.errands.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(ERRANDS_WITHIN, errands).await;
    view.send_replace(None);
    if matches!(end, TermEnd::Stopped)
        && let Err(e) = parts
            .source
            .within(RELEASE_WITHIN, parts.source.release_lease(lease.term))
            .await
    {
        tracing::warn!(error = %e, "the lease could not be given back; it runs out by itself in 5 s");
    }
    Ok(end)
}

impl Engine<'_> {
    fn now(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    async fn run(
        &mut self,
        incoming: &mut mpsc::Receiver<Event>,
        orders: &mut mpsc::Receiver<Order>,
        stop: &mut watch::Receiver<bool>,
    ) -> TermEnd {
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut closing: Option<Instant> = None;
        loop {
            let now = self.now();
            let wake = self.writer.wake_at(now).map_or(TICK, |at| {
                Duration::from_millis(at.saturating_sub(now).max(1))
            });
            tokio::select! {
                Some(event) = incoming.recv() => {
                    if let Some(end) = self.take(event) {
                        return end;
                    }
                    while let Ok(event) = incoming.try_recv() {
                        if let Some(end) = self.take(event) {
                            return end;
                        }
                    }
                }
                Some(order) = orders.recv() => self.accept(order.ask, Asker::Here(order.reply)),
                _ = ticker.tick() => {}
                () = tokio::time::sleep(wake), if wake < TICK => {}
                Ok(()) = stop.changed(), if closing.is_none() => {}
            }
            if *stop.borrow() && closing.is_none() {
                closing = Some(Instant::now());
                self.writer.close();
            }
            self.step();
            let late = closing.is_some_and(|since| since.elapsed() > CLOSE_WITHIN);
            if self.writer.is_closed() || late {
                return TermEnd::Stopped;
            }
            if self.tenure.is_over(Duration::from_millis(self.now())) {
                return TermEnd::Lost("the lease could not be renewed for 15 s".into());
            }
        }
    }

    fn take(&mut self, event: Event) -> Option<TermEnd> {
        let now = self.now();
        match event {
            Event::Built(id, result) => {
                self.writer
                    .built(now, id, result.map_err(|e| e.to_string()))
            }
            Event::Answered(ix, answer) => self.writer.answered(ix, now, answer),
            Event::Heartbeat(ix, session, answer) => {
                self.beating[ix.0] = false;
                self.writer.heartbeat_answered(ix, now, session, answer);
            }
            Event::Renewed(sent) => {
                crate::metrics::database_answered();
                let sent = sent.saturating_duration_since(self.born);
                self.tenure.renewed(sent);
            }
            Event::LeaseLost(why) => return Some(TermEnd::Lost(why)),
            Event::Looked(id, found) => self.looked(now, id, found),
            Event::Acked(xid) => self.writer.acked(now, xid),
            Event::Beat(beat) => {
                self.own_beat_at = Some(Instant::now() + OWN_BEAT);
                if let Some((n, at)) = beat {
                    let at = at.saturating_duration_since(self.born).as_millis() as u64;
                    self.writer.beat_committed(n, at);
                }
            }
            Event::Triggers(checked) => self.checked_triggers(checked),
            Event::HoldsWritten(written) => {
                self.writer.hold_work_done(now, written);
                self.count_stopped_now();
            }
            Event::Stopped(stopped) => {
                self.stopped_at = Some(Instant::now() + COUNT_STOPPED);
                // What was counted last stays: the database is away, or slow.
                self.reporter.stopped = stopped.or(self.reporter.stopped.take());
            }
        }
        None
    }

    fn count_stopped_now(&mut self) {
        self.stopped_at = self.stopped_at.map(|_| Instant::now());
    }

    fn checked_triggers(&mut self, checked: Result<(String, Option<String>), SourceError>) {
        let again = match checked {
            Ok((as_they_are, gap)) => {
                self.writer.checked_triggers(&as_they_are, gap);
                LOOK_AT_TRIGGERS
            }
            Err(e) => {
                tracing::warn!(error = %e, "the change triggers cannot be looked at");
                self.writer.triggers_unchecked(&e.to_string());
                LOOK_AGAIN
            }
        };
        self.triggers_at = Some(Instant::now() + again);
    }

    fn looked(&mut self, now: u64, id: LookId, found: Result<Found, SourceError>) {
        self.take_again = found.is_err();
        match found {
            Ok(Found {
                looked,
                requests,
                is_filling,
                spun,
            }) => {
                self.writer.spun(spun);
                self.writer.looked(now, id, Ok(looked));
                if is_filling {
                    self.writer.outbox_fills(now);
                }
                for request in requests {
                    self.take_request(request);
                }
            }
            // The lease says that the database is away; no need to say it twice.
            Err(e) => self.writer.looked(now, id, Err(e.to_string())),
        }
    }

    /// Hands a request of another command to the writer, or says that it cannot be read.
    fn take_request(&mut self, request: PendingRequest) {
        if !self.taken.insert(request.id) {
            return;
        }
        if self.taken.len() > TAKEN_MAX {
            self.taken.pop_first();
        }
        match serde_json::from_str::<Ask>(&request.request) {
            Ok(ask) => self.accept(ask, Asker::Database(request.id)),
            Err(e) => {
                let why = format!("the writer cannot read the request: {e}");
                self.reply(Asker::Database(request.id), Reply::Failed(why));
            }
        }
    }

    fn accept(&mut self, ask: Ask, asker: Asker) {
        let now = self.now();
        match ask {
            Ask::Republish { tenants, regions } => {
                metrics::counter!(crate::metrics::REQUESTS, "request" => "republish").increment(1);
                let within = RECEIPTS_WITHIN.as_millis() as u64;
                let ticket = self.writer.republish(now, tenants, &regions, within);
                self.republishing.insert(ticket, asker);
            }
            Ask::Scan {
                cause,
                regions,
                reread,
                allow_mass_delete,
            } => {
                metrics::counter!(crate::metrics::REQUESTS, "request" => "scan").increment(1);
                let id = self
                    .writer
                    .request_scan(&cause, regions, reread, allow_mass_delete);
                self.scanning.insert(id, asker);
            }
            Ask::Recall => {
                metrics::counter!(crate::metrics::REQUESTS, "request" => "recall").increment(1);
                self.count_stopped_now();
                let ticket = self.writer.recall();
                self.recalling.insert(ticket, asker);
            }
            Ask::Visible { server, .. } if server != self.lease.server => {
                let why = "the writer's term began on another server of the database, and is about to end: ask again";
                self.reply(asker, Reply::Failed(why.into()));
            }
            Ask::Visible {
                xid,
                regions,
                within,
                ..
            } => {
                metrics::counter!(crate::metrics::REQUESTS, "request" => "visible").increment(1);
                let ticket = self.writer.ask_visible(now, xid, &regions, within);
                self.asking.insert(ticket, asker);
            }
        }
    }

    /// Does everything that is to be done now.
    fn step(&mut self) {
        let now = self.now();
        match (
            self.tenure.holds(Duration::from_millis(now)),
            self.writer.is_suspended(),
        ) {
            (false, false) => {
                tracing::warn!("the lease was not renewed for 3 s: nothing is sent until it is");
                self.writer.suspend();
            }
            (true, true) => {
                tracing::info!("the lease is renewed");
                self.writer.resume();
            }
            _ => {}
        }
        tasks::reap(&mut self.errands);
        tasks::reap(&mut self.tasks);
        self.writer.follow(self.parts.tail.followers() > 0);
        self.writer.tick(now);
        let scan = self.writer.scan().map(|s| s.id);
        let scan_began = scan.is_some() && scan != self.scans_seen;
        self.scans_seen = scan;
        if scan_began {
            self.units_before = reports::used(&self.parts.spokes);
        }
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= Instant::now()).is_some();
        if is_due(&mut self.own_beat_at) {
            self.spawn_beat();
        }
        if is_due(&mut self.stopped_at) {
            self.spawn_count_of_stopped();
        }
        if is_due(&mut self.triggers_at) || (scan_began && self.triggers_at.take().is_some()) {
            self.spawn_trigger_check();
        }
        if self.beat_at.elapsed() >= HEARTBEAT {
            self.beat_at = Instant::now();
            self.spawn_heartbeats();
            reports::units(&self.parts.spokes);
        }
        self.report();
        // What a change waits for comes last: the runtime begins with the task that it was given last.
        if let Some(request) = self.writer.next_ack(now) {
            self.spawn_ack(request);
        }
        if let Some(work) = self.writer.next_hold_work(now) {
            self.spawn_hold_work(work);
        }
        let builds: Vec<_> = std::iter::from_fn(|| self.writer.next_build(now)).collect();
        if let Some(request) = self.writer.next_look(now) {
            self.spawn_look(request);
        }
        builds.into_iter().for_each(|b| self.spawn_build(b));
        for ix in (0..self.parts.spokes.len()).map(StoreIx) {
            if let Some(request) = self.writer.next_request(ix, now, &mut tasks::draw) {
                self.spawn_request(ix, request);
            }
        }
        if self.shown_at.elapsed() >= TICK {
            self.shown_at = Instant::now();
            self.view
                .send_replace(Some(EngineView::of(&self.writer, now, &self.reporter)));
        }
    }
}
