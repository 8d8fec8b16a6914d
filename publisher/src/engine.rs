//! Runs the writer: does what [`crate::writer::Writer`] decides, and tells it what came of it.
//!
//! One loop owns the writer; builds, pushes, heartbeats and the lease are tasks that report back to it. Nothing here
//! decides what to build or to send.

mod reports;
mod tasks;
mod view;

pub use view::{EngineView, ScanView, StoreView};

use crate::ask::{Ask, Order, RECEIPTS_WITHIN, Reply};
use crate::source::hub::Lease;
use crate::source::{Source, SourceError};
use crate::spoke::Spoke;
use crate::writer::lease::Tenure;
use crate::writer::{
    Answer, BatchId, BuiltBatch, ScanId, StoreIx, StoreSpec, Ticket, Writer, WriterLimits,
};
use contexts::name::Region;
use contexts::push::{Ack, Refused};
use contexts::version::SessionId;
use reports::Reporter;
use std::collections::HashMap;
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
    Asked(i64, Ask),
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
    /// The agents of the configuration.
    pub spokes: Vec<Arc<Spoke>>,
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
    shown_at: Instant,
    republishing: HashMap<Ticket, Asker>,
    scanning: HashMap<ScanId, Asker>,
    reporter: Reporter,
    view: &'a watch::Sender<Option<EngineView>>,
}

const TICK: Duration = Duration::from_millis(50);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long receipts and records may take after the end of a term.
const ERRANDS_WITHIN: Duration = Duration::from_secs(2);
/// How long the giving back of the lease may take.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);
/// How long a clean stop may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(4);

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
    let definitions = parts.source.definitions().await?;
    let spec = |s: &Arc<Spoke>| StoreSpec {
        name: s.name(),
        region: s.region.clone(),
    };
    let stores = parts.spokes.iter().map(spec).collect();
    let limits = WriterLimits::default();
    let writer = Writer::new(
        lease.term,
        definitions.digest_key.clone(),
        stores,
        limits,
        0,
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
        shown_at: now,
        republishing: HashMap::new(),
        scanning: HashMap::new(),
        reporter: Reporter::default(),
        view,
    };
    tracing::info!(epoch = lease.term.epoch, "this publisher is the writer");
    metrics::gauge!(crate::metrics::IS_WRITER).set(1.0);
    metrics::gauge!(crate::metrics::EPOCH).set(lease.term.epoch as f64);
    engine.spawn_lease();
    engine.spawn_requests();
    let end = engine.run(&mut incoming, orders, stop).await;
    engine.tasks.abort_all();
    let errands = async { while engine.errands.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(ERRANDS_WITHIN, errands).await;
    metrics::gauge!(crate::metrics::IS_WRITER).set(0.0);
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
            Event::Renewed(sent) => self
                .tenure
                .renewed(sent.saturating_duration_since(self.born)),
            Event::LeaseLost(why) => return Some(TermEnd::Lost(why)),
            Event::Asked(id, ask) => self.accept(ask, Asker::Database(id)),
        }
        None
    }

    fn accept(&mut self, ask: Ask, asker: Asker) {
        let now = self.now();
        match ask {
            Ask::Republish { tenants, regions } => {
                metrics::counter!(crate::metrics::REQUESTS, "kind" => "republish").increment(1);
                let within = RECEIPTS_WITHIN.as_millis() as u64;
                let ticket = self.writer.republish(now, tenants, &regions, within);
                self.republishing.insert(ticket, asker);
            }
            Ask::Scan {
                cause,
                regions,
                reread,
            } => {
                metrics::counter!(crate::metrics::REQUESTS, "kind" => "scan").increment(1);
                let id = self.writer.request_scan(&cause, regions, reread);
                self.scanning.insert(id, asker);
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
        self.writer.tick(now);
        while let Some(request) = self.writer.next_build(now) {
            self.spawn_build(request);
        }
        for ix in (0..self.parts.spokes.len()).map(StoreIx) {
            if let Some(request) = self.writer.next_request(ix, now, &mut tasks::draw) {
                self.spawn_request(ix, request);
            }
        }
        if self.beat_at.elapsed() >= HEARTBEAT {
            self.beat_at = Instant::now();
            self.spawn_heartbeats();
            self.reporter.gauges(&self.writer, now);
        }
        self.report();
        if self.shown_at.elapsed() >= TICK {
            self.shown_at = Instant::now();
            self.view.send_replace(Some(EngineView::of(
                &self.writer,
                now,
                self.reporter.refusals(),
            )));
        }
    }
}
