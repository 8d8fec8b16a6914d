//! What whoever runs Hubcast works with: metrics, logs, alerts, runbooks, dashboards, and the files to deploy it. Each is
//! compared with what the programs really do, so that none of them speaks of something that is not there.

mod deploy;
mod docs;
mod exposition;
mod files;
mod logs;
mod metrics;
mod speaks;
mod stage;
mod stopped;
