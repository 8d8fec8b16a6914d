//! What a store knows of one key, in one allocation: a gateway's read touches little memory and copies nothing.
//!
//! ```text
//!   0      1          2         4            6           22         30
//!   state  kind (1)   key (2)   tenant (2)   digest(16)  expires(8) kind, key, tenant, value, version (16)
//!          lengths, little-endian
//! ```
//! The version stands there in a mirror of a store, and in a store for tenants that have few contexts. For the others it
//! follows from the tenant's head: a new version of a large bundle must not rewrite all of its contexts.

use super::trie::Entry;
use contexts::digest::Digest;
use contexts::version::Version;
use std::sync::Arc;

/// No value ever came, or the hub holds it without one.
const HELD: u8 = 0;
/// What is stored disagrees with its hash.
const DAMAGED: u8 = 1;
/// A value that never expires.
const VALUE: u8 = 2;
/// A value with a moment after which it is not answered.
const EXPIRING: u8 = 3;
/// Beside the others: the version follows the value.
const VERSIONED: u8 = 0x80;
/// Bytes of a version.
pub const VERSION: usize = 16;

const HEADER: usize = 30;

/// A key of which the store knows something. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Known(Arc<[u8]>);

/// What it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The key exists at the hub, and no good value ever came.
    Held,
    /// What is stored of it cannot be read.
    Damaged,
    /// There is a value.
    Value,
}

impl Known {
    /// A key with a value.
    pub fn value(
        kind: &str,
        key: &str,
        tenant: &str,
        value: &[u8],
        digest: Digest,
        expires: Option<i64>,
    ) -> Self {
        let state = if expires.is_some() { EXPIRING } else { VALUE };
        Self::pack(state, [kind, key, tenant], value, digest, expires)
    }

    /// The same, with the version that the value came with.
    pub fn with_version(&self, version: Version) -> Self {
        let all = self.versioned().map_or(&*self.0, |(all, _)| all);
        let mut bytes = [all, &version_bytes(version)].concat();
        bytes[0] |= VERSIONED;
        Self(bytes.into())
    }

    /// The version that the value came with, where it is known here.
    pub fn version(&self) -> Option<Version> {
        version_from(self.versioned()?.1)
    }

    fn versioned(&self) -> Option<(&[u8], &[u8])> {
        (self.0[0] & VERSIONED != 0).then(|| self.0.split_at(self.0.len() - VERSION))
    }

    /// A key as its bytes were, from [`Known::as_bytes`]; none if they are not whole.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let known = Self(bytes.into());
        let is_whole = bytes.len() >= HEADER && {
            let tail = if bytes[0] & VERSIONED != 0 {
                VERSION
            } else {
                0
            };
            known.ends().2 + tail <= bytes.len()
        };
        is_whole.then_some(known)
    }

    /// All of it, to be kept somewhere.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A key without a value that could be answered.
    pub fn nothing(kind: &str, key: &str, is_damaged: bool) -> Self {
        let state = if is_damaged { DAMAGED } else { HELD };
        Self::pack(state, [kind, key, ""], &[], Digest([0; 16]), None)
    }

    fn pack(
        state: u8,
        [kind, key, tenant]: [&str; 3],
        value: &[u8],
        digest: Digest,
        expires: Option<i64>,
    ) -> Self {
        // Names are checked to be far shorter than these fields can say, and a text that is no name is stored nowhere.
        let (kind_len, key_len, tenant_len) =
            (kind.len() as u8, key.len() as u16, tenant.len() as u16);
        let parts: [&[u8]; 9] = [
            &[state, kind_len],
            &key_len.to_le_bytes(),
            &tenant_len.to_le_bytes(),
            &digest.0,
            &expires.unwrap_or(0).to_le_bytes(),
            kind.as_bytes(),
            key.as_bytes(),
            tenant.as_bytes(),
            value,
        ];
        Self(parts.concat().into())
    }

    /// What is known.
    pub fn state(&self) -> State {
        match self.0[0] & !VERSIONED {
            HELD => State::Held,
            DAMAGED => State::Damaged,
            _ => State::Value,
        }
    }

    fn number(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    /// Where kind, key and tenant end.
    fn ends(&self) -> (usize, usize, usize) {
        let kind = HEADER + usize::from(self.0[1]);
        let key = kind + self.number(2);
        (kind, key, key + self.number(4))
    }

    fn names(&self) -> (&[u8], &[u8]) {
        let (kind, key, _) = self.ends();
        (&self.0[HEADER..kind], &self.0[kind..key])
    }

    /// The kind.
    pub fn kind(&self) -> &str {
        text(self.names().0)
    }

    /// The key.
    pub fn key(&self) -> &str {
        text(self.names().1)
    }

    /// Whose it is; empty where there is no value.
    pub fn tenant(&self) -> &str {
        text(self.tenant_bytes())
    }

    /// Whether it is a value of another tenant than this one.
    pub fn is_of_another(&self, tenant: &str) -> bool {
        self.state() == State::Value && self.tenant() != tenant
    }

    /// The same as bytes, to look for.
    pub fn tenant_bytes(&self) -> &[u8] {
        let (_, key, tenant) = self.ends();
        &self.0[key..tenant]
    }

    /// The value, JSON in UTF-8; empty where there is none.
    pub fn bytes(&self) -> &[u8] {
        let all = self.versioned().map_or(&*self.0, |(all, _)| all);
        &all[self.ends().2..]
    }

    /// The digest of the value.
    pub fn digest(&self) -> Digest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.0[6..22]);
        Digest(digest)
    }

    /// The moment after which it is not answered, in microseconds since 1970.
    pub fn expires(&self) -> Option<i64> {
        let mut at = [0; 8];
        at.copy_from_slice(&self.0[22..HEADER]);
        (self.0[0] & !VERSIONED == EXPIRING).then(|| i64::from_le_bytes(at))
    }

    /// Whether readers must not answer it any more. The clock is asked for few.
    pub fn is_expired(&self, wall_micros: impl FnOnce() -> i64) -> bool {
        self.expires().is_some_and(|at| at <= wall_micros())
    }

    /// Bytes of memory, roughly.
    pub fn weight(&self) -> usize {
        // The counts of the `Arc`, the allocator's own, and the entry's part of the map.
        self.0.len() + 16 + 16 + 40
    }
}

