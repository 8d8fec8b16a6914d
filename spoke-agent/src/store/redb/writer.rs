//! The one thread that changes the store, and the one place that decides which writer of the hub it listens to.
//!
//! Commands come by a bounded channel and are taken in the order in which they arrived. Pushes that wait together go
//! into one commit. No answer leaves before the commit that it speaks of, and a number of a session is used up by
//! whatever carried it.
//!
//! After a failure of the file the session is over: the hub claims again and compares. What the file holds then is
//! read from the file, since a commit that failed may have reached it all the same.

mod group;
mod memory;
mod recovery;
mod session;

use super::db::Db;
use super::meta::Meta;
use super::open::{Checked, Opened};
use super::outlines::Outlines;
use super::scrub::Scrub;
use crate::clock::Clock;
use crate::peer::take::Peers;
use crate::store::live::Live;
use crate::store::view::{Reach, Views};
use contexts::delta::{PushDelta, PushedDelta};
use contexts::digest::{Buckets, Digest};
use contexts::gate::Gate;
use contexts::name::{Kind, Region};
use contexts::push::{
    Ack, Claim, Granted, Heartbeat, Reading, Refused, Release, SyncVerdict, Synced,
};
use contexts::version::Incarnation;
use memory::Memory;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that may wait; whoever brings another waits itself.
const QUEUE: usize = 64;
/// Commands that are taken before what they brought is committed.
const GROUP: usize = 64;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// What the writer can be asked.
pub enum Command {
    /// Grant the store to a writer of the hub.
    Claim(Box<Claim>, Reply<Granted>),
    /// Apply bundles, whole or from deltas.
    Push(PushDelta, Reply<PushedDelta>),
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
    views: Views,
    /// What readers see in memory.
    memory: Memory,
    /// Bytes that it may take.
    memory_bytes: usize,
    /// The first fill went without a memory for as long as it may; from then on the store keeps it.
    fill_has_paused: bool,
    /// What it remembers of very large tenants.
    outlines: Outlines,
    clock: Clock,
    region: Region,
    gate: Gate,
    state: State,
    /// The file failed and could not be read again yet.
    failed: bool,
    /// When the file is made durable, or opened again, in microseconds of the clock.
    settle_at: u64,
    scrub: Scrub,
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
    commit: u64,
    complete: Arc<Vec<Kind>>,
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
            complete: self.complete.clone(),
            lost: self.meta.lost,
            position: self.meta.position,
            bundles: self.bundles,
            contexts: self.contexts,
            root: self.root,
            fresh: self.meta.fresh,
            beat: self.meta.beat,
            commit: self.commit,
            last_push: self.last_push,
        }
    }
}

/// A push that was admitted and waits for its commit.
struct Waiting {
    push: PushDelta,
    reply: Reply<PushedDelta>,
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
    /// Starts the thread. Before anything else a new store fills itself from a peer, if it has some; then the rows of the
    /// file are checked, and the memory of a small store is filled. Readers are answered from the file meanwhile.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        views: Views,
        memory_bytes: usize,
        opened: Opened,
        clock: Clock,
        incarnation: Incarnation,
        peers: Option<(Peers, Handle)>,
    ) -> std::io::Result<Running> {
        let state = State {
            incarnation,
            meta: opened.meta,
            buckets: Buckets::default(),
            root: None,
            contexts: opened.contexts,
            bundles: opened.bundles,
            commit: 0,
            complete: Arc::default(),
            last_push: None,
        };
        let (live, published) = watch::channel(Arc::new(state.live()));
        let writer = Self {
            db: views.db().clone(),
            views,
            memory: Memory::default(),
            memory_bytes,
            fill_has_paused: false,
            outlines: Outlines::default(),
            clock,
            region: state.meta.region.clone(),
            gate: Gate::default(),
            state,
            failed: false,
            settle_at: 0,
            scrub: Scrub::default(),
            live,
        };
        // Readers are answered before the file is checked, and their answers tell an age.
        writer.publish();
        let (commands, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(queue, peers))?;
        Ok(Running {
            handle: WriterHandle { commands },
            live: published,
            thread,
        })
    }

    fn run(mut self, mut queue: mpsc::Receiver<Command>, peers: Option<(Peers, Handle)>) {
        let (mut group, mut stopping) = (Vec::new(), false);
        let mut waited = None;
        if let Some((peers, runtime)) = peers.filter(|_| self.state.meta.granted.is_none()) {
            waited = self.fill_from(&peers, &runtime, &mut queue);
        }
        self.check();
        while !stopping && let Some(first) = waited.take().or_else(|| queue.blocking_recv()) {
            let more = std::iter::from_fn(|| queue.try_recv().ok());
            for command in std::iter::once(first).chain(more.take(GROUP - 1)) {
                stopping |= matches!(command, Command::Stop);
                self.take(command, &mut group);
            }
            self.commit_group(&mut group);
            if !stopping {
                self.tend_memory();
            }
        }
        self.stop();
    }

    /// Asks the peers until one fills the store or somebody asks for something: a hub that is there has all of it.
    /// Returns what was asked.
    fn fill_from(
        &mut self,
        peers: &Peers,
        runtime: &Handle,
        queue: &mut mpsc::Receiver<Command>,
    ) -> Option<Command> {
        let mut said = Vec::new();
        loop {
            let filling = peers.fill(&self.db, &self.state.meta, self.clock);
            let Err(why) = runtime.block_on(filling) else {
                return None;
            };
            if why != said {
                tracing::warn!(error = why.join("; "), "no peer fills this new store yet");
                said = why;
            }
            // The ticks of the process come several times a second, and are what this waits for.
            match queue.blocking_recv()? {
                Command::Ran(_) => {}
                command => return Some(command),
            }
        }
    }

    fn take(&mut self, command: Command, group: &mut Vec<Waiting>) {
        match command {
            Command::Ran(step) => {
                self.gate.ran(step);
                self.settle();
                self.waited_with_memory(step);
                self.scrub();
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

    fn admit(&mut self, push: &PushDelta) -> Result<(), Refused> {
        if push.region != self.region {
            return Err(Refused::Region {
                mine: self.region.clone(),
                asked: push.region.clone(),
            });
        }
        self.gate.admit(push.session, push.number)
    }

    fn publish(&self) {
        let (position, fresh) = (self.state.meta.position, self.state.meta.fresh);
        self.views.set_reach(Reach { position, fresh });
        self.live.send_replace(Arc::new(self.state.live()));
    }
}

fn count_push(outcome: &'static str) {
    metrics::counter!(crate::metrics::PUSHES, "outcome" => outcome).increment(1);
}
