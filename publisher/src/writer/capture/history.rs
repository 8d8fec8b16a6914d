//! Which tenants the last transactions changed: for whoever asks later what became of them. Pure.

use crate::writer::look::Change;
use crate::writer::snapshot::Snapshot;
use contexts::name::TenantId;
use std::collections::{BTreeMap, BTreeSet};

/// Names of tenants that are remembered.
const NAMES_MAX: usize = 50_000;

/// What is remembered.
#[derive(Debug, Default)]
pub struct History {
    changed: BTreeMap<u64, BTreeSet<TenantId>>,
    names: usize,
    /// Of transactions from this one on everything is remembered.
    complete_from: Option<u64>,
}

impl History {
    /// A look found these changes.
    pub fn add(&mut self, seen: &Snapshot, changes: &[Change]) {
        self.complete_from.get_or_insert(seen.end());
        for change in changes {
            let tenants = self.changed.entry(change.xid).or_default();
            let before = tenants.len();
            tenants.extend(change.tenants.iter().cloned());
            self.names += tenants.len() - before;
        }
        while self.names > NAMES_MAX
            && let Some((xid, tenants)) = self.changed.pop_first()
        {
            self.names -= tenants.len();
            self.complete_from = self.complete_from.max(Some(xid + 1));
        }
    }

    /// More was changed by these transactions than looks say.
    pub fn forget(&mut self, seen: &Snapshot) {
        (self.changed, self.names) = (BTreeMap::new(), 0);
        self.complete_from = Some(seen.end());
    }

    /// The tenants that a transaction changed, which has ended; none if that is not known, or not any more.
    pub fn of(&self, xid: u64) -> Option<Vec<&TenantId>> {
        match self.changed.get(&xid) {
            Some(tenants) => Some(tenants.iter().collect()),
            None => (self.complete_from? <= xid).then(Vec::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(xid: u64, tenants: std::ops::Range<usize>) -> Change {
        let name = |n| TenantId::new(&format!("t{n}")).expect("a tenant");
        Change {
            id: xid as i64,
            more: Vec::new(),
            xid,
            tenants: tenants.map(name).collect(),
        }
    }

    fn names(history: &History, xid: u64) -> Option<usize> {
        history.of(xid).map(|tenants| tenants.len())
    }

    #[test]
    fn what_is_not_known_is_not_taken_for_nothing() {
        let seen = Snapshot::parse("10:20:10,14").expect("a snapshot");
        let mut history = History::default();
        assert_eq!(names(&history, 30), None);
        history.add(&seen, &[change(14, 0..2), change(14, 1..3)]);
        // 12 may have been acknowledged by another writer; 21 began later, and would have been found.
        assert_eq!(
            [14, 12, 21].map(|xid| names(&history, xid)),
            [Some(3), None, Some(0)]
        );

        let more = (30..100).map(|xid| change(xid, 0..1_000));
        history.add(&seen, &more.collect::<Vec<_>>());
        assert_eq!(
            [14, 21, 49, 50].map(|xid| names(&history, xid)),
            [None, None, None, Some(1_000)]
        );
        assert_eq!(names(&history, 100), Some(0));

        history.forget(&Snapshot::parse("200:200:").expect("a snapshot"));
        assert_eq!(
            [99, 199, 200].map(|xid| names(&history, xid)),
            [None, None, Some(0)]
        );
    }
}
