//! What passes, what is held, and what waits.

mod changes;

use super::*;
use crate::writer::BuiltBundle;
use contexts::bundle::{Context, HoldReason};
use contexts::digest::DigestKey;
use contexts::name::Key;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::LazyLock;

/// The query of the only kind.
static QUERIES: LazyLock<Arc<BTreeMap<Kind, u64>>> =
    LazyLock::new(|| Arc::new([(Kind::new("k").expect("kind"), 7)].into()));

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
    guard.read(&t("a"), [&bundle("a", 0..500)].into_iter());
    guard.in_step(0, &QUERIES);
    guard
}

/// Would catch names of one region that are taken for those of another because they are kept once where they are the same.
#[test]
fn each_region_has_its_own_names_also_where_some_share_them() {
    let regions = ["r", "s", "u"].map(|name| Region::new(name).expect("region"));
    let mut guard = Guard::new(&regions);
    guard.limits(GuardLimits::default());
    let (all, few) = (bundle("a", 0..500), bundle("a", 0..10));
    guard.read(&t("a"), [&all, &all, &few].into_iter());
    let count = |guard: &Guard, region| {
        let names = guard.book.published(region, &t("a"));
        names.map(|names| names.codes().len())
    };
    guard.in_step(0, &QUERIES);
    guard.in_step(2, &QUERIES);
    let counts = [0, 1, 2].map(|region| count(&guard, region));
    assert_eq!(counts, [Some(500), None, Some(10)]);
    // What is published is not what a later scan reads; of the others it is.
    guard.read(&t("a"), [&few, &few, &all].into_iter());
    guard.in_step(1, &QUERIES);
    let counts = [0, 1, 2].map(|region| count(&guard, region));
    assert_eq!(counts, [Some(500), Some(10), Some(10)]);
}

fn saw(text: &str) -> Option<Arc<Snapshot>> {
    Snapshot::parse(text).map(Arc::new)
}

/// Decides once whatever is in the outbox is known.
fn decide_late(guard: &mut Guard) -> Verdicts {
    guard.looked();
    guard.looked();
    guard.decide(0)
}

/// Built in a snapshot that has the transactions up to 7.
fn built(guard: &mut Guard, tenant: &str, keys: std::ops::Range<u32>) -> bool {
    guard.begun(&t(tenant));
    guard.built(
        &t(tenant),
        &[Found::small(&bundle(tenant, keys))],
        &[true],
        &[],
        saw("7:8:").as_ref(),
        &[],
    )
}

fn changed(guard: &mut Guard, changes: &[(&str, u64)]) {
    let change = |(tenant, xid): &(&str, u64)| (t(tenant), Cause::Transaction(*xid));
    guard.caused(&changes.iter().map(change).collect::<Vec<_>>());
}

/// A store tells that it has the keys of `a` that [`guard`] found.
fn told(guard: &mut Guard) {
    guard.named(0, &t("a"), &names(0..500));
}

/// What a store has of a tenant: keys with the values that [`bundle`] gives them.
fn names(keys: std::ops::Range<u32>) -> Vec<Told> {
    let told = |context: &Context| Told {
        kind: context.kind.clone(),
        key: context.key.clone(),
        value: value_of(context),
    };
    bundle("a", keys).contexts.iter().map(told).collect()
}

#[test]
fn a_few_removals_pass_and_too_many_are_held_by_name() {
    let mut guard = guard();
    assert!(!built(&mut guard, "a", 0..480));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "twenty");
    assert!(!built(&mut guard, "a", 0..370));
    assert!(
        guard.decide(1).holds.is_empty() && guard.asks.is_empty(),
        "a look may find another cause"
    );
    let verdicts = decide_late(&mut guard);
    assert!(verdicts.free.is_empty() && verdicts.holds.is_empty());
    assert_eq!(guard.asks, [(0, t("a"))].into());
    guard.named(0, &t("a"), &names(0..480));
    let holds = guard.decide(2).holds;
    assert_eq!((holds.len(), holds[0].names.len()), (1, 110));
    assert_eq!(holds[0].tenants, [t("a")].into());
}

#[test]
fn nothing_of_a_transaction_leaves_before_all_of_it_was_built_and_a_move_is_no_removal() {
    let mut guard = guard();
    changed(&mut guard, &[("a", 7), ("b", 7)]);
    assert!(!built(&mut guard, "a", 0..0));
    assert!(guard.decide(0).free.is_empty());
    assert!(built(&mut guard, "b", 0..500), "it only gains");
    let verdicts = guard.decide(0);
    assert_eq!(verdicts.free, [t("a")].into());
    assert!(verdicts.alerts.is_empty());
    assert!(built(&mut guard, "a", 0..0), "and it is none later either");
}

