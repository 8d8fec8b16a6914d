//! Which keys there are, and which one somebody may have meant.

use super::{Fault, fault};

const TOP: &[&str] = &["hub", "spoke", "context"];
const HUB: &[&str] = &[
    "database_url",
    "direct_url",
    "migrate_url",
    "listen",
    "scan",
    "api_token",
    "token",
    "max_delete_share",
    "max_delete_count",
    "tls",
    "spoke_tls",
    "insecure",
    "max_change_share",
];
const TOKEN: &[&str] = &["name", "token", "role"];
const SPOKE: &[&str] = &[
    "region",
    "store",
    "agents",
    "token",
    "table",
    "aws_region",
    "endpoint",
    "role_arn",
    "max_write_units",
    "max_read_units",
    "audit_hours",
    "tls",
];
const CONTEXT: &[&str] = &[
    "kind",
    "query",
    "watch",
    "max_value_bytes",
    "schema",
    "max_contexts",
    "warn_contexts",
    "regions_required",
    "sensitive",
];
const SERVER: &[&str] = &["cert", "key"];
const CLIENT: &[&str] = &["ca", "cert", "key"];
const WATCH: &[&str] = &["table", "tenant", "columns", "key", "tenants"];

/// Finds the first key that does not exist.
pub(super) fn check(table: &toml::Table) -> Result<(), Fault> {
    known("", table, TOP)?;
    if let Some(toml::Value::Table(hub)) = table.get("hub") {
        known("hub", hub, HUB)?;
        for (key, keys) in [("tls", SERVER), ("spoke_tls", CLIENT)] {
            if let Some(toml::Value::Table(files)) = hub.get(key) {
                known(&format!("hub.{key}"), files, keys)?;
            }
        }
        let tokens = hub.get("token").and_then(toml::Value::as_array);
        let tokens = tokens
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_table);
        for (i, token) in tokens.enumerate() {
            known(&format!("hub.token[{i}]"), token, TOKEN)?;
        }
    }
    for (place, keys) in [("spoke", SPOKE), ("context", CONTEXT)] {
        let items = table
            .get(place)
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten();
        for (i, item) in items.filter_map(toml::Value::as_table).enumerate() {
            known(&format!("{place}[{i}]"), item, keys)?;
            if let Some(toml::Value::Table(files)) = item.get("tls") {
                known(&format!("{place}[{i}].tls"), files, CLIENT)?;
            }
            let watches = item
                .get("watch")
                .and_then(toml::Value::as_array)
                .into_iter()
                .flatten();
            for (j, watch) in watches.filter_map(toml::Value::as_table).enumerate() {
                known(&format!("{place}[{i}].watch[{j}]"), watch, WATCH)?;
            }
        }
    }
    Ok(())
}

fn known(place: &str, table: &toml::Table, keys: &[&str]) -> Result<(), Fault> {
    let Some(key) = table.keys().find(|k| !keys.contains(&k.as_str())) else {
        return Ok(());
    };
    let full = if place.is_empty() {
        key.clone()
    } else {
        format!("{place}.{key}")
    };
    let near = keys
        .iter()
        .map(|k| (strsim::damerau_levenshtein(k, key), k))
        .min();
    let hint = match near {
        Some((distance, near)) if distance <= 3 => format!("did you mean {near:?}?"),
        _ => format!("known keys: {}", keys.join(", ")),
    };
    Err(fault(full.clone(), format!("unknown key {full}; {hint}")))
}

/// The line of a key of the n-th `[[table]]` of a name.
pub(super) fn line_in(text: &str, table: &str, n: usize, key: &str) -> Option<usize> {
    let header = format!("[[{table}]]");
    let mut headers = text.lines().enumerate();
    let mut headers = headers
        .by_ref()
        .filter(|(_, l)| l.trim_start().starts_with(&header));
    let (from, _) = headers.nth(n)?;
    let mut lines = text.lines().enumerate().skip(from + 1);
    let is_key = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    lines.find(|(_, line)| is_key(line)).map(|(i, _)| i + 1)
}

/// The line of a key of `[hub]` or of a `[[spoke]]`, by its place, such as `hub.listen` or `spoke[1].agents`.
pub(super) fn line_at(text: &str, place: &str) -> Option<usize> {
    match place
        .strip_prefix("spoke[")
        .and_then(|rest| rest.split_once("]."))
    {
        Some((n, key)) => line_in(text, "spoke", n.parse().ok()?, key.split('.').next()?),
        None => line_of(text, place.split('.').nth(1)?),
    }
}

/// The line on which the last part of a key first stands at the beginning of a line.
pub(super) fn line_of(text: &str, place: &str) -> Option<usize> {
    let key = place.rsplit('.').next()?;
    let starts = |line: &str| {
        let line = line
            .trim_start()
            .trim_start_matches("[[")
            .trim_start_matches(['[', '{', ' ']);
        line.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start().starts_with(['=', ']']))
    };
    text.lines().position(starts).map(|i| i + 1)
}
