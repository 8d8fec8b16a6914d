//! The console in a real browser: every page, and every action by what it does at a store.

use crate::desk::{CONTEXTS, Desk, SCHEMA, expect};
use reqwest::StatusCode;
use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::Value;
use std::time::{Duration, Instant};
use system_tests::browser::{self, Browser};
use system_tests::{Result, until};

const WITHIN: Duration = Duration::from_secs(30);

/// Somebody who is signed in and looks at the overview; none where there is no browser.
async fn signed_in(desk: &Desk) -> Result<Option<Browser>> {
    let Some(driver) = browser::find()? else {
        return Ok(None);
    };
    let browser = Browser::open(&driver).await?;
    browser.go(&desk.hub.url("/")).await?;
    browser.enter("#token", &desk.hub.token).await?;
    // The first scan of the writer is over: what differs from now on, no scan mends.
    for agent in &desk.agents {
        browser.reads(&tile(&agent.region), "in step").await?;
    }
    Ok(Some(browser))
}

fn tile(region: &str) -> String {
    format!("[data-region={region}]")
}

/// Where a test was asked to leave pictures, it leaves this one.
async fn keep(browser: &Browser, name: &str) -> Result<()> {
    let Some(dir) = std::env::var_os("HUBCAST_PICTURES") else {
        return Ok(());
    };
    let picture = browser.picture().await?;
    let path = std::path::Path::new(&dir).join(format!("{name}.png.base64"));
    Ok(std::fs::write(path, picture)?)
}

#[tokio::test]
async fn the_overview_shows_every_region_as_it_goes_down_and_comes_back() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.hub.start().await?;
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    for region in ["eu", "us"] {
        let tile = browser.reads(&tile(region), "in step").await?;
        expect(tile.contains("10 contexts · 5 tenants"), &tile)?;
    }
    browser.reads(&tile("eu"), "ms lag").await?;
    browser.reads("#verdict", "all is well").await?;
    keep(&browser, "overview").await?;

    // A browser opens six connections to a host: a page that was left must not keep one for its events.
    let leave = "dispatchEvent(new PageTransitionEvent('pagehide')); return events === null";
    let left = browser.run(leave, &[]).await?;
    expect(left == true, left)?;
    let back = "dispatchEvent(new PageTransitionEvent('pageshow')); return events !== null";
    let is_back = browser.run(back, &[]).await?;
    expect(is_back == true, is_back)?;

    desk.agents[1].kill()?;
    browser.reads(&tile("us"), "unreachable").await?;
    browser.reads("#verdict", "look below").await?;
    let other = browser.text(&tile("eu")).await?;
    expect(other.contains("in step"), &other)?;
    desk.agents[1].start().await?;
    browser.reads(&tile("us"), "in step").await?;
    browser.reads("#verdict", "all is well").await?;

    // With every region down the page still says so.
    for agent in &mut desk.agents {
        agent.kill()?;
    }
    browser.go(&desk.hub.url("/")).await?;
    for region in ["eu", "us"] {
        browser.reads(&tile(region), "unreachable").await?;
    }
    // What browsers report of a connection that broke is no fault of the page.
    let complaints = browser.complaints().await?;
    expect(complaints.is_empty(), format!("{complaints:?}"))
}

#[tokio::test]
async fn a_tenant_is_shown_side_by_side_and_republished() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.hub.start().await?;
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    // A change that no trigger tells of, with a text that must not become part of the page.
    desk.sql(
        "SET session_replication_role = replica;
         UPDATE item SET body = '<img id=evil src=x>' WHERE key = 'i1'",
    )
    .await?;
    browser.click("nav a[href='#/tenant']").await?;
    browser.reads("form", "Look for").await?;
    browser
        .run(
            "document.getElementById('what').value = arguments[0]",
            &["item"],
        )
        .await?;
    browser.enter("#text", "i1").await?;
    browser.reads("h2", "Tenant t1").await?;
    browser.reads("main", "2 of 2 stores differ").await?;
    let shown = browser.text("table").await?;
    expect(
        shown.contains("<img id=evil src=x>") && shown.contains("other value"),
        &shown,
    )?;
    let evil = browser
        .run("return document.querySelectorAll('#evil').length", &[])
        .await?;
    expect(evil == 0, "a value became part of the page")?;
    keep(&browser, "tenant").await?;

    browser.click("#republish").await?;
    browser.reads("main", "Durable in 2 stores.").await?;
    for region in 0..2 {
        let there = desk.reads(region, "item", "i1").await?;
        expect(there.contains("evil"), &there)?;
    }
    browser.reads("main", "exactly what the hub has").await?;
    browser.reads("td[data-is=same]", "same").await?;

    // Gone at the hub, and not yet from the stores; then gone everywhere.
    desk.sql("SET session_replication_role = replica; DELETE FROM item WHERE key = 'i1'")
        .await?;
    browser.click("#compare").await?;
    browser.reads("td[data-is=extra]", "not at the hub").await?;
    browser.click("#republish").await?;
    browser.reads("main", "item i1 is nowhere").await?;
    let there = desk.reads(0, "item", "i1").await?;
    expect(there.starts_with("404"), &there)?;
    let complaints = browser.complaints().await?;
    expect(complaints.is_empty(), format!("{complaints:?}"))
}

