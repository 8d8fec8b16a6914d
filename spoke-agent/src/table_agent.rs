//! An agent without a store of its own: the hub writes to the region's table, and this answers gateways from there, through
//! a loading cache. It has no push listener and no file, and keeps nothing over a restart.

use crate::agent::StartError;
use crate::config::{Run, TableRunConfig};
use crate::listen::{Listeners, Routes, Serving};
use crate::metrics;
use crate::reader::Options;
use crate::reader::table::TableReader;
use crate::reload::Reload;
use crate::serve::gate::Gate;
use crate::serve::source::{SourceParts, routes};
use crate::serve::table::Table;
use std::net::SocketAddr;

/// An agent that answers from a table.
pub struct TableAgent {
    /// Where gateways read.
    pub read_addr: Option<SocketAddr>,
    serving: Serving,
}

impl TableAgent {
    /// Connects to the table and opens the listeners. A table that does not answer yet is asked again behind the reads.
    ///
    /// # Errors
    /// [`StartError`] says in one line what is in the way.
    pub async fn start(config: TableRunConfig) -> Result<Self, StartError> {
        let reload = Reload::of(&Run::Table(config.clone()));
        Box::pin(Self::start_with(config, &reload)).await
    }

    /// The same with what can be replaced while it runs, which must be of this configuration.
    ///
    /// # Errors
    /// As [`TableAgent::start`].
    pub async fn start_with(config: TableRunConfig, reload: &Reload) -> Result<Self, StartError> {
        let (region, table) = (config.reader.region.clone(), config.reader.table.url());
        let metrics = metrics::install(region.as_str())
            .map_err(|error| StartError::System(error.to_string()))?;
        let read = Listeners::open(&config.read).await?;
        let reader = TableReader::connect(config.reader, Options::default()).await;
        let routes = routes(SourceParts {
            gate: Gate::new(config.read.token),
            policies: reload.policies(),
            source: Table {
                region: region.clone(),
                table: table.clone(),
                reader: reader.map_err(|error| StartError::Table(error.to_string()))?,
            },
            metrics,
        });
        let (read_listen, read_socket) = read.names();
        let serving = Serving::start(read, Routes(routes));
        tracing::info!(%region, store = table, read_listen, read_socket, "ready");
        Ok(Self {
            read_addr: serving.address,
            serving,
        })
    }

    /// Stops listening and lets open requests end.
    pub async fn stop(self) {
        self.serving.stop().await;
    }
}
