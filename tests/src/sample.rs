//! The sample of `ops/sample`: a SaaS schema with data, and its keys.

use crate::{Result, postgres};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Tenants.
    pub tenants: u32,
    /// Clusters.
    pub clusters: u32,
    /// API keys.
    pub keys: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            tenants: 2_000,
            clusters: 4_000,
            keys: 40_000,
        }
    }
}

/// Creates the schema in a database and fills it.
///
/// # Errors
/// If a file is missing or a statement fails.
pub async fn load(dir: &Path, database: &str, size: Size) -> Result<()> {
    let schema = std::fs::read_to_string(dir.join("schema.sql"))?;
    let data = std::fs::read_to_string(dir.join("data.sql"))?;
    let Size {
        tenants,
        clusters,
        keys,
    } = size;
    let sizes = format!(
        "SET sample.tenants = {tenants}; SET sample.clusters = {clusters}; SET sample.keys = {keys};"
    );
    postgres::execute(database, &format!("{schema}\n{sizes}\n{data}")).await
}

/// What the database and the contexts know of an API key.
pub fn key_hash(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}