#[test]
fn a_move_of_which_the_new_place_is_built_first_is_no_removal() {
    let mut guard = guard();
    changed(&mut guard, &[("a", 7), ("b", 7)]);
    assert!(built(&mut guard, "b", 0..500), "it only gains");
    assert!(!built(&mut guard, "a", 0..0));
    let verdicts = guard.decide(0);
    assert_eq!(verdicts.free, [t("a")].into());
    assert!(verdicts.alerts.is_empty());
}

/// Would catch a burst of changes of which each step goes through all that are under way.
#[test]
fn what_takes_nothing_is_never_gone_through_and_gone_with_its_last_build() {
    let mut guard = guard();
    changed(&mut guard, &[("a", 7), ("b", 7), ("b", 8)]);
    let is_weighed = |guard: &Guard| guard.cases.weighed().next().is_some();
    assert!(built(&mut guard, "b", 0..1), "it only gains");
    assert!(guard.is_idle() && !is_weighed(&guard));
    assert!(guard.counts(&t("a")), "the first transaction is open");
    assert!(!built(&mut guard, "a", 0..499), "which takes something");
    assert!(!guard.is_idle() && is_weighed(&guard));
    assert_eq!(guard.decide(0).free, [t("a")].into());
    assert!(guard.cases.is_empty());
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

#[test]
fn a_small_removal_goes_on_while_a_large_one_of_its_tenant_is_counted() {
    let mut guard = guard();
    changed(&mut guard, &[("a", 7), ("b", 7), ("c", 7)]);
    assert!(!built(&mut guard, "a", 300..500), "the large one takes 300");
    assert!(guard.decide(0).free.is_empty());
    changed(&mut guard, &[("a", 8)]);
    guard.share(&t("a"));
    assert_eq!(guard.asks, [(0, t("a"))].into());
    assert!(guard.decide(0).free.is_empty());
    told(&mut guard);
    assert_eq!(guard.decide(0).free, [t("a")].into(), "it may be built");

    let kept = guard.keep(0, &bundle("a", 301..500), &[]).expect("kept");
    assert_eq!((kept.contexts.len(), kept.held.len()), (199, 300));
    assert!(kept.check().is_ok());
    guard.begun(&t("a"));
    assert!(!guard.built(
        &t("a"),
        &[Found::small(&kept)],
        &[true],
        &[],
        saw("7:8:").as_ref(),
        &[]
    ));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "one key leaves");
    guard.goes_on(&t("a"));

    // The large one is held whole, and without what the small one took.
    assert!(built(&mut guard, "b", 0..0) && built(&mut guard, "c", 0..0));
    decide_late(&mut guard);
    told(&mut guard);
    let holds = guard.decide(0).holds;
    assert_eq!((holds.len(), holds[0].names.len()), (1, 300));
    assert_eq!(holds[0].tenants, [t("a")].into());
    // Until a build finds the rows, its names are still kept.
    assert!(guard.keep(0, &bundle("a", 301..500), &[]).is_some());
    assert!(
        guard
            .keep(0, &bundle("a", 301..500), &holds[0].names)
            .is_none()
    );
    assert!(!guard.keeps(&t("a")));
}

#[test]
fn what_was_kept_leaves_once_the_large_cause_may() {
    let mut guard = guard();
    changed(&mut guard, &[("a", 7), ("b", 7)]);
    assert!(!built(&mut guard, "a", 60..500));
    changed(&mut guard, &[("a", 8)]);
    guard.share(&t("a"));
    told(&mut guard);
    assert_eq!(guard.decide(0).free, [t("a")].into());
    let kept = guard.keep(0, &bundle("a", 60..499), &[]).expect("kept");
    guard.begun(&t("a"));
    assert!(!guard.built(
        &t("a"),
        &[Found::small(&kept)],
        &[true],
        &[],
        saw("7:8:").as_ref(),
        &[]
    ));
    assert_eq!(guard.decide(0).free, [t("a")].into());
    guard.goes_on(&t("a"));
    assert!(built(&mut guard, "b", 0..0));
    let verdicts = guard.decide(0);
    assert_eq!(
        (verdicts.free, verdicts.again),
        ([].into(), [t("a")].into())
    );
    assert!(!guard.keeps(&t("a")) && built(&mut guard, "a", 60..499));
}

