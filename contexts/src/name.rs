//! Checked names. A value of one of these types has passed its check, wherever it came from: the constructors and
//! the decoders are the only ways to make one.

use crate::limits;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct BadName {
    /// Which kind of name it should have been.
    pub what: &'static str,
    /// The text, cut to 64 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: String,
}

fn bad(what: &'static str, text: &str, rule: impl Into<String>) -> BadName {
    BadName {
        what,
        text: text.chars().take(64).collect(),
        rule: rule.into(),
    }
}

fn length(what: &'static str, text: &str, max: usize) -> Result<(), BadName> {
    match text.len() {
        0 => Err(bad(what, text, "it is empty")),
        n if n > max => Err(bad(
            what,
            text,
            format!("it has {n} bytes, {max} are allowed"),
        )),
        _ => Ok(()),
    }
}

fn check_kind(text: &str) -> Result<(), BadName> {
    length("kind", text, limits::KIND_BYTES)?;
    let mut bytes = text.bytes();
    let head = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    match head && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        true => Ok(()),
        false => Err(bad(
            "kind",
            text,
            "a kind is a-z followed by a-z, 0-9 and _",
        )),
    }
}

fn check_key(text: &str) -> Result<(), BadName> {
    length("key", text, limits::KEY_BYTES)
}

fn check_tenant(text: &str) -> Result<(), BadName> {
    length("tenant", text, limits::TENANT_BYTES)
}

fn check_region(text: &str) -> Result<(), BadName> {
    length("region", text, limits::REGION_BYTES)?;
    match text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.')
    {
        true => Ok(()),
        false => Err(bad(
            "region",
            text,
            "a region is made of a-z, A-Z, 0-9, '-', '_' and '.'",
        )),
    }
}

/// Reads a text where it lies: a push has a name for each context, and none needs a copy beside its own.
struct Text<N>(fn(&str) -> Result<N, BadName>);

impl<N> Visitor<'_> for Text<N> {
    type Value = N;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<N, E> {
        self.0(text).map_err(E::custom)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes a name of it.
            ///
            /// # Errors
            /// [`BadName`] says which rule the text breaks.
            pub fn new(text: &str) -> Result<Self, BadName> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// Whether `text` is such a name.
            pub fn is_one(text: &str) -> bool {
                $check(text).is_ok()
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(Self::new))
            }
        }

        impl TryFrom<Arc<str>> for $name {
            type Error = BadName;
            fn try_from(text: Arc<str>) -> Result<Self, BadName> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name!(
    /// A kind of context, such as `cluster` or `api_key`.
    Kind,
    check_kind
);
name!(
    /// A key within a kind; any non-empty text.
    Key,
    check_key
);
name!(
    /// The owner of contexts, as the text that Postgres gives for the tenant column.
    TenantId,
    check_tenant
);
name!(
    /// One place that serves traffic.
    Region,
    check_region
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_the_documented_pattern() {
        for good in ["a", "api_key", "k9_"] {
            assert!(Kind::new(good).is_ok(), "{good}");
        }
        for wrong in ["", "Api", "9k", "_k", "api-key", "é"] {
            assert!(Kind::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_and_tenants_are_any_text_within_their_length() {
        assert!(Key::new("a/b c+ü").is_ok());
        assert!(Key::new("").is_err());
        assert!(Key::new(&"x".repeat(limits::KEY_BYTES + 1)).is_err());
        assert!(TenantId::new(&"x".repeat(limits::TENANT_BYTES)).is_ok());
    }
}