#[tokio::test]
async fn a_scan_is_asked_for_and_shown_and_so_are_definitions() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    browser.reads(&tile("eu"), "in step").await?;
    desk.sql(
        "ALTER TABLE part DISABLE TRIGGER USER; UPDATE part SET body = 'two' WHERE key = 'p3'",
    )
    .await?;
    browser.click("#scan").await?;
    until("the scan to repair the store", WITHIN, || async {
        let there = desk.reads(0, "part", "p3").await.ok()?;
        there.contains("two").then_some(())
    })
    .await?;
    browser.click("nav a[href='#/scans']").await?;
    let scans = until("the scan among the scans", WITHIN, || async {
        browser.run("location.reload()", &[]).await.ok()?;
        let scans = browser.reads("main", "asked for over the API").await.ok()?;
        scans.contains("repaired 1: t3").then_some(scans)
    });
    let scans = scans.await?;
    expect(scans.contains("in step"), &scans)?;
    keep(&browser, "scans").await?;

    browser.click("nav a[href='#/definitions']").await?;
    let definitions = browser.reads("main", "tenant column tenant").await?;
    expect(
        definitions.contains("SELECT key, tenant, body FROM part"),
        &definitions,
    )?;
    // The triggers that were switched off above.
    let drift = until("the drift to be shown", WITHIN, || async {
        browser.run("location.reload()", &[]).await.ok()?;
        browser.reads("main", "tenant column tenant").await.ok()?;
        let text = browser.text("main").await.ok()?;
        text.contains("Drift:").then_some(text)
    });
    let drift = drift.await?;
    expect(drift.contains("part"), &drift)
}

