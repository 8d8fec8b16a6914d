//! What moves every second: the sign that a writer lives, and how fresh and how far the table is.
//!
//! It is an item of its own, so that heartbeats and transactions do not get in each other's way; it names a session like
//! the fence does, so that only the writer moves it.

use crate::client::{Db, TableError};
use crate::layout::{Place, Pulse, number};
use crate::transaction::session_attribute;
use crate::units::Units;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use contexts::version::{SessionId, Version};

/// What a message says of the progress of a table. None of it ever goes back within a session.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// The highest version of which nothing is under way.
    pub(crate) position: Version,
    /// The moment up to which every change is here, in microseconds of the service's clock.
    pub(crate) fresh: Option<u64>,
    /// The last beat.
    pub(crate) beat: u64,
    /// When the last round over all items ended.
    pub(crate) audited: Option<u64>,
}

/// How the counts of a table change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counts {
    /// By so much: tenants, contexts.
    By(i64, i64),
    /// To this, as they were counted.
    Are(u64, u64),
}

impl Progress {
    /// As the pulse has it.
    pub(crate) fn of(pulse: &Pulse) -> Self {
        Self {
            position: pulse.position,
            fresh: pulse.fresh,
            beat: pulse.beat,
            audited: pulse.audited,
        }
    }

    /// Takes over what is further.
    pub(crate) fn advance(
        &mut self,
        position: Option<Version>,
        fresh: Option<u64>,
        beat: Option<u64>,
    ) {
        self.position = self.position.max(position.unwrap_or_default());
        self.fresh = self.fresh.max(fresh);
        self.beat = self.beat.max(beat.unwrap_or(0));
    }
}

/// Moves the pulse, if it is this session's.
pub(crate) async fn beat(
    db: &Db,
    session: SessionId,
    progress: &Progress,
    counts: Counts,
) -> Result<(), TableError> {
    let mut set =
        "beats = beats + :one, position_epoch = :epoch, position_n = :n, beat = :beat".to_owned();
    let mut add = "";
    let mut update = db
        .client
        .update_item()
        .table_name(&db.table)
        .set_key(Some(Place::pulse().to_key()))
        .condition_expression("#session = :session")
        .expression_attribute_names("#session", "session")
        .expression_attribute_values(":session", session_attribute(session))
        .expression_attribute_values(":one", number(1))
        .expression_attribute_values(":epoch", number(progress.position.epoch))
        .expression_attribute_values(":n", number(progress.position.n))
        .expression_attribute_values(":beat", number(progress.beat))
        .return_consumed_capacity(Units::ASKED);
    if let Some(fresh) = progress.fresh {
        set.push_str(", fresh = :fresh");
        update = update.expression_attribute_values(":fresh", number(fresh));
    }
    if let Some(audited) = progress.audited {
        set.push_str(", audited = :audited");
        update = update.expression_attribute_values(":audited", number(audited));
    }
    let (bundles, contexts) = match counts {
        Counts::By(0, 0) => (None, None),
        Counts::By(bundles, contexts) => {
            add = " ADD bundles :bundles, contexts :contexts";
            (Some(bundles.to_string()), Some(contexts.to_string()))
        }
        Counts::Are(bundles, contexts) => {
            set.push_str(", bundles = :bundles, contexts = :contexts");
            (Some(bundles.to_string()), Some(contexts.to_string()))
        }
    };
    for (name, count) in [(":bundles", bundles), (":contexts", contexts)] {
        if let Some(count) = count {
            update = update.expression_attribute_values(name, AttributeValue::N(count));
        }
    }
    let sent = update.update_expression(format!("SET {set}{add}")).send();
    match sent.await {
        Ok(done) => {
            db.units.write(done.consumed_capacity());
            Ok(())
        }
        Err(error) => Err(match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => TableError::Fenced,
            _ => db.meaning(error),
        }),
    }
}
