//! Creating a table, and looking whether one can be used.

use super::support::*;
use contexts_dynamodb::admin::definition;
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::table::Table;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_created_once_and_then_found_good() {
    let server = Server::start().await;
    let db = db(&server.url, "mine");
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
    let raw = raw_client(&server.url);
    let created = raw
        .create_table()
        .table_name("theirs")
        .billing_mode(BillingMode::PayPerRequest);
    let created = created
        .attribute_definitions(id)
        .key_schema(hash.build().expect("builds"));
    created.send().await.expect("creates");
    let checked = db(&server.url, "theirs").check().await.expect("answers");
    assert!(
        checked.errors[0].contains("not a table for contexts"),
        "{checked:?}"
    );
}

#[test]
fn the_definition_can_be_pasted() {
    let text = definition("contexts", "eu-west-1");
    assert!(text.contains("--table-name contexts") && text.contains("AttributeName=ttl"));
}