#[test]
fn of_a_tenant_that_two_causes_changed_few_removals_pass_with_the_smaller_one() {
    let mut guard = guard();
    // The order of the rows does not matter.
    changed(&mut guard, &[("a", 8), ("a", 7), ("b", 7), ("c", 7)]);
    assert!(!built(&mut guard, "a", 20..500));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "at once");
    // Many are the larger one's.
    changed(&mut guard, &[("a", 9)]);
    changed(&mut guard, &[("a", 7)]);
    assert!(!built(&mut guard, "a", 41..500));
    assert!(guard.decide(0).free.is_empty());
    assert!(built(&mut guard, "b", 0..0) && built(&mut guard, "c", 0..0));
    assert_eq!(guard.decide(0).free, [t("a")].into());
}

#[test]
fn with_small_causes_no_more_of_a_large_one_leaves_than_may_leave_anyway() {
    let tenant = |n: u32| format!("t{n:03}");
    let mut guard = Guard::new(&[Region::new("r").expect("region")]);
    guard.limits(GuardLimits::default());
    for n in 0..40 {
        let name = tenant(n);
        guard.read(&t(&name), [&bundle(&name, n * 10..n * 10 + 10)].into_iter());
    }
    guard.in_step(0, &QUERIES);
    let all = |xid: u64| (0..40).map(move |n| (tenant(n), xid));
    let one_each = (0..39).map(|n| (tenant(n), 100 + u64::from(n)));
    let changes: Vec<_> = one_each.chain(all(7)).collect();
    let changes: Vec<_> = changes.iter().map(|(t, xid)| (t.as_str(), *xid)).collect();
    changed(&mut guard, &changes);
    let mut left = 0;
    for n in 0..39 {
        assert!(!built(&mut guard, &tenant(n), 0..0));
        left += 10 * guard.decide(0).free.len();
    }
    assert_eq!(left, 100, "max_delete_count");
    assert!(!built(&mut guard, &tenant(39), 0..0));
    assert!(decide_late(&mut guard).free.is_empty());
    assert_eq!(guard.asks.len(), 30, "all others are held");
}

#[test]
fn a_new_writer_goes_on_counting() {
    let mut before = guard();
    assert!(!built(&mut before, "a", 0..420));
    assert_eq!(before.decide(0).free, [t("a")].into(), "80 of 100");
    let removed = before.take_unwritten();
    assert!(removed.len() == 1 && removed[0].count == 80 && !before.has_unwritten());
    let ago = |ago: Millis| Passed {
        ago,
        ..removed[0].clone()
    };
    for (ago, held) in [(ago(1_000), true), (ago(WINDOW), false)] {
        let mut after = guard();
        after.resume(&[ago]);
        assert!(!built(&mut after, "a", 30..500));
        assert_eq!(decide_late(&mut after).free.is_empty(), held);
    }
}

#[test]
fn a_cause_that_came_during_a_build_is_not_what_that_build_found() {
    let mut guard = guard();
    changed(&mut guard, &[("a", 7), ("b", 7)]);
    guard.begun(&t("a"));
    changed(&mut guard, &[("a", 8)]);
    assert!(!guard.built(
        &t("a"),
        &[Found::small(&bundle("a", 10..500))],
        &[true],
        &[],
        saw("7:8:").as_ref(),
        &[]
    ));
    assert!(
        guard.decide(0).free.is_empty(),
        "these ten are the larger one's"
    );
    guard.share(&t("a"));
    told(&mut guard);
    assert_eq!(guard.decide(0).free, [t("a")].into());
    let kept = guard.keep(0, &bundle("a", 11..500), &[]).expect("kept");
    assert_eq!(kept.held.len(), 10);
}

#[test]
fn a_build_that_had_a_small_cause_before_anybody_knew_counts_for_that() {
    let mut guard = guard();
    changed(&mut guard, &[("a", 7), ("b", 7)]);
    guard.begun(&t("a"));
    let both = saw("9:9:");
    assert!(!guard.built(
        &t("a"),
        &[Found::small(&bundle("a", 11..500))],
        &[true],
        &[],
        both.as_ref(),
        &[]
    ));
    assert!(guard.decide(0).free.is_empty());
    changed(&mut guard, &[("a", 8)]);
    guard.share(&t("a"));
    assert_eq!(guard.decide(0).free, [t("a")].into(), "at once");
    assert!(guard.asks.is_empty() && !guard.keeps(&t("a")));
    assert!(built(&mut guard, "a", 11..500));
    // The larger one goes on counting, with what left early.
    assert!(built(&mut guard, "b", 0..0));
    assert!(guard.decide(0).free.is_empty());
    assert!(guard.is_idle());
}

