//! What a configuration says, typed and checked.

use super::tls::{self, RawClient, RawServer};
use super::{Fault, fault};
use crate::writer::GuardLimits;
use contexts::limits;
use contexts::name::{Kind, Region};
use contexts_dynamodb::client::{Limits, TableConfig};
use contexts_dynamodb::layout::VALUE_BYTES;
use hubcast_tls::client::ClientFiles;
use hubcast_tls::server::ServerFiles;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;

const DEFAULT_LISTEN: &str = "127.0.0.1:7400";
/// Every ten minutes: a full scan costs the primary about one percent of a core at a million contexts.
const DEFAULT_SCAN: &str = "0 */10 * * * *";

#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    hub: RawHub,
    #[serde(default)]
    spoke: Vec<RawSpoke>,
    #[serde(default)]
    context: Vec<RawContext>,
}

#[derive(Debug, Deserialize)]
struct RawHub {
    database_url: SecretString,
    direct_url: Option<SecretString>,
    migrate_url: Option<SecretString>,
    listen: Option<String>,
    scan: Option<String>,
    api_token: SecretString,
    #[serde(default)]
    token: Vec<RawToken>,
    max_delete_share: Option<f64>,
    max_delete_count: Option<u64>,
    tls: Option<RawServer>,
    spoke_tls: Option<RawClient>,
    #[serde(default)]
    insecure: bool,
    max_change_share: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct RawToken {
    name: String,
    token: SecretString,
    role: Role,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawSpoke {
    pub(super) region: String,
    #[serde(default = "agent")]
    pub(super) store: String,
    #[serde(default)]
    pub(super) agents: Vec<String>,
    pub(super) token: Option<SecretString>,
    pub(super) table: Option<String>,
    pub(super) aws_region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) role_arn: Option<String>,
    pub(super) max_write_units: Option<u32>,
    pub(super) max_read_units: Option<u32>,
    pub(super) audit_hours: Option<u32>,
    pub(super) tls: Option<RawClient>,
}

fn agent() -> String {
    "agent".to_owned()
}

#[derive(Debug, Deserialize)]
struct RawContext {
    kind: String,
    query: String,
    #[serde(default)]
    watch: Vec<Watch>,
    max_value_bytes: Option<u64>,
    schema: Option<String>,
    max_contexts: Option<u64>,
    warn_contexts: Option<u64>,
    #[serde(default)]
    regions_required: bool,
    #[serde(default)]
    sensitive: bool,
}

/// The whole configuration.
#[derive(Debug)]
pub struct Config {
    /// The hub itself.
    pub hub: HubConfig,
    /// The regions.
    pub spokes: Vec<SpokeConfig>,
    /// What is published.
    pub contexts: Vec<ContextConfig>,
}

/// `[hub]`.
#[derive(Debug)]
pub struct HubConfig {
    /// The primary, perhaps through a transaction pooler.
    pub database_url: SecretString,
    /// The primary past the pooler: what is used instead, if it is given.
    pub direct_url: Option<SecretString>,
    /// The primary, as a role that may create schemas and triggers; else [`HubConfig::address`].
    pub migrate_url: Option<SecretString>,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// When scans run: cron with seconds, UTC.
    pub scan: String,
    /// What callers of the API have to show: the name is `api_token`, and it may do everything.
    pub api_token: SecretString,
    /// Further ones, each with a name and a role.
    pub tokens: Vec<ApiToken>,
    /// What may be removed and changed at once.
    pub guards: GuardLimits,
    /// TLS of the API.
    pub tls: Option<ServerFiles>,
    /// Whom the hub trusts as an agent, and as whom it goes, where a region does not say otherwise.
    pub spoke_tls: ClientFiles,
    /// Plain HTTP also off loopback.
    pub insecure: bool,
}

/// What a token of the API may do: everything that those before it may, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything.
    Read,
    /// Ask for tenants and scans.
    Republish,
    /// Stop, resume, approve and drop.
    Operate,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Republish => "republish",
            Self::Operate => "operate",
        })
    }
}

