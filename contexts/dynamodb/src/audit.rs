//! Looks whether the items are what the heads say, a part of the table at a time: an item that was edited by hand shows
//! in no listing of heads. What is found is written into the head, so that the hub sees the difference and sends the
//! tenant again.

use crate::client::TableError;
use crate::commit::Writing;
use crate::layout::StoredHead;
use crate::transaction::{Expect, Transaction};
use crate::working::read_contexts;
use contexts::digest::Digest;

impl Writing<'_> {
    /// Compares all items of a group of buckets with their heads. Returns how many tenants differed.
    pub(crate) async fn audit(&self, group: u16) -> Result<usize, TableError> {
        let mut differing = 0;
        for head in self.db.heads_of_group(group).await? {
            let digest = self.true_digest(&head).await?;
            if digest == head.head.digest {
                continue;
            }
            differing += 1;
            tracing::warn!(
                table = %self.db.table, tenant = %head.tenant,
                "items of the tenant are not what its head says: the hub is told and sends it again"
            );
            let seen = head.build;
            let mut told = head;
            told.head.digest = digest;
            let mut transaction = Transaction::fenced(self.db, self.session)?;
            transaction.put(self.db, told.to_item(self.key, 0)?, Expect::Build(seen))?;
            transaction.commit(self.db).await?;
        }
        Ok(differing)
    }

    /// The digest that a head should have, from the bytes of its items.
    async fn true_digest(&self, head: &StoredHead) -> Result<Digest, TableError> {
        let names = self.names_in(head).await?;
        let stored = read_contexts(self.db, names).await?;
        let own = stored
            .iter()
            .filter(|(_, stored)| stored.owner.tenant == head.tenant);
        let hashed: Vec<_> = own
            .filter_map(|(name, stored)| {
                let record = stored.record.as_ref()?;
                Some((&name.0, &name.1, record.context.digest(self.key)))
            })
            .collect();
        let hashed = hashed
            .iter()
            .map(|(kind, key, digest)| (*kind, *key, digest));
        Ok(head.head.digest_of(self.key, hashed))
    }
}
