//! What changes cost in units, and a table that may not cost more than so much in a second.

use super::model::*;
use super::support::*;
use contexts::bundle::Bundle;
use contexts::push::Heartbeat;
use contexts_dynamodb::client::Limits;
use contexts_dynamodb::table::Table;
use contexts_dynamodb::units::Cause;
use std::sync::Arc;

/// A tenant with three keys of which the first has this value.
fn changed(tenant_: u32, value: &str) -> Bundle {
    let all = names();
    let own = all.iter().skip(tenant_ as usize * 3).take(3).enumerate();
    let contexts = own.map(|(n, name)| {
        let value = if n == 0 { value } else { "\"as before\"" };
        context(name, value.to_owned(), None)
    });
    let owner = tenant(&format!("t{tenant_}"));
    Bundle::new(owner, contexts.collect(), vec![], vec![]).expect("a bundle")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_costs_fence_head_and_key() {
    let server = Server::start().await;
    let table = new_table(&server).await;
    let mut writer = Writer::claim(&server.url, &table, 1).await;
    for tenants in [1, 20] {
        let mut cost = 0.0;
        for value in ["1", "2"] {
            let version = writer.version();
            let push = (0..tenants).map(|t| sent(version, changed(t, value)));
            let units = writer.table.db().units.clone();
            let before = units.used_for(Cause::Change);
            let pushed = writer.push(push.collect()).await;
            pushed.expect("answers").expect("is open");
            cost = (units.used_for(Cause::Change) - before).write;
        }
        // Two for the fence; for each change two for the head and two for the key; names and pulse are not written.
        let all = f64::from(2 + 4 * tenants);
        // DynamoDB Local counts neither what a transaction looks at nor all that it writes.
        let counts = std::env::var("DYNAMODB_ENDPOINT").is_err();
        let is_right = if counts { cost == all } else { cost > 0.0 };
        assert!(is_right, "{tenants} tenants: {cost}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_holds_up_bundles_and_not_the_sign_of_life() {
    let server = Server::start().await;
    let table = new_table(&server).await;
    let mut writer = Writer::claim(&server.url, &table, 1).await;
    // So little that what the first bundles cost is paid off in hours.
    let capped = Table::new(db(&server.url, &table), region()).limited(&Limits {
        max_write_units: Some(1),
        ..Limits::default()
    });
    writer.table = capped;
    let granted = writer.claim_again().await.expect("answers");
    granted.expect("is granted");
    let large = |writer: &mut Writer, value: &str| {
        let names = names().into_iter().take(90);
        let version = writer.version();
        let bundle = bundle(
            &tenant("t1"),
            names,
            &format!("\"{}\"", value.repeat(30_000)),
        );
        writer.message(vec![sent(version, bundle)])
    };
    let (first, second) = (large(&mut writer, "1"), large(&mut writer, "2"));
    let pushed = writer.table.push(&first).await.expect("answers");
    pushed.expect("is open");
    let writer = Arc::new(writer);
    let waiting = tokio::spawn({
        let writer = writer.clone();
        async move { writer.table.push(&second).await }
    });
    for _ in 0..3 {
        let heartbeat = Heartbeat {
            session: writer.session,
            position: None,
            fresh: None,
        };
        let heard = writer.table.heartbeat(&heartbeat).await.expect("answers");
        heard.expect("is open");
    }
    assert!(!waiting.is_finished(), "the bundle has to wait");
    waiting.abort();
}
