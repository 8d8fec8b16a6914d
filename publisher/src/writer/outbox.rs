//! What the writer makes of the outbox: changed tenants become dirty, and a store that cannot be told one by one is
//! marked behind. The books are in [`super::capture`].

use super::dirty::Lane;
use super::guard::Cause;
use super::look::{AckRequest, LookId, LookRequest, Looked};
use super::{Millis, Report, StoreIx, Writer};
use contexts::push::Reading;

/// A transaction that changes more tenants than this is a bulk load: others do not wait for it.
const BULK_TENANTS: usize = 64;
/// A change of every tenant asks for a scan, at most one in this time.
const EVERYONE_EVERY: Millis = 30_000;
/// A build of changes has the primary for itself for so long: a look beside it would make it slower, and what it finds
/// would be built later anyway.
const BUILD_ALONE: Millis = 5;
/// A store that is away for longer is scanned when it returns.
const AWAY_MAX: Millis = 10_000;

impl Writer {
    /// When something is to be done although nothing happens before: a build of changes, or a look, that had to wait.
    pub fn wake_at(&mut self, now: Millis) -> Option<Millis> {
        self.changes_wait(now, self.dirty.has_change() || self.dirty.has_group())
    }

    /// Until when changes have to wait, if some do, or what is built has the primary for itself.
    fn changes_wait(&mut self, now: Millis, some_do: bool) -> Option<Millis> {
        let paced = some_do.then(|| self.paces[0].wait(now)).flatten();
        let alone = self.builds.change_begun().map(|at| at + BUILD_ALONE);
        paced.or(alone.filter(|at| now < *at))
    }

    /// The next look at the outbox. Its statement must be sent after this.
    pub fn next_look(&mut self, now: Millis) -> Option<LookRequest> {
        // While changes wait for their turn to be built, looking for more would only cost the primary. What is found takes
        // turns with groups, however many of them wait.
        let changes_wait = self.changes_wait(now, self.dirty.has_change());
        if self.suspended || self.closing || changes_wait.is_some() {
            return None;
        }
        let trusted = self.is_capturing();
        let readings: Vec<Option<Reading>> = self
            .stores
            .iter()
            .map(|s| s.reading.filter(|_| trusted))
            .collect();
        self.capture.next_look(now, &readings)
    }

    /// What a look found, or why it failed.
    pub fn looked(&mut self, now: Millis, id: LookId, result: Result<Looked, String>) {
        let Ok(looked) = result else {
            return self.capture.look_failed(now);
        };
        let seen = self.now();
        let followed: Vec<bool> = self
            .stores
            .iter()
            .map(|s| s.session().is_some() || s.behind.is_none())
            .collect();
        let found = self.capture.looked(now, id, seen, &looked, &followed);
        self.guard.looked();
        let lane = |size: usize| match size > BULK_TENANTS {
            true => Lane::Bulk,
            false => Lane::Change,
        };
        for (tenant, size) in &found {
            self.mark(tenant, lane(*size));
        }
        let caused = looked.changes.iter().flat_map(|change| {
            let cause = Cause::Transaction(change.xid);
            let tenants = change.tenants.iter();
            tenants.map(move |t| (t.clone(), cause.clone()))
        });
        let caused: Vec<_> = caused.filter(|(t, _)| self.dirty.contains(t)).collect();
        self.guard.caused(&caused);
        let urgent = found.iter().filter(|(_, n)| lane(*n) == Lane::Change);
        urgent.for_each(|(tenant, _)| self.guard.share(tenant));
        self.beats.wanted |= looked.beat;
        self.room(&looked);
        if looked.is_backlog {
            self.all_behind("more changes waited than are taken one by one");
        }
        if let Some(why) = looked.everyone {
            // A scan that is due anyway speaks for all that asked for it meanwhile.
            let due = match self.everyone_at {
                Some(at) if at >= now => at,
                Some(at) => now.max(at + EVERYONE_EVERY),
                None => now,
            };
            self.everyone_at = Some(due);
            self.all_behind(&why);
            let later = self.stores.iter_mut();
            later.for_each(|s| s.scan_after = s.scan_after.max(due));
        }
        if self.capture.is_crowded() {
            self.give_up_laggards(now);
        }
    }

    /// What a look says of statements that found no room. Room is made, or was, by a transaction that began later than
    /// all of them; once that is past they have ended, and a scan finds what they changed. Only then are they forgotten:
    /// the next writer would have to do all of this again.
    fn room(&mut self, looked: &Looked) {
        if self.overflow.is_some_and(|xid| looked.seen.is_past(xid)) {
            (self.overflow, self.mended) = (None, self.missed);
            self.all_behind("the outbox was full");
        }
        let news = looked.missed.is_some() && looked.missed != self.missed;
        if news || !looked.has_room {
            self.missed = looked.missed.or(self.missed);
            self.capture.make_room(&looked.seen);
            self.distrust("the outbox was full, so triggers did not write");
        }
    }

