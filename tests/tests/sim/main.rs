//! The seeded simulation: publishers, stores and a database, driven by the shipped decisions of both sides
//! (`contexts::gate`, `contexts::apply`, `publisher::writer`), in virtual time, with everything going wrong that can.
//!
//! A run is one seed: some 70 s of trouble ([`world`], [`network`], [`faults`]) under random transactions
//! ([`traffic`]), with every invariant of the design checked after every commit of a store ([`check`]), then peace, in
//! which everything has to come in step ([`heal`]). Only [`database`], [`agent`], [`publisher`] and [`hub`] are models: thin
//! shells that do what the decisions ask for. [`origins`] knows, beside them, which snapshot each bundle came from.
//!
//! A failure prints its seed and the last events. `HUBCAST_SIM_SEED=n` runs that seed alone, with
//! `HUBCAST_SIM_VERBOSE=1` and `--nocapture` with every event; `HUBCAST_SIM_SEEDS=n` runs so many.

mod age;
mod agent;
mod books;
mod capture;
mod check;
mod database;
mod faults;
mod heal;
mod hub;
mod network;
mod origins;
mod outbox;
mod proof;
mod publisher;
mod state;
mod store;
mod traffic;
mod transactions;
mod world;
mod xids;

use world::{Trace, Variant, Violation, World};

/// Seeds of one test, unless the environment says otherwise.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, variant: Variant, tracing: Trace) -> (World, Option<Violation>) {
    let mut world = World::new(seed, variant, tracing);
    let outcome = world.chaos().and_then(|()| world.heal());
    (world, outcome.err())
}

#[test]
fn the_invariants_hold_whatever_goes_wrong() {
    let verbose = std::env::var_os("HUBCAST_SIM_VERBOSE").is_some();
    let seeds = match number("HUBCAST_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HUBCAST_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut events, mut failures) = (0, Vec::new());
    for seed in seeds.clone() {
        let (world, violation) = run(seed, Variant::Shipped, Trace::Off);
        events += world.events;
        if let Some(Violation { id, what }) = violation {
            println!("seed {seed} breaks {id:?}: {what}");
            failures.push(seed);
        }
    }
    println!("{} seeds, {events} events", seeds.end - seeds.start);
    if let Some(seed) = failures.first() {
        let (world, _) = run(*seed, Variant::Shipped, Trace::On { verbose });
        let (count, trace) = (failures.len(), world.trace());
        panic!("{count} seeds fail; {trace}\nHUBCAST_SIM_SEED={seed} repeats this one");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let again = |seed| run(seed, Variant::Shipped, Trace::On { verbose: false }).0;
    for seed in 1_000..1_005 {
        let (a, b) = (again(seed), again(seed));
        assert_eq!((a.events, a.now, a.trace()), (b.events, b.now, b.trace()));
    }
}

fn first_violation(variant: Variant) -> Option<(u64, Violation)> {
    (0..200).find_map(|seed| Some((seed, run(seed, variant, Trace::Off).1?)))
}

fn catches(variant: Variant, ids: &[&str]) {
    let (seed, violation) = first_violation(variant).expect("no seed catches it");
    assert!(
        ids.iter().any(|id| violation.id.starts_with(id)),
        "seed {seed}: {violation:?}"
    );
}

#[test]
fn a_store_that_ignores_sessions_is_caught() {
    catches(Variant::IgnoresSessions, &["I1"]);
}

#[test]
fn a_store_that_answers_before_it_commits_is_caught() {
    catches(Variant::AcksBeforeCommit, &["I6"]);
}

#[test]
fn a_build_from_a_snapshot_older_than_its_request_is_caught() {
    catches(Variant::StaleSnapshots, &["I1", "I5", "I6"]);
}

#[test]
fn a_database_that_claims_to_know_every_writer_is_caught() {
    catches(Variant::KnowsEveryone, &["fence"]);
}
