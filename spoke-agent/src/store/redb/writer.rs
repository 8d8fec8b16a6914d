//! The one thread that changes the store, and the one place that decides which writer of the hub it listens to.
//!
//! Commands come by a bounded channel and are taken in the order in which they arrived. Pushes that wait together go
//! into one commit. No answer leaves before the commit that it speaks of, and a number of a session is used up by
//! whatever carried it.
//!
//! After a failure of the file the session is over: the hub claims again and compares. What the file holds then is
//! read from the file, since a commit that failed may have reached it all the same.

mod session;

use super::StoreError;
use super::db::{Db, Write};
use super::meta::Meta;
use super::open::{self, Loaded};
use super::replay::Record;
use super::tables::Tables;
use super::txn::Txn;
use crate::clock::{self, Clock};
use crate::failpoint;
use crate::store::live::Live;
use contexts::apply::{Applied, apply};
use contexts::digest::{Buckets, Digest};
use contexts::gate::Gate;
use contexts::name::Region;
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, Push, Pushed, Reading, Refused, Release, SyncVerdict, Synced,
    Verdict,
};
use contexts::version::Incarnation;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that may wait; whoever brings another waits itself.
const QUEUE: usize = 64;
/// Microseconds without a push after which the file is made durable.
const SETTLE_AFTER: u64 = 1_000_000;
/// Commands that are taken before what they brought is committed.
const GROUP: usize = 64;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// What the writer can be asked.
pub enum Command {
    /// Grant the store to a writer of the hub.
    Claim(Box<Claim>, Reply<Granted>),
    /// Apply bundles.
    Push(Push, Reply<Pushed>),
    /// Compare with what the hub expects.
    Synced(Box<Synced>, Reply<SyncVerdict>),
    /// The writer of the hub is alive.
    Heartbeat(Heartbeat, Reply<Ack>),
    /// The writer of the hub gives the store back.
    Release(Release, Reply<Ack>),
    /// The process ran and read its sockets for this long.
    Ran(Duration),
    /// Commit what came before, and end.
    Stop,
}

/// The way to the writer. It ends when the last handle is gone.
#[derive(Clone)]
pub struct WriterHandle {
    commands: mpsc::Sender<Command>,
}

impl WriterHandle {
    /// Brings a command and waits for its answer.
    ///
    /// # Errors
    /// As the writer answers; [`Refused::Storage`] if it has stopped.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refused> {
        let stopped = || Refused::Storage {
            why: "the agent is stopping".into(),
        };
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Tells it that the process ran. If it has no time for that now, the time does not count, which is safe.
    pub fn ran(&self, step: Duration) {
        let _ = self.commands.try_send(Command::Ran(step));
    }

    /// Asks it to end once it has done what it was asked before.
    ///
    /// # Errors
    /// If it has stopped.
    pub async fn stop(&self) -> Result<(), mpsc::error::SendError<Command>> {
        self.commands.send(Command::Stop).await
    }

    /// Returns when the writer has stopped.
    pub async fn closed(&self) {
        self.commands.closed().await;
    }

    /// Whether it has stopped.
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }
}

/// The writer, before and while it runs on its thread.
pub struct Writer {
    db: Arc<Db>,
    clock: Clock,
    region: Region,
    gate: Gate,
    state: State,
    /// The file failed and could not be read again yet.
    failed: bool,
    live: watch::Sender<Arc<Live>>,
}

/// What the writer knows of the store without asking the file.
struct State {
    incarnation: Incarnation,
    meta: Meta,
    buckets: Buckets,
    root: Option<Digest>,
    contexts: u64,
    bundles: u64,
    last_push: Option<Reading>,
}

impl State {
    fn roll_up(&mut self) {
        let key = self.meta.digest_key.as_ref();
        self.root = key.map(|key| key.root(&self.buckets));
    }

    fn live(&self) -> Live {
        Live {
            store: self.meta.store,
            incarnation: self.incarnation,
            region: self.meta.region.clone(),
            granted: self.meta.granted,
            released: self.meta.released,
            last_synced: self.meta.last_synced,
            synced_kinds: self.meta.synced_kinds.clone(),
            position: self.meta.position,
            bundles: self.bundles,
            contexts: self.contexts,
            root: self.root,
            fresh: self.meta.fresh,
            beat: self.meta.beat,
            last_push: self.last_push,
        }
    }
}

