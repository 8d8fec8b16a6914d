//! Reads of a table through the loading cache, as a gateway in Rust does them.
//!
//! Would catch a tenant that is a mix, absence that is not known, misses that all go to the table, and a cache that has
//! nothing to say when the table is gone.

use super::table_hub::{Hub, REGION};
use aws_sdk_dynamodb::types::AttributeValue;
use contexts::bundle::{Bundle, Context, Held, HoldReason};
use contexts::name::{Key, Kind, Region, TenantId};
use contexts_dynamodb::layout::{Place, SETTLED};
use spoke_agent::reader::table::{TableReader, TableReaderConfig};
use spoke_agent::reader::{Answer, ContextReader, Options, Reply};
use std::time::Duration;
use system_tests::relay::Relay;
use system_tests::table::TableRegion;
use system_tests::{Result, until};

async fn reader(region: &TableRegion, endpoint: &str, refresh: Duration) -> Result<TableReader> {
    let mut config = TableReaderConfig::new(region.config(), Region::new(REGION)?);
    config.refresh_after = refresh;
    (config.fills, config.refreshes) = (4, 2);
    let db = region.db_through(endpoint);
    Ok(TableReader::on(db, config, Options::default()).await?)
}

async fn value(reader: &TableReader, key: &str) -> String {
    match reader.get("item", key).await.answer {
        Answer::Found(found) => String::from_utf8_lossy(found.bytes()).into_owned(),
        other => format!("{other:?}"),
    }
}

