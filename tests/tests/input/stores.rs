//! `spoke-agent` started with something that cannot be: one line, and the file that it named is left as it was.

use crate::desk::{expect, run};
use crate::shows;
use std::fmt::Write;
use std::path::Path;
use system_tests::region::Agent;
use system_tests::{Result, free_port};

/// Starts an agent that is expected to end by itself.
async fn ends(dir: &Path, flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<String> {
    let mut all = vec![
        ("--region", "eu"),
        ("--data", "eu.redb"),
        ("--push-listen", "127.0.0.1:0"),
        ("--read-listen", "127.0.0.1:0"),
    ];
    all.retain(|(flag, _)| !flags.iter().any(|(f, _)| f == flag));
    all.extend(flags.iter().filter(|(_, value)| !value.is_empty()));
    let mut args = vec!["run"];
    args.extend(all.iter().flat_map(|(flag, value)| [*flag, *value]));
    let mut variables = vec![("HUBCAST_AGENT_PUSH_TOKEN", "secret-of-eu")];
    variables.extend(env);
    let within = std::time::Duration::from_secs(20);
    let ran = run("spoke-agent", &args, &variables, dir);
    let ran = tokio::time::timeout(within, ran)
        .await
        .map_err(|_| format!("it runs: {args:?}"))??;
    expect(!ran.stderr.contains("secret-of-eu"), "no token is shown")?;
    let said = ran.stderr.replace(&dir.display().to_string(), "[dir]");
    Ok(format!("  {} exit code {}\n", said.trim_end(), ran.code))
}

#[tokio::test]
async fn a_file_that_is_no_store_of_ours_is_left_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = dir.path();
    std::fs::write(at.join("text.redb"), "somebody's notes\n".repeat(1000))?;
    std::fs::create_dir(at.join("folder.redb"))?;
    let table: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("theirs");
    let foreign = redb::Database::create(at.join("foreign.redb"))?;
    let txn = foreign.begin_write()?;
    txn.open_table(table)?.insert("one", 1)?;
    txn.commit()?;
    drop(foreign);
    let mut out = String::new();
    for file in [
        "text.redb",
        "folder.redb",
        "foreign.redb",
        "missing/eu.redb",
    ] {
        let before = std::fs::read(at.join(file)).ok();
        write!(
            out,
            "{file}:\n{}",
            ends(at, &[("--data", file)], &[]).await?
        )?;
        // redb notes in a file of its own that it was opened; what is in it must not change.
        let same = file == "foreign.redb" || std::fs::read(at.join(file)).ok() == before;
        expect(same, format!("{file} is as before"))?;
    }
    let foreign = redb::Database::open(at.join("foreign.redb"))?;
    let txn = redb::ReadableDatabase::begin_read(&foreign)?;
    let theirs = txn.open_table(table)?.get("one")?.map(|v| v.value());
    expect(
        theirs == Some(1) && txn.list_tables()?.count() == 1,
        "foreign.redb is theirs",
    )?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_in_use_or_of_another_region_is_left_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut agent = Agent::new(dir.path(), "us")?;
    agent.start().await?;
    let data = agent.data.display().to_string();
    let mut out = format!(
        "in use:\n{}",
        ends(dir.path(), &[("--data", &data)], &[]).await?
    );
    expect(agent.process()?.is_running(), "the other agent goes on")?;
    agent.stop().await?;
    write!(
        out,
        "of another region:\n{}",
        ends(dir.path(), &[("--data", &data)], &[]).await?
    )?;
    let port = agent.push.to_string();
    agent.start().await?;
    shows!(out.replace(&port, "[port]"));
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let mut out = ends(dir.path(), &[("--push-listen", &address)], &[]).await?;
    out.push_str(&ends(dir.path(), &[("--read-listen", &address)], &[]).await?);
    std::fs::write(dir.path().join("file.sock"), "no socket")?;
    out.push_str(&ends(dir.path(), &[("--read-socket", "file.sock")], &[]).await?);
    out.push_str(&ends(dir.path(), &[("--read-socket", "missing/eu.sock")], &[]).await?);
    let left = std::fs::read_to_string(dir.path().join("file.sock"))?;
    expect(left == "no socket", "the file is as before")?;
    shows!(out.replace(&address, "[address]"));
    Ok(())
}

