//! `publisher init`: what it writes for tables of all sorts can be used as it is, and a change of each reaches an agent.
//!
//! | module | is about |
//! | --- | --- |
//! | `place` | a folder in which it was run |
//! | `typed` | the commands that it prints |

mod place;
mod typed;

use crate::desk::expect;
use place::{Place, init};
use system_tests::Result;
use system_tests::postgres;

const TABLES: &str = r#"
CREATE SCHEMA "Odd ""Schema""";
CREATE TABLE organizations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, "regions" text);
CREATE TABLE "Odd ""Schema"""."API ""Keys"" $1 \ 'x'" ("Key Hash" text PRIMARY KEY, "orgRef" uuid REFERENCES organizations (id),
    "Password" text, "expiresAt" timestamptz, "key" int, "tenants?" text, raw bytea);
CREATE INDEX ON "Odd ""Schema"""."API ""Keys"" $1 \ 'x'" ("orgRef");
CREATE TABLE events (tenant_id uuid NOT NULL, place text NOT NULL, code text NOT NULL, until date, valid_until timestamp,
    PRIMARY KEY (tenant_id, place, code)) PARTITION BY HASH (tenant_id);
CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE settings (name text PRIMARY KEY, value jsonb);
CREATE TABLE notes (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, event_tenant uuid NOT NULL, event_place text NOT NULL,
    event_code text NOT NULL, body text, size int GENERATED ALWAYS AS (length(body)) STORED,
    FOREIGN KEY (event_tenant, event_place, event_code) REFERENCES events);
CREATE INDEX ON notes (event_tenant);
CREATE TABLE log (line text);
CREATE VIEW names AS SELECT name FROM settings;
"#;
const ODD: &str = r#""Odd ""Schema"""."API ""Keys"" $1 \ 'x'""#;

