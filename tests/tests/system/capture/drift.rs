//! What `check` says when the database has moved away from what `migrate` left there, and that `migrate` heals it.

use super::{CONTEXTS, NOTHING, SCHEMA, Watched};
use crate::world::{sample_contexts, sample_dir};
use publisher::source::Source;
use secrecy::SecretString;
use system_tests::server::Server;
use system_tests::{Result, sample};

#[tokio::test]
async fn what_was_done_to_a_trigger_and_undone_shows() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    let source = Source::new("url", &SecretString::from(watched.database.url.clone()))?;
    let (mut before, gap) = source.look_at_triggers().await?;
    assert_eq!(gap, None);
    for (sql, shows) in [
        ("UPDATE item SET tenant = tenant", false),
        (
            "ALTER TABLE item DISABLE TRIGGER ALL; ALTER TABLE item ENABLE TRIGGER ALL",
            true,
        ),
        ("ANALYZE item; CREATE TABLE something (a int)", false),
        (
            "DO $$ DECLARE f regprocedure := (SELECT tgfoid FROM pg_trigger WHERE tgrelid = 'item'::regclass \
             AND tgname = 'hubcast_changed_d'); d text := pg_get_functiondef(f); BEGIN \
             EXECUTE format('CREATE OR REPLACE FUNCTION %s RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NULL; END''', f); \
             EXECUTE d; END $$",
            true,
        ),
    ] {
        watched.database.execute(sql).await?;
        let (after, gap) = source.look_at_triggers().await?;
        assert_eq!((gap, after != before), (None, shows), "{sql}");
        before = after;
    }
    Ok(())
}

