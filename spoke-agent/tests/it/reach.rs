//! How far a store is, from the first moment of a process on.

use super::support::direct::Store;
use contexts::push::Heartbeat;
use spoke_agent::store::redb::writer::Command;

/// Readers are answered before the file is checked. Would catch an agent whose first answers after a restart tell no age.
#[tokio::test]
async fn a_store_that_is_opened_again_knows_how_fresh_it_is_before_its_file_is_checked() {
    let store = Store::start(usize::MAX);
    let granted = store.granted().await;
    let beat = Heartbeat {
        session: granted.session,
        position: None,
        fresh: Some(granted.state.reading),
    };
    let told = store.handle().ask(|reply| Command::Heartbeat(beat, reply));
    told.await.expect("of the session");
    assert!(store.views.reach().fresh.is_some());
    let store = store.restart(usize::MAX).await;
    // What it published before its thread began to work.
    assert!(store.views.reach().fresh.is_some());
}
