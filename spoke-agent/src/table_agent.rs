//! An agent without a store of its own: the hub writes to the region's table, and this answers gateways from there, through
//! a loading cache. It has no push listener and no file, and keeps nothing over a restart.

use crate::agent::{GRACE, StartError};
use crate::config::{Run, TableRunConfig};
use crate::listen::{Listeners, Socket};
use crate::metrics;
use crate::reader::Options;
use crate::reader::table::TableReader;
use crate::reload::Reload;
use crate::serve::gate::Gate;
use crate::serve::table::{TableParts, routes};
use std::net::SocketAddr;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An agent that answers from a table.
pub struct TableAgent {
    /// Where gateways read.
    pub read_addr: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    socket: Option<Socket>,
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
        let system = |error: &dyn std::fmt::Display| StartError::System(error.to_string());
        let metrics =
            metrics::install(config.reader.region.as_str()).map_err(|error| system(&error))?;
        let (region, table) = (config.reader.region.clone(), config.reader.table.url());
        let mut read = Listeners::open(&config.read).await?;
        let reader = TableReader::connect(config.reader, Options::default()).await;
        let routes = routes(TableParts {
            gate: Gate::new(config.read.token),
            policies: reload.policies(),
            region: region.clone(),
            table: table.clone(),
            reader: reader.map_err(|error| StartError::Table(error.to_string()))?,
            metrics,
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        read.serve(&mut tasks, routes, &stopped);
        let (read_listen, read_socket) = read.names();
        tracing::info!(%region, store = table, read_listen, read_socket, "ready");
        Ok(Self {
            read_addr: read.address,
            stop,
            tasks,
            socket: read.socket.take(),
        })
    }

    /// Stops listening and lets open requests end.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all_ended).await.is_err() {
            tracing::warn!("connections that did not end in time are cut");
            self.tasks.shutdown().await;
        }
        if let Some(socket) = &self.socket {
            socket.remove();
        }
    }
}
