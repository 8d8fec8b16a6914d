//! What is published, as `migrate` put it into the database. Builds read it in their own snapshot, so a content and
//! the definition that made it always belong together.

use super::pauses::Pauses;
use super::statement::Statement;
use super::{Source, SourceError};
use crate::config::{Compiled, Config, ContextConfig, Watch};
use crate::writer::GuardLimits;
use contexts::digest::DigestKey;
use contexts::name::{Kind, Region};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One kind: what the configuration says, and what the database was found to answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The kind.
    pub kind: Kind,
    /// The query.
    pub query: String,
    /// The tables that it depends on.
    pub watch: Vec<Watch>,
    /// The largest value.
    pub max_value_bytes: u64,
    /// The JSON Schema of its values, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The same, compiled once for all that share these definitions.
    #[serde(skip)]
    pub compiled: Compiled,
    /// Contexts that a tenant may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_contexts: Option<u64>,
    /// Contexts beyond which a tenant is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_contexts: Option<u64>,
    /// The type of the column `key`, if a watch names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_type: Option<String>,
    /// Whether NULL regions are an error.
    pub regions_required: bool,
    /// Whether the query has a column `regions`.
    pub has_regions: bool,
    /// Whether the query has a column `expires`.
    pub has_expires: bool,
}

impl Definition {
    /// A hash of the query: what values are of.
    fn query_hash(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&blake3::hash(self.query.as_bytes()).as_bytes()[..8]);
        u64::from_le_bytes(first) | 1
    }

    /// Where and how a value breaks the schema, if it does.
    pub fn fault(&self, value: &str) -> Option<(String, String)> {
        self.compiled.fault(self.schema.as_deref()?, value)
    }

    /// The first setting in which a configuration differs, if one does.
    fn difference(&self, config: &ContextConfig) -> Option<&'static str> {
        match self {
            _ if self.query != config.query => Some("query"),
            _ if self.watch != config.watch => Some("watch"),
            _ if self.max_value_bytes != config.max_value_bytes => Some("max_value_bytes"),
            _ if self.schema != config.schema => Some("schema"),
            _ if self.max_contexts != config.max_contexts => Some("max_contexts"),
            _ if self.warn_contexts != config.warn_contexts => Some("warn_contexts"),
            _ if self.regions_required != config.regions_required => Some("regions_required"),
            _ => None,
        }
    }
}

/// The fingerprint of all that is read here, 32 hexadecimal digits.
macro_rules! fingerprint {
    () => {
        "(SELECT left(encode(sha256(convert_to(json_build_array(\
         encode(s.digest_key, 'hex'), s.search_path, s.tenant_type, s.guards, \
         (SELECT json_agg(json_build_array(d.kind, d.definition) ORDER BY d.kind) FROM hubcast.definitions d), \
         (SELECT json_agg(json_build_array(t.url, t.region) ORDER BY t.url) FROM hubcast.stores t), \
         (SELECT json_agg(json_build_array(p.region, p.kind, p.reason) ORDER BY p.id) FROM hubcast.pauses p), \
         (SELECT json_agg(e.tenant ORDER BY e.tenant) FROM hubcast.pause_exceptions e), \
         (SELECT json_agg(r.region ORDER BY r.region) FROM hubcast.decommissioned r)\
         )::text, 'UTF8')), 'hex'), 32) FROM hubcast.settings s)"
    };
}

/// Writes the fingerprint down, after a change of anything that it is about.
pub(super) const SET_FINGERPRINT: &str =
    concat!("UPDATE hubcast.settings SET fingerprint = ", fingerprint!());

/// Reads everything that shapes content, in one statement and so in one snapshot. The fingerprint is computed: one that
/// was written down and no longer fits costs the quick way of building, never what is built.
pub(super) const READ: &str = concat!(
    "SELECT encode(digest_key, 'hex'), search_path, tenant_type, \
     (SELECT coalesce(json_agg(definition ORDER BY kind), '[]')::text FROM hubcast.definitions), \
     (SELECT coalesce(json_object_agg(url, region), '{}')::text FROM hubcast.stores), ",
    fingerprint!(),
    ", (SELECT coalesce(json_agg(json_build_object('region', region, 'kind', kind, 'reason', reason) ORDER BY id), '[]')::text \
     FROM hubcast.pauses), (SELECT coalesce(json_agg(tenant), '[]')::text FROM hubcast.pause_exceptions), guards::text, \
     (SELECT coalesce(json_agg(region), '[]')::text FROM hubcast.decommissioned) FROM hubcast.settings"
);

/// A fingerprint as a number.
pub(super) fn number(fingerprint: &str) -> Option<u128> {
    u128::from_str_radix(fingerprint, 16).ok()
}

/// Everything that shapes content.
#[derive(Debug, Clone, PartialEq)]
pub struct Definitions {
    /// The kinds, in their order.
    pub kinds: Vec<Definition>,
    /// The type of the tenant column, as SQL writes it.
    pub tenant_type: String,
    /// Where unqualified names in queries are looked for.
    pub search_path: String,
    /// The key of all digests.
    pub digest_key: DigestKey,
    /// The stores: push address to region.
    pub stores: BTreeMap<String, Region>,
    /// What is paused.
    pub pauses: Pauses,
    /// Regions that were given up, and get nothing.
    pub decommissioned: BTreeSet<Region>,
    /// The limits of the guards.
    pub guards: GuardLimits,
    /// The query of each kind, by its hash.
    pub queries: Arc<BTreeMap<Kind, u64>>,
    /// A fingerprint of all that shapes content.
    pub fingerprint: u128,
}

