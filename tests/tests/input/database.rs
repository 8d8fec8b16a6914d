//! The database: out of reach, refusing, hiding rows, not migrated, or migrated with something else.

use crate::desk::{CONTEXTS, Desk, address, expect};
use crate::shows;
use std::time::{Duration, Instant};
use system_tests::postgres::{Postgres, execute, find_bin};
use system_tests::{Result, free_port};

const COMMANDS: &[&[&str]] = &[
    &["check"],
    &["migrate"],
    &["scan"],
    &["scan", "--dry-run"],
    &["republish", "tenant", "t1"],
    &["republish", "all"],
    &["diff"],
    &["get", "item", "i1"],
    &["status"],
];

#[tokio::test]
async fn a_database_that_is_down_ends_every_command_within_a_minute() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    let (_, name) = desk.database.rsplit_once('/').unwrap_or_default();
    let port = free_port()?;
    let nowhere = format!("postgres://postgres@127.0.0.1:{port}/{name}");
    let hub = desk.edited(&desk.database, &nowhere)?;
    let began = Instant::now();
    // Side by side: each may wait for some seconds.
    let all = COMMANDS.iter().map(|args| desk.types_with(&hub, args));
    let mut out = String::new();
    for text in futures_util::future::join_all(all).await {
        out.push_str(&text?);
    }
    let (_, at) = nowhere.rsplit_once('@').unwrap_or_default();
    expect(began.elapsed() < Duration::from_secs(60), "within a minute")?;
    shows!(out.replace(&at.replace(name, "[database name]"), "[nowhere]"));
    Ok(())
}

#[tokio::test]
async fn a_database_that_refuses_the_user_is_a_wrong_configuration() -> Result<()> {
    let postgres = Postgres::start(&find_bin()?, false).await?;
    let admin = postgres.url("postgres");
    // Passwords are asked of one role only; the rest of the throw-away cluster trusts.
    execute(
        &admin,
        "CREATE ROLE guarded LOGIN PASSWORD 'right';
         CREATE TABLE hba (n serial, line text);
         COPY hba (line) FROM PROGRAM 'cat pg_hba.conf' WITH (DELIMITER E'\\x01');
         UPDATE hba SET n = n + 1; INSERT INTO hba VALUES (1, 'host all guarded 127.0.0.1/32 scram-sha-256');",
    )
    .await?;
    execute(&admin, "COPY (SELECT line FROM hba ORDER BY n) TO PROGRAM 'cat > pg_hba.conf' WITH (DELIMITER E'\\x01')").await?;
    execute(&admin, "SELECT pg_reload_conf()").await?;
    let desk = Desk::prepared(&["eu"]).await?;
    let (_, server) = admin.rsplit_once('@').unwrap_or_default();
    let (server, _) = server.split_once('/').unwrap_or_default();
    let mut out = String::new();
    for (user, name) in [
        ("guarded:very-wrong", "postgres"),
        ("guarded", "postgres"),
        ("nobody-here", "postgres"),
        ("postgres", "missing"),
    ] {
        let hub = desk.edited(
            &desk.database,
            &format!("postgres://{user}@{server}/{name}"),
        )?;
        for args in [&["check"][..], &["migrate"], &["scan"], &["run"]] {
            out.push_str(&desk.types_with(&hub, args).await?);
        }
    }
    expect(!out.contains("very-wrong"), "no password is shown")?;
    shows!(out.replace(server, "[server]"));
    Ok(())
}

#[tokio::test]
async fn commands_before_migrate_name_it() -> Result<()> {
    let mut desk = Desk::prepared(&["eu"]).await?;
    desk.agents[0].start().await?;
    let mut out = String::new();
    for args in COMMANDS
        .iter()
        .filter(|a| a[0] != "migrate")
        .chain([&["run"][..]].iter())
    {
        out.push_str(&desk.types(args).await?);
    }
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_configuration_that_differs_from_what_migrate_stored_is_refused() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    let text = std::fs::read_to_string(&desk.hub.config)?;
    let us = text.find("[[spoke]]\nregion = \"us\"").unwrap_or_default();
    let us = text[us..]
        .split("[[context]]")
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut out = String::new();
    for (from, to) in [
        (
            "SELECT key, tenant, body FROM part",
            "SELECT key, tenant, upper(body) AS body FROM part",
        ),
        ("max_value_bytes = 200", "max_value_bytes = 300"),
        ("watch = [{ table = \"part\", tenant = \"tenant\" }]", ""),
        ("kind = \"part\"", "kind = \"piece\""),
        (us.as_str(), ""),
    ] {
        let hub = desk.edited(from, to)?;
        for args in [
            &["scan"][..],
            &["republish", "tenant", "t1"],
            &["republish", "all"],
            &["run"],
        ] {
            out.push_str(&desk.types_with(&hub, args).await?);
        }
    }
    out.push_str("check and status with the last of them:\n");
    let hub = desk.edited(&us, "")?;
    out.push_str(&desk.types_with(&hub, &["check"]).await?);
    out.push_str(&desk.types_with(&hub, &["status"]).await?);
    shows!(out);
    // Beside a daemon as well, which goes on with what it has.
    desk.hub.start().await?;
    let hub = desk.edited("max_value_bytes = 200", "max_value_bytes = 300")?;
    let ran = hub.run(&["republish", "tenant", "t1"]).await?;
    expect(ran.code == 2, format!("beside a daemon: {ran:?}"))?;
    desk.hub.run(&["republish", "tenant", "t1"]).await?.ok()?;
    Ok(())
}

