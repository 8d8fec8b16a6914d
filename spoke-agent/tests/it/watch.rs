//! What whoever watches is told: all of it, then what changed, each tenant whole, and never twice another truth.

use super::support::*;
use contexts::push::{SyncVerdict, Verdict};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::ReadableTable;
use reqwest::Response;
use serde_json::{Value, json};
use spoke_agent::store::redb::tables::CONTEXTS;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A watcher, with what it was told.
struct Watcher {
    response: Response,
    unread: String,
    pub last_id: Option<String>,
}

#[derive(Debug)]
struct Told {
    event: String,
    data: Value,
    id: Option<String>,
}

impl Watcher {
    async fn open(spoke: &Spoke, query: &str) -> Self {
        Self::of(spoke.get(&format!("/v1/watch{query}")).await)
    }

    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            unread: String::new(),
            last_id: None,
        }
    }

    /// The next event; none if the stream ended.
    async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some(end) = self.unread.find("\n\n") {
                let block: String = self.unread.drain(..end + 2).collect();
                let field = |name: &str| {
                    let lines = block.lines();
                    let mut fields = lines.filter_map(|line| line.strip_prefix(name));
                    fields.next().map(|value| value.trim_start().to_owned())
                };
                let id = field("id:");
                self.last_id = id.clone().or(self.last_id.take());
                if let (Some(event), Some(data)) = (field("event:"), field("data:")) {
                    let data = serde_json::from_str(&data).expect("JSON");
                    return Some(Told { event, data, id });
                }
            }
            let chunk = self.response.chunk().await.ok()??;
            self.unread += std::str::from_utf8(&chunk).expect("text");
        }
    }

    /// Names and data up to the next cursor.
    async fn up_to_cursor(&mut self) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        loop {
            let told = self.next().await.expect("more");
            let is_last = told.id.is_some();
            all.push((told.event, told.data));
            if is_last {
                return all;
            }
        }
    }
}

async fn filled() -> (Spoke, Hub) {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let one = bundle(
        "t",
        vec![context("k", "a", "1"), context("l", "b", "{\"x\":\"\\n\"}")],
    );
    hub.push(vec![one.clone()]).await;
    let verdict = hub.synced(&["k", "l"], &[&one]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    (spoke, hub)
}

fn put(kind: &str, key: &str, tenant: &str, version: &str, value: Value) -> (String, Value) {
    let data =
        json!({"kind": kind, "key": key, "tenant": tenant, "version": version, "value": value});
    ("put".into(), data)
}

fn delete(kind: &str, key: &str, tenant: &str, version: &str) -> (String, Value) {
    let data = json!({"kind": kind, "key": key, "tenant": tenant, "version": version});
    ("delete".into(), data)
}

fn sync() -> (String, Value) {
    ("sync".into(), json!({"full": true}))
}

#[tokio::test]
async fn a_full_copy_ends_with_sync_and_changes_follow() {
    let (spoke, mut hub) = filled().await;
    let mut watcher = Watcher::open(&spoke, "").await;
    let copy = [
        put("k", "a", "t", "1.1", json!(1)),
        put("l", "b", "t", "1.1", json!({"x": "\n"})),
        sync(),
    ];
    assert_eq!(watcher.up_to_cursor().await, copy);
    hub.push(vec![bundle(
        "t",
        vec![context("k", "a", "2"), context("k", "c", "3")],
    )])
    .await;
    let changed = [
        put("k", "a", "t", "1.2", json!(2)),
        put("k", "c", "t", "1.2", json!(3)),
        delete("l", "b", "t", "1.2"),
    ];
    assert_eq!(watcher.up_to_cursor().await, changed);
    hub.push(vec![bundle("t", vec![])]).await;
    let gone = [delete("k", "a", "t", "1.3"), delete("k", "c", "t", "1.3")];
    assert_eq!(watcher.up_to_cursor().await, gone);
}

#[tokio::test]
async fn a_watcher_goes_on_by_its_cursor_also_after_a_restart_of_the_agent() {
    let (spoke, mut hub) = filled().await;
    let mut watcher = Watcher::open(&spoke, "").await;
    watcher.up_to_cursor().await;
    let cursor = watcher.last_id.clone().expect("a cursor");
    let next = |value: &str| bundle("t", vec![context("k", "a", value), context("l", "b", "0")]);
    hub.push(vec![next("2")]).await;
    hub.push(vec![next("3")]).await;
    hub.push(vec![bundle("u", vec![context("k", "u", "4")])])
        .await;
    drop(watcher);
    let dir = spoke.stop().await;
    let spoke = Spoke::start_in(dir).await.expect("starts");
    let mut watcher = Watcher::open(&spoke, &format!("?after={cursor}")).await;
    let missed = [
        put("k", "a", "t", "1.3", json!(3)),
        put("l", "b", "t", "1.3", json!(0)),
        put("k", "u", "u", "1.4", json!(4)),
    ];
    assert_eq!(
        watcher.up_to_cursor().await,
        missed,
        "ten changes of a key are told once"
    );

    // What a browser sends when it connects again is newer than what the page asks for.
    let again = client().get(spoke.url(&format!("/v1/watch?after={cursor}")));
    let again = again.header("last-event-id", watcher.last_id.expect("a cursor"));
    let mut watcher = Watcher::of(again.send().await.expect("an answer"));
    let mut hub = spoke.hub_after(&hub);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("u", vec![])]).await;
    assert_eq!(watcher.up_to_cursor().await, [delete("k", "u", "u", "1.5")]);
}

