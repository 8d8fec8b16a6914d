//! Deltas at an agent: what is read after one, what is refused, and what a killed agent makes of its redo log.

use super::support::*;
use contexts::bundle::{Bundle, Context};
use contexts::delta::{Change, Cut, Delta, Parts, PushDelta, PushedDelta, Sums};
use contexts::push::{Pushed, Refused, Sent, SyncVerdict, Verdict};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use spoke_agent::store::redb::tables::CONTEXTS;
use std::sync::Arc;
use tempfile::TempDir;

const CUT: Cut = Cut {
    from_bytes: 0,
    part_bytes: 128,
    times: 2,
};

/// A tenant with very many contexts, one of which has another value, and one of which is held.
fn large(changed: u32, value: &str, is_held: Option<u32>) -> Bundle {
    let numbers = (0..200).filter(|n| Some(*n) != is_held);
    let value = |n| if n == changed { value } else { "0" };
    let contexts = numbers.map(|n| context("k", &format!("key-{n}"), value(n)));
    let held = is_held.map(|n| held("k", &format!("key-{n}")));
    Bundle::new(
        tenant("large"),
        contexts.collect(),
        held.into_iter().collect(),
        vec![],
    )
    .expect("a bundle")
}

fn parts(bundle: &Bundle) -> Parts {
    let digests = bundle.digests(&digest_key());
    Parts::of(bundle, digests, &digest_key(), CUT).expect("it has parts")
}

fn sums(bundle: &Bundle) -> Arc<Sums> {
    parts(bundle).sums
}

/// The delta from one bundle to another.
fn delta(hub: &mut Hub, from: &Bundle, to: &Bundle) -> PushDelta {
    let mut push = PushDelta::from(hub.next_push(vec![to.clone()]));
    let Change::Whole(sent) = &push.changes[0] else {
        unreachable!("it was whole")
    };
    let sent: &Sent = sent;
    let digest = to.digest(&digest_key());
    let delta = Delta::of(sent, digest, &parts(to), &sums(from)).expect("a delta");
    assert!(delta.contexts.len() < 20);
    push.changes = vec![Change::Delta(delta)];
    push
}

async fn send(hub: &mut Hub, from: &Bundle, to: &Bundle) -> PushedDelta {
    let push = delta(hub, from, to);
    hub.call("delta", &push).await.expect("not refused")
}

fn is_applied(answer: &PushedDelta) -> bool {
    matches!(answer, PushedDelta::Pushed(Pushed { verdicts, .. }) if *verdicts == [Verdict::Applied])
}

fn differs(answer: &PushedDelta) -> bool {
    matches!(answer, PushedDelta::Differs { tenants, .. } if *tenants == [tenant("large")])
}

#[tokio::test]
async fn what_a_delta_brings_is_read_and_the_store_is_in_step_with_the_whole_bundle() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let (a, b) = (large(7, "1", None), large(9, "2", Some(11)));
    hub.push(vec![a.clone()]).await;
    assert!(is_applied(&send(&mut hub, &a, &b).await));
    for (key, value) in [("key-7", "0"), ("key-9", "2"), ("key-11", "0")] {
        assert_eq!(spoke.look_up("k", key).await, (200, value.into()), "{key}");
    }
    assert!(matches!(
        hub.synced(&["k"], &[&b]).await,
        SyncVerdict::InStep { .. }
    ));
    // The held one is gone, and so is its value.
    let mut c = b.clone();
    c.held.clear();
    assert!(is_applied(&send(&mut hub, &b, &c).await));
    assert_eq!(spoke.look_up("k", "key-11").await.0, 404);
    assert!(matches!(
        hub.synced(&["k"], &[&c]).await,
        SyncVerdict::InStep { .. }
    ));
    let spoke = spoke.restart().await;
    assert_eq!(spoke.look_up("k", "key-9").await, (200, "2".into()));
    assert_eq!(spoke.look_up("k", "key-11").await.0, 404);
}

#[tokio::test]
async fn a_delta_for_something_else_changes_nothing_and_uses_its_number() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let [a, other, b] = [
        large(7, "1", None),
        large(8, "1", None),
        large(9, "2", None),
    ];
    assert!(
        differs(&send(&mut hub, &a, &b).await),
        "there is nothing yet"
    );
    hub.push(vec![a.clone()]).await;
    let root = hub.hello().await.root;
    let mut wrong = delta(&mut hub, &other, &b);
    // What came with it is refused with it.
    let neighbour = Sent {
        version: version(1, 99),
        bundle: Arc::new(bundle("small", vec![context("k", "neighbour", "1")])),
    };
    wrong.changes.push(Change::Whole(neighbour));
    wrong.beat = Some(5);
    let answer: PushedDelta = hub.call("delta", &wrong).await.expect("not refused");
    assert!(differs(&answer), "{answer:?}");
    let now = hub.hello().await;
    assert_eq!((now.root, now.beat, now.bundles), (root, 0, 1));
    assert_eq!(spoke.look_up("k", "key-9").await, (200, "0".into()));
    assert_eq!(
        hub.call::<PushedDelta>("delta", &wrong).await,
        Err(Refused::Number {
            expected: wrong.number + 1,
            got: wrong.number
        })
    );
    assert!(is_applied(&send(&mut hub, &a, &b).await));
    assert_eq!(spoke.look_up("k", "key-9").await, (200, "2".into()));
}

