//! Keys that move between more tenants than one transaction has room for.

use super::model::*;
use super::proxy::{Fault, Proxy};
use super::support::*;
use contexts::apply::Name;
use contexts::apply::maps::Maps;
use contexts::name::TenantId;
use contexts::push::{Push, ReadTenant, Sent, SyncVerdict, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// More than one transaction has room for.
const MANY: usize = 110;

type Owned = BTreeMap<TenantId, Vec<Name>>;

fn one_of(n: usize) -> TenantId {
    tenant(&format!("m{n:03}"))
}

/// Each key with the tenant that `of` says.
fn owned(of: impl Fn(usize) -> TenantId) -> Owned {
    let mut owned = Owned::new();
    for (n, name) in names().into_iter().take(MANY).enumerate() {
        owned.entry(of(n)).or_default().push(name);
    }
    owned
}

fn spread() -> Owned {
    owned(|n| one_of(n % MANY))
}

fn merged() -> Owned {
    owned(|_| tenant("big"))
}

/// Everybody's keys are the next one's.
fn turned() -> Owned {
    owned(|n| one_of((n + 1) % MANY))
}

/// All of these tenants in one push, and one that has nothing to do with them.
fn bundles(writer: &mut Writer, tenants: &[TenantId], owned: &Owned, value: &str) -> Vec<Sent> {
    let version = writer.version();
    let bystander = names().split_off(MANY);
    let all = tenants.iter().map(|tenant_| {
        let names = match *tenant_ == tenant("bystander") {
            true => bystander.clone(),
            false => owned.get(tenant_).cloned().unwrap_or_default(),
        };
        sent(version, bundle(tenant_, names, value))
    });
    all.collect()
}

struct Case {
    server: Server,
    proxy: Proxy,
    table: String,
    writer: Arc<Writer>,
    tenants: Vec<TenantId>,
    before: Maps,
    after: Maps,
    push: Push,
}

impl Case {
    async fn new(before: &Owned, after: &Owned) -> Self {
        let server = Server::start().await;
        let table = new_table(&server).await;
        let proxy = Proxy::start(&server.url).await;
        let mut writer = Writer::claim(&proxy.url, &table, 1).await;
        let tenants: BTreeSet<TenantId> = before.keys().chain(after.keys()).cloned().collect();
        let mut tenants: Vec<TenantId> = tenants.into_iter().collect();
        tenants.push(tenant("bystander"));
        let mut maps = Maps::default();
        let first = bundles(&mut writer, &tenants, before, "1");
        let verdicts = expected(&mut maps, &first);
        let pushed = writer.push(first).await.expect("answers").expect("is open");
        assert_eq!(pushed.verdicts, verdicts);
        let before = maps.clone();
        let push = bundles(&mut writer, &tenants, after, "2");
        let verdicts = expected(&mut maps, &push);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Applied));
        Self {
            push: writer.message(push),
            after: maps,
            server,
            proxy,
            table,
            writer: Arc::new(writer),
            tenants,
            before,
        }
    }

    /// Every key is known all the time, and of one of the two that it may be of; a tenant is as before, or as it is to be
    /// but for what is held.
    async fn assert_sound(&self, at: usize) {
        let asked = ReadTenant {
            tenants: self.tenants.iter().step_by(40).cloned().collect(),
            owners_of: names().into_iter().step_by(7).collect(),
        };
        let table =
            contexts_dynamodb::table::Table::new(db(&self.server.url, &self.table), region());
        let read = table.read(&asked).await.expect("reads").expect("answers");
        for (name, owner) in asked.owners_of.iter().zip(&read.owners) {
            let of = |maps: &Maps| maps.owners.get(name).map(|owner| owner.tenant.clone());
            let is_known = *owner == of(&self.before) || *owner == of(&self.after);
            assert!(is_known, "at {at}: {name:?} is of {owner:?}");
        }
        for state in &read.tenants {
            let names = |maps: &Maps| -> BTreeSet<Name> {
                let records = maps.records.get(&state.tenant);
                records
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name.clone())
                    .collect()
            };
            let found = state
                .contexts
                .iter()
                .map(|c| (c.kind.clone(), c.key.clone()));
            let mut found: BTreeSet<Name> = found.collect();
            let is_old = state.contexts.iter().all(|c| &*c.value == "1");
            let is_new = state.contexts.iter().all(|c| &*c.value == "2");
            let is_before = is_old && found == names(&self.before);
            found.extend(state.held.iter().cloned());
            let is_after = is_new && found.is_superset(&names(&self.after));
            assert!(is_before || is_after, "at {at}: {state:?}");
        }
    }

    /// Pushes, and looks before every so many writes. With `until`, the writer is gone at that one, and another one comes. Returns
    /// whether the push got that far.
    async fn run(self, every: usize, until: Option<usize>) -> bool {
        self.proxy.next("TransactWriteItems", [Fault::Hold]);
        let (writer, push) = (self.writer.clone(), self.push.clone());
        let mut writing = tokio::spawn(async move { writer.table.push(&push).await });
        let mut at = 0;
        loop {
            tokio::select! {
                () = self.proxy.held() => {}
                answer = &mut writing => {
                    let pushed = answer.expect("does not panic").expect("answers").expect("is open");
                    assert!(pushed.verdicts.iter().all(|v| *v == Verdict::Applied), "{pushed:?}");
                    break;
                }
            }
            if at % every == 0 {
                self.assert_sound(at).await;
            }
            if until == Some(at) {
                writing.abort();
                self.proxy.mend();
                self.proxy.let_go();
                break;
            }
            at += 1;
            self.proxy.next("TransactWriteItems", [Fault::Hold]);
            self.proxy.let_go();
        }
        self.proxy.mend();
        let is_so_far = until == Some(at);
        let mut next = Writer::claim(&self.server.url, &self.table, 2).await;
        if is_so_far {
            let push = self.push.bundles.clone();
            let pushed = next.push(push).await.expect("answers").expect("is open");
            let is_there = |v: &Verdict| matches!(v, Verdict::Applied | Verdict::AlreadyThere);
            assert!(pushed.verdicts.iter().all(is_there), "{pushed:?}");
        }
        let at = format!("writer gone at {until:?}");
        assert_same_of(&next.table, &self.tenants, &self.after, &at).await;
        let in_step = next.synced(&KINDS, root(&self.after), true).await;
        let in_step = in_step.expect("answers").expect("is open");
        assert!(matches!(in_step, SyncVerdict::InStep { .. }), "{at}");
        assert_collected(&self.server.url, &self.table, &self.after).await;
        is_so_far
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_many_tenants_become_those_of_one() {
    Case::new(&spread(), &merged()).await.run(1, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_one_tenant_become_those_of_many() {
    Case::new(&merged(), &spread()).await.run(1, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tenants_that_each_give_keys_and_take_others_are_no_deadlock() {
    Case::new(&spread(), &turned()).await.run(5, None).await;
}

/// Wherever it breaks off, the next writer sends the same again and is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_that_break_off_anywhere_are_made_by_the_next_writer() {
    // Within each of the rounds.
    for at in [2, 10, 20] {
        let case = Case::new(&spread(), &merged()).await;
        assert!(case.run(at, Some(at)).await, "there are {at} writes");
    }
}
