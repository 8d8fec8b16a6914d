//! Queries and watches that cannot be published: `migrate` and `check` name the kind, and nothing is changed.

use crate::desk::{Desk, SCHEMA, expect, transcript};
use crate::shows;
use sqlx::{Connection, PgConnection};
use std::fmt::Write;
use system_tests::Result;

const TABLES: &str = "
    CREATE TABLE num (id bigint, key text, until timestamp, data int);
    CREATE INDEX ON num (id);
    CREATE VIEW summed AS SELECT tenant, min(key) AS key, count(*) AS n FROM item GROUP BY tenant;
    CREATE TABLE loose (tenant text, key text);
    CREATE VIEW windowed AS SELECT tenant, key, row_number() OVER (ORDER BY key) AS n FROM item;
";

fn kind(name: &str, query: &str, rest: &str) -> String {
    format!("[[context]]\nkind = \"{name}\"\nquery = {query:?}\n{rest}\n")
}

async fn desk() -> Result<Desk> {
    Desk::with(
        &["eu"],
        &format!("{SCHEMA}{TABLES}"),
        &kind("item", "SELECT 1", ""),
    )
    .await
}

/// Every query is tried by `migrate`; the transcript has only what it says.
async fn all(desk: &Desk, cases: &[(&str, &str, &str)]) -> Result<String> {
    let mut out = String::new();
    for (name, query, rest) in cases {
        let hub = desk.other_hub(&kind("item", query, rest))?;
        let ran = hub.run(&["migrate"]).await?;
        let said = transcript("publisher", &["migrate"], &ran);
        let said = said.split_once('\n').map_or("", |(_, rest)| rest);
        write!(out, "{name}: {query} {rest}\n{said}\n")?;
    }
    Ok(desk.plain(&out))
}

async fn migrated(desk: &Desk) -> Result<bool> {
    let mut connection = PgConnection::connect(&desk.database).await?;
    let sql = "SELECT to_regnamespace('hubcast') IS NOT NULL";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}

async fn rows(desk: &Desk) -> Result<i64> {
    let mut connection = PgConnection::connect(&desk.database).await?;
    let sql = "SELECT count(*) FROM item";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}

#[tokio::test]
async fn a_query_that_fails_or_lacks_a_column_is_refused() -> Result<()> {
    let desk = desk().await?;
    let cases = [
        ("syntax", "SELECT key tenant FROM FROM item", ""),
        ("no table", "SELECT key, tenant FROM items", ""),
        ("no column", "SELECT key, tenant, colour FROM item", ""),
        ("no key", "SELECT tenant, body FROM item", ""),
        ("no tenant", "SELECT key, body FROM item", ""),
        (
            "twice the same",
            "SELECT key, tenant, body, upper(body) AS body FROM item",
            "",
        ),
        ("key twice", "SELECT key, tenant, body AS key FROM item", ""),
        (
            "regions as text",
            "SELECT key, tenant, 'eu' AS regions FROM item",
            "",
        ),
        (
            "regions as numbers",
            "SELECT key, tenant, ARRAY[1] AS regions FROM item",
            "",
        ),
        (
            "expires without zone",
            "SELECT key, id AS tenant, until AS expires FROM num",
            "",
        ),
        (
            "run time",
            "SELECT key, tenant, 1 / (divisor - 1) AS x FROM item",
            "",
        ),
        (
            "placeholder",
            "SELECT key, tenant FROM item WHERE {{tenant(tenant)}}",
            "",
        ),
        (
            "placeholder unclosed",
            "SELECT key, tenant FROM item WHERE {{tenants(tenant)",
            "",
        ),
        (
            "placeholder of a column that is not",
            "SELECT key, tenant FROM item WHERE {{tenants(owner)}}",
            "",
        ),
    ];
    shows!(all(&desk, &cases).await?);
    expect(!migrated(&desk).await?, "nothing is installed")
}

