//! Who has a key, after random pushes of tenants that want the same few keys: the row of each key says exactly what the heads
//! and the records of all tenants say.
//!
//! Would catch an owner that is written from what was known before the push although another bundle of it has its tenant
//! wait for the key, a key that two tenants have, and one that is forgotten while somebody still has it at the hub.

use contexts::apply::maps::Maps;
use contexts::apply::{Name, apply};
use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::digest::DigestKey;
use contexts::name::{Key, Kind, TenantId};
use contexts::push::{Sent, Verdict};
use contexts::version::Version;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const TENANTS: usize = 6;
const KINDS: [&str; 2] = ["a", "b"];
const KEYS: usize = 4;
const STEPS: u64 = 400;

fn kind(text: &str) -> Kind {
    Kind::new(text).expect("a kind")
}

fn key(n: usize) -> Key {
    Key::new(&format!("key{n}")).expect("a key")
}

fn tenant_of(n: usize) -> TenantId {
    TenantId::new(&format!("t{n}")).expect("a tenant")
}

fn bundle(random: &mut StdRng, tenant: usize) -> Bundle {
    let (mut contexts, mut held, mut held_kinds) = (Vec::new(), Vec::new(), Vec::new());
    for of in KINDS {
        let is_held = random.random_ratio(1, 8);
        if is_held {
            held_kinds.push(HeldKind {
                kind: kind(of),
                why: HoldReason::Duplicate,
            });
        }
        for n in 0..KEYS {
            match random.random_range(0..4) {
                0 if !is_held => contexts.push(Context {
                    kind: kind(of),
                    key: key(n),
                    value: random.random_range(0..3).to_string().into(),
                    expires: None,
                }),
                1 => held.push(Held {
                    kind: kind(of),
                    key: key(n),
                    why: match is_held {
                        // What belongs to others may stand beside a held kind.
                        true => HoldReason::KeyTaken {
                            owner: tenant_of(0),
                        },
                        false => HoldReason::Duplicate,
                    },
                }),
                _ => {}
            }
        }
    }
    Bundle::new(tenant_of(tenant), contexts, held, held_kinds).expect("a bundle")
}

/// Of each name the tenant that has a value, and those that have none here.
type Owners = BTreeMap<Name, (Option<TenantId>, BTreeSet<TenantId>)>;

/// As the heads and the records say.
fn by_tenants(store: &Maps) -> Owners {
    let mut owners = Owners::new();
    for (tenant, records) in &store.records {
        for name in records.keys() {
            let (has_value, _) = owners.entry(name.clone()).or_default();
            assert_eq!(has_value.replace(tenant.clone()), None, "{name:?} twice");
        }
    }
    for (tenant, head) in &store.heads {
        for held in head.held.iter().filter(|held| held.kept.is_none()) {
            let name = (held.kind.clone(), held.key.clone());
            let (_, waiting) = owners.entry(name).or_default();
            waiting.insert(tenant.clone());
        }
    }
    owners
}

/// As the rows of the keys say.
fn by_keys(store: &Maps) -> Owners {
    let owners = store.owners.iter().map(|(name, owner)| {
        let mut waiting = owner.waiting.clone();
        let has_value = match owner.has_value {
            true => Some(owner.tenant.clone()),
            false => {
                waiting.insert(owner.tenant.clone());
                None
            }
        };
        (name.clone(), (has_value, waiting))
    });
    owners.collect()
}

/// Which bundles of a push are refused for a key, by the rule as one would say it: as long as there is one that takes a key
/// which nobody gives up, or which one before it takes, the first such is refused.
fn refused_by_the_rule(before: &Maps, sent: &[Sent]) -> Vec<bool> {
    let mut refused = vec![false; sent.len()];
    while let Some(first) =
        (0..sent.len()).find(|i| !refused[*i] && is_in_conflict(before, sent, &refused, *i))
    {
        refused[first] = true;
    }
    refused
}

fn takes(before: &Maps, bundle: &Bundle) -> Vec<Name> {
    let has = |name: &Name| {
        before
            .records
            .get(&bundle.tenant)
            .is_some_and(|r| r.contains_key(name))
    };
    let names = bundle
        .contexts
        .iter()
        .map(|c| (c.kind.clone(), c.key.clone()));
    names.filter(|name| !has(name)).collect()
}

fn is_in_conflict(before: &Maps, sent: &[Sent], refused: &[bool], i: usize) -> bool {
    let accepted = || {
        sent.iter()
            .zip(refused)
            .filter(|(_, refused)| !**refused)
            .map(|(sent, _)| &sent.bundle)
    };
    takes(before, &sent[i].bundle).iter().any(|name| {
        let owner = before
            .owners
            .get(name)
            .filter(|o| o.has_value && o.tenant != sent[i].bundle.tenant);
        let is_kept = owner.is_some_and(|owner| {
            let mut theirs = accepted().filter(|b| b.tenant == owner.tenant);
            !theirs.any(|b| !b.mentions(&name.0, &name.1))
        });
        let earlier = (0..i).filter(|j| !refused[*j]);
        is_kept
            || earlier
                .into_iter()
                .any(|j| takes(before, &sent[j].bundle).contains(name))
    })
}

#[test]
fn each_name_has_the_owner_that_the_tenants_say() {
    let (mut applied, mut taken, mut shared) = (0, 0, 0);
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut store = Maps::default();
        for step in 1..=STEPS {
            let mut tenants: Vec<usize> = (0..TENANTS).collect();
            tenants.shuffle(&mut random);
            tenants.truncate(random.random_range(1..=TENANTS));
            let sent = tenants.into_iter().map(|tenant| Sent {
                version: Version { epoch: 1, n: step },
                bundle: Arc::new(bundle(&mut random, tenant)),
            });
            let sent: Vec<Sent> = sent.collect();
            let refused = refused_by_the_rule(&store, &sent);
            let Ok(outcome) = apply(&mut store, &DigestKey([7; 32]), &sent);
            let is_taken = |verdict: &Verdict| matches!(verdict, Verdict::KeyTaken { .. });
            let is_refused: Vec<bool> = outcome.verdicts.iter().map(is_taken).collect();
            assert_eq!(is_refused, refused, "seed {seed}, step {step}");
            for verdict in outcome.verdicts {
                match verdict {
                    Verdict::Applied => applied += 1,
                    Verdict::KeyTaken { .. } => taken += 1,
                    Verdict::AlreadyThere => {}
                    Verdict::Invalid { why } => panic!("seed {seed}: {why}"),
                }
            }
            let owners = by_keys(&store);
            assert_eq!(owners, by_tenants(&store), "seed {seed}, step {step}");
            let both = |(has_value, waiting): &&(Option<TenantId>, BTreeSet<TenantId>)| {
                has_value.is_some() && !waiting.is_empty()
            };
            shared += owners.values().filter(both).count();
        }
    }
    assert!(applied > 1_000 && taken > 1_000 && shared > 1_000);
}