impl Definitions {
    /// Understands the row that [`read`] returns.
    ///
    /// # Errors
    /// [`SourceError::Failed`] if it is damaged.
    pub(super) fn from_row(row: &PgRow) -> Result<Self, SourceError> {
        let damaged = |why: String| SourceError::Failed {
            what: "reading the definitions".into(),
            why: format!("{why}; run `publisher migrate` again"),
        };
        let (search_path, tenant_type): (String, String) = (row.get(1), row.get(2));
        let (kinds, stores): (String, String) = (row.get(3), row.get(4));
        let (pauses, exceptions): (String, String) = (row.get(6), row.get(7));
        let fingerprint = row.get::<Option<&str>, _>(5).and_then(number);
        let fingerprint = fingerprint.ok_or_else(|| damaged("they have no fingerprint".into()))?;
        let kinds: Vec<Definition> =
            serde_json::from_str(&kinds).map_err(|e| damaged(e.to_string()))?;
        let stores = serde_json::from_str(&stores).map_err(|e| damaged(e.to_string()))?;
        let pauses = Pauses {
            all: serde_json::from_str(&pauses).map_err(|e| damaged(e.to_string()))?,
            exceptions: serde_json::from_str(&exceptions).map_err(|e| damaged(e.to_string()))?,
        };
        let key = from_hex(row.get(0))
            .ok_or_else(|| damaged("the digest key has not 32 bytes".into()))?;
        let limits: GuardLimits =
            serde_json::from_str(row.get(8)).map_err(|e| damaged(e.to_string()))?;
        let guards = GuardLimits {
            budgets: kinds.iter().any(|d| d.max_contexts.is_some()),
            ..limits
        };
        let queries = kinds.iter().map(|d| (d.kind.clone(), d.query_hash()));
        Ok(Self {
            queries: Arc::new(queries.collect()),
            kinds,
            tenant_type,
            search_path,
            digest_key: DigestKey(key),
            stores,
            pauses,
            guards,
            decommissioned: serde_json::from_str(row.get(9)).map_err(|e| damaged(e.to_string()))?,
            fingerprint,
        })
    }

    /// Why a configuration cannot be used at all, if it cannot.
    pub fn refusal(&self, config: &Config) -> Option<String> {
        let spokes = config.spokes.iter().enumerate();
        let mut gone = spokes.filter(|(_, s)| self.decommissioned.contains(&s.region));
        let (i, spoke) = gone.next()?;
        Some(format!(
            "spoke[{i}].region: region {} was decommissioned, and stays so: remove its [[spoke]]; a new region there gets \
             another name",
            spoke.region
        ))
    }

    /// What a configuration says otherwise, one line each. Empty if builds do what it says.
    pub fn differences(&self, config: &Config) -> Vec<String> {
        let mut lines = Vec::new();
        for context in &config.contexts {
            match self.kinds.iter().find(|d| d.kind == context.kind) {
                None => lines.push(format!("kind {} is not in the database", context.kind)),
                Some(definition) => {
                    let key = definition.difference(context);
                    lines.extend(key.map(|key| {
                        format!("kind {}: {key} differs from the database", context.kind)
                    }));
                }
            }
        }
        for definition in &self.kinds {
            if !config.contexts.iter().any(|c| c.kind == definition.kind) {
                lines.push(format!(
                    "kind {} is in the database and not in the configuration",
                    definition.kind
                ));
            }
        }
        let guards = config.hub.guards;
        if self.guards.max_delete_share != guards.max_delete_share {
            lines.push("hub.max_delete_share differs from the database".to_owned());
        }
        if self.guards.max_delete_count != guards.max_delete_count {
            lines.push("hub.max_delete_count differs from the database".to_owned());
        }
        if self.guards.max_change_share != guards.max_change_share {
            lines.push("hub.max_change_share differs from the database".to_owned());
        }
        let configured: BTreeMap<String, Region> = config
            .spokes
            .iter()
            .flat_map(|s| s.urls().into_iter().map(|url| (url, s.region.clone())))
            .collect();
        for (url, region) in &configured {
            if self.stores.get(url) != Some(region) {
                lines.push(format!(
                    "region {region}: the store {url} is not in the database"
                ));
            }
        }
        for (url, region) in &self.stores {
            if !configured.contains_key(url) {
                lines.push(format!("region {region}: the store {url} is in the database and not in the configuration"));
            }
        }
        lines
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    (text.len() == 64).then_some(bytes)
}

impl Source {
    /// Reads the definitions as they are now.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails or was not migrated.
    pub async fn definitions(&self) -> Result<Definitions, SourceError> {
        let row = self
            .fetch_optional("reading the definitions", Statement::new(READ))
            .await?;
        let row = row.ok_or_else(|| SourceError::NotMigrated {
            at: self.at.clone(),
        })?;
        let definitions = Definitions::from_row(&row)?;
        Ok(self.remember(definitions))
    }
}
