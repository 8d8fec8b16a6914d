//! `migrate` and `uninstall`: what they change and what they leave, beside writers and with few privileges.

use super::{CONTEXTS, NOTHING, SCHEMA, Watched, migrate, role};
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};
use system_tests::server::Server;
use system_tests::{Result, until};

/// The longest that a statement may wait behind `migrate`: its own patience with a lock, and some for a slow machine.
const WAITS_AT_MOST: Duration = Duration::from_secs(4);

/// Everything in a database that is not Postgres' own.
const CATALOGS: &str = "
    SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM (
        SELECT format('schema %s %s', nspname, nspacl) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
        UNION ALL SELECT format('%s %s %s %s %s', relkind, oid::regclass, relacl, relhastriggers, reloptions) FROM pg_class
         WHERE relnamespace::regnamespace::text NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
        UNION ALL SELECT format('function %s %s', oid::regprocedure, proacl) FROM pg_proc
         WHERE pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
        UNION ALL SELECT format('trigger %s on %s %s', tgname, tgrelid::regclass, tgenabled) FROM pg_trigger
        UNION ALL SELECT format('type %s', oid::regtype) FROM pg_type
         WHERE typnamespace::regnamespace::text NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
        UNION ALL SELECT format('attribute %s.%s %s', attrelid::regclass, attname, attacl) FROM pg_attribute
         WHERE attrelid >= 16384 AND attrelid::regclass::text !~ '^pg_toast'
        UNION ALL SELECT format('%s defaults', defaclrole::regrole) FROM pg_default_acl
    ) AS all_lines(line)";

#[tokio::test]
async fn migrate_changes_only_what_differs() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    assert_eq!(watched.migrate().await?, NOTHING);
    let triggers = "SELECT string_agg(oid::text || xmin::text, ',' ORDER BY oid) FROM pg_trigger WHERE tgname LIKE 'hubcast%'";
    let before: String = watched.ask(triggers).await?;
    // Other columns are another function, and no trigger.
    let other = watched.with(&CONTEXTS.replace("[\"body\"]", "[\"body\", \"note\"]"))?;
    let lines = migrate(&other).await?;
    assert_eq!(
        lines,
        [
            "table public.item: change triggers changed",
            "kind item: changed"
        ]
    );
    assert_eq!(before, watched.ask::<String>(triggers).await?);
    let fill = "INSERT INTO item VALUES (1, 'a'); DELETE FROM hubcast.outbox";
    watched.database.execute(fill).await?;
    assert_eq!(watched.after("UPDATE item SET note = 'n'").await?, ["a"]);
    // One table less.
    let (one, _) = CONTEXTS.split_at(CONTEXTS.rfind("[[context]]").unwrap_or_default());
    let lines = migrate(&watched.with(one)?).await?;
    assert_eq!(
        lines,
        [
            "table public.item: change triggers changed",
            "kind item: changed",
            "kind part: removed",
            "table public.part: change triggers removed"
        ]
    );
    assert!(
        watched
            .after("INSERT INTO part VALUES (1, 1, 'p')")
            .await?
            .is_empty()
    );
    let functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'changed\\_%'";
    assert_eq!(watched.ask::<i64>(functions).await?, 4);
    Ok(())
}

#[tokio::test]
async fn what_migrate_prints_does_what_migrate_does() -> Result<()> {
    let watched = Watched::prepared(Server::any().await?, SCHEMA, CONTEXTS).await?;
    let before: String = watched.ask(CATALOGS).await?;
    let script = watched.hub.run(&["migrate", "--print"]).await?.ok()?.stdout;
    assert_eq!(before, watched.ask::<String>(CATALOGS).await?);
    watched.database.execute(&script).await?;
    assert!(watched.check().await?.is_empty());
    assert_eq!(watched.migrate().await?, NOTHING);
    assert_eq!(
        watched.after("INSERT INTO item VALUES (1, 'a')").await?,
        ["a"]
    );
    // Once more, with a table less.
    let (one, _) = CONTEXTS.split_at(CONTEXTS.rfind("[[context]]").unwrap_or_default());
    let other = watched.with(one)?;
    let script = other.run(&["migrate", "--print"]).await?.ok()?.stdout;
    watched.database.execute(&script).await?;
    assert_eq!(migrate(&other).await?, NOTHING);
    assert!(
        watched
            .after("INSERT INTO part VALUES (1, 1, 'p')")
            .await?
            .is_empty()
    );
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'hubcast%'";
    assert_eq!(watched.ask::<i64>(left).await?, 4);
    Ok(())
}

