//! The keys of an agent that answers from a table.

use super::{ConfigError, Layers, none};

/// Keys that only a table has.
const OF_TABLES: [&str; 7] = [
    "table",
    "aws_region",
    "endpoint",
    "role_arn",
    "refresh_seconds",
    "fills",
    "refreshes",
];

/// Sees that no key is set that only a table has.
pub(super) fn none_of(layers: &Layers) -> Result<(), ConfigError> {
    none(layers, OF_TABLES, "store = \"dynamodb\"")
}

#[cfg(feature = "dynamodb")]
pub use with_tables::*;

#[cfg(feature = "dynamodb")]
mod with_tables {
    use super::super::authorize::Policy;
    use super::super::{MAX_CACHE_MIB, ReadConfig, follow, for_serving, region};
    use super::*;
    use crate::reader::table::TableReaderConfig;
    use contexts_dynamodb::client::TableConfig;
    use std::time::Duration;

    /// Keys that only a store file has.
    const OF_FILES: [&str; 9] = [
        "data",
        "push_listen",
        "push_token",
        "push_token_next",
        "push_cert",
        "push_key",
        "push_client_ca",
        "peers",
        "cache_mib",
    ];

    /// What `run` needs with a table.
    #[derive(Debug, Clone)]
    pub struct TableRunConfig {
        /// How the table is read.
        pub reader: TableReaderConfig,
        /// Where gateways read.
        pub read: ReadConfig,
        /// Who is let through.
        pub authorize: Vec<Policy>,
    }

    /// What the layers say, for `run` with a table.
    pub fn for_run(layers: &Layers) -> Result<TableRunConfig, ConfigError> {
        none(layers, OF_FILES, "store = \"file\"")?;
        follow::none_of(layers)?;
        let text = |key| Ok::<_, ConfigError>(layers.optional(key)?.map(|set| set.value));
        let table = TableConfig {
            table: layers.required("table")?.value,
            aws_region: layers.required("aws_region")?.value,
            endpoint: text("endpoint")?,
            role_arn: text("role_arn")?,
        };
        if let (Some(set), Some(url)) = (layers.optional("endpoint")?, &table.endpoint)
            && !["http://", "https://"].iter().any(|s| url.starts_with(s))
        {
            return Err(set.bad("must be an address such as http://127.0.0.1:8000"));
        }
        let mut reader = TableReaderConfig::new(table, region(layers)?);
        if let Some(set) = layers.optional("memory_mib")? {
            reader.memory_bytes = (set.number(1, MAX_CACHE_MIB)? as u64) << 20;
        }
        if let Some(set) = layers.optional("refresh_seconds")? {
            reader.refresh_after = Duration::from_secs(set.number(1, 3_600)? as u64);
        }
        for (key, share) in [
            ("fills", &mut reader.fills),
            ("refreshes", &mut reader.refreshes),
        ] {
            if let Some(set) = layers.optional(key)? {
                *share = set.number(1, 10_000)?;
            }
        }
        Ok(TableRunConfig {
            reader,
            read: for_serving(layers, None)?,
            authorize: layers.policies().to_vec(),
        })
    }
}
