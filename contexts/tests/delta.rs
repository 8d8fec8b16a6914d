//! A delta does what the whole bundle does, or nothing: random bundles that follow one another go to equal stores in both
//! forms, over stores that are as they were confirmed and over such as were tampered with.
//!
//! Would catch a store that puts a delta together in another way than the hub thinks, takes what is rotten or was kept for a
//! part of the bundle, does not compare what comes of it, or leaves a part of a push that it refuses.

use contexts::apply::maps::Maps;
use contexts::apply::{Applied, Record, apply, apply_changes};
use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::delta::{Change, Cut, Delta, Parts, Sums};
use contexts::digest::{Digest, DigestKey};
use contexts::name::{Key, Kind, TenantId};
use contexts::push::{Sent, Verdict};
use contexts::version::Version;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const KINDS: [&str; 3] = ["a", "b", "c"];
const TENANTS: usize = 3;
/// Names of a tenant; some of them another one has as well.
const NAMES: usize = 90;
const STEPS: usize = 150;
const CUT: Cut = Cut {
    from_bytes: 0,
    part_bytes: 128,
    times: 1,
};

fn digest_key() -> DigestKey {
    DigestKey([7; 32])
}

fn kind(text: &str) -> Kind {
    Kind::new(text).expect("a kind")
}

fn tenant(n: usize) -> TenantId {
    TenantId::new(&format!("t{n}")).expect("a tenant")
}

/// A value, by its number, with its expiry; or why there is none.
type Row = Result<(u32, Option<i64>), HoldReason>;

/// A tenant as the hub has it.
#[derive(Clone, Default)]
struct Hub {
    /// What it has of each name.
    names: BTreeMap<(Kind, Key), Row>,
    held_kinds: BTreeSet<Kind>,
}

impl Hub {
    fn change(&mut self, random: &mut StdRng, number: usize) {
        if random.random_ratio(1, 30) {
            let kind = kind(KINDS[random.random_range(0..KINDS.len())]);
            if !self.held_kinds.remove(&kind) {
                self.held_kinds.insert(kind);
            }
        }
        let many = self.names.is_empty() || random.random_ratio(1, 40);
        for _ in 0..random.random_range(0..if many { 2 * NAMES } else { 4 }) {
            // Every twelfth name is one of the next tenant's.
            let owner = (number + usize::from(random.random_ratio(1, 12))) % TENANTS;
            let key = format!("{owner}-{}", random.random_range(0..NAMES / KINDS.len()));
            let key = Key::new(&key).expect("a key");
            let name = (kind(KINDS[random.random_range(0..KINDS.len())]), key);
            let expires = random.random_ratio(1, 5).then_some(7);
            match random.random_range(0..20) {
                0..3 => drop(self.names.remove(&name)),
                3 => drop(self.names.insert(name, Err(HoldReason::Duplicate))),
                4 => {
                    let owner = tenant(owner);
                    let why = HoldReason::KeyTaken { owner };
                    self.names.insert(name, Err(why));
                }
                _ => {
                    let value = random.random_range(0..1_000);
                    self.names.insert(name, Ok((value, expires)));
                }
            }
        }
    }

    fn bundle(&self, tenant: TenantId) -> Bundle {
        let (mut contexts, mut held) = (Vec::new(), Vec::new());
        for ((kind, key), state) in &self.names {
            let (kind, key) = (kind.clone(), key.clone());
            let whole = self.held_kinds.contains(&kind);
            match state {
                Ok((value, expires)) if !whole => contexts.push(Context {
                    kind,
                    key,
                    value: format!("{{\"n\":{value}}}").into(),
                    expires: *expires,
                }),
                Err(why @ HoldReason::KeyTaken { .. }) => held.push(Held {
                    kind,
                    key,
                    why: why.clone(),
                }),
                Err(why) if !whole => held.push(Held {
                    kind,
                    key,
                    why: why.clone(),
                }),
                _ => {}
            }
        }
        let whole = |kind: &Kind| HeldKind {
            kind: kind.clone(),
            why: HoldReason::Paused,
        };
        let held_kinds = self.held_kinds.iter().map(whole).collect();
        Bundle::new(tenant, contexts, held, held_kinds).expect("a sound bundle")
    }
}

