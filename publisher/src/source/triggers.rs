//! Change triggers, made from `watch`: they leave a row in `hubcast.outbox` for every tenant that a statement concerns.
//!
//! | module | is about |
//! | --- | --- |
//! | `facts` | what the catalogs say about the watched tables and about the triggers that are there |
//! | `plan` | which triggers there should be: pure |
//! | `difference` | how what is there differs from that: pure |
//! | `body` | the text of the functions: pure |
//! | [`apply`] | makes the difference go away |
//! | [`drift`] | tells it, and which tables a query reads that nobody watches |
//!
//! One trigger per table and event, for all watches of all kinds on that table: Postgres allows no trigger with
//! transition tables for several events. A statement that is written through a parent fires the triggers of the parent
//! only, and one that is written to a partition only those of the partition, so every table of a tree has its own. The
//! tables of a tree share their functions.

pub mod apply;
mod body;
mod difference;
pub mod drift;
pub(super) mod facts;
pub(super) mod plan;
#[cfg(test)]
mod tests;

/// What a trigger is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// `INSERT`, and `COPY`.
    Insert,
    /// `UPDATE`.
    Update,
    /// `DELETE`.
    Delete,
    /// `TRUNCATE`.
    Truncate,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Truncate];

    /// As SQL writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
        }
    }

    /// The end of the names of its functions and triggers.
    fn letter(self) -> char {
        match self {
            Self::Insert => 'i',
            Self::Update => 'u',
            Self::Delete => 'd',
            Self::Truncate => 't',
        }
    }

    fn trigger(self) -> String {
        format!("hubcast_changed_{}", self.letter())
    }

    /// The name of the table of rows as they were before.
    fn old_rows(self) -> Option<&'static str> {
        matches!(self, Self::Update | Self::Delete).then_some("o")
    }

    /// The name of the table of rows as they are now.
    fn new_rows(self) -> Option<&'static str> {
        matches!(self, Self::Insert | Self::Update).then_some("n")
    }

    /// `pg_trigger.tgtype` of a trigger that fires once per statement, after it.
    fn catalog_type(self) -> i32 {
        match self {
            Self::Insert => 4,
            Self::Delete => 8,
            Self::Update => 16,
            Self::Truncate => 32,
        }
    }
}
