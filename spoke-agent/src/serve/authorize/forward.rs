//! Fields of a value as a policy uses them: as what must be true, as the key of the next context, as the text of a header.
//!
//! | field | text |
//! | --- | --- |
//! | text | as it is |
//! | number, true, false | as JSON, digit for digit |
//! | a list of such | with commas between; a text that has a comma itself is percent-encoded |
//! | an object, a list with one in it | as JSON |
//! | null, no such field | none |
//!
//! What no header carries as it is (what is not printable ASCII, blanks at an end) is percent-encoded. A text must never
//! become two headers, or two elements of a list.

use crate::config::authorize::Field;
use crate::serve::answer::{Failure, percent_encoded};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The fields of an object, each as it was written.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The value of a context.
pub struct Value<'a>(Fields<'a>);

impl<'a> Value<'a> {
    /// Of its JSON. What is no object has no fields.
    ///
    /// # Errors
    /// [`Failure::NotReady`] if it is no JSON: anything but what Postgres wrote is no answer.
    pub fn of(bytes: &'a [u8]) -> Result<Self, Failure> {
        let whole: &RawValue = serde_json::from_slice(bytes).map_err(|_| Failure::NotReady)?;
        Ok(Self(fields(whole).unwrap_or_default()))
    }

    /// Whether a field is true, not merely something.
    pub fn is_true(&self, field: &Field) -> bool {
        self.get(field).is_some_and(|raw| raw.get() == "true")
    }

    /// A field as the key of a context: a text or a number.
    pub fn key(&self, field: &Field) -> Option<String> {
        let raw = self.get(field)?;
        match raw.get().as_bytes().first() {
            Some(b'"' | b'-' | b'0'..=b'9') => plain(raw),
            _ => None,
        }
    }

    /// A field as a header can carry it.
    pub fn carried(&self, field: &Field) -> Option<String> {
        text(self.get(field)?).map(carried)
    }

    fn get(&self, field: &Field) -> Option<&'a RawValue> {
        let (first, rest) = field.names().split_first()?;
        let mut found = *self.0.get(first)?;
        for name in rest {
            found = fields(found)?.remove(name)?;
        }
        Some(found)
    }
}

fn fields(object: &RawValue) -> Option<Fields<'_>> {
    serde_json::from_str(object.get()).ok()
}

/// What is no object and no list.
fn plain(raw: &RawValue) -> Option<String> {
    match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw.get()).ok(),
        Some(b'n') => None,
        _ => Some(raw.get().to_owned()),
    }
}

fn text(raw: &RawValue) -> Option<String> {
    let list: Vec<&RawValue> = match raw.get().starts_with('[') {
        true => serde_json::from_str(raw.get()).ok()?,
        false => return plain(raw),
    };
    if list.iter().any(|raw| raw.get().starts_with(['[', '{'])) {
        return Some(raw.get().to_owned());
    }
    let elements = list.into_iter().filter_map(plain).map(element);
    Some(elements.collect::<Vec<_>>().join(","))
}

fn element(text: String) -> String {
    match text.contains(',') {
        true => percent_encoded(&text).into_owned(),
        false => carried(text),
    }
}

fn carried(text: String) -> String {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match is_plain && text.trim_ascii().len() == text.len() {
        true => text,
        false => percent_encoded(&text).into_owned(),
    }
}
