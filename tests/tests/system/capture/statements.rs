//! Every statement that changes rows, and what it leaves.

use super::{CONTEXTS, SCHEMA, Watched, role};
use sqlx::{Connection, PgConnection};
use system_tests::Result;
use system_tests::server::Server;

const UPSERT: &str = "INSERT INTO item VALUES (1, 'a', 'upsert'), (9, 'i', '') ON CONFLICT (id) DO UPDATE SET body = excluded.body";
const MERGE: &str = "MERGE INTO item USING (VALUES (1, 'merged'), (9, NULL), (10, 'new')) AS s(id, body) ON item.id = s.id \
                 WHEN MATCHED AND s.body IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET body = s.body \
                 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'j', s.body)";
const CTE: &str = "WITH gone AS (DELETE FROM item WHERE id = 10 RETURNING *), kept AS (UPDATE item SET body = 'cte' WHERE id = 1) \
               INSERT INTO item SELECT 11, 'k', body FROM gone";
const SAVEPOINT: &str = "BEGIN; SAVEPOINT s; INSERT INTO item VALUES (20, 'lost'); ROLLBACK TO s; \
                     INSERT INTO item VALUES (20, 'kept'); COMMIT";
/// Statements in their order, and whom each leaves.
const CASES: &[(&str, &[&str])] = &[
    (
        "INSERT INTO item VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, 'b', 'y'), (4, NULL, 'z')",
        &["a", "b"],
    ),
    ("UPDATE item SET body = 'z' WHERE id = 1", &["a"]),
    (
        "UPDATE item SET body = body || '!' WHERE tenant = 'b'",
        &["b"],
    ),
    ("UPDATE item SET note = 'unwatched'", &[]),
    ("UPDATE item SET body = body", &[]),
    ("UPDATE item SET body = 'nobody' WHERE id = 999", &[]),
    (
        "UPDATE item SET body = 'of nobody' WHERE tenant IS NULL",
        &[],
    ),
    ("UPDATE item SET tenant = 'c' WHERE id = 3", &["b", "c"]),
    ("UPDATE item SET tenant = 'd' WHERE id = 4", &["d"]),
    ("UPDATE item SET tenant = NULL WHERE id = 4", &["d"]),
    (
        "UPDATE item SET id = 5 WHERE id = 4; UPDATE item SET id = 6 WHERE id = 3",
        &["c"],
    ),
    // What the rows have together stays the same.
    (
        "UPDATE item SET tenant = 'a', body = 'z' WHERE id = 2",
        &["a", "b"],
    ),
    ("INSERT INTO item VALUES (7, 'a', 'other')", &["a"]),
    (
        "UPDATE item SET body = CASE id WHEN 7 THEN 'z' ELSE 'other' END WHERE id IN (1, 7)",
        &["a"],
    ),
    (
        "UPDATE item SET id = CASE id WHEN 7 THEN 107 ELSE 101 END WHERE id IN (1, 7)",
        &["a"],
    ),
    ("UPDATE item SET id = id - 100 WHERE id > 100", &["a"]),
    ("DELETE FROM item WHERE id IN (2, 999)", &["a"]),
    (UPSERT, &["a", "i"]),
    (MERGE, &["a", "i", "j"]),
    (CTE, &["a", "j", "k"]),
    (SAVEPOINT, &["kept"]),
    ("BEGIN; UPDATE item SET body = 'rolled back'; ROLLBACK", &[]),
    (
        "INSERT INTO part VALUES (1, 1, 'p'), (2, 6, 'q'), (3, 6, 'r')",
        &["p", "q", "r"],
    ),
    ("UPDATE part SET item = item WHERE id = 1", &["p"]),
    (
        "DELETE FROM item WHERE id IN (1, 6)",
        &["a", "c", "p", "q", "r"],
    ),
    ("DELETE FROM item WHERE false", &[]),
    ("TRUNCATE part", &["all"]),
    ("TRUNCATE item, part", &["all", "all"]),
];

#[tokio::test]
async fn every_statement_leaves_the_tenants_of_the_rows_that_it_changed() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    for (sql, expected) in CASES {
        let mut left = watched.after(sql).await?;
        // Two statements inside one, or two tables, may name the same tenant.
        if sql.contains("MERGE") || sql.starts_with("WITH") || sql.contains("CONFLICT") {
            left.dedup();
        }
        assert_eq!(left, *expected, "{sql}");
    }
    let mut connection = watched.connect().await?;
    let copying = "COPY item (id, tenant, body) FROM STDIN";
    let mut copy = connection.copy_in_raw(copying).await?;
    copy.send(&b"100\tx\tone\n101\ty\ttwo\n102\ty\tthree\n"[..])
        .await?;
    copy.finish().await?;
    assert_eq!(watched.left().await?, ["x", "y"], "COPY");
    Ok(())
}

