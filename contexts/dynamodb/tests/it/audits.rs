//! Items that somebody edited: found by the rounds over all items, a part with each scan, and healed by the next bundle.

use super::model::*;
use super::support::*;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use contexts::apply::maps::Maps;
use contexts::apply::{Name, Owner, Record};
use contexts::bundle::Bundle;
use contexts::name::TenantId;
use contexts::push::{SyncVerdict, Verdict};
use contexts::version::Version;
use contexts_dynamodb::client::Limits;
use contexts_dynamodb::layout::{Build, Place, SETTLED, StoredContext, pages};
use contexts_dynamodb::table::Table;
use std::collections::BTreeMap;
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
        // Each scan compares the next part.
        let writer = writer(&server, &table, 1, Duration::ZERO).await;
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
        self.send(bundle(&tenant(owner), names, "1")).await;
    }

    async fn send(&mut self, bundle: Bundle) {
        let push = vec![sent(self.writer.version(), bundle)];
        let expected = expected(&mut self.maps, &push);
        let pushed = self.writer.push(push).await;
        let pushed = pushed.expect("answers").expect("is open");
        let are_refused = |verdicts: &[Verdict]| -> Vec<bool> {
            let taken = |v: &Verdict| !matches!(v, Verdict::Applied | Verdict::AlreadyThere);
            verdicts.iter().map(taken).collect()
        };
        assert_eq!(are_refused(&pushed.verdicts), are_refused(&expected));
    }

    /// What the hub does behind a comparison that found a difference: it lists, and sends what is not as it expects.
    /// Returns of whom that was.
    async fn repair(&mut self) -> Vec<TenantId> {
        let all: Vec<u16> = (0..1024).collect();
        let listed = self.writer.table.buckets(&all).await;
        let listed = listed.expect("answers").expect("is listed");
        let here = listed.into_iter().map(|l| (l.tenant, l.digest));
        let here: BTreeMap<_, _> = here.collect();
        let heads = self.maps.heads.iter();
        let there: BTreeMap<_, _> = heads.map(|(t, head)| (t.clone(), head.digest)).collect();
        let both = here.keys().chain(there.keys());
        let mut differing: Vec<TenantId> = both
            .filter(|t| here.get(*t) != there.get(*t))
            .cloned()
            .collect();
        differing.sort_unstable();
        differing.dedup();
        for tenant in &differing {
            let records = self.maps.records.get(tenant).into_iter().flatten();
            let contexts = records.map(|(_, record)| record.context.clone()).collect();
            let whole = Bundle::new(tenant.clone(), contexts, vec![], vec![]);
            self.send(whole.expect("a bundle")).await;
        }
        differing
    }

    /// Sets an attribute, as a person does.
    async fn set(&self, place: &Place, attribute: &str, value: AttributeValue) {
        let update = raw_client(&self.server.url).update_item();
        let update = update
            .table_name(&self.table)
            .set_key(Some(place.to_key()))
            .update_expression("SET #a = :a")
            .expression_attribute_names("#a", attribute)
            .expression_attribute_values(":a", value)
            .send();
        update.await.expect("is set");
    }

    /// Puts an item into the table that the tenant's bundle does not have, as a person does who has an export.
    async fn put_back(&self, owner: &str, name: &Name) {
        let stored = StoredContext {
            build: Build(1),
            version: Version { epoch: 1, n: 1 },
            owner: Owner {
                tenant: tenant(owner),
                has_value: true,
                waiting: Default::default(),
            },
            record: Some(Record::new(context(name, "1".into(), None), &key())),
        };
        let put = raw_client(&self.server.url).put_item();
        let put = put
            .table_name(&self.table)
            .set_item(Some(stored.to_item(name, SETTLED)));
        put.send().await.expect("is put");
    }

    /// Where the pages of names of a tenant are.
    async fn pages(&self, owner: &str) -> Vec<Place> {
        let db = db(&self.server.url, &self.table);
        let pages = db.query(&pages(&tenant(owner)), "").await.expect("reads");
        let places = pages
            .iter()
            .map(|page| Place::of(page).expect("has a place"));
        places.collect()
    }

    /// Items and heads are what the model says.
    async fn is_whole(&mut self) {
        let in_step = self.writer.synced(&KINDS, root(&self.maps), true).await;
        let in_step = in_step.expect("answers").expect("is open");
        assert!(matches!(in_step, SyncVerdict::InStep { .. }), "{in_step:?}");
        assert_same(&self.writer.table, &self.maps, "healed").await;
        let key_ = key();
        let db = db(&self.server.url, &self.table);
        for tenant in self.maps.heads.keys() {
            let whole = db.whole(&key_, tenant).await.expect("can be read");
            assert!(whole.is_some(), "{tenant} can be read");
        }
    }

    /// A writer knows the service's clock by its answers, to a second at first, and takes the lower bound for it.
    async fn knows_to_be_after(&self, moment: u64) {
        let after = moment + 10_000;
        let known = async || {
            let told = self.writer.table.hello().await.expect("answers");
            told.expect("is this region's").reading.micros
        };
        while known().await <= after {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn scan(&mut self) -> SyncVerdict {
        let in_step = self.writer.synced(&KINDS, root(&self.maps), false).await;
        in_step.expect("answers").expect("is open")
    }

    /// A whole round at once finds something.
    async fn reads_all(&mut self) {
        let differs = self.writer.synced(&KINDS, root(&self.maps), true).await;
        let differs = differs.expect("answers").expect("is open");
        assert!(
            matches!(differs, SyncVerdict::Differs { .. }),
            "{differs:?}"
        );
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
        self.is_whole().await;
    }
}

/// A writer that compares all items within this time.
async fn writer(server: &Server, table: &str, epoch: u64, audit_within: Duration) -> Writer {
    let mut writer = Writer::claim(&server.url, table, epoch).await;
    writer.table = Table::new(db(&server.url, table), region()).limited(&within(audit_within));
    let granted = writer.claim_again().await.expect("answers");
    granted.expect("is granted");
    writer
}

fn within(audit_within: Duration) -> Limits {
    Limits {
        audit_within,
        ..Limits::default()
    }
}

fn garbage() -> AttributeValue {
    AttributeValue::B(Blob::new([0xff; 3]))
}

/// A tenant of which the names are on two pages.
fn large() -> Vec<Name> {
    let long = |n| name("a", &format!("{n:0>500}"));
    (0..300).map(long).collect()
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
    let place = world.pages("t2").await.remove(0);
    world.delete(place).await;
    // The items are as they should be, so only who reads them by name sees it.
    let changed = names().into_iter().skip(20).take(20);
    world.send(bundle(&tenant("t2"), changed, "2")).await;
    assert_same(&world.writer.table, &world.maps, "healed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_damaged_stops_nobody_else_and_is_written_over() {
    for attribute in ["head", "names", "build"] {
        let mut world = World::new().await;
        let place = Place::head(&key(), &tenant("t1"));
        world.set(&place, attribute, garbage()).await;
        let others = names().into_iter().skip(20).take(20);
        world.send(bundle(&tenant("t2"), others, "2")).await;
        let differs = world.scan().await;
        assert!(
            matches!(differs, SyncVerdict::Differs { .. }),
            "{differs:?}"
        );
        assert_eq!(world.repair().await, [tenant("t1")]);
        world.is_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tenant_with_a_damaged_head_does_not_have_any_more_goes() {
    for attribute in ["head", "names", "build"] {
        for keys in [0, 3] {
            let mut world = World::new().await;
            let place = Place::head(&key(), &tenant("t1"));
            world.set(&place, attribute, garbage()).await;
            let left = names().into_iter().take(keys);
            world.send(bundle(&tenant("t1"), left, "1")).await;
            world.is_whole().await;
            assert_collected(&world.server.url, &world.table, &world.maps).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_names_that_is_damaged_is_written_anew() {
    for damaged in [0, 1] {
        let mut world = World::new().await;
        world.send(bundle(&tenant("t3"), large(), "1")).await;
        let pages = world.pages("t3").await;
        assert_eq!(pages.len(), 2);
        world.set(&pages[damaged], "names", garbage()).await;
        world.reads_all().await;
        assert_eq!(world.repair().await, [tenant("t3")]);
        world.is_whole().await;
        // So all of it goes when the tenant does.
        world.send(Bundle::empty(tenant("t3"))).await;
        world.is_whole().await;
        let name = &large()[299];
        let pk = contexts_dynamodb::layout::context(name.0.as_str(), name.1.as_str());
        let db = db(&world.server.url, &world.table);
        assert!(db.query(&pk, "").await.expect("reads").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_that_is_damaged_is_found_within_a_round_and_healed() {
    let mut world = World::new().await;
    let place = Place::context(&names()[3], SETTLED);
    let other = AttributeValue::B(Blob::new([7; 16]));
    world.set(&place, "hash", other).await;
    world.reads_all().await;
    assert_eq!(world.repair().await, [tenant("t1")]);
    world.is_whole().await;
    let db = db(&world.server.url, &world.table);
    let read = db.look_up(&key(), &names()[3]).await.expect("reads");
    let record = read.and_then(|stored| stored.record).expect("is there");
    assert!(record.is_sound(&key()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_goes_on_from_the_end_of_the_last_whole_round() {
    let mut world = World::new().await;
    let ended = async |world: &World| {
        let db = db(&world.server.url, &world.table);
        let standing = db.standing().await.expect("reads").expect("is claimed");
        standing.pulse.audited
    };
    // A table of an earlier release does not say it: it counts from the first scan.
    assert_eq!(ended(&world).await, None);
    world.scan().await;
    let first = ended(&world).await.expect("is kept");
    world.is_whole().await;
    let whole = ended(&world).await.expect("is kept");
    assert!(whole > first);

    let gone = names()[3].clone();
    world.delete(Place::context(&gone, SETTLED)).await;
    let day = Duration::from_secs(24 * 3_600);
    world.writer = writer(&world.server, &world.table, 2, day).await;
    world.knows_to_be_after(whole).await;
    let in_step = world.scan().await;
    assert!(matches!(in_step, SyncVerdict::InStep { .. }), "{in_step:?}");
    assert_eq!(ended(&world).await, Some(whole), "nothing was due");

    world.writer = writer(&world.server, &world.table, 3, Duration::from_millis(2)).await;
    world.knows_to_be_after(whole).await;
    let differs = world.scan().await;
    assert!(
        matches!(differs, SyncVerdict::Differs { .. }),
        "{differs:?}"
    );
    assert!(ended(&world).await > Some(whole));
    world.heals("t1", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_no_head_names_goes_with_the_next_bundle_of_its_tenant() {
    // One of a tenant that is there, and one of a tenant that is not.
    for owner in ["t1", "t4"] {
        let mut world = World::new().await;
        world.put_back(owner, &names()[50]).await;
        world.reads_all().await;
        assert_eq!(world.repair().await, [tenant(owner)]);
        world.is_whole().await;
        assert_collected(&world.server.url, &world.table, &world.maps).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_do_those_of_a_page_that_was_lost_before_the_tenant_was_removed() {
    let mut world = World::new().await;
    let place = world.pages("t1").await.remove(0);
    world.delete(place).await;
    world.send(Bundle::empty(tenant("t1"))).await;
    world.reads_all().await;
    assert_eq!(world.repair().await, [tenant("t1")]);
    world.is_whole().await;
    assert_collected(&world.server.url, &world.table, &world.maps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_lost_is_told_though_all_its_items_are_there() {
    let mut world = World::new().await;
    let place = world.pages("t1").await.remove(0);
    world.delete(place).await;
    world.reads_all().await;
    assert_eq!(world.repair().await, [tenant("t1")]);
    world.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_move_during_a_round_are_not_taken_for_items_that_nobody_names() {
    let mut world = World::new().await;
    let all = names();
    for n in 0..64 {
        if n == 1 {
            world.put_back("t4", &all[50]).await;
        }
        if n == 20 {
            // Ten keys of the one go to the other.
            let left = all.iter().skip(10).take(10).cloned();
            let taken = all.iter().take(10).chain(all.iter().skip(20).take(20));
            world.send(bundle(&tenant("t1"), left, "1")).await;
            world.send(bundle(&tenant("t2"), taken.cloned(), "1")).await;
        }
        let in_step = world.scan().await;
        assert!(matches!(in_step, SyncVerdict::InStep { .. }), "{in_step:?}");
    }
    // The second round, at once.
    world.writer.table = world
        .writer
        .table
        .limited(&within(Duration::from_millis(2)));
    let differs = world.scan().await;
    assert!(
        matches!(differs, SyncVerdict::Differs { .. }),
        "{differs:?}"
    );
    assert_eq!(world.repair().await, [tenant("t4")]);
    world.is_whole().await;
}
