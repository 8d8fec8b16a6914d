//! What was found last of very large tenants, so that a build of one reads what has changed since and nothing else. Pure.
//!
//! What has changed since is in the outbox: rows that the snapshot of the last build did not see. So what must hold is: *of a
//! last build that is handed out, no row that it did not see was removed from the outbox.* A row is removed
//! * after a build of its tenant by name that saw it, which takes the place of the last build before the writer, who
//!   acknowledges, hears of it. Builds of a tenant by name come one after the other;
//! * because no store waits for it: all are behind. Then all last builds are forgotten ([`LastBuilds::forget`]);
//! * because a scan that began after the row was seen speaks for it. So with the beginning of a scan no last build is handed
//!   out until the scan found the same in its own snapshot ([`LastBuilds::found`]); what it found is then what is true.
//!   That also heals a last build that lacks what no trigger saw, as everything else is healed.
//!
//! A row that was never written, since there was no room, shows in the count of these, and then nothing is handed out; after
//! they are made up for, only the next scan begins anew ([`LastBuilds::close`]), as it waits for whoever found no room.

use crate::writer::{Built, BuiltBundle, Snapshot};
use contexts::name::TenantId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the tenants of which the last build is kept may weigh together; that which was built the longest time ago goes first.
const WEIGHT_MAX: usize = 64 << 20;

/// The last build of a tenant.
#[derive(Debug)]
pub(super) struct Last {
    /// What was found.
    pub built: Built,
    /// The snapshot in which it was found.
    pub seen: Arc<Snapshot>,
    /// The definitions in that snapshot, by fingerprint.
    pub definitions: u128,
}

/// A stretch of time in which no row is removed of which the last builds do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Era(u64);

#[derive(Debug)]
struct Entry {
    last: Last,
    era: Era,
    weight: usize,
    used: u64,
}

#[derive(Debug)]
struct Memory {
    era: Era,
    is_open: bool,
    tenants: HashMap<TenantId, Entry>,
    weight: usize,
    uses: u64,
}

/// The last builds of a term.
#[derive(Debug)]
pub(super) struct LastBuilds(Mutex<Memory>);

impl Default for LastBuilds {
    /// None, until a scan begins.
    fn default() -> Self {
        Self(Mutex::new(Memory {
            era: Era(0),
            is_open: false,
            tenants: HashMap::new(),
            weight: 0,
            uses: 0,
        }))
    }
}

impl LastBuilds {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked for before the snapshot of a build is taken.
    pub fn era(&self) -> Era {
        self.memory().era
    }

    /// Takes the last build of a tenant out, for a build of it by name.
    pub fn take(&self, tenant: &TenantId) -> Option<Last> {
        let mut memory = self.memory();
        let is_current = |entry: &Entry| entry.era == memory.era;
        if !memory.is_open || !memory.tenants.get(tenant).is_some_and(is_current) {
            return None;
        }
        memory.remove(tenant)
    }

    /// A build by name that began in this era found this.
    pub fn put(&self, era: Era, last: Last) {
        let mut memory = self.memory();
        memory.remove(&last.built.tenant);
        let weight = weight(&last.built);
        if era != memory.era || !memory.is_open || weight > WEIGHT_MAX {
            return;
        }
        memory.insert(era, last, weight);
    }

    /// A scan began, before the snapshot of any of its builds.
    pub fn scan_begins(&self) {
        let mut memory = self.memory();
        memory.era.0 += 1;
        memory.is_open = true;
    }

    /// A build of the scan under way that began in this era found these tenants in this snapshot.
    pub fn found(&self, era: Era, seen: &Arc<Snapshot>, tenants: &[Built]) {
        let mut memory = self.memory();
        if era != memory.era {
            return;
        }
        for built in tenants {
            let Some(entry) = memory.tenants.get_mut(&built.tenant) else {
                continue;
            };
            if entry.last.built.presences() != built.presences() {
                memory.remove(&built.tenant);
            } else if entry.era != era {
                (entry.era, entry.last.seen) = (era, seen.clone());
            }
        }
    }

    /// Rows are about to be removed for which no build stands.
    pub fn forget(&self) {
        let mut memory = self.memory();
        memory.era.0 += 1;
        memory.tenants.clear();
        memory.weight = 0;
    }

    /// Rows are missing that nobody wrote: until the next scan begins nothing is kept.
    pub fn close(&self) {
        self.forget();
        self.memory().is_open = false;
    }
}

impl Memory {
    fn remove(&mut self, tenant: &TenantId) -> Option<Last> {
        let entry = self.tenants.remove(tenant)?;
        self.weight -= entry.weight;
        Some(entry.last)
    }

    fn insert(&mut self, era: Era, last: Last, weight: usize) {
        self.uses += 1;
        self.weight += weight;
        let entry = Entry {
            era,
            weight,
            used: self.uses,
            last,
        };
        self.tenants.insert(entry.last.built.tenant.clone(), entry);
        while self.weight > WEIGHT_MAX {
            let oldest = self.tenants.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) else {
                return;
            };
            self.remove(&oldest);
        }
    }
}

