//! Looks at the outbox that find more, or have more to ask, than one answer or one moment has room for.

use crate::receipts::{arrives, commit};
use crate::truth::Kind;
use crate::world::{COUNTER_CONTEXTS, COUNTER_TRUTH, COUNTERS, World, settles};
use sqlx::query_scalar;
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::server::Server;

const PLANS: &str =
    "CREATE TABLE plan (id int PRIMARY KEY, price int NOT NULL, note text NOT NULL);
    INSERT INTO plan SELECT n, 1, '' FROM generate_series(1, 20) AS n;";

/// A counter and a price for each of 20 tenants; a change of the price of a plan concerns those that `tenants` says.
async fn world(tenants: &str) -> Result<World> {
    let server = Server::any().await?;
    let database = server.database().await?;
    let counters = "INSERT INTO counters SELECT 't' || n, 1 FROM generate_series(1, 20) AS n";
    database
        .execute(&format!("{COUNTERS}; {PLANS}; {counters}"))
        .await?;
    let contexts = format!(
        "{COUNTER_CONTEXTS}\n[[context]]\nkind = \"price\"\n\
         query = \"SELECT 'of ' || c.tenant AS key, c.tenant, p.price FROM counters c JOIN plan p ON 't' || p.id = c.tenant\"\n\
         watch = [{{ table = \"counters\", tenant = \"tenant\" }}, {{ table = \"plan\", tenants = \"{tenants}\" }}]\n"
    );
    let prices = Kind {
        name: "price",
        sql: "SELECT 'of ' || c.tenant, c.tenant, jsonb_build_object('price', p.price)::text \
              FROM counters c JOIN plan p ON 't' || p.id = c.tenant",
    };
    let mut kinds = COUNTER_TRUTH.to_vec();
    kinds.push(prices);
    World::new(server, database, &["eu-west-1"], &contexts, &kinds).await
}

/// Would catch a query that nobody waits for to its end and that is asked again and again, while no other change is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_query_that_takes_minutes_stops_no_other_change() -> Result<()> {
    let mut world =
        world("SELECT 't' || c.id FROM changed c WHERE pg_sleep(c.price * 0 + 600) IS NOT NULL")
            .await?;
    world.runs().await?;
    let mut connection = world.database.connect().await?;
    commit(&mut connection, "UPDATE plan SET price = 2 WHERE id = 3").await?;
    let change = "UPDATE counters SET n = 2 WHERE tenant = 't5'";
    let (token, began) = (commit(&mut connection, change).await?, Instant::now());
    arrives(&world.hub, &token, "").await?;
    println!("the change behind it arrived after {:?}", began.elapsed());
    world.becomes_true().await?;
    let log = world.hub.daemon()?.log();
    assert!(log.contains("every tenant is scanned instead"), "{log}");
    settles(&world.hub).await?;
    world.hub.stop().await
}

/// Would catch an answer that grows with what the rows contain: one of more than a gigabyte never comes, and is asked for for
/// ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_stays_small_whatever_the_rows_contain() -> Result<()> {
    let mut world = world("SELECT 't' || c.id FROM changed c").await?;
    // Nobody looks meanwhile. Of each row the old and the new one are recorded, and no value can be compressed.
    world
        .database
        .execute(
            "DO $$ BEGIN FOR n IN 1 .. 20 LOOP
                 UPDATE plan SET price = 2, note = (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 3000)) WHERE id = n;
                 UPDATE plan SET price = 3, note = note || 'x' WHERE id = n;
                 UPDATE plan SET price = 4 WHERE id = n;
             END LOOP; END $$;
             SELECT hubcast.touch(repeat('t', 1000000));
             UPDATE counters SET n = 2 WHERE tenant = 't5'",
        )
        .await?;
    let kept = "SELECT sum(pg_column_size(changed))::bigint FROM hubcast.outbox";
    let mut connection = world.database.connect().await?;
    let kept: i64 = query_scalar(kept).fetch_one(&mut connection).await?;
    assert!(kept > 8 << 20, "{kept} bytes are recorded");
    let answer = "SELECT ARRAY[waiting, octet_length(changes)] FROM hubcast.wait(0, 1, 0, 1, 0, NULL, 0, 20000)";
    let answer: Vec<i64> = query_scalar(answer).fetch_one(&mut connection).await?;
    assert_eq!(answer[0], 20_001, "it counts as a backlog");
    assert!(answer[1] < 16 << 20, "the answer has {} bytes", answer[1]);

    world.runs().await?;
    world.is_true().await?;
    let touches = "SELECT hubcast.touch(repeat('t', 1000000)), hubcast.touch('t6')";
    world.database.execute(touches).await?;
    let change = "UPDATE counters SET n = 3 WHERE tenant = 't5'";
    let token = commit(&mut connection, change).await?;
    arrives(&world.hub, &token, "").await?;
    world.is_true().await?;
    settles(&world.hub).await?;
    tokio::time::timeout(Duration::from_secs(60), world.hub.stop()).await?
}
