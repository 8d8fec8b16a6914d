//! A writer of the hub that falls silent: who may have its store, and when. The clock is brought by the test.

use super::support::direct::Store;
use super::support::*;
use contexts::push::{Heartbeat, Refused};
use spoke_agent::store::redb::writer::Command;
use std::time::Duration;

#[tokio::test]
async fn a_silent_writer_loses_its_store_after_five_seconds_in_which_the_store_ran() {
    let store = Store::start(0);
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
    let store = Store::start(0);
    store.claim(1, region()).await.expect("granted");
    store.handle().ran(Duration::from_secs(3600));
    let busy = store.claim(2, region()).await;
    assert_eq!(busy, Err(Refused::Busy { silent_ms: 250 }));
}
