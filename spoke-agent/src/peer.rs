//! A new or emptied agent fills itself from another one of its region, so that a region grows and mends itself without
//! the hub.
//!
//! | module | is about |
//! | --- | --- |
//! | [`give`] | the answer to `POST /push/v1/copy`: all rows of one snapshot |
//! | [`take`] | asking for it, and writing it down |
//!
//! What is copied is the state of one commit as it is, with the grant, with what the store was in step for, and with its
//! position: a peer that is half full itself says so in what it gives. The identity of the store is not copied. Nothing
//! of it counts before the last row has come and all of it was checked: whatever ends a copy leaves an empty store.
//!
//! Both sides show the push token, since the digest key is a part of it. An agent asks only the peers that it was
//! configured with, only at its start, and only if no writer ever claimed it.

pub mod give;
pub mod take;

use crate::store::redb::StoreError;
use contexts::digest::DigestKey;
use contexts::name::{Kind, Region};
use contexts::version::{SyncId, Term, Version};
use serde::{Deserialize, Serialize};

/// Asks for a copy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Copy {
    /// The region of the one who asks.
    pub region: Region,
}

/// A part of a copy, in this order. The keys and values are those of the tables.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    Begin(Box<Facts>),
    Blind(Vec<u8>, Vec<u8>),
    Head(u16, Vec<u8>, Vec<u8>),
    Context(Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>),
    Owner(Vec<u8>, Vec<u8>, Vec<u8>),
    /// So many parts came before.
    End(u64),
}

/// What a store knows of itself, as far as another one can take it over.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    digest_key: DigestKey,
    granted: Term,
    released: bool,
    last_synced: Option<SyncId>,
    synced_kinds: Vec<Kind>,
    position: Version,
    /// Seconds since the moment up to which every change is in the copy.
    age: Option<f64>,
    beat: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The peer cannot be asked, or breaks off.
    #[error("{0}")]
    Unreachable(String),
    /// It refuses.
    #[error("it answers {status}: {why}")]
    Refused {
        /// The status.
        status: u16,
        /// What it says.
        why: String,
    },
    /// A hub has claimed it and not filled it yet.
    #[error("it has nothing yet")]
    Nothing,
    /// What came is not a whole copy.
    #[error("what it sent is not a whole copy: {0}")]
    Nonsense(String),
    /// Our own file.
    #[error("the copy cannot be written: {0}")]
    Storage(#[from] StoreError),
}