/// `[[hub.token]]`.
#[derive(Debug)]
pub struct ApiToken {
    /// Who it is, in the audit trail.
    pub name: String,
    /// What is shown.
    pub token: SecretString,
    /// What it may do.
    pub role: Role,
}

impl Config {
    /// The kinds whose values nobody is shown.
    pub fn sensitive(&self) -> impl Iterator<Item = &Kind> {
        let sensitive = self.contexts.iter().filter(|context| context.sensitive);
        sensitive.map(|context| &context.kind)
    }
}

impl HubConfig {
    /// The address of the primary that the publisher uses, and the key that has it.
    pub fn address(&self) -> (&'static str, &SecretString) {
        match &self.direct_url {
            Some(url) => ("hub.direct_url", url),
            None => ("hub.database_url", &self.database_url),
        }
    }
}

/// `[[spoke]]`.
#[derive(Debug)]
pub struct SpokeConfig {
    /// The region.
    pub region: Region,
    /// What keeps its contexts.
    pub store: StoreConfig,
}

/// The stores of a region.
#[derive(Debug)]
pub enum StoreConfig {
    /// Agents.
    Agents {
        /// Their push addresses, without a trailing slash.
        agents: Vec<String>,
        /// What they want to be shown.
        token: SecretString,
        /// Whom the hub trusts as one of them, and as whom it goes; [`HubConfig::spoke_tls`] without it.
        tls: Option<ClientFiles>,
    },
    /// A table, and how much it may be asked for.
    Table(TableConfig, Limits),
}

impl SpokeConfig {
    /// What the database calls its stores.
    pub fn urls(&self) -> Vec<String> {
        match &self.store {
            StoreConfig::Agents { agents, .. } => agents.clone(),
            StoreConfig::Table(table, _) => vec![table.url()],
        }
    }
}

/// `[[context]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextConfig {
    /// The kind.
    pub kind: Kind,
    /// One row per context.
    pub query: String,
    /// The tables that it depends on.
    pub watch: Vec<Watch>,
    /// The largest value.
    pub max_value_bytes: u64,
    /// The JSON Schema of its values, as text.
    pub schema: Option<String>,
    /// Contexts that a tenant may have; what is new beyond is held.
    pub max_contexts: Option<u64>,
    /// Contexts beyond which a tenant is named.
    pub warn_contexts: Option<u64>,
    /// Whether NULL regions are an error rather than every region.
    pub regions_required: bool,
    /// Whether the console masks its values.
    pub sensitive: bool,
}

/// One entry of `watch`: a table and whose contexts a change of it concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a table such as { table = \"orders\", tenant = \"tenant_id\" }")]
pub struct Watch {
    /// The table, as SQL would name it.
    pub table: String,
    /// Its tenant column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The only columns that matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Its column that the query returns as `key`: a changed row concerns no other context of the kind than that with its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Or a query over the changed rows, as the table `changed`, that returns tenants; or `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<String>,
}

