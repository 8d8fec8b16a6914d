//! The hub: builds contexts from the primary Postgres and pushes them to every spoke.
//!
//! | module | is about |
//! | --- | --- |
//! | [`config`] | the configuration file |
//! | [`source`] | the primary Postgres: the only SQL |
//! | [`writer`] | what to build and what to send: pure decisions |
//! | [`spoke`] | one agent over HTTP |
//! | [`engine`] | does what the writer decides |
//! | [`ask`] | what others ask of the writer |

pub mod ask;
pub mod config;
pub mod engine;
pub mod failpoint;
pub mod metrics;
pub mod source;
pub mod spoke;
pub mod writer;
