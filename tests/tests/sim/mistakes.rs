//! Each invariant can break: a version of the surroundings with one mistake is caught within 200 seeds, and named.

use crate::variant::Variant;
use crate::world::{Trace, Violation};
use crate::{number, run};

/// Seeds within which a mistake has to be found.
const SEEDS: u64 = 200;

fn catches(variant: Variant, ids: &[&str]) {
    let first = number("HUBCAST_SIM_SEED").unwrap_or(0);
    let found = (first..first + SEEDS).find_map(|seed| {
        let (_, violation) = run(seed, variant, Trace::Off);
        // One mistake may break more than one invariant: the named one has to be among them.
        let named = |v: &Violation| ids.iter().any(|id| v.id.starts_with(id));
        violation.filter(named).map(|violation| (seed, violation))
    });
    let (seed, violation) = found.expect("no seed catches it");
    println!("seed {seed}: {violation:?}");
}

#[test]
fn a_store_that_ignores_sessions_is_caught() {
    catches(Variant::IgnoresSessions, &["I1"]);
}

#[test]
fn a_store_that_drops_a_part_of_a_bundle_is_caught() {
    catches(Variant::HalfBundles, &["I2"]);
}

#[test]
fn a_store_that_keeps_what_was_deleted_is_caught() {
    catches(Variant::KeepsDeleted, &["I3"]);
}

#[test]
fn a_build_from_a_snapshot_older_than_its_request_is_caught() {
    catches(Variant::StaleSnapshots, &["I1", "I5", "I6", "VIS", "CAP1"]);
}

#[test]
fn a_clock_that_is_read_after_the_look_is_caught() {
    catches(Variant::NamesLastReading, &["I5"]);
}

#[test]
fn a_store_that_answers_before_it_commits_is_caught() {
    catches(Variant::AcksBeforeCommit, &["I6", "CAP1", "BEAT"]);
}

#[test]
fn a_database_that_claims_to_know_every_writer_is_caught() {
    catches(Variant::KnowsEveryone, &["fence"]);
}

#[test]
fn a_store_that_forgets_who_forced_it_is_caught() {
    catches(Variant::ForgetsForce, &["fence"]);
}

#[test]
fn a_row_that_is_removed_when_it_is_told_is_caught() {
    catches(Variant::AcksWhatIsTold, &["CAP1"]);
}

#[test]
fn a_look_by_sequence_is_caught() {
    catches(Variant::LooksBySequence, &["CAP2", "CAP3", "I5", "VIS"]);
}

#[test]
fn a_look_that_forgets_running_transactions_is_caught() {
    catches(Variant::ForgetsRunning, &["CAP2", "CAP3", "I5", "VIS"]);
}

#[test]
fn a_trigger_that_asks_whom_a_change_concerns_is_caught() {
    catches(Variant::ResolvesInTrigger, &["CAP2", "I5", "VIS"]);
}

#[test]
fn a_look_that_asks_later_whom_a_change_concerns_is_caught() {
    catches(Variant::ResolvesLater, &["CAP1", "I5", "VIS"]);
}

#[test]
fn a_gap_in_the_triggers_that_is_not_told_is_caught() {
    catches(Variant::HidesGaps, &["CAP2"]);
}

#[test]
fn statements_that_found_no_room_and_are_not_told_of_are_caught() {
    catches(Variant::HidesMissed, &["CAP2", "I5", "VIS"]);
}

#[test]
fn triggers_that_write_without_room_are_caught() {
    catches(Variant::IgnoresRoom, &["CAP3"]);
}

#[test]
fn a_lower_bound_that_passes_open_transactions_is_caught() {
    catches(Variant::PassesOpenIds, &["CAP4"]);
}

#[test]
fn an_answer_that_everything_is_visible_is_caught() {
    catches(Variant::CallsAllVisible, &["VIS"]);
}

#[test]
fn a_store_that_does_not_write_the_beat_is_caught() {
    catches(Variant::ForgetsBeats, &["BEAT"]);
}

#[test]
fn a_bulk_change_that_others_wait_for_is_caught() {
    catches(Variant::BulkIsUrgent, &["ORDER"]);
}

#[test]
fn statements_to_another_server_than_the_terms_are_caught() {
    catches(Variant::IgnoresServer, &["I5", "CAP", "VIS", "fence"]);
}