#[tokio::test]
async fn uninstall_leaves_the_database_as_it_was() -> Result<()> {
    let watched = Watched::prepared(Server::any().await?, SCHEMA, CONTEXTS).await?;
    let before: String = watched.ask(CATALOGS).await?;
    assert!(
        watched
            .hub
            .run(&["uninstall"])
            .await?
            .ok()?
            .stdout
            .starts_with("nothing to do")
    );
    watched.migrate().await?;
    watched
        .database
        .execute("INSERT INTO item VALUES (1, 'a'); SELECT hubcast.touch('b'), hubcast.token()")
        .await?;
    let ran = watched.hub.run(&["uninstall"]).await?;
    assert!(ran.code == 2 && ran.stderr.contains("--yes"), "{ran:?}");
    let ran = watched.hub.run(&["uninstall", "--yes"]).await?.ok()?;
    assert_eq!(
        ran.stdout,
        "table public.item: change triggers removed\ntable public.part: change triggers removed\n\
                            schema hubcast: removed\n"
    );
    assert_eq!(before, watched.ask::<String>(CATALOGS).await?);
    watched
        .database
        .execute("UPDATE item SET body = 'x'; TRUNCATE item, part")
        .await?;
    // What somebody else made upon it is in the way, and stays.
    watched.migrate().await?;
    watched
        .database
        .execute("CREATE VIEW mine AS SELECT * FROM hubcast.scans")
        .await?;
    let ran = watched.hub.run(&["uninstall", "--yes"]).await?;
    assert!(ran.code == 1 && ran.stderr.contains("scans"), "{ran:?}");
    watched.database.execute("DROP VIEW mine").await?;
    watched.hub.run(&["uninstall", "--yes"]).await?.ok()?;
    assert_eq!(before, watched.ask::<String>(CATALOGS).await?);
    Ok(())
}

#[tokio::test]
async fn uninstall_waits_for_no_writer_that_lives() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    let take = "UPDATE hubcast.writer SET epoch = 1, released = false, host = 'some host', counter = counter + 1";
    watched.database.execute(take).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut connection = watched.connect().await?;
    let renewing = tokio::spawn(async move {
        let renew = "UPDATE hubcast.writer SET counter = counter + 1";
        tokio::pin!(stopped);
        while tokio::time::timeout(Duration::from_millis(300), &mut stopped)
            .await
            .is_err()
        {
            sqlx::query(renew).execute(&mut connection).await?;
        }
        Ok::<(), sqlx::Error>(())
    });
    let ran = watched.hub.run(&["uninstall", "--yes"]).await?;
    assert!(
        ran.code == 1 && ran.stderr.contains("some host is the writer"),
        "{ran:?}"
    );
    let _ = stop.send(());
    renewing.await??;
    // Nobody renews it: it runs out.
    watched.hub.run(&["uninstall", "--yes"]).await?.ok()?;
    watched.migrate().await?;
    watched.database.execute(take).await?;
    let began = Instant::now();
    watched
        .hub
        .run(&["uninstall", "--yes", "--force"])
        .await?
        .ok()?;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "--force does not look"
    );
    Ok(())
}