#[tokio::test]
async fn sensitive_values_are_compared_and_never_shown() -> Result<()> {
    let sensitive = CONTEXTS.replacen("kind = \"part\"", "kind = \"part\"\nsensitive = true", 1);
    let mut desk = Desk::with(&["eu"], SCHEMA, &sensitive).await?;
    desk.sql("UPDATE part SET body = 'of the first' WHERE key = 'p1'")
        .await?;
    desk.open().await?;
    desk.hub.start().await?;
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    desk.sql("SET session_replication_role = replica; UPDATE part SET body = 'of the second' WHERE key = 'p1'")
        .await?;
    browser.go(&desk.hub.url("/#/tenant/t1")).await?;
    browser.reads("main", "1 of 1 stores differ").await?;
    let shown = browser.text("table").await?;
    expect(
        shown.contains("masked") && shown.contains("other value") && shown.contains("one"),
        &shown,
    )?;
    let answer = desk.hub.get("/console/tenants/t1").await?.1.to_string();
    expect(answer.contains("\"changed\""), &answer)?;
    for text in [shown, answer] {
        expect(!text.contains("of the "), &text)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_page_works_on_a_phone_and_by_the_keyboard() -> Result<()> {
    let mut desk = Desk::new(&["eu", "us"]).await?;
    desk.hub.start().await?;
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    browser.resize(400, 800).await?;
    browser.reads(&tile("us"), "in step").await?;
    keep(&browser, "phone").await?;
    for page in [
        "",
        "tenant/t1",
        "scans",
        "held",
        "definitions",
        "pause",
        "audit",
    ] {
        browser.go(&desk.hub.url(&format!("/#/{page}"))).await?;
        browser.reads("h1", "").await?;
        let wide = browser
            .run(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
                &[],
            )
            .await?;
        expect(wide == 0, format!("{page} is wider than a phone by {wide}"))?;
        // Whatever can be pressed or filled in says what it is.
        let nameless = browser
            .run(
                "return [...document.querySelectorAll('a, button, input, select, [role=img]')]
                   .filter((x) => !(x.innerText || x.getAttribute('aria-label') || (x.labels && x.labels.length)))
                   .map((x) => x.outerHTML)",
                &[],
            )
            .await?;
        expect(nameless == Value::Array(Vec::new()), nameless)?;
    }
    // Tab reaches the pages of the console, in their order.
    let order = browser
        .run(
            "return [...document.querySelectorAll('nav a')].every((a) => a.tabIndex === 0)",
            &[],
        )
        .await?;
    expect(order == true, order)
}

#[tokio::test]
async fn only_a_signed_in_person_looks_and_only_the_page_acts() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    let client = system_tests::client()?;
    let page = client.get(desk.hub.url("/")).send().await?;
    let policy = page.headers()["content-security-policy"].to_str()?;
    expect(
        page.status() == 200 && policy.contains("default-src 'none'"),
        policy,
    )?;

    let sign_in = |token: &str| {
        let body = serde_json::json!({ "token": token });
        let request = client.post(desk.hub.url("/console/sign-in"));
        request.json(&body).send()
    };
    let refused = sign_in("wrong").await?;
    expect(
        refused.status() == 401 && !refused.headers().contains_key(SET_COOKIE),
        "a wrong token opens nothing",
    )?;
    let entered = sign_in(&desk.hub.token).await?;
    expect(entered.status() == 204, entered.status())?;
    let given = entered.headers()[SET_COOKIE].to_str()?.to_owned();
    expect(
        given.contains("HttpOnly")
            && given.contains("SameSite=Strict")
            && !given.contains(&desk.hub.token),
        &given,
    )?;
    let cookie = given.split(';').next().unwrap_or_default().to_owned();
    let get = |path: &str, cookie: &str| {
        let request = client.get(desk.hub.url(path));
        request.header(COOKIE, cookie).send()
    };
    for path in [
        "/v1/status",
        "/console/events",
        "/console/scans",
        "/console/definitions",
        "/console/tenants/t1",
        "/console/find?kind=item&key=i1",
    ] {
        let forged = format!("hubcast_session={}", "0".repeat(64));
        for cookie in ["", "hubcast_session=", &forged] {
            let refused = get(path, cookie).await?.status();
            expect(refused == 401, format!("{path}: {refused}"))?;
        }
        let seen = get(path, &cookie).await?.status();
        expect(seen == StatusCode::OK, format!("{path}: {seen}"))?;
    }

    // Another site can make a browser send the request, but not with the header.
    let act = |with_header: bool, cookie: &str| {
        let request = client.post(desk.hub.url("/v1/scan")).header(COOKIE, cookie);
        match with_header {
            true => request.header("X-Hubcast-Console", "1").send(),
            false => request.send(),
        }
    };
    let refused = act(false, &cookie).await?.status();
    expect(refused == 401, refused)?;
    let done = act(true, &cookie).await?.status();
    expect(done == 202, done)?;
    client
        .post(desk.hub.url("/console/sign-out"))
        .header(COOKIE, &cookie)
        .send()
        .await?;
    let refused = act(true, &cookie).await?.status();
    expect(refused == 401, refused)
}

#[tokio::test]
async fn the_stop_button_stops_goes_on_and_is_on_record() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    browser.click("nav a[href='#/pause']").await?;
    browser.reads("main", "Nothing is paused.").await?;
    browser.enter("#reason", "a bad release").await?;
    browser.reads("main", "every kind in every region").await?;
    desk.sql("UPDATE part SET body = 'two' WHERE key = 'p1'; DELETE FROM part WHERE key = 'p2'")
        .await?;
    until("the removal, which no pause holds up", WITHIN, || async {
        let there = desk.reads(0, "part", "p2").await.ok()?;
        there.starts_with("404").then_some(())
    })
    .await?;
    let there = desk.reads(0, "part", "p1").await?;
    expect(there.contains("one"), &there)?;
    browser.click("nav a[href='#/']").await?;
    browser.reads(&tile("eu"), "paused").await?;
    browser.reads("main", "by api_token: a bad release").await?;

    browser.click("nav a[href='#/pause']").await?;
    browser.enter("form.card input", "rolled back").await?;
    browser.reads("main", "Nothing is paused.").await?;
    until("the change that waited", WITHIN, || async {
        let there = desk.reads(0, "part", "p1").await.ok()?;
        there.contains("two").then_some(())
    })
    .await?;
    browser.click("nav a[href='#/audit']").await?;
    let acts = browser.reads("table", "rolled back").await?;
    expect(
        acts.contains("a bad release") && acts.contains("api_token"),
        &acts,
    )
}