/// A killed agent whose redo log has a whole bundle and two deltas behind it.
async fn killed() -> (Arc<TempDir>, [Bundle; 3]) {
    let dir = TempDir::new().expect("a directory");
    let mut agent = Process::start(dir.path(), None);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    let all = [
        large(7, "1", None),
        large(8, "2", Some(3)),
        large(9, "3", None),
    ];
    let small = bundle("small", vec![context("k", "small", "1")]);
    hub.synced(&["k"], &[]).await;
    hub.push(vec![all[0].clone(), small]).await;
    for pair in all.windows(2) {
        assert!(is_applied(&send(&mut hub, &pair[0], &pair[1]).await));
        // One that was refused is in no log.
        let [from, to] = [large(0, "9", None), large(50, "5", None)];
        assert!(differs(&send(&mut hub, &from, &to).await));
    }
    agent.signal(Signal::KILL);
    agent.wait();
    (Arc::new(dir), all)
}

#[tokio::test]
async fn a_killed_agent_applies_the_deltas_of_its_log_again() {
    let (dir, [.., last]) = killed().await;
    let spoke = Spoke::start_in(dir).await.expect("starts");
    for (key, value) in [
        ("key-7", "0"),
        ("key-8", "0"),
        ("key-9", "3"),
        ("key-3", "0"),
    ] {
        assert_eq!(spoke.look_up("k", key).await, (200, value.into()), "{key}");
    }
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let small = bundle("small", vec![context("k", "small", "1")]);
    let verdict = hub.synced(&["k"], &[&last, &small]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }), "{verdict:?}");
}

/// What the deltas of the log were for is no longer there: nothing is made up, and nobody is told that a key does not exist.
#[tokio::test]
async fn a_log_with_deltas_for_what_is_damaged_is_given_up_and_said_so() {
    let dir = Arc::new(TempDir::new().expect("a directory"));
    let (a, b) = (large(7, "1", None), large(9, "3", None));
    let mut agent = Process::start(dir.path(), None);
    let mut hub = agent.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![a.clone()]).await;
    hub.synced(&["k"], &[&a]).await;
    assert!(is_applied(&send(&mut hub, &a, &b).await));
    agent.signal(Signal::KILL);
    agent.wait();
    tamper(dir.path(), |txn| {
        let mut table = txn.open_table(CONTEXTS).expect("opens");
        let name = (&b"large"[..], &b"k"[..], &b"key-100"[..]);
        let row = redb::ReadableTable::get(&table, name).expect("reads");
        let mut bytes = row.expect("there").value().to_vec();
        *bytes.last_mut().expect("a value") = b'7';
        table.insert(name, bytes.as_slice()).expect("inserts");
    });
    let spoke = Spoke::start_in(dir).await.expect("starts");
    assert_eq!(spoke.look_up("k", "key-9").await, (200, "0".into()));
    assert_eq!(spoke.look_up("k", "key-100").await.0, 503);
    assert_eq!(spoke.look_up("k", "none").await.0, 503);
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    assert!(differs(&send(&mut hub, &a, &b).await));
    assert_eq!(hub.push(vec![b.clone()]).await, [Verdict::Applied]);
    assert_eq!(spoke.look_up("k", "key-100").await, (200, "0".into()));
    assert!(matches!(
        hub.synced(&["k"], &[&b]).await,
        SyncVerdict::InStep { .. }
    ));
}

/// Would catch an agent that takes a delta for one of values only, which leaves what went, or loses what came.
#[tokio::test]
async fn whatever_follows_on_what_the_records_are_the_bundle() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut there = large(7, "1", None);
    hub.push(vec![there.clone()]).await;
    for step in 0..120 {
        let mut next = there.clone();
        let at = random.random_range(0..next.contexts.len());
        let n = random.random_range(1_000..2_000);
        let new = || context("k", &format!("key-{n}"), "new");
        match random.random_range(0..8) {
            0 => drop(next.contexts.remove(at)),
            1 => next.contexts.push(new()),
            // As many as before in the same part, and another name in the same place of the order.
            2 => {
                let place = |c: &Context| digest_key().place(&c.kind, &c.key) % 256;
                let before = &next.contexts[at];
                let (key, wanted) = (before.key.clone(), place(before));
                let mut names = (0..).map(|n| context("k", &format!("{key}!{n}"), "new"));
                next.contexts[at] = names.find(|c| place(c) == wanted).expect("one of them");
            }
            3 => next.contexts[at].expires = Some(4_102_444_800_000_000 + i64::from(n)),
            _ => next.contexts[at].value = n.to_string().into(),
        }
        next.contexts.sort_by(|a, b| a.name().cmp(&b.name()));
        next.contexts.dedup_by(|a, b| a.name() == b.name());
        let answer = send(&mut hub, &there, &next).await;
        let is_same = next == there;
        assert!(is_applied(&answer) || is_same, "step {step}: {answer:?}");
        there = next;
        if random.random_ratio(1, 10) {
            let began = hub.hello().await;
            let mut synced = hub.next_synced(&["k"], &buckets_of(&[&there]), &began);
            synced.reread = true;
            let verdict: SyncVerdict = hub.call("synced", &synced).await.expect("not refused");
            assert!(matches!(verdict, SyncVerdict::InStep { .. }), "step {step}");
        }
    }
    let spoke = spoke.restart().await;
    for context in &there.contexts {
        let (_, value) = spoke.look_up("k", context.key.as_str()).await;
        assert_eq!(value, context.value.to_string(), "{}", context.key);
    }
}