/// A bundle on its way, in both forms; one if no delta is worth it.
struct Way {
    sent: Sent,
    parts: Option<Parts>,
    delta: Option<Delta>,
}

impl Way {
    fn of(bundle: Bundle, n: u64, known: Option<&Arc<Sums>>) -> Self {
        let key = digest_key();
        let (digest, digests) = (bundle.digest(&key), bundle.digests(&key));
        let parts = Parts::of(&bundle, digests, &key, CUT);
        let sent = Sent {
            version: Version { epoch: 1, n },
            bundle: Arc::new(bundle),
        };
        let delta = parts.as_ref().zip(known);
        let delta = delta.and_then(|(parts, known)| Delta::of(&sent, digest, parts, known));
        Self { sent, parts, delta }
    }

    fn change(&self) -> Change {
        let delta = self.delta.clone().map(Change::Delta);
        delta.unwrap_or_else(|| Change::Whole(self.sent.clone()))
    }
}

fn whole(store: &mut Maps, ways: &[Way]) -> Applied {
    let sent: Vec<Sent> = ways.iter().map(|w| w.sent.clone()).collect();
    let Ok(applied) = apply(store, &digest_key(), &sent);
    applied
}

fn changes(store: &mut Maps, ways: &[Way]) -> Result<Applied, Vec<TenantId>> {
    let changes: Vec<Change> = ways.iter().map(Way::change).collect();
    let Ok(applied) = apply_changes(store, &digest_key(), &changes);
    applied
}

/// Does something to the store that no push did.
fn tamper(random: &mut StdRng, store: &mut Maps) {
    let of = tenant(random.random_range(0..TENANTS));
    let records = store.records.entry(of.clone()).or_default();
    let names: Vec<_> = records.keys().cloned().collect();
    let any = (!names.is_empty()).then(|| names[random.random_range(0..names.len())].clone());
    match (random.random_range(0..6), any) {
        (0, Some(name)) => drop(records.remove(&name)),
        (1, Some(name)) => records.get_mut(&name).expect("there").context.value = "1".into(),
        (2, Some(name)) => records.get_mut(&name).expect("there").hash = Digest([9; 16]),
        (3, Some(name)) => {
            let mut context = records[&name].context.clone();
            context.value = "2".into();
            records.insert(name, Record::new(context, &digest_key()));
        }
        (4, _) => {
            let context = Context {
                kind: kind("a"),
                key: Key::new("nobody's").expect("a key"),
                value: "3".into(),
                expires: None,
            };
            let name = (context.kind.clone(), context.key.clone());
            records.insert(name, Record::new(context, &digest_key()));
        }
        (5, Some(_)) if random.random() => drop(store.heads.remove(&of)),
        (_, Some(name)) => {
            if let Some(head) = store.heads.get_mut(&of) {
                let at = head
                    .held
                    .partition_point(|h| (&h.kind, &h.key) < (&name.0, &name.1));
                match head.held.get(at) {
                    Some(held) if (&held.kind, &held.key) == (&name.0, &name.1) => {
                        head.held.remove(at);
                    }
                    _ => head.held.insert(
                        at,
                        contexts::apply::HeldName {
                            kind: name.0,
                            key: name.1,
                            why: HoldReason::Duplicate,
                            kept: Some(Version::default()),
                        },
                    ),
                }
            }
        }
        (_, None) => {}
    }
}

#[derive(Default)]
struct Seen {
    deltas: usize,
    moves: usize,
    key_taken: usize,
    /// Over a store that was tampered with: the same came of it, and it was refused.
    same: usize,
    refused: usize,
}

