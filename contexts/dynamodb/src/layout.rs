//! The items of a table: keys, attributes, sizes. The only place that knows how anything is written there.
//!
//! ```text
//!  pk (S)            sk (S)            attributes
//!  ----------------  ----------------  -------------------------------------------------------------------------------
//!  "fence"           "="               session (B 16), facts (B: Facts)                       whom the table obeys
//!  "pulse"           "="               session (B 16), beats (N, moves while that writer lives), position_epoch,
//!                                      position_n, fresh, beat, bundles, contexts, audited (N) what moves every second
//!  "head#BB"         "BBBB#TENANT"     build (B 16), head (B: Head, sum), names (B: where      one tenant; BBBB is its
//!                                      they are), gone (BOOL), ttl (N)                              bucket, BB its group
//!  "names#TENANT"    "BUILD#PPPP"      names (B)                                               a page of its names
//!  "context#KIND#KEY" "="              build (B 16), tenant (S), epoch, n (N), value (S),      one key, as it is
//!                                      expires (N), hash (B 16), waiting (L of S)
//!  "context#KIND#KEY" "+"              the same, or gone (BOOL); by (S)                        one key, as the build
//!                                                                                              that is under way has it
//!  "blind#KIND"      "TENANT"          -                                                       a kind that was never
//!                                                                                              seen of a tenant
//!  "journal"         "BUILD"           tenants (B)                                             a large build under way
//!  "journal"         "BUILD#PPPP"      names (B)                                               and the keys it touches
//! ```
//! * A reader needs one strongly consistent Query of `context#KIND#KEY`: one item, and none if nobody has the key. A
//!   second one, "+", is there only while a bundle that is too large for one transaction is on its way: it counts
//!   if the head of the tenant `by` names its build, and is nothing otherwise.
//! * To list tenants and digests reads heads only: 64 partitions of 16 buckets each, no value among them. Every scan
//!   pays for all of them, by the byte, so a head is small and the names of its tenant are elsewhere: on pages of
//!   [`PAGE_BYTES`], written over while a transaction has room for all of the change, else under a new build's id.
//! * An item has at most 400 KB, key and attribute names included: so has a value with its names.
//! * "+" sorts before "=", and a Query reads in this order, so a reader who misses "+" since it was just settled finds
//!   "=" as it is afterwards.
//!
//! What this module must never do: decide anything, or let what it cannot read pass for something that is not there.

mod facts;
mod fields;
mod items;
mod pages;

pub use facts::{Facts, Fence, Pulse};
pub use fields::{BadItem, number};
pub use items::{
    IN_DOUBT, Names, Staged, StoredContext, StoredHead, part_of_sum, staged, staged_of,
};
pub use pages::{journal, names_of, page, paginate, tenants_of, weight_of};

use aws_sdk_dynamodb::types::AttributeValue;
use contexts::apply::Name;
use contexts::digest::DigestKey;
use contexts::name::{Key, Kind, TenantId};
use std::collections::HashMap;

/// The format of the table that this release writes.
pub const FORMAT: u32 = 1;
/// Partitions that the heads are in.
pub const GROUPS: u16 = 64;
/// Buckets of one group.
const BUCKETS_OF_GROUP: u16 = contexts::digest::BUCKETS as u16 / GROUPS;
/// Names on one page, in bytes.
pub const PAGE_BYTES: usize = 128 << 10;
/// The most that one item may have: 400 KB, with room for what the service counts beside.
pub const ITEM_BYTES: usize = 400 * 1024 - 512;
/// The largest value that an item surely has room for, whatever its names are.
pub const VALUE_BYTES: usize = 400_000;
/// Seconds for which the head of a removed tenant stays, so that readers know how far it was.
pub const TOMBSTONE_SECONDS: u64 = 3_600;

/// The sort key of what is.
pub const SETTLED: &str = "=";
/// The sort key of what a build under way will make of it.
pub const STAGED: &str = "+";
/// The attribute that the service removes items by.
pub const TTL: &str = "ttl";

/// An item.
pub type Item = HashMap<String, AttributeValue>;

/// The key of an item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The partition.
    pub pk: String,
    /// The place in it.
    pub sk: String,
}

