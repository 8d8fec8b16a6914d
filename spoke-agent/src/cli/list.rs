//! `spoke-agent list`: the contexts of a tenant, or all of them, read through the running agent like any gateway.
//!
//! All of them are a full copy by `/v1/watch`, printed as it comes: a million contexts are never in memory at once. What
//! changes meanwhile is told again behind the copy; the list has each key once, as it was at some moment while it ran.
//!
//! It must not look whole where it is not: a store that was never in step is refused, a copy that ends before its `sync` is
//! an error, and so is one of kinds of which the store does not know everything.

use super::ask::{Ask, chain, encoded};
use super::out::{Stop, compact, word};
use crate::clock::wall_micros;
use crate::config::ReadConfig;
use reqwest::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;

/// What is to be listed, and how.
#[derive(Debug, Default)]
pub struct Asked {
    /// Of this tenant, or of all.
    pub tenant: Option<String>,
    /// Of these kinds, or of all.
    pub kinds: Vec<String>,
    /// One JSON document.
    pub json: bool,
    /// Without the values.
    pub keys: bool,
}

/// A context as the agent tells it and `--json` prints it. Where there is no value, `error` says why.
#[derive(Debug, Serialize, Deserialize)]
struct Element {
    kind: String,
    key: String,
    #[serde(default)]
    tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(default, alias = "why", skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Seconds since 1970.
    #[serde(default, skip_serializing)]
    expires: Option<f64>,
}

#[derive(Deserialize)]
struct OfTenant {
    contexts: Vec<Element>,
    held: Vec<Element>,
}

/// Prints what was asked for.
///
/// # Errors
/// [`Stop`] if the agent cannot list it, or nobody reads on.
pub async fn list(read: &ReadConfig, asked: &Asked, out: &mut impl Write) -> Result<(), Stop> {
    let ask = Ask::of(read)?;
    let mut printer = Printer {
        out,
        asked,
        printed: 0,
    };
    let doubt = match &asked.tenant {
        Some(tenant) => {
            of_tenant(&ask, tenant, &mut printer).await?;
            None
        }
        None => of_all(&ask, &mut printer).await?,
    };
    printer.end()?;
    doubt.map_or(Ok(()), |line| Err(line.into()))
}

/// The kinds as a query.
fn query(kinds: &[String]) -> String {
    let kinds = kinds.iter().map(|kind| format!("&kind={}", encoded(kind)));
    kinds.collect()
}

async fn of_tenant<W: Write>(
    ask: &Ask,
    tenant: &str,
    printer: &mut Printer<'_, W>,
) -> Result<(), Stop> {
    let query = query(&printer.asked.kinds);
    let path = format!("/v1/tenants/{}/contexts?{query}", encoded(tenant));
    let response = ask.get(&path).await?;
    match response.status().as_u16() {
        200 => {}
        503 => {
            let place = &ask.place;
            let line = format!(
                "the agent at {place} cannot list all that tenant {tenant:?} has: it is not in step yet (not_ready)"
            );
            return Err(line.into());
        }
        _ => return Err(ask.refusal(response).await.into()),
    }
    let OfTenant { contexts, held } = response.json().await.map_err(|error| chain(&error))?;
    let with_value: HashSet<(&str, &str)> = contexts
        .iter()
        .map(|context| (context.kind.as_str(), context.key.as_str()))
        .collect();
    let without = held
        .iter()
        .filter(|held| !with_value.contains(&(held.kind.as_str(), held.key.as_str())));
    if contexts.is_empty() && held.is_empty() {
        eprintln!("spoke-agent: tenant {tenant:?} has no contexts in this region");
    }
    for context in &contexts {
        printer.print(context)?;
    }
    for held in without {
        let held = Element {
            kind: held.kind.clone(),
            key: held.key.clone(),
            tenant: tenant.to_owned(),
            version: None,
            value: None,
            error: held.error.clone(),
            expires: None,
        };
        printer.print(&held)?;
    }
    Ok(())
}

/// Returns what makes it doubtful that this is all.
async fn of_all<W: Write>(ask: &Ask, printer: &mut Printer<'_, W>) -> Result<Option<String>, Stop> {
    is_able(ask, &printer.asked.kinds).await?;
    // A follower is told also of keys that exist without a value.
    let query = query(&printer.asked.kinds);
    let response = ask.get(&format!("/v1/watch?follow=true{query}")).await?;
    if response.status().as_u16() != 200 {
        return Err(ask.refusal(response).await.into());
    }
    let mut events = Events {
        response,
        unread: Vec::new(),
        at: 0,
    };
    let hasher = RandomState::new();
    let (mut seen, mut kinds) = (
        HashSet::new(),
        BTreeSet::from_iter(printer.asked.kinds.clone()),
    );
    let mut is_over = false;
    loop {
        let (name, data) = events.next().await.map_err(|why| cut(ask, &why))?;
        match name.as_str() {
            "sync" => is_over = true,
            // It speaks of a moment of which everything was told before.
            "copied" => return Ok(doubt(ask, &data, &kinds)?.or_else(|| Some(unknown(ask)))),
            "state" if is_over => return Ok(doubt(ask, &data, &kinds)?),
            "put" | "withheld" if !is_over => {
                let element: Element = serde_json::from_str(&data)
                    .map_err(|error| cut(ask, &format!("it tells {error}")))?;
                if !kinds.contains(&element.kind) {
                    kinds.insert(element.kind.clone());
                }
                if seen.insert(hasher.hash_one((&element.kind, &element.key))) {
                    printer.print(&element)?;
                }
            }
            "error" if data.contains("too_slow") => {
                let why = "whoever reads the list is slower than it waits; write it to a file";
                return Err(cut(ask, why).into());
            }
            "error" => return Err(cut(ask, &data).into()),
            _ => {}
        }
    }
}

/// What the store does not know of these kinds.
fn doubt(ask: &Ask, state: &str, kinds: &BTreeSet<String>) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct State {
        complete: BTreeSet<String>,
    }
    let State { complete } =
        serde_json::from_str(state).map_err(|error| cut(ask, &format!("it tells {error}")))?;
    let missing: Vec<&str> = kinds.difference(&complete).map(String::as_str).collect();
    let what = match (missing.is_empty(), complete.is_empty()) {
        (true, false) => return Ok(None),
        (true, true) => "it does not know all of any kind".to_owned(),
        (false, _) => format!("it does not know all of {}", missing.join(", ")),
    };
    let place = &ask.place;
    Ok(Some(format!(
        "the agent at {place} may have more than was listed: {what}; the next scan of the hub mends that"
    )))
}

