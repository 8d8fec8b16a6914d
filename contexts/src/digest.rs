//! Keyed digests: how hub and store find out, in a few bytes, whether they hold the same.
//!
//! ```text
//!   context  H(kind, key, expires, value)                one record
//!   bundle   H(sorted context digests, holds)            one tenant in one region
//!   bucket   wrapping sum of H(tenant, bundle digest)    1/1024 of a store, order-free and incremental
//!   root     H(all buckets)                              a whole store
//! ```
//! All are BLAKE3 keyed with the deployment's digest key and cut to 128 bit, so that nobody who can choose values can
//! choose digests. Every field is length-prefixed and every level has its own tag, so no two inputs encode alike.
//! A digest says nothing about versions: the same content built twice has the same digest.

use crate::name::{Key, Kind, TenantId};
use blake3::Hasher;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Buckets of a store.
pub const BUCKETS: usize = 1024;

/// A 128-bit keyed hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The deployment's digest key, drawn by the first `migrate` and handed to each store at the claim.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestKey(pub [u8; 32]);

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

/// Bytes beyond which an input is hashed piece by piece, so that what is gathered stays in the processor's cache.
const PIECE: usize = 64 << 10;

/// An input, of which most are hashed in one piece: a hasher that is given a few bytes at a time has a state of two
/// kilobytes, which is more than these.
struct Input<'k> {
    key: &'k [u8; 32],
    /// What came before `bytes`, if that was much.
    hashed: Option<Box<Hasher>>,
    bytes: Vec<u8>,
}

impl Input<'_> {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        if self.bytes.len() + bytes.len() > PIECE {
            let key = self.key;
            let hashed = self
                .hashed
                .get_or_insert_with(|| Box::new(Hasher::new_keyed(key)));
            hashed.update(&self.bytes);
            self.bytes.clear();
            if bytes.len() > PIECE {
                hashed.update(bytes);
                return self;
            }
        }
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.raw(&(bytes.len() as u64).to_le_bytes()).raw(bytes)
    }

    fn finish(&mut self) -> Digest {
        let hash = match &mut self.hashed {
            None => blake3::keyed_hash(self.key, &self.bytes),
            Some(hashed) => hashed.update(&self.bytes).finalize(),
        };
        let mut out = [0; 16];
        out.copy_from_slice(&hash.as_bytes()[..16]);
        Digest(out)
    }
}

impl DigestKey {
    /// An input of about so many bytes.
    fn input(&self, tag: u8, about: usize) -> Input<'_> {
        let mut bytes = Vec::with_capacity(about.min(PIECE));
        bytes.push(tag);
        Input {
            key: &self.0,
            hashed: None,
            bytes,
        }
    }

    /// The digest of one context; also the hash that its record carries on disk.
    pub fn context(&self, kind: &Kind, key: &Key, expires: Option<i64>, value: &str) -> Digest {
        self.context_of(kind.as_str(), key.as_str(), expires, value)
    }

    /// The same, of a kind and a key that were checked before.
    pub fn context_of(&self, kind: &str, key: &str, expires: Option<i64>, value: &str) -> Digest {
        let mut input = self.input(1, 64 + kind.len() + key.len() + value.len());
        input.field(kind.as_bytes()).field(key.as_bytes());
        match expires {
            None => input.field(&[]),
            Some(at) => input.field(&at.to_le_bytes()),
        };
        input.field(value.as_bytes()).finish()
    }

    /// The digest of a bundle: its good contexts, and the names that are held, each with the tag of its class. All must
    /// come sorted.
    pub fn bundle<'a>(
        &self,
        contexts: impl Iterator<Item = &'a Digest>,
        held: impl Iterator<Item = (&'a Kind, &'a Key, u8)>,
        held_kinds: impl Iterator<Item = &'a Kind>,
    ) -> Digest {
        let mut input = self.input(2, 64 + 16 * contexts.size_hint().0);
        for digest in contexts {
            input.raw(&digest.0);
        }
        // A context digest is 16 bytes; 17 bytes of separator cannot be mistaken for one.
        input.raw(&[0xff; 17]);
        for (kind, key, class) in held {
            input
                .field(kind.as_str().as_bytes())
                .field(key.as_str().as_bytes())
                .field(&[class]);
        }
        input.raw(&[0xff; 17]);
        for kind in held_kinds {
            input.field(kind.as_str().as_bytes());
        }
        input.finish()
    }

    /// The bucket that a tenant is in.
    pub fn bucket(&self, tenant: &TenantId) -> usize {
        let hash = self.input(3, 64).field(tenant.as_str().as_bytes()).finish();
        usize::from(u16::from_le_bytes([hash.0[0], hash.0[1]])) % BUCKETS
    }

    /// Where a context is among the parts of a bundle, whatever its value is: see [`crate::delta`].
    pub fn place(&self, kind: &Kind, key: &Key) -> u32 {
        let (kind, key) = (kind.as_str().as_bytes(), key.as_str().as_bytes());
        let mut input = self.input(6, 32 + kind.len() + key.len());
        let hash = input.field(kind).field(key).finish();
        u32::from_le_bytes([hash.0[0], hash.0[1], hash.0[2], hash.0[3]])
    }

    /// What a tenant's bundle adds to the sums of a store.
    pub fn share(&self, tenant: &TenantId, bundle: &Digest) -> Share {
        Share {
            bucket: self.bucket(tenant),
            entry: self.entry(tenant, bundle),
        }
    }

    fn entry(&self, tenant: &TenantId, bundle: &Digest) -> u128 {
        let hash = self
            .input(4, 64)
            .field(tenant.as_str().as_bytes())
            .field(&bundle.0)
            .finish();
        u128::from_le_bytes(hash.0)
    }

    /// The root over all buckets.
    pub fn root(&self, buckets: &Buckets) -> Digest {
        let mut input = self.input(5, 1 + 16 * buckets.0.len());
        for sum in &buckets.0 {
            input.raw(&sum.to_le_bytes());
        }
        input.finish()
    }
}

