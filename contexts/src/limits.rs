//! Every maximum in one place. A value that arrives from outside is checked against these before it is used.

use std::time::Duration;

/// Longest kind, in bytes.
pub const KIND_BYTES: usize = 64;
/// Longest key, in bytes.
pub const KEY_BYTES: usize = 1024;
/// Longest tenant, in bytes.
pub const TENANT_BYTES: usize = 512;
/// Longest region, in bytes.
pub const REGION_BYTES: usize = 64;
/// Largest value unless a context's configuration says otherwise, in bytes of JSON text.
pub const DEFAULT_VALUE_BYTES: usize = 65_536;
/// Encoded contexts that one push carries, unless a single bundle (or one commit) is larger.
pub const PUSH_BYTES: usize = 8 << 20;
/// Most contexts of one tenant, in bytes of their names and values: two such tenants fit into one push, as they have to when
/// a key moves from one to the other.
pub const TENANT_CONTEXTS_BYTES: usize = 240 << 20;
/// Largest push body after decompression; a larger one is refused unread.
pub const DECODED_BYTES: usize = 512 << 20;
/// Weight of a bundle from which what differs may be sent instead of all of it. Below, all of it is some packets, and takes
/// hardly longer than the question whether the store still has what it had.
pub const DELTA_FROM_BYTES: usize = 64 << 10;
/// Weight of the parts that a large bundle is compared by, at most; on the average three quarters of it. A change sends its
/// whole part, and the hub remembers eight bytes for each.
pub const DELTA_PART_BYTES: usize = 2 << 10;
/// Most parts of a bundle, a power of two: more than the largest bundle has.
pub const DELTA_PARTS: usize = 1 << 20;
/// Bytes of such sums that the hub remembers for each store, the oldest forgotten first: those of tenants with some ten
/// million contexts together.
pub const DELTA_SUMS_BYTES: usize = 16 << 20;
/// An epoch above this is damage, not a writer.
pub const EPOCH_MAX: u64 = 1 << 48;
/// How long a writer must have been silent before another may take its store or its lease.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Longest step by which a store's silence clock advances at once: a store that was paused did not listen.
pub const SILENCE_STEP: Duration = Duration::from_millis(250);
/// Most keys in one batch-get.
pub const BATCH_GET_KEYS: usize = 10_000;
/// Buckets that one answer lists at most.
pub const BUCKETS_LISTED: usize = 1_024;
