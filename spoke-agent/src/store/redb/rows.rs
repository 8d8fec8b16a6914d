//! Bytes to values and back. Nothing here panics on bytes that something else has changed: what cannot be read is an
//! error, or a record that does not agree with its hash.

use super::StoreError;
use contexts::apply::{Head, Owner, Record};
use contexts::bundle::Context;
use contexts::digest::{Digest, DigestKey};
use contexts::name::{Key, Kind, TenantId};
use serde::{Serialize, de::DeserializeOwned};

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged { what: what.into() }
}

/// Encodes a value of the model.
///
/// # Errors
/// Never for the types of this crate; postcard can refuse others.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_stdvec(value).map_err(|error| damaged(error.to_string()))
}

/// Decodes a value of the model.
///
/// # Errors
/// [`StoreError::Damaged`] names `what`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, StoreError> {
    postcard::from_bytes(bytes).map_err(|_| damaged(what))
}

/// A kind from the bytes of a key.
///
/// # Errors
/// [`StoreError::Damaged`] if they are no kind.
pub fn kind(bytes: &[u8]) -> Result<Kind, StoreError> {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| Kind::new(text).ok())
        .ok_or_else(|| damaged("the kind in a row"))
}

/// A key from the bytes of a key.
///
/// # Errors
/// [`StoreError::Damaged`] if they are no key.
pub fn key(bytes: &[u8]) -> Result<Key, StoreError> {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| Key::new(text).ok())
        .ok_or_else(|| damaged("the key in a row"))
}

/// A tenant from the bytes of a key or an owner.
///
/// # Errors
/// [`StoreError::Damaged`] if they are no tenant.
pub fn tenant(bytes: &[u8]) -> Result<TenantId, StoreError> {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| TenantId::new(text).ok())
        .ok_or_else(|| damaged("the tenant in a row"))
}

/// Any text from the bytes of a key.
///
/// # Errors
/// [`StoreError::Damaged`] if they are none.
pub fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| damaged("a name in a row"))
}

/// A head.
///
/// # Errors
/// [`StoreError::Damaged`] if the bytes are none.
pub fn head(bytes: &[u8]) -> Result<Head, StoreError> {
    decode(bytes, "the head of a bundle")
}

/// The bytes of a record.
pub fn record_bytes(record: &Record) -> Vec<u8> {
    let context = &record.context;
    let mut bytes = Vec::with_capacity(25 + context.value.len());
    bytes.extend(record.hash.0);
    match context.expires {
        None => bytes.push(0),
        Some(at) => {
            bytes.push(1);
            bytes.extend(at.to_le_bytes());
        }
    }
    bytes.extend(context.value.as_bytes());
    bytes
}

/// A record from its bytes. Bytes that are none give a record that disagrees with its hash.
pub fn record(kind: Kind, key: Key, bytes: &[u8]) -> Record {
    let (hash, expires, value) = record_parts(bytes).unwrap_or(([0; 16], None, bytes));
    Record {
        context: Context {
            kind,
            key,
            value: String::from_utf8_lossy(value).into(),
            expires,
        },
        hash: Digest(hash),
    }
}

fn record_parts(bytes: &[u8]) -> Option<([u8; 16], Option<i64>, &[u8])> {
    let (hash, rest) = bytes.split_first_chunk::<16>()?;
    let (expires, value) = match rest.split_first()? {
        (0, value) => (None, value),
        (_, rest) => {
            let (at, value) = rest.split_first_chunk::<8>()?;
            (Some(i64::from_le_bytes(*at)), value)
        }
    };
    Some((*hash, expires, value))
}

/// Kind and key of a row as text; none if they are no kind and no key.
pub fn name<'row>(kind: &'row [u8], key: &'row [u8]) -> Option<(&'row str, &'row str)> {
    let (kind, key) = (
        std::str::from_utf8(kind).ok()?,
        std::str::from_utf8(key).ok()?,
    );
    (Kind::is_one(kind) && Key::is_one(key)).then_some((kind, key))
}

/// The hash that the bytes of a record have, and the one that stands with them.
pub fn hashes(digest_key: &DigestKey, kind: &str, key: &str, bytes: &[u8]) -> (Digest, Digest) {
    let (stored, expires, value) = record_parts(bytes).unwrap_or(([0; 16], None, bytes));
    let value = String::from_utf8_lossy(value);
    let real = digest_key.context_of(kind, key, expires, &value);
    (real, Digest(stored))
}

/// Hash, `expires` and value of a record; none if they disagree.
pub fn sound<'row>(
    digest_key: &DigestKey,
    kind: &str,
    key: &str,
    bytes: &'row [u8],
) -> Option<(Digest, Option<i64>, &'row [u8])> {
    let (hash, expires, value) = record_parts(bytes)?;
    let text = std::str::from_utf8(value).ok()?;
    let real = digest_key.context_of(kind, key, expires, text);
    (real.0 == hash).then_some((real, expires, value))
}

/// The bytes of an owner: whether there is a value, then the tenant and those that wait, each after its length.
pub fn owner_bytes(owner: &Owner) -> Vec<u8> {
    let mut bytes = vec![u8::from(owner.has_value)];
    for tenant in std::iter::once(&owner.tenant).chain(&owner.waiting) {
        let name = tenant.as_str().as_bytes();
        // Names are checked to be far shorter than this field can say.
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name);
    }
    bytes
}

/// An owner from its bytes.
///
/// # Errors
/// [`StoreError::Damaged`] if they are none.
pub fn owner(bytes: &[u8]) -> Result<Owner, StoreError> {
    let wrong = || damaged("the owner of a key");
    let (flag, mut rest) = bytes
        .split_first()
        .filter(|(flag, _)| **flag <= 1)
        .ok_or_else(wrong)?;
    let mut tenants = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<2>().ok_or_else(wrong)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (name, behind) = behind.split_at_checked(length).ok_or_else(wrong)?;
        tenants.push(tenant(name)?);
        rest = behind;
    }
    let mut tenants = tenants.into_iter();
    let first = tenants.next().ok_or_else(wrong)?;
    Ok(Owner {
        tenant: first,
        has_value: *flag == 1,
        waiting: tenants.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(expires: Option<i64>) -> Record {
        let context = Context {
            kind: Kind::new("k").expect("kind"),
            key: Key::new("ä").expect("key"),
            value: "{\"a\":1}".into(),
            expires,
        };
        Record::new(context, &DigestKey([5; 32]))
    }

    #[test]
    fn records_come_back_as_they_were() {
        for expires in [None, Some(-1), Some(1_700_000_000_000_000)] {
            let before = example(expires);
            let (kind, key) = (before.context.kind.clone(), before.context.key.clone());
            assert_eq!(record(kind, key, &record_bytes(&before)), before);
        }
    }

    #[test]
    fn no_bytes_are_taken_for_a_sound_record_but_the_right_ones() {
        let before = example(Some(7));
        let bytes = record_bytes(&before);
        let read = |bytes: &[u8]| {
            let (kind, key) = (before.context.kind.clone(), before.context.key.clone());
            record(kind, key, bytes).is_sound(&DigestKey([5; 32]))
        };
        assert!(read(&bytes));
        for cut in 0..bytes.len() {
            assert!(!read(&bytes[..cut]), "cut at {cut}");
        }
        for at in (0..bytes.len()).filter(|at| *at != 16) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x80;
            assert!(!read(&wrong), "changed at {at}");
        }
    }

    #[test]
    fn an_owner_that_is_none_is_an_error() {
        for wrong in [&[][..], &[1], &[2, b't'], &[1, 0xff]] {
            assert!(owner(wrong).is_err());
        }
    }
}
