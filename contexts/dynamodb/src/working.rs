//! What a push concerns, read into maps, and the difference that the push makes to them.
//!
//! `contexts::apply` decides, as in every store: here on [`Maps`] that were read before, strongly consistent. That is
//! sound because the writer is the only one, does one push after the other, and what it writes is refused if a head is
//! not the one that it read or the fence names another session.

use crate::client::{Db, TableError};
use crate::layout::{
    self, Build, Item, Names, Place, SETTLED, StoredContext, StoredHead, names_of, paginate,
    part_of_sum,
};
use crate::read::Reads;
use contexts::apply::maps::Maps;
use contexts::apply::{Head, Name};
use contexts::digest::{Digest, DigestKey};
use contexts::name::{Kind, TenantId};
use contexts::push::Sent;
use contexts::version::Version;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Working {
    /// As the rules see it.
    pub(crate) maps: Maps,
    heads: BTreeMap<TenantId, StoredHead>,
    /// The names on the pages of these heads.
    listed: BTreeMap<TenantId, Vec<Name>>,
    contexts: BTreeMap<Name, StoredContext>,
}

/// The part of a difference that has to be written at once.
#[derive(Debug)]
pub(crate) struct Group {
    /// The build that writes it.
    pub(crate) build: Build,
    /// New heads.
    pub(crate) heads: Vec<ChangedHead>,
    /// Keys as they are to be.
    pub(crate) contexts: Vec<Changed>,
    /// The names of the tenants' records.
    pub(crate) names: HashMap<TenantId, Vec<Name>>,
    /// Kinds that the table is blind for from now on, or not any more.
    pub(crate) blind: Vec<(Kind, TenantId, bool)>,
}

/// A head as it is to be.
#[derive(Debug)]
pub(crate) struct ChangedHead {
    /// What is to stand there; names that changed are under the id of the group's build.
    pub(crate) stored: StoredHead,
    /// The build that stands there now.
    pub(crate) seen: Option<Build>,
    /// Where the names are now.
    pub(crate) before: Names,
    /// Whether they changed.
    pub(crate) is_renamed: bool,
}

/// A key as it is to be.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The key.
    pub(crate) name: Name,
    /// What is to stand there; nothing if nobody has the key any more.
    pub(crate) stored: Option<StoredContext>,
    /// A tenant of the group: once its head names the build, this counts.
    pub(crate) by: TenantId,
}

impl Group {
    fn new(build: Build) -> Self {
        Self {
            build,
            heads: Vec::new(),
            contexts: Vec::new(),
            names: HashMap::new(),
            blind: Vec::new(),
        }
    }
}

impl Working {
    /// Reads what these bundles concern: heads, records, and who has the keys that they name.
    pub(crate) async fn read(
        db: &Db,
        key: &DigestKey,
        synced: &BTreeSet<Kind>,
        bundles: &[Sent],
    ) -> Result<Self, TableError> {
        let tenants: BTreeSet<&TenantId> = bundles.iter().map(|s| &s.bundle.tenant).collect();
        let heads = read_heads(db, key, tenants.iter().copied()).await?;
        let listed = names_in_all(db, heads.values(), Reads::Strong).await?;
        let mut names: BTreeSet<Name> = listed.values().flatten().cloned().collect();
        for head in heads.values() {
            let held = head.head.held.iter().filter(|_| !head.is_gone);
            names.extend(held.map(|held| (held.kind.clone(), held.key.clone())));
        }
        for sent in bundles {
            let contexts = sent.bundle.contexts.iter();
            names.extend(contexts.map(|c| (c.kind.clone(), c.key.clone())));
            let held = sent.bundle.held.iter();
            names.extend(held.map(|held| (held.kind.clone(), held.key.clone())));
        }
        let contexts = read_contexts(db, names, Reads::Strong).await?;
        let mut this = Self {
            heads,
            listed,
            contexts,
            maps: Maps {
                synced: synced.clone(),
                ..Maps::default()
            },
        };
        this.fill(&tenants);
        Ok(this)
    }

