//! A mirror of an agent as what answers come from. What was not subscribed to is not known here, and so never absent.

use super::answer::{Failure, Far};
use super::source::{Seen, Source};
use super::tenant::Asked;
use crate::metrics as names;
use crate::reader::follower::Mirrored;
use crate::store::index::{Index, Lookup};
use crate::store::live::RELEASE;
use axum::response::Response;
use contexts::name::Region;
use contexts::version::Version;
use metrics::gauge;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A follower's mirror, and what is said of it.
pub struct Mirror {
    /// The region.
    pub region: Region,
    /// The agents that are followed, in the order of preference.
    pub agents: Vec<String>,
    /// The kinds that are subscribed to; all without any.
    pub kinds: Vec<String>,
    /// The tenants that are; all without any.
    pub tenants: Vec<String>,
    pub(crate) mirrored: Mirrored,
}

/// How far a state is.
fn far(index: Option<&Arc<Index>>, age: Option<Duration>) -> Far {
    Far {
        position: index.map_or_else(Version::default, |index| index.position()),
        age,
    }
}

impl Source for Mirror {
    const NO_WATCH: &'static str =
        "a follower passes no changes on: watch the agent that it follows";

    fn far(&self) -> Far {
        let (index, age) = self.mirrored.now();
        far(index.as_ref(), age)
    }

    // A copy is whole only once its agent was in step.
    fn is_ready(&self) -> bool {
        self.mirrored.now().0.is_some()
    }

    async fn look_up_many(
        &self,
        keys: &[(&str, &str)],
        _: Option<Version>,
    ) -> Vec<Result<Seen<Lookup>, Failure>> {
        let (index, age) = self.mirrored.now();
        let far = far(index.as_ref(), age);
        let one = |(kind, key): &(&str, &str)| match &index {
            None => Err(Failure::NotReady),
            Some(index) => Ok(Seen {
                found: index.look_up(kind, key),
                far,
            }),
        };
        keys.iter().map(one).collect()
    }

    async fn contexts(&self, _: Asked) -> Result<Response, Failure> {
        let why = "a follower has contexts by their keys and no list of a tenant: ask the agent that it follows";
        Err(Failure::NotHere(why.into()))
    }

    fn status(&self) -> Value {
        let (index, age) = self.mirrored.now();
        let contexts = index.as_ref().map_or(0, |index| index.len());
        json!({
            "region": self.region,
            "follows": self.agents,
            "kinds": self.kinds,
            "tenants": self.tenants,
            "release": RELEASE,
            "ready": index.is_some(),
            // Those of which it can say that a key does not exist.
            "synced_kinds": index.as_ref().map(|index| index.complete()),
            "position": far(index.as_ref(), age).position.to_string(),
            "age_seconds": age.map(|age| age.as_secs_f64()),
            "contexts": contexts,
            "memory": {
                "reads": "memory",
                "checked": true,
                "contexts": contexts,
                "bytes": index.as_ref().map_or(0, |index| index.bytes()),
            },
        })
    }

    fn set_metrics(&self) {
        let (index, _) = self.mirrored.now();
        gauge!(names::CONTEXTS).set(index.as_ref().map_or(0, |index| index.len()) as f64);
        gauge!(names::MEMORY_BYTES).set(index.as_ref().map_or(0, |index| index.bytes()) as f64);
    }
}
