//! The same of changed values, and what is no change.

use super::*;

/// A guard that counts changes, of two in five: keys 0 to 99 of `a` and 100 to 199 of `b`, all with the value 1.
fn changing() -> Guard {
    let mut guard = Guard::new(&[Region::new("r").expect("region")]);
    guard.limits(GuardLimits {
        max_change_share: 0.4,
        ..GuardLimits::default()
    });
    guard.queries(&QUERIES);
    guard.read(&t("a"), [&bundle("a", 0..100)].into_iter());
    guard.read(&t("b"), [&bundle("b", 100..200)].into_iter());
    guard.in_step(0, &QUERIES);
    guard
}

/// A bundle in which some keys have another value.
fn with_changes(
    tenant: &str,
    keys: std::ops::Range<u32>,
    changed: std::ops::Range<usize>,
    value: &str,
) -> Bundle {
    let mut bundle = bundle(tenant, keys);
    for context in &mut bundle.contexts[changed] {
        context.value = value.into();
    }
    bundle
}

fn passes(guard: &mut Guard, bundle: &Bundle) -> bool {
    guard.begun(&bundle.tenant);
    let seen = saw("7:8:");
    guard.built(
        &bundle.tenant,
        &[Found::small(bundle)],
        &[true],
        &[],
        seen.as_ref(),
        &[],
    )
}

#[test]
fn a_few_changes_pass_and_too_many_are_held_with_the_value_that_is_not_to_go() {
    let mut guard = changing();
    let few = with_changes("a", 0..100, 0..20, "2");
    assert!(!passes(&mut guard, &few));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "twenty");
    assert!(passes(&mut guard, &few), "and they are none later");

    changed(&mut guard, &[("a", 7), ("b", 7)]);
    let (a, b) = (
        with_changes("a", 0..100, 0..100, "3"),
        with_changes("b", 100..200, 0..100, "3"),
    );
    assert!(!passes(&mut guard, &a) && !passes(&mut guard, &b));
    assert!(decide_late(&mut guard).free.is_empty());
    guard.named(0, &t("a"), &names(0..100));
    guard.named(0, &t("b"), &names(100..200));
    let verdicts = guard.decide(0);
    let names = &verdicts.holds[0].names;
    let value = value_of(&a.contexts[0]);
    assert_eq!(names.len(), 200);
    assert!(names.iter().all(|n| n.what == Withheld::Change(value)));

    // Once the rows are found, the old values count.
    let mut held = a.clone();
    for context in a.contexts {
        held = held.hold(&context.kind, &context.key, HoldReason::Changed);
    }
    assert!(passes(&mut guard, &held));
    // One that is changed again goes.
    let mut again = held.clone();
    let revoked = with_changes("a", 0..100, 0..1, "4").contexts.remove(0);
    again.held.retain(|h| h.key != revoked.key);
    again.contexts.push(revoked);
    assert!(!passes(&mut guard, &again));
    assert_eq!(guard.decide(0).free, [t("a")].into());
}

#[test]
fn a_fill_and_another_query_change_nothing_and_removals_count_for_themselves() {
    let mut guard = changing();
    assert!(passes(&mut guard, &bundle("a", 0..110)), "ten are new");
    let other: Arc<BTreeMap<Kind, u64>> = Arc::new([(Kind::new("k").expect("kind"), 8)].into());
    guard.queries(&other);
    let all = with_changes("b", 100..200, 0..100, "2");
    assert!(passes(&mut guard, &all), "the query is another one");
    guard.in_step(0, &other);
    let settled = guard.take_unsettled();
    assert_eq!((settled.len(), settled[0].query), (1, 8));
    // Found in step with the new query, changes count; and another writer knows it.
    let mut after = changing();
    after.queries(&other);
    after.resume_settled(&settled);
    for guard in [&mut guard, &mut after] {
        let all = with_changes("a", 0..110, 0..100, "5");
        assert!(!passes(guard, &all));
        assert!(guard.decide(0).free.is_empty());
    }
    // No more changes fit, but removals have a limit of their own.
    let mut guard = changing();
    assert!(!passes(&mut guard, &with_changes("a", 0..100, 0..80, "2")));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "80 of 200");
    assert!(passes(&mut guard, &with_changes("a", 0..100, 0..80, "2")));
    assert!(!passes(&mut guard, &bundle("b", 150..200)));
    assert_eq!(guard.decide(0).free, [t("b")].into());
    assert!(!passes(&mut guard, &with_changes("a", 0..100, 0..21, "3")));
    assert!(decide_late(&mut guard).free.is_empty(), "101 of 150");
}

#[test]
fn a_small_change_goes_on_while_a_large_one_of_its_tenant_is_counted() {
    let mut guard = changing();
    changed(&mut guard, &[("a", 7), ("b", 7)]);
    let large = with_changes("a", 0..100, 0..90, "2");
    assert!(!passes(&mut guard, &large));
    assert!(guard.decide(0).free.is_empty());
    changed(&mut guard, &[("a", 8)]);
    guard.share(&t("a"));
    guard.named(0, &t("a"), &names(0..100));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "it may be built");
    // The small one changes a key that the large one changed, and one that it did not.
    let mut both = large.clone();
    both.contexts[0].value = "3".into();
    both.contexts[95].value = "3".into();
    let kept = guard.keep(0, &both, &[]).expect("kept");
    assert!(kept.check().is_ok());
    assert_eq!((kept.contexts.len(), kept.held.len()), (11, 89));
    assert!(!passes(&mut guard, &kept));
    assert_eq!(guard.decide(0).free, [t("a")].into());
    guard.goes_on(&t("a"));
    // The rest of the large one is held by name.
    assert!(!passes(
        &mut guard,
        &with_changes("b", 100..200, 0..100, "2")
    ));
    decide_late(&mut guard);
    guard.named(0, &t("a"), &names(0..100));
    guard.named(0, &t("b"), &names(100..200));
    let holds = guard.decide(0).holds;
    assert_eq!((holds.len(), holds[0].names.len()), (1, 189));
}
