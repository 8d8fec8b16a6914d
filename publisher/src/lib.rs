//! The hub.
pub mod writer;
