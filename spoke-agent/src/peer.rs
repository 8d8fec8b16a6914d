//! A new or emptied agent fills itself from another one of its region, so that a region grows and mends itself without
//! the hub.
//!
//! | module | is about |
//! | --- | --- |
//! | [`give`] | the answer to `POST /push/v1/copy`: all rows of one snapshot |
//! | [`take`] | asking for it, and writing it down |
//! | [`portable`] | the same rows as one file, for a region that has nobody left to ask |
//!
//! What is copied is the state of one commit as it is, with the grant, with what the store was in step for, and with its
//! position: a peer that is half full itself says so in what it gives. The identity of the store is not copied. Nothing
//! of it counts before the last row has come and all of it was checked: whatever ends a copy leaves an empty store.
//!
//! Both sides show the push token, since the digest key is a part of it. An agent asks only the peers that it was
//! configured with, only at its start, and only if no writer ever claimed it.

pub mod give;
pub mod portable;
pub mod take;

use crate::store::redb::StoreError;
use contexts::digest::DigestKey;
use contexts::name::{Kind, Region};
use contexts::version::{SyncId, Term, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Asks for a copy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Copy {
    /// The region of the one who asks.
    pub region: Region,
}

/// What an asker of this release adds to the address: the form of the answer that it knows. One of a release before
/// says nothing and gets form 1, [`Part::Begin`]; a giver of a release before does not look at it and answers in form 1.
const FORM: &str = "form=2";
/// And the format of its file, since rows are copied as they are. Of a release that does not say it nothing is known.
const FORMAT_IS: &str = "format=";

/// A part of a copy, in this order. The keys and values are those of the tables.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    /// Form 1, where nobody says whether something was lost.
    Begin(Box<Known>),
    Blind(Vec<u8>, Vec<u8>),
    Head(u16, Vec<u8>, Vec<u8>),
    Context(Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>),
    Owner(Vec<u8>, Vec<u8>, Vec<u8>),
    /// So many parts came before.
    End(u64),
    /// Form 2, in the place of [`Part::Begin`].
    Facts(Box<Facts>),
}

/// What a store knows of itself, as far as another one can take it over.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    known: Known,
    /// Whether something may have been lost to damage since it was in step.
    lost: bool,
}

impl From<Known> for Facts {
    /// A giver that does not say whether it lost something may have.
    fn from(known: Known) -> Self {
        Self { known, lost: true }
    }
}

/// The facts of form 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
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

/// A part, or another piece of a copy, which must be all of these bytes: what follows would be of another release.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((part, [])) => Ok(part),
        Ok(_) => Err("a part of another release".into()),
        Err(error) => Err(error.to_string()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use contexts::version::Holder;
    use insta::assert_snapshot;

    /// Would catch a change to what an agent of another release reads.
    #[test]
    fn the_forms_of_the_first_part_stay_as_they_are() {
        let known = Known {
            digest_key: DigestKey([7; 32]),
            granted: Term {
                epoch: 3,
                holder: Holder(5),
            },
            released: false,
            last_synced: None,
            synced_kinds: vec![Kind::new("k").expect("a kind")],
            position: Version::default(),
            age: Some(1.0),
            beat: 9,
        };
        let facts = Facts {
            known: known.clone(),
            lost: true,
        };
        let hex = |part: &Part| -> String {
            let bytes = postcard::to_allocvec(part).expect("encodes");
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_snapshot!(hex(&Part::Begin(Box::new(known))), @"0007070707070707070707070707070707070707070707070707070707070707070305000001016b000001000000000000f03f09");
        assert_snapshot!(hex(&Part::Facts(Box::new(facts))), @"0607070707070707070707070707070707070707070707070707070707070707070305000001016b000001000000000000f03f0901");
    }
}
