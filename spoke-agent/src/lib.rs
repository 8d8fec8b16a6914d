//! The spoke: one durable copy of a region's contexts, written by the hub's one writer, read by the region's gateways.
//!
//! The modules in the order in which a bundle meets them:
//!
//! | module | is about |
//! | --- | --- |
//! | [`receive`] | the push listener: token, body, message, answer |
//! | [`store`] | the file: the one writer, durable first, readable second; snapshots |
//! | [`serve`] | the read listener: one context, many, status |
//!
//! | [`peer`] | a new agent fills itself from another one of its region |
//! | [`reader`] | the library for gateways: in this process, as a mirror, over HTTP |
//!
//! and around them:
//!
//! | module | is about |
//! | --- | --- |
//! | [`agent`] | the parts put together; start and stop |
//! | `table_agent` | the same without a store of its own: from a table on DynamoDB (feature `dynamodb`) |
//! | [`follow_agent`] | the same beside a gateway: from a mirror of an agent |
//! | [`cli`] | the command line, and `get`, `list`, `stats`, `verify` |
//! | [`config`] | file, environment, flags |
//! | [`reload`] | a configuration that is read again while the agent runs |
//! | [`telemetry`], [`metrics`] | logs and counts |
//! | [`supervisor`] | what systemd is told |
//! | [`listen`] | listeners, over TCP and over a Unix socket |
//! | [`clock`], [`random`], [`token`], [`failpoint`] | the small edges |
//!
//! An agent must never open a connection out of its region, and knows no address of the hub: a spoke is called and does
//! not call. (Readers, `get`, `list` and `stats` are clients of an agent, not the agent.)

pub mod agent;
pub mod cli;
mod client;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod follow_agent;
pub mod listen;
pub mod metrics;
pub mod peer;
pub mod random;
pub mod reader;
pub mod receive;
pub mod reload;
pub mod serve;
pub mod store;
pub mod supervisor;
#[cfg(feature = "dynamodb")]
pub mod table_agent;
pub mod telemetry;
pub mod token;
