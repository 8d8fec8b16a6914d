//! The model: plain maps under the same rules, random bundles for both, and what has to be the same.

use super::support::*;
use contexts::apply::maps::Maps;
use contexts::apply::{Name, apply};
use contexts::bundle::{Bundle, Context, Held, HeldKind, HoldReason};
use contexts::digest::{Buckets, Digest};
use contexts::name::TenantId;
use contexts::push::{ReadTenant, Sent, Verdict};
use contexts::version::Version;
use contexts_dynamodb::table::Table;
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;

pub const KINDS: [&str; 3] = ["a", "b", "c"];
const TENANTS: u32 = 5;

/// How large bundles are.
#[derive(Clone, Copy)]
pub struct Size {
    /// Keys of a kind that there are.
    pub keys: u32,
    /// Bytes of a value.
    pub value: usize,
}

pub const SMALL: Size = Size { keys: 6, value: 1 };
/// Most bundles are more than one transaction has room for.
pub const LARGE: Size = Size {
    keys: 120,
    value: 40,
};

pub fn tenants() -> Vec<TenantId> {
    (0..TENANTS).map(|n| tenant(&format!("t{n}"))).collect()
}

pub fn names(size: Size) -> Vec<Name> {
    let of = |kind: &&'static str| (0..size.keys).map(move |n| (*kind, n)).collect::<Vec<_>>();
    let all = KINDS.iter().flat_map(of);
    all.map(|(kind, n)| name(kind, &format!("k{n}"))).collect()
}

pub fn context(name: &Name, value: String, expires: Option<i64>) -> Context {
    Context {
        kind: name.0.clone(),
        key: name.1.clone(),
        value: value.into(),
        expires,
    }
}

/// A bundle that has these keys with this value.
pub fn bundle(tenant: &TenantId, names: impl IntoIterator<Item = Name>, value: &str) -> Bundle {
    let contexts = names
        .into_iter()
        .map(|n| context(&n, value.to_owned(), None));
    Bundle::new(tenant.clone(), contexts.collect(), vec![], vec![]).expect("a bundle")
}

pub fn sent(version: Version, bundle: Bundle) -> Sent {
    let bundle = Arc::new(bundle);
    Sent { version, bundle }
}

fn random_bundle(random: &mut StdRng, tenant_: TenantId, size: Size) -> Bundle {
    if random.random_ratio(1, 8) {
        return Bundle::empty(tenant_);
    }
    let mut held_kinds = Vec::new();
    for kind in KINDS {
        if random.random_ratio(1, 12) {
            held_kinds.push(HeldKind {
                kind: name(kind, "k").0,
                why: HoldReason::Duplicate,
            });
        }
    }
    let (mut contexts, mut held) = (Vec::new(), Vec::new());
    for name in names(size) {
        let whole = held_kinds.iter().any(|held| held.kind == name.0);
        match random.random_range(0..10) {
            0..=2 if !whole => {
                let value = random.random_range(0..3_u32).to_string().repeat(size.value);
                let expires = random.random_ratio(1, 4).then_some(7);
                contexts.push(context(&name, value, expires));
            }
            3 => {
                let yields = whole || random.random_ratio(1, 3);
                let owner = tenant("t0");
                let why = match yields {
                    true => HoldReason::KeyTaken { owner },
                    false => HoldReason::Duplicate,
                };
                let (kind, key) = name;
                held.push(Held { kind, key, why });
            }
            _ => {}
        }
    }
    Bundle::new(tenant_, contexts, held, held_kinds).expect("a bundle")
}

pub fn random_push(random: &mut StdRng, version: Version, size: Size) -> Vec<Sent> {
    let count = random.random_range(1..=3);
    let one = |_| {
        let tenant = tenant(&format!("t{}", random.random_range(0..TENANTS)));
        sent(version, random_bundle(random, tenant, size))
    };
    (0..count).map(one).collect()
}

/// The verdicts that a store has to give.
pub fn expected(maps: &mut Maps, push: &[Sent]) -> Vec<Verdict> {
    let Ok(applied) = apply(maps, &key(), push);
    applied.verdicts
}

/// The root over all that the model has.
pub fn root(maps: &Maps) -> Digest {
    let mut buckets = Buckets::default();
    for (tenant, head) in &maps.heads {
        buckets.add(&key(), tenant, &head.digest);
    }
    key().root(&buckets)
}

/// The table says of every tenant and key what the model says.
pub async fn assert_same(table: &Table, maps: &Maps, size: Size, at: &str) {
    let names = names(size);
    let asked = ReadTenant {
        tenants: tenants(),
        owners_of: names.clone(),
    };
    let read = table.read(&asked).await.expect("reads").expect("answers");
    for (tenant, state) in tenants().iter().zip(&read.tenants) {
        let head = maps.heads.get(tenant);
        assert_eq!(state.version, head.map(|h| h.version), "{at}: {tenant}");
        let records = maps.records.get(tenant).into_iter().flatten();
        let contexts: Vec<&Context> = records.map(|(_, record)| &record.context).collect();
        let found: Vec<&Context> = state.contexts.iter().collect();
        assert_eq!(found, contexts, "{at}: {tenant}");
        let held = head.into_iter().flat_map(|head| &head.held);
        let held: Vec<Name> = held.map(|h| (h.kind.clone(), h.key.clone())).collect();
        assert_eq!(state.held, held, "{at}: {tenant}");
        let kinds = head.into_iter().flat_map(|head| &head.held_kinds);
        let kinds: Vec<_> = kinds.map(|h| h.kind.clone()).collect();
        assert_eq!(state.held_kinds, kinds, "{at}: {tenant}");
    }
    for (name, owner) in names.iter().zip(&read.owners) {
        let expected = maps.owners.get(name).map(|owner| owner.tenant.clone());
        assert_eq!(*owner, expected, "{at}: owner of {name:?}");
    }
}

/// Nothing of a large build is left.
pub async fn assert_collected(url: &str, table: &str, maps: &Maps, size: Size) {
    let db = db(url, table);
    let journal = db.query(contexts_dynamodb::layout::JOURNAL, "").await;
    assert!(journal.expect("reads").is_empty(), "the journal is empty");
    for name in names(size) {
        let pk = contexts_dynamodb::layout::context(name.0.as_str(), name.1.as_str());
        let items = db.query(&pk, "").await.expect("reads");
        let there = usize::from(maps.owners.contains_key(&name));
        assert_eq!(items.len(), there, "{name:?} is settled");
    }
}
