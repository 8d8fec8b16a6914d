//! `spoke-agent follow`: a mirror of an agent beside a gateway, in the same pod or on the same machine, which answers that
//! gateway as the agent would, also while no agent can be reached. It has no push listener and no store: the hub does not
//! know it, and what it keeps is only the mirror of a [`Follower`].
//!
//! It must never be more than its mirror: what an agent did not tell it, it does not know.

use crate::agent::StartError;
use crate::config::{FollowRunConfig, Run};
use crate::listen::{Listeners, Routes, Serving};
use crate::metrics;
use crate::reader::Options;
use crate::reader::follower::Follower;
use crate::reload::Reload;
use crate::serve::gate::Gate;
use crate::serve::mirrored::Mirror;
use crate::serve::source::{SourceParts, routes};
use std::net::SocketAddr;

/// A follower that answers.
pub struct FollowAgent {
    /// Where gateways read.
    pub read_addr: Option<SocketAddr>,
    serving: Serving,
    follower: Follower,
}

impl FollowAgent {
    /// Begins with what its file has, if it has one, follows from there, and opens the listeners. It waits for no agent.
    ///
    /// # Errors
    /// [`StartError`] says in one line what is in the way.
    pub async fn start(config: FollowRunConfig) -> Result<Self, StartError> {
        let reload = Reload::of(&Run::Follow(config.clone()));
        Box::pin(Self::start_with(config, &reload)).await
    }

    /// The same with what can be replaced while it runs, which must be of this configuration.
    ///
    /// # Errors
    /// As [`FollowAgent::start`].
    pub async fn start_with(config: FollowRunConfig, reload: &Reload) -> Result<Self, StartError> {
        let (region, agents) = (config.region, config.follower.agents.clone());
        let (kinds, tenants) = (
            config.follower.kinds.clone(),
            config.follower.tenants.clone(),
        );
        let metrics = metrics::install(region.as_str())
            .map_err(|error| StartError::System(error.to_string()))?;
        let read = Listeners::open(&config.read).await?;
        let follower = Follower::start(config.follower, Options::default()).await?;
        let store = agents.join(",");
        let routes = routes(SourceParts {
            gate: Gate::new(config.read.token),
            policies: reload.policies(),
            source: Mirror {
                region: region.clone(),
                agents,
                kinds,
                tenants,
                mirrored: follower.mirrored(),
            },
            metrics,
        });
        let (read_listen, read_socket) = read.names();
        let serving = Serving::start(read, Routes(routes));
        tracing::info!(%region, store, read_listen, read_socket, "ready");
        Ok(Self {
            read_addr: serving.address,
            serving,
            follower,
        })
    }

    /// Stops listening, lets open requests end, and writes down what it has.
    pub async fn stop(self) {
        self.serving.stop().await;
        self.follower.stop().await;
    }
}