/// A role that may log in and nothing more: its name, unique on a server that other tests use at the same time, and
/// its address.
async fn new_role(desk: &Desk) -> Result<(String, String)> {
    let (_, name) = desk.database.rsplit_once('/').unwrap_or_default();
    let name = name.replace("hubcast_", "role_");
    desk.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'known'"))
        .await?;
    let url = address(&desk.database, |url| {
        let _ = (url.set_username(&name), url.set_password(Some("known")));
    })?;
    Ok((name, url))
}

#[tokio::test]
async fn a_role_under_row_level_security_is_refused_rather_than_shown_less() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    let (name, url) = new_role(&desk).await?;
    desk.sql(&format!(
        "GRANT SELECT ON item, part TO {name}; GRANT USAGE ON SCHEMA hubcast TO {name};
         GRANT ALL ON ALL TABLES IN SCHEMA hubcast TO {name};
         ALTER TABLE item ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON item USING (tenant = 't1');"
    ))
    .await?;
    let before = desk.reads(0, "item", "i2").await?;
    let hub = desk.edited(&desk.database, &url)?;
    let mut out = String::new();
    for args in [
        &["check"][..],
        &["migrate"],
        &["scan"],
        &["republish", "tenant", "t2"],
    ] {
        out.push_str(&desk.types_with(&hub, args).await?);
    }
    let now = desk.reads(0, "item", "i2").await?;
    expect(now == before, "hidden rows are not deletes")?;
    desk.agents[0].stop().await?;
    shows!(out.replace(&name, "[role]"));
    Ok(())
}

#[tokio::test]
async fn a_publisher_without_the_right_to_create_works_beside_a_migrate_url() -> Result<()> {
    let mut desk = Desk::prepared(&["eu"]).await?;
    desk.agents[0].start().await?;
    let (name, url) = new_role(&desk).await?;
    desk.sql(&format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT SELECT ON item, part TO {name};"
    ))
    .await?;
    let alone = desk.edited(&desk.database, &url)?;
    let mut out = desk.types_with(&alone, &["migrate"]).await?;
    let both = format!("{url}\"\nmigrate_url = \"{}", desk.database);
    let hub = desk.edited(&desk.database, &both)?;
    for args in [
        &["migrate"][..],
        &["migrate"],
        &["check"],
        &["scan"],
        &["status"],
        &["diff"],
        &["republish", "tenant", "t1"],
    ] {
        out.push_str(&desk.types_with(&hub, args).await?);
    }
    shows!(out.replace(&name, "[role]"));
    Ok(())
}

#[tokio::test]
async fn a_direct_url_is_used_instead_and_named() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    let (server, name) = desk.database.rsplit_once('/').unwrap_or_default();
    let mut out = String::new();
    for direct in [&desk.database, &format!("{server}/missing")] {
        let both = format!("postgres://nobody@127.0.0.1:1/x\"\ndirect_url = \"{direct}");
        let hub = desk.edited(&desk.database, &both)?;
        for args in [&["migrate"][..], &["status"]] {
            out.push_str(&desk.types_with(&hub, args).await?);
        }
    }
    let (_, at) = server.rsplit_once('@').unwrap_or_default();
    shows!(out.replace(name, "[name]").replace(at, "[server]"));
    Ok(())
}

#[tokio::test]
async fn the_printed_script_does_what_migrate_does() -> Result<()> {
    let mut desk = Desk::prepared(&["eu"]).await?;
    desk.agents[0].start().await?;
    let script = desk.hub.run(&["migrate", "--print"]).await?.ok()?.stdout;
    let before = desk.types(&["scan"]).await?;
    expect(
        before.contains("exit code 2"),
        format!("nothing was done yet: {before}"),
    )?;
    desk.sql(&script).await?;
    let mut out = desk.types(&["migrate"]).await?;
    out.push_str(&desk.types(&["scan"]).await?);
    out.push_str("the script, run again with a changed query:\n");
    let changed = CONTEXTS.replace(
        "SELECT key, tenant, body FROM part",
        "SELECT key, tenant FROM part",
    );
    let hub = desk.edited(CONTEXTS, &changed)?;
    let script = hub.run(&["migrate", "--print"]).await?.ok()?.stdout;
    desk.sql(&script).await?;
    out.push_str(&desk.types_with(&hub, &["migrate"]).await?);
    out.push_str(&desk.types_with(&hub, &["scan"]).await?);
    out.push_str(&desk.types_with(&hub, &["migrate"]).await?);
    shows!(out);
    Ok(())
}