impl Watch {
    /// Names a watch with a `tenants` query or a `key` in the outbox, so that what is recorded finds its meaning again.
    pub fn id(&self) -> String {
        let query = self.tenants.as_deref().unwrap_or_default();
        let key = self.key.iter().map(|key| format!("\n\n{key}"));
        let text = format!("{}\n{query}{}", self.table, key.collect::<String>());
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

pub(super) fn check(raw: RawConfig) -> Result<Config, Fault> {
    let hub = check_hub(raw.hub)?;
    let mut spokes = Vec::new();
    let (mut regions, mut urls) = (HashSet::new(), HashSet::new());
    for (i, raw) in raw.spoke.into_iter().enumerate() {
        let spoke = super::spoke::check(i, raw)?;
        if !regions.insert(spoke.region.clone()) {
            let message = format!(
                "region {:?} stands twice; list its agents in one [[spoke]]",
                spoke.region
            );
            return Err(fault(format!("spoke[{i}].region"), message));
        }
        if let Some(twice) = spoke.urls().iter().find(|a| !urls.insert((*a).clone())) {
            let key = match spoke.store {
                StoreConfig::Agents { .. } => "agents",
                StoreConfig::Table(..) => "table",
            };
            return Err(fault(
                format!("spoke[{i}].{key}"),
                format!("the address {twice} stands twice"),
            ));
        }
        spokes.push(spoke);
    }
    if spokes.is_empty() {
        return Err(fault(
            "spoke",
            "there is no [[spoke]]: name at least one region to publish to",
        ));
    }
    let mut contexts: Vec<ContextConfig> = Vec::new();
    for (i, raw) in raw.context.into_iter().enumerate() {
        let context = check_context(i, raw)?;
        let has_table = spokes
            .iter()
            .any(|s: &SpokeConfig| matches!(s.store, StoreConfig::Table(..)));
        if has_table && context.max_value_bytes > VALUE_BYTES as u64 {
            return Err(fault(
                format!("context[{i}].max_value_bytes"),
                format!(
                    "with a region on DynamoDB it is at most {VALUE_BYTES}: an item has room for 400 KB with its names"
                ),
            ));
        }
        if contexts.iter().any(|c| c.kind == context.kind) {
            return Err(fault(
                format!("context[{i}].kind"),
                format!("kind {:?} stands twice", context.kind),
            ));
        }
        contexts.push(context);
    }
    if contexts.is_empty() {
        return Err(fault(
            "context",
            "there is no [[context]]: say with a query what is to be published",
        ));
    }
    Ok(Config {
        hub,
        spokes,
        contexts,
    })
}

fn check_hub(raw: RawHub) -> Result<HubConfig, Fault> {
    let listen = raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN);
    let listen = listen.parse().map_err(|_| {
        fault(
            "hub.listen",
            format!("{listen:?} is not an address; one looks like {DEFAULT_LISTEN}"),
        )
    })?;
    let scan = raw.scan.unwrap_or_else(|| DEFAULT_SCAN.to_owned());
    if tokio_cron_scheduler::Job::new(scan.as_str(), |_, _| {}).is_err() {
        let fields = scan.split_whitespace().count();
        let hint = if fields == 5 {
            "; it needs six fields, seconds first"
        } else {
            ""
        };
        let message =
            format!("{scan:?} is not a cron schedule{hint}; every ten minutes is {DEFAULT_SCAN:?}");
        return Err(fault("hub.scan", message));
    }
    for (place, url) in [
        ("hub.database_url", Some(&raw.database_url)),
        ("hub.direct_url", raw.direct_url.as_ref()),
        ("hub.migrate_url", raw.migrate_url.as_ref()),
    ] {
        let Some(url) = url else { continue };
        let text = url.expose_secret();
        let is_ours = text.starts_with("postgres://") || text.starts_with("postgresql://");
        if !is_ours || text.parse::<sqlx::postgres::PgConnectOptions>().is_err() {
            return Err(fault(
                place,
                "it is not a Postgres address; one looks like postgres://user:password@host:5432/name",
            ));
        }
    }
    check_token("hub.api_token", &raw.api_token)?;
    let defaults = GuardLimits::default();
    let guards = GuardLimits {
        max_delete_share: raw.max_delete_share.unwrap_or(defaults.max_delete_share),
        max_delete_count: raw.max_delete_count.unwrap_or(defaults.max_delete_count),
        max_change_share: raw.max_change_share.unwrap_or(defaults.max_change_share),
        ..defaults
    };
    for (key, share) in [
        ("hub.max_delete_share", guards.max_delete_share),
        ("hub.max_change_share", guards.max_change_share),
    ] {
        if !(0.0..=1.0).contains(&share) {
            let message = "it must be from 0.0 to 1.0; 1.0 switches the guard off";
            return Err(fault(key, message));
        }
    }
    let tokens = check_api_tokens(&raw.api_token, raw.token)?;
    let RawHub {
        database_url,
        direct_url,
        migrate_url,
        api_token,
        tls,
        spoke_tls,
        insecure,
        ..
    } = raw;
    let spoke_tls = spoke_tls.map(|raw| tls::client("hub.spoke_tls", raw));
    Ok(HubConfig {
        database_url,
        direct_url,
        migrate_url,
        listen,
        scan,
        api_token,
        tokens,
        guards,
        tls: tls.map(tls::server),
        spoke_tls: spoke_tls.transpose()?.unwrap_or_default(),
        insecure,
    })
}

/// Names and tokens each stand once: the audit trail names who acted.
fn check_api_tokens(api_token: &SecretString, raw: Vec<RawToken>) -> Result<Vec<ApiToken>, Fault> {
    let (mut names, mut seen) = (HashSet::from(["api_token".to_owned()]), HashSet::new());
    seen.insert(api_token.expose_secret().to_owned());
    let mut tokens = Vec::new();
    for (i, RawToken { name, token, role }) in raw.into_iter().enumerate() {
        let place = |key: &str| format!("hub.token[{i}].{key}");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            let message =
                format!("{name:?} is no name: use 1 to 64 letters, digits, and any of -_.@");
            return Err(fault(place("name"), message));
        }
        if !names.insert(name.clone()) {
            return Err(fault(
                place("name"),
                format!("the name {name:?} stands twice"),
            ));
        }
        check_token(&place("token"), &token)?;
        if !seen.insert(token.expose_secret().to_owned()) {
            return Err(fault(place("token"), "another name has the same token"));
        }
        tokens.push(ApiToken { name, token, role });
    }
    Ok(tokens)
}