/// A push that was admitted and waits for its commit.
struct Waiting {
    push: Push,
    reply: Reply<Pushed>,
}

/// A writer on its thread.
pub struct Running {
    /// The way to it.
    pub handle: WriterHandle,
    /// What it published last.
    pub live: watch::Receiver<Arc<Live>>,
    /// Its thread.
    pub thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        db: Arc<Db>,
        loaded: Loaded,
        clock: Clock,
        incarnation: Incarnation,
    ) -> std::io::Result<Running> {
        let mut state = State {
            incarnation,
            meta: loaded.meta,
            buckets: loaded.buckets,
            root: None,
            contexts: loaded.contexts,
            bundles: loaded.bundles,
            last_push: None,
        };
        state.roll_up();
        let (live, published) = watch::channel(Arc::new(state.live()));
        let writer = Self {
            db,
            clock,
            region: state.meta.region.clone(),
            gate: Gate::default(),
            state,
            failed: false,
            live,
        };
        let (commands, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(queue))?;
        Ok(Running {
            handle: WriterHandle { commands },
            live: published,
            thread,
        })
    }

    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let (mut group, mut stopping) = (Vec::new(), false);
        while !stopping && let Some(first) = queue.blocking_recv() {
            let more = std::iter::from_fn(|| queue.try_recv().ok());
            for command in std::iter::once(first).chain(more.take(GROUP - 1)) {
                stopping |= matches!(command, Command::Stop);
                self.take(command, &mut group);
            }
            self.commit_group(&mut group);
        }
        self.stop();
    }

    fn take(&mut self, command: Command, group: &mut Vec<Waiting>) {
        match command {
            Command::Ran(step) => {
                self.gate.ran(step);
                self.settle();
            }
            Command::Stop => {}
            Command::Heartbeat(beat, reply) => {
                let _ = reply.send(self.heartbeat(&beat));
            }
            Command::Push(push, reply) => match self.admit(&push) {
                Ok(()) => group.push(Waiting { push, reply }),
                Err(refused) => {
                    count_push("refused");
                    let _ = reply.send(Err(refused));
                }
            },
            // The others depend on what the pushes before them did.
            Command::Claim(claim, reply) => {
                self.commit_group(group);
                let _ = reply.send(self.claim(&claim));
            }
            Command::Synced(synced, reply) => {
                self.commit_group(group);
                let _ = reply.send(self.synced(*synced));
            }
            Command::Release(release, reply) => {
                self.commit_group(group);
                let _ = reply.send(self.release(&release));
            }
        }
    }

    fn admit(&mut self, push: &Push) -> Result<(), Refused> {
        if push.region != self.region {
            return Err(Refused::Region {
                mine: self.region.clone(),
                asked: push.region.clone(),
            });
        }
        self.gate.admit(push.session, push.number)
    }

    fn commit_group(&mut self, group: &mut Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let group = std::mem::take(group);
        match self.apply_group(&group) {
            Ok(outcomes) => {
                self.state.last_push = Some(self.clock.reading());
                self.state.roll_up();
                self.publish();
                pass(&group, failpoint::AFTER_COMMIT);
                for (waiting, applied) in group.into_iter().zip(outcomes) {
                    count_push("committed");
                    applied.verdicts.iter().for_each(count_verdict);
                    let _ = waiting.reply.send(Ok(Pushed {
                        verdicts: applied.verdicts,
                        reading: self.clock.reading(),
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
    fn apply_group(&mut self, group: &[Waiting]) -> Result<Vec<Applied>, StoreError> {
        let Some(key) = self.state.meta.digest_key.clone() else {
            // No session without a claim, and no claim without the key.
            return Err(StoreError::Damaged {
                what: "the digest key".into(),
            });
        };
        let txn = self.db.write()?;
        let mut tables = Tables::open(&txn)?;
        let mut outcomes = Vec::with_capacity(group.len());
        for waiting in group {
            let mut view = Txn::new(&mut tables, &key);
            outcomes.push(apply(&mut view, &key, &waiting.push.bundles)?);
        }
        let now = self.clock.reading();
        for Waiting { push, .. } in group {
            self.state.meta.beat = push.beat.unwrap_or(0).max(self.state.meta.beat);
            self.state.meta.freshen(push.fresh, now);
        }
        let progress = &self.state.meta.progress(now, clock::wall_micros());
        progress.save(&mut tables.meta)?;
        let (contexts, bundles) = tables.counts()?;
        drop(tables);
        let pushes = group.iter().map(|w| w.push.bundles.as_slice()).collect();
        let record = Record { pushes, progress }.encode()?;
        pass(group, failpoint::BEFORE_COMMIT);
        let started = Instant::now();
        txn.commit_logged(&record)?;
        metrics::histogram!(crate::metrics::COMMIT_SECONDS).record(started.elapsed());
        (self.state.contexts, self.state.bundles) = (contexts, bundles);
        for moved in outcomes.iter().flat_map(|applied| &applied.moved) {
            if let Some(before) = &moved.before {
                self.state.buckets.remove(&key, &moved.tenant, before);
            }
            if let Some(after) = &moved.after {
                self.state.buckets.add(&key, &moved.tenant, after);
            }
        }
        Ok(outcomes)
    }

    /// Makes the file durable once pushes pause, so that it rarely needs its redo log.
    fn settle(&mut self) {
        let now = self.clock.reading();
        let paused = |last: Reading| now.micros.saturating_sub(last.micros) > SETTLE_AFTER;
        if self.failed || !self.state.last_push.is_some_and(paused) || !self.db.is_ahead() {
            return;
        }
        if let Err(error) = self.db.write().and_then(Write::commit) {
            self.fail("make the file durable", &error);
        }
    }

    /// Ends the session and reads the file again.
    fn fail(&mut self, doing: &str, error: &StoreError) -> Refused {
        tracing::error!(
            file = %self.db.path().display(), doing, %error,
            "the store failed; its file is opened again and the hub has to claim it again"
        );
        self.gate.end();
        self.failed = true;
        self.recover();
        Refused::Storage {
            why: error.to_string(),
        }
    }

    /// Tries to read the file again after a failure; whether the store can be used.
    fn recover(&mut self) -> bool {
        if !self.failed {
            return true;
        }
        let again = self.db.reopen();
        let loaded = again.and_then(|()| open::load(&self.db, &self.region, &self.clock));
        match loaded {
            Ok(loaded) => {
                self.state.meta = loaded.meta;
                self.state.buckets = loaded.buckets;
                (self.state.contexts, self.state.bundles) = (loaded.contexts, loaded.bundles);
                self.failed = false;
                self.state.roll_up();
                self.publish();
                tracing::info!(file = %self.db.path().display(), "the store can be used again");
            }
            Err(error) => tracing::error!(
                file = %self.db.path().display(), %error,
                "the store cannot be opened again; the next claim tries again"
            ),
        }
        !self.failed
    }

    fn publish(&self) {
        self.live.send_replace(Arc::new(self.state.live()));
    }

    /// Writes down what only heartbeats said, so that a restart knows it.
    fn stop(self) {
        if self.failed || self.state.meta.granted.is_none() {
            return;
        }
        let saved = self.db.write().and_then(|txn| {
            let mut tables = Tables::open(&txn)?;
            let (now, wall) = (self.clock.reading(), clock::wall_micros());
            self.state.meta.progress(now, wall).save(&mut tables.meta)?;
            drop(tables);
            txn.commit()
        });
        if let Err(error) = saved {
            tracing::warn!(%error, "the position was not written at the stop");
        }
    }
}

/// Passes a failpoint, unless the group carries but beats, which are nothing to lose.
fn pass(group: &[Waiting], name: &'static str) {
    if group.iter().any(|w| !w.push.bundles.is_empty()) {
        failpoint::hit(name);
    }
}

fn count_push(outcome: &'static str) {
    metrics::counter!(crate::metrics::PUSHES, "outcome" => outcome).increment(1);
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