/// Whether it was given up to read the keys of one bundle, since the next one came each time.
fn changes_too_fast(replies: &[Reply]) -> bool {
    let is_so = |reply: &Reply| match &reply.answer {
        Answer::Unreachable(why) => why.contains("changed each time"),
        _ => false,
    };
    replies.iter().any(is_so)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_table_has_is_read_and_absence_is_said_where_it_is_known() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let first = hub.push("t1", None, 0..3, 1).await?;
    let reader = reader(&region, &region.endpoint, Duration::from_millis(300)).await?;
    assert_eq!(value(&reader, "t1 0").await, "1");
    assert_eq!(value(&reader, "nobody's").await, "NotReady");
    hub.synced().await?;
    until("absence", Duration::from_secs(10), || async {
        (value(&reader, "nobody's").await == "Absent").then_some(())
    })
    .await?;
    // What was read before the table said how fresh it is has no age until it is loaded again.
    let age = until("an age", Duration::from_secs(10), || async {
        reader.get("item", "t1 0").await.age
    })
    .await?;
    assert!(age < Duration::from_secs(30), "{age:?}");

    // A change and a delete come by themselves, a new key takes the place of its absence.
    let mut changes = reader.changes();
    let second = hub.push("t1", Some(&first), 0..2, 2).await?;
    until("the change", Duration::from_secs(10), || async {
        let now = [value(&reader, "t1 0").await, value(&reader, "t1 2").await];
        (now == ["2", "Absent"]).then_some(())
    })
    .await?;
    assert!(changes.next().await.is_some());
    assert_eq!(value(&reader, "t1 3").await, "Absent");
    hub.push("t1", Some(&second), 0..4, 3).await?;
    until("the new key", Duration::from_secs(10), || async {
        (value(&reader, "t1 3").await == "3").then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asked_for_in_a_while_is_read_again_before_it_is_answered() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let mut last = hub.push("t1", None, 0..3, 1).await?;
    hub.synced().await?;
    let refresh = Duration::from_millis(300);
    let reader = reader(&region, &region.endpoint, refresh).await?;
    for (n, keys) in [(2, 0..5), (3, 0..3), (4, 0..5)] {
        let asked = [("item", "t1 0"), ("item", "t1 4"), ("item", "nobody's")];
        reader.get_many(&asked).await;
        let there = keys.contains(&4);
        last = hub.push("t1", Some(&last), keys, n).await?;
        // No question in between by which the cache would learn of it.
        tokio::time::sleep(refresh).await;
        let now = [value(&reader, "t1 4").await, value(&reader, "t1 0").await];
        let fourth = if there {
            n.to_string()
        } else {
            "Absent".into()
        };
        assert_eq!(now, [fourth, n.to_string()]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_cannot_be_confused() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let context = |kind: &str, key: &str, expires| {
        Ok(Context {
            kind: Kind::new(kind)?,
            key: Key::new(key)?,
            value: "1".into(),
            expires,
        })
    };
    let contexts: Result<Vec<Context>> = [
        ("item", "there", None),
        ("item", "rotten", None),
        ("item", "over", Some(1)),
        ("other", "there", None),
    ]
    .map(|(kind, key, expires)| context(kind, key, expires))
    .into_iter()
    .collect();
    let held = Held {
        kind: Kind::new("item")?,
        key: Key::new("held")?,
        why: HoldReason::Duplicate,
    };
    let bundle = Bundle::new(TenantId::new("t1")?, contexts?, vec![held], vec![])?;
    hub.push_bundle(None, bundle).await?;
    hub.synced().await?;
    let rotten = (Kind::new("item")?, Key::new("rotten")?);
    let update = region.client(&region.endpoint).update_item();
    update
        .table_name(&region.table)
        .set_key(Some(Place::context(&rotten, SETTLED).to_key()))
        .update_expression("SET #value = :other")
        .expression_attribute_names("#value", "value")
        .expression_attribute_values(":other", AttributeValue::S("2".into()))
        .send()
        .await?;
    let reader = reader(&region, &region.endpoint, Duration::from_secs(60)).await?;
    let wanted = [
        ("item", "there", "Found"),
        ("item", "over", "Expired"),
        ("item", "held", "Held"),
        ("item", "none", "Absent"),
        ("item", "rotten", "NotReady"),
        ("other", "there", "Found"),
        // The table was never found in step for this kind.
        ("other", "none", "NotReady"),
        ("no kind", "none", "NotReady"),
    ];
    let said = |reply: &Reply| format!("{:?}", reply.answer);
    let names = wanted.map(|(kind, key, _)| (kind, key));
    let many = reader.get_many(&names).await;
    for ((kind, key, wanted), reply) in wanted.into_iter().zip(many) {
        let one = reader.get(kind, key).await;
        assert!(said(&one).starts_with(wanted), "{kind} {key}: {one:?}");
        assert!(said(&reply).starts_with(wanted), "{kind} {key}: {reply:?}");
    }
    let Answer::Found(found) = reader.get("item", "there").await.answer else {
        return Err("it was there".into());
    };
    assert_eq!(found.tenant(), "t1");
    assert_eq!(found.version().to_string(), "1.1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_back_of_a_removed_tenant_is_never_answered() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let before = hub.push("t1", None, 0..2, 1).await?;
    hub.synced().await?;
    let name = (Kind::new("item")?, Key::new("t1 0")?);
    let place = Some(Place::context(&name, SETTLED).to_key());
    let client = region.client(&region.endpoint);
    let get = client.get_item().table_name(&region.table);
    let item = get.set_key(place).send().await?.item;
    hub.push("t1", Some(&before), [], 2).await?;
    let put = client.put_item().table_name(&region.table);
    put.set_item(item).send().await?;
    // Found by the comparison, it is named, and so the tenant has a head again until the hub sent it.
    for _ in 0..2 {
        let reader = reader(&region, &region.endpoint, Duration::from_secs(60)).await?;
        let answer = reader.get("item", "t1 0").await.answer;
        assert!(
            matches!(answer, Answer::Unreachable(_) | Answer::NotReady),
            "{answer:?}"
        );
        hub.reread().await?;
    }
    hub.push("t1", None, [], 3).await?;
    let reader = reader(&region, &region.endpoint, Duration::from_secs(60)).await?;
    assert_eq!(value(&reader, "t1 0").await, "Absent");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_seen_to_be_gone_is_gone_with_all_that_is_cached_of_it() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let before = hub.push("t1", None, 0..2, 1).await?;
    hub.synced().await?;
    let refresh = Duration::from_secs(2);
    let reader = reader(&region, &region.endpoint, refresh).await?;
    assert_eq!(value(&reader, "t1 0").await, "1");
    tokio::time::sleep(refresh).await;
    // Read later than the other one, so that only what is seen of its tenant can make it too old.
    assert_eq!(value(&reader, "t1 1").await, "1");
    hub.push("t1", Some(&before), [], 2).await?;
    assert_eq!(value(&reader, "t1 0").await, "Absent");
    assert_eq!(value(&reader, "t1 1").await, "Absent");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_never_a_mix() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    // More than one transaction has room for, so that it goes in steps.
    let mut before = hub.push("t1", None, 0..130, 0).await?;
    let reader = reader(&region, &region.endpoint, Duration::from_millis(20)).await?;
    let looking = tokio::spawn({
        let reader = reader.clone();
        async move {
            let mut last = 0;
            loop {
                let keys: Vec<String> = (0..130).step_by(13).map(|n| format!("t1 {n}")).collect();
                let asked: Vec<(&str, &str)> = keys.iter().map(|k| ("item", k.as_str())).collect();
                let replies = reader.get_many(&asked).await;
                if changes_too_fast(&replies) {
                    continue;
                }
                let values: Vec<u32> = replies
                    .iter()
                    .filter_map(|reply| match &reply.answer {
                        Answer::Found(found) => {
                            std::str::from_utf8(found.bytes()).ok()?.parse().ok()
                        }
                        _ => None,
                    })
                    .collect();
                assert_eq!(values.len(), keys.len(), "{replies:?}");
                assert!(values.iter().all(|v| *v == values[0]), "a mix: {values:?}");
                assert!(values[0] >= last, "{} after {last}", values[0]);
                last = values[0];
                if last == 6 {
                    return;
                }
            }
        }
    });
    for value in 1..=6 {
        before = hub.push("t1", Some(&before), 0..130, value).await?;
    }
    tokio::time::timeout(Duration::from_secs(30), looking).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_absent_is_of_the_same_bundle_as_what_is_there() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    // Of one bundle the even keys are there, of the next one the odd ones.
    let keys = |value: u32| (0..10).filter(move |n| n % 2 == value as usize % 2);
    let mut before = hub.push("t1", None, keys(0), 0).await?;
    hub.synced().await?;
    let reader = reader(&region, &region.endpoint, Duration::from_millis(20)).await?;
    let looking = tokio::spawn({
        let reader = reader.clone();
        async move {
            let mut last = 0;
            while last < 12 {
                let keys: Vec<String> = (0..10).map(|n| format!("t1 {n}")).collect();
                let asked: Vec<(&str, &str)> = keys.iter().map(|k| ("item", k.as_str())).collect();
                let replies = reader.get_many(&asked).await;
                if changes_too_fast(&replies) {
                    continue;
                }
                let value = |answer: &Answer| match answer {
                    Answer::Found(found) => std::str::from_utf8(found.bytes()).ok()?.parse().ok(),
                    Answer::Absent => None,
                    other => panic!("{other:?}"),
                };
                let values: Vec<Option<u32>> = replies.iter().map(|r| value(&r.answer)).collect();
                let now = values
                    .iter()
                    .flatten()
                    .max()
                    .copied()
                    .expect("some is there");
                let is_now = |n: usize| (n % 2 == now as usize % 2).then_some(now);
                let whole: Vec<Option<u32>> = (0..10).map(is_now).collect();
                assert_eq!(values, whole, "a mix");
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        }
    });
    for value in 1..=12 {
        before = hub.push("t1", Some(&before), keys(value), value).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::timeout(Duration::from_secs(30), looking).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_keys_has_its_share_of_the_table_and_no_more() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let first = hub.push("t1", None, 0..3, 1).await?;
    hub.synced().await?;
    let relay = Relay::start(region.port()?, Duration::from_millis(2)).await?;
    let through = format!("http://127.0.0.1:{}", relay.port);
    let reader = reader(&region, &through, Duration::from_millis(300)).await?;
    assert_eq!(value(&reader, "t1 0").await, "1");
    let flood = tokio::spawn({
        let reader = reader.clone();
        async move {
            let mut seconds = tokio::time::interval(Duration::from_secs(1));
            let mut asking = tokio::task::JoinSet::new();
            for key in 0..40_000 {
                if key % 10_000 == 0 {
                    seconds.tick().await;
                }
                let reader = reader.clone();
                asking.spawn(async move { value(&reader, &format!("unknown {key}")).await });
            }
            asking.join_all().await
        }
    });
    // The known keys are refreshed all the while: each change comes although the fills are taken.
    let mut last = first;
    for n in 2..5 {
        last = hub.push("t1", Some(&last), 0..3, n).await?;
        until("the change", Duration::from_secs(20), || async {
            (value(&reader, "t1 0").await == n.to_string()).then_some(())
        })
        .await?;
    }
    assert!(
        !flood.is_finished(),
        "the changes came by a way of their own"
    );
    let answers = flood.await?;
    let are = |wanted: &str| answers.iter().filter(|a| a.starts_with(wanted)).count();
    assert_eq!(are("Absent") + are("Unreachable"), answers.len());
    assert!(are("Absent") > 0);
    // Four fills, two refreshes, and the question of how far the table is.
    assert!(
        relay.most_at_once() <= 4 + 2 + 1,
        "{}",
        relay.most_at_once()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_misses_of_one_key_are_one_read() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    hub.push("t1", None, 0..3, 1).await?;
    let reader = reader(&region, &region.endpoint, Duration::from_secs(60)).await?;
    let before = reader.units().read;
    let asking = (0..10_000).map(|_| value(&reader, "t1 1"));
    let values = futures_util::future::join_all(asking).await;
    assert!(values.iter().all(|v| v == "1"));
    let units = reader.units().read - before;
    // The item twice and its head once, and what is asked each second beside.
    assert!(units < 20.0, "{units} units");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_batches_that_want_the_same_head_ask_for_it_once() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    hub.push("t1", None, 0..3, 1).await?;
    hub.synced().await?;
    let reader = reader(&region, &region.endpoint, Duration::from_secs(60)).await?;
    for key in ["t1 0", "nobody's"] {
        value(&reader, key).await;
    }
    let before = reader.units().read;
    // Whether the key was absent while the tenant was at this bundle is not known yet.
    let asked = [("item", "t1 0"), ("item", "nobody's")];
    let replies =
        futures_util::future::join_all((0..10_000).map(|_| reader.get_many(&asked))).await;
    let is_right = |replies: &Vec<Reply>| {
        matches!(replies[0].answer, Answer::Found(_)) && matches!(replies[1].answer, Answer::Absent)
    };
    assert!(replies.iter().all(is_right));
    let units = reader.units().read - before;
    assert!(units < 20.0, "{units} units");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_answered_while_the_table_is_gone() -> Result<()> {
    let region = TableRegion::start(REGION).await?;
    let mut hub = Hub::new(&region).await?;
    let first = hub.push("t1", None, 0..3, 1).await?;
    hub.synced().await?;
    let relay = Relay::start(region.port()?, Duration::ZERO).await?;
    let through = format!("http://127.0.0.1:{}", relay.port);
    let reader = reader(&region, &through, Duration::from_millis(200)).await?;
    assert_eq!(value(&reader, "t1 0").await, "1");
    let young = reader.get("item", "t1 0").await.age.ok_or("has an age")?;
    relay.cut();
    hub.push("t1", Some(&first), 0..3, 2).await?;
    until("the age to grow", Duration::from_secs(20), || async {
        let age = reader.get("item", "t1 0").await.age?;
        (age >= young + Duration::from_secs(1)).then_some(())
    })
    .await?;
    assert_eq!(value(&reader, "t1 0").await, "1");
    assert!(value(&reader, "t1 1").await.starts_with("Unreachable"));
    relay.mend();
    until("the change", Duration::from_secs(20), || async {
        let now = [value(&reader, "t1 0").await, value(&reader, "t1 1").await];
        (now == ["2", "2"]).then_some(())
    })
    .await?;
    Ok(())
}
