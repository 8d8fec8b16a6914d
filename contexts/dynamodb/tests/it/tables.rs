//! Creating a table, and looking whether one can be used.

use super::model::*;
use super::support::*;
use aws_sdk_dynamodb::types::AttributeValue;
use contexts::bundle::Bundle;
use contexts_dynamodb::admin::definition;
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::layout::Place;
use contexts_dynamodb::table::Table;

/// A name that no other run has on the server.
fn own(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_created_once_and_then_found_good() {
    let server = Server::start().await;
    let db = db(&server.url, &own("mine"));
    let missing = db.check().await.expect("answers");
    assert!(missing.errors[0].contains("--create-tables"), "{missing:?}");
    assert!(!db.create().await.expect("creates").is_empty());
    let nothing: Vec<String> = Vec::new();
    assert_eq!(db.create().await.expect("is there"), nothing);
    assert_eq!(db.check().await.expect("answers"), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_not_there_is_named_with_what_to_do() {
    let server = Server::start().await;
    let table = Table::new(db(&server.url, "none"), region());
    let Err(TableError::Rejected(why)) = table.hello().await else {
        panic!("a person has to look");
    };
    assert!(
        why.contains("\"none\"") && why.contains("publisher migrate"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_other_keys_is_refused() {
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    };
    let server = Server::start().await;
    let id = AttributeDefinition::builder().attribute_name("id");
    let id = id
        .attribute_type(ScalarAttributeType::S)
        .build()
        .expect("builds");
    let hash = KeySchemaElement::builder()
        .attribute_name("id")
        .key_type(KeyType::Hash);
    let (raw, theirs) = (raw_client(&server.url), own("theirs"));
    let created = raw
        .create_table()
        .table_name(&theirs)
        .billing_mode(BillingMode::PayPerRequest);
    let created = created
        .attribute_definitions(id)
        .key_schema(hash.build().expect("builds"));
    created.send().await.expect("creates");
    let checked = db(&server.url, &theirs).check().await.expect("answers");
    assert!(
        checked.errors[0].contains("not a table for contexts"),
        "{checked:?}"
    );
}

/// Readers learn from it how far the tenant was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_a_removed_tenant_stays_for_an_hour() {
    let server = Server::start().await;
    let table = new_table(&server).await;
    let mut writer = Writer::claim(&server.url, &table, 1).await;
    let clock = writer.table.db().clock.clone();
    let has_one = |value: &str| bundle(&tenant("t1"), names().into_iter().take(1), value);
    let seconds = |micros: Option<u64>| micros.expect("it answered") / 1_000_000;
    let mut seen = Vec::new();
    for bundle in [has_one("1"), Bundle::empty(tenant("t1")), has_one("2")] {
        let from = seconds(clock.reached());
        let version = writer.version();
        let pushed = writer.push(vec![sent(version, bundle)]).await;
        pushed.expect("answers").expect("is open");
        let place = Place::head(&key(), &tenant("t1"));
        let item = writer.table.db().get(&place).await;
        let item = item.expect("reads").expect("is there");
        let until = seconds(clock.not_passed());
        if let Some(gone) = item.get("gone") {
            assert_eq!(*gone, AttributeValue::Bool(true));
            let Some(AttributeValue::N(ends)) = item.get("ttl") else {
                panic!("{item:?}");
            };
            let ends: u64 = ends.parse().expect("a number");
            assert!(
                (from + 3_600..=until + 3_600).contains(&ends),
                "{from} {ends}"
            );
        }
        seen.push((item.contains_key("gone"), item.contains_key("ttl")));
        let head = writer.table.db().head(&key(), &tenant("t1")).await;
        let head = head.expect("reads").expect("is there");
        assert_eq!(head.head.version, version);
    }
    assert_eq!(seen, [(false, false), (true, true), (false, false)]);
}

#[test]
fn the_definition_can_be_pasted() {
    let text = definition("contexts", "eu-west-1");
    assert!(text.contains("--table-name contexts") && text.contains("AttributeName=ttl"));
}
