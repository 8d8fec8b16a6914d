//! The keys of `spoke-agent follow`.

use super::authorize::Policy;
use super::{ConfigError, KEYS, Layers, ReadConfig, Run, for_serving, none, region};
use crate::reader::follower::FollowerConfig;
use contexts::name::{Kind, Region, TenantId};

/// Keys that only a follower has.
const OF_FOLLOWERS: [&str; 5] = ["from", "from_token", "from_ca", "kinds", "tenants"];
/// Those that it has in common with an agent.
const OF_BOTH: [&str; 9] = [
    "region",
    "data",
    "read_listen",
    "read_token",
    "read_token_next",
    "read_cert",
    "read_key",
    "read_socket",
    "insecure",
];

/// What `follow` needs.
#[derive(Debug, Clone)]
pub struct FollowRunConfig {
    /// The region of the agents.
    pub region: Region,
    /// What is followed.
    pub follower: FollowerConfig,
    /// Where gateways read.
    pub read: ReadConfig,
    /// Who is let through.
    pub authorize: Vec<Policy>,
}

/// Sees that no key is set that only a follower has.
pub(super) fn none_of(layers: &Layers) -> Result<(), ConfigError> {
    none(layers, OF_FOLLOWERS, "`spoke-agent follow`")
}

/// What the layers say, for `follow`.
///
/// # Errors
/// [`ConfigError`] names the first key that is missing or wrong, and where it was set.
pub fn for_follow(layers: &Layers) -> Result<Run, ConfigError> {
    let is_ours = |key: &&str| OF_FOLLOWERS.contains(key) || OF_BOTH.contains(key);
    let theirs = KEYS.into_iter().filter(|key| !is_ours(key));
    none(layers, theirs, "`spoke-agent run`")?;
    let region = region(layers)?;
    let from = layers.required("from")?;
    let mut follower = FollowerConfig::new(from.list());
    if let Some(bad) = follower.agents.iter().find(|name| !is_address(name)) {
        return Err(from.bad(format!(
            "has {bad:?}, which is no address; one looks like unix:/run/hubcast/eu-west-1.sock or http://10.0.0.2:7521, \
             where that agent has its read_socket or read_listen"
        )));
    }
    if let Some(set) = layers.optional("from_token")? {
        follower.token = Some(set.token()?);
    }
    follower.ca = layers.optional("from_ca")?.map(|set| set.value.into());
    follower.file = layers.optional("data")?.map(|set| set.value.into());
    if let Some(set) = layers.optional("kinds")? {
        follower.kinds = set.list();
        let checked = follower
            .kinds
            .iter()
            .try_for_each(|k| Kind::new(k).map(drop));
        checked.map_err(|bad| set.bad(bad.to_string()))?;
    }
    if let Some(set) = layers.optional("tenants")? {
        follower.tenants = set.list();
        let checked = follower
            .tenants
            .iter()
            .try_for_each(|t| TenantId::new(t).map(drop));
        checked.map_err(|bad| set.bad(bad.to_string()))?;
    }
    Ok(Run::Follow(FollowRunConfig {
        region,
        follower,
        read: for_serving(layers, None)?,
        authorize: layers.policies().to_vec(),
    }))
}

fn is_address(text: &str) -> bool {
    match text.split_once(':') {
        Some(("unix", path)) => !path.is_empty(),
        Some(("http" | "https", rest)) => rest.strip_prefix("//").is_some_and(|h| h.contains(':')),
        _ => false,
    }
}