#[tokio::test]
async fn every_way_to_lose_a_trigger_is_found_and_healed() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    assert!(watched.check().await?.is_empty());
    for (sql, expected, healed) in [
        (
            "ALTER TABLE item DISABLE TRIGGER hubcast_changed_u",
            "table public.item: the change trigger for UPDATE is disabled",
            "table public.item: change triggers changed",
        ),
        (
            "ALTER TABLE item ENABLE REPLICA TRIGGER hubcast_changed_t; ALTER TABLE item DISABLE TRIGGER hubcast_changed_i",
            "table public.item: the change trigger for INSERT, TRUNCATE is disabled",
            "table public.item: change triggers changed",
        ),
        (
            "DROP TRIGGER hubcast_changed_t ON item",
            "table public.item has no change trigger for TRUNCATE",
            "table public.item: change triggers changed",
        ),
        (
            "DO $$ BEGIN EXECUTE (SELECT format('CREATE OR REPLACE FUNCTION %s RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NULL; END''', \
             tgfoid::regprocedure) FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname = 'hubcast_changed_d'); END $$",
            "table public.item: the change trigger for DELETE is not what the definitions ask for",
            "table public.item: change triggers changed",
        ),
        (
            "DROP TRIGGER hubcast_changed_d ON item; CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER hubcast_changed_d AFTER DELETE ON item FOR EACH STATEMENT EXECUTE FUNCTION other()",
            "table public.item: the change trigger for DELETE is not what the definitions ask for",
            "table public.item: change triggers changed",
        ),
        (
            "ALTER TRIGGER hubcast_changed_d ON item RENAME TO renamed; DROP TRIGGER hubcast_changed_i ON item; \
             DROP TRIGGER hubcast_changed_u ON item; DROP TRIGGER hubcast_changed_t ON item",
            "table public.item has no change triggers",
            "table public.item: change triggers installed",
        ),
        (
            "ALTER TABLE part RENAME TO part_old; CREATE TABLE part (LIKE part_old INCLUDING ALL)",
            "table public.part is another one than that which has the change triggers",
            "table public.part: change triggers installed",
        ),
        (
            "ALTER TABLE item ALTER COLUMN tenant TYPE uuid USING NULL",
            "table public.item: the change trigger for INSERT, UPDATE, DELETE is not what the definitions ask for",
            "table public.item: change triggers changed",
        ),
    ] {
        watched.database.execute(sql).await?;
        let found = watched.check().await?;
        assert!(
            found.iter().any(|l| l.contains(expected)),
            "{sql}: {found:?}"
        );
        if sql.contains("uuid") {
            // The kinds have tenants of two types now.
            watched
                .database
                .execute("ALTER TABLE part ALTER COLUMN tenant TYPE uuid USING NULL")
                .await?;
        }
        let lines = watched.migrate().await?;
        assert!(lines.iter().any(|l| l == healed), "{sql}: {lines:?}");
        let (found, again) = (watched.check().await?, watched.migrate().await?);
        assert!(
            found.is_empty() && again == NOTHING,
            "{sql}: {found:?}, {again:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn tables_and_columns_that_are_gone_are_named() -> Result<()> {
    let watched = Watched::new(SCHEMA, CONTEXTS).await?;
    for (sql, undo, expected) in [
        (
            "ALTER TABLE item RENAME COLUMN body TO content",
            "ALTER TABLE item RENAME COLUMN content TO body",
            &[
                "the table item has no column body",
                "kind item: the query fails",
            ][..],
        ),
        (
            "ALTER TABLE part RENAME TO piece",
            "ALTER TABLE piece RENAME TO part",
            &[
                "there is no table part",
                "table public.piece has change triggers and is not watched",
            ],
        ),
        (
            "ALTER TABLE part RENAME TO piece; CREATE VIEW part AS SELECT * FROM piece",
            "DROP VIEW part; ALTER TABLE piece RENAME TO part",
            &["part is a view"],
        ),
        (
            "DROP TABLE part",
            "CREATE TABLE part (id bigint PRIMARY KEY, item bigint, tenant text)",
            &[
                "there is no table part",
                "table public.part, which had change triggers, is gone",
            ],
        ),
    ] {
        watched.database.execute(sql).await?;
        let ran = watched.hub.run(&["check"]).await?;
        assert_eq!(ran.code, 2, "the configuration cannot be used: {ran:?}");
        let found = watched.check().await?;
        for expected in expected {
            assert!(
                found.iter().any(|l| l.contains(expected)),
                "{sql}: {found:?}"
            );
        }
        watched.database.execute(undo).await?;
    }
    assert_eq!(
        watched.migrate().await?,
        ["table public.part: change triggers installed"]
    );
    assert!(watched.check().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_is_missing_is_an_error_and_a_table_that_nobody_watches_a_warning()
-> Result<()> {
    let schema = "
        CREATE TABLE item (id bigint PRIMARY KEY, tenant text);
        CREATE TABLE looked_up (id bigint, label text) PARTITION BY RANGE (id);
        CREATE TABLE looked_up_1 PARTITION OF looked_up FOR VALUES FROM (0) TO (100);
        CREATE VIEW seen AS SELECT i.*, l.label FROM item i LEFT JOIN looked_up l USING (id);";
    let contexts = r#"
[[context]]
kind  = "item"
query = "SELECT s.id AS key, s.tenant, s.label FROM seen s WHERE EXISTS (SELECT FROM pg_class)"
watch = [{ table = "item", tenant = "tenant" }]
"#;
    let watched = Watched::new(schema, contexts).await?;
    let found = watched.hub.run(&["check", "--json"]).await?.json()?;
    let warnings = found["warnings"].to_string();
    assert!(
        warnings.contains("kind item: its query reads public.looked_up, which nobody watches"),
        "{warnings}"
    );
    assert_eq!(warnings.matches("nobody watches").count(), 1, "{warnings}");
    watched
        .database
        .execute("DROP TRIGGER hubcast_changed_i ON item")
        .await?;
    let ran = watched.hub.run(&["check"]).await?;
    assert!(
        ran.code == 1
            && ran
                .stdout
                .contains("error   table public.item has no change trigger for INSERT"),
        "{ran:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_sample_watches_all_that_it_reads() -> Result<()> {
    let watched = Watched::prepared(Server::any().await?, "", &sample_contexts()?).await?;
    let size = sample::Size {
        tenants: 20,
        clusters: 40,
        keys: 400,
    };
    sample::load(&sample_dir(), &watched.database.url, size).await?;
    watched.migrate().await?;
    let found = watched.check().await?;
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

/// As `docs/operating.md` says it is done.
#[tokio::test]
async fn a_column_goes_together_with_the_triggers_and_no_write_fails() -> Result<()> {
    let schema = "CREATE TABLE plan (id int PRIMARY KEY, price int, note text);
        CREATE TABLE tenant (id text PRIMARY KEY, plan int)";
    let contexts = r#"
[[context]]
kind  = "tenant"
query = "SELECT t.id AS key, t.id AS tenant, p.price FROM tenant t JOIN plan p ON p.id = t.plan"
watch = [{ table = "tenant", tenant = "id" },
         { table = "plan", tenants = "SELECT t.id FROM tenant t JOIN changed c ON c.id = t.plan" }]
"#;
    let watched = Watched::new(schema, contexts).await?;
    let drops: Vec<String> = ["i", "u", "d", "t"]
        .iter()
        .map(|event| format!("DROP TRIGGER hubcast_changed_{event} ON plan"))
        .collect();
    let gone = format!(
        "BEGIN; {}; ALTER TABLE plan DROP COLUMN note; COMMIT",
        drops.join("; ")
    );
    watched.database.execute(&gone).await?;
    let writes =
        "INSERT INTO plan VALUES (1, 1); UPDATE plan SET price = 2; DELETE FROM plan WHERE id = 7";
    watched.database.execute(writes).await?;
    let lines = watched.migrate().await?;
    assert!(
        lines.iter().any(|l| l.starts_with("table public.plan: ")),
        "{lines:?}"
    );
    assert!(watched.check().await?.is_empty());
    assert_eq!(
        watched.after("UPDATE plan SET price = 3").await?.len(),
        2,
        "the row as it was and as it is"
    );
    Ok(())
}
