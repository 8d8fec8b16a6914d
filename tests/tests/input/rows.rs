//! Rows that cannot be published: what they concern keeps its last good value, and the rest goes on.

use crate::desk::{CONTEXTS, Desk, expect};
use crate::shows;
use std::fmt::Write;
use system_tests::Result;

async fn same(desk: &Desk, reads: &[(&str, &str)], before: &[String]) -> Result<()> {
    for ((kind, key), before) in reads.iter().zip(before) {
        let now = desk.reads(0, kind, key).await?;
        expect(
            now == *before,
            format!("{kind} {key}: was {before}, is {now}"),
        )?;
    }
    Ok(())
}

async fn all(desk: &Desk, reads: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (kind, key) in reads {
        found.push(desk.reads(0, kind, key).await?);
    }
    Ok(found)
}

#[tokio::test]
async fn null_and_duplicate_keys_hold_only_what_they_concern() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    desk.sql("INSERT INTO item (tenant, key, body) VALUES ('t3', 'twice', 'first')")
        .await?;
    desk.hub.run(&["scan"]).await?.ok()?;
    let held = [
        ("item", "i2"),
        ("item", "twice"),
        ("item", "i1"),
        ("part", "p2"),
    ];
    let before = all(&desk, &held).await?;
    desk.sql(
        "INSERT INTO item (tenant, key, body) VALUES (NULL, 'nobody', 'x'), ('t2', NULL, 'x'), ('t3', 'twice', 'second');
         UPDATE item SET body = 'two' WHERE key IN ('i2', 'i3'); UPDATE part SET body = 'two' WHERE key = 'p3'",
    )
    .await?;
    let mut out = desk.types(&["scan"]).await?;
    out.push_str(&desk.types(&["status"]).await?);
    out.push_str(&desk.types(&["diff"]).await?);
    out.push_str(&desk.types(&["republish", "tenant", "t2"]).await?);
    out.push_str(&desk.types(&["republish", "tenant", "t4"]).await?);
    out.push_str(&desk.types(&["get", "item", "twice"]).await?);
    same(&desk, &held, &before).await?;
    for (kind, key) in [("item", "i3"), ("part", "p3"), ("item", "nobody")] {
        writeln!(out, "{kind} {key}: {}", desk.reads(0, kind, key).await?)?;
    }
    out.push_str("mended:\n");
    desk.sql("DELETE FROM item WHERE tenant IS NULL OR key IS NULL OR body = 'second'")
        .await?;
    out.push_str(&desk.types(&["scan"]).await?);
    writeln!(out, "item i2: {}", desk.reads(0, "item", "i2").await?)?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_too_large_keeps_the_last_good_one_until_it_shrinks() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    let before = desk.reads(0, "item", "i1").await?;
    desk.sql(
        "UPDATE item SET body = repeat('x', 300) WHERE key = 'i1';
         INSERT INTO item (tenant, key, body) VALUES ('t1', 'new', repeat('y', 300)), ('t1', 'small', 'fine')",
    )
    .await?;
    let mut out = desk.types(&["scan"]).await?;
    out.push_str(&desk.types(&["republish", "tenant", "t1"]).await?);
    out.push_str(&desk.types(&["get", "item", "i1"]).await?);
    out.push_str(&desk.types(&["get", "item", "new"]).await?);
    let now = desk.reads(0, "item", "i1").await?;
    expect(now == before, format!("the last good value stays: {now}"))?;
    for key in ["new", "small"] {
        writeln!(out, "item {key}: {}", desk.reads(0, "item", key).await?)?;
    }
    out.push_str("shrunk:\n");
    desk.sql("UPDATE item SET body = 'short' WHERE tenant = 't1'")
        .await?;
    out.push_str(&desk.types(&["republish", "tenant", "t1"]).await?);
    out.push_str(&desk.types(&["scan"]).await?);
    for key in ["i1", "new", "small"] {
        writeln!(out, "item {key}: {}", desk.reads(0, "item", key).await?)?;
    }
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_value_that_breaks_its_schema_keeps_the_last_good_one_until_it_is_right() -> Result<()> {
    let contexts = CONTEXTS.replacen("max_value", "schema = \"item.json\"\nmax_value", 1);
    let mut desk = Desk::with(&["eu"], crate::desk::SCHEMA, &contexts).await?;
    let schema = desk.dir.path().join("item.json");
    let text = r#"{ "type": "object", "required": ["body"], "properties": { "body": { "maxLength": 5 }, "share": { "minimum": 10 } } }"#;
    std::fs::write(&schema, text)?;
    desk.open().await?;
    let before = desk.reads(0, "item", "i1").await?;
    desk.sql(
        "UPDATE item SET body = 'a secret that is too long' WHERE key = 'i1'; UPDATE item SET divisor = 50 WHERE key = 'i2';
         UPDATE item SET body = 'two' WHERE key = 'i3'; INSERT INTO item (tenant, key, body) VALUES ('t1', 'new', 'too long')",
    )
    .await?;
    let mut out = desk.types(&["scan"]).await?;
    out.push_str(&desk.types(&["republish", "tenant", "t1"]).await?);
    out.push_str(&desk.types(&["get", "item", "i1"]).await?);
    let now = desk.reads(0, "item", "i1").await?;
    expect(now == before, format!("the last good value stays: {now}"))?;
    for key in ["i2", "i3", "new"] {
        writeln!(out, "item {key}: {}", desk.reads(0, "item", key).await?)?;
    }
    out.push_str("another schema in the file:\n");
    std::fs::write(&schema, "{}")?;
    out.push_str(&desk.types(&["scan"]).await?);
    out.push_str(&desk.types(&["migrate"]).await?);
    out.push_str(&desk.types(&["scan"]).await?);
    for key in ["i1", "i2", "new"] {
        writeln!(out, "item {key}: {}", desk.reads(0, "item", key).await?)?;
    }
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_row_that_fails_at_run_time_holds_one_kind_of_one_tenant() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    let held = [("item", "i2")];
    let before = all(&desk, &held).await?;
    desk.sql(
        "UPDATE item SET body = 'two'; UPDATE part SET body = 'two'; UPDATE item SET divisor = 0 WHERE key = 'i2'",
    )
    .await?;
    let mut out = desk.types(&["scan"]).await?;
    out.push_str(&desk.types(&["republish", "tenant", "t2", "t3"]).await?);
    out.push_str(&desk.types(&["get", "item", "i2"]).await?);
    same(&desk, &held, &before).await?;
    for (kind, key) in [("item", "i1"), ("item", "i3"), ("part", "p2")] {
        writeln!(out, "{kind} {key}: {}", desk.reads(0, kind, key).await?)?;
    }
    out.push_str("mended:\n");
    desk.sql("UPDATE item SET divisor = 4 WHERE key = 'i2'")
        .await?;
    out.push_str(&desk.types(&["scan"]).await?);
    writeln!(out, "item i2: {}", desk.reads(0, "item", "i2").await?)?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_region_in_rows_that_no_spoke_has_is_a_warning() -> Result<()> {
    let desk = Desk::new(&["eu", "us"]).await?;
    desk.sql("UPDATE item SET regions = '{us,mars}' WHERE key = 'i1'")
        .await?;
    let mut out = desk.types(&["scan"]).await?;
    for region in 0..2 {
        writeln!(out, "item i1: {}", desk.reads(region, "item", "i1").await?)?;
    }
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn regions_that_are_null_are_held_where_they_are_required() -> Result<()> {
    let contexts = CONTEXTS.replacen("max_value", "regions_required = true\nmax_value", 1);
    let schema = format!(
        "{} UPDATE item SET regions = '{{eu}}';",
        crate::desk::SCHEMA
    );
    let mut desk = Desk::with(&["eu"], &schema, &contexts).await?;
    desk.open().await?;
    desk.sql("UPDATE item SET regions = NULL, body = 'two' WHERE key = 'i1'; UPDATE item SET regions = '{eu,NULL}' WHERE key = 'i2'")
        .await?;
    let mut out = desk.types(&["republish", "tenant", "t1", "t2"]).await?;
    writeln!(out, "item i1: {}", desk.reads(0, "item", "i1").await?)?;
    writeln!(out, "item i2: {}", desk.reads(0, "item", "i2").await?)?;
    shows!(out);
    Ok(())
}
