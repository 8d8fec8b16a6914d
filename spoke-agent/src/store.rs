//! The store of this agent: what is on disk, who may change it, and what of it is known without asking the disk.
//!
//! | module | is about |
//! | --- | --- |
//! | [`redb`] | the file: tables, the one writer, snapshots for readers |
//! | [`live`] | what the writer publishes after each commit |
//! | [`fresh`] | the age of the store's content |

pub mod fresh;
pub mod live;
pub mod redb;
