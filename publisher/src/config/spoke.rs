//! `[[spoke]]`: a region, and the agents or the table that keep its contexts.

use super::model::{RawSpoke, SpokeConfig, StoreConfig, check_token};
use super::{Fault, fault, tls};
use contexts::name::Region;
use contexts_dynamodb::client::{Limits, TableConfig};
use std::time::Duration;

/// Units a second that a table has to have: the signs of life of a session take some of them.
const UNITS_MIN: u32 = 10;
/// The longest time for a round over all items, in hours: a month.
const AUDIT_HOURS_MAX: u32 = 744;

pub(super) fn check(i: usize, raw: RawSpoke) -> Result<SpokeConfig, Fault> {
    let place = |key: &str| format!("spoke[{i}].{key}");
    let region = Region::new(&raw.region).map_err(|e| fault(place("region"), e.to_string()))?;
    let of_tables = [
        ("table", raw.table.is_some()),
        ("aws_region", raw.aws_region.is_some()),
        ("endpoint", raw.endpoint.is_some()),
        ("role_arn", raw.role_arn.is_some()),
        ("max_write_units", raw.max_write_units.is_some()),
        ("max_read_units", raw.max_read_units.is_some()),
        ("audit_hours", raw.audit_hours.is_some()),
    ];
    let of_agents = [
        ("agents", !raw.agents.is_empty()),
        ("token", raw.token.is_some()),
        ("tls", raw.tls.is_some()),
    ];
    let stray = |keys: &[(&str, bool)], other: &str| {
        let stray = keys.iter().find(|(_, is_given)| *is_given);
        stray.map(|(key, _)| {
            fault(
                place(key),
                format!("it belongs to store = {other:?}; remove it"),
            )
        })
    };
    let (stray, store) = match raw.store.as_str() {
        "agent" => (
            stray(&of_tables, "dynamodb"),
            check_agents(&place, &region, raw),
        ),
        "dynamodb" => (stray(&of_agents, "agent"), check_table(&place, raw)),
        other => {
            let message = format!("{other:?} is not a store; there is \"agent\" and \"dynamodb\"");
            return Err(fault(place("store"), message));
        }
    };
    match stray {
        Some(fault) => Err(fault),
        None => Ok(SpokeConfig {
            region,
            store: store?,
        }),
    }
}

fn check_agents(
    place: &impl Fn(&str) -> String,
    region: &Region,
    raw: RawSpoke,
) -> Result<StoreConfig, Fault> {
    if raw.agents.is_empty() {
        return Err(fault(
            place("agents"),
            format!("region {region:?} has no agent: give the push address of one"),
        ));
    }
    let mut agents = Vec::new();
    for agent in &raw.agents {
        agents.push(check_address(
            &place("agents"),
            agent,
            "https://10.0.0.7:7511",
        )?);
    }
    let Some(token) = raw.token else {
        let message = "it is missing: what the agents of the region have as push_token";
        return Err(fault(place("token"), message));
    };
    check_token(&place("token"), &token)?;
    let tls = raw.tls.map(|raw| tls::client(&place("tls"), raw));
    let tls = tls.transpose()?;
    if let (Some(_), Some(plain)) = (&tls, agents.iter().find(|url| url.starts_with("http:"))) {
        let message =
            format!("{plain} is not https, and the region has tls; use https, or remove tls");
        return Err(fault(place("agents"), message));
    }
    Ok(StoreConfig::Agents { agents, token, tls })
}

fn check_table(place: &impl Fn(&str) -> String, raw: RawSpoke) -> Result<StoreConfig, Fault> {
    let table = raw.table.unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !(3..=255).contains(&table.len()) || !table.chars().all(is_name) {
        let message = format!(
            "{table:?} is not the name of a table: 3 to 255 letters, digits, '-', '_' and '.'"
        );
        return Err(fault(place("table"), message));
    }
    let aws_region = raw.aws_region.unwrap_or_default();
    if aws_region.is_empty() || !aws_region.chars().all(is_name) {
        let message = format!("{aws_region:?} is not an AWS region; one looks like eu-west-1");
        return Err(fault(place("aws_region"), message));
    }
    let endpoint = raw.endpoint.as_deref();
    let endpoint =
        endpoint.map(|url| check_address(&place("endpoint"), url, "http://127.0.0.1:8000"));
    if let Some(role) = raw
        .role_arn
        .as_deref()
        .filter(|role| !role.starts_with("arn:"))
    {
        let message = format!(
            "{role:?} is not a role; one looks like arn:aws:iam::123456789012:role/hubcast-writer"
        );
        return Err(fault(place("role_arn"), message));
    }
    let caps = [
        ("max_write_units", raw.max_write_units),
        ("max_read_units", raw.max_read_units),
    ];
    for (key, cap) in caps {
        if let Some(cap) = cap.filter(|cap| *cap < UNITS_MIN) {
            let message = format!(
                "{cap} units a second are too few for a table to stay in step; give at least {UNITS_MIN}, or leave it out"
            );
            return Err(fault(place(key), message));
        }
    }
    let mut limits = Limits {
        max_write_units: raw.max_write_units,
        max_read_units: raw.max_read_units,
        ..Limits::default()
    };
    if let Some(hours) = raw.audit_hours {
        if !(1..=AUDIT_HOURS_MAX).contains(&hours) {
            let message = format!(
                "{hours} hours; give 1 to {AUDIT_HOURS_MAX}, the time within which all items are compared"
            );
            return Err(fault(place("audit_hours"), message));
        }
        limits.audit_within = Duration::from_secs(u64::from(hours) * 3_600);
    }
    let config = TableConfig {
        table,
        aws_region,
        endpoint: endpoint.transpose()?,
        role_arn: raw.role_arn,
    };
    Ok(StoreConfig::Table(config, limits))
}

/// An HTTP address, without a trailing slash.
fn check_address(place: &str, address: &str, example: &str) -> Result<String, Fault> {
    let url = reqwest::Url::parse(address)
        .ok()
        .filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    let Some(url) = url else {
        let message = format!("{address:?} is not an address; one looks like {example}");
        return Err(fault(place, message));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fault(
            place,
            "an address must not contain a user or password; use token",
        ));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}
