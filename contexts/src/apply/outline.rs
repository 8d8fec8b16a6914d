//! What a store remembers of a very large tenant, so that a delta that gives some of its contexts other values does not read the
//! others.
//!
//! It speaks for the records of a tenant only while the head has the digest that it is of. So it may be kept, lost, or left
//! from a transaction that came to nothing, and does no harm; what it cannot know is that records have rotted since. That is
//! looked for elsewhere, and whoever finds something forgets it.

use crate::digest::Digest;

/// The records of a tenant without names and values, in the order of their names. None of them is of a held name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The digest of all of it.
    pub(super) digest: Digest,
    /// Where each record is among the parts of a delta.
    pub(super) places: Vec<u32>,
    /// The digest of each record.
    pub(super) digests: Vec<Digest>,
}

impl Outline {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val::<[u32]>(&self.places) + size_of_val::<[Digest]>(&self.digests)
    }
}
