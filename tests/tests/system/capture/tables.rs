//! Tables of every sort: partitioned, inherited, with names of any kind, watched for every tenant or by a query.

use super::{NOTHING, Watched, migrate};
use serde_json::Value;
use sqlx::Row;
use system_tests::Result;

/// Partitions in partitions, with columns in another order, and one that had a column more.
const PARTITIONS: &str = "
        CREATE TABLE item (id bigint, tenant text, body text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF item FOR VALUES FROM (0) TO (100);
        CREATE TABLE high (body text, tenant text, id bigint PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE higher (gone text, body text, tenant text, id bigint PRIMARY KEY);
        ALTER TABLE higher DROP COLUMN gone;
        ALTER TABLE high ATTACH PARTITION higher FOR VALUES FROM (100) TO (200);
        ALTER TABLE item ATTACH PARTITION high FOR VALUES FROM (100) TO (200);";
const PARTITION_CONTEXTS: &str = r#"
[[context]]
kind  = "item"
query = "SELECT id AS key, tenant, body FROM item"
watch = [{ table = "item", tenant = "tenant", columns = ["body"] }]
"#;

#[tokio::test]
async fn partitions_are_seen_through_the_parent_and_directly_at_any_depth() -> Result<()> {
    let watched = Watched::new(PARTITIONS, PARTITION_CONTEXTS).await?;
    let cases: &[(&str, &[&str])] = &[
        (
            "INSERT INTO item VALUES (1, 'a', 'x'), (101, 'b', 'x')",
            &["a", "b"],
        ),
        ("INSERT INTO low VALUES (2, 'c', 'x')", &["c"]),
        ("INSERT INTO high (id, tenant) VALUES (102, 'd')", &["d"]),
        ("INSERT INTO higher (id, tenant) VALUES (103, 'e')", &["e"]),
        (
            "UPDATE item SET body = 'y' WHERE id IN (1, 101)",
            &["a", "b"],
        ),
        ("UPDATE higher SET body = 'z' WHERE tenant = 'b'", &["b"]),
        ("UPDATE higher SET body = 'z' WHERE tenant = 'b'", &[]),
        // To another partition.
        ("UPDATE item SET id = 50 WHERE id = 103", &["e"]),
        (
            "UPDATE item SET id = 150, tenant = 'f' WHERE id = 50",
            &["e", "f"],
        ),
        ("DELETE FROM high WHERE tenant = 'f'", &["f"]),
        ("DELETE FROM item WHERE tenant IN ('a', 'b')", &["a", "b"]),
        ("TRUNCATE higher", &["all"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(watched.after(sql).await?, *expected, "{sql}");
    }
    Ok(())
}

#[tokio::test]
async fn a_partition_that_comes_or_goes_is_found_and_migrate_follows() -> Result<()> {
    let watched = Watched::new(PARTITIONS, PARTITION_CONTEXTS).await?;
    assert!(watched.check().await?.is_empty());
    let attach = "CREATE TABLE late (id bigint PRIMARY KEY, tenant text, body text); INSERT INTO late VALUES (201, 'x', ''); \
                  ALTER TABLE item ATTACH PARTITION late FOR VALUES FROM (200) TO (300)";
    watched.database.execute(attach).await?;
    assert!(
        watched
            .after("INSERT INTO late VALUES (202, 'g', '')")
            .await?
            .is_empty()
    );
    let through = "INSERT INTO item VALUES (203, 'h', '')";
    assert_eq!(watched.after(through).await?, ["h"], "through the parent");
    let found = watched.check().await?;
    assert!(
        found.len() == 1
            && found[0].contains("public.late, a part of public.item, has no change triggers"),
        "{found:?}"
    );
    assert_eq!(
        watched.migrate().await?,
        ["table public.late: change triggers installed"]
    );
    assert_eq!(
        watched
            .after("INSERT INTO late VALUES (204, 'i', '')")
            .await?,
        ["i"]
    );
    assert!(watched.check().await?.is_empty());
    watched
        .database
        .execute("ALTER TABLE item DETACH PARTITION late")
        .await?;
    let found = watched.check().await?;
    assert!(
        found.len() == 1 && found[0].contains("public.late has change triggers and is not watched"),
        "{found:?}"
    );
    assert_eq!(
        watched.migrate().await?,
        ["table public.late: change triggers removed"]
    );
    assert!(
        watched
            .after("INSERT INTO late VALUES (205, 'j', '')")
            .await?
            .is_empty()
    );
    assert_eq!(watched.migrate().await?, NOTHING);
    Ok(())
}

#[tokio::test]
async fn a_watch_on_a_partition_sees_what_is_written_through_the_whole() -> Result<()> {
    let schema = "
        CREATE TABLE item (id bigint, tenant text) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF item FOR VALUES FROM (0) TO (100);
        CREATE TABLE parent (id bigint, tenant text);
        CREATE TABLE child (extra text, owner text) INHERITS (parent);";
    let contexts = r#"
[[context]]
kind  = "low"
query = "SELECT id AS key, tenant FROM low"
watch = [{ table = "low", tenant = "tenant" }]
[[context]]
kind  = "parent"
query = "SELECT id AS key, tenant FROM parent"
watch = [{ table = "parent", tenant = "tenant" }, { table = "child", tenant = "owner", columns = ["extra"] },
         { table = "child", tenants = "SELECT owner FROM changed" }]
"#;
    let watched = Watched::new(schema, contexts).await?;
    let cases: &[(&str, &[&str])] = &[
        ("INSERT INTO item VALUES (1, 'a')", &["a"]),
        ("INSERT INTO low VALUES (2, 'b')", &["b"]),
        ("INSERT INTO parent VALUES (1, 'c')", &["c"]),
        (
            "INSERT INTO child VALUES (2, 'd', 'x', 'e')",
            &[
                "d",
                "e",
                r#"{"id": "2", "extra": "x", "owner": "e", "tenant": "d"}"#,
            ],
        ),
        ("UPDATE parent SET tenant = 'f'", &["c", "d", "f"]),
        ("DELETE FROM ONLY parent", &["f"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(watched.after(sql).await?, *expected, "{sql}");
    }
    Ok(())
}

#[tokio::test]
async fn names_may_be_anything() -> Result<()> {
    let schema = r#"
        CREATE SCHEMA "Odd.Schema";
        CREATE TYPE mood AS ENUM ('glad', 'sad');
        CREATE DOMAIN number AS bigint; CREATE DOMAIN numbers AS number;
        CREATE TABLE "Odd.Schema"."it's ""a"" table" ("$hubcast$" text, "Tenant Id" numbers, "select" int, x text,
            "o" text, "n" text, "c" text, r mood, PRIMARY KEY ("$hubcast$", "select"));"#;
    let contexts = r#"
[[context]]
kind  = "odd"
query = '''SELECT "$hubcast$" AS key, "Tenant Id" AS tenant, x FROM "Odd.Schema"."it's ""a"" table"'''
watch = [{ table = '''"Odd.Schema"."it's ""a"" table"''', tenant = "Tenant Id", columns = ["x", "$hubcast$", "c"] },
         { table = '''"Odd.Schema"."it's ""a"" table"''', tenants = '''SELECT "Tenant Id" FROM changed WHERE c = '\' ''' }]
"#;
    let watched = Watched::new(schema, contexts).await?;
    let table = r#""Odd.Schema"."it's ""a"" table""#;
    let insert = format!(
        "INSERT INTO {table} VALUES ('k', 7, 1, 'x', 'o', 'n', 'c', 'sad'), ('k', 8, 2, NULL, NULL, NULL, NULL, NULL)"
    );
    let left = watched.after(&insert).await?;
    assert_eq!(left[..2], ["7", "8"]);
    assert_eq!(left.len(), 4);
    let changed: Value = serde_json::from_str(&left[2])?;
    let expected = serde_json::json!({"$hubcast$": "k", "Tenant Id": "7", "select": "1", "x": "x", "o": "o", "n": "n",
                                      "c": "c", "r": "sad"});
    assert_eq!(changed, expected);
    let left = watched
        .after(&format!("UPDATE {table} SET r = 'glad'"))
        .await?;
    assert!(
        left.iter().all(|row| row.starts_with('{')) && left.len() == 4,
        "{left:?}"
    );
    let left = watched
        .after(&format!("UPDATE {table} SET c = 'C' WHERE \"select\" = 2"))
        .await?;
    assert_eq!(left[0], "8");
    assert!(watched.check().await?.is_empty());
    assert_eq!(watched.migrate().await?, NOTHING);
    let lines = migrate(&watched.with(CONTEXTS_OF_ONE)?).await?;
    let removed = format!("table {table}: change triggers removed");
    assert_eq!(lines.last(), Some(&removed));
    Ok(())
}

/// Instead of the odd one.
const CONTEXTS_OF_ONE: &str = r#"
[[context]]
kind  = "one"
query = "SELECT 1 AS key, 1::bigint AS tenant"
"#;

const PLANS: &str = "
    CREATE TABLE plan (id int PRIMARY KEY, price numeric, seen timestamptz, tags text[], more jsonb, raw json, big bytea);
    CREATE TABLE tenant (id text PRIMARY KEY, plan int);
    CREATE TABLE setting (name text PRIMARY KEY, value text, note text);";
const PLAN_CONTEXTS: &str = r#"
[[context]]
kind  = "tenant"
query = "SELECT t.id AS key, t.id AS tenant, p.price, (SELECT s.value FROM setting s LIMIT 1) FROM tenant t JOIN plan p ON p.id = t.plan"
watch = [{ table = "tenant", tenant = "id" },
         { table = "plan", tenants = "SELECT t.id FROM tenant t JOIN changed c ON c.id = t.plan", columns = ["price"] },
         { table = "setting", tenants = "all", columns = ["value"] }]
"#;

#[tokio::test]
async fn a_tenants_query_gets_the_changed_rows_and_all_marks_everybody() -> Result<()> {
    let watched = Watched::new(PLANS, PLAN_CONTEXTS).await?;
    // The session writes times and bytes in a way of its own; what it leaves is read by another.
    let insert = r#"SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET bytea_output = 'escape';
        INSERT INTO plan VALUES (1, 1.50, '2026-01-02 03:04:05.678+00', '{"a b",c}', '{"k": 1.50}', '{"bad": "\u0000"}', '\x00ff')"#;
    let left = watched.after(insert).await?;
    let changed: Value = serde_json::from_str(&left[0])?;
    let expected = serde_json::json!({"id": "1", "price": "1.50", "seen": "2026-01-02 03:04:05.678+00",
                                      "tags": "{\"a b\",c}", "more": {"k": 1.50}, "big": "\\x00ff"});
    assert_eq!(changed, expected);
    let read = format!(
        "SELECT p::text = (SELECT r::text FROM jsonb_populate_record(NULL::plan, $j${}$j$) AS r) FROM plan p",
        left[0].replace("\"big\"", "\"raw\": null, \"big\"")
    );
    watched
        .database
        .execute("UPDATE plan SET raw = NULL")
        .await?;
    assert!(
        watched.ask::<bool>(&read).await?,
        "every type reads its text back"
    );
    watched
        .database
        .execute("INSERT INTO plan SELECT n, n FROM generate_series(2, 400) AS n")
        .await?;
    let one = watched
        .after("UPDATE plan SET price = price + CASE id WHEN 7 THEN 1 ELSE 0 END, seen = now()")
        .await?;
    assert_eq!(
        one.len(),
        2,
        "of the rows those that differ, old and new: {one:?}"
    );
    for (sql, count) in [
        ("UPDATE plan SET seen = now()", 0),
        ("UPDATE plan SET price = price + 1", 800),
        ("UPDATE plan SET id = id + 1000 WHERE id = 7", 2),
        ("DELETE FROM plan WHERE id = 1", 1),
    ] {
        assert_eq!(watched.after(sql).await?.len(), count, "{sql}");
    }
    for (sql, expected) in [
        (
            "INSERT INTO plan SELECT n, n FROM generate_series(2001, 3001) AS n",
            &["all"][..],
        ),
        ("UPDATE plan SET seen = now()", &[]),
        ("UPDATE plan SET price = price + 1", &["all"]),
        ("UPDATE plan SET price = price + 1 WHERE false", &[]),
        // Not too many, but too large.
        (
            "INSERT INTO plan (id, big) SELECT 9001, string_agg(sha256(n::text::bytea), '') FROM generate_series(1, 10000) AS n",
            &["all"],
        ),
        (
            "INSERT INTO setting VALUES ('a', 'x'), ('b', 'x')",
            &["all"],
        ),
        ("UPDATE setting SET note = 'n'", &[]),
        ("UPDATE setting SET value = 'y' WHERE name = 'a'", &["all"]),
        ("DELETE FROM setting WHERE false", &[]),
        ("DELETE FROM setting", &["all"]),
    ] {
        assert_eq!(watched.after(sql).await?, *expected, "{sql}");
    }
    Ok(())
}

#[tokio::test]
async fn tenants_of_every_type_are_written_as_a_build_writes_them() -> Result<()> {
    for (sql_type, value) in [
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
        ("bigint", "-7"),
        ("numeric", "1.50"),
        ("timestamptz", "2026-01-02 03:04:05+02"),
        ("bytea", "\\xff00"),
        ("float8", "0.30000000000000004"),
        ("char(5)", "ab"),
        ("date", "2026-03-04"),
    ] {
        let schema = format!("CREATE TABLE item (id int, tenant {sql_type}, body text)");
        let contexts = super::CONTEXTS
            .split("[[context]]")
            .nth(1)
            .unwrap_or_default();
        let contexts = format!("[[context]]{contexts}");
        let watched = Watched::new(&schema, &contexts).await?;
        let session = "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET bytea_output = 'escape'; \
                       SET extra_float_digits = -10";
        let insert = format!("{session}; INSERT INTO item VALUES (1, '{value}')");
        let left = watched.after(&insert).await?;
        let build = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET bytea_output = 'hex'; SET extra_float_digits = 1";
        let mut connection = watched.connect().await?;
        sqlx::raw_sql(build).execute(&mut connection).await?;
        let row = sqlx::query("SELECT tenant::text FROM item")
            .fetch_one(&mut connection)
            .await?;
        assert_eq!(left, [row.get::<String, _>(0)], "{sql_type}");
    }
    Ok(())
}
