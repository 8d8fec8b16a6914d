//! What a build would do to what is published, code by code. Whether it may is not decided here.

use super::book::{self, Code, Names};
use super::{ANY_VALUE, Act, Guard, HoldName, Reasons};
use contexts::name::TenantId;
use std::collections::HashSet;

/// What one tenant's build would do in a region.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Names, or changes of them, that are counted.
    pub lost: Vec<Code>,
    /// Names that were not there.
    pub gained: Vec<Code>,
}

impl Guard {
    /// Nothing can be said of this build: the next one is of its causes too.
    pub(super) fn not_yet(&mut self, tenant: &TenantId, reasons: Reasons) {
        for cause in reasons.iter() {
            let case = self.cases.entry(cause.clone()).or_default();
            case.open.insert(tenant.clone());
        }
        self.building.insert(tenant.clone(), reasons);
    }

    /// What is counted of a build, and what it has that was not there.
    pub(super) fn difference(
        &mut self,
        region: usize,
        before: &Names,
        now: &Names,
        excused: &[HoldName],
    ) -> Difference {
        let excused = self.excused(region, excused);
        let gained = now.codes().iter().filter(|code| !before.has(**code));
        let gained = gained.copied().collect();
        let mut lost = Vec::new();
        for code in before.codes().iter().copied() {
            if !now.has(code) {
                lost.extend(Some(code).filter(|_| self.limits.counts(Act::Removed)));
                continue;
            }
            let (old, new) = (before.value(code), now.value(code));
            let is_known = old != ANY_VALUE && new != ANY_VALUE;
            if is_known && old != new && self.is_settled(region, book::kind_of(code)) {
                self.news.insert((region, code), new);
                lost.push(book::change_of(code));
            }
        }
        lost.retain(|code| !excused.contains(code));
        Difference { lost, gained }
    }

    fn excused(&self, region: usize, excused: &[HoldName]) -> HashSet<Code> {
        let here = &self.regions[region];
        let mine = excused.iter().filter(|n| n.region == *here);
        mine.filter_map(|n| self.book.code_of_hold(n)).collect()
    }
}
