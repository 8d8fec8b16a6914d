//! Outages of others, as tests named after what happened, for the stories that no other test tells.
//!
//! What other tests tell: a leader that came up empty and deleted everything (`guards`, `revoked_meanwhile`); a primary that
//! failed over, also to one that lagged (`failover`, `builds::a_standby_is_refused_although_its_definitions_are_the_same`); a
//! restart before caches were filled (`kill_points`, `random_kills`); skipping what "was replicated already" (`rot`,
//! `requests::a_republish_of_what_did_not_change_is_delivered_all_the_same`); an old plan applied after a newer one (`order`,
//! `takeover`); an idle consumer that fills the primary (`outbox`); a resume point after a failover (`failover`, `copies`); ids
//! in another order than commits (`trigger_path`, `interleaved`); a hub that was recreated with lower versions (`copies`); a
//! status that says "normal" though nothing arrived (`rot`, `receipts`); certificates that expire (`tls`); mixed releases, as far as
//! one can be told from another (`contexts/tests/recorded`, and `spoke-agent/tests/it`, recorded).

mod between;
mod damage;
mod large;
mod releases;
mod source;
mod stores;
