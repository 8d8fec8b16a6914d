//! The readers for gateways: what they answer, and what they go on answering when agents go.

use super::support::*;
use contexts::bundle::Bundle;
use contexts::push::SyncVerdict;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use spoke_agent::reader::embedded::Embedded;
use spoke_agent::reader::follower::{Follower, FollowerConfig};
use spoke_agent::reader::remote::{Remote, RemoteConfig};
use spoke_agent::reader::typed::{Typed, TypedAnswer};
use spoke_agent::reader::{Answer, Changed, ContextReader, Freshness, Options, Reply};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn text(reply: &Reply) -> String {
    match &reply.answer {
        Answer::Found(found) => String::from_utf8_lossy(found.bytes()).into_owned(),
        other => format!("{other:?}"),
    }
}

async fn said(reader: &impl ContextReader, key: &str) -> String {
    text(&reader.get("k", key).await)
}

/// Waits until a reader says this of a key.
async fn says(reader: &impl ContextReader, key: &str, wanted: &str) {
    let begin = Instant::now();
    loop {
        let now = said(reader, key).await;
        if now == wanted {
            return;
        }
        let waited = begin.elapsed();
        assert!(
            waited < Duration::from_secs(20),
            "{key} is {now}, not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value of the key `a`.
const VALUE: &str = "{\"n\":1}";

fn content() -> Bundle {
    let mut gone = context("k", "gone", "0");
    gone.expires = Some(1);
    let contexts = vec![context("k", "a", VALUE), context("l", "b", "2"), gone];
    Bundle::new(tenant("t"), contexts, vec![held("k", "held")], vec![]).expect("a bundle")
}

async fn filled() -> (Spoke, Hub) {
    let spoke = Spoke::start().await;
    let mut hub = spoke.hub(1);
    hub.claim().await.expect("granted");
    hub.push(vec![content()]).await;
    let verdict = hub.synced(&["k"], &[&content()]).await;
    assert!(matches!(verdict, SyncVerdict::InStep { .. }));
    (spoke, hub)
}

fn agent(spoke: &Spoke) -> String {
    spoke.url("")
}

fn socket(spoke: &Spoke) -> String {
    format!("unix:{}", spoke.dir.path().join("read.sock").display())
}

async fn follower(spokes: &[&Spoke], change: impl FnOnce(&mut FollowerConfig)) -> Follower {
    let mut config = FollowerConfig::new(spokes.iter().map(|spoke| agent(spoke)));
    config.switch_after = Duration::from_millis(300);
    change(&mut config);
    Follower::start(config, Options::default())
        .await
        .expect("starts")
}

fn remote(addresses: impl IntoIterator<Item = String>) -> Remote {
    let mut config = RemoteConfig::new(addresses);
    config.timeout = Duration::from_secs(5);
    Remote::connect(config, Options::default()).expect("connects")
}

/// Everything that an answer can be.
async fn tells_apart(reader: &impl ContextReader) {
    says(reader, "a", "{\"n\":1}").await;
    let reply = reader.get("k", "a").await;
    let Answer::Found(found) = &reply.answer else {
        panic!("{reply:?}");
    };
    assert_eq!((found.tenant(), found.version()), ("t", version(1, 1)));
    assert!(reply.age.expect("known") < Duration::from_secs(60));
    assert_eq!(
        (reply.freshness, reply.maybe_older),
        (Freshness::Fresh, false)
    );
    for (kind, key, wanted) in [
        ("k", "none", "Absent"),
        ("k", "gone", "Expired"),
        ("k", "held", "Held"),
        ("l", "none", "NotReady"),
        ("m", "none", "NotReady"),
    ] {
        assert_eq!(text(&reader.get(kind, key).await), wanted, "{kind} {key}");
    }
    let many = reader
        .get_many(&[("k", "a"), ("k", "held"), ("k", "none"), ("l", "b")])
        .await;
    let many: Vec<String> = many.iter().map(text).collect();
    assert_eq!(many, ["{\"n\":1}", "Held", "Absent", "2"]);
}

#[tokio::test]
async fn answers_cannot_be_confused() {
    let (spoke, _hub) = filled().await;
    tells_apart(&spoke.reader(Options::default())).await;
    let follower = follower(&[&spoke], |_| {}).await;
    follower.filled().await;
    tells_apart(&follower).await;
    tells_apart(&remote([agent(&spoke)])).await;
    tells_apart(&remote([socket(&spoke)])).await;
}

/// Whatever the answer is: a gateway asks on every request.
#[tokio::test]
async fn a_get_within_the_process_allocates_nothing() {
    let (spoke, _hub) = filled().await;
    let reader = spoke.reader(Options::default());
    // The pushes before this were answered by a store that has all in memory.
    assert_eq!(said(&reader, "none").await, "Absent");
    let names = [
        ("k", "a"),
        ("k", "none"),
        ("k", "gone"),
        ("k", "held"),
        ("l", "none"),
    ];
    let ask_all = || {
        names
            .iter()
            .for_each(|(kind, key)| drop(reader.look_up(kind, key)))
    };
    ask_all();
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| ask_all()));
    assert_eq!(counted.count_total, 0);
}

#[tokio::test]
async fn bounds_on_the_age_are_answers_of_their_own() {
    let (spoke, _hub) = filled().await;
    let bounds = Options {
        stale_after: Some(Duration::ZERO),
        max_age: None,
    };
    let stale = spoke.reader(bounds).look_up("k", "a");
    assert_eq!(
        (text(&stale).as_str(), stale.freshness),
        ("{\"n\":1}", Freshness::Stale)
    );
    let bounds = Options {
        stale_after: None,
        max_age: Some(Duration::ZERO),
    };
    let reader = spoke.reader(bounds);
    assert_eq!(text(&reader.look_up("k", "a")), "TooOld");
    assert_eq!(text(&reader.look_up("k", "none")), "TooOld");
    let config = RemoteConfig::new([agent(&spoke)]);
    let reader = Remote::connect(config, bounds).expect("connects");
    assert_eq!(said(&reader, "a").await, "TooOld");
}

#[tokio::test]
async fn a_reader_that_outlives_its_agent_does_not_keep_the_next_one_from_the_file() {
    let dir = filled().await.0.stop().await;
    for (memory_bytes, after) in [(usize::MAX, VALUE), (0, "NotReady")] {
        let mut config = config(dir.path());
        config.memory_bytes = memory_bytes;
        let spoke = Spoke::start_with(dir.clone(), config)
            .await
            .expect("starts");
        let reader = spoke.reader(Options::default());
        says(&reader, "a", VALUE).await;
        spoke.stop().await;
        assert_eq!(said(&reader, "a").await, after);
        let next = Spoke::start_in(dir.clone()).await.expect("has the file");
        says(&next.reader(Options::default()), "a", VALUE).await;
        next.stop().await;
    }
}

#[tokio::test]
async fn a_value_expires_by_the_clock_of_its_reader() {
    let (spoke, mut hub) = filled().await;
    let follower = follower(&[&spoke], |_| {}).await;
    let soon = spoke_agent::clock::wall_micros() + 1_500_000;
    let mut expiring = context("k", "soon", "1");
    expiring.expires = Some(soon);
    hub.push(vec![bundle("u", vec![expiring])]).await;
    let embedded = spoke.reader(Options::default());
    let remote = remote([agent(&spoke)]);
    says(&follower, "soon", "1").await;
    loop {
        let before = spoke_agent::clock::wall_micros();
        let answers = [
            said(&embedded, "soon").await,
            said(&follower, "soon").await,
            said(&remote, "soon").await,
        ];
        let after = spoke_agent::clock::wall_micros();
        if after < soon {
            assert_eq!(answers, ["1", "1", "1"]);
        }
        if before >= soon {
            assert_eq!(answers, ["Expired", "Expired", "Expired"]);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_follower_goes_on_without_its_agent_and_after_its_own_restart() {
    let (spoke, mut hub) = filled().await;
    let home = TempDir::new().expect("a directory");
    let with_file = |config: &mut FollowerConfig| config.file = Some(home.path().join("mirror"));
    let first = follower(&[&spoke], with_file).await;
    first.filled().await;
    hub.push(vec![bundle("u", vec![context("k", "u", "5")])])
        .await;
    says(&first, "u", "5").await;
    let dir = spoke.stop().await;
    says(&first, "u", "5").await;
    says(&first, "none", "Absent").await;
    let age = first.look_up("k", "u").age.expect("known");
    first.stop().await;

    // The agent is gone for good, and so it seems to the next one.
    let nowhere = FollowerConfig {
        file: Some(home.path().join("mirror")),
        ..FollowerConfig::new(["unix:/nonexistent"])
    };
    let second = Follower::start(nowhere, Options::default())
        .await
        .expect("starts");
    second.filled().await;
    tells_apart(&second).await;
    says(&second, "u", "5").await;
    assert!(
        second.look_up("k", "u").age.expect("known") >= age,
        "no younger by a restart"
    );
    second.stop().await;

    // It comes back, and is followed from where it was: nothing is told twice.
    let spoke = Spoke::start_in(dir).await.expect("starts");
    let third = follower(&[&spoke], with_file).await;
    let mut changes = third.changes();
    let mut hub = spoke.hub_after(&hub);
    hub.claim().await.expect("granted");
    hub.push(vec![bundle("u", vec![context("k", "u", "6")])])
        .await;
    says(&third, "u", "6").await;
    let name = Changed::Name {
        kind: "k".into(),
        key: "u".into(),
    };
    assert_eq!(changes.next().await, Some(name));
}

#[tokio::test]
async fn a_follower_does_not_go_back_when_it_goes_over_to_another_agent() {
    let (ahead, mut hub) = filled().await;
    let (behind, mut other_hub) = filled().await;
    let follower = follower(&[&ahead, &behind], |_| {}).await;
    follower.filled().await;
    let newer = |value: &str| bundle("u", vec![context("k", "u", value)]);
    hub.push(vec![newer("new")]).await;
    hub.push(vec![newer("\"newer\"")]).await;
    says(&follower, "u", "\"newer\"").await;
    ahead.stop().await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        assert_eq!(said(&follower, "u").await, "\"newer\"");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The hub brings the other one as far, and it is followed.
    other_hub.push(vec![newer("\"old\"")]).await;
    other_hub.push(vec![newer("\"newer\"")]).await;
    other_hub
        .heartbeat(Some(version(1, 3)))
        .await
        .expect("heard");
    other_hub.push(vec![newer("\"newest\"")]).await;
    says(&follower, "u", "\"newest\"").await;
}

#[tokio::test]
async fn a_remote_reader_asks_another_agent_and_says_when_that_may_be_older() {
    let (ahead, mut hub) = filled().await;
    let (behind, mut other_hub) = filled().await;
    let reader = remote([socket(&ahead), agent(&behind)]);
    hub.push(vec![bundle("t", vec![context("k", "a", "2")])])
        .await;
    hub.push(vec![bundle("u", vec![context("k", "u", "1")])])
        .await;
    assert_eq!(said(&reader, "a").await, "2");
    assert_eq!(said(&reader, "u").await, "1");
    ahead.stop().await;
    for (key, wanted) in [("a", "{\"n\":1}"), ("none", "Absent")] {
        let reply = reader.get("k", key).await;
        assert_eq!(
            (text(&reply).as_str(), reply.maybe_older),
            (wanted, true),
            "{key}"
        );
    }
    let many = reader.get_many(&[("k", "a"), ("k", "none")]).await;
    assert!(many.iter().all(|reply| reply.maybe_older));
    // As far as what was shown, it is as good as the other one was.
    other_hub
        .push(vec![bundle("t", vec![context("k", "a", "2")])])
        .await;
    let reply = reader.get("k", "a").await;
    assert_eq!(
        (text(&reply).as_str(), reply.maybe_older),
        ("2", false),
        "the tenant is"
    );
    other_hub
        .push(vec![bundle("u", vec![context("k", "u", "1")])])
        .await;
    other_hub
        .heartbeat(Some(version(1, 3)))
        .await
        .expect("heard");
    let reply = reader.get("k", "none").await;
    assert_eq!(
        (text(&reply).as_str(), reply.maybe_older),
        ("Absent", false)
    );
    behind.stop().await;
    assert!(said(&reader, "a").await.starts_with("Unreachable"));
}

#[tokio::test]
async fn a_part_is_all_that_is_known_of() {
    let (spoke, _hub) = filled().await;
    let kinds = follower(&[&spoke], |config| config.kinds = vec!["k".into()]).await;
    kinds.filled().await;
    assert_eq!(said(&kinds, "a").await, "{\"n\":1}");
    assert_eq!(said(&kinds, "none").await, "Absent");
    assert_eq!(text(&kinds.look_up("l", "b")), "NotReady");
    let tenants = follower(&[&spoke], |config| config.tenants = vec!["t".into()]).await;
    tenants.filled().await;
    assert_eq!(said(&tenants, "a").await, "{\"n\":1}");
    assert_eq!(
        said(&tenants, "none").await,
        "NotReady",
        "another tenant may have it"
    );
}

#[derive(Debug, Deserialize)]
struct Cluster {
    n: u32,
}

#[tokio::test]
async fn a_value_that_cannot_be_decoded_does_not_take_the_last_good_one_away() {
    let (spoke, mut hub) = filled().await;
    let typed: Typed<Embedded, Cluster> = Typed::new(spoke.reader(Options::default()), "k", 100);
    let is_one =
        |answer| matches!(answer, TypedAnswer::Found(cluster) if Cluster::clone_of(&cluster) == 1);
    assert!(is_one(typed.get("a").await.answer));
    let first = typed.get("a").await.answer;
    let again = typed.get("a").await.answer;
    if let (TypedAnswer::Found(first), TypedAnswer::Found(again)) = (&first, &again) {
        assert!(Arc::ptr_eq(first, again), "decoded once");
    }
    hub.push(vec![bundle(
        "t",
        vec![context("k", "a", "{\"n\":\"x\"}"), context("k", "b", "3")],
    )])
    .await;
    for _ in 0..3 {
        let kept = typed.get("a").await.answer;
        assert!(matches!(kept, TypedAnswer::LastGood(cluster) if cluster.n == 1));
        assert!(matches!(
            typed.get("b").await.answer,
            TypedAnswer::Undecodable(_)
        ));
    }
    assert_eq!(typed.undecodable(), 2);
    hub.push(vec![bundle("t", vec![context("k", "a", "{\"n\":1}")])])
        .await;
    assert!(is_one(typed.get("a").await.answer));
    assert!(matches!(
        typed.get("b").await.answer,
        TypedAnswer::Nothing(Answer::Absent)
    ));
}

impl Cluster {
    fn clone_of(cluster: &Arc<Self>) -> u32 {
        cluster.n
    }
}

#[tokio::test]
async fn changes_are_told_once_they_can_be_read() {
    let (spoke, mut hub) = filled().await;
    let embedded = spoke.reader(Options::default());
    let remote = remote([agent(&spoke)]);
    let (mut near, mut far) = (embedded.changes(), remote.changes());
    assert_eq!(
        far.next().await,
        Some(Changed::Everything),
        "what came before is not known"
    );
    hub.push(vec![bundle("u", vec![context("k", "u", "1")])])
        .await;
    let name = Changed::Name {
        kind: "k".into(),
        key: "u".into(),
    };
    while near.next().await.expect("told") != name {}
    assert_eq!(said(&embedded, "u").await, "1");
    while far.next().await.expect("told") != name {}
    assert_eq!(said(&remote, "u").await, "1");
}

/// Pushes bundles whose contexts all have the same value, while readers look for one that has two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_sees_a_part_of_a_bundle() {
    const KEYS: usize = 40;
    let (spoke, mut hub) = filled().await;
    let follower = Arc::new(follower(&[&spoke], |_| {}).await);
    follower.filled().await;
    let of = |value: u32| {
        // The number of keys changes too.
        let keys = 0..KEYS - value as usize % 5;
        let one = |n| context("k", &format!("same{n}"), &value.to_string());
        bundle("same", keys.map(one).collect())
    };
    hub.push(vec![of(0)]).await;
    says(&*follower, "same0", "0").await;
    let over = Arc::new(AtomicBool::new(false));
    let looking = {
        let (embedded, over) = (spoke.reader(Options::default()), over.clone());
        let follower = follower.clone();
        std::thread::spawn(move || {
            let names: Vec<String> = (0..KEYS).map(|n| format!("same{n}")).collect();
            let keys: Vec<(&str, &str)> = names.iter().map(|name| ("k", name.as_str())).collect();
            let mut last = [0, 0];
            while !over.load(Ordering::Relaxed) {
                let looks = [embedded.look_up_many(&keys), follower.look_up_many(&keys)];
                for (look, last) in looks.iter().zip(&mut last) {
                    let value: u32 = text(&look[0]).parse().expect("a number");
                    let is_there = |n: usize| n < KEYS - value as usize % 5;
                    for (n, reply) in look.iter().enumerate() {
                        let wanted = if is_there(n) {
                            value.to_string()
                        } else {
                            "Absent".into()
                        };
                        assert_eq!(text(reply), wanted, "key {n}");
                    }
                    assert!(value >= *last, "{value} after {last}");
                    *last = value;
                }
            }
            last
        })
    };
    for value in 1..=300 {
        hub.push(vec![of(value)]).await;
    }
    says(&*follower, "same0", "300").await;
    over.store(true, Ordering::Relaxed);
    looking.join().expect("no reader saw a part");
}

/// Agents are restarted in turn while a gateway reads: every read is answered, in time, by one agent or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_restarted_in_turn_and_every_read_is_answered() {
    let (mut one, mut hub_one) = filled().await;
    let (mut two, mut hub_two) = filled().await;
    let reader = remote([socket(&one), socket(&two)]);
    let over = Arc::new(AtomicBool::new(false));
    let reading = {
        let (reader, over) = (reader.clone(), over.clone());
        tokio::spawn(async move {
            let mut reads = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let answer = said(&reader, "a").await;
                assert!(answer == "{\"n\":1}" || answer == "2", "{answer}");
                reads += 1;
            }
            reads
        })
    };
    for _ in 0..2 {
        one = one.restart().await;
        hub_one = one.hub_after(&hub_one);
        hub_one.claim().await.expect("granted");
        tokio::time::sleep(Duration::from_millis(100)).await;
        two = two.restart().await;
        hub_two = two.hub_after(&hub_two);
        hub_two.claim().await.expect("granted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    over.store(true, Ordering::Relaxed);
    assert!(reading.await.expect("every read was answered") > 100);
}

/// Restarts one of two agents, and claims it for its hub again.
async fn restart_one(spokes: [Spoke; 2], hubs: &mut [Hub; 2], at: usize) -> [Spoke; 2] {
    let [one, two] = spokes;
    let spokes = match at {
        0 => [one.restart().await, two],
        _ => [one, two.restart().await],
    };
    hubs[at] = spokes[at].hub_after(&hubs[at]);
    hubs[at].claim().await.expect("granted");
    spokes
}

/// A follower over two agents that are restarted, cut and behind each other in turn, and that is itself restarted: what it
/// shows of a key never goes back, and in the end it is the truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_ends_in_the_truth_whatever_its_agents_do() {
    for seed in 0..3 {
        let mut random = StdRng::seed_from_u64(seed);
        let home = TempDir::new().expect("a directory");
        let file = home.path().join("mirror");
        let mut spokes = [Spoke::start().await, Spoke::start().await];
        let mut hubs = [spokes[0].hub(1), spokes[1].hub(1)];
        for hub in &mut hubs {
            hub.claim().await.expect("granted");
            hub.synced(&["k"], &[]).await;
        }
        let mut truth: BTreeMap<String, u32> = BTreeMap::new();
        let mut shown: BTreeMap<String, u32> = BTreeMap::new();
        let mut mirror = None;
        // What the second agent was not told yet.
        let mut owed: Vec<Bundle> = Vec::new();
        for state in 1..=60_u32 {
            let tenant_ = format!("t{}", random.random_range(0..5));
            let keys = (0..4).filter(|_| random.random_ratio(2, 3));
            let keys: Vec<String> = keys.map(|n| format!("{tenant_}-{n}")).collect();
            truth.retain(|key, _| !key.starts_with(&tenant_));
            truth.extend(keys.iter().map(|key| (key.clone(), state)));
            let contexts = keys.iter().map(|key| context("k", key, &state.to_string()));
            let change = bundle(&tenant_, contexts.collect());
            hubs[0].push(vec![change.clone()]).await;
            owed.push(change);
            if random.random_ratio(1, 2) {
                for change in owed.drain(..) {
                    hubs[1].push(vec![change]).await;
                }
                let position = version(1, hubs[1].n);
                hubs[1].heartbeat(Some(position)).await.expect("heard");
            }
            hubs[0]
                .heartbeat(Some(version(1, hubs[0].n)))
                .await
                .expect("heard");
            if random.random_ratio(1, 6) {
                let at = random.random_range(0..2);
                spokes = restart_one(spokes, &mut hubs, at).await;
            }
            if mirror.is_none() || random.random_ratio(1, 8) {
                if let Some(before) = mirror.take() {
                    Follower::stop(before).await;
                }
                let order = random.random_ratio(1, 2);
                let with_file = |config: &mut FollowerConfig| {
                    // Their ports change with a restart, these do not.
                    config.agents = spokes.iter().map(socket).collect();
                    if order {
                        config.agents.reverse();
                    }
                    config.file = Some(file.clone());
                    config.switch_after = Duration::from_millis(50);
                };
                mirror = Some(follower(&[], with_file).await);
            }
            let reader = mirror.as_ref().expect("a follower");
            for key in truth.keys() {
                if let Answer::Found(found) = reader.look_up("k", key).answer {
                    let value: u32 = String::from_utf8_lossy(found.bytes())
                        .parse()
                        .expect("a number");
                    let last = shown.insert(key.clone(), value).unwrap_or(0);
                    assert!(
                        value >= last,
                        "seed {seed}: {key} was {last} and is {value}"
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..10))).await;
        }
        for change in owed {
            hubs[1].push(vec![change]).await;
        }
        hubs[1]
            .heartbeat(Some(version(1, hubs[1].n)))
            .await
            .expect("heard");
        let reader = mirror.expect("a follower");
        for tenant_ in 0..5 {
            for n in 0..4 {
                let key = format!("t{tenant_}-{n}");
                let wanted = truth.get(&key).map_or("Absent".to_owned(), u32::to_string);
                says(&reader, &key, &wanted).await;
            }
        }
    }
}

/// A follower over two agents that are restarted, and that is restarted itself, is the truth after many changes:
/// `HUBCAST_WATCH_CHANGES` of them, 20,000 without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_the_truth_after_many_changes() {
    const TENANTS: u32 = 1_000;
    const KEYS: u32 = 10;
    let changes = std::env::var("HUBCAST_WATCH_CHANGES").ok();
    let changes = changes.map_or(20_000, |text| text.parse::<u32>().expect("a number"));
    let mut random = StdRng::seed_from_u64(changes.into());
    let home = TempDir::new().expect("a directory");
    let file = home.path().join("mirror");
    let mut spokes = [Spoke::start().await, Spoke::start().await];
    // Their ports change with a restart, these do not.
    let sockets = [socket(&spokes[0]), socket(&spokes[1])];
    let with_file = |config: &mut FollowerConfig| {
        config.agents = sockets.to_vec();
        config.file = Some(file.clone());
        config.switch_after = Duration::from_millis(50);
    };
    let mut hubs = [spokes[0].hub(1), spokes[1].hub(1)];
    for hub in &mut hubs {
        hub.claim().await.expect("granted");
        hub.synced(&["k"], &[]).await;
    }
    let mut mirror = follower(&[], with_file).await;
    let mut truth = BTreeMap::new();
    let (mut changed, mut state) = (0, 0);
    while changed < changes {
        state += 1;
        let mut push = BTreeMap::new();
        for _ in 0..50 {
            let tenant_ = random.random_range(0..TENANTS);
            let keys = (0..KEYS).filter(|_| random.random_ratio(3, 4));
            let contexts = keys.map(|n| (format!("t{tenant_}-{n}"), state.to_string()));
            push.insert(tenant_, contexts.collect::<BTreeMap<String, String>>());
        }
        let bundles = push.iter().map(|(tenant_, contexts)| {
            let contexts = contexts.iter().map(|(key, value)| context("k", key, value));
            bundle(&format!("t{tenant_}"), contexts.collect())
        });
        let bundles: Vec<Bundle> = bundles.collect();
        changed += push
            .values()
            .map(|contexts| contexts.len() as u32)
            .sum::<u32>();
        truth.extend(push);
        for hub in &mut hubs {
            hub.push(bundles.clone()).await;
            hub.heartbeat(Some(version(1, hub.n))).await.expect("heard");
        }
        if random.random_ratio(1, 20) {
            let at = random.random_range(0..2);
            spokes = restart_one(spokes, &mut hubs, at).await;
        }
        if random.random_ratio(1, 30) {
            mirror.stop().await;
            mirror = follower(&[], with_file).await;
        }
    }
    for (tenant_, contexts) in &truth {
        for n in 0..KEYS {
            let key = format!("t{tenant_}-{n}");
            let wanted = contexts.get(&key).map_or("Absent", String::as_str);
            says(&mirror, &key, wanted).await;
        }
    }
}
