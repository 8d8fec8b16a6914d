//! The shared model of Hubcast: what is replicated, how it is compared, and what a store decides.
//!
//! Both sides build on this crate: the hub (`publisher`) and the spoke (`spoke-agent`). It holds values and
//! decisions only. It knows nothing about Postgres, HTTP, redb, tokio or the time of day; whoever calls it brings
//! those. That is why the seeded simulation can drive the very code that ships.
//!
//! | module | is about |
//! | --- | --- |
//! | [`name`] | kinds, keys, tenants, regions: checked names |
//! | [`bundle`] | all contexts of one tenant in one region: the unit of replication |
//! | [`version`] | epochs, writers, versions and their order |
//! | [`digest`] | keyed hashes of contexts, bundles, buckets and whole stores |
//! | [`push`] | the messages between hub and store, and their encoding |
//! | [`delta`] | a large bundle as what differs from the one that a store has |
//! | [`gate`] | which writer a store listens to: claim, session, number, silence |
//! | [`apply`] | what a store does with bundles: ownership of keys, holds, deletes |
//! | [`store`] | what every store is to the hub; the reference model of one |
//! | [`limits`] | every maximum in one place |

pub mod apply;
pub mod bundle;
pub mod delta;
pub mod digest;
pub mod gate;
pub mod limits;
pub mod name;
pub mod push;
pub mod store;
pub mod version;
