//! The agent from outside: its two listeners, its file, its command line. One binary, one module per subject.

mod authorize;
mod command_line;
mod configuration;
mod conformance;
mod crash;
mod damage;
mod deltas;
mod example_gateway;
mod fill;
mod full_disk;
mod inspection;
mod nginx;
mod openapi;
mod peers;
mod portable;
mod python_client;
mod read_api;
mod readers;
mod recorded;
mod redo_log;
mod reload;
mod sessions;
mod sidecar;
mod silence;
mod support;
mod watch;
