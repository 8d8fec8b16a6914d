//! Bad input, and everything else that a person or a job sees: messages, exit codes, JSON, the HTTP API.
//!
//! Messages are snapshots. Read a changed one as the person on call would, at night, before accepting it.

mod agents;
mod api;
mod comparison;
mod completions;
mod configuration;
mod console;
mod daemon;
mod database;
mod desk;
mod documents;
mod init;
mod keys;
mod queries;
mod rows;
mod secrets;
mod stores;
mod usage;

/// Compares a text with its snapshot; what differs from run to run was replaced or is filtered here.
macro_rules! shows {
    ($text:expr) => {
        let text = $text;
        insta::with_settings!({
            filters => $crate::desk::FILTERS.to_vec(),
            omit_expression => true,
            prepend_module_to_snapshot => true,
        }, { insta::assert_snapshot!(text) })
    };
}
pub(crate) use shows;
