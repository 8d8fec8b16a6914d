//! `spoke-agent export` and `spoke-agent import`: a store as one file, and back; see [`crate::peer::portable`].

use super::ask::reachable;
use super::verify::despite_panics;
use crate::client::chain;
use crate::config::{FileConfig, PushConfig};
use crate::peer::PeerError;
use crate::peer::portable::{self, PortableError, Summary, Target};
use crate::peer::take::{self, Peers};
use crate::store::redb::open::OpenError;
use crate::store::redb::verify;
use hubcast_tls::client::pinned;
use serde_json::{Value, json};
use std::path::Path;

/// Exports the store of a stopped agent; none if an agent has the file open.
///
/// # Errors
/// [`PortableError`]; there is no file then.
pub fn export(file: &FileConfig, out: &Path) -> Result<Option<Summary>, PortableError> {
    let look = || verify::look(&file.data, file.region.as_ref(), file.cache_bytes);
    match despite_panics(file, look) {
        Ok((db, verified)) => portable::export(&db, &verified, out).map(Some),
        Err(OpenError::Locked { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Exports the store of the agent that runs.
///
/// # Errors
/// [`PortableError`]; there is no file then.
pub async fn export_running(push: PushConfig, out: &Path) -> Result<Summary, PortableError> {
    let scheme = if push.tls.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://{}", reachable(push.listen));
    let builder = take::client_builder();
    let client = match &push.tls {
        // Whatever host names it has, it is the certificate of this very configuration.
        Some(files) => pinned(files, builder).map_err(|error| error.to_string()),
        None => builder.build().map_err(|error| chain(&error)),
    };
    let client = client.map_err(|why| PortableError::Agent {
        address: address.clone(),
        why: PeerError::Unreachable(why),
    })?;
    let region = push.region;
    let peers = Peers::with(client, vec![address.clone()], push.token, region.clone());
    portable::export_running(&peers, &address, region, out).await
}

/// Makes a store of a file.
///
/// # Errors
/// [`PortableError`]; there is no store then, or one that is as empty as before.
pub fn import(
    file: &FileConfig,
    from: &Path,
    is_other_region_meant: bool,
) -> Result<Summary, PortableError> {
    let target = Target {
        data: &file.data,
        region: file.region.as_ref(),
        is_other_region_meant,
        cache_bytes: file.cache_bytes,
    };
    portable::import(from, &target)
}

/// What is printed of it.
pub fn text(summary: &Summary, is_json: bool, ended: &str) -> String {
    if is_json {
        let mut document = json!(summary);
        document["done"] = Value::from(ended);
        return document.to_string();
    }
    let age = match summary.age {
        Some(age) => format!("{age:.0} s old"),
        None => "of unknown age".into(),
    };
    let missing = match summary.is_log_missing {
        true => {
            "the redo log that belongs to the store is not beside it; the last pushes may be missing\n"
        }
        false => "",
    };
    format!(
        "{missing}{} contexts of {} tenants of {}, {age}: {ended}",
        summary.contexts, summary.bundles, summary.region
    )
}
