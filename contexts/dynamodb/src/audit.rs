//! Looks whether the items are what the heads say: an item that was edited by hand shows in no listing of heads. The head
//! of what is found is put in doubt, so that the hub sees a difference and sends the tenant again.
//!
//! To read each item by its name would cost a read unit for every one of them, however small. So a round reads the table
//! as it lies, in parts, a part at a time, and adds up for each tenant what is sound. Behind the last part that is
//! compared with the sum in its head; what differs, or was written meanwhile, is read by name and told if it is wrong.
//!
//! Nor does a head tell of an item that nobody named: put back by hand, or named on a page that is lost. So the names of a
//! tenant's items are added up too, and those on its pages taken away. Where that is not nothing (it also is not if names came
//! or went meanwhile), the next round gathers the names; items that no page names are then put on the pages of a head in
//! doubt, so that the hub sends the tenant, if only an empty bundle, and that takes away what it does not have. It must never
//! remove anything itself. A round that one scan reads has the next one right behind it if there is need.
//!
//! What a round added up is in memory, so another writer begins it anew; when the last whole one ended stands in the pulse. A
//! round ends within half of the time that is promised, counted from the end of the one before, whoever did that: what is
//! left then is read at once. So an item that is edited just behind its part is compared in time by the next round, as long as
//! scans end at about even intervals that are shorter than that half; else by one interval later for each round. For an item that
//! nobody named it takes a round more.

use crate::client::TableError;
use crate::commit::Writing;
use crate::layout::{
    Build, GROUPS, IN_DOUBT, Item, Names, SETTLED, StoredContext, StoredHead, name_of, names_of,
    paginate, part_of_sum, tenant_of_page,
};
use crate::read::Reads;
use crate::transaction::{Expect, Transaction};
use crate::working::{ChangedHead, Group, names_in_all, read_contexts, read_heads};
use contexts::apply::{Head, Name};
use contexts::digest::Digest;
use contexts::name::TenantId;
use contexts::version::{Term, Version};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Parts of a round.
pub(crate) const PARTS: u16 = 64;
/// Tenants of which the items are read by name at once.
const AT_ONCE: usize = 32;
/// How long parts are read one after the other behind one scan: pushes wait for that.
const READS_FOR: Duration = Duration::from_secs(60);

/// The most tenants of which a round gathers names, and the most names: a surplus stays, and others have their turn.
const GATHERED: (usize, usize) = (1 << 14, 1 << 20);

/// When the parts of a round are to be read, in microseconds of the service's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How many are left.
    pub(crate) left: u16,
    /// The moment up to which the others were due.
    pub(crate) from: u64,
    /// When the round has to end.
    pub(crate) until: u64,
}

impl Plan {
    /// How many are due, with the moment up to which that is so; `next` is when the next scan may be expected.
    pub(crate) fn due(self, now: u64, next: u64) -> (u16, u64) {
        if next >= self.until {
            return (self.left, now);
        }
        let every = (self.until.saturating_sub(self.from) / u64::from(self.left.max(1))).max(1);
        let due = (now.saturating_sub(self.from) / every).min(self.left.into());
        (due as u16, self.from + due * every)
    }
}

/// A round over all items, as far as it is.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// The writer that it belongs to: what another one writes is not seen here.
    term: Option<Term>,
    done: u16,
    /// The moment up to which its parts were due.
    from: u64,
    /// What there is of each tenant.
    found: HashMap<TenantId, Found>,
    /// The names of the items of some tenants.
    gathered: HashMap<TenantId, BTreeSet<Name>>,
    /// How many these are.
    names: usize,
    /// Tenants that were written since the round began, or have a page of names that is damaged: to be read by name.
    doubtful: HashSet<TenantId>,
}

impl Round {
    /// The round of this writer: another one's is forgotten.
    pub(crate) fn of(&mut self, term: Term) -> &mut Self {
        if self.term != Some(term) {
            self.begin(term);
        }
        self
    }

