//! A writer of the hub that falls silent: who may have its store, and when. The clock is brought by the test.

use super::support::*;
use contexts::name::Region;
use contexts::push::{Claim, Granted, Heartbeat, Refused, Seen};
use contexts::version::{Holder, Incarnation, Term};
use spoke_agent::clock::Clock;
use spoke_agent::store::redb::writer::{Command, Running, Writer, WriterHandle};
use spoke_agent::store::view::Views;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct Store {
    _dir: TempDir,
    running: Running,
}

impl Store {
    fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let (db, opened) = opened_store(dir.path());
        let views = Views::new(Arc::new(db));
        let running = Writer::start(views, 0, opened, Clock::new(), Incarnation(1), None);
        Self {
            _dir: dir,
            running: running.expect("starts"),
        }
    }

    fn handle(&self) -> &WriterHandle {
        &self.running.handle
    }

    async fn claim(&self, epoch: u64, region: Region) -> Result<Granted, Refused> {
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

    /// The process ran for this long, as far as the writer knows when this returns.
    async fn ran(&self, steps: u32) {
        for _ in 0..steps {
            self.handle().ran(Duration::from_millis(250));
            // A claim for another region does nothing but wait for its turn.
            let elsewhere = Region::new("elsewhere").expect("a region");
            let refused = self.claim(99, elsewhere).await;
            assert!(matches!(refused, Err(Refused::Region { .. })));
        }
    }
}

#[tokio::test]
async fn a_silent_writer_loses_its_store_after_five_seconds_in_which_the_store_ran() {
    let store = Store::start();
    let granted = store.claim(1, region()).await.expect("granted");
    store.ran(19).await;
    let session = granted.session;
    let beat = Heartbeat {
        session,
        position: None,
        fresh: None,
    };
    let answer = store
        .handle()
        .ask(|reply| Command::Heartbeat(beat, reply))
        .await;
    assert!(answer.is_ok());
    store.ran(19).await;
    let busy = store.claim(2, region()).await;
    assert_eq!(
        busy,
        Err(Refused::Busy { silent_ms: 4750 }),
        "the heartbeat counts"
    );
    store.ran(1).await;
    assert!(store.claim(2, region()).await.is_ok());
}

#[tokio::test]
async fn a_long_pause_is_not_silence() {
    let store = Store::start();
    store.claim(1, region()).await.expect("granted");
    store.handle().ran(Duration::from_secs(3600));
    let busy = store.claim(2, region()).await;
    assert_eq!(busy, Err(Refused::Busy { silent_ms: 250 }));
}
