//! What a follower of the store is told: all of it once, then what changed, tenant by tenant.
//!
//! What is told is what the store holds at the moment of telling, of the names that the log of changes gives. So:
//! * A tenant's part is told as a whole, as of one commit, whatever happened to it in between.
//! * Told twice is told once: a follower that goes on from an earlier cursor ends in the same state.
//! * A key that moved to another tenant is not told as gone; the other tenant's part tells it.
//!
//! It must never keep a snapshot of the file for longer than it takes to read one batch.

use super::index::Lookup;
use super::index::known::{Known, State};
use super::redb::StoreError;
use super::redb::changes::{Cursor, Name, TenantChange};
use super::redb::db::Db;
use super::redb::reader::{Snapshot, Whole};
use contexts::apply::Head;
use contexts::name::TenantId;
use contexts::version::Version;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes after which a part of a full copy ends.
const COPY_BYTES: usize = 256 << 10;
/// Names after which a batch of changes ends.
const BATCH_NAMES: usize = 10_000;

/// One thing that is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// This is the value now, and came with this version.
    Put(Known, Version),
    /// The tenant has no such key any more; another one has it, if it is named.
    Delete(Name, Option<Box<str>>),
    /// The key exists and has no value that could be answered: held, or damaged.
    Withheld(Known),
}

/// What is told of one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The tenant.
    pub tenant: TenantId,
    /// The version of its bundle.
    pub version: Version,
    /// What is told.
    pub events: Vec<Event>,
}

/// What changed between two places of the log.
#[derive(Debug)]
pub struct Batch {
    /// A follower that is here ...
    pub from: Cursor,
    /// ... is there after this.
    pub to: Cursor,
    /// What it is told.
    pub groups: Vec<Group>,
}

/// What changed behind a cursor, or the first part of it; none if the log cannot say. A batch that ends where it begins
/// says that nothing did.
///
/// # Errors
/// If the file cannot be read.
pub fn since(snapshot: &Snapshot, from: Cursor) -> Result<Option<Batch>, StoreError> {
    let Some(changes) = snapshot.changes_after(from)? else {
        return Ok(None);
    };
    let mut names = 0;
    let first = changes.iter().take_while(|(_, change)| {
        let is_within = names < BATCH_NAMES;
        names += change.names.as_ref().map_or(1, Vec::len);
        is_within
    });
    // A commit is told whole, and so is each of its tenants.
    let to = first.last().map(|(cursor, _)| *cursor);
    let tenants = changes.iter().filter(|(cursor, _)| Some(*cursor) <= to);
    let tenants: BTreeSet<&TenantId> = tenants.map(|(_, change)| &change.tenant).collect();
    let mut gathered: BTreeMap<&TenantId, Gathered> = BTreeMap::new();
    for (_, change) in &changes {
        if tenants.contains(&change.tenant) {
            gathered.entry(&change.tenant).or_default().add(change);
        }
    }
    let groups = gathered
        .into_iter()
        .map(|(tenant, gathered)| gathered.tell(snapshot, tenant));
    Ok(Some(Batch {
        from,
        to: to.unwrap_or(from),
        groups: groups.collect::<Result<_, _>>()?,
    }))
}

/// What several commits touched of one tenant.
#[derive(Default)]
struct Gathered<'a> {
    version: Option<Version>,
    is_whole: bool,
    names: BTreeSet<&'a Name>,
}

impl<'a> Gathered<'a> {
    fn add(&mut self, change: &'a TenantChange) {
        self.version = change.version.or(self.version);
        match &change.names {
            None => self.is_whole = true,
            Some(names) => self.names.extend(names),
        }
    }

    fn tell(self, snapshot: &Snapshot, tenant: &TenantId) -> Result<Group, StoreError> {
        let whole = match self.is_whole {
            true => snapshot.whole(tenant)?,
            false => None,
        };
        let head = match &whole {
            Some(whole) => whole.head.clone(),
            None => snapshot.head(tenant)?,
        };
        let mut events: Vec<Event> = whole.iter().flat_map(told).collect();
        let told = whole.iter().flat_map(|whole| &whole.contexts);
        let told: BTreeSet<(&str, &str)> = told.map(|known| (known.kind(), known.key())).collect();
        let held = head
            .iter()
            .filter(|_| self.is_whole)
            .flat_map(Head::valueless);
        let names: BTreeSet<Name> = self.names.into_iter().cloned().chain(held).collect();
        for name in names {
            if !told.contains(&(name.0.as_str(), name.1.as_str())) {
                events.push(tell_name(snapshot, tenant, name)?);
            }
        }
        let version = head.map(|head| head.version).or(self.version);
        Ok(Group {
            tenant: tenant.clone(),
            version: version.unwrap_or_default(),
            events,
        })
    }
}

fn tell_name(snapshot: &Snapshot, tenant: &TenantId, name: Name) -> Result<Event, StoreError> {
    let (kind, key) = (name.0.as_str(), name.1.as_str());
    Ok(match snapshot.known(kind, key)? {
        None => Event::Delete(name, None),
        Some(known) if known.state() != State::Value => Event::Withheld(known),
        Some(known) if known.tenant() == tenant.as_str() => match snapshot.look_up(kind, key)? {
            Lookup::Found(known, versions) => Event::Put(known, versions.value),
            _ => Event::Withheld(Known::nothing(kind, key, true)),
        },
        Some(known) => Event::Delete(name, Some(known.tenant().into())),
    })
}

/// What is told of a tenant's records.
fn told(whole: &Whole) -> impl Iterator<Item = Event> {
    let head = whole.head.as_ref();
    whole
        .contexts
        .iter()
        .map(move |known| match (known.state(), head) {
            (State::Value, Some(head)) => {
                let version = head.version_of(known.kind(), known.key());
                Event::Put(known.clone(), version)
            }
            _ => Event::Withheld(Known::nothing(known.kind(), known.key(), true)),
        })
}

/// A full copy under way. Its parts are of later and later states, so what changed since it began is told behind it.
#[derive(Debug, Default)]
pub struct Copy {
    last: Option<TenantId>,
    is_done: bool,
}

impl Copy {
    /// The next part, or nothing at the end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next(&mut self, db: &Db) -> Result<Option<Vec<Group>>, StoreError> {
        if self.is_done {
            return Ok(None);
        }
        let snapshot = Snapshot::take(db)?;
        let mut bytes = 0;
        let part = snapshot.tenants_after(self.last.as_ref(), |whole| {
            bytes += whole.contexts.iter().map(Known::weight).sum::<usize>();
            bytes >= COPY_BYTES
        })?;
        match part.last() {
            Some(last) => self.last = Some(last.tenant.clone()),
            None => {
                self.is_done = true;
                return Ok(Some(held(&snapshot)?));
            }
        }
        let groups = part.iter().map(|whole| Group {
            tenant: whole.tenant.clone(),
            version: whole
                .head
                .as_ref()
                .map_or(Version::default(), |head| head.version),
            events: told(whole).collect(),
        });
        Ok(Some(groups.collect()))
    }
}

/// The names without a value, which the parts before leave out.
fn held(snapshot: &Snapshot) -> Result<Vec<Group>, StoreError> {
    let mut groups: Vec<Group> = Vec::new();
    for (tenant, held) in snapshot.valueless()? {
        groups.push(Group {
            version: snapshot
                .head(&tenant)?
                .map_or(Version::default(), |head| head.version),
            tenant,
            events: vec![Event::Withheld(held)],
        });
    }
    Ok(groups)
}
