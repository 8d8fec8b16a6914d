//! What a follower makes of what it is told: decisions only, no I/O.
//!
//! * What is told up to a cursor becomes readable at once or not at all, so each tenant is whole.
//! * A full copy is built aside, and takes the place of what is there only if the store that it came from is as far as
//!   anything that was shown here: [`Step::Refused`] otherwise, and what is there stays.

use super::sse::Event;
use crate::store::fresh::Fresh;
use crate::store::index::Index;
use crate::store::index::known::Known;
use contexts::digest::Digest;
use contexts::limits;
use contexts::name::Kind;
use contexts::push::Reading;
use contexts::version::Version;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A name.
pub type Name = (String, String);

/// What a mirror has.
#[derive(Debug, Clone, Default)]
pub struct Mirror {
    /// What can be read.
    pub index: Index,
    /// What is known of it.
    pub facts: Facts,
    /// What was told since the last cursor.
    pending: Vec<Op>,
    copy: Option<Copy>,
}

/// What is known of a mirror's content beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Up to where it was told.
    pub cursor: Option<String>,
    /// The highest version that was ever shown here.
    pub high: Version,
    /// The kinds of which an unknown key does not exist.
    pub complete: Vec<Kind>,
    /// The moment up to which every change is here.
    pub fresh: Option<Fresh>,
    /// The highest version of which nothing was under way to the agent.
    pub position: Version,
}

#[derive(Debug, Clone)]
enum Op {
    Set(Known),
    Remove {
        name: Name,
        /// Whoever else has the key by now keeps it.
        tenant: String,
        version: Version,
    },
}

/// What an event led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing that can be read changed.
    Nothing,
    /// Only the age or what is known to be complete.
    Noted,
    /// These names can have changed.
    Changed(Vec<Name>),
    /// All of it is another copy.
    Replaced,
    /// A copy is older than what was shown here, and was thrown away.
    Refused,
}

#[derive(Deserialize)]
struct Told<'a> {
    kind: Cow<'a, str>,
    key: Cow<'a, str>,
    tenant: Cow<'a, str>,
    #[serde(default)]
    version: Cow<'a, str>,
    #[serde(default)]
    why: Cow<'a, str>,
    #[serde(borrow)]
    expires: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct State {
    age: Option<f64>,
    position: String,
    complete: Vec<Kind>,
}

/// What does not belong into the stream.
pub type Nonsense = String;

impl Mirror {
    /// What was kept of a mirror.
    pub fn of(contexts: Vec<Known>, facts: Facts) -> Self {
        let mut index = Index::of(contexts, Vec::new(), true);
        index.as_of(0, &facts.complete);
        index.reaches(facts.position);
        Self {
            index,
            facts,
            ..Self::default()
        }
    }

    /// A connection begins: what an earlier one did not tell to its end is told again.
    pub fn begin(&mut self) {
        self.pending.clear();
        self.copy = None;
    }

    /// Whether it ever had a whole copy.
    pub fn is_filled(&self) -> bool {
        self.facts.cursor.is_some()
    }

    /// Takes what it is told.
    ///
    /// # Errors
    /// If it cannot be understood. The connection is of no use then.
    pub fn hear(&mut self, event: &Event, now: Reading) -> Result<Step, Nonsense> {
        match event.name.as_str() {
            "put" | "delete" | "withheld" => self.pending.push(op(event)?),
            "copy" => {
                self.pending.clear();
                self.copy = Some(Copy::default());
            }
            "sync" => return self.end_copy(event, now),
            "state" => {
                self.note(state(event)?, now)?;
                return Ok(Step::Noted);
            }
            "error" => return Err(format!("the agent says {}", event.data)),
            _ => {}
        }
        if let Some(copy) = &mut self.copy {
            copy.take(&mut self.pending);
            return Ok(Step::Nothing);
        }
        match &event.id {
            None => Ok(Step::Nothing),
            Some(id) => {
                self.facts.cursor = Some(id.clone());
                Ok(Step::Changed(self.apply_pending()))
            }
        }
    }

    fn apply_pending(&mut self) -> Vec<Name> {
        let mut names = Vec::with_capacity(self.pending.len());
        for op in self.pending.drain(..) {
            self.facts.high = self.facts.high.max(op.version());
            names.push(op.name());
            op.apply(&mut self.index);
        }
        names
    }

    fn end_copy(&mut self, event: &Event, now: Reading) -> Result<Step, Nonsense> {
        let state = state(event)?;
        let (Some(copy), Some(id)) = (self.copy.take(), event.id.clone()) else {
            return Err("the end of a copy that did not begin".into());
        };
        // Not what the copy has: an agent may have the newest version of one tenant and lack an older one of another, and both
        // were shown here.
        if state.position.parse::<Version>()? < self.facts.high {
            return Ok(Step::Refused);
        }
        self.index = copy.index;
        self.facts.cursor = Some(id);
        self.facts.high = self.facts.high.max(copy.high);
        self.facts.fresh = None;
        self.note(state, now)?;
        Ok(Step::Replaced)
    }

