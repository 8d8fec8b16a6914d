//! Many items at once, by their places and by partition; strongly consistent where nothing else is said. What the service leaves unprocessed is
//! asked for again.

use crate::client::{Db, TableError};
use crate::layout::{Item, Place};
use crate::units::Units;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::time::Duration;

/// Keys of one call.
const BATCH: usize = 100;
/// Calls of one question that are under way at once.
const AT_ONCE: usize = 8;
/// How often what stays unprocessed is asked for without any progress.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(25);

/// Whether a read has to see what was written just before. One that need not costs half as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    Strong,
    Weak,
    /// Strong, and not held up by a cap: what a session lives on.
    Urgent,
}

impl Db {
    /// What is at these places. Places without an item are left out.
    ///
    /// # Errors
    /// [`TableError`] if some cannot be read.
    pub async fn get_all(
        &self,
        places: impl IntoIterator<Item = Place>,
    ) -> Result<HashMap<Place, Item>, TableError> {
        self.get_all_as(places, Reads::Strong).await
    }

    pub(crate) async fn get_all_as(
        &self,
        places: impl IntoIterator<Item = Place>,
        reads: Reads,
    ) -> Result<HashMap<Place, Item>, TableError> {
        let mut places: Vec<Place> = places.into_iter().collect();
        places.sort_unstable();
        places.dedup();
        let batches: Vec<Vec<Item>> = places
            .chunks(BATCH)
            .map(|batch| batch.iter().map(Place::to_key).collect())
            .collect();
        let reading = stream::iter(batches).map(|batch| self.get_batch(batch, reads));
        let read: Vec<_> = reading.buffer_unordered(AT_ONCE).try_collect().await?;
        let items = read.into_iter().flatten();
        let placed = items.map(|item| Ok((Place::of(&item)?, item)));
        placed.collect()
    }

    async fn get_batch(&self, mut keys: Vec<Item>, reads: Reads) -> Result<Vec<Item>, TableError> {
        let (mut items, mut tries) = (Vec::new(), 0);
        while !keys.is_empty() {
            let asked = KeysAndAttributes::builder()
                .set_keys(Some(keys))
                .consistent_read(reads != Reads::Weak)
                .build()
                .map_err(|error| TableError::Rejected(error.to_string()))?;
            if reads != Reads::Urgent {
                self.units.turn_to_read().await;
            }
            let got = self
                .client
                .batch_get_item()
                .request_items(&self.table, asked)
                .return_consumed_capacity(Units::ASKED)
                .send();
            let mut got = Box::pin(got).await.map_err(|error| self.meaning(error))?;
            self.units.read(got.consumed_capacity());
            let found = got.responses.as_mut().and_then(|r| r.remove(&self.table));
            let found = found.unwrap_or_default();
            let progressed = !found.is_empty();
            items.extend(found);
            let left = got.unprocessed_keys.as_mut();
            let left = left.and_then(|left| left.remove(&self.table));
            keys = left.map(|left| left.keys).unwrap_or_default();
            tries = if progressed { 0 } else { tries + 1 };
            if !keys.is_empty() {
                self.pause(tries).await?;
            }
        }
        Ok(items)
    }

    /// Waits before what was left is asked for again, longer each time.
    async fn pause(&self, tries: u32) -> Result<(), TableError> {
        if tries > TRIES {
            let why = format!(
                "table {:?}: the service leaves reads unprocessed",
                self.table
            );
            return Err(TableError::Lost(why));
        }
        tokio::time::sleep(PAUSE * (1 << tries)).await;
        Ok(())
    }

    /// The items of a partition whose place in it begins like this, in order.
    ///
    /// # Errors
    /// [`TableError`] if they cannot be read.
    pub async fn query(&self, pk: &str, begins: &str) -> Result<Vec<Item>, TableError> {
        self.query_up_to(pk, begins, None, Reads::Strong).await
    }

    pub(crate) async fn query_as(
        &self,
        pk: &str,
        begins: &str,
        reads: Reads,
    ) -> Result<Vec<Item>, TableError> {
        self.query_up_to(pk, begins, None, reads).await
    }

    /// Whether a partition has any item.
    ///
    /// # Errors
    /// [`TableError`] if it cannot be read.
    pub async fn has_any(&self, pk: &str) -> Result<bool, TableError> {
        let items = self.query_up_to(pk, "", Some(1), Reads::Strong).await?;
        Ok(!items.is_empty())
    }

    /// A page of one of so many parts of the table, and where the next page begins.
    pub(crate) async fn scan(
        &self,
        (part, parts): (u16, u16),
        from: Option<Item>,
        reads: Reads,
    ) -> Result<(Vec<Item>, Option<Item>), TableError> {
        self.units.turn_to_read().await;
        let page = self
            .client
            .scan()
            .table_name(&self.table)
            .segment(part.into())
            .total_segments(parts.into())
            .consistent_read(reads != Reads::Weak)
            .set_exclusive_start_key(from)
            .return_consumed_capacity(Units::ASKED)
            .send();
        let page = Box::pin(page).await.map_err(|error| self.meaning(error))?;
        self.units.read(page.consumed_capacity());
        Ok((page.items.unwrap_or_default(), page.last_evaluated_key))
    }

    async fn query_up_to(
        &self,
        pk: &str,
        begins: &str,
        most: Option<i32>,
        reads: Reads,
    ) -> Result<Vec<Item>, TableError> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let mut query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(pk))
            .consistent_read(reads != Reads::Weak)
            .set_limit(most)
            .return_consumed_capacity(Units::ASKED);
        if !begins.is_empty() {
            query = query
                .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                .expression_attribute_values(":sk", text(begins));
        }
        let (mut items, mut from) = (Vec::new(), None);
        loop {
            self.units.turn_to_read().await;
            let page = query.clone().set_exclusive_start_key(from).send();
            let page = Box::pin(page).await;
            let page = page.map_err(|error| self.meaning(error))?;
            self.units.read(page.consumed_capacity());
            items.extend(page.items.unwrap_or_default());
            from = page.last_evaluated_key;
            let enough = most.is_some_and(|most| items.len() >= most as usize);
            if from.is_none() || enough {
                return Ok(items);
            }
        }
    }
}
