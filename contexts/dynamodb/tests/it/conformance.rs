//! A table decides like plain maps do: the same pushes, the same verdicts, the same state, step by step.

use super::model::*;
use super::support::*;
use contexts::apply::maps::Maps;
use contexts::push::SyncVerdict;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

async fn run(seed: u64, size: Size, pushes: u64) {
    let server = Server::start().await;
    let table = new_table(&server).await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut maps = Maps::default();
    let mut writer = Writer::claim(&server.url, &table, 1).await;
    for n in 1..=pushes {
        let at = format!("seed {seed}, push {n}");
        if random.random_ratio(1, 10) {
            let in_step = writer.synced(&KINDS[..1], root(&maps), true).await;
            let in_step = in_step.expect("answers").expect("is open");
            assert!(matches!(in_step, SyncVerdict::InStep { .. }), "{at}");
            maps.synced.insert(name(KINDS[0], "k").0);
        }
        if random.random_ratio(1, 10) {
            writer = Writer::claim(&server.url, &table, writer.epoch + 1).await;
        }
        let push = random_push(&mut random, writer.version(), size);
        let expected = expected(&mut maps, &push);
        let pushed = writer.push(push).await.expect("answers").expect("is open");
        assert_eq!(pushed.verdicts, expected, "{at}");
        assert_same(&writer.table, &maps, size, &at).await;
    }
    let in_step = writer.synced(&KINDS, root(&maps), true).await;
    let in_step = in_step.expect("answers").expect("is open");
    assert!(matches!(in_step, SyncVerdict::InStep { .. }), "seed {seed}");
    assert_collected(&server.url, &table, &maps, size).await;
    let state = writer
        .table
        .hello()
        .await
        .expect("answers")
        .expect("answers");
    let records = maps.records.values().map(|records| records.len() as u64);
    assert_eq!(
        (state.bundles, state.contexts),
        (maps.heads.len() as u64, records.sum())
    );
    assert!(
        writer.table.db().units.used().write > 0.0,
        "units are counted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_decides_like_plain_maps() {
    for seed in 0..4 {
        run(seed, SMALL, 40).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_does_where_bundles_are_more_than_one_transaction() {
    for seed in 0..2 {
        run(seed, LARGE, 12).await;
    }
}
