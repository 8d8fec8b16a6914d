//! The store file, in redb: one file, one writer, snapshots for readers.
//!
//! | module | is about |
//! | --- | --- |
//! | [`tables`] | every table with the layout of its keys and values |
//! | [`rows`] | bytes to values and back |
//! | [`meta`] | what the store knows of itself |
//! | [`db`] | the open file: read, write, open again after a failure |
//! | [`open`] | from a path to a checked store |
//! | [`audit`] | what is on disk against what is said of it, and mending |
//! | [`changes`] | the log of changes, for whoever follows the store |
//! | [`txn`] | a write transaction as the shared decisions see it |
//! | [`redo`] | the log of pushes that the file would lose in a crash |
//! | [`replay`] | what is done with it at an open |
//! | [`overlay`], [`verify`] | a look at the file of a stopped agent, which changes nothing |
//! | [`scrub`] | looking for rot while nothing else is to be done |
//! | [`writer`] | the one thread that changes the store |
//! | [`reader`] | snapshots for answers |
//!
//! The order is always: durable, then readable, then acknowledged. A push is durable in the redo log before redb commits
//! it, and readers see exactly what redb has committed.

pub mod audit;
pub mod changes;
pub mod db;
pub mod meta;
pub mod open;
pub mod outlines;
pub mod overlay;
pub mod reader;
pub mod redo;
pub mod replay;
pub mod rows;
pub mod scrub;
pub mod tables;
pub mod txn;
pub mod verify;
pub mod writer;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// redb or the operating system failed.
    #[error("{0}")]
    Medium(#[from] ::redb::Error),
    /// A row cannot be read.
    #[error("{what} is damaged; a restart of the agent audits and mends the file")]
    Damaged {
        /// Which row.
        what: String,
    },
    /// The agent has stopped, or the file could not be opened again after a failure.
    #[error(
        "the file is closed: the agent has stopped, or it failed and cannot be opened again yet"
    )]
    Closed,
}

macro_rules! medium {
    ($($error:ty),*) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Medium(error.into())
            }
        })*
    };
}
medium!(
    ::redb::StorageError,
    ::redb::TableError,
    ::redb::TransactionError,
    ::redb::CommitError,
    ::redb::DatabaseError,
    ::redb::SetDurabilityError
);