#[tokio::test]
async fn a_query_that_depends_on_the_moment_is_refused() -> Result<()> {
    let desk = desk().await?;
    let cases = [
        ("now", "SELECT key, tenant, now() AS at FROM item", ""),
        (
            "current_date",
            "SELECT key, tenant FROM item WHERE current_date > '2020-01-01'",
            "",
        ),
        ("random", "SELECT key, tenant, RANDOM() AS r FROM item", ""),
        (
            "current_user",
            "SELECT key, tenant, current_user AS u FROM item",
            "",
        ),
    ];
    shows!(all(&desk, &cases).await?);
    expect(!migrated(&desk).await?, "nothing is installed")
}

#[tokio::test]
async fn a_query_that_is_not_one_select_is_refused_and_never_runs() -> Result<()> {
    let desk = desk().await?;
    let before = rows(&desk).await?;
    let cases = [
        ("two", "SELECT key, tenant FROM item; DELETE FROM item", ""),
        ("delete", "DELETE FROM item", ""),
        (
            "delete returning",
            "DELETE FROM item RETURNING key, tenant",
            "",
        ),
        (
            "insert returning",
            "INSERT INTO item (tenant, key) VALUES ('x', 'y') RETURNING key, tenant",
            "",
        ),
        (
            "with",
            "WITH gone AS (DELETE FROM item RETURNING key, tenant) SELECT * FROM gone",
            "",
        ),
        (
            "breaking out",
            "SELECT key, tenant FROM item) AS q; DELETE FROM item; SELECT * FROM (SELECT 1",
            "",
        ),
        (
            "commit",
            "SELECT key, tenant FROM item) AS q; COMMIT; DELETE FROM item; SELECT * FROM (SELECT key, tenant FROM item",
            "",
        ),
        ("comment", "SELECT key, tenant FROM item --", ""),
        (
            "nothing but a comment",
            "-- SELECT key, tenant FROM item",
            "",
        ),
        ("drop", "DROP TABLE item", ""),
    ];
    shows!(all(&desk, &cases).await?);
    expect(rows(&desk).await? == before, "no row is gone or new")
}

#[tokio::test]
async fn a_watch_of_what_is_not_there_is_refused() -> Result<()> {
    let desk = desk().await?;
    const QUERY: &str = "SELECT key, tenant FROM item";
    let cases = [
        (
            "table",
            QUERY,
            "watch = [{ table = \"itme\", tenant = \"tenant\" }]",
        ),
        (
            "schema",
            QUERY,
            "watch = [{ table = \"other.item\", tenant = \"tenant\" }]",
        ),
        (
            "no name",
            QUERY,
            "watch = [{ table = \"it em\", tenant = \"tenant\" }]",
        ),
        (
            "tenant",
            QUERY,
            "watch = [{ table = \"item\", tenant = \"owner\" }]",
        ),
        (
            "column",
            QUERY,
            "watch = [{ table = \"item\", tenant = \"tenant\", columns = [\"body\", \"colour\"] }]",
        ),
        (
            "query",
            QUERY,
            "watch = [{ table = \"num\", tenants = \"SELECT owner FROM changed\" }]",
        ),
    ];
    shows!(all(&desk, &cases).await?);
    expect(!migrated(&desk).await?, "nothing is installed")
}

