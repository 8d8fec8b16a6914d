//! The push protocol: what the hub asks of a store and what the store answers, and how both are encoded.
//!
//! A body is `protocol (1 byte) | encoding (1 byte) | payload`; the payload is postcard, plain or as one zstd frame.
//! Every call but [`Hello`], [`ListBuckets`] and [`ReadTenant`] belongs to a session, and pushes and *synced* within it are
//! numbered 1, 2, 3, ...
//!
//! Postcard has no names, so a message that has one field more or less is another message. Whoever changes one raises
//! [`PROTOCOL`] and keeps the types of the one before: a receiver understands both, and answers in that of the question, so
//! that agents can be upgraded before the hub. What lies outside is refused with both numbers, never guessed.
//! A message that there was not before is no other protocol ([`crate::delta`] has one): it is a call of its own, and a receiver
//! that does not know it says so and does nothing. `contexts/fixtures` has each protocol as it was sent, and
//! `tests/recorded.rs` compares.

use crate::bundle::{Bundle, Context};
use crate::digest::{Buckets, Digest, DigestKey};
use crate::limits;
use crate::name::{Key, Kind, Region, TenantId};
use crate::version::{Incarnation, SessionId, StoreId, SyncId, Term, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;
use std::io::Read;

/// The protocol that this release speaks.
pub const PROTOCOL: u8 = 1;
/// The oldest protocol that it understands.
pub const PROTOCOL_OLDEST: u8 = 1;

/// A moment on a store's own boot-time clock. Readings of different boots are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reading {
    /// The boot of the store's machine.
    pub boot: u128,
    /// Microseconds since that boot.
    pub micros: u64,
}

/// Asks a store who it is and whom it obeys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello;

/// What a store says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreState {
    /// The store file.
    pub store: StoreId,
    /// The run of its process.
    pub incarnation: Incarnation,
    /// The region that it serves.
    pub region: Region,
    /// The writer that it granted last.
    pub granted: Option<Term>,
    /// Whether that writer released it.
    pub released: bool,
    /// The last *synced* that it accepted.
    pub last_synced: Option<SyncId>,
    /// The kinds for which it answers "no such key".
    pub synced_kinds: BTreeSet<Kind>,
    /// The highest version of which nothing is under way to it, as the writer said last.
    pub position: Version,
    /// Tenants in the store.
    pub bundles: u64,
    /// Contexts in the store.
    pub contexts: u64,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// The digest of all of it; none before the first claim brought the digest key.
    pub root: Option<Digest>,
    /// Its clock at the answer.
    pub reading: Reading,
    /// Seconds since the moment up to which it has every change, if it knows.
    pub age: Option<f64>,
    /// The last beat that it has on disk.
    pub beat: u64,
    /// Its release.
    pub release: String,
}

/// Asks for the store, in the term of a writer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claim {
    /// The region that the hub believes the store to serve.
    pub region: Region,
    /// Who claims.
    pub term: Term,
    /// What the writer saw and found in its own database; the store must not have changed since.
    pub seen: Seen,
    /// The deployment's digest key.
    pub digest_key: DigestKey,
    /// A person decided that the store is to be taken, also from a writer that is alive.
    pub force: bool,
    /// Whether the claimant's database knows the store's writer and its last *synced*. If not, the age of the store says
    /// nothing about this database, and is forgotten.
    pub known: bool,
}

/// The part of a store's state that a claim depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The store file.
    pub store: StoreId,
    /// The writer that it granted last.
    pub granted: Option<Term>,
    /// Its last *synced*.
    pub last_synced: Option<SyncId>,
}

impl StoreState {
    /// What a claim made on this state must name.
    pub fn seen(&self) -> Seen {
        Seen {
            store: self.store,
            granted: self.granted,
            last_synced: self.last_synced,
        }
    }
}

/// A claim was granted: the session, and the store as it was at that moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// To be named by every message of the session.
    pub session: SessionId,
    /// The store at the grant.
    pub state: StoreState,
}

/// A bundle on its way, with the version of the build that made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// The build's version.
    pub version: Version,
    /// The content; shared, since several stores get the same.
    pub bundle: std::sync::Arc<Bundle>,
}

/// Bundles that are to be applied in one commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Push {
    /// The region that they were built for.
    pub region: Region,
    /// The session.
    pub session: SessionId,
    /// One more than that of the last push or *synced* of the session.
    pub number: u64,
    /// At most one per tenant; none if only a beat travels.
    pub bundles: Vec<Sent>,
    /// The store's clock at a moment up to which every change is durable here already, or named as held.
    pub fresh: Option<Reading>,
    /// The number of the newest beat that the store has everything before.
    pub beat: Option<u64>,
}