#[tokio::test]
async fn a_table_in_use_is_tried_for_half_a_minute_and_writers_hardly_wait() -> Result<()> {
    let watched = Watched::prepared(Server::any().await?, SCHEMA, CONTEXTS).await?;
    watched
        .database
        .execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 10) AS n")
        .await?;
    let mut long = watched.connect().await?;
    sqlx::raw_sql("BEGIN; UPDATE item SET note = 'long' WHERE id = 1")
        .execute(&mut long)
        .await?;
    let mut writer = watched.connect().await?;
    let migrating = watched.hub.run(&["migrate"]);
    tokio::pin!(migrating);
    let mut longest = Duration::ZERO;
    let ran = loop {
        let began = Instant::now();
        let sql = "UPDATE item SET note = 'short' WHERE id = 2";
        let write = async {
            let done = sqlx::raw_sql(sql).execute(&mut writer).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            done
        };
        tokio::select! {
            ran = &mut migrating => break ran?,
            done = write => assert_eq!(done?.rows_affected(), 1),
        }
        longest = longest.max(began.elapsed());
    };
    assert!(
        longest > Duration::from_millis(500) && longest < WAITS_AT_MOST,
        "{longest:?}"
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in [
        "the table public.item",
        "locked by process",
        "idle in transaction",
        "UPDATE item SET note",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
    // Nothing that counts on triggers was written.
    let definitions: i64 = watched
        .ask("SELECT count(*) FROM hubcast.definitions")
        .await?;
    assert_eq!(definitions, 0);
    // The transaction ends while the next one waits for it.
    let migrating = watched.hub.run(&["migrate"]);
    let ending = async {
        let waits =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'item'::regclass";
        let waiting = || async { watched.ask::<i64>(waits).await.ok().filter(|n| *n > 0) };
        until(
            "migrate to wait for the table",
            Duration::from_secs(20),
            waiting,
        )
        .await?;
        sqlx::raw_sql("COMMIT").execute(&mut long).await?;
        Ok(())
    };
    let (ran, ended): (_, Result<()>) = tokio::join!(migrating, ending);
    ended?;
    ran?.ok()?;
    assert!(watched.check().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn two_that_migrate_at_once_do_it_once() -> Result<()> {
    let watched = Watched::prepared(Server::any().await?, SCHEMA, CONTEXTS).await?;
    let (one, two, three) = (
        watched.with(CONTEXTS)?,
        watched.with(CONTEXTS)?,
        watched.with(CONTEXTS)?,
    );
    let (one, two, three) = tokio::join!(
        one.run(&["migrate"]),
        two.run(&["migrate"]),
        three.run(&["migrate"])
    );
    for ran in [one?, two?, three?] {
        ran.ok()?;
    }
    assert!(watched.check().await?.is_empty());
    assert_eq!(watched.migrate().await?, NOTHING);
    Ok(())
}

#[tokio::test]
async fn a_role_that_owns_no_table_needs_trigger_on_it_and_nothing_more() -> Result<()> {
    let watched = Watched::prepared(Server::any().await?, SCHEMA, CONTEXTS).await?;
    let name = role(&watched.database, "").await?;
    let database: String = watched.ask("SELECT current_database()::text").await?;
    let sql =
        format!("GRANT CREATE ON DATABASE {database} TO {name}; GRANT TRIGGER ON part TO {name}");
    watched.database.execute(&sql).await?;
    let hub = watched.migrated_by(&name, CONTEXTS)?;
    let ran = hub.run(&["migrate"]).await?;
    let expected = format!("GRANT TRIGGER ON public.item TO {name}");
    assert!(ran.code == 2 && ran.stderr.contains(&expected), "{ran:?}");
    watched.database.execute(&expected).await?;
    hub.run(&["migrate"]).await?.ok()?;
    assert_eq!(
        watched.after("INSERT INTO item VALUES (1, 'a')").await?,
        ["a"]
    );
    assert_eq!(migrate(&hub).await?, NOTHING);
    let (one, _) = CONTEXTS.split_at(CONTEXTS.rfind("[[context]]").unwrap_or_default());
    let lines = migrate(&watched.migrated_by(&name, one)?).await?;
    assert_eq!(
        lines.last().map(String::as_str),
        Some("table public.part: change triggers removed")
    );
    let left =
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'part'::regclass AND NOT tgisinternal";
    assert_eq!(watched.ask::<i64>(left).await?, 0);
    hub.run(&["uninstall", "--yes"]).await?.ok()?;
    let mut connection = PgConnection::connect(&watched.database.url).await?;
    let sql = format!("DROP OWNED BY {name}; DROP ROLE {name}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}
