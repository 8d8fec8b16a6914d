//! The first fill of a store: readers are answered from the file while it lasts, and from memory once it is over.

use super::support::direct::Store;
use super::support::*;
use contexts::bundle::Bundle;
use contexts::delta::{Change, PushDelta, PushedDelta};
use contexts::push::{Granted, Heartbeat, Sent, SyncVerdict, Synced, Verdict};
use contexts::version::SyncId;
use spoke_agent::store::index::Lookup;
use spoke_agent::store::redb::reader::Snapshot;
use spoke_agent::store::redb::writer::Command;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        let bundles = tenants.map(|n| bundle(n, value));
        self.push_all(bundles.collect()).await;
    }

    async fn push_all(&mut self, bundles: Vec<Bundle>) {
        self.number += 1;
        let version = version(1, self.number);
        let changes = bundles.into_iter().map(|bundle| {
            Change::Whole(Sent {
                version,
                bundle: Arc::new(bundle),
            })
        });
        let push = PushDelta {
            region: region(),
            session: self.granted.session,
            number: self.number,
            changes: changes.collect(),
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

    /// Waits for the memory. The writer looks for it after each command.
    async fn memory_comes(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.store.views.reads_file() {
            assert!(Instant::now() < deadline, "the memory does not come");
            let beat = Heartbeat {
                session: self.granted.session,
                position: None,
                fresh: None,
            };
            let heard = self.store.handle();
            let heard = heard.ask(|reply| Command::Heartbeat(beat, reply));
            heard.await.expect("heard");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
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
    assert_eq!(hub.look_up("none"), Lookup::Absent);
    hub.memory_comes().await;
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
    hub.memory_comes().await;
    hub.has(0..1, 2, false);
    hub.has(1..2, 3, false);
    hub.has(2..MANY, 2, false);
    assert_eq!(hub.look_up("none"), Lookup::NotReady);
    // It stays there: to fill it after each pause of a slow fill would take longer than the fill.
    hub.push(0..MANY, 4).await;
    hub.has(0..MANY, 4, false);
}

/// A store of so many tenants that just came to be in step, so that a thread begins to fill its memory.
async fn in_step(tenants: u64) -> Filling {
    let mut hub = Filling::start().await;
    hub.push(0..tenants, 1).await;
    let bundles = (0..tenants).map(|n| bundle(n, 1));
    hub.synced(&bundles.collect::<Vec<_>>()).await;
    assert!(hub.store.views.reads_file());
    hub
}

/// What readers are told of a key.
fn told(found: &Lookup) -> String {
    match found {
        Lookup::Found(known, versions) => {
            let value = std::str::from_utf8(known.bytes()).expect("text");
            format!("{value} of {}, {versions:?}", known.tenant())
        }
        nothing => format!("{nothing:?}"),
    }
}

/// Pushes as long as readers of a store of so many tenants are answered from its file, and compares the memory that comes with
/// the file. Would catch a memory that has what was there when the thread began, or that keeps what went meanwhile. Returns
/// how many pushes there were.
async fn push_until_the_memory_is_there(hub: &mut Filling, tenants: u64) -> u64 {
    let half = tenants / 2;
    let mut n = 0;
    while hub.store.views.reads_file() {
        // Of every third tenant a context goes and another one comes, which the next one had in the push before; some are
        // changed twice.
        let at = (n * 7) % half;
        let bundles = match n % 3 {
            0 => vec![bundle(at, 100 + n)],
            1 => {
                vec![Bundle::new(tenant(&format!("t{at}")), vec![], vec![], vec![]).expect("none")]
            }
            _ => {
                let own = context("k", &format!("a{at}"), "7");
                let taken = context("k", &format!("b{}", at + half), "8");
                let gives = context("k", &format!("a{}", at + half), "9");
                let new = |n: u64, contexts| {
                    Bundle::new(tenant(&format!("t{n}")), contexts, vec![], vec![]).expect("new")
                };
                vec![new(at, vec![own, taken]), new(at + half, vec![gives])]
            }
        };
        hub.push_all(bundles).await;
        n += 1;
    }
    let file = Snapshot::take(hub.store.views.db()).expect("a snapshot");
    for n in 0..tenants {
        for key in [format!("a{n}"), format!("b{n}")] {
            let in_file = file.look_up("k", &key).expect("read");
            assert_eq!(told(&hub.look_up(&key)), told(&in_file), "{key}");
        }
    }
    n
}

#[tokio::test]
async fn what_is_pushed_while_the_memory_is_filled_is_in_it() {
    const TENANTS: u64 = 2_000;
    let mut hub = in_step(TENANTS).await;
    assert!(push_until_the_memory_is_there(&mut hub, TENANTS).await > 0);
}

/// A large store: to take what the hub pushes must not wait until all of it is in memory.
#[tokio::test]
async fn what_is_pushed_at_a_start_does_not_wait_for_the_memory_and_is_in_it() {
    // A machine that is busy with something else may have the memory ready before the first push.
    for tenants in [6_000, 12_000, 48_000] {
        let mut hub = in_step(tenants).await;
        hub.store = hub.store.restart(usize::MAX).await;
        (hub.granted, hub.number) = (hub.store.granted().await, 0);
        assert_eq!(hub.look_up("none"), Lookup::Absent);
        let pushes = push_until_the_memory_is_there(&mut hub, tenants).await;
        assert_eq!(hub.look_up("none"), Lookup::Absent);
        if pushes > 0 {
            return;
        }
    }
    panic!("whoever pushes waits for the memory");
}

/// The memory would only be made to be thrown away by the next push of the fill.
#[tokio::test]
async fn a_large_store_that_starts_in_the_middle_of_its_first_fill_waits_with_its_memory() {
    const TENANTS: u64 = 6_000;
    let mut hub = Filling::start().await;
    hub.push(0..TENANTS, 1).await;
    hub.store = hub.store.restart(usize::MAX).await;
    (hub.granted, hub.number) = (hub.store.granted().await, 0);
    hub.has(0..TENANTS, 1, true);
    assert_eq!(hub.look_up("none"), Lookup::NotReady);
    hub.push(TENANTS..TENANTS + MANY, 1).await;
    hub.has(TENANTS..TENANTS + MANY, 1, true);
    let bundles = (0..TENANTS + MANY).map(|n| bundle(n, 1));
    hub.synced(&bundles.collect::<Vec<_>>()).await;
    hub.memory_comes().await;
    hub.has(0..TENANTS + MANY, 1, false);
    assert_eq!(hub.look_up("none"), Lookup::Absent);
}

/// The memory of a small store is there before the store can be claimed.
#[tokio::test]
async fn a_small_store_is_in_memory_before_anything_is_pushed() {
    let mut hub = in_step(MANY).await;
    hub.store = hub.store.restart(usize::MAX).await;
    (hub.granted, hub.number) = (hub.store.granted().await, 0);
    hub.has(0..MANY, 1, false);
}

/// What is missed is bounded: a push that brings it beyond waits for the memory.
#[tokio::test]
async fn a_mass_push_waits_for_the_memory_that_is_filled_beside_it() {
    const TENANTS: u64 = 6_000;
    let mut hub = in_step(TENANTS).await;
    hub.push(0..TENANTS, 2).await;
    hub.has(0..TENANTS, 2, false);
}

/// The thread has a snapshot of the file, which must not keep the next agent from it.
#[tokio::test]
async fn a_store_that_stops_while_its_memory_is_filled_opens_again() {
    const TENANTS: u64 = 2_000;
    let mut hub = in_step(TENANTS).await;
    hub.push(0..1, 2).await;
    hub.store = hub.store.restart(usize::MAX).await;
    hub.store.ran(1).await;
    hub.has(0..1, 2, false);
    hub.has(1..TENANTS, 1, false);
}