#[tokio::test]
async fn keys_of_the_agent_that_are_wrong_are_named_with_their_place() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let open = format!("0.0.0.0:{port}");
    let mut out = String::new();
    for flags in [
        &[("--read-listen", open.as_str())][..],
        &[("--region", "")],
        &[("--region", "no region")],
        &[("--data", "")],
        &[("--push-listen", "localhost")],
        &[("--push-listen", "hub.example.org:7511")],
        &[("--read-listen", "")],
        &[("--cache-mib", "much")],
        &[("--read-token", "two words")],
    ] {
        write!(out, "{flags:?}:\n{}", ends(dir.path(), flags, &[]).await?)?;
    }
    for env in [
        [("HUBCAST_AGENT_PUSH_TOKEN", "")],
        [("HUBCAST_AGENT_PUSH_TOKEN", "${EU_TOKEN}")],
        [("HUBCAST_AGENT_PUSH_TOKEN", "${file:token.txt}")],
        [("HUBCAST_AGENT_CACHE_MIB", "0")],
    ] {
        write!(out, "{env:?}:\n{}", ends(dir.path(), &[], &env).await?)?;
    }
    shows!(out.replace(&open, "[every host]"));
    expect(
        std::fs::read_dir(dir.path())?.count() == 0,
        "no file was made",
    )
}

#[tokio::test]
async fn a_configuration_file_of_the_agent_that_is_wrong_is_named_with_its_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut out = String::new();
    for (name, text) in [
        (
            "unknown key",
            "region = \"eu\"\npush_lisen = \"127.0.0.1:0\"\n",
        ),
        ("nothing near", "kangaroo = 1\n"),
        ("wrong type", "region = \"eu\"\npush_listen = 7511\n"),
        ("list", "region = [\"eu\"]\n"),
        ("no TOML", "region: eu\n"),
        ("twice", "region = \"eu\"\nregion = \"us\"\n"),
        ("of the hub", "[hub]\nlisten = \"127.0.0.1:0\"\n"),
    ] {
        std::fs::write(dir.path().join("agent.toml"), text)?;
        let flags = [("--config", "agent.toml")];
        write!(out, "{name}:\n{}", ends(dir.path(), &flags, &[]).await?)?;
    }
    let flags = [("--config", "missing.toml")];
    write!(out, "no file:\n{}", ends(dir.path(), &flags, &[]).await?)?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn get_says_why_the_agent_cannot_be_asked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut agent = Agent::new(dir.path(), "eu")?;
    let listen = format!("127.0.0.1:{}", agent.read);
    let get = async |args: &[&str]| -> Result<String> {
        let ran = run("spoke-agent", args, &[], dir.path()).await?;
        Ok(format!(
            "{args:?}:\n  {} {} exit code {}\n",
            ran.stdout,
            ran.stderr.trim_end(),
            ran.code
        ))
    };
    let mut out = get(&["get", "item", "i1"]).await?;
    out.push_str(&get(&["get", "item", "i1", "--read-listen", &listen]).await?);
    out.push_str(&get(&["get", "item", "i1", "--read-socket", "missing.sock"]).await?);
    agent.start().await?;
    out.push_str("an agent that was never filled:\n");
    out.push_str(&get(&["get", "item", "i1", "--read-listen", &listen]).await?);
    out.push_str(&get(&["get", "item", "i1", "--json", "--read-listen", &listen]).await?);
    out.push_str(&get(&["get", "No Kind", "i1", "--read-listen", &listen]).await?);
    shows!(out.replace(&listen, "[address]"));
    Ok(())
}
