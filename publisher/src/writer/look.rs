//! What is asked of the outbox, and what it says: looks and acknowledgements.

use super::StoreIx;
use super::retry::Retry;
use super::snapshot::Snapshot;
use contexts::name::TenantId;

/// A look at the outbox, numbered within the writer's term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookId(pub u64);

/// A look to be taken now: its statement must be sent after this was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookRequest {
    /// To be named with the result.
    pub id: LookId,
    /// What this snapshot saw is not wanted again.
    pub after: Option<Snapshot>,
    /// No row below this id is wanted.
    pub from_id: i64,
    /// The last id that the look before this one saw handed out.
    pub drawn: i64,
    /// How often the server looks, in milliseconds.
    pub step: u64,
    /// For so many microseconds the server may look without a pause, while somebody is about to commit.
    pub spin: u64,
}

/// Tenants that one transaction may have changed, as rows of the outbox say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The row.
    pub id: i64,
    /// Later rows of the transaction that this one stands for: what is done with it is done with them.
    pub more: Vec<i64>,
    /// The transaction.
    pub xid: u64,
    /// The tenants: one, or what a `tenants` query made of a changed row, or none.
    pub tenants: Vec<TenantId>,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The snapshot that it was taken in.
    pub seen: Snapshot,
    /// The last id that was handed out.
    pub last_id: i64,
    /// Whether triggers still write.
    pub has_room: bool,
    /// How many statements have ever found no room, if not all of them were made up for.
    pub missed: Option<i64>,
    /// The rows.
    pub changes: Vec<Change>,
    /// More rows than are taken one by one; then `changes` is empty.
    pub is_backlog: bool,
    /// Why every tenant may have changed, if a row says so.
    pub everyone: Option<String>,
    /// Whether a beat is among the rows.
    pub beat: bool,
}

/// An acknowledgement to be made now, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckRequest {
    /// Rows that are done.
    pub ids: Vec<i64>,
    /// Every row that this snapshot sees is done: a scan speaks for them.
    pub all_in: Option<Snapshot>,
    /// Make room: triggers had stopped writing.
    pub make_room: bool,
    /// So many statements that found no room are made up for: every store is behind for them in this transaction.
    pub mended: Option<i64>,
    /// Up to this id everything that was seen is done.
    pub done_to: i64,
    /// The stores that are behind.
    pub behind: Vec<StoreIx>,
    /// Tenants that are tried again later, or no longer.
    pub retries: Vec<(TenantId, Option<Retry>)>,
}