/// What a build weighs in memory, roughly: a bundle that several regions share counts once.
fn weight(built: &Built) -> usize {
    let bundles = &built.bundles;
    let is_first = |(i, bundle): &(usize, &Arc<BuiltBundle>)| {
        !bundles[..*i].iter().any(|b| Arc::ptr_eq(b, bundle))
    };
    let own = bundles.iter().enumerate().filter(is_first);
    own.map(|(_, bundle)| bundle.weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contexts::bundle::{Bundle, Context};
    use contexts::digest::DigestKey;
    use contexts::name::{Key, Kind};

    fn tenant(n: usize) -> TenantId {
        TenantId::new(&format!("t{n}")).expect("a tenant")
    }

    fn built(n: usize, value: &str, weight: usize) -> Built {
        let context = Context {
            kind: Kind::new("k").expect("a kind"),
            key: Key::new(&format!("{n}")).expect("a key"),
            value: value.into(),
            expires: None,
        };
        let bundle = Bundle::new(tenant(n), vec![context], vec![], vec![]).expect("a bundle");
        let bundle = BuiltBundle {
            weight,
            ..BuiltBundle::new(bundle, &DigestKey([3; 32]))
        };
        let bundle = Arc::new(bundle);
        Built {
            tenant: tenant(n),
            bundles: vec![bundle; 3],
        }
    }

    fn seen(xid: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot::parse(&format!("{xid}:{xid}:")).expect("a snapshot"))
    }

    fn last(n: usize, value: &str, weight: usize) -> Last {
        Last {
            built: built(n, value, weight),
            seen: seen(10),
            definitions: 1,
        }
    }

    fn taken(builds: &LastBuilds, n: usize) -> Option<String> {
        Some(builds.take(&tenant(n))?.seen.as_str().to_owned())
    }

    fn open() -> LastBuilds {
        let builds = LastBuilds::default();
        builds.put(builds.era(), last(1, "0", 1));
        assert_eq!(taken(&builds, 1), None, "no scan has begun");
        builds.scan_begins();
        builds
    }

    #[test]
    fn a_last_build_is_handed_out_once() {
        let builds = open();
        builds.put(builds.era(), last(1, "0", 1));
        assert_eq!(taken(&builds, 1).as_deref(), Some("10:10:"));
        assert_eq!(taken(&builds, 1), None);
        assert_eq!(builds.memory().weight, 0);
    }

    #[test]
    fn with_a_scan_it_has_to_be_found_again_and_is_what_was_found() {
        let builds = open();
        (1..4).for_each(|n| builds.put(builds.era(), last(n, "0", 1)));
        let before = builds.era();
        builds.scan_begins();
        builds.found(before, &seen(11), &[built(1, "0", 1)]);
        assert_eq!(taken(&builds, 1), None, "a range of the scan before");
        builds.found(
            builds.era(),
            &seen(12),
            &[built(1, "0", 1), built(2, "1", 1)],
        );
        assert_eq!(taken(&builds, 1).as_deref(), Some("12:12:"));
        assert_eq!(taken(&builds, 2), None, "the hub has something else");
        assert_eq!(taken(&builds, 3), None, "no range had it yet");
        builds.put(builds.era(), last(3, "1", 1));
        builds.found(builds.era(), &seen(9), &[built(3, "1", 1)]);
        assert_eq!(taken(&builds, 3).as_deref(), Some("10:10:"), "no later one");
        builds.put(builds.era(), last(3, "1", 1));
        builds.found(builds.era(), &seen(12), &[built(3, "0", 1)]);
        assert_eq!(taken(&builds, 3), None, "no trigger told of that");
    }

    #[test]
    fn nothing_from_before_is_kept_when_rows_go_without_a_build() {
        let builds = open();
        builds.put(builds.era(), last(1, "0", 1));
        let before = builds.era();
        builds.forget();
        assert_eq!(taken(&builds, 1), None);
        builds.put(before, last(1, "0", 1));
        assert_eq!(taken(&builds, 1), None, "its snapshot may be from before");
        builds.put(builds.era(), last(1, "0", 1));
        builds.close();
        builds.put(builds.era(), last(1, "0", 1));
        assert_eq!(taken(&builds, 1), None, "until the next scan");
    }

    #[test]
    fn the_ones_that_were_built_the_longest_time_ago_go_first() {
        let builds = open();
        let era = builds.era();
        builds.put(era, last(9, "0", WEIGHT_MAX + 1));
        (1..=3).for_each(|n| builds.put(era, last(n, "0", WEIGHT_MAX / 3)));
        builds.put(era, last(1, "0", WEIGHT_MAX / 3));
        builds.put(era, last(4, "0", WEIGHT_MAX / 3));
        let there: Vec<usize> = (1..10).filter(|n| taken(&builds, *n).is_some()).collect();
        assert_eq!(there, [1, 3, 4]);
    }
}