fn run(seed: u64, seen: &mut Seen) {
    let random = &mut StdRng::seed_from_u64(seed);
    let mut store = Maps::default();
    store.synced.insert(kind("a"));
    let mut hubs: Vec<Hub> = vec![Hub::default(); TENANTS];
    let mut known: BTreeMap<TenantId, Arc<Sums>> = BTreeMap::new();
    for step in 0..STEPS {
        let at = format!("seed {seed}, step {step}");
        let count = 1 + usize::from(random.random_ratio(1, 4));
        let first = random.random_range(0..TENANTS);
        let chosen = (first..first + count).map(|n| n % TENANTS);
        let ways: Vec<Way> = chosen
            .map(|n| {
                hubs[n].change(random, n);
                let bundle = hubs[n].bundle(tenant(n));
                Way::of(bundle, step as u64, known.get(&tenant(n)))
            })
            .collect();
        let is_delta = ways.iter().any(|w| w.delta.is_some());

        let (mut tampered, before) = (store.clone(), store.clone());
        tamper(random, &mut tampered);
        let untouched = tampered.clone();
        let mut by_whole = tampered.clone();
        let expected = whole(&mut by_whole, &ways);
        match changes(&mut tampered, &ways) {
            Ok(applied) => {
                assert_eq!(applied, expected, "{at}: tampered");
                assert_eq!(tampered, by_whole, "{at}: tampered");
                seen.same += usize::from(is_delta);
            }
            Err(tenants) => {
                assert!(!tenants.is_empty(), "{at}");
                assert_eq!(tampered, untouched, "{at}: refused");
                seen.refused += 1;
            }
        }

        let mut by_whole = before;
        let expected = whole(&mut by_whole, &ways);
        let applied = changes(&mut store, &ways);
        assert_eq!(applied.as_ref(), Ok(&expected), "{at}");
        assert_eq!(store, by_whole, "{at}");
        seen.deltas += ways.iter().filter(|w| w.delta.is_some()).count();
        for (way, verdict) in ways.into_iter().zip(expected.verdicts) {
            let tenant = way.sent.bundle.tenant.clone();
            match (verdict, way.parts) {
                (Verdict::Applied | Verdict::AlreadyThere, Some(parts)) => {
                    known.insert(tenant, parts.sums.clone());
                    seen.moves += usize::from(count == 2 && is_delta);
                }
                (Verdict::KeyTaken { .. }, _) => {
                    seen.key_taken += usize::from(is_delta);
                    known.remove(&tenant);
                }
                _ => drop(known.remove(&tenant)),
            }
        }
    }
}

#[test]
fn a_delta_does_what_the_whole_bundle_does_or_nothing() {
    let mut seen = Seen::default();
    (0..12).for_each(|seed| run(seed, &mut seen));
    let Seen {
        deltas,
        moves,
        key_taken,
        same,
        refused,
    } = seen;
    let counts = [deltas, moves, key_taken, same, refused];
    assert!(counts.iter().all(|n| *n > 100), "{counts:?}");
}

/// A tenant whose contexts all have the value 0, but for one with 1.
fn plain(count: usize, changed: Option<usize>) -> Bundle {
    let context = |n: usize| Context {
        kind: kind("a"),
        key: Key::new(&format!("key-{n}")).expect("a key"),
        value: if Some(n) == changed { "1" } else { "0" }.into(),
        expires: None,
    };
    let contexts = (0..count).map(context).collect();
    Bundle::new(tenant(0), contexts, vec![], vec![]).expect("a bundle")
}

fn parts(bundle: &Bundle, cut: Cut) -> Parts {
    let digests = bundle.digests(&digest_key());
    Parts::of(bundle, digests, &digest_key(), cut).expect("it is large")
}

/// The delta between two bundles.
fn between(from: &Bundle, to: &Bundle, cut: Cut) -> Delta {
    let sent = Sent {
        version: Version { epoch: 1, n: 2 },
        bundle: Arc::new(to.clone()),
    };
    let (digest, known) = (to.digest(&digest_key()), parts(from, cut).sums);
    Delta::of(&sent, digest, &parts(to, cut), &known).expect("a delta")
}

