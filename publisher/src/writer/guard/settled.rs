//! Under which query a kind's contexts were published: only under the same one is another value a change of the data. It
//! outlives the writer, since a query is usually changed together with a restart.

use super::{Act, Guard, Settled};
use contexts::name::Kind;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Guard {
    /// The query of each kind, by its hash, as a build found them. Where it is another than that of what is published,
    /// nothing counts as changed until the region was found in step again.
    pub fn queries(&mut self, queries: &Arc<BTreeMap<Kind, u64>>) {
        if Arc::ptr_eq(&self.queries, queries) || self.queries == *queries {
            return;
        }
        self.queries = queries.clone();
        for ((region, kind), query) in &mut self.settled {
            if *query != 0 && queries.get(kind).is_some_and(|now| now != query) {
                *query = 0;
                self.unsettled.insert((*region, kind.clone()));
            }
        }
    }

    /// A store of the region was found to hold what the hub has, which a scan read with these queries.
    pub fn in_step(&mut self, region: usize, queries: &BTreeMap<Kind, u64>) {
        self.book.in_step(region);
        if !self.limits.counts(Act::Changed) {
            return;
        }
        for (kind, query) in queries {
            let place = (region, kind.clone());
            if self.settled.insert(place.clone(), *query) != Some(*query) {
                self.unsettled.insert(place);
            }
        }
    }

    /// Whether another value of a kind is a change.
    pub(super) fn is_settled(&self, region: usize, kind: u64) -> bool {
        let Ok(kind) = Kind::new(self.book.kind(kind)) else {
            return false;
        };
        let query = self.queries.get(&kind);
        self.limits.counts(Act::Changed)
            && query.is_some_and(|query| self.settled.get(&(region, kind)) == Some(query))
    }

    /// What an earlier writer wrote down of this.
    pub fn resume_settled(&mut self, settled: &[Settled]) {
        for settled in settled {
            let region = self.regions.iter().position(|r| *r == settled.region);
            if let Some(region) = region {
                let place = (region, settled.kind.clone());
                self.settled.insert(place, settled.query);
            }
        }
    }

    /// What is to be written down of it; it is taken.
    pub fn take_unsettled(&mut self) -> Vec<Settled> {
        let unsettled = std::mem::take(&mut self.unsettled).into_iter();
        let settled = unsettled.map(|(region, kind)| Settled {
            query: self
                .settled
                .get(&(region, kind.clone()))
                .copied()
                .unwrap_or(0),
            region: self.regions[region].clone(),
            kind,
        });
        settled.collect()
    }

    /// It could not be written down.
    pub fn put_back_settled(&mut self, settled: Vec<Settled>) {
        for settled in settled {
            let region = self.regions.iter().position(|r| *r == settled.region);
            let place = region.map(|region| (region, settled.kind));
            self.unsettled.extend(place);
        }
    }

    /// Whether something of it is to be written down.
    pub fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }
}