    /// Begins anew.
    pub(crate) fn begin(&mut self, term: Term) {
        *self = Self {
            term: Some(term),
            ..Self::default()
        };
    }

    /// A tenant is written: its items of before and after may be added to one another.
    pub(crate) fn writes(&mut self, tenant: &TenantId) {
        // Before the first part all is of the same state.
        if self.done > 0 && !self.doubtful.contains(tenant) {
            self.doubtful.insert(tenant.clone());
        }
    }
}

/// What there is of a tenant.
#[derive(Debug, Default, Clone, Copy)]
struct Found {
    /// What its sound items add up to.
    sum: u64,
    /// What the names of its items add up to, less those on its pages.
    names: u64,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.names = self.names.wrapping_add(other.names);
    }
}

/// What an item is of its tenant.
enum Seen {
    /// A key with a value.
    Context(Name),
    Page,
    DamagedPage,
}

/// How a round over all items is, as a writer finds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// When the last whole one ended.
    pub(crate) ended: u64,
    /// When the scan before this one ended.
    pub(crate) scanned: u64,
    /// The time within which all items are to be compared.
    pub(crate) within: Duration,
}

impl Writing<'_> {
    /// Reads all parts of a new round, and compares.
    pub(crate) async fn audit_all(&self, round: &mut Round) -> Result<(), TableError> {
        if let Some(term) = round.term {
            round.begin(term);
        }
        while !self.audit(round, Reads::Strong).await? {}
        self.gather(round, Reads::Strong).await
    }

    /// The round behind one in which nothing was written, if it has anything to gather.
    async fn gather(&self, round: &mut Round, reads: Reads) -> Result<(), TableError> {
        let is_needed = !round.gathered.is_empty();
        while is_needed && !self.audit(round, reads).await? {}
        Ok(())
    }

    /// Reads the parts that are due. Returns whether the round ended.
    pub(crate) async fn audit_due(
        &self,
        round: &mut Round,
        pace: Pace,
        now: u64,
    ) -> Result<bool, TableError> {
        let half = pace.within / 2;
        let plan = Plan {
            left: PARTS - round.done,
            // Before its first scan this writer read nothing.
            from: if round.from == 0 { now } else { round.from },
            until: pace.ended + half.as_micros() as u64,
        };
        let (due, from) = match half.is_zero() {
            true => (1, now),
            false => plan.due(now, now + now.saturating_sub(pace.scanned)),
        };
        round.from = from;
        let begun = Instant::now();
        for _ in 0..due {
            if self.audit(round, Reads::Weak).await? {
                if due == PARTS {
                    self.gather(round, Reads::Weak).await?;
                }
                return Ok(true);
            }
            if begun.elapsed() > READS_FOR {
                tracing::info!(table = %self.db.table, done = round.done, of = PARTS, "the comparison of items is behind: the next scan goes on");
                break;
            }
        }
        Ok(false)
    }

    /// Reads the next part of a round; behind the last one, compares. Returns whether that was the last one.
    async fn audit(&self, round: &mut Round, reads: Reads) -> Result<bool, TableError> {
        let mut found: HashMap<TenantId, Found> = HashMap::new();
        let (mut damaged, mut gathered) = (Vec::new(), Vec::new());
        let mut from: Option<Item> = None;
        loop {
            let part = (round.done, PARTS);
            let (items, next) = self.db.scan(part, from, reads).await?;
            for (tenant, seen, more) in items.iter().filter_map(|item| self.seen(item)) {
                match seen {
                    Seen::Context(name) if round.gathered.contains_key(&tenant) => {
                        gathered.push((tenant.clone(), name));
                    }
                    Seen::DamagedPage => damaged.push(tenant.clone()),
                    _ => {}
                }
                found.entry(tenant).or_default().add(more);
            }
            from = next;
            if from.is_none() {
                break;
            }
        }
        // Not before all of the part is read: what breaks off in the middle is read again.
        for (tenant, more) in found {
            round.found.entry(tenant).or_default().add(more);
        }
        round.doubtful.extend(damaged);
        for (tenant, name) in gathered {
            if let Some(names) = round.gathered.get_mut(&tenant)
                && round.names < GATHERED.1
            {
                round.names += usize::from(names.insert(name));
            }
        }
        round.done += 1;
        if round.done < PARTS {
            return Ok(false);
        }
        let ended = std::mem::take(round);
        // The next one goes on from here.
        (round.term, round.from) = (ended.term, ended.from);
        round.gathered = self.judge(ended).await?;
        Ok(true)
    }

    /// What an item adds to what there is of its tenant. A value that is damaged adds nothing to the sum, and so is missing
    /// there.
    fn seen(&self, item: &Item) -> Option<(TenantId, Seen, Found)> {
        let mut found = Found::default();
        if let Some(tenant) = tenant_of_page(item) {
            let Ok(names) = names_of(item) else {
                return Some((tenant, Seen::DamagedPage, found));
            };
            for name in &names {
                found.names = found.names.wrapping_sub(self.part_of_names(name));
            }
            return Some((tenant, Seen::Page, found));
        }
        let name = name_of(item, SETTLED)?;
        let stored = StoredContext::of(&name, item).ok()?;
        let record = stored.record?;
        found.names = self.part_of_names(&name);
        if record.is_sound(self.key) {
            found.sum = part_of_sum(&record);
        }
        Some((stored.owner.tenant, Seen::Context(name), found))
    }

    fn part_of_names(&self, (kind, key): &Name) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.key.context(kind, key, None, "").0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Compares what was found, and tells what is wrong. Returns the tenants of which the next round gathers the names.
    async fn judge(
        &self,
        mut round: Round,
    ) -> Result<HashMap<TenantId, BTreeSet<Name>>, TableError> {
        let (mut doubtful, mut unnamed) = (Vec::new(), Vec::new());
        for group in 0..GROUPS {
            for head in self.db.heads_of_group(group, Reads::Weak).await? {
                let found = round.found.remove(&head.tenant).unwrap_or_default();
                let is_named = found.names == 0;
                let is_written = round.doubtful.contains(&head.tenant);
                if !is_named {
                    unnamed.push((u8::from(is_written), head.tenant.clone()));
                }
                // One that is in doubt differs already.
                if (!is_named || is_written || found.sum != head.sum) && !head.is_in_doubt() {
                    doubtful.push(head);
                }
            }
        }
        let headless = round
            .found
            .into_iter()
            .filter(|(_, found)| found.names != 0);
        unnamed.extend(headless.map(|(tenant, _)| (0, tenant)));
        // Of those that were written meanwhile most have nothing that is not named.
        unnamed.sort_by_key(|(is_written, _)| *is_written);
        self.name_all(round.gathered).await?;
        for some in doubtful.chunks(AT_ONCE) {
            for head in self.differing(some, Reads::Weak).await? {
                // Once more, to see what was written last.
                let again = read_heads(self.db, self.key, [&head.tenant].into_iter()).await?;
                let counts = |head: &StoredHead| !head.is_gone && !head.is_in_doubt();
                let again: Vec<StoredHead> = again.into_values().filter(counts).collect();
                for head in self.differing(&again, Reads::Strong).await? {
                    self.doubt(head).await?;
                }
            }
        }
        let next = unnamed.into_iter().take(GATHERED.0);
        Ok(next.map(|(_, tenant)| (tenant, BTreeSet::new())).collect())
    }

    /// Looks for items that no page names among those that were gathered.
    async fn name_all(
        &self,
        gathered: HashMap<TenantId, BTreeSet<Name>>,
    ) -> Result<(), TableError> {
        let gathered: Vec<_> = gathered
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .collect();
        for some in gathered.chunks(AT_ONCE) {
            let tenants = some.iter().map(|(tenant, _)| tenant);
            let heads = read_heads(self.db, self.key, tenants).await?;
            let listed = names_in_all(self.db, heads.values(), Reads::Weak).await?;
            for (tenant, names) in some {
                // Most had keys that came or went during the round before.
                let listed = listed.get(tenant).map_or(&[][..], |listed| listed);
                if names.iter().any(|name| listed.binary_search(name).is_err()) {
                    self.name_others(tenant, names).await?;
                }
            }
        }
        Ok(())
    }

    /// Puts the items of a tenant that no page names on its pages, under a head in doubt.
    async fn name_others(
        &self,
        tenant: &TenantId,
        gathered: &BTreeSet<Name>,
    ) -> Result<(), TableError> {
        let heads = read_heads(self.db, self.key, [tenant].into_iter()).await?;
        let before = heads.get(tenant);
        let listed = names_in_all(self.db, before, Reads::Strong).await?;
        let mut names: BTreeSet<Name> = listed.into_values().flatten().collect();
        // It may have moved or gone since it was seen.
        let others = gathered.difference(&names).cloned();
        let stored = read_contexts(self.db, others, Reads::Strong).await?;
        let is_its =
            |stored: &StoredContext| stored.owner.tenant == *tenant && stored.record.is_some();
        let others: Vec<_> = stored
            .into_iter()
            .filter(|(_, stored)| is_its(stored))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            table = %self.db.table, %tenant, items = others.len(),
            "items that no head names: the hub is told and sends their tenant again"
        );
        names.extend(others.into_iter().map(|(name, _)| name));
        let names: Vec<Name> = names.into_iter().collect();
        let build = Build(crate::random::id()?);
        let pages = u16::try_from(paginate(&names).len()).unwrap_or(u16::MAX);
        let live = before.filter(|head| !head.is_gone);
        let stored = StoredHead {
            tenant: tenant.clone(),
            build,
            head: Head {
                // Not that of the items: nobody knows where they come from, and readers never go back behind a version.
                // Of a tenant that is gone there is none, so that what was left behind of it is not answered.
                version: live.map_or_else(Version::default, |live| live.head.version),
                digest: IN_DOUBT,
                contexts: names.len() as u64,
                held: live.map_or_else(Vec::new, |live| live.head.held.clone()),
                held_kinds: live.map_or_else(Vec::new, |live| live.head.held_kinds.clone()),
            },
            is_gone: false,
            names: Names::Paged(build, pages),
            sum: 0,
        };
        let head = ChangedHead {
            stored,
            seen: before.map(|head| head.build),
            before: before.map_or(Names::Nowhere, |head| head.names.clone()),
            is_renamed: true,
        };
        let group = Group {
            build,
            heads: vec![head],
            contexts: Vec::new(),
            names: HashMap::from([(tenant.clone(), names)]),
            blind: Vec::new(),
        };
        self.commit(&[group]).await?;
        Ok(())
    }

    /// Those whose items are not what the head says.
    async fn differing(
        &self,
        heads: &[StoredHead],
        reads: Reads,
    ) -> Result<Vec<StoredHead>, TableError> {
        let names = names_in_all(self.db, heads, reads).await?;
        let all = names.values().flatten().cloned();
        let stored = read_contexts(self.db, all, reads).await?;
        let mut hashed: HashMap<&TenantId, Vec<_>> = HashMap::new();
        for (name, stored) in &stored {
            let record = stored.record.as_ref();
            // Readers refuse one that is not sound, so it is none, however good its value is.
            if let Some(record) = record.filter(|record| record.is_sound(self.key)) {
                let of = hashed.entry(&stored.owner.tenant).or_default();
                of.push((&name.0, &name.1, &record.hash));
            }
        }
        let mut differing = Vec::new();
        for head in heads {
            let own = hashed.get(&head.tenant).into_iter().flatten();
            let own = own.copied();
            let digest: Digest = head.head.digest_of(self.key, own);
            // What is kept for a held name is on a page, and not in the digest.
            let listed = names.get(&head.tenant).map_or(0, Vec::len) as u64;
            if digest != head.head.digest || listed != head.head.contexts {
                differing.push(head.clone());
            }
        }
        Ok(differing)
    }

    /// Puts a head in doubt, so that the hub sends its tenant again.
    async fn doubt(&self, mut head: StoredHead) -> Result<(), TableError> {
        tracing::warn!(
            table = %self.db.table, tenant = %head.tenant,
            "items of the tenant are not what its head says: the hub is told and sends it again"
        );
        head.head.digest = IN_DOUBT;
        let mut transaction = Transaction::fenced(self.db, self.session)?;
        let item = head.to_item(self.key, 0)?;
        transaction.put(self.db, item, Expect::Build(head.build))?;
        transaction.commit(self.db).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;
    const HALF: u64 = 12 * 60 * MINUTE;

    /// Scans so many minutes apart, some of which another writer does; what each read, and how long each round took.
    fn scans(every: &[u64], is_another: impl Fn(usize) -> bool) -> (Vec<u16>, Vec<u64>) {
        let (mut read, mut took) = (Vec::new(), Vec::new());
        let (mut now, mut left, mut from, mut ended) = (0, PARTS, 0, 0);
        for (n, minutes) in every.iter().enumerate() {
            let before = now;
            now += minutes * MINUTE;
            if is_another(n) {
                (left, from) = (PARTS, now);
            }
            let until = ended + HALF;
            let (due, reached) = Plan { left, from, until }.due(now, now + (now - before));
            read.push(due);
            (left, from) = (left - due, reached);
            if left == 0 {
                took.push(now - ended);
                (left, ended) = (PARTS, now);
            }
        }
        (read, took)
    }

    fn most(read: &[u16]) -> u16 {
        read.iter().copied().max().unwrap_or(0)
    }

    #[test]
    fn rounds_end_in_time_and_are_spread_over_it() {
        for (minutes, at_once) in [(1, 1), (10, 2), (60, 12)] {
            let days = vec![minutes; 4 * 24 * 60 / minutes as usize];
            let (read, took) = scans(&days, |_| false);
            assert!(took.len() >= 7, "every {minutes} min: {took:?}");
            assert!(
                took.iter().all(|took| *took <= HALF),
                "every {minutes} min: {took:?}"
            );
            let spared = HALF - 2 * minutes * MINUTE;
            assert!(
                took.iter().all(|took| *took >= spared),
                "every {minutes} min: {took:?}"
            );
            assert!(most(&read) <= at_once, "every {minutes} min: {read:?}");
        }
    }

    #[test]
    fn what_is_left_behind_a_long_pause_is_read_at_once() {
        let mut every = vec![10; 30];
        every.extend([2 * 24 * 60, 10]);
        let (read, took) = scans(&every, |_| false);
        let before: u16 = read[..30].iter().sum();
        assert_eq!((read[30], read[31]), (PARTS - before, 0));
        assert_eq!(took.len(), 1);
    }

    #[test]
    fn another_writer_in_the_middle_ends_the_round_by_the_same_time() {
        let day = [10; 3 * 24 * 6];
        let (read, took) = scans(&day, |n| n == 50);
        assert!(took.iter().all(|took| *took <= HALF), "{took:?}");
        assert!(most(&read) <= 8, "{read:?}");
    }

    #[test]
    fn another_writer_for_each_scan_reads_all_at_once_when_it_has_to() {
        let (read, took) = scans(&[60; 4 * 24], |_| true);
        assert!(
            took.len() >= 7 && took.iter().all(|took| *took <= HALF),
            "{took:?}"
        );
        assert!(
            read.iter().all(|read| [0, PARTS].contains(read)),
            "{read:?}"
        );
    }
}