/// One of many changes: what is sent is a part, not the tenant.
#[test]
fn one_change_among_very_many_is_small() {
    let (before, after) = (plain(20_000, None), plain(20_000, Some(1_234)));
    let delta = between(&before, &after, Cut::default());
    assert_eq!(delta.replaced.len(), 1);
    assert!(delta.weight() < 4 << 10, "{}", delta.weight());
    assert!(delta.contexts.iter().any(|c| c.key.as_str() == "key-1234"));
    let (key, small) = (digest_key(), plain(1_000, None));
    let none = Parts::of(&small, small.digests(&key), &key, Cut::default());
    assert!(none.is_none(), "all of it is as quick");
}

/// A tenant that grows is compared by as few parts as it had.
#[test]
fn a_bundle_that_has_grown_is_compared_by_the_parts_that_both_have() {
    let mut growths = 0;
    for count in 60..200 {
        let (smaller, larger) = (plain(count, None), plain(count + 1, None));
        let bytes = |bundle| parts(bundle, CUT).sums.bytes();
        growths += usize::from(bytes(&smaller) != bytes(&larger));
        for (from, to) in [(&smaller, &larger), (&larger, &smaller)] {
            assert_eq!(between(from, to, CUT).replaced.len(), 1, "{count}");
        }
    }
    assert!(growths > 0);
}

/// What no hub of this release sends must not do more than be refused.
#[test]
fn a_delta_that_makes_no_sense_is_refused() {
    let (before, after) = (plain(200, None), plain(200, Some(7)));
    let mut store = Maps::default();
    whole(&mut store, &[Way::of(before.clone(), 1, None)]);
    let good = between(&before, &after, CUT);
    assert!(good.contexts.len() > 1);
    let bad: [fn(&mut Delta); 8] = [
        |d| d.parts = 0,
        |d| d.parts = 3,
        |d| d.parts = u32::MAX,
        |d| d.parts = 1 << 31,
        |d| d.replaced.push(u32::MAX),
        |d| d.contexts.reverse(),
        |d| d.contexts.push(d.contexts[0].clone()),
        |d| d.digest.0[0] ^= 1,
    ];
    for (n, spoil) in bad.iter().enumerate() {
        let (mut delta, before) = (good.clone(), store.clone());
        spoil(&mut delta);
        let Ok(applied) = apply_changes(&mut store, &digest_key(), &[Change::Delta(delta)]);
        assert_eq!(applied, Err(vec![tenant(0)]), "{n}");
        assert_eq!(store, before, "{n}");
    }
    let Ok(applied) = apply_changes(&mut store, &digest_key(), &[Change::Delta(good)]);
    assert!(applied.is_ok());
}

/// Names that are replaced one by one leave what a look at all of the bundle finds.
#[test]
fn replaced_contexts_leave_the_parts_and_the_digest_of_the_new_bundle() {
    let random = &mut StdRng::seed_from_u64(7);
    let (key, mut bundle) = (digest_key(), plain(500, None));
    let count = |parts: &Parts| parts.sums.bytes() / 8;
    let mut replaced = parts(&bundle, CUT);
    for step in 0..2_000 {
        let name = Key::new(&format!("key-{}", random.random_range(0..600))).expect("a key");
        let context = random.random_ratio(2, 3).then(|| Context {
            kind: kind("a"),
            key: name.clone(),
            value: random.random_range(0..9).to_string().into(),
            expires: None,
        });
        // Who compares with sums that are shared keeps them.
        let shared = random.random_ratio(1, 2).then(|| replaced.sums.clone());
        let before = shared.as_deref().cloned();
        replaced.replace(&mut bundle, (&kind("a"), &name), context, &key);
        assert_eq!(shared.as_deref(), before.as_ref(), "step {step}");
        assert!(bundle.check().is_ok(), "step {step}");
        assert_eq!(replaced.weight(), bundle.weight(), "step {step}");
        assert_eq!(replaced.digest(&bundle, &key), bundle.digest(&key));
        let fresh = parts(&bundle, CUT);
        if count(&fresh) == count(&replaced) {
            assert_eq!(replaced, fresh, "step {step}");
        }
    }
}
