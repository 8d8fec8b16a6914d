//! What a reader asks of a table: one key as it counts now, the head of its tenant, and how far the table is.
//!
//! All reads are strongly consistent, and none needs a session.

use crate::client::{Db, TableError};
use crate::layout::{
    self, Facts, Fence, Item, Place, Pulse, STAGED, StoredContext, StoredHead, staged_of,
};
use contexts::apply::Name;
use contexts::digest::DigestKey;
use contexts::name::{Kind, TenantId};
use futures_util::future::try_join_all;
use std::collections::BTreeSet;

/// How far a table is.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Whom it obeys, and for which kinds it was in step.
    pub facts: Facts,
    /// What moves every second.
    pub pulse: Pulse,
    /// The kinds of which an unknown key does not exist: in step, and never missed of any tenant.
    pub complete: BTreeSet<Kind>,
}

impl Db {
    /// How far the table is; none if nobody ever claimed it.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer.
    pub async fn standing(&self) -> Result<Option<Standing>, TableError> {
        let items = self.get_all([Place::fence(), Place::pulse()]).await?;
        let fence = items.get(&Place::fence()).map(Fence::of).transpose()?;
        let pulse = items.get(&Place::pulse()).map(Pulse::of).transpose()?;
        let (Some(Fence { facts, .. }), Some(pulse)) = (fence, pulse) else {
            return Ok(None);
        };
        let is_blind = facts.synced_kinds.iter().map(|kind| async move {
            let is_blind = self.has_any(&layout::blind(kind)).await?;
            Ok::<_, TableError>((!is_blind).then(|| kind.clone()))
        });
        let complete = try_join_all(is_blind).await?;
        let complete: BTreeSet<Kind> = complete.into_iter().flatten().collect();
        Ok(Some(Standing {
            facts,
            pulse,
            complete,
        }))
    }

    /// A key as it counts now; none if nobody has it.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer or what is there cannot be read.
    pub async fn look_up(
        &self,
        key: &DigestKey,
        name: &Name,
    ) -> Result<Option<StoredContext>, TableError> {
        let pk = layout::context(name.0.as_str(), name.1.as_str());
        let items = self.query(&pk, "").await?;
        let at = |sk: &str| {
            let is_at = |item: &&Item| Place::of(item).is_ok_and(|place| place.sk == sk);
            items.iter().find(is_at)
        };
        let mut item = at(layout::SETTLED);
        if let Some(plus) = at(STAGED) {
            let staged = staged_of(plus)?;
            let head = self.head(key, &staged.by).await?;
            if head.is_some_and(|head| head.build == staged.build) {
                item = (!staged.is_gone).then_some(plus);
            }
        }
        let stored = item.map(|item| StoredContext::of(name, item)).transpose()?;
        Ok(stored)
    }

    /// The head of a tenant, that of a removed one included.
    ///
    /// # Errors
    /// [`TableError`] if there is no answer or what is there cannot be read.
    pub async fn head(
        &self,
        key: &DigestKey,
        tenant: &TenantId,
    ) -> Result<Option<StoredHead>, TableError> {
        let item = self.get(&Place::head(key, tenant)).await?;
        Ok(item.as_ref().map(StoredHead::of).transpose()?)
    }
}
