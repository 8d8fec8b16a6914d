//! The first fill of a store: readers are answered from the file while it lasts, and from memory once it is over.

use super::support::direct::Store;
use super::support::*;
use contexts::bundle::Bundle;
use contexts::delta::{Change, PushDelta, PushedDelta};
use contexts::push::{Granted, Sent, SyncVerdict, Synced, Verdict};
use contexts::version::SyncId;
use spoke_agent::store::index::Lookup;
use spoke_agent::store::redb::writer::Command;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tenants of a push that is one of a fill.
const MANY: u64 = 64;

fn bundle(n: u64, value: u64) -> Bundle {
    let contexts = vec![
        context("k", &format!("a{n}"), &value.to_string()),
        context("k", &format!("b{n}"), &value.to_string()),
    ];
    Bundle::new(tenant(&format!("t{n}")), contexts, vec![], vec![]).expect("a bundle")
}

/// A writer of the hub with its session.
struct Filling {
    store: Store,
    granted: Granted,
    number: u64,
}

impl Filling {
    async fn start() -> Self {
        let store = Store::start(usize::MAX);
        let granted = store.granted().await;
        Self {
            store,
            granted,
            number: 0,
        }
    }

    async fn push(&mut self, tenants: std::ops::Range<u64>, value: u64) {
        self.number += 1;
        let sent = |n| {
            Change::Whole(Sent {
                version: version(1, self.number),
                bundle: Arc::new(bundle(n, value)),
            })
        };
        let push = PushDelta {
            region: region(),
            session: self.granted.session,
            number: self.number,
            changes: tenants.map(sent).collect(),
            fresh: None,
            beat: None,
        };
        let pushed = self.store.handle().ask(|reply| Command::Push(push, reply));
        let PushedDelta::Pushed(pushed) = pushed.await.expect("pushed") else {
            panic!("there are no deltas");
        };
        assert!(pushed.verdicts.iter().all(|v| *v == Verdict::Applied));
    }

    async fn synced(&mut self, bundles: &[Bundle]) {
        self.number += 1;
        let buckets = buckets_of(&bundles.iter().collect::<Vec<_>>());
        let synced = Synced {
            session: self.granted.session,
            number: self.number,
            id: SyncId(1),
            kinds: BTreeSet::from([kind("k")]),
            unsure: BTreeSet::new(),
            root: digest_key().root(&buckets),
            in_flux: Vec::new(),
            fresh: self.granted.state.reading,
            position: version(1, self.number),
            reread: false,
        };
        let synced = Box::new(synced);
        let synced = self
            .store
            .handle()
            .ask(|reply| Command::Synced(synced, reply));
        let verdict = synced.await.expect("compared");
        assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    }

    fn value(&self, key: &str) -> Option<u64> {
        match self.store.views.look_up("k", key).expect("read") {
            Lookup::Found(known, _) => {
                let text = std::str::from_utf8(known.bytes()).expect("text");
                Some(text.parse().expect("a number"))
            }
            Lookup::NotReady | Lookup::Absent => None,
            Lookup::Held => panic!("nothing is held"),
        }
    }

    fn look_up(&self, key: &str) -> Lookup {
        self.store.views.look_up("k", key).expect("read")
    }

    /// That each of these tenants has this value, and that it is read where it should be.
    fn has(&self, tenants: std::ops::Range<u64>, value: u64, from_file: bool) {
        assert_eq!(self.store.views.reads_file(), from_file);
        for n in tenants {
            assert_eq!(self.value(&format!("a{n}")), Some(value), "of {n}");
            assert_eq!(self.value(&format!("b{n}")), Some(value), "of {n}");
        }
    }
}

#[tokio::test]
async fn a_first_fill_is_read_from_the_file_until_the_store_is_in_step() {
    let mut hub = Filling::start().await;
    hub.push(0..1, 1).await;
    hub.has(0..1, 1, false);
    hub.push(0..MANY, 2).await;
    hub.has(0..MANY, 2, true);
    assert_eq!(hub.look_up("none"), Lookup::NotReady);
    // A change beside the fill is read as soon as it is confirmed.
    hub.push(3..4, 3).await;
    hub.has(3..4, 3, true);
    hub.push(MANY..2 * MANY, 4).await;

    let values = (0..2 * MANY).map(|n| match n {
        3 => bundle(n, 3),
        _ if n < MANY => bundle(n, 2),
        _ => bundle(n, 4),
    });
    hub.synced(&values.collect::<Vec<_>>()).await;
    hub.has(0..3, 2, false);
    hub.has(3..4, 3, false);
    hub.has(4..MANY, 2, false);
    hub.has(MANY..2 * MANY, 4, false);
    assert_eq!(hub.look_up("none"), Lookup::Absent);

    // What comes later is no first fill, however much it is.
    hub.push(0..MANY, 5).await;
    hub.has(0..MANY, 5, false);
    assert_eq!(hub.look_up("none"), Lookup::Absent);
}

#[tokio::test]
async fn a_fill_that_stops_before_the_store_is_in_step_ends_up_in_memory() {
    let mut hub = Filling::start().await;
    hub.push(0..MANY, 1).await;
    hub.store.ran(39).await;
    hub.has(0..MANY, 1, true);
    // Ten seconds count from the last commit of the fill, and changes do not put them off.
    hub.push(0..MANY, 2).await;
    hub.store.ran(20).await;
    hub.push(1..2, 3).await;
    hub.store.ran(19).await;
    hub.has(1..2, 3, true);
    hub.store.ran(1).await;
    hub.has(0..1, 2, false);
    hub.has(1..2, 3, false);
    hub.has(2..MANY, 2, false);
    assert_eq!(hub.look_up("none"), Lookup::NotReady);
    // It stays there: to fill it after each pause of a slow fill would take longer than the fill.
    hub.push(0..MANY, 4).await;
    hub.has(0..MANY, 4, false);
}
