//! Attributes: how numbers, ids and structures are written, and how they are read when anybody may have changed them.

use super::{Item, Place};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Serialize, de::DeserializeOwned};

/// An item that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the item {place:?} cannot be read: {why}; remove it, and the next scan fills it again")]
pub struct BadItem {
    /// Where.
    pub place: String,
    /// What is wrong.
    pub why: String,
}

impl BadItem {
    pub(super) fn new(place: &str, why: impl Into<String>) -> Self {
        let (place, why) = (place.to_owned(), why.into());
        Self { place, why }
    }
}

pub(super) fn bytes<const N: usize>(bytes: [u8; N]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

pub(super) fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

/// A number as an attribute.
pub fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn encode<T: Serialize>(place: &str, value: &T) -> Result<AttributeValue, BadItem> {
    let encoded = postcard::to_stdvec(value);
    let encoded = encoded.map_err(|error| BadItem::new(place, error.to_string()))?;
    Ok(AttributeValue::B(Blob::new(encoded)))
}

/// The attributes of an item, with its place for what is said of it.
pub(super) struct Fields<'a> {
    pub(super) place: Place,
    item: &'a Item,
}

impl<'a> Fields<'a> {
    pub(super) fn of(item: &'a Item) -> Result<Self, BadItem> {
        let place = Place::of(item)?;
        Ok(Self { place, item })
    }

    pub(super) fn bad(&self, why: impl Into<String>) -> BadItem {
        BadItem::new(&self.place.to_string(), why)
    }

    pub(super) fn optional<T>(
        &self,
        name: &str,
        read: impl Fn(&Self, &str) -> Result<T, BadItem>,
    ) -> Result<Option<T>, BadItem> {
        let there = self.item.contains_key(name);
        there.then(|| read(self, name)).transpose()
    }

    fn blob(&self, name: &str) -> Result<&'a [u8], BadItem> {
        match self.item.get(name) {
            Some(AttributeValue::B(blob)) => Ok(blob.as_ref()),
            _ => Err(self.bad(format!("{name} is missing or not binary"))),
        }
    }

    pub(super) fn id(&self, name: &str) -> Result<u128, BadItem> {
        let bytes = <[u8; 16]>::try_from(self.blob(name)?);
        let bytes = bytes.map_err(|_| self.bad(format!("{name} has not 16 bytes")))?;
        Ok(u128::from_be_bytes(bytes))
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, name: &str) -> Result<T, BadItem> {
        let decoded = postcard::from_bytes(self.blob(name)?);
        decoded.map_err(|error| self.bad(format!("{name}: {error}")))
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, BadItem> {
        match self.item.get(name) {
            Some(AttributeValue::S(text)) => Ok(text),
            _ => Err(self.bad(format!("{name} is missing or not text"))),
        }
    }

    pub(super) fn integer<T: std::str::FromStr>(&self, name: &str) -> Result<T, BadItem> {
        let parsed = match self.item.get(name) {
            Some(AttributeValue::N(digits)) => digits.parse().ok(),
            _ => None,
        };
        parsed.ok_or_else(|| self.bad(format!("{name} is missing or not a number")))
    }
}