/// What a tenant's bundle adds to the sums of every store that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    bucket: usize,
    entry: u128,
}

/// The bucket sums of one store (16 KiB). A tenant that is not there contributes nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets(Vec<u128>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Buckets({} in use)",
            self.0.iter().filter(|sum| **sum != 0).count()
        )
    }
}

impl Buckets {
    /// Counts a tenant's bundle in.
    pub fn add(&mut self, key: &DigestKey, tenant: &TenantId, bundle: &Digest) {
        self.add_share(key.share(tenant, bundle));
    }

    /// The same, of what was computed for another store already.
    pub fn add_share(&mut self, share: Share) {
        let sum = &mut self.0[share.bucket];
        *sum = sum.wrapping_add(share.entry);
    }

    /// Takes a tenant's bundle out again.
    pub fn remove(&mut self, key: &DigestKey, tenant: &TenantId, bundle: &Digest) {
        let sum = &mut self.0[key.bucket(tenant)];
        *sum = sum.wrapping_sub(key.entry(tenant, bundle));
    }

    /// The indexes at which two stores differ; every index if `other` came from outside with another length.
    pub fn differing(&self, other: &Self) -> Vec<u16> {
        let differs = |i: &u16| self.0.get(usize::from(*i)) != other.0.get(usize::from(*i));
        (0..BUCKETS as u16).filter(differs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DigestKey {
        DigestKey([7; 32])
    }

    fn name(text: &str) -> (Kind, Key) {
        (Kind::new("k").expect("kind"), Key::new(text).expect("key"))
    }

    /// However an input comes, and however much it is, its digest is that of all its bytes.
    #[test]
    fn an_input_that_is_hashed_in_pieces_has_the_digest_of_the_whole() {
        let lengths = [
            0,
            1,
            15,
            16,
            PIECE / 2,
            PIECE - 2,
            PIECE - 1,
            PIECE,
            PIECE + 1,
            3 * PIECE,
        ];
        for first in lengths {
            for second in lengths {
                let (a, b) = (vec![1; first], vec![2; second]);
                let key = key();
                let mut input = key.input(9, 10);
                let digest = input.raw(&a).raw(&b).raw(&a).finish();
                let whole = blake3::keyed_hash(&key.0, &[&[9], &a[..], &b, &a].concat());
                assert_eq!(digest.0, whole.as_bytes()[..16], "{first}, {second}");
            }
        }
    }

    #[test]
    fn a_context_digest_depends_on_every_field_and_on_the_key() {
        let (kind, k) = name("a");
        let base = key().context(&kind, &k, None, "1");
        let other = name("b");
        let variants = [
            key().context(&other.0, &other.1, None, "1"),
            key().context(&kind, &k, Some(0), "1"),
            key().context(&kind, &k, None, "2"),
            DigestKey([8; 32]).context(&kind, &k, None, "1"),
        ];
        assert!(variants.iter().all(|v| *v != base));
    }

    /// Fields as they are hashed, each behind its length.
    fn fields(fields: &[&[u8]]) -> Vec<u8> {
        let with_length = |field: &&[u8]| [&(field.len() as u64).to_le_bytes()[..], field].concat();
        fields.iter().flat_map(with_length).collect()
    }

    /// Stores have these digests on disk, and hubs and agents of several releases compare them: another encoding would be
    /// damage to every record, and another store everywhere.
    #[test]
    fn digests_are_of_the_bytes_that_they_always_were_of() {
        let hash = |bytes: &[u8]| blake3::keyed_hash(&[7; 32], bytes).as_bytes()[..16].to_vec();
        let (kind, k) = name("a");
        let context = key().context(&kind, &k, Some(5), "{}");
        let expires = 5_i64.to_le_bytes();
        let parts = fields(&[b"k", b"a", &expires, b"{}"]);
        assert_eq!(context.0[..], hash(&[&[1], &parts[..]].concat()));

        let held = [(&kind, &k, 2)].into_iter();
        let bundle = key().bundle([context].iter(), held, [&kind].into_iter());
        let (held, whole) = (fields(&[b"k", b"a", &[2]]), fields(&[b"k"]));
        let between = [0xff; 17];
        let parts = [&[2], &context.0[..], &between, &held, &between, &whole].concat();
        assert_eq!(bundle.0[..], hash(&parts));

        let tenant = TenantId::new("t").expect("a tenant");
        let place = hash(&[&[3], &fields(&[b"t"])[..]].concat());
        let place = usize::from(u16::from_le_bytes([place[0], place[1]])) % BUCKETS;
        assert_eq!(key().bucket(&tenant), place);
        let mut buckets = Buckets::default();
        buckets.add(&key(), &tenant, &bundle);
        let mut sums = vec![0; 16 * BUCKETS];
        let entry = hash(&[&[4], &fields(&[b"t", &bundle.0])[..]].concat());
        sums[16 * place..16 * place + 16].copy_from_slice(&entry);
        let root = hash(&[&[5], &sums[..]].concat());
        assert_eq!(key().root(&buckets).0[..], root);

        let place = hash(&[&[6], &fields(&[b"k", b"a"])[..]].concat());
        assert_eq!(key().place(&kind, &k).to_le_bytes(), place[..4]);
    }

    #[test]
    fn a_hold_is_not_the_same_as_absence_nor_as_another_class_of_hold() {
        let (kind, k) = name("a");
        let none = || std::iter::empty();
        let empty = key().bundle(none(), std::iter::empty(), std::iter::empty());
        let keeps = key().bundle(none(), [(&kind, &k, 1)].into_iter(), std::iter::empty());
        let yields = key().bundle(none(), [(&kind, &k, 2)].into_iter(), std::iter::empty());
        let whole = key().bundle(none(), std::iter::empty(), [&kind].into_iter());
        let all = [empty, keeps, yields, whole];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn buckets_do_not_depend_on_order_and_forget_what_is_removed() {
        let tenants: Vec<TenantId> = (0..50)
            .map(|i| TenantId::new(&format!("t{i}")).expect("tenant"))
            .collect();
        let digest = Digest([3; 16]);
        let (mut forward, mut backward) = (Buckets::default(), Buckets::default());
        tenants.iter().for_each(|t| forward.add(&key(), t, &digest));
        tenants
            .iter()
            .rev()
            .for_each(|t| backward.add(&key(), t, &digest));
        assert_eq!(forward, backward);
        backward.remove(&key(), &tenants[9], &digest);
        assert_eq!(
            forward.differing(&backward),
            vec![key().bucket(&tenants[9]) as u16]
        );
        tenants
            .iter()
            .for_each(|t| forward.remove(&key(), t, &digest));
        assert_eq!(forward, Buckets::default());
    }
}
