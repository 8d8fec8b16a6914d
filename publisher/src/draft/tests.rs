//! What is guessed of which tables.

use super::columns::{First, joined, published};
use super::example::ExampleKey;
use super::owner::{Known, Owner, owner};
use super::types::{agree, outsiders};
use super::words::{changes_often, is_deed, is_hash_of_shown, is_secret};
use super::*;
use crate::source::inspect::{Column, Reference};
use contexts::name::Region;

/// A column from a line such as `org_id uuid null`.
fn column(line: &str) -> Column {
    let (name, rest) = line.split_once(' ').expect("a name and a type");
    let sql_type = rest.trim_end_matches(" null");
    Column {
        name: name.into(),
        quoted: name.into(),
        sql_type: sql_type.into(),
        is_nullable: rest != sql_type,
        is_bound: name == "id",
        longest: None,
    }
}

/// A table with the key `id`, whose references are written as `user_id > users`.
fn table(name: &str, columns: &[&str], references: &[&str]) -> Table {
    let reference = |line: &&str| {
        let (column, to) = line.split_once(" > ").expect("a reference");
        Reference {
            columns: vec![column.into()],
            to: format!("public.{to}"),
            relation: to.into(),
            to_columns: vec!["id".into()],
        }
    };
    Table {
        name: format!("public.{name}"),
        relation: name.into(),
        kind: "r".into(),
        is_readable: true,
        has_primary: true,
        columns: columns.iter().map(|line| column(line)).collect(),
        keys: vec![vec!["id".into()]],
        references: references.iter().map(reference).collect(),
        indexed: vec!["id".into()],
    }
}

fn known(tables: &[Table]) -> Known {
    tables.iter().map(|t| (t.name.clone(), t.clone())).collect()
}

fn owner_of(tables: &[Table]) -> Owner {
    owner(&tables[0], &tables[0].columns[0], &known(tables))
}

/// The tables of the way and the column.
fn way(tables: &[Table]) -> String {
    let owner = owner_of(tables);
    let tables: Vec<&str> = owner
        .joins
        .iter()
        .map(|j| j.table.trim_start_matches("public."))
        .collect();
    format!("{} {}", tables.join(" "), owner.column)
        .trim()
        .to_owned()
}

fn first(region: &str, is_named: bool) -> First {
    let region = Region::new(region).expect("region");
    First { region, is_named }
}

fn context_of(tables: &[Table]) -> Context {
    context(
        &tables[0],
        &known(tables),
        &BTreeSet::new(),
        &first("local", false),
        &[],
    )
    .expect("a context")
}

#[test]
fn a_kind_is_the_table_in_the_singular() {
    let taken = BTreeSet::from(["user".to_owned()]);
    for (relation, expected) in [
        ("api_keys", "api_key"),
        ("ApiKeys", "api_key"),
        ("Policies", "policy"),
        ("address", "address"),
        ("users", "user_2"),
        ("7 odd \"names\"", "kind_7_odd_name"),
        ("über", "ber"),
        ("", "kind_"),
    ] {
        let kind = kind(relation, &taken);
        assert_eq!(kind, expected.trim_end_matches('_'), "{relation}");
        assert!(contexts::name::Kind::is_one(&kind), "{kind}");
    }
}

/// Would catch two rows that get one key.
#[test]
fn texts_that_are_joined_stay_apart() {
    let (text, number, bytes) = (column("a text"), column("b bigint"), column("c bytea"));
    assert_eq!(joined(&[&text, &number]), "t.a::text || '/' || t.b::text");
    assert_eq!(
        joined(&[&text, &bytes]),
        "t.a::text || '/' || encode(t.c, 'hex')"
    );
    let both = joined(&[&text, &text]);
    assert_eq!(both.matches("'%2F'").count(), 2, "{both}");
}

#[test]
fn what_looks_secret_is_told_by_name_and_type() {
    let of = table("users", &["id bigint"], &["token_ref > tokens"]);
    for secret in [
        "password_hash text",
        "api_key text",
        "apiKey character varying",
        "webhook_secret text",
        "token uuid",
        "otp text",
        "ssn text",
        "credentials jsonb",
    ] {
        assert!(is_secret(&of, &column(secret)), "{secret}");
    }
    for plain in [
        "name text",
        "token_expires_at timestamp with time zone",
        "tokens_used bigint",
        "has_password boolean",
        "secret_id text",
        "token_type text",
        "token_ref uuid",
        "session text",
        "shipping text",
    ] {
        assert!(!is_secret(&of, &column(plain)), "{plain}");
    }
}