/// Would catch a configuration that `check` or `migrate` refuses or warns of, two rows that get one key, and a change that
/// its triggers do not see.
#[tokio::test]
async fn what_it_writes_works_for_tables_of_all_sorts() -> Result<()> {
    let tables = [
        ODD,
        "Events",
        "settings",
        "organizations",
        "notes",
        "public.events",
    ];
    let mut place = Place::new(TABLES, &tables, None).await?;
    expect(
        place.said.contains("queries: all kinds can be published")
            && !place.said.contains("warning"),
        &place.said,
    )?;
    crate::shows!(format!("{}\n{}", place.plain(&place.said), place.text));
    let warned = place.start().await?;
    expect(!warned.contains("warning"), &warned)?;
    let changes = format!(
        r#"INSERT INTO organizations (id, name) VALUES ('00000000-0000-0000-0000-000000000001', 'one');
        INSERT INTO {ODD} VALUES ('h/1', '00000000-0000-0000-0000-000000000001', 'p', 'infinity', 7, 't', 'x');
        INSERT INTO events SELECT '00000000-0000-0000-0000-000000000001', p, c FROM (VALUES ('a/b', 'c'), ('a', 'b/c')) AS v(p, c);
        INSERT INTO notes (event_tenant, event_place, event_code, body)
            VALUES ('00000000-0000-0000-0000-000000000001', 'a', 'b/c', 'hello');
        INSERT INTO settings VALUES ('limit', '{{"n": 1}}');"#
    );
    place.sql(&changes).await?;
    for (name, value) in [
        (
            "api_keys_1_x/h%2F1",
            r#"{"tenants?": "t", "key_column": 7}"#,
        ),
        (
            "event/00000000-0000-0000-0000-000000000001%2Fa%252Fb%2Fc",
            r#"{"code": "c", "place": "a/b", "until": null}"#,
        ),
        (
            "event/00000000-0000-0000-0000-000000000001%2Fa%2Fb%252Fc",
            r#"{"code": "b/c", "place": "a", "until": null}"#,
        ),
        ("setting/limit", r#"{"value": {"n": 1}}"#),
        (
            "organization/00000000-0000-0000-0000-000000000001",
            r#"{"name": "one", "regions_column": null}"#,
        ),
        (
            "note/1",
            r#"{"body": "hello", "size": 5, "event_code": "b/c", "event_place": "a"}"#,
        ),
    ] {
        place.has(name, value).await?;
    }
    place
        .is_of("note/1", "00000000-0000-0000-0000-000000000001")
        .await?;
    place.stop().await
}

const KEYS: &str = "
CREATE TABLE orgs (id uuid PRIMARY KEY, plan text);
CREATE TABLE users (id bigint PRIMARY KEY, org_id uuid NOT NULL REFERENCES orgs, name text, last_seen_at timestamptz);
CREATE TABLE api_keys (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE, created_by bigint REFERENCES users,
    key_hash text UNIQUE NOT NULL, name text, password_hash text, last_used_at timestamptz, updated_at timestamptz);
CREATE TABLE scopes (id bigint PRIMARY KEY, api_key_id bigint NOT NULL REFERENCES api_keys ON DELETE CASCADE, scope text);
CREATE INDEX ON users (org_id);
CREATE INDEX ON api_keys (user_id);
CREATE INDEX ON scopes (api_key_id);
INSERT INTO orgs VALUES ('aaaaaaaa-0000-0000-0000-000000000000'), ('bbbbbbbb-0000-0000-0000-000000000000');
INSERT INTO users VALUES (1, 'aaaaaaaa-0000-0000-0000-000000000000'), (2, 'bbbbbbbb-0000-0000-0000-000000000000');
INSERT INTO api_keys VALUES (7, 1, 2, 'h7', 'seven', 'never seen'), (8, 2, 2, 'h8', 'eight', 'never seen');
INSERT INTO scopes VALUES (1, 7, 'read'), (2, 8, 'read');
";
const A: &str = "aaaaaaaa-0000-0000-0000-000000000000";
const B: &str = "bbbbbbbb-0000-0000-0000-000000000000";

/// Would catch a change of a table on the way to the tenant that no trigger sees, by which a scope would stay with whom it
/// was. No other kind has these tables watched.
#[tokio::test]
async fn a_scope_is_its_keys_users_organizations_wherever_they_go() -> Result<()> {
    let mut place = Place::new(KEYS, &["scopes"], None).await?;
    place.start().await?;
    place.is_of("scope/1", A).await?;
    for (change, whose) in [
        (format!("UPDATE users SET org_id = '{B}' WHERE id = 1"), B),
        (format!("UPDATE users SET org_id = '{A}' WHERE id = 1"), A),
        ("UPDATE api_keys SET user_id = 2 WHERE id = 7".to_owned(), B),
        (
            format!(
                "INSERT INTO users VALUES (3, '{A}'); INSERT INTO api_keys VALUES (9, 3, NULL, 'h9')"
            ),
            B,
        ),
        (
            "UPDATE scopes SET api_key_id = 9 WHERE id = 1".to_owned(),
            A,
        ),
        (
            format!(
                "BEGIN; UPDATE api_keys SET user_id = 1; UPDATE users SET org_id = '{B}' WHERE id <> 2; COMMIT"
            ),
            B,
        ),
    ] {
        place.sql(&change).await?;
        let of = place.is_of("scope/1", whose).await;
        of.map_err(|e| format!("{change}: {e}"))?;
    }
    place.sql("DELETE FROM api_keys WHERE id = 9").await?;
    place.is_gone("scope/1").await?;
    place.stop().await
}

/// Would catch kinds that see no tables of one another's, a secret that goes out, and a build for nothing.
#[tokio::test]
async fn a_key_is_its_users_organizations_wherever_the_user_goes() -> Result<()> {
    let mut place = Place::new(KEYS, &["api_keys", "scopes", "users"], None).await?;
    expect(
        !place.said.contains("warning") && !place.said.contains("never seen"),
        &place.said,
    )?;
    crate::shows!(format!("{}\n{}", place.plain(&place.said), place.text));
    let warned = place.start().await?;
    expect(!warned.contains("warning"), &warned)?;
    let are_of = async |seven: &str, eight: &str| {
        place.is_of("api_key/h7", seven).await?;
        place.is_of("scope/1", seven).await?;
        place.is_of("api_key/h8", eight).await?;
        place.is_of("scope/2", eight).await
    };
    are_of(A, B).await?;
    place
        .has(
            "api_key/h7",
            r#"{"id": 7, "name": "seven", "user_id": 1, "created_by": 2}"#,
        )
        .await?;
    // A user goes to another organization, a key to another user, a scope to another key.
    place
        .sql(&format!("UPDATE users SET org_id = '{B}' WHERE id = 1"))
        .await?;
    are_of(B, B).await?;
    place.is_of("user/1", B).await?;
    place
        .sql(&format!("INSERT INTO users VALUES (3, '{A}')"))
        .await?;
    place
        .sql("UPDATE api_keys SET user_id = 3 WHERE id = 8")
        .await?;
    are_of(B, A).await?;
    place
        .sql("UPDATE scopes SET api_key_id = 8 WHERE id = 1")
        .await?;
    place.is_of("scope/1", A).await?;
    // All in one, so that what led to the tenant before leads there no more.
    place
        .sql(&format!(
            "BEGIN; UPDATE users SET org_id = '{A}' WHERE id = 1; UPDATE users SET org_id = '{B}' WHERE id = 3;
             UPDATE api_keys SET user_id = 1, name = 'moved' WHERE id = 8; COMMIT"
        ))
        .await?;
    place
        .has(
            "api_key/h8",
            r#"{"id": 8, "name": "moved", "user_id": 1, "created_by": 2}"#,
        )
        .await?;
    place.is_of("scope/1", A).await?;
    place
        .sql("BEGIN; UPDATE api_keys SET created_by = NULL; DELETE FROM users WHERE id = 1; COMMIT")
        .await?;
    for gone in ["api_key/h7", "api_key/h8", "scope/1", "scope/2", "user/1"] {
        place.is_gone(gone).await?;
    }
    // What a use leaves behind causes nothing; the last of these shows that it would.
    place
        .sql("INSERT INTO api_keys VALUES (9, 3, NULL, 'h9', 'nine')")
        .await?;
    for (change, rows) in [
        (
            "UPDATE api_keys SET last_used_at = now(), updated_at = now()",
            0,
        ),
        ("UPDATE users SET last_seen_at = now()", 0),
        ("UPDATE api_keys SET password_hash = 'x'", 0),
        ("UPDATE api_keys SET name = name || '!'", 2),
    ] {
        let check = format!(
            "BEGIN; {change}; DO $$ BEGIN ASSERT {rows} = (SELECT count(*) FROM hubcast.outbox \
             WHERE xid = pg_current_xact_id() AND mark IS NULL); END $$; COMMIT"
        );
        place
            .sql(&check)
            .await
            .map_err(|e| format!("{change}: {e}"))?;
    }
    place.stop().await
}

const PLACES: &str = "
CREATE TABLE keys (id int PRIMARY KEY, org_id int NOT NULL, regions text[]);
INSERT INTO keys VALUES (1, 1, '{eu}'), (2, 1, '{us,eu}'), (3, 1, '{us}'), (4, 1, NULL), (5, 1, '{}');
";

/// Would catch contexts that go nowhere without a word, and some that go where they must not.
#[tokio::test]
async fn rows_say_where_they_go_if_the_region_is_one_of_theirs() -> Result<()> {
    let mut eu = Place::new(PLACES, &["keys"], Some("eu")).await?;
    let local = Place::new(PLACES, &["keys"], None).await?;
    crate::shows!(format!(
        "{}\n{}\n\n{}\n{}",
        eu.plain(&eu.said),
        eu.text,
        local.plain(&local.said),
        local.text
    ));
    eu.start().await?;
    for (key, is_there) in [(1, true), (2, true), (3, false), (4, true), (5, false)] {
        let name = format!("key/{key}");
        match is_there {
            true => eu.is_of(&name, "1").await?,
            false => eu.is_gone(&name).await?,
        }
    }
    eu.stop().await
}

/// Would catch a cast that hides an index from the builds of one tenant.
#[tokio::test]
async fn tenants_of_several_types_are_found_by_their_indexes() -> Result<()> {
    let schema = "
        CREATE TABLE keys (id int PRIMARY KEY, org_id int NOT NULL, name text);
        CREATE TABLE hosts (id int PRIMARY KEY, org_id bigint NOT NULL, name text);
        CREATE TABLE flags (name text PRIMARY KEY, state text);
        CREATE INDEX ON keys (org_id);
        CREATE INDEX ON hosts (org_id);";
    let mut place = Place::new(schema, &["keys", "hosts", "flags"], None).await?;
    expect(
        !place.said.contains("warning") && !place.said.contains("CREATE INDEX"),
        &place.said,
    )?;
    let warned = place.start().await?;
    expect(!warned.contains("warning"), &warned)?;
    place
        .sql("INSERT INTO keys VALUES (1, 5, 'k'); INSERT INTO hosts VALUES (1, 5, 'h'); INSERT INTO flags VALUES ('f', 'on')")
        .await?;
    for (name, tenant) in [("key/1", "5"), ("host/1", "5"), ("flag/f", "0")] {
        place.is_of(name, tenant).await?;
    }
    place.sql("UPDATE flags SET state = 'off'").await?;
    place.has("flag/f", r#"{"state": "off"}"#).await?;
    place.stop().await?;
    // Where no type is both, the indexes are named that would do, and do.
    let schema = "
        CREATE TABLE keys (id int PRIMARY KEY, tenant text NOT NULL, name text);
        CREATE TABLE hosts (id int PRIMARY KEY, org_id uuid NOT NULL, name text);
        CREATE INDEX ON hosts (org_id);";
    let place = Place::new(schema, &["keys", "hosts"], None).await?;
    expect(place.said.contains("read whole"), &place.said)?;
    let indexes: Vec<&str> = place
        .said
        .lines()
        .filter_map(|line| {
            line.split_once("CREATE INDEX CONCURRENTLY ")?
                .1
                .strip_suffix('"')
        })
        .collect();
    expect(indexes.len() == 2, &place.said)?;
    for index in indexes {
        place.sql(&format!("CREATE INDEX {index}")).await?;
    }
    let (_, said) = init(
        place.dir.path(),
        &place.database,
        &["--table", "keys", "--table", "hosts", "--force"],
    )?;
    expect(!said.contains("read whole"), &said)?;
    place.stop().await
}

#[tokio::test]
async fn what_cannot_be_published_or_is_there_already_is_left_alone() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("hubcast-init-").tempdir()?;
    let dir = dir.path();
    let (_postgres, database) = postgres::test_database().await?;
    postgres::execute(&database, TABLES).await?;
    let mut out = String::new();
    for table in ["nothing", "log", "names"] {
        let (code, said) = init(dir, &database, &["--table", table])?;
        expect(code == 2, &said)?;
        out += &said;
    }
    expect(std::fs::read_dir(dir)?.count() == 0, "nothing is written")?;
    std::fs::write(dir.join("publisher.toml"), "mine")?;
    let (code, said) = init(dir, &database, &["--table", "settings"])?;
    expect(code == 2, &said)?;
    out += &said;
    expect(
        std::fs::read(dir.join("publisher.toml"))? == b"mine",
        "it stays",
    )?;
    crate::shows!(out);
    let (code, said) = init(dir, &database, &["--table", "settings", "--force"])?;
    expect(code == 0, &said)?;
    let token = std::fs::read_to_string(dir.join("hubcast-api.token"))?;
    let (code, said) = init(dir, &database, &["--table", "settings", "--force"])?;
    expect(code == 0, &said)?;
    let again = std::fs::read_to_string(dir.join("hubcast-api.token"))?;
    expect(token == again, "a token that is in use stays")
}
