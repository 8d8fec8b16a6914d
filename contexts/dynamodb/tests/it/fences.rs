//! A writer that is paused between any two steps and goes on after another one took over changes nothing.

use super::model::*;
use super::proxy::{Fault, Proxy};
use super::support::*;
use contexts::apply::Head;
use contexts::apply::maps::Maps;
use contexts::digest::Digest;
use contexts::push::{Refused, SyncVerdict};
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::layout::{Build, Item, Names, Place, STAGED, StoredHead};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What stands in the table before, what the paused writer wants, and what the next one brings.
struct Case {
    before: Vec<(&'static str, u32, &'static str)>,
    paused: Vec<(&'static str, u32, &'static str)>,
    next: Vec<(&'static str, u32, &'static str)>,
}

fn push(
    writer: &mut Writer,
    of: &[(&'static str, u32, &'static str)],
) -> Vec<contexts::push::Sent> {
    let version = writer.version();
    let one = |(owner, keys, value): &(&str, u32, &str)| {
        let names = names().into_iter().take(*keys as usize);
        sent(version, bundle(&tenant(owner), names, value))
    };
    of.iter().map(one).collect()
}

async fn put(writer: &mut Writer, maps: &mut Maps, of: &[(&'static str, u32, &'static str)]) {
    let push = push(writer, of);
    let expected = expected(maps, &push);
    let pushed = writer.push(push).await.expect("answers").expect("is open");
    assert_eq!(pushed.verdicts, expected);
}

/// Runs the case with the paused writer held before its request `at`. Returns whether it got that far.
async fn run(server: &Server, case: &Case, at: usize, is_lost: bool) -> bool {
    let table = new_table(server).await;
    let proxy = Proxy::start(&server.url).await;
    let mut paused = Writer::claim(&proxy.url, &table, 1).await;
    let mut maps = Maps::default();
    put(&mut paused, &mut maps, &case.before).await;
    let wanted = push(&mut paused, &case.paused);
    let mut if_done = maps.clone();
    expected(&mut if_done, &wanted);
    let message = paused.message(wanted);

    proxy.hold_after(at);
    let paused = Arc::new(paused);
    let writing = tokio::spawn({
        let (paused, message) = (paused.clone(), message.clone());
        async move { paused.table.push(&message).await }
    });
    let is_held = tokio::select! {
        () = proxy.held() => true,
        () = async { while !writing.is_finished() { tokio::task::yield_now().await } } => false,
    };
    let mut next = Writer::claim(&server.url, &table, 2).await;
    // Whatever was written of the push, it is there as a whole or not at all.
    let all = contexts::push::ReadTenant {
        tenants: tenants(),
        owners_of: vec![],
    };
    let read = next
        .table
        .read(&all)
        .await
        .expect("reads")
        .expect("answers");
    let values: Vec<usize> = read.tenants.iter().map(|t| t.contexts.len()).collect();
    let count = |maps: &Maps| -> Vec<usize> {
        let of = |t| maps.records.get(t).map_or(0, |records| records.len());
        tenants().iter().map(of).collect()
    };
    assert!(
        values == count(&maps) || values == count(&if_done),
        "at {at}: {values:?}"
    );
    if values == count(&if_done) && values != count(&maps) {
        maps = if_done;
    }
    put(&mut next, &mut maps, &case.next).await;
    if is_lost {
        writing.abort();
        proxy.let_go();
    } else {
        proxy.let_go();
        let answer = writing.await.expect("does not panic");
        let refused = matches!(answer, Ok(Err(Refused::Session)));
        assert_eq!(refused, is_held, "at {at}: {answer:?}");
    }
    assert_same(&next.table, &maps, &format!("at {at}")).await;
    let in_step = next.synced(&KINDS, root(&maps), true).await;
    let in_step = in_step.expect("answers").expect("is open");
    assert!(matches!(in_step, SyncVerdict::InStep { .. }), "at {at}");
    assert_collected(&server.url, &table, &maps).await;
    is_held
}

