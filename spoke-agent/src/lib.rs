//! The spoke: one durable copy of a region's contexts, written by the hub's one writer, read by the region's gateways.
//!
//! The modules in the order in which a bundle meets them:
//!
//! | module | is about |
//! | --- | --- |
//! | [`store`] | the file: durable first, readable second |
//!
//! It must never open a connection: a spoke is called and does not call. (`get` and the example gateway are clients of
//! an agent, not the agent.)

pub mod clock;
pub mod failpoint;
pub mod metrics;
pub mod random;
pub mod store;
pub mod telemetry;
pub mod token;
