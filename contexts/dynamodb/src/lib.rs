//! A region on DynamoDB, or on a server that speaks its API.
//!
//! The hub's writer talks to a [`table::Table`] as it talks to an agent: the same operations, the same types, the same
//! rules. Whoever embeds a gateway reads the table through the loading cache in `spoke-agent`.
//!
//! | module | is about |
//! | --- | --- |
//! | [`table`] | the operations of the push protocol on a table: claim, push, *synced* |
//! | [`layout`] | the items of a table, drawn |
//! | `working` | what a push concerns, read; and the difference that it makes |
//! | `commit` | writes a difference, at once or in steps that each keep the invariants |
//! | `moves` | keys that move between more tenants than can be written at once |
//! | `transaction` | the only way to write: with a look at the fence |
//! | `pulse` | what moves every second |
//! | [`lookup`] | what a reader asks |
//! | `heads`, `tenants`, `read` | listings, whole tenants, many items |
//! | `audit` | items against heads |
//! | `sizes` | what an item has no room for |
//! | [`admin`] | the table itself: create, check |
//! | [`client`] | the way to a table, and what an error means |
//! | [`clock`] | the service's own clock |
//! | [`units`], [`caps`] | what it costs, and how much it may cost in a second |
//!
//! It knows nothing of Postgres, of agents or of who asks. Nothing here may write without a fence.

pub mod admin;
mod audit;
pub mod caps;
pub mod client;
pub mod clock;
mod commit;
mod heads;
pub mod layout;
pub mod lookup;
mod moves;
mod pulse;
mod random;
mod read;
mod sizes;
mod store;
pub mod table;
pub mod tenants;
mod transaction;
pub mod units;
mod working;