#[test]
fn what_a_second_scan_reads_is_not_what_is_published() {
    let mut guard = guard();
    // Nobody said that these are gone: only a scan sees it.
    guard.read(&t("a"), [&bundle("a", 0..300)].into_iter());
    guard.caused(&[(t("a"), Cause::Scan(2))]);
    assert!(!built(&mut guard, "a", 0..300));
    assert!(decide_late(&mut guard).free.is_empty(), "200 at once");
}

#[test]
fn of_what_is_beyond_a_budget_the_last_new_keys_are_held_and_nothing_that_was_there() {
    let mut guard = Guard::new(&[Region::new("r").expect("region")]);
    let limits = GuardLimits {
        budgets: true,
        ..GuardLimits::OFF
    };
    assert!(!limits.is_off());
    guard.limits(limits);
    guard.read(&t("a"), [&bundle("a", 3..8)].into_iter());
    guard.in_step(0, &QUERIES);
    let now = bundle("a", 0..10);
    let over = Over {
        region: 0,
        kind: Kind::new("k").expect("kind"),
        max: 7,
        excess: 3,
        keys: now.contexts.iter().map(|c| c.key.clone()).collect(),
    };
    let over = [over];
    assert!(!guard.built(&t("a"), &[Found::small(&now)], &[true], &[], None, &over));
    let hold = guard.decide(0).holds.remove(0);
    let keys = |hold: &Hold| -> Vec<String> {
        let keys = hold.names.iter().map(|n| n.key.to_string());
        keys.collect()
    };
    assert_eq!(keys(&hold), ["key 00009", "key 00008", "key 00002"]);
    assert!(hold.names.iter().all(|n| n.what == Withheld::Beyond));
    assert_eq!(hold.tenants, [t("a")].into());
    // With the rows it goes on, also if a person lowers the budget below what is there.
    let mut held = now.clone();
    for name in &hold.names {
        held = held.hold(&name.kind, &name.key, HoldReason::OverBudget { max: 7 });
    }
    assert!(guard.built(&t("a"), &[Found::small(&held)], &[true], &[], None, &[]));
    let lower = Over {
        excess: 5,
        keys: held.contexts.iter().map(|c| c.key.clone()).collect(),
        ..over[0].clone()
    };
    assert!(guard.built(
        &t("a"),
        &[Found::small(&held)],
        &[true],
        &[],
        None,
        &[lower]
    ));
    // And removals, which have no limit, wait for nothing.
    assert!(guard.built(
        &t("a"),
        &[Found::small(&bundle("a", 3..4))],
        &[true],
        &[],
        None,
        &[]
    ));
}

/// Would catch a build from the last one that is counted as something else than a build of the whole tenant.
#[test]
fn the_names_of_what_was_replaced_are_those_of_the_whole_bundle() {
    let (key, kind) = (DigestKey([7; 32]), Kind::new("k").expect("kind"));
    let name = |n: u32| Key::new(&format!("key {n:05}")).expect("key");
    for with_values in [false, true] {
        let mut random = SmallRng::seed_from_u64(11);
        let mut book = Book::new(1);
        book.clear(with_values);
        let mut built = BuiltBundle::new(bundle("a", 0..2_000), &key);
        let mut names = book.names_of(&Found::of(&built), &Names::default());
        for step in 0..300 {
            let (n, gone) = (random.random_range(0..2_100), random.random_ratio(1, 4));
            let context = (!gone).then(|| Context {
                kind: kind.clone(),
                key: name(n),
                value: random.random_range(0..3).to_string().into(),
                expires: None,
            });
            built.replace([((&kind, &name(n)), context)].into_iter(), &key);
            // A build that did not pass is not what is known.
            let before = match random.random_ratio(1, 10) {
                true => Names::default(),
                false => names,
            };
            names = book.names_of(&Found::of(&built), &before);
            let whole = book.names(&built.bundle, None);
            assert!(names.pairs().eq(whole.pairs()), "step {step}");
        }
    }
}