    fn fill(&mut self, tenants: &BTreeSet<&TenantId>) {
        for (tenant, stored) in self.heads.iter().filter(|(_, stored)| !stored.is_gone) {
            self.maps.heads.insert(tenant.clone(), stored.head.clone());
            for whole in stored.head.held_kinds.iter().filter(|h| h.kept.is_none()) {
                self.maps.blind.insert((whole.kind.clone(), tenant.clone()));
            }
        }
        for (name, stored) in &self.contexts {
            self.maps.owners.insert(name.clone(), stored.owner.clone());
            let owner = &stored.owner.tenant;
            if let Some(record) = stored.record.as_ref().filter(|_| tenants.contains(owner)) {
                let records = self.maps.records.entry(owner.clone()).or_default();
                records.insert(name.clone(), record.clone());
            }
        }
    }

    /// The difference between what was read and `after`, in groups that have nothing to do with one another: a tenant
    /// that gives a key to another one is in a group with it.
    pub(crate) fn differences(
        &self,
        after: &Maps,
        bundles: &[Sent],
        mut draw: impl FnMut() -> Result<u128, TableError>,
    ) -> Result<Vec<Group>, TableError> {
        let versions: HashMap<&TenantId, Version> = bundles
            .iter()
            .map(|s| (&s.bundle.tenant, s.version))
            .collect();
        let changed = self.changed(after);
        let mut kin = Kin::default();
        for (name, _) in &changed {
            kin.join(self.concerned(after, name, &versions));
        }
        let mut groups: BTreeMap<&TenantId, Group> = BTreeMap::new();
        for tenant in versions.keys() {
            let first = kin.first(tenant);
            let is_touched = self.is_touched(after, tenant) || kin.knows(tenant);
            if is_touched && !groups.contains_key(first) {
                groups.insert(first, Group::new(Build(draw()?)));
            }
        }
        for (name, place) in changed {
            let concerned = self.concerned(after, &name, &versions);
            let first = concerned.first().map(|tenant| kin.first(tenant));
            let Some(group) = first.and_then(|first| groups.get_mut(first)) else {
                continue;
            };
            let (build, version) = (group.build, versions[concerned[0]]);
            let stored = after.owners.get(&name).map(|owner| StoredContext {
                build,
                version: match place {
                    Change::Value => versions.get(&owner.tenant).copied().unwrap_or(version),
                    Change::Waiting(before) => before,
                },
                record: self.record(after, &name),
                owner: owner.clone(),
            });
            let by = concerned[0].clone();
            group.contexts.push(Changed { name, stored, by });
        }
        for tenant in versions.keys().copied() {
            if let Some(group) = groups.get_mut(kin.first(tenant)) {
                self.head_of(after, tenant, versions[tenant], group);
            }
        }
        Ok(groups.into_values().collect())
    }

    fn record(&self, maps: &Maps, name: &Name) -> Option<contexts::apply::Record> {
        let owner = maps.owners.get(name).filter(|owner| owner.has_value)?;
        let records = maps.records.get(&owner.tenant);
        let record = records.and_then(|records| records.get(name));
        // The records of a tenant that the push does not concern were not read into the maps.
        let unread = || {
            let stored = self.contexts.get(name)?;
            stored
                .record
                .as_ref()
                .filter(|_| stored.owner.tenant == owner.tenant)
        };
        record.or_else(unread).cloned()
    }

    /// The keys that are not as they were read.
    fn changed(&self, after: &Maps) -> Vec<(Name, Change)> {
        let names: BTreeSet<&Name> = after.owners.keys().chain(self.contexts.keys()).collect();
        let changed = names.into_iter().filter_map(|name| {
            let (before, now) = (self.contexts.get(name), after.owners.get(name));
            let record = self.record(after, name);
            let Some(before) = before else {
                return now.map(|_| (name.clone(), Change::Value));
            };
            if now == Some(&before.owner) && record == before.record {
                return None;
            }
            let same = now.is_some_and(|now| now.tenant == before.owner.tenant);
            Some(match same && record == before.record {
                true => (name.clone(), Change::Waiting(before.version)),
                false => (name.clone(), Change::Value),
            })
        });
        changed.collect()
    }