#[tokio::test]
async fn a_cursor_of_another_store_or_of_none_gets_a_full_copy() {
    let (spoke, _hub) = filled().await;
    let (other, _) = filled().await;
    let mut watcher = Watcher::open(&other, "").await;
    watcher.up_to_cursor().await;
    let foreign = watcher.last_id.clone().expect("a cursor");
    for cursor in [&foreign, "kangaroo", "7-0000000000000000", "99999999-abc"] {
        let mut watcher = Watcher::open(&spoke, &format!("?after={cursor}")).await;
        let copy = watcher.up_to_cursor().await;
        assert_eq!((copy.len(), copy.last()), (3, Some(&sync())), "{cursor}");
    }
}

#[tokio::test]
async fn a_file_that_was_put_back_is_another_history() {
    let (spoke, mut hub) = filled().await;
    let dir = spoke.stop().await;
    let (path, old) = (dir.path().join("store.redb"), dir.path().join("old"));
    std::fs::copy(&path, &old).expect("copied");
    let spoke = Spoke::start_in(dir).await.expect("starts");
    hub = spoke.hub_after(&hub);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("x", vec![context("k", "x", "1")])])
        .await;
    let mut watcher = Watcher::open(&spoke, "").await;
    watcher.up_to_cursor().await;
    let cursor = watcher.last_id.clone().expect("a cursor");
    drop(watcher);
    let dir = spoke.stop().await;
    std::fs::copy(&old, &path).expect("put back");
    let spoke = Spoke::start_in(dir).await.expect("starts");
    let mut hub = spoke.hub_after(&hub);
    hub.n = 5;
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("y", vec![context("k", "y", "1")])])
        .await;
    let mut watcher = Watcher::open(&spoke, &format!("?after={cursor}")).await;
    let copy = watcher.up_to_cursor().await;
    assert_eq!(
        copy.last(),
        Some(&sync()),
        "as many commits, and not the same ones"
    );
}

#[tokio::test]
async fn filters_limit_what_is_told_and_what_is_gone() {
    let (spoke, mut hub) = filled().await;
    let mut kinds = Watcher::open(&spoke, "?kind=l&kind=m").await;
    let mut tenants = Watcher::open(&spoke, "?tenant=t").await;
    let mut nothing = Watcher::open(&spoke, "?kind=none").await;
    assert_eq!(
        kinds.up_to_cursor().await,
        [put("l", "b", "t", "1.1", json!({"x": "\n"})), sync()]
    );
    assert_eq!(tenants.up_to_cursor().await.len(), 3);
    assert_eq!(
        nothing.up_to_cursor().await,
        [sync()],
        "an empty copy ends too"
    );
    hub.push(vec![bundle("u", vec![context("l", "u", "1")])])
        .await;
    let moved = bundle("t", vec![context("k", "a", "1")]);
    let taken = bundle("u", vec![context("l", "u", "1"), context("l", "b", "2")]);
    hub.push(vec![moved, taken]).await;
    assert_eq!(tenants.up_to_cursor().await, [delete("l", "b", "t", "1.3")]);
    let mut seen = kinds.up_to_cursor().await;
    // What changed in both pushes may be told at once, in the order of the names.
    while !seen.contains(&put("l", "b", "u", "1.3", json!(2))) {
        seen.extend(kinds.up_to_cursor().await);
    }
    assert!(
        seen.iter().all(|(event, _)| event == "put"),
        "a key that moves is never gone: {seen:?}"
    );
    let wrong = spoke.get("/v1/watch?kangaroo=1").await;
    assert_eq!(status_and_body(wrong).await.0, 400);
}