#[tokio::test]
async fn a_watch_of_what_has_no_change_triggers_is_refused() -> Result<()> {
    let desk = desk().await?;
    desk.sql(
        "CREATE MATERIALIZED VIEW made AS SELECT * FROM item; CREATE SEQUENCE counted;
         CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far;
         CREATE FOREIGN TABLE distant (tenant text, key text) SERVER away;
         CREATE TABLE whole (tenant text, key text) PARTITION BY LIST (tenant);
         CREATE FOREIGN TABLE piece PARTITION OF whole FOR VALUES IN ('t1') SERVER away;
         CREATE TABLE kept (tenant text, data json, more jsonb);",
    )
    .await?;
    const QUERY: &str = "SELECT key, tenant FROM item";
    let tenant = |table: &str| format!("watch = [{{ table = \"{table}\", tenant = \"tenant\" }}]");
    let (view, made, distant) = (tenant("summed"), tenant("made"), tenant("distant"));
    let (whole, counted, catalog) = (tenant("whole"), tenant("counted"), tenant("pg_class"));
    let json = "watch = [{ table = \"kept\", tenants = \"SELECT data ->> 't' FROM changed\" }]";
    let keyless = "watch = [{ table = \"item\", tenant = \"tenant\", columns = [\"body\"] }]";
    let cases = [
        ("a view", QUERY, view.as_str()),
        ("a materialized view", QUERY, &made),
        ("a foreign table", QUERY, &distant),
        ("a foreign partition", QUERY, &whole),
        ("a sequence", QUERY, &counted),
        ("a catalog", QUERY, &catalog),
        ("json", QUERY, json),
        ("no primary key, which is a warning", QUERY, keyless),
    ];
    shows!(all(&desk, &cases).await?);
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_not_the_column_of_the_table_is_refused() -> Result<()> {
    let desk = desk().await?;
    const WATCH: &str = "watch = [{ table = \"item\", tenant = \"tenant\", key = \"key\" }]";
    let other = "watch = [{ table = \"item\", tenant = \"tenant\", key = \"body\" }]";
    let missing = "watch = [{ table = \"item\", tenant = \"tenant\", key = \"colour\" }]";
    let cases = [
        ("right", "SELECT key, tenant FROM item", WATCH),
        (
            "right, through a subquery",
            "SELECT * FROM (SELECT i.tenant, i.key FROM item i) AS s",
            WATCH,
        ),
        ("another column", "SELECT key, tenant FROM item", other),
        ("no column", "SELECT key, tenant FROM item", missing),
        (
            "a cast",
            "SELECT key::varchar AS key, tenant FROM item",
            WATCH,
        ),
        (
            "a join that renames",
            "SELECT n.id AS key, i.tenant FROM item i JOIN num n ON true",
            WATCH,
        ),
        (
            "two sources",
            "SELECT key, tenant FROM item UNION ALL SELECT key, tenant FROM item",
            WATCH,
        ),
    ];
    shows!(all(&desk, &cases).await?);
    Ok(())
}

#[tokio::test]
async fn kinds_with_different_tenant_types_are_refused() -> Result<()> {
    let desk = desk().await?;
    let contexts = kind("item", "SELECT key, tenant FROM item", "")
        + &kind("num", "SELECT key, id AS tenant FROM num", "");
    let hub = desk.other_hub(&contexts)?;
    shows!(desk.types_with(&hub, &["migrate"]).await?);
    Ok(())
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once() -> Result<()> {
    let mut desk = desk().await?;
    desk.agents[0].start().await?;
    let contexts = kind("item", "SELECT key FROM item", "")
        + &kind("num", "SELECT key, id AS tenant, now() FROM num", "")
        + &kind("good", "SELECT key, tenant FROM item", "");
    let hub = desk.other_hub(&contexts)?;
    let mut out = desk.types_with(&hub, &["migrate"]).await?;
    out.push_str(&desk.types_with(&hub, &["check"]).await?);
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_query_that_reads_a_table_whole_for_one_tenant_is_a_warning() -> Result<()> {
    let desk = desk().await?;
    let cases = [
        ("no index", "SELECT key, tenant FROM loose", ""),
        ("over an aggregate", "SELECT key, tenant, n FROM summed", ""),
        (
            "through a window",
            "SELECT key, tenant, n FROM windowed",
            "",
        ),
        (
            "by an expression",
            "SELECT key, upper(tenant) AS tenant FROM item",
            "",
        ),
        (
            "told where",
            "SELECT key, tenant, row_number() OVER (ORDER BY key) AS n FROM item WHERE {{tenants(tenant)}}",
            "",
        ),
        (
            "watched in another type",
            "SELECT key, tenant FROM item",
            "watch = [{ table = \"num\", tenant = \"id\" }]",
        ),
        ("good", "SELECT key, tenant FROM item", ""),
    ];
    shows!(all(&desk, &cases).await?);
    Ok(())
}
