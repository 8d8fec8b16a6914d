//! The text of what is generated, and what counts as different from it.

use super::apply::Work;
use super::facts::Facts;
use crate::config::Watch;

const ITEM: u32 = 16_400;

/// A table `public.item` with a key, a tenant, two columns and nothing installed.
fn facts() -> Facts {
    let column = |name: &str, base: &str, is_varying: bool| serde_json::json!({ "name": name, "quoted": name, "sql_type": base, "base": base, "is_varying": is_varying });
    let facts = serde_json::json!({
        "names": { "item": ITEM },
        "tables": [{
            "oid": ITEM, "name": "public.item", "schema": "public", "relation": "item", "kind": "r",
            "is_temporary": false, "targets": [ITEM], "key": ["id"], "triggers": [], "may_trigger": true,
            "columns": [column("id", "int8", false), column("tenant", "text", true), column("body", "text", true),
                        column("settings", "jsonb", true), column("at", "timestamptz", false)],
        }],
        "functions": [],
        "remembered": [],
    });
    serde_json::from_value(facts).expect("facts")
}

fn watch(toml: &str) -> Watch {
    toml::from_str(&format!("table = \"item\"\n{toml}")).expect("a watch")
}

fn script(watches: &[Watch]) -> String {
    Work::of(watches.iter(), facts()).script().0
}

#[test]
fn a_table_with_a_tenant_column() {
    insta::assert_snapshot!(script(&[watch("tenant = \"tenant\"")]));
}

#[test]
fn a_table_of_which_few_columns_matter() {
    insta::assert_snapshot!(script(&[watch(
        "tenant = \"tenant\"\ncolumns = [\"body\"]"
    )]));
}

#[test]
fn all_watches_of_a_table_are_one_statement() {
    insta::assert_snapshot!(script(&[
        watch("tenant = \"tenant\"\ncolumns = [\"body\"]"),
        watch("tenant = \"id\""),
        watch("tenants = \"all\"\ncolumns = [\"at\"]"),
        watch("tenants = \"SELECT 1 FROM changed\"\ncolumns = [\"settings\"]"),
    ]));
}

#[test]
fn a_table_whose_rows_say_which_context_they_concern() {
    insta::assert_snapshot!(script(&[watch(
        "tenant = \"tenant\"\ncolumns = [\"body\"]\nkey = \"id\""
    )]));
}

#[test]
fn keys_are_left_out_where_another_watch_may_mean_other_contexts() {
    let keyed = watch("tenant = \"tenant\"\nkey = \"id\"");
    let plain = watch("tenant = \"tenant\"");
    let without = script(std::slice::from_ref(&plain));
    assert_eq!(script(&[keyed.clone(), plain]), without);
    assert_eq!(script(&[keyed.clone(), keyed]), without);
}
