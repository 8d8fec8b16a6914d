//! A region on DynamoDB: a server of its API in this process, and what its table holds.
//!
//! `DYNAMODB_ENDPOINT` names another server to use, such as DynamoDB Local; each region has a table of its own there.

use crate::Result;
use contexts::name::Region;
use contexts::push::{ListBuckets, ReadTenant};
use contexts_dynamodb::client::{Db, TableConfig};
use contexts_dynamodb::table::Table;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What the programs are given: the server takes any.
const CREDENTIALS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
];

/// A region whose store is a table.
#[derive(Debug, Clone)]
pub struct TableRegion {
    /// The region.
    pub region: String,
    /// The server's address.
    pub endpoint: String,
    /// The name of its table.
    pub table: String,
}

impl TableRegion {
    /// The region's table on a server that runs.
    pub fn at(region: &str, endpoint: &str, table: &str) -> Self {
        let (region, endpoint) = (region.to_owned(), endpoint.to_owned());
        let table = table.to_owned();
        Self {
            region,
            endpoint,
            table,
        }
    }

    /// A server of its own, without a table yet.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(region: &str) -> Result<Self> {
        if let Ok(endpoint) = std::env::var("DYNAMODB_ENDPOINT") {
            let table = format!("contexts-{:032x}", rand::random::<u128>());
            return Ok(Self::at(region, endpoint.trim_end_matches('/'), &table));
        }
        let db = dynoxide::Database::memory()?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let never = std::future::pending();
        tokio::spawn(dynoxide::server::serve_with_shutdown(listener, db, never));
        Ok(Self::at(region, &endpoint, "contexts"))
    }

    /// The server's port.
    ///
    /// # Errors
    /// If the address has none.
    pub fn port(&self) -> Result<u16> {
        let port = self.endpoint.rsplit(':').next();
        Ok(port.ok_or("the address has a port")?.parse()?)
    }

    /// Its part of a hub's configuration.
    ///
    /// # Errors
    /// Never; to write into a text cannot fail.
    pub fn spoke(&self) -> Result<String> {
        let (region, endpoint, table) = (&self.region, &self.endpoint, &self.table);
        let mut text = String::new();
        writeln!(
            text,
            "[[spoke]]\nregion = \"{region}\"\nstore = \"dynamodb\""
        )?;
        writeln!(text, "table = \"{table}\"\naws_region = \"{region}\"")?;
        writeln!(text, "endpoint = \"{endpoint}\"")?;
        Ok(text)
    }

    /// What a program needs in its environment.
    pub fn env() -> Vec<(String, String)> {
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        CREDENTIALS.map(pair).into()
    }

    /// The table, as a hub's configuration has it.
    pub fn config(&self) -> TableConfig {
        TableConfig {
            table: self.table.clone(),
            aws_region: self.region.clone(),
            endpoint: Some(self.endpoint.clone()),
            role_arn: None,
        }
    }

    /// All that the table holds: tenant and value, by kind and key.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn holds(&self) -> Result<BTreeMap<(String, String), (String, String)>> {
        let table = Table::new(self.db(), Region::new(&self.region)?);
        let all = ListBuckets {
            buckets: (0..contexts::digest::BUCKETS as u16).collect(),
        };
        let listed = table.buckets(&all.buckets).await??;
        let ask = ReadTenant {
            tenants: listed.into_iter().map(|listed| listed.tenant).collect(),
            owners_of: Vec::new(),
        };
        let mut held = BTreeMap::new();
        for tenant in table.read(&ask).await??.tenants {
            for context in tenant.contexts {
                let name = (context.kind.to_string(), context.key.to_string());
                held.insert(name, (tenant.tenant.to_string(), context.value.to_string()));
            }
        }
        Ok(held)
    }

    fn builder(&self, endpoint: &str) -> aws_sdk_dynamodb::config::Builder {
        use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Credentials, Region};
        let [(_, id), (_, secret)] = CREDENTIALS;
        Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(Credentials::new(id, secret, None, None, "test"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(endpoint)
    }

    /// A client of the SDK itself, for what the hub never does.
    pub fn client(&self, endpoint: &str) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(self.builder(endpoint).build())
    }

    /// A way to its table, straight or through something in between.
    pub fn db_through(&self, endpoint: &str) -> Db {
        Db::with(self.builder(endpoint), &self.table)
    }

    /// A way to its table.
    pub fn db(&self) -> Db {
        self.db_through(&self.endpoint)
    }
}