/// A token travels in a header.
pub(super) fn check_token(place: &str, token: &SecretString) -> Result<(), Fault> {
    let text = token.expose_secret();
    if text.is_empty() {
        return Err(fault(place, "it is empty"));
    }
    match text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(fault(
            place,
            "it must be printable ASCII without spaces, since it travels in a header",
        )),
    }
}

fn check_context(i: usize, raw: RawContext) -> Result<ContextConfig, Fault> {
    let place = |key: &str| format!("context[{i}].{key}");
    let kind = Kind::new(&raw.kind).map_err(|e| fault(place("kind"), e.to_string()))?;
    let query = raw.query.trim().trim_end_matches(';').trim_end().to_owned();
    if query.is_empty() {
        return Err(fault(
            place("query"),
            format!("the query of kind {kind} is empty"),
        ));
    }
    for (j, watch) in raw.watch.iter().enumerate() {
        if watch.tenant.is_some() == watch.tenants.is_some() {
            let message = "give either tenant (its tenant column) or tenants (a query over the changed rows, or \"all\")";
            return Err(fault(place(&format!("watch[{j}]")), message));
        }
        if watch.key.is_some() && watch.tenant.is_none() {
            let message = "key goes with tenant: a changed row concerns the context of that tenant with that key";
            return Err(fault(place(&format!("watch[{j}].key")), message));
        }
    }
    let max_value_bytes = raw
        .max_value_bytes
        .unwrap_or(limits::DEFAULT_VALUE_BYTES as u64);
    if max_value_bytes == 0 {
        return Err(fault(place("max_value_bytes"), "it must be at least 1"));
    }
    check_budget(&place, raw.warn_contexts, raw.max_contexts)?;
    Ok(ContextConfig {
        kind,
        query,
        watch: raw.watch,
        max_value_bytes,
        schema: raw.schema,
        max_contexts: raw.max_contexts,
        warn_contexts: raw.warn_contexts,
        regions_required: raw.regions_required,
        sensitive: raw.sensitive,
    })
}

/// A warning comes before the end of the budget.
fn check_budget(
    place: &impl Fn(&str) -> String,
    warn: Option<u64>,
    max: Option<u64>,
) -> Result<(), Fault> {
    if max == Some(0) {
        return Err(fault(place("max_contexts"), "it must be at least 1"));
    }
    match (warn, max) {
        (Some(warn), Some(max)) if warn >= max => {
            let message = format!("it must be less than max_contexts, {max}");
            Err(fault(place("warn_contexts"), message))
        }
        _ => Ok(()),
    }
}