#[test]
fn what_changes_with_every_use_is_told_by_name_and_type() {
    for often in [
        "last_used_at timestamp with time zone",
        "lastSeenAt timestamp without time zone",
        "last_login_ip inet",
        "updated_at timestamp with time zone",
        "request_count bigint",
    ] {
        assert!(changes_often(&column(often)), "{often}");
    }
    for seldom in [
        "last_name text",
        "last4 text",
        "updated boolean",
        "created_at timestamp with time zone",
        "max_requests bigint",
        "used_at timestamp with time zone",
    ] {
        assert!(!changes_often(&column(seldom)), "{seldom}");
    }
}

#[test]
fn a_table_of_keys_is_looked_up_by_their_hash() {
    let mut keys = table("api_keys", &["id bigint", "hash text", "org_id uuid"], &[]);
    for (line, is) in [
        ("hash text", true),
        ("key_hash bytea", true),
        ("hashed_token text", true),
        ("password_hash text", false),
        ("content_hash text", false),
        ("key_hash bigint", false),
        ("key text", false),
    ] {
        assert_eq!(is_hash_of_shown(&keys, &column(line)), is, "{line}");
    }
    let users = table("users", &["id bigint"], &[]);
    assert!(!is_hash_of_shown(&users, &column("hash text")));
    // Only if it finds one row.
    assert_eq!(context_of(std::slice::from_ref(&keys)).key.columns, ["id"]);
    keys.keys.push(vec!["hash".into()]);
    let context = context_of(&[keys]);
    assert_eq!(context.key.columns, ["hash"]);
    let toml = context.toml();
    assert!(
        toml.contains("t.hash AS key") && !toml.contains("sensitive"),
        "{toml}"
    );
}

#[test]
fn who_did_something_is_told_by_name() {
    assert!(is_deed("created_by") && is_deed("updatedBy") && is_deed("invited_by_id"));
    assert!(!is_deed("standby") && !is_deed("user_id"));
}

#[test]
fn a_column_of_its_own_comes_before_any_way() {
    let users = table("users", &["id bigint", "org_id uuid"], &[]);
    let keys =
        |columns: &[&str], references: &[&str]| [table("keys", columns, references), users.clone()];
    assert_eq!(
        way(&keys(
            &["id bigint", "account text", "user_id bigint"],
            &["user_id > users"]
        )),
        "account"
    );
    assert_eq!(
        way(&keys(
            &["id bigint", "owner uuid"],
            &["owner > organizations"]
        )),
        "owner"
    );
    // A parent is not whose a tenant is.
    assert_eq!(
        way(&[table(
            "orgs",
            &["id bigint", "parent bigint null"],
            &["parent > orgs"]
        )]),
        "id"
    );
    let own = owner_of(&[table("flags", &["id text"], &[])]);
    assert!(own.is_own && own.joins.is_empty());
}

#[test]
fn the_shortest_way_wins_then_who_owns_and_what_is_never_null() {
    let users = table("users", &["id bigint", "org_id uuid"], &[]);
    let items = table(
        "items",
        &["id bigint", "user_id bigint"],
        &["user_id > users"],
    );
    let boxes = table(
        "boxes",
        &["id bigint", "item_id bigint"],
        &["item_id > items"],
    );
    let all = |columns: &[&str], references: &[&str]| {
        [
            table("keys", columns, references),
            users.clone(),
            items.clone(),
            boxes.clone(),
        ]
    };
    let columns = [
        "id bigint",
        "box_id bigint",
        "item_id bigint null",
        "created_by bigint",
        "owner_id bigint null",
    ];
    assert_eq!(
        way(&all(&columns, &["box_id > boxes", "item_id > items"])),
        "items users org_id"
    );
    assert_eq!(
        way(&all(&columns, &["box_id > boxes"])),
        "boxes items users org_id"
    );
    assert_eq!(
        way(&all(&columns, &["box_id > boxes", "created_by > users"])),
        "users org_id"
    );
    let two = owner_of(&all(&columns, &["created_by > users", "owner_id > users"]));
    assert_eq!(two.deciding, ["owner_id"]);
    assert!(
        two.says.iter().any(|s| s.contains("way by created_by.")),
        "{:?}",
        two.says
    );
    assert!(
        two.says.iter().any(|s| s.contains("NULL in owner_id")),
        "{:?}",
        two.says
    );
    let two = owner_of(&all(&columns, &["owner_id > users", "box_id > users"]));
    assert_eq!(two.deciding, ["box_id"]);
    // Further than three references nobody looks.
    let crates = table(
        "crates",
        &["id bigint", "box_id bigint"],
        &["box_id > boxes"],
    );
    let far = [
        table(
            "keys",
            &["id bigint", "crate_id bigint"],
            &["crate_id > crates"],
        ),
        crates,
        boxes,
        items,
        users,
    ];
    assert!(owner_of(&far).is_own);
}

