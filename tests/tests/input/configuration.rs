//! A configuration of the hub that is wrong: one line, exit code 2, and no port or connection was opened.

use crate::desk::{folder_with, run};
use crate::shows;
use std::fmt::Write;
use system_tests::Result;

const GOOD: &str = r#"
[hub]
database_url = "postgres://hub@127.0.0.1:1/db"
listen = "127.0.0.1:1"
api_token = "secret"
[[spoke]]
region = "eu"
agents = ["http://127.0.0.1:7511"]
token = "secret"
[[context]]
kind = "item"
query = "SELECT 1"
watch = [{ table = "item", tenant = "tenant" }]
"#;

/// What is wrong, a part of the good configuration, and what stands there instead.
type Case = (&'static str, &'static str, &'static str);

async fn all(cases: &[Case]) -> Result<String> {
    let mut out = String::new();
    for (name, from, to) in cases {
        if !GOOD.contains(from) {
            return Err(format!("{name}: {from:?} is not in the configuration").into());
        }
        let text = GOOD.replacen(from, to, 1);
        out.push_str(&tried(name, text.as_bytes()).await?);
    }
    Ok(out)
}

async fn tried(name: &str, text: &[u8]) -> Result<String> {
    let (dir, _) = folder_with("publisher.toml", text)?;
    let ran = run("publisher", &["check"], &[("EMPTY", "")], dir.path()).await?;
    if !ran.stdout.is_empty() || ran.stderr.lines().count() != 1 {
        return Err(format!("{name}: not one line: {ran:?}").into());
    }
    let mut out = String::new();
    writeln!(
        out,
        "{name}:\n  {} exit code {}",
        ran.stderr.trim_end(),
        ran.code
    )?;
    Ok(out)
}

#[tokio::test]
async fn a_file_that_cannot_be_used_at_all_is_named() -> Result<()> {
    let (dir, _) = folder_with("other", b"")?;
    let mut out = String::new();
    for config in ["missing.toml", ".", "other/below.toml"] {
        let ran = run("publisher", &["check", "--config", config], &[], dir.path()).await?;
        writeln!(
            out,
            "{config}:\n  {} exit code {}",
            ran.stderr.trim_end(),
            ran.code
        )?;
    }
    out.push_str(&tried("no text", b"\xff\xfe\x00").await?);
    out.push_str(&tried("empty", b"").await?);
    out.push_str(
        &tried(
            "no TOML",
            b"[hub]\nlisten = \"127.0.0.1:1\"\ndatabase_url postgres\n",
        )
        .await?,
    );
    out.push_str(&tried("unclosed", b"[hub]\nlisten = \"127.0.0.1:1\n").await?);
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_key_that_does_not_exist_is_named_with_the_nearest_that_does() -> Result<()> {
    let cases: &[Case] = &[
        ("hub", "listen =", "lisen ="),
        ("hub, nothing near", "listen =", "kangaroo ="),
        ("table", "[[spoke]]", "[[spokes]]"),
        ("spoke", "agents =", "agent ="),
        ("context", "query =", "queri ="),
        ("watch", "tenant = \"tenant\"", "tenat = \"tenant\""),
        ("of another store", "agents =", "table = \"t\"\nagents ="),
    ];
    shows!(all(cases).await?);
    Ok(())
}

#[tokio::test]
async fn a_schema_that_is_missing_or_none_is_named_with_its_line() -> Result<()> {
    let mut out = String::new();
    let other = "[[context]]\nkind = \"other\"\nquery = \"SELECT 2\"\nwatch = []\n";
    for (name, schema) in [
        ("missing", None),
        ("no JSON", Some("{ \"type\": ")),
        ("no schema", Some("{ \"type\": \"objekt\" }")),
        (
            "elsewhere",
            Some("{ \"$ref\": \"https://schemas.example/item.json\" }"),
        ),
    ] {
        let text = format!("{GOOD}{other}schema = \"schemas/other.json\"\n");
        let (dir, _) = folder_with("publisher.toml", text.as_bytes())?;
        std::fs::create_dir(dir.path().join("schemas"))?;
        if let Some(schema) = schema {
            std::fs::write(dir.path().join("schemas/other.json"), schema)?;
        }
        let ran = run("publisher", &["check"], &[], dir.path()).await?;
        if !ran.stdout.is_empty() || ran.stderr.lines().count() != 1 {
            return Err(format!("{name}: not one line: {ran:?}").into());
        }
        writeln!(
            out,
            "{name}:\n  {} exit code {}",
            ran.stderr.trim_end(),
            ran.code
        )?;
    }
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_named_with_its_line() -> Result<()> {
    let cases: &[Case] = &[
        ("number for text", "\"127.0.0.1:1\"", "7400"),
        (
            "text for list",
            "[\"http://127.0.0.1:7511\"]",
            "\"http://127.0.0.1:7511\"",
        ),
        (
            "text for table",
            "[{ table = \"item\", tenant = \"tenant\" }]",
            "\"item\"",
        ),
        (
            "text in a list of tables",
            "[{ table = \"item\", tenant = \"tenant\" }]",
            "[\"item\"]",
        ),
        (
            "negative",
            "kind = \"item\"",
            "kind = \"item\"\nmax_value_bytes = -1",
        ),
        ("missing", "database_url =", "#"),
        (
            "missing in a spoke",
            "token = \"secret\"\n[[context]]",
            "[[context]]",
        ),
        ("missing in a context", "query = \"SELECT 1\"", ""),
        ("a table for a list of tables", "[[spoke]]", "[spoke]"),
    ];
    shows!(all(cases).await?);
    Ok(())
}

#[tokio::test]
async fn a_placeholder_that_leads_nowhere_is_named() -> Result<()> {
    let cases: &[Case] = &[
        (
            "unset",
            "api_token = \"secret\"",
            "api_token = \"${HUB_TOKEN}\"",
        ),
        ("unset in a list", "http://127.0.0.1:7511", "${EU_AGENT}"),
        (
            "no such file",
            "api_token = \"secret\"",
            "api_token = \"${file:token.txt}\"",
        ),
        (
            "unclosed",
            "api_token = \"secret\"",
            "api_token = \"${HUB_TOKEN\"",
        ),
        (
            "set to nothing",
            "api_token = \"secret\"",
            "api_token = \"${EMPTY}\"",
        ),
        (
            "set to nothing, in a spoke",
            "token = \"secret\"\n[[context]]",
            "token = \"${EMPTY}\"\n[[context]]",
        ),
    ];
    shows!(all(cases).await?);
    Ok(())
}

#[tokio::test]
async fn a_value_that_cannot_be_meant_is_named_with_one_that_can() -> Result<()> {
    let cases: &[Case] = &[
        (
            "cron with five fields",
            "api_token",
            "scan = \"*/10 * * * *\"\napi_token",
        ),
        (
            "cron with words",
            "api_token",
            "scan = \"every ten minutes\"\napi_token",
        ),
        (
            "cron out of range",
            "api_token",
            "scan = \"0 */10 25 * * *\"\napi_token",
        ),
        ("address", "\"127.0.0.1:1\"", "\"localhost\""),
        (
            "database",
            "postgres://hub@127.0.0.1:1/db",
            "mysql://hub/db",
        ),
        ("agent", "http://127.0.0.1:7511", "127.0.0.1:7511"),
        (
            "agent with a password",
            "http://127.0.0.1:7511",
            "http://u:hidden@127.0.0.1:7511",
        ),
        (
            "token that no header can carry",
            "token = \"secret\"\n[[context]]",
            "token = \"a\\nb\"\n[[context]]",
        ),
        (
            "API token with a space",
            "api_token = \"secret\"",
            "api_token = \"a b\"",
        ),
        ("region", "\"eu\"", "\"eu/west\""),
        ("kind", "kind = \"item\"", "kind = \"Item\""),
        ("store", "agents =", "store = \"redis\"\nagents ="),
        (
            "table with agents",
            "agents =",
            "store = \"dynamodb\"\nagents =",
        ),
        ("empty query", "SELECT 1", " ; "),
        (
            "limit",
            "kind = \"item\"",
            "kind = \"item\"\nmax_value_bytes = 0",
        ),
        (
            "watch with both",
            "tenant = \"tenant\"",
            "tenant = \"tenant\", tenants = \"all\"",
        ),
        ("watch with neither", ", tenant = \"tenant\"", ""),
    ];
    shows!(all(cases).await?);
    Ok(())
}

#[tokio::test]
async fn what_stands_twice_or_not_at_all_is_named() -> Result<()> {
    const SPOKE: &str = "[[spoke]]\nregion = \"eu\"\nagents = [\"http://127.0.0.1:7512\"]\ntoken = \"x\"\n[[context]]";
    const SAME: &str = "[[spoke]]\nregion = \"us\"\nagents = [\"http://127.0.0.1:7511/\"]\ntoken = \"x\"\n[[context]]";
    const KIND: &str = "[[context]]\nkind = \"item\"\nquery = \"SELECT 2\"\n[[context]]";
    let cases: &[Case] = &[
        ("region", "[[context]]", SPOKE),
        ("kind", "[[context]]", KIND),
        ("agent", "[[context]]", SAME),
        ("key", "listen =", "listen = \"127.0.0.1:2\"\nlisten ="),
    ];
    let mut out = all(cases).await?;
    let (hub, rest) = GOOD.split_once("[[spoke]]").unwrap_or_default();
    let (spoke, context) = rest.split_once("[[context]]").unwrap_or_default();
    out.push_str(&tried("no spoke", format!("{hub}[[context]]{context}").as_bytes()).await?);
    out.push_str(&tried("no context", format!("{hub}[[spoke]]{spoke}").as_bytes()).await?);
    shows!(out);
    Ok(())
}
