//! Reads of a table through the loading cache, as a gateway in Rust does them.
//!
//! Would catch a tenant that is a mix, absence that is not known, misses that all go to the table, and a cache that has
//! nothing to say when the table is gone.

use super::table_hub::{Hub, REGION};
use contexts::name::Region;
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
            let unknown: Vec<String> = (0..10_000).map(|n| format!("unknown {n}")).collect();
            let asking = unknown.iter().map(|key| value(&reader, key));
            futures_util::future::join_all(asking).await
        }
    });
    // The known key is refreshed all the while: its change comes although the fills are taken.
    hub.push("t1", Some(&first), 0..3, 2).await?;
    until("the change", Duration::from_secs(20), || async {
        (value(&reader, "t1 0").await == "2").then_some(())
    })
    .await?;
    assert!(!flood.is_finished(), "the change came by way of its own");
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