/// A version, packed.
pub fn version_bytes(version: Version) -> [u8; VERSION] {
    let mut bytes = [0; VERSION];
    bytes[..8].copy_from_slice(&version.epoch.to_le_bytes());
    bytes[8..].copy_from_slice(&version.n.to_le_bytes());
    bytes
}

/// The version that these bytes begin with.
pub fn version_from(bytes: &[u8]) -> Option<Version> {
    let (epoch, rest) = bytes.split_first_chunk::<8>()?;
    let (n, _) = rest.split_first_chunk::<8>()?;
    Some(Version {
        epoch: u64::from_le_bytes(*epoch),
        n: u64::from_le_bytes(*n),
    })
}

/// What went in as text comes out as text.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Known({} {:?}, {:?})",
            self.kind(),
            self.key(),
            self.state()
        )
    }
}

impl Entry for Known {
    type Name<'a> = (&'a [u8], &'a [u8]);

    fn name(&self) -> (&[u8], &[u8]) {
        self.names()
    }

    fn is(&self, name: (&[u8], &[u8])) -> bool {
        self.names() == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        for expires in [None, Some(-1), Some(1_700_000_000_000_000)] {
            let known = Known::value("k", "ä", "t", b"{}", Digest([7; 16]), expires);
            assert_eq!(known.state(), State::Value);
            assert_eq!((known.kind(), known.key(), known.tenant()), ("k", "ä", "t"));
            assert_eq!(
                (known.bytes(), known.digest()),
                (&b"{}"[..], Digest([7; 16]))
            );
            assert_eq!(known.expires(), expires);
        }
        let known = Known::value("k", "ä", "t", b"{}", Digest([7; 16]), Some(5));
        let version = Version {
            epoch: 3,
            n: 1 << 40,
        };
        let versioned = known.with_version(version);
        assert_eq!(
            (versioned.version(), versioned.bytes()),
            (Some(version), &b"{}"[..])
        );
        assert_eq!(
            (versioned.state(), versioned.expires()),
            (State::Value, Some(5))
        );
        assert_eq!(versioned.with_version(version), versioned);
        assert_eq!(
            Known::from_bytes(versioned.as_bytes()),
            Some(versioned.clone())
        );
        for cut in 0..versioned.as_bytes().len() - 2 {
            assert_eq!(Known::from_bytes(&versioned.as_bytes()[..cut]), None);
        }
        let long = "k".repeat(contexts::limits::KEY_BYTES);
        let held = Known::nothing("kind", &long, false);
        assert_eq!(
            (held.kind(), held.key(), held.bytes()),
            ("kind", &*long, &b""[..])
        );
        assert_eq!(held.state(), State::Held);
        assert_eq!(Known::nothing("k", "a", true).state(), State::Damaged);
    }

    #[test]
    fn it_expires_at_the_moment_itself() {
        let known = Known::value("k", "a", "t", b"1", Digest([0; 16]), Some(100));
        assert!(!known.is_expired(|| 99) && known.is_expired(|| 100));
    }
}
