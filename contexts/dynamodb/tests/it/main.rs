//! A table against a real server of its API, through the SDK: the same rules as every store, fences, and every bad answer
//! that a network and a service can give.

mod audits;
mod conformance;
mod costs;
mod faults;
mod fences;
mod model;
mod proxy;
mod support;
mod tables;
