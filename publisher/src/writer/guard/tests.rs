//! What passes, what is held, and what waits.

use super::*;
use contexts::bundle::Context;

fn t(name: &str) -> TenantId {
    TenantId::new(name).expect("tenant")
}

fn bundle(tenant: &str, keys: std::ops::Range<u32>) -> Bundle {
    let context = |n: u32| Context {
        kind: Kind::new("k").expect("kind"),
        key: Key::new(&format!("key {n:05}")).expect("key"),
        value: "1".into(),
        expires: None,
    };
    let contexts = keys.map(context).collect();
    Bundle::new(t(tenant), contexts, vec![], vec![]).expect("bundle")
}

/// A guard of one region that found two tenants in step: `a` with keys 0 to 499, `b` with none.
fn guard() -> Guard {
    let mut guard = Guard::new(&[Region::new("r").expect("region")]);
    guard.limits(GuardLimits::default());
    guard.read(&t("a"), 0, &bundle("a", 0..500));
    guard.in_step(0);
    guard
}

fn built(guard: &mut Guard, tenant: &str, keys: std::ops::Range<u32>) -> bool {
    guard.built(&t(tenant), &[&bundle(tenant, keys)], &[true], &[])
}

#[test]
fn a_few_removals_pass_and_too_many_are_held_by_name() {
    let mut guard = guard();
    assert!(!built(&mut guard, "a", 0..480));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "twenty");
    assert!(!built(&mut guard, "a", 0..370));
    let verdicts = guard.decide(1);
    assert!(verdicts.free.is_empty() && verdicts.holds.is_empty());
    assert_eq!(guard.asks, [(0, t("a"))].into());
    let kind = Kind::new("k").expect("kind");
    let name = |n: u32| (kind.clone(), Key::new(&format!("key {n:05}")).expect("key"));
    guard.named(0, &t("a"), &(0..480).map(name).collect::<Vec<_>>());
    let holds = guard.decide(2).holds;
    assert_eq!((holds.len(), holds[0].names.len()), (1, 110));
    assert_eq!(holds[0].tenants, [t("a")].into());
}

#[test]
fn nothing_of_a_transaction_leaves_before_all_of_it_was_built_and_a_move_is_no_removal() {
    let mut guard = guard();
    for tenant in ["a", "b"] {
        guard.caused(&t(tenant), Cause::Transaction(7));
    }
    assert!(!built(&mut guard, "a", 0..0));
    assert!(guard.decide(0).free.is_empty());
    assert!(built(&mut guard, "b", 0..500), "it only gains");
    let verdicts = guard.decide(0);
    assert_eq!(verdicts.free, [t("a")].into());
    assert!(verdicts.alerts.is_empty());
}

#[test]
fn who_is_not_known_is_asked_for_before_anything_leaves() {
    let mut guard = Guard::new(&[Region::new("r").expect("region")]);
    guard.limits(GuardLimits::default());
    assert!(!built(&mut guard, "a", 0..3));
    assert_eq!(guard.asks, [(0, t("a"))].into());
    assert!(guard.decide(0).free.is_empty());
    guard.named(0, &t("a"), &[]);
    assert_eq!(guard.decide(0).free, [t("a")].into());
    assert!(built(&mut guard, "a", 0..3));
}
