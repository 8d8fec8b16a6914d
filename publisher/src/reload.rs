//! A configuration that is read again while the publisher runs (SIGHUP). One that cannot be used is refused, with the
//! line that says why, and the one from before goes on.
//!
//! What shapes content counts only as the database has it, so a new region or kind is put there first, by `publisher
//! migrate`. Where the publisher listens, as whom, and which database it works on need a restart ([`RESTART`]): these keep
//! their values, and are named.

use crate::api::Setup;
use crate::config::{self, Config};
use crate::engine::Parts;
use crate::spoke::Spoke;
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long the database may take to say what it has.
const DATABASE_WITHIN: Duration = Duration::from_secs(10);

/// Keys that count only from the next start on.
pub const RESTART: [&str; 4] = [
    "hub.listen",
    "hub.tls",
    "hub.database_url",
    "hub.direct_url",
];

/// Where the configuration is read.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// Whether `--insecure` was said.
    pub insecure: bool,
}

/// Reads it whenever that is asked for, and hands over what can be used, for as long as somebody takes it.
pub async fn keep(
    origin: Origin,
    now: watch::Receiver<Setup>,
    mut asked: mpsc::Receiver<()>,
    ready: mpsc::Sender<Setup>,
) {
    while asked.recv().await.is_some() {
        let before = now.borrow().clone();
        match next(&origin, &before).await {
            Ok((setup, waiting)) => {
                for key in waiting {
                    tracing::warn!(
                        key,
                        "this key has another value now, which counts from the next start on"
                    );
                }
                if ready.send(setup).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(
                error,
                "the new configuration is refused; the one from before goes on"
            ),
        }
    }
}

/// What the publisher works with next, and the keys that have another value and need a restart.
async fn next(origin: &Origin, before: &Setup) -> Result<(Setup, Vec<&'static str>), String> {
    let config = config::load(&origin.path, origin.insecure);
    let mut config = config.map_err(|error| error.to_string())?;
    let waiting = keep_what_needs_a_restart(&before.config, &mut config);
    let source = before.parts.source.clone();
    let definitions = source.within(DATABASE_WITHIN, source.definitions());
    let definitions = definitions.await.map_err(|error| {
        format!("{error}; it cannot be compared with what `publisher migrate` stored, send SIGHUP again later")
    })?;
    if let Some(why) = definitions.refusal(&config) {
        return Err(why);
    }
    if let Some(first) = definitions.differences(&config).first() {
        return Err(format!(
            "{first}: run `publisher migrate` with it, then send SIGHUP again"
        ));
    }
    let spokes = Spoke::all(&config).await;
    let parts = Parts {
        source,
        spokes: spokes.into_iter().map(Arc::new).collect(),
        tail: before.parts.tail.clone(),
    };
    let setup = Setup {
        parts: Arc::new(parts),
        config: Arc::new(config),
    };
    Ok((setup, waiting))
}

fn keep_what_needs_a_restart(before: &Config, config: &mut Config) -> Vec<&'static str> {
    let (old, new) = (&before.hub, &mut config.hub);
    let [listen, tls, database, direct] = RESTART;
    let differs = [
        (listen, old.listen != new.listen),
        (tls, old.tls != new.tls),
        (database, !same(&old.database_url, &new.database_url)),
        (
            direct,
            match (&old.direct_url, &new.direct_url) {
                (Some(old), Some(new)) => !same(old, new),
                (old, new) => old.is_some() != new.is_some(),
            },
        ),
    ];
    (new.listen, new.tls) = (old.listen, old.tls.clone());
    new.database_url = old.database_url.clone();
    new.direct_url = old.direct_url.clone();
    let differs = differs.into_iter().filter(|(_, differs)| *differs);
    differs.map(|(key, _)| key).collect()
}

fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

/// Whether the API takes the same tokens for the same.
pub fn same_tokens(one: &Config, other: &Config) -> bool {
    let (one, other) = (&one.hub, &other.hub);
    let pairs = || one.tokens.iter().zip(&other.tokens);
    same(&one.api_token, &other.api_token)
        && one.tokens.len() == other.tokens.len()
        && pairs().all(|(a, b)| a.name == b.name && a.role == b.role && same(&a.token, &b.token))
}
