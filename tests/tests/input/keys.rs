//! The same key in two tenants: whoever owned it keeps it, and both are named.

use crate::desk::{Desk, expect};
use crate::shows;
use std::fmt::Write;
use system_tests::Result;

async fn owner(desk: &Desk, key: &str) -> Result<String> {
    let url = desk.agents[0].url(&format!("/v1/contexts/item/{key}"));
    let response = desk.agents[0].client().get(url).send().await?;
    let tenant = response.headers().get("x-context-tenant");
    Ok(tenant.map_or(Ok(""), |t| t.to_str())?.to_owned())
}

#[tokio::test]
async fn a_key_of_two_tenants_stays_with_its_owner_who_goes_on_changing_it() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    // The newcomer is the smaller name: order must not decide while there is an owner.
    desk.sql("INSERT INTO item (tenant, key, body) VALUES ('t1', 'i4', 'intruder'); UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let mut out = desk.types(&["scan"]).await?;
    expect(owner(&desk, "i4").await? == "t4", "the owner keeps it")?;
    out.push_str(&desk.types(&["republish", "tenant", "t1"]).await?);
    out.push_str(&desk.types(&["diff"]).await?);
    out.push_str(&desk.types(&["get", "item", "i4"]).await?);
    writeln!(out, "part p1: {}", desk.reads(0, "part", "p1").await?)?;
    out.push_str("the owner changes it:\n");
    desk.sql("UPDATE item SET body = 'changed' WHERE tenant = 't4'")
        .await?;
    out.push_str(&desk.types(&["republish", "tenant", "t4"]).await?);
    writeln!(out, "item i4: {}", desk.reads(0, "item", "i4").await?)?;
    expect(owner(&desk, "i4").await? == "t4", "the owner still has it")?;
    out.push_str("the owner gives it up:\n");
    desk.sql("DELETE FROM item WHERE tenant = 't4' AND key = 'i4'")
        .await?;
    out.push_str(&desk.types(&["scan"]).await?);
    writeln!(out, "item i4: {}", desk.reads(0, "item", "i4").await?)?;
    expect(owner(&desk, "i4").await? == "t1", "the other has it now")?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_newcomer_that_gives_the_key_up_solves_the_clash() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    desk.sql("INSERT INTO item (tenant, key, body) VALUES ('t9', 'i4', 'intruder'), ('t9', 'own', 'one')")
        .await?;
    let mut out = desk.types(&["scan"]).await?;
    writeln!(out, "item own: {}", desk.reads(0, "item", "own").await?)?;
    desk.sql("DELETE FROM item WHERE tenant = 't9' AND key = 'i4'")
        .await?;
    out.push_str(&desk.types(&["republish", "tenant", "t9"]).await?);
    out.push_str(&desk.types(&["scan"]).await?);
    expect(owner(&desk, "i4").await? == "t4", "the owner has it")?;
    shows!(out);
    Ok(())
}