/// The store lost something to damage, and does not know of which kind.
fn unknown(ask: &Ask) -> String {
    format!(
        "the agent at {} may have more than was listed: it lost something to damage; the next scan of the hub mends that",
        ask.place
    )
}

fn cut(ask: &Ask, why: &str) -> String {
    format!(
        "the agent at {} stopped before the end of the list: {why}; what was printed is not all",
        ask.place
    )
}

/// Whether the agent can say what there is. One that cannot would never end its copy.
async fn is_able(ask: &Ask, kinds: &[String]) -> Result<(), String> {
    let status = ask.status().await?;
    let place = &ask.place;
    if status["ready"] != true {
        return Err(format!(
            "the agent at {place} cannot list what there is: it was never in step with the hub (not_ready)"
        ));
    }
    if status["memory"]["checked"] == false {
        return Err(format!(
            "the agent at {place} still checks its file after the start; try again in a moment"
        ));
    }
    let synced = status["synced_kinds"].as_array();
    let is_synced = |kind: &String| synced.is_some_and(|synced| synced.iter().any(|s| s == kind));
    match kinds.iter().find(|kind| !is_synced(kind)) {
        Some(kind) => Err(format!(
            "the agent at {place} cannot list all of kind {kind:?}: it is not synced yet (not_ready)"
        )),
        None => Ok(()),
    }
}

/// Server-sent events as they come.
struct Events {
    response: Response,
    unread: Vec<u8>,
    at: usize,
}

impl Events {
    /// The name and the data of the next event.
    async fn next(&mut self) -> Result<(String, String), String> {
        let (mut name, mut data) = (String::new(), String::new());
        loop {
            let line = self.line().await?;
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = text.to_owned();
            } else if line.is_empty() && !name.is_empty() {
                return Ok((name, data));
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        let mut searched = self.at;
        loop {
            if let Some(found) = self.unread[searched..].iter().position(|b| *b == b'\n') {
                let end = searched + found;
                let line = String::from_utf8_lossy(&self.unread[self.at..end]).into_owned();
                self.at = end + 1;
                return Ok(line);
            }
            self.unread.drain(..self.at);
            (self.at, searched) = (0, self.unread.len());
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.unread.extend(chunk),
                Ok(None) => return Err("it closed the connection".into()),
                Err(error) => return Err(chain(&error)),
            }
        }
    }
}

/// Prints contexts, each as a line of its own also within the document.
struct Printer<'a, W> {
    out: &'a mut W,
    asked: &'a Asked,
    printed: u64,
}

impl<W: Write> Printer<'_, W> {
    fn print(&mut self, element: &Element) -> Result<(), Stop> {
        let now = wall_micros() as f64 / 1e6;
        if element.expires.is_some_and(|expires| expires <= now) {
            return Ok(());
        }
        match self.asked.json {
            true => self.document(element)?,
            false => self.line(element)?,
        }
        self.printed += 1;
        Ok(())
    }

    fn line(&mut self, element: &Element) -> Result<(), Stop> {
        let (kind, key, tenant) = (&element.kind, word(&element.key), word(&element.tenant));
        let version = element.version.as_deref().unwrap_or("-");
        write!(self.out, "{kind}\t{key}\t{tenant}\t{version}")?;
        match (&element.value, &element.error) {
            (Some(_), _) if self.asked.keys => {}
            (Some(value), _) => write!(self.out, "\t{}", compact(value.get()))?,
            (None, error) => write!(self.out, "\t({})", error.as_deref().unwrap_or("no value"))?,
        }
        Ok(writeln!(self.out)?)
    }

    fn document(&mut self, element: &Element) -> Result<(), Stop> {
        let begin = if self.printed == 0 {
            "{\"contexts\":["
        } else {
            ",\n"
        };
        self.out.write_all(begin.as_bytes())?;
        let without_value;
        let element = match self.asked.keys {
            true => {
                without_value = Element {
                    kind: element.kind.clone(),
                    key: element.key.clone(),
                    tenant: element.tenant.clone(),
                    version: element.version.clone(),
                    error: element.error.clone(),
                    value: None,
                    expires: None,
                };
                &without_value
            }
            false => element,
        };
        let text = serde_json::to_string(element).map_err(|error| error.to_string())?;
        Ok(self.out.write_all(text.as_bytes())?)
    }

    fn end(self) -> Result<(), Stop> {
        match (self.asked.json, self.printed) {
            (true, 0) => writeln!(self.out, "{{\"contexts\":[]}}")?,
            (true, _) => writeln!(self.out, "]}}")?,
            (false, _) => {}
        }
        Ok(self.out.flush()?)
    }
}
