//! What is published, as `migrate` put it into the database. Builds read it in their own snapshot, so a content and
//! the definition that made it always belong together.

use super::{Source, SourceError};
use crate::config::{Config, ContextConfig, Watch};
use contexts::digest::DigestKey;
use contexts::name::{Kind, Region};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row};
use std::collections::BTreeMap;

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
    /// Whether NULL regions are an error.
    pub regions_required: bool,
    /// Whether the query has a column `regions`.
    pub has_regions: bool,
    /// Whether the query has a column `expires`.
    pub has_expires: bool,
}

impl Definition {
    /// The first setting in which a configuration differs, if one does.
    fn difference(&self, config: &ContextConfig) -> Option<&'static str> {
        match self {
            _ if self.query != config.query => Some("query"),
            _ if self.watch != config.watch => Some("watch"),
            _ if self.max_value_bytes != config.max_value_bytes => Some("max_value_bytes"),
            _ if self.regions_required != config.regions_required => Some("regions_required"),
            _ => None,
        }
    }
}

/// Everything that shapes content.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// A fingerprint of all that shapes content.
    pub fingerprint: u128,
}

impl Definitions {
    /// Reads them in the transaction of `connection`.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails or was not migrated.
    pub(super) async fn read(
        source: &Source,
        connection: &mut PgConnection,
    ) -> Result<Self, SourceError> {
        let failed = |e| source.error("reading the definitions", e);
        let sql = "SELECT digest_key, search_path, tenant_type FROM hubcast.settings";
        let settings = sqlx::query(sql)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
        let settings = settings.ok_or_else(|| SourceError::NotMigrated {
            at: source.at.clone(),
        })?;
        let sql = "SELECT definition::text FROM hubcast.definitions ORDER BY kind";
        let rows: Vec<String> = sqlx::query_scalar(sql)
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        let damaged = |why: String| SourceError::Failed {
            what: "reading the definitions".into(),
            why: format!("{why}; run `publisher migrate` again"),
        };
        let mut kinds = Vec::with_capacity(rows.len());
        for row in &rows {
            kinds
                .push(serde_json::from_str::<Definition>(row).map_err(|e| damaged(e.to_string()))?);
        }
        let sql = "SELECT url, region FROM hubcast.stores";
        let mut stores = BTreeMap::new();
        for row in sqlx::query(sql)
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?
        {
            let region = Region::new(row.get(1)).map_err(|e| damaged(e.to_string()))?;
            stores.insert(row.get(0), region);
        }
        let key: Vec<u8> = settings.get(0);
        let key: [u8; 32] = key
            .try_into()
            .map_err(|_| damaged("the digest key has not 32 bytes".into()))?;
        let (search_path, tenant_type): (String, String) = (settings.get(1), settings.get(2));
        let fingerprint = fingerprint(&rows, &search_path, &tenant_type);
        Ok(Self {
            kinds,
            tenant_type,
            search_path,
            digest_key: DigestKey(key),
            stores,
            fingerprint,
        })
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
        let configured: BTreeMap<String, Region> = config
            .spokes
            .iter()
            .flat_map(|s| s.agents.iter().map(|a| (a.clone(), s.region.clone())))
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

fn fingerprint(rows: &[String], search_path: &str, tenant_type: &str) -> u128 {
    use std::hash::{Hash, Hasher};
    let half = |salt: u8| {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        (salt, rows, search_path, tenant_type).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

impl Source {
    /// Reads the definitions as they are now.
    ///
    /// # Errors
    /// [`SourceError`] if the database fails or was not migrated.
    pub async fn definitions(&self) -> Result<Definitions, SourceError> {
        let mut connection = self
            .pool()
            .acquire()
            .await
            .map_err(|e| self.error("connecting", e))?;
        Definitions::read(self, &mut connection).await
    }
}