/// Would catch a join that is not needed, and one whose tenant is called otherwise than elsewhere.
#[test]
fn what_refers_by_the_tenant_has_it_and_what_refers_by_another_name_looks_it_up() {
    let mut notes = table(
        "notes",
        &["id bigint", "event_of uuid", "event_id bigint"],
        &["event_of > events"],
    );
    notes.references[0].columns.push("event_id".into());
    notes.references[0].to_columns = vec!["tenant_id".into(), "id".into()];
    let events = table("events", &["id bigint", "tenant_id uuid"], &[]);
    let owner = owner_of(&[notes, events]);
    assert_eq!((owner.column.as_str(), owner.joins.len()), ("event_of", 0));
    assert_eq!(owner.deciding, ["event_of"]);
    let mut keys = table(
        "keys",
        &["id bigint", "org_slug text"],
        &["org_slug > orgs"],
    );
    keys.references[0].to_columns = vec!["slug".into()];
    let orgs = table("orgs", &["id uuid", "slug text"], &[]);
    let owner = owner_of(&[keys, orgs]);
    assert_eq!((owner.sql(), owner.joins.len()), ("o.id".to_owned(), 1));
    assert_eq!(owner.joins[0].deciding, ["id", "slug"]);
}

#[test]
fn a_project_is_somebodys_if_it_says_whose() {
    let keys = table(
        "keys",
        &["id bigint", "project_id bigint"],
        &["project_id > projects"],
    );
    let of_org = table("projects", &["id bigint", "org_id uuid"], &[]);
    let of_nobody = table("projects", &["id bigint"], &[]);
    assert_eq!(way(&[keys.clone(), of_org]), "projects org_id");
    assert_eq!(way(&[keys, of_nobody]), "project_id");
}

/// Would catch a change of a table on the way that no trigger sees, or that is seen for nothing.
#[test]
fn every_table_on_the_way_is_watched() {
    let users = table(
        "users",
        &["id bigint", "org_id uuid", "last_seen_at date"],
        &[],
    );
    let items = table(
        "items",
        &["id bigint", "user_id bigint"],
        &["user_id > users"],
    );
    let columns = [
        "id bigint",
        "item_id bigint",
        "name text",
        "last_used_at date",
    ];
    let context = context_of(&[table("keys", &columns, &["item_id > items"]), items, users]);
    let expected = r#"watch = [
  { table = "public.keys", tenants = "SELECT u.org_id FROM changed JOIN public.items i ON i.id = changed.item_id JOIN public.users u ON u.id = i.user_id", columns = ["id", "item_id", "name"] },
  { table = "public.items", tenants = "SELECT u.org_id FROM changed JOIN public.users u ON u.id = changed.user_id", columns = ["user_id"] },
  { table = "public.users", tenant = "org_id", columns = ["org_id"] },
]
"#;
    let toml = context.toml();
    assert!(toml.ends_with(expected), "{toml}");
    let indexes = context.missing_indexes();
    assert_eq!(
        indexes,
        [
            "CREATE INDEX CONCURRENTLY ON public.users (org_id)",
            "CREATE INDEX CONCURRENTLY ON public.keys (item_id)",
            "CREATE INDEX CONCURRENTLY ON public.items (user_id)"
        ]
    );
}

#[test]
fn regions_are_used_where_that_loses_nothing_in_silence() {
    let of = table("keys", &["id bigint", "regions text[]"], &[]);
    let key = columns::key(&of).expect("a key");
    let used = |region: &str, is_named: bool, rows: &[&str]| {
        let named: Vec<String> = rows.iter().map(|n| (*n).to_owned()).collect();
        let found = published(&of, &key, None, &first(region, is_named), &named);
        (
            found.regions.is_some(),
            found.left_out.len(),
            found.notes.len(),
        )
    };
    // The region that `init` made up: everything goes there, and that is said.
    assert_eq!(used("local", false, &["eu", "us"]), (false, 1, 1));
    assert_eq!(used("local", false, &[]), (false, 1, 0));
    assert_eq!(used("local", false, &["local"]), (true, 0, 0));
    // A region that a person named gets what is meant for it.
    assert_eq!(used("eu", true, &["eu"]), (true, 0, 0));
    assert_eq!(used("eu", true, &["eu", "us"]), (true, 0, 1));
    assert_eq!(used("eu", true, &["us"]), (true, 0, 1));
    assert_eq!(used("eu", true, &[]), (true, 0, 0));
}

