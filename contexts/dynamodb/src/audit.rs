//! Looks whether the items are what the heads say: an item that was edited by hand shows in no listing of heads. The head
//! of what is found is put in doubt, so that the hub sees a difference and sends the tenant again.
//!
//! To read each item by its name would cost a read unit for every one of them, however small. So a round reads the table
//! as it lies, in parts, a part at a time, and adds up for each tenant what is sound. Behind the last part that is
//! compared with the sum in its head; what differs, or was written meanwhile, is read by name and told if it is wrong.
//!
//! A round is kept in memory and begins anew with another writer.

use crate::client::TableError;
use crate::commit::Writing;
use crate::layout::{
    GROUPS, IN_DOUBT, Item, SETTLED, StoredContext, StoredHead, name_of, names_of, part_of_sum,
    tenant_of_page,
};
use crate::read::Reads;
use crate::transaction::{Expect, Transaction};
use crate::working::{names_in_all, read_contexts, read_heads};
use contexts::digest::Digest;
use contexts::name::TenantId;
use contexts::version::Term;
use std::collections::{HashMap, HashSet};

/// Parts of a round.
pub(crate) const PARTS: u16 = 64;
/// Tenants of which the items are read by name at once.
const AT_ONCE: usize = 32;

/// A round over all items, as far as it is.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// The writer that it belongs to: what another one writes is not seen here.
    term: Option<Term>,
    done: u16,
    /// What the sound items of each tenant add up to.
    found: HashMap<TenantId, u64>,
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

impl Writing<'_> {
    /// Reads the next part of a round; behind the last one, compares. Returns how many tenants differed.
    pub(crate) async fn audit(&self, round: &mut Round, reads: Reads) -> Result<usize, TableError> {
        let mut found: HashMap<TenantId, u64> = HashMap::new();
        let mut damaged = Vec::new();
        let mut from: Option<Item> = None;
        loop {
            let part = (round.done, PARTS);
            let (items, next) = self.db.scan(part, from, reads).await?;
            for (tenant, part) in items.iter().filter_map(|item| self.sound(item)) {
                let sum = found.entry(tenant).or_default();
                *sum = sum.wrapping_add(part);
            }
            let is_damaged = |item: &Item| names_of(item).is_err();
            let pages = items
                .iter()
                .filter_map(|item| Some((tenant_of_page(item)?, item)));
            damaged.extend(pages.filter(|(_, item)| is_damaged(item)).map(|(t, _)| t));
            from = next;
            if from.is_none() {
                break;
            }
        }
        // Not before all of the part is read: what breaks off in the middle is read again.
        for (tenant, part) in found {
            let sum = round.found.entry(tenant).or_default();
            *sum = sum.wrapping_add(part);
        }
        round.doubtful.extend(damaged);
        round.done += 1;
        match round.done < PARTS {
            true => Ok(0),
            false => self.judge(std::mem::take(round)).await,
        }
    }

    /// What an item adds to the sum of its tenant. One that is damaged adds nothing, and so is missing there.
    fn sound(&self, item: &Item) -> Option<(TenantId, u64)> {
        let name = name_of(item, SETTLED)?;
        let stored = StoredContext::of(&name, item).ok()?;
        let record = stored.record.filter(|record| record.is_sound(self.key))?;
        Some((stored.owner.tenant, part_of_sum(&record)))
    }

    async fn judge(&self, mut round: Round) -> Result<usize, TableError> {
        let mut doubtful = Vec::new();
        for group in 0..GROUPS {
            for head in self.db.heads_of_group(group, Reads::Weak).await? {
                let found = round.found.remove(&head.tenant).unwrap_or(0);
                let is_right = found == head.sum && !round.doubtful.contains(&head.tenant);
                // One that is in doubt differs already.
                if !is_right && !head.is_in_doubt() {
                    doubtful.push(head);
                }
            }
        }
        let mut differing = 0;
        for some in doubtful.chunks(AT_ONCE) {
            for head in self.differing(some, Reads::Weak).await? {
                // Once more, to see what was written last.
                let again = read_heads(self.db, self.key, [&head.tenant].into_iter()).await?;
                let counts = |head: &StoredHead| !head.is_gone && !head.is_in_doubt();
                let again: Vec<StoredHead> = again.into_values().filter(counts).collect();
                for head in self.differing(&again, Reads::Strong).await? {
                    differing += 1;
                    self.doubt(head).await?;
                }
            }
        }
        Ok(differing)
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
