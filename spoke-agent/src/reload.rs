//! A configuration that is read again while the agent runs (SIGHUP): tokens and policies count from then on, for the next
//! request; certificates are read again by themselves. Everything else needs a restart, which costs moments, and is named
//! where it has another value.
//!
//! A new configuration that cannot be used changes nothing.

use crate::config::authorize::Policy;
use crate::config::{ConfigError, Run};
use crate::token::Tokens;
use std::sync::{Arc, PoisonError, RwLock};

/// Who is let through, now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policies(Arc<RwLock<Arc<[Policy]>>>);

impl Policies {
    /// These.
    pub fn new(policies: Vec<Policy>) -> Self {
        Self(Arc::new(RwLock::new(policies.into())))
    }

    /// Those of now.
    pub fn now(&self) -> Arc<[Policy]> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn replace(&self, with: Arc<[Policy]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = with;
    }
}

/// What of an agent that runs can be replaced.
#[derive(Debug, Clone)]
pub struct Reload {
    push: Option<Tokens>,
    read: Option<Tokens>,
    policies: Policies,
    fixed: Vec<(&'static str, String)>,
}

impl Reload {
    /// What an agent of this configuration works with; it must be handed what this has.
    pub fn of(config: &Run) -> Self {
        let (push, read, policies) = parts(config);
        Self {
            push: push.cloned(),
            read: read.cloned(),
            policies: Policies::new(policies.to_vec()),
            fixed: config.fixed(),
        }
    }

    /// Who is let through.
    pub fn policies(&self) -> Policies {
        self.policies.clone()
    }

    /// Takes over what another configuration says, and tells which keys have another value and need a restart.
    pub fn take(&self, config: &Run) -> Vec<&'static str> {
        let (push, read, policies) = parts(config);
        for (mine, theirs) in [(&self.push, push), (&self.read, read)] {
            if let (Some(mine), Some(theirs)) = (mine, theirs) {
                mine.replace(theirs);
            }
        }
        self.policies.replace(policies.into());
        let theirs = config.fixed();
        let differs = |key: &&(&'static str, String)| !theirs.contains(key);
        let mut keys: Vec<&'static str> = self.fixed.iter().filter(differs).map(|f| f.0).collect();
        keys.extend(
            theirs
                .iter()
                .filter(|f| !self.fixed.contains(f))
                .map(|f| f.0),
        );
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

fn parts(config: &Run) -> (Option<&Tokens>, Option<&Tokens>, &[Policy]) {
    match config {
        Run::File(config) => {
            let (push, read) = (&config.push_token, config.read.token.as_ref());
            (Some(push), read, &config.authorize)
        }
        #[cfg(feature = "dynamodb")]
        Run::Table(config) => (None, config.read.token.as_ref(), &config.authorize),
        Run::Follow(config) => (None, config.read.token.as_ref(), &config.authorize),
    }
}

/// Reads the configuration again and takes it over, or says why it does not.
pub fn again(reload: &Reload, read: impl FnOnce() -> Result<Run, ConfigError>) {
    match read() {
        Ok(config) => {
            for key in reload.take(&config) {
                tracing::warn!(
                    key,
                    "this key has another value now, which counts from the next start on"
                );
            }
            tracing::info!("the new configuration is in force");
        }
        Err(error) => tracing::error!(
            %error,
            "the new configuration is refused; the one from before goes on"
        ),
    }
}
