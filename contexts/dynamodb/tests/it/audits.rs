//! Items that somebody edited: found by the rounds over all items, a part with each scan, and healed by the next bundle.

use super::model::*;
use super::support::*;
use contexts::apply::maps::Maps;
use contexts::push::SyncVerdict;
use contexts_dynamodb::client::Limits;
use contexts_dynamodb::layout::{Place, SETTLED, pages};
use contexts_dynamodb::table::Table;
use std::time::Duration;

/// More scans than two rounds take.
const SCANS: usize = 130;

struct World {
    server: Server,
    table: String,
    writer: Writer,
    maps: Maps,
}

impl World {
    /// Two tenants with twenty keys each.
    async fn new() -> Self {
        let server = Server::start().await;
        let table = new_table(&server).await;
        let mut writer = Writer::claim(&server.url, &table, 1).await;
        // Each scan compares the next part.
        let all_the_time = Table::new(db(&server.url, &table), region());
        writer.table = all_the_time.limited(&Limits {
            audit_within: Duration::ZERO,
            ..Limits::default()
        });
        let granted = writer.claim_again().await.expect("answers");
        granted.expect("is granted");
        let maps = Maps::default();
        let mut this = Self {
            server,
            table,
            writer,
            maps,
        };
        this.push("t1", 0).await;
        this.push("t2", 20).await;
        this
    }

    async fn push(&mut self, owner: &str, first: usize) {
        let names = names().into_iter().skip(first).take(20);
        let push = vec![sent(
            self.writer.version(),
            bundle(&tenant(owner), names, "1"),
        )];
        expected(&mut self.maps, &push);
        let pushed = self.writer.push(push).await;
        pushed.expect("answers").expect("is open");
    }

    async fn scan(&mut self) -> SyncVerdict {
        let in_step = self.writer.synced(&KINDS, root(&self.maps), false).await;
        in_step.expect("answers").expect("is open")
    }

    /// Scans until one finds something; how many there were.
    async fn finds(&mut self) -> usize {
        for n in 0..SCANS {
            if matches!(self.scan().await, SyncVerdict::Differs { .. }) {
                return n;
            }
        }
        panic!("nothing was found");
    }

    async fn delete(&self, place: Place) {
        let raw = raw_client(&self.server.url).delete_item();
        let raw = raw
            .table_name(&self.table)
            .set_key(Some(place.to_key()))
            .send();
        raw.await.expect("deletes");
    }

    async fn heals(&mut self, owner: &str, first: usize) {
        self.push(owner, first).await;
        let in_step = self.writer.synced(&KINDS, root(&self.maps), true).await;
        let in_step = in_step.expect("answers").expect("is open");
        assert!(matches!(in_step, SyncVerdict::InStep { .. }), "{in_step:?}");
        assert_same(&self.writer.table, &self.maps, "healed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_is_gone_is_found_within_a_round_and_healed() {
    let mut world = World::new().await;
    let gone = names()[3].clone();
    world.delete(Place::context(&gone, SETTLED)).await;
    world.finds().await;
    world.heals("t1", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_if_its_tenant_is_written_in_the_middle_of_the_round() {
    let mut world = World::new().await;
    let gone = names()[3].clone();
    for n in 0..SCANS {
        if n == 20 {
            world.delete(Place::context(&gone, SETTLED)).await;
        }
        if n == 30 {
            // The tenant gets another value for one of its keys; the one that is gone it gets, too.
            world.push("t2", 21).await;
        }
        if matches!(world.scan().await, SyncVerdict::Differs { .. }) {
            assert!(n > 20, "before it was deleted");
            return world.heals("t1", 0).await;
        }
    }
    panic!("nothing was found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_names_that_is_gone_is_written_anew() {
    let mut world = World::new().await;
    let db = db(&world.server.url, &world.table);
    let pages = db.query(&pages(&tenant("t2")), "").await.expect("reads");
    let place = Place::of(&pages[0]).expect("has a place");
    world.delete(place).await;
    // The items are as they should be, so only who reads them by name sees it.
    let changed = names().into_iter().skip(20).take(20);
    let push = vec![sent(
        world.writer.version(),
        bundle(&tenant("t2"), changed, "2"),
    )];
    expected(&mut world.maps, &push);
    let pushed = world.writer.push(push).await;
    pushed.expect("answers").expect("is open");
    assert_same(&world.writer.table, &world.maps, "healed").await;
}