    /// The tenants of the push that a key has to do with, before or after.
    fn concerned<'a>(
        &self,
        after: &Maps,
        name: &Name,
        versions: &HashMap<&'a TenantId, Version>,
    ) -> Vec<&'a TenantId> {
        let before = self.contexts.get(name).map(|stored| &stored.owner);
        let owners = before.into_iter().chain(after.owners.get(name));
        let tenants: BTreeSet<&TenantId> = owners
            .flat_map(|owner| owner.waiting.iter().chain([&owner.tenant]))
            .collect();
        let known = tenants
            .into_iter()
            .filter_map(|t| versions.get_key_value(t));
        known.map(|(tenant, _)| *tenant).collect()
    }

    fn is_touched(&self, after: &Maps, tenant: &TenantId) -> bool {
        self.maps.heads.get(tenant) != after.heads.get(tenant)
            || self.maps.records.get(tenant) != after.records.get(tenant)
    }

    fn head_of(&self, after: &Maps, tenant: &TenantId, version: Version, group: &mut Group) {
        let before = self.heads.get(tenant);
        let head = after.heads.get(tenant);
        if head.is_none() && before.is_none_or(|before| before.is_gone) {
            return;
        }
        let records = || after.records.get(tenant).into_iter().flatten();
        let names: Vec<Name> = records().map(|(name, _)| name.clone()).collect();
        // By what is on the pages, not by what was found of it: a page that is gone is written anew.
        let is_renamed = self.listed.get(tenant).map_or(&[][..], |l| l) != names;
        let names_before = before.map_or(Names::Nowhere, |before| before.names.clone());
        let names_now = match (is_renamed, paginate(&names).len()) {
            (false, _) => names_before.clone(),
            (true, 0) => Names::Nowhere,
            (true, count) => Names::Paged(group.build, u16::try_from(count).unwrap_or(u16::MAX)),
        };
        group.names.insert(tenant.clone(), names);
        let removed = || Head {
            version,
            digest: Digest([0; 16]),
            contexts: 0,
            held: Vec::new(),
            held_kinds: Vec::new(),
        };
        let stored = StoredHead {
            tenant: tenant.clone(),
            build: group.build,
            is_gone: head.is_none(),
            head: head.cloned().unwrap_or_else(removed),
            names: names_now,
            sum: records()
                .map(|(_, record)| part_of_sum(record))
                .fold(0, u64::wrapping_add),
        };
        group.heads.push(ChangedHead {
            stored,
            seen: before.map(|before| before.build),
            before: names_before,
            is_renamed,
        });
        let blind = |maps: &Maps| -> BTreeSet<Kind> {
            let of_tenant = maps.blind.iter().filter(|(_, t)| t == tenant);
            of_tenant.map(|(kind, _)| kind.clone()).collect()
        };
        let (was, is) = (blind(&self.maps), blind(after));
        let differing = was.symmetric_difference(&is);
        let entries = differing.map(|kind| (kind.clone(), tenant.clone(), is.contains(kind)));
        group.blind.extend(entries);
    }
}

enum Change {
    /// The value, or whose it is.
    Value,
    /// Only who waits for it; the version that the value came with.
    Waiting(Version),
}

/// Which tenants share a key that changes.
#[derive(Default)]
struct Kin<'a>(BTreeMap<&'a TenantId, &'a TenantId>);

impl<'a> Kin<'a> {
    fn join(&mut self, tenants: Vec<&'a TenantId>) {
        let Some(first) = tenants.iter().map(|t| self.first(t)).min() else {
            return;
        };
        for tenant in tenants {
            let root = self.first(tenant);
            self.0.insert(root, first);
            self.0.insert(tenant, first);
        }
    }