/// What became of one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Durable and readable.
    Applied,
    /// The store held exactly this already; only the version is new.
    AlreadyThere,
    /// Another tenant owns one of the keys; nothing of the bundle was applied.
    KeyTaken {
        /// The kind.
        kind: Kind,
        /// The key.
        key: Key,
        /// Who owns it.
        owner: TenantId,
    },
    /// The bundle contradicts itself; nothing of it was applied.
    Invalid {
        /// How.
        why: String,
    },
}

/// The answer to a push, one verdict per bundle, in its order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pushed {
    /// The verdicts.
    pub verdicts: Vec<Verdict>,
    /// The store's clock at the answer.
    pub reading: Reading,
}

/// Ends a scan: what the store should hold now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Synced {
    /// The session.
    pub session: SessionId,
    /// One more than that of the last push or *synced* of the session.
    pub number: u64,
    /// Recorded in the hub's database before it was sent.
    pub id: SyncId,
    /// The kinds that the scan covered.
    pub kinds: BTreeSet<Kind>,
    /// Kinds of which the hub could not read all: for these the store goes on as before.
    pub unsure: BTreeSet<Kind>,
    /// The root that the store must have, but for the tenants in flux.
    pub root: Digest,
    /// Tenants of which a build is under way; they are left out of the comparison.
    pub in_flux: Vec<TenantId>,
    /// The store's clock when the scan began: every change before it is here now.
    pub fresh: Reading,
    /// The highest version of which nothing is under way to the store.
    pub position: Version,
    /// Compare what is on disk, read again now, not what is known of it.
    pub reread: bool,
}

/// The answer to [`Synced`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SyncVerdict {
    /// In step; from now on the store answers "no such key" for the kinds.
    InStep {
        /// The store's clock at the answer.
        reading: Reading,
    },
    /// Something differs; nothing was changed. The store's buckets without the tenants in flux.
    Differs {
        /// The sums.
        buckets: Buckets,
    },
}

/// Keeps the session alive and moves the position.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The session.
    pub session: SessionId,
    /// The position, once a scan was synced in this session's epoch.
    pub position: Option<Version>,
    /// As in a push.
    pub fresh: Option<Reading>,
}

/// Gives the store back, so that the next writer need not wait for silence.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Release {
    /// The session.
    pub session: SessionId,
}

/// Asks which tenants some buckets hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListBuckets {
    /// Their indexes.
    pub buckets: Vec<u16>,
}

/// One tenant of a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// The tenant.
    pub tenant: TenantId,
    /// The digest of its bundle.
    pub digest: Digest,
    /// The version of its bundle.
    pub version: Version,
}

/// Asks for all that a store holds of some tenants, and who owns some keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadTenant {
    /// The tenants.
    pub tenants: Vec<TenantId>,
    /// Keys whose owners are asked for.
    pub owners_of: Vec<(Kind, Key)>,
}

/// What a store holds of one tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantState {
    /// The tenant.
    pub tenant: TenantId,
    /// The version of its bundle; none if it has none.
    pub version: Option<Version>,
    /// Its contexts, the kept values of held ones included.
    pub contexts: Vec<Context>,
    /// The names that are held.
    pub held: Vec<(Kind, Key)>,
    /// The kinds that are held.
    pub held_kinds: Vec<Kind>,
}

/// The answer to [`ReadTenant`], in its order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantsRead {
    /// The tenants.
    pub tenants: Vec<TenantState>,
    /// The owners.
    pub owners: Vec<Option<TenantId>>,
}

/// A plain acknowledgement, with the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    /// The store's clock at the answer.
    pub reading: Reading,
}

/// Why a store does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The store serves another region.
    #[error(
        "the agent serves region {mine:?}, not {asked:?}: the address or the region is wrong in the configuration"
    )]
    Region {
        /// The store's.
        mine: Region,
        /// The hub's.
        asked: Region,
    },
    /// A writer of a later epoch (or another of the same) has the store.
    #[error("the store obeys the writer of epoch {}", granted.epoch)]
    Fenced {
        /// Who.
        granted: Term,
    },
    /// The store is not as the claim says; ask again.
    #[error("the store changed between the question and the claim")]
    Changed,
    /// The store belongs to another deployment.
    #[error("the store was filled under another digest key, by another deployment")]
    Deployment,
    /// The last writer was heard of too recently.
    #[error("the last writer was heard of {silent_ms} ms ago and has not released the store")]
    Busy {
        /// For how long it has been silent.
        silent_ms: u64,
    },
    /// The session has ended.
    #[error("the session has ended: the agent restarted, or another claim followed")]
    Session,
    /// The number is not the next one.
    #[error("message number {got} where {expected} is next")]
    Number {
        /// The number that would have been right.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// The epoch is impossible.
    #[error("epoch {epoch} is beyond any that a writer can have")]
    Epoch {
        /// The epoch.
        epoch: u64,
    },
    /// The store cannot write or read its file.
    #[error("the store cannot use its file: {why}")]
    Storage {
        /// What the operating system or the file says.
        why: String,
    },
}

