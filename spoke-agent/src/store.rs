//! The store of this agent: what is on disk, who may change it, and what of it is known without asking the disk.
//!
//! | module | is about |
//! | --- | --- |
//! | [`redb`] | the file: tables, the one writer, snapshots for readers |
//! | [`index`] | its contexts in memory |
//! | [`view`] | one state of it, from memory or from the file |
//! | [`live`] | what the writer publishes after each commit |
//! | [`feed`] | what whoever follows the store is told |
//! | [`fresh`] | the age of the store's content |

pub mod feed;
pub mod fresh;
pub mod index;
pub mod live;
pub mod redb;
pub mod view;
