//! Who watches what, and how that is told: as server-sent events, the last of which has the cursor.

use crate::serve::answer::Failure;
use crate::store::feed::{Event, Group};
use crate::store::index::known::{Known, State as KnownState};
use crate::store::redb::changes::Cursor;
use axum::body::Bytes;
use contexts::version::Version;
use serde_json::json;
use std::fmt::{self, Write};

/// Who watches what.
#[derive(Debug, Default)]
pub struct Audience {
    /// Only these kinds; all without any.
    pub kinds: Vec<String>,
    /// Only these tenants; all without any.
    pub tenants: Vec<String>,
    /// A mirror.
    pub follow: bool,
}

impl Audience {
    /// From the query, with the cursor that it names.
    ///
    /// # Errors
    /// [`Failure::BadRequest`] names what is wrong.
    pub fn of(query: Vec<(String, String)>) -> Result<(Self, Option<String>), Failure> {
        let (mut audience, mut after) = (Self::default(), None);
        for (name, value) in query {
            match (name.as_str(), value.as_str()) {
                ("kind" | "tenant", "") => {}
                ("kind", _) => audience.kinds.push(value),
                ("tenant", _) => audience.tenants.push(value),
                ("after", _) => after = Some(value),
                ("follow", "true" | "false") => audience.follow = value == "true",
                ("follow", _) => {
                    return Err(Failure::BadRequest("follow is true or false".into()));
                }
                _ => {
                    let known = "after, kind, tenant and follow";
                    let why = format!("there is no parameter {name:?}; there are {known}");
                    return Err(Failure::BadRequest(why));
                }
            }
        }
        Ok((audience, after))
    }

    /// Whether nothing is filtered out.
    pub fn is_everyone(&self) -> bool {
        self.kinds.is_empty() && self.tenants.is_empty()
    }

    /// Whether it hears of this kind.
    pub fn hears_of(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|heard| heard == kind)
    }

    /// Whether it watches this tenant.
    pub fn watches(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|watched| watched == tenant)
    }

    /// These groups as events, the last one with the cursor.
    pub fn write(&self, groups: &[Group], cursor: Option<Cursor>) -> Bytes {
        let mut text = Events::default();
        for group in groups
            .iter()
            .filter(|group| self.watches(group.tenant.as_str()))
        {
            for event in &group.events {
                self.write_one(&mut text, group, event);
            }
        }
        text.end(cursor)
    }

    fn write_one(&self, text: &mut Events, group: &Group, event: &Event) {
        let tenant = group.tenant.as_str();
        match event {
            Event::Put(known, version) if self.hears_of(known.kind()) => {
                text.put(known, *version);
            }
            Event::Delete((kind, key), moved_to) if self.hears_of(kind.as_str()) => {
                // Where the new owner is watched too, it is told there.
                let is_told_there = moved_to.as_deref().is_some_and(|owner| self.watches(owner));
                if !is_told_there {
                    text.delete(kind.as_str(), key.as_str(), tenant, group.version);
                }
            }
            // Whoever is no mirror keeps the last good value, if it has one.
            Event::Withheld(known) if self.follow && self.hears_of(known.kind()) => {
                let is_damaged = known.state() == KnownState::Damaged;
                text.withheld(known, tenant, is_damaged);
            }
            _ => {}
        }
    }
}

/// Server-sent events, the last of which is not ended yet.
#[derive(Default)]
pub struct Events(String);

/// Text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Events {
    /// Adds an event.
    pub fn event(&mut self, name: &str, data: fmt::Arguments<'_>) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "event: {name}\ndata: {data}");
    }

    fn put(&mut self, known: &Known, version: Version) {
        let (kind, key) = (quoted(known.kind()), quoted(known.key()));
        let tenant = quoted(known.tenant());
        // Where a line breaks within JSON, a space is as good.
        let value = String::from_utf8_lossy(known.bytes()).replace(['\n', '\r'], " ");
        let expires = match known.expires() {
            None => String::new(),
            Some(micros) => {
                let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
                format!("\"expires\":{seconds}.{rest:06},")
            }
        };
        let named = format!("\"kind\":{kind},\"key\":{key},\"tenant\":{tenant}");
        self.event(
            "put",
            format_args!("{{{named},\"version\":\"{version}\",{expires}\"value\":{value}}}"),
        );
    }

    fn delete(&mut self, kind: &str, key: &str, tenant: &str, version: Version) {
        let data = json!({
            "kind": kind, "key": key, "tenant": tenant, "version": version.to_string()
        });
        self.event("delete", format_args!("{data}"));
    }

    fn withheld(&mut self, known: &Known, tenant: &str, is_damaged: bool) {
        let why = if is_damaged { "damaged" } else { "held" };
        let data = json!({
            "kind": known.kind(), "key": known.key(), "tenant": tenant, "why": why
        });
        self.event("withheld", format_args!("{data}"));
    }

    /// The text, its last event with the cursor.
    pub fn end(mut self, cursor: Option<Cursor>) -> Bytes {
        if self.0.is_empty() {
            return Bytes::new();
        }
        if let Some(cursor) = cursor {
            let _ = writeln!(self.0, "id: {cursor}");
        }
        self.0.push('\n');
        self.0.into()
    }
}
