//! The command line used wrongly: exit code 2, and one line that says what would be right.

use crate::desk::{Desk, run, transcript};
use crate::shows;
use system_tests::Result;

#[tokio::test]
async fn unknown_flags_and_commands_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut out = String::new();
    for (name, args) in [
        ("publisher", &["scan", "--regoin", "eu"][..]),
        ("publisher", &["scna"]),
        ("publisher", &["get", "item"]),
        ("publisher", &["republish", "tenant"]),
        ("publisher", &["republish", "kind", "item"]),
        ("publisher", &["scan", "--log-format", "xml"]),
        ("spoke-agent", &["run", "--regoin", "eu"]),
        ("spoke-agent", &["get", "item"]),
        ("spoke-agent", &["list", "--tenants", "t1"]),
        ("spoke-agent", &["list", "item"]),
        ("spoke-agent", &["verify", "store.redb"]),
    ] {
        let ran = run(name, args, &[], dir.path()).await?;
        out.push_str(&transcript(name, args, &ran));
    }
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn kinds_regions_and_tenants_that_cannot_be_are_refused() -> Result<()> {
    let schema = "CREATE TABLE item (tenant bigint, key text); CREATE INDEX ON item (tenant);
                  INSERT INTO item VALUES (7, 'seven');";
    let contexts = "[[context]]\nkind = \"item\"\nquery = \"SELECT key, tenant FROM item\"\n";
    let mut desk = Desk::with(&["eu"], schema, contexts).await?;
    desk.open().await?;
    let mut out = String::new();
    for args in [
        &["scan", "--region", "mars"][..],
        &["scan", "--region", "no region"],
        &["scan", "--kind", "itme"],
        &["scan", "--dry-run", "--kind", "Item"],
        &["diff", "--region", "mars"],
        &["diff", "--tenant", "007"],
        &["republish", "region", "mars"],
        &["republish", "tenant", "7", "--region", "mars"],
        &["republish", "tenant", "7", "--kind", "itme"],
        &["republish", "tenant", "007"],
        &["republish", "tenant", "7", "seven"],
        &["republish", "tenant", "99999999999999999999"],
        &["republish", "tenant", ""],
        &["get", "itme", "seven"],
        &["get", "item", ""],
    ] {
        let text = desk.types(args).await?;
        if !text.contains("exit code 2") {
            return Err(format!("not refused: {text}").into());
        }
        out.push_str(&text);
    }
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_tenant_or_key_that_does_not_exist_is_an_answer_and_no_error_of_use() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    let mut out = desk.types(&["republish", "tenant", "nobody"]).await?;
    out.push_str(&desk.types(&["diff", "--tenant", "nobody"]).await?);
    out.push_str(&desk.types(&["get", "item", "nothing"]).await?);
    let agent = &desk.agents[0];
    let listen = format!("127.0.0.1:{}", agent.read);
    for args in [["get", "item", "nothing"], ["get", "itme", "i1"]] {
        let env = [("HUBCAST_AGENT_READ_LISTEN", listen.as_str())];
        let ran = run("spoke-agent", &args, &env, desk.dir.path()).await?;
        out.push_str(&desk.plain(&transcript("spoke-agent", &args, &ran)));
    }
    shows!(out);
    Ok(())
}
