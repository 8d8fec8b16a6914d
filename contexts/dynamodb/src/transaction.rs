//! One transaction: a few writes that happen together, and only while the fence names the session that sends them.
//!
//! There is no way to write to a table but this (and the pulse, which asks the same of itself), so whatever was paused,
//! held back by a network or sent by a writer that is not the writer any more changes nothing.

use crate::client::{Db, TableError};
use crate::layout::{Build, Item, Place, weight};
use crate::units::Units;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Delete, Put, TransactWriteItem,
};
use contexts::version::SessionId;
use std::time::Duration;

/// Actions of one transaction, as the service limits them.
pub(crate) const ACTIONS: usize = 100;
/// Bytes of one transaction: the service takes 4 MB, and counts a little more than we do.
pub(crate) const BYTES: usize = 3_500_000;
/// What the service counts for the place of an action and its condition.
const ACTION_BYTES: usize = 200;
/// How often a transaction that met another one is tried.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(20);

/// What has to stand in a place before it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect<'a> {
    /// Anything: the fence is enough.
    Any,
    /// Nothing.
    Nothing,
    /// What this build wrote; if it is the one that cannot be read, anything that no build wrote.
    Build(Build),
    /// A fence, exactly as it was read.
    Fence(&'a Item),
}

/// A transaction that is being put together.
#[derive(Debug)]
pub(crate) struct Transaction {
    actions: Vec<TransactWriteItem>,
    places: Vec<Place>,
    bytes: usize,
    checks_fence: bool,
}

type Built<T> = Result<T, aws_sdk_dynamodb::error::BuildError>;

impl Transaction {
    /// One that asks for nothing yet: whoever takes it writes the fence itself.
    pub(crate) fn unfenced() -> Self {
        Self {
            actions: Vec::new(),
            places: Vec::new(),
            bytes: 0,
            checks_fence: false,
        }
    }

    /// One that happens only while the fence names this session.
    pub(crate) fn fenced(db: &Db, session: SessionId) -> Result<Self, TableError> {
        let mut this = Self::unfenced();
        let place = Place::fence();
        let check = ConditionCheck::builder()
            .table_name(&db.table)
            .set_key(Some(place.to_key()))
            .condition_expression("#session = :session")
            .expression_attribute_names("#session", "session")
            .expression_attribute_values(":session", session_attribute(session))
            .build();
        let action = TransactWriteItem::builder().condition_check(built(check)?);
        this.add(place, action.build(), 0);
        this.checks_fence = true;
        Ok(this)
    }

    /// Whether an item of this weight has room here.
    pub(crate) fn has_room(&self, actions: usize, bytes: usize) -> bool {
        self.actions.len() + actions <= ACTIONS && self.bytes + bytes <= BYTES
    }

    /// Whether it would write anything but look at the fence.
    pub(crate) fn is_idle(&self) -> bool {
        self.actions.len() <= 1
    }

    /// Writes an item.
    pub(crate) fn put(
        &mut self,
        db: &Db,
        item: Item,
        expect: Expect<'_>,
    ) -> Result<(), TableError> {
        let (place, bytes) = (Place::of(&item)?, weight(&item));
        let mut put = Put::builder().table_name(&db.table).set_item(Some(item));
        match expect {
            Expect::Any => {}
            Expect::Nothing => put = put.condition_expression("attribute_not_exists(pk)"),
            Expect::Build(Build::UNREADABLE) => {
                let kind = AttributeValue::S("B".into());
                put = put
                    .condition_expression(
                        "attribute_not_exists(build) OR NOT attribute_type(build, :kind) OR size(build) <> :bytes",
                    )
                    .expression_attribute_values(":kind", kind)
                    .expression_attribute_values(":bytes", AttributeValue::N("16".into()));
            }
            Expect::Build(build) => {
                put = put
                    .condition_expression("build = :build")
                    .expression_attribute_values(":build", build.to_attribute());
            }
            Expect::Fence(seen) => {
                put = put
                    .condition_expression("#session = :session AND facts = :facts")
                    .expression_attribute_names("#session", "session");
                for name in ["session", "facts"] {
                    let value = seen.get(name).cloned();
                    let value = value.unwrap_or(AttributeValue::Null(true));
                    put = put.expression_attribute_values(format!(":{name}"), value);
                }
            }
        }
        let action = TransactWriteItem::builder().put(built(put.build())?);
        self.add(place, action.build(), bytes);
        Ok(())
    }

    /// Removes what is in a place.
    pub(crate) fn delete(&mut self, db: &Db, place: Place) -> Result<(), TableError> {
        let delete = Delete::builder()
            .table_name(&db.table)
            .set_key(Some(place.to_key()))
            .build();
        let action = TransactWriteItem::builder().delete(built(delete)?);
        self.add(place, action.build(), 0);
        Ok(())
    }

    fn add(&mut self, place: Place, action: TransactWriteItem, bytes: usize) {
        self.actions.push(action);
        self.places.push(place);
        self.bytes += bytes + ACTION_BYTES;
    }

    /// Does all of it, or nothing. A transaction that only met another one is tried again.
    ///
    /// # Errors
    /// [`TableError::Fenced`] and [`TableError::Changed`] if nothing was done; after [`TableError::Lost`] nobody knows.
    pub(crate) async fn commit(self, db: &Db) -> Result<(), TableError> {
        // A claim or the end of a session does not wait for what was written before.
        let is_capped = self.checks_fence;
        let mut tries = 0;
        let token = crate::random::id()?.to_string();
        let token = &token[..token.len().min(36)];
        loop {
            if is_capped {
                db.units.turn_to_write().await;
            }
            let sent = db
                .client
                .transact_write_items()
                .set_transact_items(Some(self.actions.clone()))
                .client_request_token(token)
                .return_consumed_capacity(Units::ASKED)
                .send();
            let error = match sent.await {
                Ok(done) => {
                    db.units.write(done.consumed_capacity());
                    return Ok(());
                }
                Err(error) => error,
            };
            let again = match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
                    self.refused(canceled.cancellation_reasons())?;
                    true
                }
                Some(TransactWriteItemsError::TransactionInProgressException(_)) => true,
                Some(other) => other.code() == Some("TransactionConflictException"),
                None => false,
            };
            tries += 1;
            if !again || tries >= TRIES {
                return Err(db.meaning(error));
            }
            tokio::time::sleep(PAUSE * (1 << tries)).await;
        }
    }

    /// Why it was canceled, unless that was only for the moment.
    fn refused(&self, reasons: &[CancellationReason]) -> Result<(), TableError> {
        for (place, reason) in self.places.iter().zip(reasons) {
            let code = reason.code().unwrap_or("None");
            let message = reason.message().unwrap_or("no reason given");
            match code {
                "None"
                | "TransactionConflict"
                | "ThrottlingError"
                | "ProvisionedThroughputExceeded" => {}
                "ConditionalCheckFailed" if *place == Place::fence() => {
                    return Err(TableError::Fenced);
                }
                "ConditionalCheckFailed" => {
                    let what = place.to_string();
                    return Err(TableError::Changed { what });
                }
                _ => {
                    let why = format!("a write of {place} was refused: {code}: {message}");
                    return Err(TableError::Rejected(why));
                }
            }
        }
        Ok(())
    }
}

/// A session as an attribute.
pub(crate) fn session_attribute(session: SessionId) -> AttributeValue {
    AttributeValue::B(Blob::new(session.0.to_be_bytes()))
}

fn built<T>(built: Built<T>) -> Result<T, TableError> {
    built.map_err(|error| TableError::Rejected(error.to_string()))
}
