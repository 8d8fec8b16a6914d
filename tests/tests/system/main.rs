//! The system as it is run: a real Postgres, the programs as processes, and answers over the read API.
//!
//! Each test has its own database, folder, ports and processes, and waits for conditions, never for a time. Where a test
//! says what is true, it says so with SQL of its own, not with the publisher's code.
//!
//! `HUBCAST_TEST_POSTGRES` names a running server to use; without it each test starts a throw-away one.

mod ages;
mod alone;
mod budgets;
mod builds;
mod capture;
mod copies;
mod cut_off;
mod decommissioned;
mod deltas;
mod drift;
mod failover;
mod followed;
mod guards;
mod hostile;
mod inbound_only;
mod interleaved;
mod keys;
mod kill_points;
mod looks;
mod mass_changes;
mod moved;
mod order;
mod outages;
mod outbox;
mod pooler;
mod random_kills;
mod receipts;
mod reloaded;
mod requests;
mod restart;
mod retried;
mod revoked_meanwhile;
mod rot;
mod sample_truth;
mod since;
mod slow;
mod stops;
mod table_agent;
mod table_hub;
mod table_reader;
mod tables;
mod takeover;
mod tls;
mod told;
mod torture;
mod traffic;
mod trigger_path;
mod truth;
mod unsure;
mod vanished;
mod world;