    fn knows(&self, tenant: &TenantId) -> bool {
        self.0.contains_key(tenant)
    }

    fn first(&self, tenant: &'a TenantId) -> &'a TenantId {
        let mut at = tenant;
        while let Some(next) = self.0.get(at).filter(|next| **next != at) {
            at = next;
        }
        at
    }
}

/// The heads of some tenants, those of removed ones included. What is damaged is in doubt, and the next bundle is written
/// over it.
pub(crate) async fn read_heads<'a>(
    db: &Db,
    key: &DigestKey,
    tenants: impl Iterator<Item = &'a TenantId>,
) -> Result<BTreeMap<TenantId, StoredHead>, TableError> {
    let read = db
        .get_all(tenants.map(|tenant| Place::head(key, tenant)))
        .await?;
    let mut heads = BTreeMap::new();
    for mut head in read.values().filter_map(|item| db.head_in(item)) {
        if head.is_in_doubt() && head.names == Names::Nowhere {
            head.names = names_there(db, &head.tenant).await?;
        }
        heads.insert(head.tenant.clone(), head);
    }
    Ok(heads)
}

/// Where the names of a tenant are, by its pages: for a head that does not say it any more.
async fn names_there(db: &Db, tenant: &TenantId) -> Result<Names, TableError> {
    let mut pages: BTreeMap<Build, u16> = BTreeMap::new();
    for item in db.query(&layout::pages(tenant), "").await? {
        if let Ok(build) = Place::of(&item).and_then(|place| layout::build_of(&place)) {
            *pages.entry(build).or_default() += 1;
        }
    }
    let most = pages.into_iter().max_by_key(|(_, count)| *count);
    Ok(most.map_or(Names::Nowhere, |(build, count)| Names::Paged(build, count)))
}

/// The names of the records of some tenants.
pub(crate) async fn names_in_all<'a>(
    db: &Db,
    heads: impl IntoIterator<Item = &'a StoredHead>,
    reads: Reads,
) -> Result<BTreeMap<TenantId, Vec<Name>>, TableError> {
    let mut places: HashMap<Place, &TenantId> = HashMap::new();
    for head in heads {
        if let Names::Paged(build, count) = head.names {
            let pages = (0..count).map(|page| Place::page(&head.tenant, build, page.into()));
            places.extend(pages.map(|place| (place, &head.tenant)));
        }
    }
    let pages = db.get_all_as(places.keys().cloned(), reads).await?;
    let mut all: BTreeMap<TenantId, Vec<Name>> = BTreeMap::new();
    // A page that is missing or damaged is healed like a record that is: the head counts more names.
    for (place, item) in &pages {
        let names = match names_of(item) {
            Ok(names) => names,
            Err(bad) => {
                tracing::warn!(table = %db.table, place = bad.place, why = bad.why, "a damaged page of names is written anew by the next bundle");
                continue;
            }
        };
        if let Some(tenant) = places.get(place) {
            all.entry((*tenant).clone()).or_default().extend(names);
        }
    }
    all.values_mut().for_each(|names| names.sort_unstable());
    Ok(all)
}

/// What the table has of some keys. One that cannot be read counts as not there: whoever writes next writes it anew.
pub(crate) async fn read_contexts(
    db: &Db,
    names: impl IntoIterator<Item = Name>,
    reads: Reads,
) -> Result<BTreeMap<Name, StoredContext>, TableError> {
    let names: HashMap<Place, Name> = names
        .into_iter()
        .map(|name| (Place::context(&name, SETTLED), name))
        .collect();
    let read = db.get_all_as(names.keys().cloned(), reads).await?;
    let stored = |(place, item): (&Place, &Item)| {
        let name = names.get(place)?;
        match StoredContext::of(name, item) {
            Ok(stored) => Some((name.clone(), stored)),
            Err(error) => {
                tracing::warn!(table = %db.table, %error, "a damaged item is written anew by the next bundle");
                None
            }
        }
    };
    Ok(read.iter().filter_map(stored).collect())
}
