//! `publisher tail`: changes as they become durable in stores, a line each, for as long as somebody looks.

use super::remote::{Hub, Refusal};
use super::{Exit, Stop};
use crate::tail::{Filter, Line};
use contexts::name::{Kind, Region, TenantId};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// A publisher says every 15 s that it is there; one that says nothing for longer is gone.
const SILENT: Duration = Duration::from_secs(40);
/// How long to wait before it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Which changes are wanted.
#[derive(Debug, clap::Args)]
pub(super) struct What {
    /// Only to this region
    #[arg(long)]
    region: Option<String>,
    /// Only where something of this kind changed
    #[arg(long)]
    kind: Option<String>,
    /// Only of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// End after so many lines
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl What {
    fn filter(&self) -> Result<Filter, Stop> {
        fn named<T, E: ToString>(
            name: Option<&String>,
            of: impl Fn(&str) -> Result<T, E>,
        ) -> Result<Option<T>, Stop> {
            let named = name.map(|name| of(name)).transpose();
            named.map_err(|e| Stop::Usage(e.to_string()))
        }
        Ok(Filter {
            region: named(self.region.as_ref(), Region::new)?,
            kind: named(self.kind.as_ref(), Kind::new)?,
            tenant: named(self.tenant.as_ref(), TenantId::new)?,
        })
    }
}

/// Follows until there are enough lines, or nobody reads them. A publisher that goes away is asked again: what goes out
/// meanwhile is not seen, and that is said.
pub(super) async fn run(hub: &Hub, json: bool, what: &What) -> Result<Exit, Stop> {
    let Filter {
        region,
        kind,
        tenant,
    } = what.filter()?;
    let query = [
        ("region", region.map(|r| r.to_string())),
        ("kind", kind.map(|k| k.to_string())),
        ("tenant", tenant.map(|t| t.to_string())),
    ];
    let mut printed = Printed {
        json,
        left: what.limit,
        is_writer: None,
    };
    let mut said = None;
    loop {
        match follow(hub, &query, &mut printed).await {
            Ok(()) => return Ok(Exit::Done),
            Err(Refusal::Unreachable(why)) => {
                if said.as_ref() != Some(&why) {
                    eprintln!("publisher: {why}; what goes out meanwhile is not shown here");
                }
                said = Some(why);
            }
            Err(refusal) => return Err(refusal.into()),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Follows one answer; ends well when no more lines are wanted.
async fn follow(
    hub: &Hub,
    query: &[(&str, Option<String>)],
    printed: &mut Printed,
) -> Result<(), Refusal> {
    let mut response = hub.follow("/v1/tail", query).await?;
    let mut events = Events::default();
    let ended = |why: &str| Refusal::Unreachable(format!("{} {why}", hub.base));
    loop {
        let chunk = tokio::time::timeout(SILENT, response.chunk()).await;
        let chunk = chunk.map_err(|_| ended("says nothing any more"))?;
        let chunk = chunk.map_err(|e| hub.broken(&e))?;
        let chunk = chunk.ok_or_else(|| ended("ended the connection"))?;
        for (name, data) in events.take(&chunk) {
            if !printed.event(&name, &data) {
                return Ok(());
            }
        }
    }
}

/// Server-sent events as they arrive.
#[derive(Default)]
struct Events {
    unread: Vec<u8>,
    name: String,
    data: String,
}

impl Events {
    /// The events that are whole with these bytes: name and data.
    fn take(&mut self, bytes: &[u8]) -> Vec<(String, String)> {
        self.unread.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if let Some(name) = line.strip_prefix("event:") {
                name.trim_start().clone_into(&mut self.name);
            } else if let Some(data) = line.strip_prefix("data:") {
                self.data.push_str(data.trim_start());
            } else if line.is_empty() && !self.data.is_empty() {
                let name = std::mem::take(&mut self.name);
                whole.push((name, std::mem::take(&mut self.data)));
            }
        }
        whole
    }
}

struct Printed {
    json: bool,
    left: Option<u64>,
    is_writer: Option<bool>,
}

impl Printed {
    /// Shows an event; whether more are wanted.
    fn event(&mut self, name: &str, data: &str) -> bool {
        let value: Value = serde_json::from_str(data).unwrap_or_default();
        match name {
            "gone" => match serde_json::from_value(value) {
                Ok(line) => self.line(&line),
                // One that a newer publisher says otherwise.
                Err(_) => true,
            },
            "missed" => {
                let lines = value["lines"].as_u64().unwrap_or_default();
                match self.json {
                    true => written(&json!({ "missed": lines }).to_string()),
                    false => written(&format!("... {lines} changes were too fast to be shown")),
                }
            }
            "writer" => {
                let is_writer = value["is_writer"].as_bool();
                if is_writer == Some(false) && self.is_writer != is_writer {
                    eprintln!(
                        "publisher: this publisher is not the writer now; changes are shown once it is, until then ask the writer (see `publisher status`)"
                    );
                }
                self.is_writer = is_writer;
                true
            }
            _ => true,
        }
    }

    fn line(&mut self, line: &Line) -> bool {
        let is_read = match self.json {
            true => written(&serde_json::to_string(line).unwrap_or_default()),
            false => written(&text(line)),
        };
        self.left = self.left.map(|left| left.saturating_sub(1));
        is_read && self.left != Some(0)
    }
}

/// Writes a line at once; whether anybody reads it.
fn written(line: &str) -> bool {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

fn text(line: &Line) -> String {
    let kinds: Vec<&str> = line.kinds.iter().map(|kind| kind.as_str()).collect();
    let kinds = match (kinds.is_empty(), line.is_first) {
        (true, _) => "(none)".to_owned(),
        (false, true) => format!("{} (first seen)", kinds.join(" ")),
        (false, false) => kinds.join(" "),
    };
    let took = match line.ms {
        Some(ms) => format!("{ms} ms"),
        None => line.cause.to_string(),
    };
    format!(
        "{}  {}  {took:>9}  tenant {}  {kinds}  {} contexts  version {}",
        line.time(),
        line.store,
        line.tenant,
        line.contexts,
        line.version
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch an event that is lost or cut where the network cuts it.
    #[test]
    fn events_are_whole_wherever_they_are_cut() {
        let text = b": there\n\nevent: gone\ndata: {\"a\":1}\n\nevent: missed\r\ndata: 2\r\n\r\n";
        let whole = [("gone", "{\"a\":1}"), ("missed", "2")];
        for at in 0..text.len() {
            let mut events = Events::default();
            let (before, after) = text.split_at(at);
            let mut all = events.take(before);
            all.extend(events.take(after));
            let all: Vec<_> = all.iter().map(|(n, d)| (&**n, &**d)).collect();
            assert_eq!(all, whole, "cut at {at}");
        }
    }
}
