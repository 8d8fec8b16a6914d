//! The writer of a store without its listeners. The time in which it ran is brought by the test.

use super::{digest_key, opened_store, region};
use contexts::name::Region;
use contexts::push::{Claim, Granted, Refused, Seen};
use contexts::version::{Holder, Incarnation, Term};
use spoke_agent::clock::Clock;
use spoke_agent::store::redb::writer::{Command, Running, Writer, WriterHandle};
use spoke_agent::store::view::Views;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub struct Store {
    dir: TempDir,
    pub views: Views,
    pub running: Running,
}

impl Store {
    pub fn start(memory_bytes: usize) -> Self {
        Self::start_in(TempDir::new().expect("a directory"), memory_bytes)
    }

    fn start_in(dir: TempDir, memory_bytes: usize) -> Self {
        let (db, opened) = opened_store(dir.path());
        let views = Views::new(Arc::new(db));
        let (clock, incarnation) = (Clock::new(), Incarnation(1));
        let running = Writer::start(
            views.clone(),
            memory_bytes,
            opened,
            clock,
            incarnation,
            None,
        );
        Self {
            dir,
            views,
            running: running.expect("starts"),
        }
    }

    /// Stops it, and starts another one with its file.
    pub async fn restart(self, memory_bytes: usize) -> Self {
        self.handle().stop().await.expect("it runs");
        self.handle().closed().await;
        self.running.thread.join().expect("it ended");
        drop(self.views);
        Self::start_in(self.dir, memory_bytes)
    }

    pub fn handle(&self) -> &WriterHandle {
        &self.running.handle
    }

    pub async fn claim(&self, epoch: u64, region: Region) -> Result<Granted, Refused> {
        let live = self.running.live.borrow().clone();
        let claim = Claim {
            region,
            term: Term {
                epoch,
                holder: Holder(u128::from(epoch)),
            },
            seen: Seen {
                store: live.store,
                granted: live.granted,
                last_synced: live.last_synced,
            },
            digest_key: digest_key(),
            force: false,
            known: true,
        };
        let claim = Box::new(claim);
        self.handle()
            .ask(|reply| Command::Claim(claim, reply))
            .await
    }

    /// The process ran for this many quarters of a second, as far as the writer knows when this returns.
    pub async fn ran(&self, steps: u32) {
        for _ in 0..steps {
            self.handle().ran(Duration::from_millis(250));
            // A claim for another region does nothing but wait for its turn.
            let elsewhere = Region::new("elsewhere").expect("a region");
            let refused = self.claim(99, elsewhere).await;
            assert!(matches!(refused, Err(Refused::Region { .. })));
        }
    }

    pub async fn granted(&self) -> Granted {
        self.claim(1, region()).await.expect("granted")
    }
}