    fn note(&mut self, state: State, now: Reading) -> Result<(), Nonsense> {
        self.facts.position = state.position.parse()?;
        let fresh = state.age.map(|age| Fresh::before(now, age));
        // Delay on the way makes it look younger than it is to nobody: the agent counted before it sent.
        self.facts.fresh = fresh.max(self.facts.fresh);
        self.facts.complete = state.complete;
        self.index.as_of(0, &self.facts.complete);
        self.index.reaches(self.facts.position);
        Ok(())
    }
}

/// A full copy under way.
#[derive(Debug, Clone)]
struct Copy {
    index: Index,
    high: Version,
}

impl Default for Copy {
    fn default() -> Self {
        Self {
            index: Index::of(Vec::new(), Vec::new(), true),
            high: Version::default(),
        }
    }
}

impl Copy {
    fn take(&mut self, pending: &mut Vec<Op>) {
        for op in pending.drain(..) {
            self.high = self.high.max(op.version());
            op.apply(&mut self.index);
        }
    }
}

impl Op {
    fn name(&self) -> Name {
        match self {
            Self::Set(known) => (known.kind().to_owned(), known.key().to_owned()),
            Self::Remove { name, .. } => name.clone(),
        }
    }

    fn version(&self) -> Version {
        match self {
            Self::Set(known) => known.version().unwrap_or_default(),
            Self::Remove { version, .. } => *version,
        }
    }

    fn apply(self, index: &mut Index) {
        match self {
            Self::Set(known) => index.put(known, usize::MAX),
            Self::Remove { name, tenant, .. } => {
                let there = index.get(&name.0, &name.1);
                let is_of_another = there
                    .is_some_and(|known| !known.tenant().is_empty() && known.tenant() != tenant);
                if !is_of_another {
                    index.remove(&name.0, &name.1);
                }
            }
        }
    }
}

fn state(event: &Event) -> Result<State, Nonsense> {
    serde_json::from_str(&event.data).map_err(|error| format!("{}: {error}", event.name))
}

fn op(event: &Event) -> Result<Op, Nonsense> {
    let told: Told<'_> = serde_json::from_str(&event.data)
        .map_err(|error| format!("an event {:?}: {error}", event.name))?;
    let (kind, key, tenant) = (&*told.kind, &*told.key, &*told.tenant);
    let is_named = kind.len() <= limits::KIND_BYTES
        && key.len() <= limits::KEY_BYTES
        && tenant.len() <= limits::TENANT_BYTES;
    if !is_named {
        return Err("a name that is none".into());
    }
    match (event.name.as_str(), told.value) {
        ("put", Some(value)) => {
            let value = value.get().as_bytes();
            let digest = digest(value);
            let expires = told.expires.map(|raw| micros(raw.get())).transpose()?;
            let known = Known::value(kind, key, tenant, value, digest, expires);
            Ok(Op::Set(known.with_version(told.version.parse()?)))
        }
        ("withheld", _) => Ok(Op::Set(Known::nothing(kind, key, told.why != "held"))),
        ("delete", _) => Ok(Op::Remove {
            name: (kind.to_owned(), key.to_owned()),
            tenant: tenant.to_owned(),
            version: told.version.parse()?,
        }),
        (other, _) => Err(format!("an event {other:?} without a value")),
    }
}

/// What tells values apart outside of a store, which has a keyed digest.
pub fn digest(value: &[u8]) -> Digest {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(value).as_bytes()[..16]);
    Digest(digest)
}

/// Microseconds from seconds with six decimals, exactly.
fn micros(seconds: &str) -> Result<i64, Nonsense> {
    let wrong = || format!("{seconds:?} is no moment");
    let (whole, part) = seconds.split_once('.').ok_or_else(wrong)?;
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let part: i64 = part.parse().map_err(|_| wrong())?;
    whole
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(part))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy: of two tenants, each with one context of this version, from an agent at this position.
    fn copied(mirror: &mut Mirror, versions: [&str; 2], position: &str) -> Step {
        let now = Reading { boot: 1, micros: 1 };
        mirror.begin();
        let mut hear = |name: &str, data: String, id: Option<&str>| {
            let event = Event {
                name: name.to_owned(),
                data,
                id: id.map(ToOwned::to_owned),
            };
            mirror.hear(&event, now).expect("is understood")
        };
        hear("copy", "{}".to_owned(), None);
        for (tenant, version) in ["a", "b"].into_iter().zip(versions) {
            let put = format!(
                r#"{{"kind":"k","key":"{tenant}","tenant":"{tenant}","version":"{version}","value":1}}"#
            );
            hear("put", put, None);
        }
        let state = format!(r#"{{"age":0.0,"position":"{position}","complete":["k"]}}"#);
        hear("sync", state, Some("1-0000000000000001"))
    }

    /// Would catch a follower that goes back for one tenant because another agent has the newest version of another one.
    #[test]
    fn what_an_agent_has_of_one_tenant_says_nothing_of_another() {
        let mut mirror = Mirror::default();
        assert_eq!(copied(&mut mirror, ["1.5", "1.6"], "1.6"), Step::Replaced);
        assert_eq!(copied(&mut mirror, ["1.4", "1.6"], "1.3"), Step::Refused);
        let shown = mirror.index.get("k", "a").and_then(Known::version);
        assert_eq!(shown, "1.5".parse().ok());
        assert_eq!(copied(&mut mirror, ["1.5", "1.6"], "1.6"), Step::Replaced);
    }
}
