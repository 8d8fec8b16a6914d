//! The model: plain maps under the same rules, bundles for both, and what has to be the same.

use super::support::*;
use contexts::apply::maps::Maps;
use contexts::apply::{Name, apply};
use contexts::bundle::{Bundle, Context};
use contexts::digest::{Buckets, Digest};
use contexts::name::TenantId;
use contexts::push::{ReadTenant, Sent, Verdict};
use contexts::version::Version;
use contexts_dynamodb::table::Table;
use std::sync::Arc;

pub const KINDS: [&str; 3] = ["a", "b", "c"];
const TENANTS: u32 = 5;

/// Keys of a kind that there are: more than one transaction has room for.
const KEYS: u32 = 120;

pub fn tenants() -> Vec<TenantId> {
    (0..TENANTS).map(|n| tenant(&format!("t{n}"))).collect()
}

pub fn names() -> Vec<Name> {
    let of = |kind: &&'static str| (0..KEYS).map(move |n| (*kind, n)).collect::<Vec<_>>();
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
pub async fn assert_same(table: &Table, maps: &Maps, at: &str) {
    assert_same_of(table, &tenants(), maps, at).await;
}

/// The same, of these tenants.
pub async fn assert_same_of(table: &Table, tenants: &[TenantId], maps: &Maps, at: &str) {
    let names = names();
    let asked = ReadTenant {
        tenants: tenants.to_vec(),
        owners_of: names.clone(),
    };
    let read = table.read(&asked).await.expect("reads").expect("answers");
    for (tenant, state) in tenants.iter().zip(&read.tenants) {
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
pub async fn assert_collected(url: &str, table: &str, maps: &Maps) {
    let db = db(url, table);
    let journal = db.query(contexts_dynamodb::layout::JOURNAL, "").await;
    assert!(journal.expect("reads").is_empty(), "the journal is empty");
    for name in names() {
        let pk = contexts_dynamodb::layout::context(name.0.as_str(), name.1.as_str());
        let items = db.query(&pk, "").await.expect("reads");
        let there = usize::from(maps.owners.contains_key(&name));
        assert_eq!(items.len(), there, "{name:?} is settled");
    }
}
