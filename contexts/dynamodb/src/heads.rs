//! Listings of heads: which tenants there are and with which digests. No value is read.
//!
//! What is damaged is listed too, as in doubt: were it an error, one item would keep the whole region from being compared.

use crate::client::{Db, TableError};
use crate::layout::{self, GROUPS, Item, StoredHead};
use crate::read::Reads;
use contexts::digest::{Buckets, DigestKey};
use contexts::name::TenantId;
use contexts::push::Listed;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};

/// Partitions that are read at once.
const AT_ONCE: usize = 16;
/// Buckets of one group from which on the whole group is read.
const MANY: usize = 4;

/// What all heads add up to.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// Without the tenants that were left out.
    pub(crate) buckets: Buckets,
    /// Tenants.
    pub(crate) bundles: u64,
    /// Contexts.
    pub(crate) contexts: u64,
}

impl Db {
    /// The heads of a group, those of removed tenants left out.
    pub(crate) async fn heads_of_group(
        &self,
        group: u16,
        reads: Reads,
    ) -> Result<Vec<StoredHead>, TableError> {
        let items = self.query_as(&layout::group(group), "", reads).await?;
        let heads = items.iter().filter_map(|item| self.head_in(item));
        Ok(heads.filter(|head| !head.is_gone).collect())
    }

    /// The head in an item as the writer takes it: one that cannot be read is in doubt. None if it is nobody's.
    pub(crate) fn head_in(&self, item: &Item) -> Option<StoredHead> {
        let bad = match StoredHead::of(item) {
            Ok(head) => return Some(head),
            Err(bad) => bad,
        };
        let remains = StoredHead::remains(item);
        let (table, place, why) = (&self.table, &bad.place, &bad.why);
        match remains {
            Ok(_) => {
                tracing::warn!(%table, place, why, "a damaged head: the hub sends its tenant again")
            }
            Err(_) => {
                tracing::warn!(%table, place, why, "an item among the heads is nobody's: it counts for nothing, remove it")
            }
        }
        remains.ok()
    }

    /// The sums over all heads but those of some tenants.
    pub(crate) async fn sums(
        &self,
        key: &DigestKey,
        without: &BTreeSet<&TenantId>,
        reads: Reads,
    ) -> Result<Sums, TableError> {
        let mut groups = stream::iter(0..GROUPS)
            .map(|group| self.heads_of_group(group, reads))
            .buffer_unordered(AT_ONCE);
        let mut sums = Sums::default();
        while let Some(heads) = groups.try_next().await? {
            for head in &heads {
                sums.bundles += 1;
                sums.contexts += head.head.contexts;
                if !without.contains(&head.tenant) {
                    sums.buckets.add(key, &head.tenant, &head.head.digest);
                }
            }
        }
        Ok(sums)
    }

    /// The tenants in some buckets.
    ///
    /// # Errors
    /// [`TableError`] if they cannot be read.
    pub async fn list(&self, buckets: &[u16]) -> Result<Vec<Listed>, TableError> {
        let mut groups: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
        for bucket in buckets
            .iter()
            .filter(|b| usize::from(**b) < contexts::digest::BUCKETS)
        {
            let (group, begins) = layout::bucket(*bucket);
            groups.entry(group).or_default().insert(begins);
        }
        let whole = |(group, begins): (u16, BTreeSet<String>)| match begins.len() > MANY {
            true => vec![(group, String::new(), begins)],
            false => {
                let one = |begins: &String| (group, begins.clone(), [begins.clone()].into());
                begins.iter().map(one).collect()
            }
        };
        let asked: Vec<_> = groups.into_iter().flat_map(whole).collect();
        let reading = stream::iter(asked).map(|(group, begins, wanted)| async move {
            let items = self.query(&layout::group(group), &begins).await?;
            let is_wanted = |item: &&Item| {
                let place = layout::Place::of(item);
                place.is_ok_and(|place| wanted.iter().any(|w| place.sk.starts_with(w)))
            };
            let heads = items.iter().filter(is_wanted);
            let heads = heads.filter_map(|item| self.head_in(item));
            Ok::<_, TableError>(heads.collect())
        });
        let read: Vec<Vec<StoredHead>> = reading.buffered(AT_ONCE).try_collect().await?;
        let heads = read.into_iter().flatten().filter(|head| !head.is_gone);
        let listed = heads.map(|head| Listed {
            tenant: head.tenant,
            digest: head.head.digest,
            version: head.head.version,
        });
        Ok(listed.collect())
    }
}
