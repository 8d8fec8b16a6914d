//! What a build would do to what is published, code by code. Whether it may is not decided here.

use super::book::{self, Code, Names};
use super::{ANY_VALUE, Act, Guard, HoldName, Reasons};
use contexts::name::TenantId;
use std::cmp::Ordering;
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
            self.cases.open(cause, tenant);
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
        if before.is(now) {
            return Difference::default();
        }
        let excused = self.excused(region, excused);
        let (mut lost, mut gained) = (Vec::new(), Vec::new());
        let (mut old, mut new) = (before.pairs().peekable(), now.pairs().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some((was, _)), Some((is, _))) => was.cmp(is),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            let was = old.next_if(|_| order.is_le());
            let is = new.next_if(|_| order.is_ge());
            match (was, is) {
                (Some((code, was)), Some((_, is))) => {
                    let is_known = was != ANY_VALUE && is != ANY_VALUE;
                    if is_known && was != is && self.is_settled(region, book::kind_of(code)) {
                        self.news.insert((region, code), is);
                        lost.push(book::change_of(code));
                    }
                }
                (Some((code, _)), None) => {
                    lost.extend(Some(code).filter(|_| self.limits.counts(Act::Removed)));
                }
                (None, is) => gained.extend(is.map(|(code, _)| code)),
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
