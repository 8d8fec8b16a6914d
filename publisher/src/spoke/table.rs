//! A table: what its errors mean for the writer.

use super::{CallError, Called};
use contexts_dynamodb::client::TableError;
use contexts_dynamodb::table::Answered;
use std::time::Duration;

/// For pushes and *synced*: the largest bundles take many transactions, one after the other. Heartbeats go on meanwhile.
pub(super) const WRITE_WITHIN: Duration = Duration::from_secs(600);

/// Calls a table. What took too long may have been done all the same, like a message without an answer.
pub(super) async fn within<A>(
    within: Duration,
    call: impl Future<Output = Answered<A>>,
) -> Called<A> {
    match tokio::time::timeout(within, call).await {
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(error @ (TableError::Rejected(_) | TableError::Damaged(_)))) => {
            Err(CallError::Rejected(error.to_string()))
        }
        Ok(Err(error)) => Err(CallError::Lost(error.to_string())),
        Err(_) => Err(CallError::Lost("no answer in time".to_owned())),
    }
}