async fn at_every_step(case: Case, is_lost: bool) {
    let server = Server::start().await;
    let mut at = 0;
    while run(&server, &case, at, is_lost).await {
        at += 1;
    }
    assert!(at > 2, "it was paused {at} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_push_that_is_paused_anywhere_comes_too_late() {
    let case = Case {
        before: vec![("t1", 5, "1")],
        paused: vec![("t1", 3, "2")],
        next: vec![("t1", 4, "3")],
    };
    at_every_step(case, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_in_steps_that_is_paused_anywhere_comes_too_late() {
    let case = Case {
        before: vec![("t1", 130, "1")],
        paused: vec![("t1", 250, "2")],
        next: vec![("t1", 140, "3")],
    };
    at_every_step(case, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_in_steps_whose_writer_is_gone_is_done_or_undone() {
    let case = Case {
        before: vec![("t1", 150, "1")],
        paused: vec![("t1", 0, ""), ("t2", 150, "2")],
        next: vec![("t3", 0, "")],
    };
    at_every_step(case, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_held_back_while_another_was_granted_is_refused() {
    let server = Server::start().await;
    let table = new_table(&server).await;
    let proxy = Proxy::start(&server.url).await;
    let mut first = Writer::claim(&proxy.url, &table, 1).await;
    let claim = first.claim_of(true).await.expect("answers");
    let slow = Arc::new(contexts_dynamodb::table::Table::new(
        db(&proxy.url, &table),
        region(),
    ));
    // It has looked, and its grant is on the way.
    proxy.hold_after(1);
    let claiming = tokio::spawn({
        let slow = slow.clone();
        async move { slow.claim(&claim).await }
    });
    proxy.held().await;
    let mut next = Writer::claim(&server.url, &table, 2).await;
    proxy.let_go();
    let late = claiming.await.expect("does not panic").expect("answers");
    assert_eq!(late, Err(Refused::Changed));
    let mut maps = Maps::default();
    put(&mut next, &mut maps, &[("t1", 3, "1")]).await;
    let push = push(&mut first, &[("t1", 2, "2")]);
    let answer = first.push(push).await.expect("answers");
    assert_eq!(answer.map(|pushed| pushed.verdicts), Err(Refused::Session));
    assert_same(&next.table, &maps, "after a late claim").await;
}

/// All items, but for the pulse.
async fn items(url: &str, table: &str) -> BTreeMap<Place, Item> {
    let raw = raw_client(url);
    let pages = raw.scan().table_name(table).consistent_read(true);
    let pages = pages.into_paginator().items().send();
    let items: Vec<Item> = pages.try_collect().await.expect("scans");
    let items = items
        .into_iter()
        .map(|item| (Place::of(&item).expect("a place"), item));
    items
        .filter(|(place, _)| *place != Place::pulse())
        .collect()
}

/// Pushes for a tenant with so many keys, and somebody else writes its head while the first write is on its way.
async fn edited_meanwhile(owner: &'static str, keys: u32) {
    let server = Server::start().await;
    let table = new_table(&server).await;
    let proxy = Proxy::start(&server.url).await;
    let mut writer = Writer::claim(&proxy.url, &table, 1).await;
    let mut maps = Maps::default();
    put(&mut writer, &mut maps, &[("t1", 5, "1")]).await;
    let wanted = push(
        &mut writer,
        &[("t1", 0, ""), (owner, keys, "2")][usize::from(owner == "t1")..],
    );
    let message = writer.message(wanted.clone());
    proxy.next("TransactWriteItems", [Fault::Hold]);
    let writer = Arc::new(writer);
    let writing = tokio::spawn({
        let writer = writer.clone();
        async move { writer.table.push(&message).await }
    });
    proxy.held().await;
    let of_nobody = || StoredHead {
        tenant: tenant(owner),
        build: Build(0),
        head: Head {
            version: Default::default(),
            digest: Digest([0; 16]),
            contexts: 0,
            held: vec![],
            held_kinds: vec![],
        },
        is_gone: true,
        names: Names::Nowhere,
        sum: 0,
    };
    let head = db(&server.url, &table).head(&key(), &tenant(owner)).await;
    let mut head = head.expect("reads").unwrap_or_else(of_nobody);
    head.build = Build(1);
    let raw = raw_client(&server.url);
    let edited = raw.put_item().table_name(&table);
    let edited = edited.set_item(Some(head.to_item(&key(), 0).expect("an item")));
    edited.send().await.expect("puts");
    let before = items(&server.url, &table).await;
    proxy.let_go();
    let answer = writing.await.expect("does not panic");
    let is_told = matches!(&answer, Err(TableError::Changed { what }) if what.ends_with(owner));
    assert!(is_told, "{answer:?}");
    let after = items(&server.url, &table).await;
    let of = |items: &BTreeMap<Place, Item>| -> Vec<(Place, Item)> {
        let counting = items.iter().filter(|(place, _)| place.sk != STAGED);
        let counting = counting.filter(|(place, _)| keys < 100 || place.pk.starts_with("head"));
        counting
            .map(|(place, item)| (place.clone(), item.clone()))
            .collect()
    };
    assert_eq!(of(&after), of(&before), "nothing was written");

    let mut writer = Arc::into_inner(writer).expect("nobody else has it");
    let granted = writer.claim_again().await.expect("answers");
    granted.expect("is granted");
    let verdicts = expected(&mut maps, &wanted);
    let pushed = writer
        .push(wanted)
        .await
        .expect("answers")
        .expect("is open");
    assert_eq!(pushed.verdicts, verdicts);
    assert_same(&writer.table, &maps, "after an edited head").await;
    assert_collected(&server.url, &table, &maps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_over_a_head_that_is_not_the_one_that_was_read() {
    edited_meanwhile("t1", 3).await;
    edited_meanwhile("t1", 130).await;
    // Or where there was none.
    edited_meanwhile("t2", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_writer_waits_for_silence_unless_the_table_is_released() {
    let server = Server::start().await;
    let table = new_table(&server).await;
    let first = Writer::claim(&server.url, &table, 1).await;
    let second = contexts_dynamodb::table::Table::new(db(&server.url, &table), region());
    let claim = |seen| contexts::push::Claim {
        region: region(),
        term: term(2),
        seen,
        digest_key: key(),
        force: false,
        known: true,
    };
    let state = second.hello().await.expect("answers").expect("answers");
    let busy = second.claim(&claim(state.seen())).await.expect("answers");
    assert!(matches!(busy, Err(Refused::Busy { .. })), "{busy:?}");
    let release = contexts::push::Release {
        session: first.session,
    };
    let released = first.table.release(&release).await;
    released.expect("answers").expect("is open");
    let state = second.hello().await.expect("answers").expect("answers");
    let granted = second.claim(&claim(state.seen())).await.expect("answers");
    assert!(granted.is_ok(), "{granted:?}");
}