#[tokio::test]
async fn a_store_that_was_never_in_step_does_not_say_that_it_told_all() {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    let mut watcher = Watcher::open(&spoke, "").await;
    let one = bundle("t", vec![context("k", "a", "1")]);
    hub.push(vec![one.clone()]).await;
    let told = watcher.next().await.expect("told");
    assert_eq!((told.event.as_str(), told.id), ("put", None));
    hub.synced(&["k"], &[&one]).await;
    // The put may come twice: as what is there, and as what changes.
    let mut told = watcher.up_to_cursor().await;
    assert_eq!(told.pop(), Some(sync()));
    assert!(told.iter().all(|(event, _)| event == "put"), "{told:?}");
}

/// Changes the file of a stopped agent: one row of `k/a`.
async fn tampered(change: impl FnOnce(&mut redb::Table<'_, Row, &'static [u8]>)) -> (Spoke, Hub) {
    let (spoke, hub) = filled().await;
    let dir = spoke.stop().await;
    tamper(dir.path(), |txn| {
        change(&mut txn.open_table(CONTEXTS).expect("opens"));
    });
    let spoke = Spoke::start_in(dir).await.expect("starts");
    let hub = spoke.hub_after(&hub);
    (spoke, hub)
}

type Row = (&'static [u8], &'static [u8], &'static [u8]);
const ROW: Row = (b"t", b"k", b"a");

#[tokio::test]
async fn what_was_lost_to_damage_is_not_said_to_be_gone() {
    let (spoke, mut hub) = tampered(|table| {
        table.remove(ROW).expect("removes");
    })
    .await;
    let mut watcher = Watcher::open(&spoke, "").await;
    let told = watcher.next().await.expect("told");
    assert_eq!(
        (told.event.as_str(), told.data["key"].as_str()),
        ("put", Some("b"))
    );
    for path in [
        "/v1/tenants/t/contexts",
        "/v1/tenants/none/contexts",
        "/v1/tenants/t/contexts?kind=l",
    ] {
        let answer = status_and_body(spoke.get(path).await).await;
        assert_eq!(answer, (503, r#"{"error":"not_ready"}"#.into()), "{path}");
    }
    // The next scan of the hub brings it, and only then all is said to be told.
    hub.claim().await.expect("granted");
    let whole = bundle("t", vec![context("k", "a", "1"), context("l", "b", "2")]);
    hub.push(vec![whole.clone()]).await;
    hub.synced(&["k", "l"], &[&whole]).await;
    let mut rest = Vec::new();
    while rest.last() != Some(&sync()) {
        let told = watcher.next().await.expect("told");
        rest.push((told.event, told.data));
    }
    assert!(
        rest.contains(&put("k", "a", "t", "1.2", json!(1))),
        "{rest:?}"
    );
    assert_eq!(spoke.get("/v1/tenants/t/contexts").await.status(), 200);
}

#[tokio::test]
async fn a_copy_says_of_which_kinds_it_may_lack_something() {
    let (spoke, _hub) = tampered(|table| {
        let mut record = table
            .get(ROW)
            .expect("reads")
            .expect("there")
            .value()
            .to_vec();
        *record.last_mut().expect("bytes") ^= 1;
        table.insert(ROW, record.as_slice()).expect("inserts");
    })
    .await;
    let mut watcher = Watcher::open(&spoke, "").await;
    let told = watcher.up_to_cursor().await;
    let last = (
        "sync".to_owned(),
        json!({"full": true, "incomplete": ["k"]}),
    );
    assert_eq!((told.len(), told.last()), (2, Some(&last)));
    let mut other = Watcher::open(&spoke, "?kind=l").await;
    assert_eq!(other.up_to_cursor().await.last(), Some(&sync()));
}

#[tokio::test]
async fn a_mirror_is_told_what_is_withheld_and_how_old_all_is() {
    let (spoke, mut hub) = filled().await;
    let mut watcher = Watcher::open(&spoke, "?follow=true").await;
    assert_eq!(watcher.up_to_cursor().await[0], ("copy".into(), json!({})));
    let state = watcher.next().await.expect("told");
    assert_eq!(
        (state.event.as_str(), &state.data["complete"]),
        ("state", &json!(["k", "l"]))
    );
    assert_eq!(state.data["position"], "1.1");
    assert!(state.data["age"].as_f64().expect("a number") < 60.0);
    let held = contexts::bundle::Bundle::new(tenant("t"), vec![], vec![held("k", "h")], vec![]);
    hub.push(vec![held.expect("a bundle")]).await;
    let mut events = Vec::new();
    while events.len() < 3 {
        let told = watcher.next().await.expect("told");
        events.extend((told.event != "state").then_some((told.event, told.data)));
    }
    let withheld = json!({"kind": "k", "key": "h", "tenant": "t", "why": "held"});
    assert!(
        events.contains(&("withheld".into(), withheld)),
        "{events:?}"
    );
}

/// More names than one batch has: it is told in parts, each of which ends with a cursor to go on from.
#[tokio::test]
async fn a_watcher_that_missed_much_is_told_in_parts() {
    const NAMES: usize = 4_000;
    let (spoke, mut hub) = filled().await;
    let of = |n: usize, value: &str| {
        let names = (0..NAMES).map(|k| context("k", &format!("{n}-{k}"), value));
        bundle(&format!("part{n}"), names.collect())
    };
    for n in 0..4 {
        hub.push(vec![of(n, "1")]).await;
    }
    let mut watcher = Watcher::open(&spoke, "").await;
    watcher.up_to_cursor().await;
    let mut cursor = watcher.last_id.clone().expect("a cursor");
    for n in 0..4 {
        hub.push(vec![of(n, "2")]).await;
    }
    let mut told: BTreeMap<String, Value> = BTreeMap::new();
    let mut parts = 0;
    while told.len() < 4 * NAMES {
        // Whoever is cut after a part goes on behind it.
        let mut watcher = Watcher::open(&spoke, &format!("?after={cursor}")).await;
        for (event, data) in watcher.up_to_cursor().await {
            assert_eq!(event, "put");
            let key = data["key"].as_str().expect("text").to_owned();
            told.insert(key, data["value"].clone());
        }
        cursor = watcher.last_id.clone().expect("a cursor");
        parts += 1;
    }
    assert!(parts > 1, "it is more than one batch");
    assert!(
        told.values().all(|value| *value == json!(2)),
        "what is told is of now"
    );
}

/// A watcher that does not read is dropped, costs nobody anything, and is told why once it reads again.
#[tokio::test]
async fn a_watcher_that_does_not_read_is_dropped_and_told_so() {
    let (spoke, mut hub) = filled().await;
    // More than the buffers of any connection take.
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let all = (0..24).map(|n| {
        bundle(
            &format!("large{n}"),
            vec![context("k", &format!("l{n}"), &large)],
        )
    });
    for one in all {
        hub.push(vec![one]).await;
    }
    let address = spoke.url("").replace("http://", "");
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = "GET /v1/watch HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut other = Watcher::open(&spoke, "?kind=l").await;
    other.up_to_cursor().await;
    let begin = Instant::now();
    loop {
        let metrics = spoke.get("/metrics").await.text().await.expect("text");
        if metrics.lines().any(|line| {
            line.starts_with("hubcast_agent_watchers_dropped_total") && line.ends_with(" 1")
        }) {
            break;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "nobody is dropped: {metrics}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut told = Vec::new();
    stream.read_to_end(&mut told).await.expect("an end");
    let told = String::from_utf8_lossy(&told);
    let end = "event: error\ndata: {\"error\":\"too_slow\"}\n\n";
    let last = told
        .trim_end_matches("\r\n0\r\n\r\n")
        .trim_end_matches("\r\n");
    assert!(
        last.ends_with(end),
        "{}",
        &told[told.len().saturating_sub(200)..]
    );
    // Who reads is told as before.
    hub.push(vec![bundle("t", vec![context("l", "b", "3")])])
        .await;
    assert_eq!(
        other.up_to_cursor().await,
        [put("l", "b", "t", "1.26", json!(3))]
    );
}

type Contents = BTreeMap<(String, String), (String, String)>;

/// The truth of one tenant: its values by kind and key.
type Tenant = BTreeMap<(String, String), String>;

/// Follows the store over random pushes, disconnects and restarts. Wherever a cursor stands, each tenant is as it was at
/// some push, and no older than it was before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_equals_the_truth_whatever_is_cut() {
    for seed in 0..3 {
        follow_through(seed).await;
    }
}

async fn follow_through(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    hub.synced(&["k"], &[]).await;
    let mut history: BTreeMap<String, Vec<Tenant>> = BTreeMap::new();
    let mut told: Contents = BTreeMap::new();
    let mut reached: BTreeMap<String, usize> = BTreeMap::new();
    let mut cursor: Option<String> = None;
    for round in 0..12 {
        let mut watcher = match &cursor {
            Some(cursor) => Watcher::open(&spoke, &format!("?after={cursor}")).await,
            None => Watcher::open(&spoke, "").await,
        };
        let is_copy = cursor.is_none();
        for _ in 0..random.random_range(1..30) {
            let bundles = random_bundles(&mut random);
            let verdicts = hub.push(bundles.clone()).await;
            for (bundle, verdict) in bundles.iter().zip(verdicts) {
                if matches!(verdict, Verdict::Applied | Verdict::AlreadyThere) {
                    let now = bundle.contexts.iter().map(|c| {
                        let name = (c.kind.to_string(), c.key.to_string());
                        (name, c.value.to_string())
                    });
                    history
                        .entry(bundle.tenant.to_string())
                        .or_default()
                        .push(now.collect());
                }
            }
        }
        let last = bundle("end", vec![context("k", &format!("end{round}"), "0")]);
        hub.push(vec![last]).await;
        if is_copy {
            told.clear();
        }
        loop {
            let next = watcher.next().await.expect("more");
            let field = |name: &str| next.data[name].as_str().unwrap_or("").to_owned();
            let name = (field("kind"), field("key"));
            match next.event.as_str() {
                "put" => {
                    told.insert(name, (field("tenant"), next.data["value"].to_string()));
                }
                "delete" => {
                    told.remove(&name);
                }
                _ => {}
            }
            if next.id.is_none() {
                continue;
            }
            check(
                &told,
                &history,
                &mut reached,
                &format!("seed {seed}, round {round}"),
            );
            cursor = next.id;
            if told.contains_key(&("k".into(), format!("end{round}"))) || random.random_ratio(1, 20)
            {
                break;
            }
        }
        if random.random_ratio(1, 3) {
            let dir = spoke.stop().await;
            spoke = Spoke::start_in(dir).await.expect("starts");
            hub = spoke.hub_after(&hub);
            hub.claim().await.expect("granted");
        }
    }
    // In the end it is the truth, not only some of it.
    let mut watcher = Watcher::open(&spoke, "").await;
    let mut copied: Contents = BTreeMap::new();
    for (event, data) in watcher.up_to_cursor().await {
        if event == "put" {
            let field = |name: &str| data[name].as_str().unwrap_or("").to_owned();
            copied.insert(
                (field("kind"), field("key")),
                (field("tenant"), data["value"].to_string()),
            );
        }
    }
    for (tenant_, states) in &history {
        let last: Contents = states
            .last()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), (tenant_.clone(), value.clone())))
            .collect();
        let here = copied.iter().filter(|(_, (owner, _))| owner == tenant_);
        let here: Contents = here
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        assert_eq!(here, last, "seed {seed}");
    }
}

fn random_bundles(random: &mut StdRng) -> Vec<contexts::bundle::Bundle> {
    let count = random.random_range(1..4);
    let mut tenants: Vec<u32> = (0..6).collect();
    let picked = (0..count).map(|_| tenants.swap_remove(random.random_range(0..tenants.len())));
    let picked: Vec<u32> = picked.collect();
    let one = |tenant_: u32, random: &mut StdRng| {
        let keys = (0..8)
            .filter(|_| random.random_ratio(1, 2))
            .collect::<Vec<u32>>();
        let value = random.random_range(0..1_000_u32);
        // Each tenant has keys of its own: moves have a test of their own.
        let contexts = keys
            .iter()
            .map(|n| context("k", &format!("{tenant_}-{n}"), &value.to_string()));
        bundle(&format!("t{tenant_}"), contexts.collect())
    };
    picked
        .into_iter()
        .map(|tenant_| one(tenant_, random))
        .collect()
}

fn check(
    told: &Contents,
    history: &BTreeMap<String, Vec<Tenant>>,
    reached: &mut BTreeMap<String, usize>,
    at: &str,
) {
    for (tenant_, states) in history {
        let here = told.iter().filter(|(_, (owner, _))| owner == tenant_);
        let here: Tenant = here
            .map(|(name, (_, value))| (name.clone(), value.clone()))
            .collect();
        let before = reached.get(tenant_).copied().unwrap_or(0);
        let is_nothing_yet = here.is_empty() && before == 0;
        let found = states.iter().skip(before).position(|state| *state == here);
        match found {
            Some(offset) => {
                reached.insert(tenant_.clone(), before + offset);
            }
            None => assert!(
                is_nothing_yet,
                "{at}: {tenant_} is {here:?}, which it was not since"
            ),
        }
    }
}
