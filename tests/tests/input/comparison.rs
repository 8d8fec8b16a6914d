//! `diff`, `get` and `scan --dry-run`: they find what differs, and change nothing.

use crate::desk::Desk;
use crate::shows;
use std::fmt::Write;
use system_tests::Result;

/// Everything that a store says of itself and that a push would change.
async fn facts(desk: &Desk, region: usize) -> Result<String> {
    let status = desk.agents[region].status().await?;
    let mut out = String::new();
    for fact in [
        "epoch",
        "position",
        "contexts",
        "bundles",
        "tenants",
        "version",
        "synced_kinds",
    ] {
        write!(out, "{fact} {} ", status[fact])?;
    }
    Ok(out)
}

#[tokio::test]
async fn diff_names_what_is_missing_extra_changed_and_held() -> Result<()> {
    let desk = Desk::new(&["eu", "us"]).await?;
    let mut out = desk.types(&["diff"]).await?;
    desk.sql(
        "INSERT INTO item (tenant, key) VALUES ('t1', 'added'); DELETE FROM part WHERE key = 'p2';
         UPDATE item SET body = 'changed' WHERE key = 'i3'; UPDATE item SET body = repeat('x', 300) WHERE key = 'i4';
         UPDATE item SET regions = '{us}' WHERE key = 'i5'",
    )
    .await?;
    let before = (facts(&desk, 0).await?, facts(&desk, 1).await?);
    out.push_str(&desk.types(&["diff"]).await?);
    out.push_str(&desk.types(&["diff", "--tenant", "t3"]).await?);
    out.push_str(&desk.types(&["diff", "--region", "us"]).await?);
    out.push_str(&desk.types(&["scan", "--dry-run"]).await?);
    out.push_str(&desk.types(&["scan", "--dry-run", "--kind", "part"]).await?);
    out.push_str(&desk.types(&["get", "item", "i3"]).await?);
    out.push_str(&desk.types(&["get", "item", "i5"]).await?);
    out.push_str(&desk.types(&["get", "part", "p2"]).await?);
    let after = (facts(&desk, 0).await?, facts(&desk, 1).await?);
    if before != after {
        return Err(format!("changed: {before:?} {after:?}").into());
    }
    out.push_str("repaired:\n");
    desk.sql("UPDATE item SET body = 'short' WHERE key = 'i4'")
        .await?;
    // Which store is told to have differed depends on who is compared first: a repair goes to all of them.
    desk.hub.run(&["scan"]).await?.ok()?;
    out.push_str(&desk.types(&["diff"]).await?);
    out.push_str(&desk.types(&["get", "item", "i5"]).await?);
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_dry_run_beside_an_empty_store_writes_nothing() -> Result<()> {
    let mut desk = Desk::prepared(&["eu"]).await?;
    desk.agents[0].start().await?;
    desk.hub.run(&["migrate"]).await?.ok()?;
    let mut out = desk.types(&["scan", "--dry-run"]).await?;
    out.push_str(&desk.types(&["status"]).await?);
    writeln!(out, "item i1: {}", desk.reads(0, "item", "i1").await?)?;
    out.push_str(&desk.types(&["scan"]).await?);
    out.push_str(&desk.types(&["scan"]).await?);
    writeln!(out, "item i1: {}", desk.reads(0, "item", "i1").await?)?;
    writeln!(out, "item i9: {}", desk.reads(0, "item", "i9").await?)?;
    shows!(out);
    Ok(())
}