    /// The server looked without a pause for so many microseconds.
    pub fn spun(&mut self, micros: u64) {
        self.capture.spun(micros);
    }

    /// Half of the room in the outbox is taken: whoever holds up the rest is given up, before triggers stop writing and
    /// every store needs a scan.
    pub fn outbox_fills(&mut self, now: Millis) {
        self.give_up_laggards(now);
    }

    /// No row waits any more for whoever is the slowest; a scan speaks for them. What is queued for it still goes, so
    /// that a scan which waits for that ends.
    fn give_up_laggards(&mut self, now: Millis) {
        let since = self.now();
        for ix in self.capture.laggards() {
            let why = "more changes wait for it than are followed";
            self.stores[ix.0].set_behind(why.into(), since);
            self.capture.strike_store(now, ix);
        }
    }

    /// The next acknowledgement of rows.
    pub fn next_ack(&mut self, now: Millis) -> Option<AckRequest> {
        if self.suspended {
            return None;
        }
        let behind = self.stores().filter(|(_, s)| s.behind.is_some());
        let behind = behind.map(|(ix, _)| ix).collect();
        let news = self.retries.news();
        self.capture
            .next_ack(now, behind, news, self.mended, self.closing)
    }

    /// The acknowledgement was made by this transaction, or failed.
    pub fn acked(&mut self, now: Millis, xid: Option<u64>) {
        let Some(request) = self.capture.acked(now, xid) else {
            return;
        };
        if xid.is_some() {
            self.retries.told(&request.retries);
            self.mended = self.mended.filter(|m| request.mended != Some(*m));
        }
        if request.make_room && xid.is_some() {
            self.overflow = xid;
            self.all_behind("the outbox was full");
        }
    }

    /// What a look at the triggers themselves found: whether every change leaves a row, or why not; and a word that is
    /// another one after anything was done to them, since they may have been switched off and on again unseen.
    pub fn checked_triggers(&mut self, as_they_are: &str, gap: Option<String>) {
        let before = self.triggers.replace(as_they_are.to_owned());
        if before.is_some_and(|before| before != as_they_are) {
            self.all_behind("the change triggers were changed, or not in place for a while");
        }
        if gap == self.gap {
            return;
        }
        if gap.is_some() {
            self.forget_fresh();
        }
        self.gap.clone_from(&gap);
        self.reports.push_back(Report::Capturing { gap });
    }

    /// The triggers could not be looked at. What was known of them stands; where nothing was, they are not relied on.
    pub fn triggers_unchecked(&mut self, why: &str) {
        if self.triggers.is_none() {
            self.checked_triggers("", Some(format!("the triggers cannot be looked at: {why}")));
        }
    }

    /// Whether every change leaves a row in the outbox.
    pub fn is_capturing(&self) -> bool {
        self.gap.is_none() && self.overflow.is_none()
    }

    /// Why the change triggers cannot be relied on.
    pub fn capture_gap(&self) -> Option<&str> {
        let overflow = self.overflow.map(|_| "the outbox was full");
        self.gap.as_deref().or(overflow)
    }

    /// Rows that were seen and are not acknowledged, and tenants that cannot be built at present.
    pub fn unacked(&self) -> (usize, usize) {
        (self.capture.len(), self.retries.len())
    }

    fn distrust(&mut self, why: &str) {
        self.overflow.get_or_insert(u64::MAX);
        self.forget_fresh();
        self.all_behind(why);
    }

    fn forget_fresh(&mut self) {
        for ix in (0..self.stores.len()).map(StoreIx) {
            self.capture.forget_fresh(ix);
        }
    }

    fn all_behind(&mut self, why: &str) {
        let since = self.now();
        for store in &mut self.stores {
            store.set_behind(why.to_owned(), since);
        }
    }

    /// Up to this reading of its clock a store has every change; none while that is not known.
    pub(super) fn fresh(&mut self, ix: StoreIx) -> Option<Reading> {
        let store = &self.stores[ix.0];
        let known = store.synced && store.behind.is_none() && self.is_capturing();
        let fresh = self.capture.fresh(ix);
        fresh.filter(|_| known)
    }

    /// The store gets a scan instead of single changes.
    pub(super) fn give_up_changes(&mut self, now: Millis, ix: StoreIx, why: &str) {
        let since = self.now();
        self.stores[ix.0].fall_behind(why.to_owned(), since);
        self.capture.strike_store(now, ix);
    }

