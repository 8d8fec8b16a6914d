//! Agents that cannot be reached or refuse: named, and no other region waits for them.

use crate::desk::{Desk, expect};
use crate::shows;
use std::fmt::Write;
use stranger::refusing_server;
use system_tests::Result;

/// A server that is no agent, in a few lines.
mod stranger {
    use system_tests::Result;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every request with one status; returns its port.
    pub async fn refusing_server(status: &'static str) -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    let _ = stream.read(&mut buffer).await;
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Ok(port)
    }
}

/// The commands that talk to agents, with a configuration in which something about `us` is wrong.
async fn typed(desk: &Desk, hub: &system_tests::hub::Hub) -> Result<String> {
    let mut out = String::new();
    for args in [
        &["check"][..],
        &["scan"],
        &["status"],
        &["diff"],
        &["republish", "tenant", "t1"],
        &["republish", "tenant", "t1", "--region", "eu"],
        &["get", "part", "p1"],
    ] {
        out.push_str(&desk.types_with(hub, args).await?);
    }
    writeln!(out, "part p1 in eu: {}", desk.reads(0, "part", "p1").await?)?;
    Ok(out)
}

#[tokio::test]
async fn an_agent_that_is_down_is_named_and_the_other_region_goes_on() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.agents[1].stop().await?;
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let mut out = typed(&desk, &desk.hub).await?;
    desk.agents[1].start().await?;
    out.push_str("it is back:\n");
    out.push_str(&desk.types(&["scan"]).await?);
    writeln!(out, "part p1 in us: {}", desk.reads(1, "part", "p1").await?)?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_a_refusal() -> Result<()> {
    let desk = Desk::new(&["eu", "us"]).await?;
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let wrong = "not-the-token-of-us";
    let hub = desk.edited(&desk.agents[1].token, wrong)?;
    let out = typed(&desk, &hub).await?;
    expect(!out.contains(wrong), "no token is shown")?;
    let there = desk.reads(1, "part", "p1").await?;
    expect(
        there.contains("one"),
        format!("nothing was written: {there}"),
    )?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn an_agent_of_another_region_is_a_refusal() -> Result<()> {
    let desk = Desk::new(&["eu", "us"]).await?;
    // Somebody renames the region in the hub's configuration only.
    let hub = desk.edited("region = \"us\"", "region = \"ap\"")?;
    hub.run(&["migrate"]).await?.ok()?;
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'")
        .await?;
    let out = typed(&desk, &hub).await?;
    let there = desk.reads(1, "part", "p1").await?;
    expect(
        there.contains("one"),
        format!("nothing was written: {there}"),
    )?;
    shows!(out);
    Ok(())
}

#[tokio::test]
async fn something_else_at_the_address_is_named() -> Result<()> {
    let desk = Desk::new(&["eu"]).await?;
    let mut out = String::new();
    let read = format!("127.0.0.1:{}", desk.agents[0].read);
    let push = format!("127.0.0.1:{}", desk.agents[0].push);
    let mut places = vec![("the read listener of the agent".to_owned(), read)];
    for status in [
        "500 Internal Server Error",
        "403 Forbidden",
        "301 Moved Permanently",
        "200 OK",
    ] {
        let port = refusing_server(status).await?;
        places.push((
            format!("a server that answers {status}"),
            format!("127.0.0.1:{port}"),
        ));
    }
    for (name, at) in places {
        let hub = desk.edited(&push, &at)?;
        hub.run(&["migrate"]).await?.ok()?;
        let text =
            desk.types_with(&hub, &["check"]).await? + &desk.types_with(&hub, &["scan"]).await?;
        writeln!(out, "{name}:\n{}", text.replace(&at, "[there]"))?;
    }
    shows!(out);
    Ok(())
}