#[tokio::test]
async fn a_delete_without_where_is_held_until_a_person_lets_it_through() -> Result<()> {
    let mut desk = Desk::prepared(&["eu", "us"]).await?;
    desk.sql("INSERT INTO part (tenant, key) SELECT 't' || n, 'p' || n FROM generate_series(6, 300) AS n")
        .await?;
    desk.open().await?;
    desk.hub.start().await?;
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    desk.sql("DELETE FROM part").await?;
    until("the removals to be held", WITHIN, || async {
        let held = desk.hub.get("/v1/held").await.ok()?.1;
        (held["held"].as_array()?.len() == 2).then_some(())
    })
    .await?;
    browser.click("nav a[href='#/held']").await?;
    let held = browser.reads("[data-held='eu part']", "300").await?;
    expect(held.contains("Let through"), &held)?;
    keep(&browser, "held").await?;
    let there = desk.reads(0, "part", "p300").await?;
    expect(there.starts_with("200"), &there)?;

    browser.click("[data-held='eu part'] .approve").await?;
    browser.reads("main", "300 removals go out now.").await?;
    until("the keys to be gone from one region", WITHIN, || async {
        let there = desk.reads(0, "part", "p300").await.ok()?;
        there.starts_with("404").then_some(())
    })
    .await?;
    let there = desk.reads(1, "part", "p300").await?;
    expect(there.starts_with("200"), &there)?;
    browser.click("[data-held='us part'] .drop").await?;
    browser
        .reads("main", "300 contexts stay as they are")
        .await?;
    let there = desk.reads(1, "part", "p300").await?;
    expect(there.starts_with("200"), &there)
}

#[tokio::test]
async fn whoever_may_only_read_can_press_nothing() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub
        .configure("token = [{ name = \"oncall\", token = \"only-reads\", role = \"read\" }]")?;
    desk.hub.start().await?;
    desk.hub.token = "only-reads".into();
    let Some(browser) = signed_in(&desk).await? else {
        return Ok(());
    };
    browser.reads("#sign-out", "Sign out oncall").await?;
    let is_disabled = "return document.querySelector(arguments[0]).disabled";
    let scan = browser.run(is_disabled, &["#scan"]).await?;
    expect(scan == true, scan)?;
    browser.go(&desk.hub.url("/#/tenant/t1")).await?;
    browser.reads("main", "exactly what the hub has").await?;
    let republish = browser.run(is_disabled, &["#republish"]).await?;
    expect(republish == true, republish)?;
    // And if the page let him, the API would not.
    let ask = "return fetch('/v1/scan', { method: 'POST', headers: { 'X-Hubcast-Console': '1' } }).then((r) => r.status)";
    let status = browser.run(ask, &[]).await?;
    expect(status == 403, status)
}

#[tokio::test]
async fn an_open_console_does_not_hold_up_the_end() -> Result<()> {
    let mut desk = Desk::new(&["eu"]).await?;
    desk.hub.start().await?;
    let client = system_tests::client()?;
    let events = client
        .get(desk.hub.url("/console/events"))
        .bearer_auth(&desk.hub.token);
    let mut events = events.send().await?;
    let first = events.chunk().await?.ok_or("no event")?;
    expect(
        first.starts_with(b"event: pane\ndata: {"),
        String::from_utf8_lossy(&first),
    )?;
    desk.hub.stop().await?;
    let begin = Instant::now();
    while events.chunk().await.ok().flatten().is_some() {
        expect(
            begin.elapsed() < WITHIN,
            "the events go on after the publisher's end",
        )?;
    }
    Ok(())
}
