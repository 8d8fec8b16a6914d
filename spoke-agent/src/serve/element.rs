//! A context as batch-get and tenant answers have it.

use super::answer::Failure;
use crate::store::index::known::Known;
use contexts::version::Version;
use serde::Serialize;
use serde_json::value::RawValue;

/// One context, or why there is none.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Element {
    /// A value.
    Value {
        /// Its kind.
        kind: String,
        /// Its key.
        key: String,
        /// Whose it is.
        tenant: String,
        /// The version that it came with.
        version: String,
        /// JSON as Postgres wrote it.
        value: Box<RawValue>,
    },
    /// The key exists and has no value that could be answered.
    Held {
        /// Its kind.
        kind: String,
        /// Its key.
        key: String,
        /// `held`
        error: &'static str,
    },
}

impl Element {
    /// A context with a value.
    ///
    /// # Errors
    /// [`Failure::NotReady`] if the value is no JSON: bytes that agree with their hash are what Postgres wrote, anything
    /// else is no answer.
    pub fn value(known: &Known, version: Version) -> Result<Self, Failure> {
        Ok(Self::Value {
            kind: known.kind().to_owned(),
            key: known.key().to_owned(),
            tenant: known.tenant().to_owned(),
            version: version.to_string(),
            value: serde_json::from_slice(known.bytes()).map_err(|_| Failure::NotReady)?,
        })
    }

    /// A key without a value.
    pub fn held(kind: &str, key: &str) -> Self {
        Self::Held {
            kind: kind.to_owned(),
            key: key.to_owned(),
            error: "held",
        }
    }
}
