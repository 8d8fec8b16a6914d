//! A scan that a slow store holds up gives way. Pure.
//!
//! One scan runs at a time, and it reads no faster than the slowest of its stores takes what it gets: over a thin line that may
//! be hours. A store that fell behind meanwhile, and the next scan that is due, do not wait for that. What the slow
//! store has by then stays there: the scan that follows goes on from it, since it compares first.

use super::scan::Outcome;
use super::{Millis, StoreIx, Writer};

impl Writer {
    /// Ends a scan that ran for long for the stores that hold it up, if somebody else waits for one.
    pub(super) fn give_way(&mut self, now: Millis) {
        let is_long = |began: Millis| now >= began + self.limits.scan_turn;
        if !self.scan.as_ref().is_some_and(|s| is_long(s.started_at)) || !self.somebody_waits(now) {
            return;
        }
        let crowded = self.crowded_stores();
        let Some(scan) = &mut self.scan else { return };
        for ix in crowded {
            scan.end(ix, Outcome::GaveWay);
            self.stores[ix.0].is_begun = true;
        }
    }

    /// Whether a scan is wanted that is not under way.
    fn somebody_waits(&self, now: Millis) -> bool {
        let scanned = |ix: StoreIx| {
            let target = self.scan.as_ref().and_then(|scan| scan.targets.get(&ix));
            target.is_some_and(|target| target.outcome.is_none())
        };
        self.has_wish()
            || self
                .stores()
                .any(|(ix, _)| self.is_due(now, ix) && !scanned(ix))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Phase, Scan, Target};
    use super::super::{StoreSpec, WriterLimits};
    use super::*;
    use crate::writer::queue::{Sort, Unit};
    use crate::writer::{BuiltBundle, RegionFilter, ScanId, Tick};
    use contexts::bundle::{Bundle, Context};
    use contexts::digest::DigestKey;
    use contexts::name::{Key, Kind, Region, TenantId};
    use contexts::push::Reading;
    use contexts::version::{Holder, Term};
    use std::collections::{HashSet, VecDeque};

    const SLOW: StoreIx = StoreIx(0);
    const QUICK: StoreIx = StoreIx(1);

    /// A writer whose scan of two stores has parts to read, while more waits for one of them than it takes.
    fn writer() -> Writer {
        let term = Term {
            epoch: 1,
            holder: Holder(1),
        };
        let store = |name: &str| StoreSpec {
            name: name.into(),
            region: Region::new(name).expect("a region"),
        };
        let stores = vec![store("slow"), store("quick")];
        let limits = WriterLimits {
            fill_bytes: 1_000,
            ..WriterLimits::default()
        };
        let key = DigestKey([0; 32]);
        let mut writer = Writer::new(term, key.clone(), stores, limits, 0);
        let reading = Reading { boot: 1, micros: 0 };
        let mut scan = Scan::new(ScanId(1), "a test".into(), Tick(0), 0, false, 2);
        for ix in [SLOW, QUICK] {
            scan.targets
                .insert(ix, Target::new(reading, true, HashSet::new()));
        }
        scan.phase = Phase::Ranges {
            waiting: VecDeque::new(),
            running: 0,
        };
        writer.scan = Some(scan);
        let context = Context {
            kind: Kind::new("k").expect("a kind"),
            key: Key::new("a").expect("a key"),
            value: "0".repeat(2_000).into(),
            expires: None,
        };
        let tenant = TenantId::new("t").expect("a tenant");
        let bundle = Bundle::new(tenant, vec![context], vec![], vec![]).expect("a bundle");
        let built = BuiltBundle::with_cut(bundle, &key, writer.limits.cut);
        let queued = writer.queued(&built, 1, Tick(0));
        let unit = Unit {
            bundles: vec![queued],
            atomic: false,
            sort: Sort::Fill,
        };
        writer.enqueue(0, SLOW, unit);
        writer
    }

    fn ended(writer: &Writer) -> Vec<StoreIx> {
        let targets = writer.scan.iter().flat_map(|scan| &scan.targets);
        let ended = targets.filter(|(_, t)| t.outcome == Some(Outcome::GaveWay));
        ended.map(|(ix, _)| *ix).collect()
    }

    #[test]
    fn it_gives_way_once_somebody_waits_and_goes_on_for_the_others() {
        let mut writer = writer();
        let turn = writer.limits.scan_turn;
        assert!(writer.crowded());
        writer.give_way(turn);
        assert_eq!(ended(&writer), [], "nobody waits");
        writer.request_scan("a person", RegionFilter::All, false, false);
        writer.give_way(turn - 1);
        assert_eq!(ended(&writer), [], "it has just begun");
        writer.give_way(turn);
        assert_eq!(ended(&writer), [SLOW]);
        assert!(!writer.crowded(), "the rest is read");
        assert!(!writer.scan.as_ref().is_some_and(Scan::is_over));
    }
}
