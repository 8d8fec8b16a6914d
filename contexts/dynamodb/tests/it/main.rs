//! A table against a real server of its API, through the SDK: fences, costs, and every bad answer
//! that a network and a service can give.

mod audits;
mod costs;
mod faults;
mod fences;
mod model;
mod moves;
mod proxy;
mod support;
mod tables;