fn agreed(tables: &[Table], small: &[&str]) -> Vec<Tenants> {
    let mut contexts: Vec<Context> = tables
        .iter()
        .map(|t| context_of(std::slice::from_ref(t)))
        .collect();
    let small = small.iter().map(|t| format!("public.{t}")).collect();
    agree(&mut contexts, &small);
    contexts.into_iter().map(|c| c.tenants).collect()
}

#[test]
fn tenants_are_of_one_type_and_found_by_an_index_where_that_can_be() {
    let of = |name: &str, column: &str| table(name, &["id bigint", column], &[]);
    let flags = table("flags", &["id text"], &[]);
    let orgs = of("keys", "org_id uuid");
    assert_eq!(
        agreed(&[orgs.clone(), of("b", "org_id uuid")], &[]),
        [Tenants::Alike, Tenants::Alike]
    );
    // Numbers of several sizes: an index knows them all.
    assert_eq!(
        agreed(&[of("a", "org_id integer"), of("b", "org_id bigint")], &[]),
        [Tenants::Widened("bigint".into()), Tenants::Alike]
    );
    assert_eq!(
        agreed(
            &[of("a", "org_id character varying"), of("b", "org_id text")],
            &[]
        ),
        [Tenants::Widened("text".into()), Tenants::Alike]
    );
    // What is nobody's must not cost the others their index, unless it is large.
    let shared = Tenants::Shared("'00000000-0000-0000-0000-000000000000'::uuid".into());
    assert_eq!(
        agreed(&[flags.clone(), orgs.clone()], &["flags"]),
        [shared, Tenants::Alike]
    );
    assert_eq!(
        agreed(&[flags.clone(), orgs.clone()], &[]),
        [Tenants::Alike, Tenants::AsText]
    );
    assert_eq!(
        agreed(&[of("a", "org_id text"), orgs.clone()], &["a"]),
        [Tenants::Alike, Tenants::AsText]
    );
    let contexts = [context_of(&[flags]), context_of(&[orgs])];
    assert_eq!(outsiders(&contexts), ["public.flags"]);
}

/// Would catch a secret on the screen.
#[test]
fn an_example_shows_no_secret_and_can_be_taken_back() {
    let local = Region::new("local").expect("region");
    let mut keys = table(
        "api_keys",
        &[
            "id bigint",
            "name text null",
            "key_hash text",
            "org_id uuid",
        ],
        &[],
    );
    keys.keys.push(vec!["key_hash".into()]);
    let example = |table: &Table, rows: &[&str]| {
        let question = context_of(std::slice::from_ref(table)).question(table, &local);
        let rows: Vec<String> = rows.iter().map(|r| (*r).to_owned()).collect();
        (question.sql.clone(), question.example(&rows))
    };
    let rows = [
        r#"{"key": null, "by": ["6"], "allowed": [false]}"#,
        r#"{"key": null, "by": ["7"], "allowed": [true]}"#,
    ];
    let (sql, found) = example(&keys, &rows);
    assert!(!sql.contains("key_hash"), "{sql}");
    let found = found.expect("a row");
    let find = "SELECT t.key_hash FROM public.api_keys t WHERE id = 7";
    assert_eq!(found.key, ExampleKey::AskFor(find.into()));
    let (there, back) = found.change.expect("a change");
    assert_eq!(
        there,
        "UPDATE public.api_keys SET name = name || '.' WHERE id = 7"
    );
    assert_eq!(
        back,
        "UPDATE public.api_keys SET name = left(name, -1) WHERE id = 7"
    );
    // Nothing to change in any row: then it is only read.
    assert_eq!(example(&keys, &rows[..1]).1.map(|e| e.change), Some(None));
    assert_eq!(example(&keys, &[]).1, None);
    keys.keys = vec![vec!["key_hash".into()]];
    let (sql, found) = example(&keys, &[r#"{"key": null, "by": [], "allowed": [true]}"#]);
    assert!(!sql.contains("key_hash"), "{sql}");
    let (there, _) = found.and_then(|e| e.change).expect("a change");
    assert_eq!(
        there,
        "UPDATE public.api_keys t SET name = name || '.' WHERE t.key_hash = :'key'"
    );
}
