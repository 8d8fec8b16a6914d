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
//! | [`candidate`] | becoming the writer |
//! | [`daemon`] | `publisher run` |
//! | [`reload`] | a configuration that is read again while the daemon runs |
//! | [`delegate`] | how a command gets something done, by the writer or as the writer |
//! | [`api`] | the HTTP API |
//! | [`draft`] | a first configuration for tables of the user's own |
//! | [`console`] | the page for the operator's browser |
//! | [`cli`] | the command line |
//! | [`supervisor`] | what systemd is told |
//! | [`tail`] | what goes out, for those who follow it |
//! | [`status`], [`compare`], [`lookup`] | looking, without changing anything |

pub mod api;
pub mod ask;
pub mod candidate;
pub mod cli;
pub mod compare;
pub mod config;
pub mod console;
pub mod daemon;
pub mod delegate;
pub mod draft;
pub mod engine;
pub mod failpoint;
pub mod lookup;
pub mod metrics;
pub mod reload;
pub mod source;
pub mod spoke;
pub mod status;
pub mod supervisor;
pub mod tail;
pub mod writer;