#[tokio::test]
async fn a_bulk_change_leaves_one_row_per_tenant_whatever_came_before_it() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    let mut connection = watched.connect().await?;
    // The plans of this session are made for one row.
    for id in 0..3 {
        let sql = "INSERT INTO item SELECT $1::bigint, 'first', 'x'";
        sqlx::query(sql).bind(id).execute(&mut connection).await?;
        let sql = "UPDATE item SET body = body || '!' WHERE id = $1::bigint";
        sqlx::query(sql).bind(id).execute(&mut connection).await?;
    }
    let fill =
        "INSERT INTO item SELECT n, 't' || n % 100, 'x' FROM generate_series(10, 20009) AS n";
    for (sql, tenants) in [
        (fill, 100),
        ("UPDATE item SET body = 'y' WHERE id >= 10", 100),
        ("UPDATE item SET note = 'y' WHERE id >= 10", 0),
        ("UPDATE item SET body = 'z' WHERE tenant IN ('t1', 't2')", 2),
        ("UPDATE item SET tenant = 'moved' WHERE tenant = 't3'", 2),
        ("DELETE FROM item WHERE id >= 10", 100),
    ] {
        watched.left().await?;
        sqlx::query(sql).execute(&mut connection).await?;
        assert_eq!(watched.left().await?.len(), tenants, "{sql}");
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_in_two_phases_leaves_its_rows_when_it_is_committed() -> Result<()> {
    let watched = Watched::prepared(Server::own().await?, SCHEMA, CONTEXTS).await?;
    watched.migrate().await?;
    let prepare = "BEGIN; INSERT INTO item VALUES (1, 'a'); PREPARE TRANSACTION 'one'";
    assert!(watched.after(prepare).await?.is_empty());
    assert_eq!(watched.after("COMMIT PREPARED 'one'").await?, ["a"]);
    let prepare = "BEGIN; INSERT INTO item VALUES (2, 'b'); PREPARE TRANSACTION 'two'";
    watched.database.execute(prepare).await?;
    assert!(watched.after("ROLLBACK PREPARED 'two'").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn whoever_may_write_the_table_needs_nothing_else_and_can_misuse_nothing() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    let name = role(&watched.database, "").await?;
    let sql = format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON item TO {name}; CREATE SCHEMA trap; GRANT ALL ON SCHEMA trap TO {name}"
    );
    watched.database.execute(&sql).await?;
    let url = watched
        .database
        .url
        .replace("postgres@", &format!("{name}@"));
    let mut connection = PgConnection::connect(&url).await?;
    // Everything that a name in a function could be mistaken for.
    let traps = "CREATE FUNCTION trap.has_room() RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 0'; \
        CREATE FUNCTION trap.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1/0'; \
        CREATE FUNCTION trap.same(bigint, integer) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 0'; \
        CREATE OPERATOR trap.<> (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = trap.same); \
        CREATE TEMP TABLE o (tenant text); CREATE TEMP TABLE n (tenant text); CREATE TEMP TABLE outbox (tenant text); \
        CREATE TEMP TABLE hubcast (tenant text); INSERT INTO n VALUES ('trapped'); INSERT INTO o VALUES ('trapped'); \
        SET search_path = trap, pg_temp, pg_catalog, public";
    sqlx::raw_sql(traps).execute(&mut connection).await?;
    let writes = "INSERT INTO public.item VALUES (1, 'a', 'x'); UPDATE public.item SET body = 'y'; \
        SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE; DELETE FROM public.item";
    sqlx::raw_sql(writes).execute(&mut connection).await?;
    assert_eq!(watched.left().await?, ["a", "a", "a"]);
    for forbidden in [
        "SELECT * FROM hubcast.outbox",
        "INSERT INTO hubcast.outbox (mark) VALUES ('all')",
        "SELECT setval('hubcast.outbox_acked', 1)",
        "SELECT hubcast.has_room()",
        "TRUNCATE public.item",
    ] {
        let refused = sqlx::raw_sql(forbidden).execute(&mut connection).await;
        let code = refused
            .err()
            .and_then(|e| Some(e.as_database_error()?.code()?.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{forbidden}");
    }
    let sql = "SELECT format('CREATE TRIGGER mine AFTER INSERT ON pg_temp.n REFERENCING NEW TABLE AS n FOR EACH STATEMENT \
               EXECUTE FUNCTION hubcast.%I()', proname) FROM pg_proc WHERE proname LIKE 'changed\\_%\\_i' LIMIT 1";
    let sql: String = watched.ask(sql).await?;
    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await;
    assert!(refused.is_err_and(|e| e.to_string().contains("permission denied for function")));
    connection.close().await?;
    let sql = format!("DROP OWNED BY {name}; DROP ROLE {name}");
    watched.database.execute(&sql).await?;
    Ok(())
}

#[tokio::test]
async fn without_room_nothing_is_written_and_nothing_fails() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    let cap = "SELECT setval('hubcast.outbox_cap', 10)";
    let fill = "INSERT INTO item SELECT n, 't' || n FROM generate_series(1, 8) AS n";
    watched.database.execute(cap).await?;
    watched.database.execute(fill).await?;
    let more = "INSERT INTO item SELECT n, 'u' || n FROM generate_series(11, 20) AS n";
    assert_eq!(
        watched.after(more).await?.len(),
        10,
        "there was room for two"
    );
    for full in [
        "INSERT INTO item VALUES (101, 'a')",
        "UPDATE item SET body = 'x'",
        "DELETE FROM item WHERE id = 101",
        "TRUNCATE item, part",
        "SELECT hubcast.touch('a')",
    ] {
        assert!(watched.after(full).await?.is_empty(), "{full}");
    }
    let room = "SELECT setval('hubcast.outbox_acked', (SELECT last_value FROM hubcast.outbox_ids))";
    watched.database.execute(room).await?;
    assert_eq!(
        watched.after("INSERT INTO item VALUES (1, 'a')").await?,
        ["a"]
    );
    Ok(())
}