    /// Gives up on single changes for stores that are away too long or miss too many, and tries tenants again.
    pub(super) fn keep_books_small(&mut self, now: Millis) {
        for ix in (0..self.stores.len()).map(StoreIx) {
            let store = &self.stores[ix.0];
            let away = store.down_since.is_some_and(|at| now >= at + AWAY_MAX);
            match store.behind.is_some() {
                // Nothing is delivered one by one to a store that is away; the scan speaks for what it misses.
                true if store.session().is_none() => self.capture.strike_store(now, ix),
                false if away => self.give_up_changes(now, ix, "it was away"),
                false if store.has_lost_much() => {
                    self.give_up_changes(now, ix, "too many changes were not delivered");
                }
                _ => {}
            }
        }
        for tenant in self.retries.due(now) {
            self.mark(&tenant, Lane::Repair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Snapshot, StoreSpec, WriterLimits};
    use super::*;
    use contexts::digest::DigestKey;
    use contexts::name::Region;
    use contexts::version::{Holder, Term};
    use std::collections::BTreeSet;

    fn writer(stores: Vec<StoreSpec>) -> Writer {
        let term = Term {
            epoch: 1,
            holder: Holder(1),
        };
        let (key, limits) = (DigestKey([0; 32]), WriterLimits::default());
        let mut writer = Writer::new(term, key, stores, limits, 0);
        writer.checked_triggers("a", None);
        writer
    }

    fn found(seen: &str) -> Looked {
        Looked {
            seen: Snapshot::parse(seen).expect("a snapshot"),
            last_id: 9,
            has_room: true,
            missed: None,
            changes: Vec::new(),
            is_backlog: false,
            everyone: None,
            beat: false,
        }
    }

    fn look(writer: &mut Writer, seen: &str, missed: Option<i64>) {
        let request = writer.next_look(0).expect("a look");
        let looked = Looked {
            missed,
            ..found(seen)
        };
        writer.looked(0, request.id, Ok(looked));
    }

    /// Acknowledges in a transaction; whether room is made, and what is made up for.
    fn ack(writer: &mut Writer, xid: u64) -> Option<(bool, Option<i64>)> {
        let request = writer.next_ack(0)?;
        writer.acked(0, Some(xid));
        Some((request.make_room, request.mended))
    }

    #[test]
    fn statements_that_found_no_room_are_made_up_for_once_their_transactions_have_ended() {
        let mut writer = writer(Vec::new());
        look(&mut writer, "5:9:5", Some(3));
        assert!(!writer.is_capturing(), "room is there again, and yet");
        assert_eq!(ack(&mut writer, 10), Some((true, None)));
        look(&mut writer, "5:11:5", Some(3));
        assert!(
            !writer.is_capturing(),
            "5 may have left no row, and is open"
        );
        assert_eq!(ack(&mut writer, 11), None);
        look(&mut writer, "11:11:", Some(3));
        assert!(writer.is_capturing());
        assert_eq!(ack(&mut writer, 12), Some((false, Some(3))));
        look(&mut writer, "13:13:", None);
        assert_eq!(ack(&mut writer, 13), None);
        look(&mut writer, "14:14:", Some(4));
        assert_eq!(ack(&mut writer, 15), Some((true, None)));
    }

    #[test]
    fn triggers_that_were_off_between_two_looks_are_made_up_for() {
        let mut writer = writer(vec![StoreSpec {
            name: "a".into(),
            region: Region::new("a").expect("a region"),
        }]);
        let is_behind = |writer: &mut Writer, word: &str, gap: Option<&str>| {
            writer.stores[0].behind = None;
            writer.checked_triggers(word, gap.map(ToOwned::to_owned));
            writer.stores[0].behind.is_some()
        };
        assert!(!is_behind(&mut writer, "a", None));
        assert!(is_behind(&mut writer, "b", None), "off and on again");
        assert!(is_behind(&mut writer, "c", Some("disabled")));
        assert!(!writer.is_capturing());
        assert!(is_behind(&mut writer, "d", None));
        assert!(writer.is_capturing());
    }

    #[test]
    fn a_table_that_is_emptied_all_the_time_asks_for_a_scan_every_half_minute() {
        let mut writer = writer(vec![StoreSpec {
            name: "a".into(),
            region: Region::new("a").expect("a region"),
        }]);
        let mut due = BTreeSet::new();
        for now in (1_000..=95_000).step_by(1_000) {
            let request = writer.next_look(now).expect("a look");
            let everyone = Some("truncated".to_owned());
            let looked = Looked {
                everyone,
                ..found("5:5:")
            };
            writer.looked(now, request.id, Ok(looked));
            due.insert(writer.store(StoreIx(0)).scan_after);
        }
        assert_eq!(
            due,
            BTreeSet::from([1_000, 31_000, 61_000, 91_000, 121_000])
        );
    }
}