impl Place {
    fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        let (pk, sk) = (pk.into(), sk.into());
        Self { pk, sk }
    }

    /// The fence.
    pub fn fence() -> Self {
        Self::new("fence", SETTLED)
    }

    /// The pulse.
    pub fn pulse() -> Self {
        Self::new("pulse", SETTLED)
    }

    /// The head of a tenant.
    pub fn head(key: &DigestKey, tenant: &TenantId) -> Self {
        let bucket = key.bucket(tenant) as u16;
        let sk = format!("{bucket:04x}#{tenant}");
        Self::new(group(bucket / BUCKETS_OF_GROUP), sk)
    }

    /// A page of names of a tenant.
    pub fn page(tenant: &TenantId, build: Build, page: usize) -> Self {
        Self::new(pages(tenant), format!("{build}#{page:04x}"))
    }

    /// A key.
    pub fn context((kind, key): &Name, sk: &str) -> Self {
        Self::new(context(kind.as_str(), key.as_str()), sk)
    }

    /// A kind that the table never had of a tenant.
    pub fn blind(kind: &Kind, tenant: &TenantId) -> Self {
        Self::new(blind(kind), tenant.as_str())
    }

    /// A large build under way.
    pub fn journal(build: Build) -> Self {
        Self::new(JOURNAL, build.to_string())
    }

    /// A page of the keys that it touches.
    pub fn journal_page(build: Build, page: usize) -> Self {
        Self::new(JOURNAL, format!("{build}#{page:04x}"))
    }

    /// As the service wants it.
    pub fn to_key(&self) -> Item {
        let text = |text: &String| AttributeValue::S(text.clone());
        Item::from([("pk".into(), text(&self.pk)), ("sk".into(), text(&self.sk))])
    }

    /// Where an item is.
    ///
    /// # Errors
    /// [`BadItem`] if it has no key of ours.
    pub fn of(item: &Item) -> Result<Self, BadItem> {
        let part = |name: &str| match item.get(name) {
            Some(AttributeValue::S(text)) => Ok(text.clone()),
            _ => Err(BadItem::new("(an item)", "its key is not text")),
        };
        Ok(Self::new(part("pk")?, part("sk")?))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pk, self.sk)
    }
}

/// The partition of the journal.
pub const JOURNAL: &str = "journal";

/// The partition of a group of buckets.
pub fn group(group: u16) -> String {
    format!("head#{group:02x}")
}

/// The group that a bucket is in, and how the places of the bucket begin there.
pub fn bucket(bucket: u16) -> (u16, String) {
    (bucket / BUCKETS_OF_GROUP, format!("{bucket:04x}#"))
}

/// The partition of a tenant's pages.
pub fn pages(tenant: &TenantId) -> String {
    format!("names#{tenant}")
}

/// The tenant whose page of names this is, if it is one.
pub fn tenant_of_page(item: &Item) -> Option<TenantId> {
    let place = Place::of(item).ok()?;
    TenantId::new(place.pk.strip_prefix("names#")?).ok()
}

/// The partition of a key. A kind has no '#', so no two keys share one.
pub fn context(kind: &str, key: &str) -> String {
    format!("context#{kind}#{key}")
}

/// The key whose item this is, if it is one of a key in this place.
pub fn name_of(item: &Item, sk: &str) -> Option<Name> {
    let place = Place::of(item).ok().filter(|place| place.sk == sk)?;
    let (kind, key) = place.pk.strip_prefix("context#")?.split_once('#')?;
    Some((Kind::new(kind).ok()?, Key::new(key).ok()?))
}

/// The partition of the tenants of which the table never had a kind.
pub fn blind(kind: &Kind) -> String {
    format!("blind#{kind}")
}

/// One build of the writer as the table knows it: random, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Build(pub u128);

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Build({:08x})", self.0 >> 96)
    }
}

impl Build {
    /// Stands for one that cannot be read. No build has this id.
    pub const UNREADABLE: Self = Self(0);

    /// As an attribute.
    pub fn to_attribute(self) -> AttributeValue {
        fields::bytes(self.0.to_be_bytes())
    }
}

/// The build that a place in the journal belongs to.
///
/// # Errors
/// [`BadItem`] if it is none.
pub fn build_of(place: &Place) -> Result<Build, BadItem> {
    let build = place.sk.split('#').next().unwrap_or_default();
    let build = u128::from_str_radix(build, 16);
    build
        .map(Build)
        .map_err(|_| BadItem::new(&place.to_string(), "it names no build"))
}

/// Bytes that the service counts for an item, or a little more.
pub fn weight(item: &Item) -> usize {
    fn of(value: &AttributeValue) -> usize {
        match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::B(blob) => blob.as_ref().len(),
            AttributeValue::N(digits) => digits.len() + 1,
            AttributeValue::L(list) => 3 + list.iter().map(|v| 1 + of(v)).sum::<usize>(),
            _ => 1,
        }
    }
    let field = |(name, value): (&String, &AttributeValue)| name.len() + of(value);
    item.iter().map(field).sum()
}