/// Why a body cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// The other side speaks a protocol that this release does not know.
    #[error("push protocol {theirs} came, and this side speaks {PROTOCOL_OLDEST} to {PROTOCOL}")]
    Protocol {
        /// Theirs.
        theirs: u8,
    },
    /// It is larger than allowed once decompressed.
    #[error("the body has more than {} MiB", limits::DECODED_BYTES >> 20)]
    TooLarge,
    /// It is not what it says it is.
    #[error("the body cannot be decoded: {0}")]
    Malformed(String),
}

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// Below this, compression costs more than it saves.
const COMPRESS_FROM: usize = 8 << 10;

/// Encodes a message.
///
/// # Errors
/// [`BadBody::TooLarge`] if the other side would refuse it for its size.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, BadBody> {
    let malformed = |e: &dyn std::fmt::Display| BadBody::Malformed(e.to_string());
    let plain = postcard::to_stdvec(message).map_err(|e| malformed(&e))?;
    if plain.len() > limits::DECODED_BYTES {
        return Err(BadBody::TooLarge);
    }
    let (encoding, payload) = match plain.len() < COMPRESS_FROM {
        true => (PLAIN, plain),
        false => (
            ZSTD,
            zstd::bulk::compress(&plain, 1).map_err(|e| malformed(&e))?,
        ),
    };
    let mut body = Vec::with_capacity(payload.len() + 2);
    body.extend([PROTOCOL, encoding]);
    body.extend(payload);
    Ok(body)
}

/// Bytes of the message in a body; none if only decompressing tells, which may give [`limits::DECODED_BYTES`].
pub fn plain_bytes(body: &[u8]) -> Option<usize> {
    match body {
        [_, ZSTD, ..] => None,
        _ => Some(body.len()),
    }
}

/// Decodes a message that came from outside.
///
/// # Errors
/// [`BadBody`] if the protocol is unknown, the size is over the limit or the bytes are no such message.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadBody> {
    let malformed = |e: &dyn std::fmt::Display| BadBody::Malformed(e.to_string());
    let [protocol, encoding, payload @ ..] = body else {
        return Err(BadBody::Malformed("it is shorter than its header".into()));
    };
    if !(PROTOCOL_OLDEST..=PROTOCOL).contains(protocol) {
        return Err(BadBody::Protocol { theirs: *protocol });
    }
    match *encoding {
        PLAIN => whole(payload),
        ZSTD => {
            let mut plain = Vec::new();
            let decoder = zstd::stream::read::Decoder::new(payload).map_err(|e| malformed(&e))?;
            decoder
                .take(limits::DECODED_BYTES as u64 + 1)
                .read_to_end(&mut plain)
                .map_err(|e| malformed(&e))?;
            if plain.len() > limits::DECODED_BYTES {
                return Err(BadBody::TooLarge);
            }
            whole(&plain)
        }
        other => Err(BadBody::Malformed(format!("encoding {other} is unknown"))),
    }
}

/// A message that is all there is. What is left over would be a field of another release, and not to be ignored.
fn whole<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BadBody> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => {
            let why = format!("{} bytes follow the message", rest.len());
            Err(BadBody::Malformed(why))
        }
        Err(e) => Err(BadBody::Malformed(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_encoding_small_and_large() {
        for count in [0, 5, 5_000] {
            let list = ListBuckets {
                buckets: (0..count).collect(),
            };
            let back: ListBuckets = decode(&encode(&list).expect("encodes")).expect("decodes");
            assert_eq!(back.buckets, list.buckets);
        }
    }

    #[test]
    fn a_body_that_grows_when_it_is_decoded_says_so() {
        let list = |count| ListBuckets {
            buckets: vec![0; count],
        };
        let small = encode(&list(5)).expect("encodes");
        assert_eq!(plain_bytes(&small), Some(small.len()));
        let large = encode(&list(1 << 20)).expect("encodes");
        assert!(large.len() < 1 << 10);
        assert_eq!(plain_bytes(&large), None);
    }

    #[test]
    fn wrong_bodies_are_refused_and_never_panic() {
        assert!(matches!(decode::<Hello>(&[]), Err(BadBody::Malformed(_))));
        assert_eq!(
            decode::<Hello>(&[9, 0]).unwrap_err(),
            BadBody::Protocol { theirs: 9 }
        );
        let mut body = encode(&ListBuckets {
            buckets: (0..5_000).collect(),
        })
        .expect("encodes");
        for cut in 0..body.len().min(64) {
            assert!(decode::<ListBuckets>(&body[..cut]).is_err());
        }
        for at in 1..body.len().min(200) {
            body[at] ^= 0x55;
            let _ = decode::<Push>(&body);
            body[at] ^= 0x55;
        }
    }

    #[test]
    fn names_are_checked_on_the_way_in() {
        let body = encode(&("Not a kind", "key")).expect("encodes");
        assert!(decode::<(Kind, Key)>(&body).is_err());
    }
}
