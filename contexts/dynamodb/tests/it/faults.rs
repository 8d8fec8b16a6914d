//! Every bad answer: throttles, errors of the service, answers that are lost after the write, reads that are half done.

use super::model::*;
use super::proxy::{Fault, Proxy};
use super::support::*;
use contexts::apply::maps::Maps;
use contexts::bundle::{Bundle, Held, HoldReason};
use contexts::push::{SyncVerdict, Verdict};
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::table::Table;
use std::time::Duration;

struct World {
    server: Server,
    proxy: Proxy,
    table: String,
    writer: Writer,
    maps: Maps,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let table = new_table(&server).await;
        let proxy = Proxy::start(&server.url).await;
        let writer = Writer::claim(&proxy.url, &table, 1).await;
        Self {
            server,
            proxy,
            table,
            writer,
            maps: Maps::default(),
        }
    }

    fn build(&mut self, keys: usize, value: &str) -> Vec<contexts::push::Sent> {
        let names = names().into_iter().take(keys);
        vec![sent(
            self.writer.version(),
            bundle(&tenant("t1"), names, value),
        )]
    }

    async fn push(&mut self, keys: usize, value: &str) {
        let push = self.build(keys, value);
        let expected = expected(&mut self.maps, &push);
        let pushed = self
            .writer
            .push(push)
            .await
            .expect("answers")
            .expect("is open");
        assert_eq!(pushed.verdicts, expected);
    }

    /// A push whose answer never came: the session is over, and the next one is told what is right.
    async fn assert_ends_well(&mut self, lost: Vec<contexts::push::Sent>) {
        let late = self.writer.push(lost.clone()).await.expect("answers");
        assert!(late.is_err(), "the session is over");
        let granted = self.writer.claim_again().await.expect("answers");
        granted.expect("is granted");
        let verdict = self.writer.push(lost.clone()).await;
        let verdict = verdict.expect("answers").expect("is open");
        assert!(
            matches!(
                verdict.verdicts[..],
                [Verdict::Applied | Verdict::AlreadyThere]
            ),
            "{verdict:?}"
        );
        expected(&mut self.maps, &lost);
    }

    async fn assert_in_step(&mut self, at: &str) {
        assert_same(&self.writer.table, &self.maps, at).await;
        let in_step = self.writer.synced(&KINDS, root(&self.maps), true).await;
        let in_step = in_step.expect("answers").expect("is open");
        assert!(matches!(in_step, SyncVerdict::InStep { .. }), "{at}");
        assert_collected(&self.server.url, &self.table, &self.maps).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_by_itself_is_waited_for() {
    let mut world = World::new().await;
    for operation in ["BatchGetItem", "TransactWriteItems", "UpdateItem", "Query"] {
        world.proxy.next(operation, [Fault::Throttle, Fault::Fail]);
    }
    world.push(20, "1").await;
    world.proxy.next("TransactWriteItems", [Fault::Throttle; 2]);
    world.push(230, "2").await;
    world.assert_in_step("after throttles").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_are_half_done_are_finished() {
    let mut world = World::new().await;
    world.push(90, "1").await;
    world.proxy.next("BatchGetItem", vec![Fault::Half; 6]);
    world.push(80, "2").await;
    world.assert_in_step("after halves").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_once_is_done_once() {
    let mut world = World::new().await;
    world.push(10, "1").await;
    world.proxy.next("TransactWriteItems", [Fault::LoseAnswer]);
    world.push(12, "2").await;
    world.assert_in_step("after a lost answer").await;
}

/// The answer is lost for good at any step: the writer does not know, claims anew and finds the old or the new state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lost_answer_the_table_is_claimed_and_compared() {
    for keys in [12, 230] {
        // Each of them waits for its retries most of the time.
        for first in (0..).step_by(AT_ONCE) {
            let cuts = (first..first + AT_ONCE).map(|at| lose(keys, at));
            let lost = futures_util::future::join_all(cuts).await;
            assert!(
                first > 0 || lost[1],
                "the second request has an answer to lose"
            );
            if !lost.into_iter().all(|lost| lost) {
                break;
            }
        }
    }
}

/// Places at which answers are lost in worlds beside one another.
const AT_ONCE: usize = 8;

/// Loses every answer from one on; whether there were so many.
async fn lose(keys: usize, at: usize) -> bool {
    let mut world = World::new().await;
    world.push(5, "1").await;
    world.proxy.cut_after(at);
    let push = world.build(keys, "2");
    let answer = world.writer.push(push.clone()).await;
    if answer.is_ok() {
        return false;
    }
    assert!(matches!(answer, Err(TableError::Lost(_))), "{answer:?}");
    world.proxy.mend();
    world.assert_ends_well(push).await;
    let at = format!("{keys} keys, cut at {at}");
    world.assert_in_step(&at).await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_without_room_is_refused_and_the_rest_goes_on() {
    let mut world = World::new().await;
    let one = |n: usize| names().into_iter().skip(n).take(1);
    let huge = format!("\"{}\"", "x".repeat(420 << 10));
    let large = format!("\"{}\"", "x".repeat(395 << 10));
    let version = world.writer.version();
    let push = vec![
        sent(version, bundle(&tenant("t1"), one(0), "1")),
        sent(version, bundle(&tenant("t2"), one(1), &huge)),
        sent(version, bundle(&tenant("t3"), one(2), &large)),
    ];
    let pushed = world
        .writer
        .push(push.clone())
        .await
        .expect("answers")
        .expect("is open");
    let [Verdict::Applied, Verdict::Invalid { why }, Verdict::Applied] = &pushed.verdicts[..]
    else {
        panic!("{:?}", pushed.verdicts);
    };
    assert!(
        why.contains("400 KB") && why.contains("max_value_bytes"),
        "{why}"
    );
    expected(&mut world.maps, &[push[0].clone(), push[2].clone()]);
    world.assert_in_step("without the huge one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_held_names_than_a_head_has_room_for_are_refused_and_the_rest_goes_on() {
    let mut world = World::new().await;
    world.push(3, "1").await;
    let held = (0..10_000).map(|n| {
        let (kind, key) = name("a", &format!("{n:064}"));
        let why = HoldReason::Paused;
        Held { kind, key, why }
    });
    let of_many = Bundle::new(tenant("t1"), vec![], held.collect(), vec![]).expect("a bundle");
    let version = world.writer.version();
    let another = names().into_iter().skip(10).take(1);
    let push = vec![
        sent(version, of_many),
        sent(version, bundle(&tenant("t2"), another, "1")),
    ];
    let pushed = world.writer.push(push.clone()).await;
    let pushed = pushed.expect("answers").expect("is open");
    let [Verdict::Invalid { why }, Verdict::Applied] = &pushed.verdicts[..] else {
        panic!("{:?}", pushed.verdicts);
    };
    assert!(
        why.contains("10000 held") && why.contains("400 KB"),
        "{why}"
    );
    expected(&mut world.maps, &push[1..]);
    world.assert_in_step("without the held ones").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_not_answered_in_time_is_done_once() {
    let mut world = World::new().await;
    let within = Duration::from_secs(1);
    let db = impatient_db(&world.proxy.url, &world.table, within);
    world.writer.table = Table::new(db, region());
    let granted = world.writer.claim_again().await.expect("answers");
    granted.expect("is granted");
    world.push(10, "1").await;
    world.proxy.next("BatchGetItem", [Fault::Silent]);
    world.proxy.next("TransactWriteItems", [Fault::Silent]);
    world.push(12, "2").await;
    world.assert_in_step("after one time-out").await;

    world.proxy.next("TransactWriteItems", [Fault::Silent; 5]);
    let push = world.build(14, "3");
    let answer = world.writer.push(push.clone()).await;
    let is_late =
        matches!(&answer, Err(TableError::Lost(why)) if why.contains("no answer in time"));
    assert!(is_late, "{answer:?}");
    world.proxy.sent();
    world.assert_ends_well(push).await;
    // What is there of the tenant is read, and surely what is there now, before anything is sent for it.
    let sent = world.proxy.sent();
    let writes = |(operation, body): &(String, String)| {
        operation != "BatchGetItem" && operation != "Query" && body.contains("#t1\"")
    };
    let reads = |(operation, body): &(String, String)| {
        operation == "BatchGetItem"
            && body.contains("\"pk\":{\"S\":\"head#")
            && body.contains("#t1\"")
            && body.contains("\"ConsistentRead\":true")
    };
    let (read, written) = (sent.iter().position(reads), sent.iter().position(writes));
    assert!(read.is_some(), "{sent:?}");
    assert!(written.is_none_or(|at| read < Some(at)), "{sent:?}");
    world.assert_in_step("after time-outs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_canceled_for_the_moment_is_tried_again() {
    let mut world = World::new().await;
    let codes = [
        "TransactionConflict",
        "ThrottlingError",
        "ProvisionedThroughputExceeded",
    ];
    for (n, code) in codes.into_iter().enumerate() {
        let faults = [Fault::Canceled(code); 3];
        world.proxy.next("TransactWriteItems", faults);
        world.push(10 + n, code).await;
    }
    let faults = [Fault::InProgress, Fault::Canceled(codes[0])];
    world.proxy.next("TransactWriteItems", faults);
    world.push(230, "in steps").await;
    world.assert_in_step("after cancellations").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_canceled_each_time_is_lost_and_one_that_is_wrong_is_rejected() {
    let mut world = World::new().await;
    world.push(10, "1").await;
    let faults = [Fault::Canceled("TransactionConflict"); 8];
    world.proxy.next("TransactWriteItems", faults);
    let push = world.build(12, "2");
    let answer = world.writer.push(push.clone()).await;
    assert!(matches!(answer, Err(TableError::Lost(_))), "{answer:?}");
    world.assert_ends_well(push).await;
    let faults = [Fault::Canceled("ValidationError")];
    world.proxy.next("TransactWriteItems", faults);
    let push = world.build(14, "3");
    let answer = world.writer.push(push.clone()).await;
    let is_named =
        matches!(&answer, Err(TableError::Rejected(why)) if why.contains("ValidationError"));
    assert!(is_named, "{answer:?}");
    world.assert_ends_well(push).await;
    world.assert_in_step("after a rejection").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_which_nothing_is_done_are_asked_again() {
    let mut world = World::new().await;
    world.push(90, "1").await;
    world.proxy.next("BatchGetItem", [Fault::NoKeys; 4]);
    world.push(80, "2").await;
    world.assert_in_step("after nothing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_can_reach_is_claimed_when_it_is_back() {
    let mut world = World::new().await;
    world.push(10, "1").await;
    world.proxy.close().await;
    let push = world.build(12, "2");
    let answer = world.writer.push(push.clone()).await;
    let is_refused = matches!(&answer, Err(TableError::Lost(why)) if why.contains("refused"));
    assert!(is_refused, "{answer:?}");
    let claim = world.writer.claim_again().await;
    assert!(matches!(claim, Err(TableError::Lost(_))), "{claim:?}");
    world.proxy.open();
    world.assert_ends_well(push).await;
    world.assert_in_step("after it was away").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_was_edited_by_hand_shows_and_is_healed() {
    let mut world = World::new().await;
    world.push(10, "1").await;
    let item = names()[3].clone();
    let place =
        contexts_dynamodb::layout::Place::context(&item, contexts_dynamodb::layout::SETTLED);
    let raw = raw_client(&world.server.url);
    let delete = raw
        .delete_item()
        .table_name(&world.table)
        .set_key(Some(place.to_key()));
    delete.send().await.expect("deletes");
    let root_ = root(&world.maps);
    let differs = world.writer.synced(&KINDS, root_, true).await;
    let differs = differs.expect("answers").expect("is open");
    assert!(
        matches!(differs, SyncVerdict::Differs { .. }),
        "{differs:?}"
    );
    let push = world.build(10, "1");
    let pushed = world
        .writer
        .push(push.clone())
        .await
        .expect("answers")
        .expect("is open");
    assert_eq!(pushed.verdicts, [Verdict::Applied]);
    expected(&mut world.maps, &push);
    world.assert_in_step("healed").await;
}
