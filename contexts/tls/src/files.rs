//! Certificates and keys in PEM form: what files say, and what is wrong with them.

use crate::provider;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct BadFile {
    /// The file.
    pub path: PathBuf,
    /// Why not, without what is in it.
    pub why: String,
}

pub(crate) fn bad(path: &Path, why: impl Into<String>) -> BadFile {
    let (path, why) = (path.to_owned(), why.into());
    BadFile { path, why }
}

/// A certificate (with those between it and its CA behind it) and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificates.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A file and what it held when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Content, BadFile> {
    let bytes = std::fs::read(path).map_err(|error| bad(path, error.to_string()))?;
    let path = path.to_owned();
    Ok(Content { path, bytes })
}

/// All certificates of a file, at least one.
pub(crate) fn certificates(file: &Content) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(bad(&file.path, "has no certificate in PEM form")),
    }
}

/// The CAs of a file.
pub(crate) fn roots(file: &Content) -> Result<RootCertStore, BadFile> {
    let mut store = RootCertStore::empty();
    for ca in certificates(file)? {
        let added = store.add(ca);
        added.map_err(|error| bad(&file.path, format!("is no CA: {error}")))?;
    }
    Ok(store)
}

/// A certificate that belongs to its key, and the moment at which the first of its chain expires, in seconds since 1970.
pub(crate) fn identity(cert: &Content, key: &Content) -> Result<(CertifiedKey, i64), BadFile> {
    let chain = certificates(cert)?;
    let ends = chain.iter().map(|one| expires(one));
    let ends = ends.min().flatten();
    let ends = ends.ok_or_else(|| bad(&cert.path, "has a certificate that cannot be read"))?;
    let key_der = PrivateKeyDer::from_pem_slice(&key.bytes);
    // The parser's own words may show what it read.
    let key_der = key_der.map_err(|_| bad(&key.path, "has no private key in PEM form"))?;
    let certified = CertifiedKey::from_der(chain, key_der, &provider()).map_err(|error| {
        let of = cert.path.display();
        let why = match error {
            rustls::Error::InconsistentKeys(_) => format!("is not the key of {of}"),
            other => format!("cannot be used with {of}: {other}"),
        };
        bad(&key.path, why)
    })?;
    Ok((certified, ends))
}

/// When a certificate expires, in seconds since 1970.
pub(crate) fn expires(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// One key for every handshake.
pub(crate) fn always(certified: CertifiedKey) -> Arc<rustls::sign::SingleCertAndKey> {
    Arc::new(rustls::sign::SingleCertAndKey::from(certified))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(name: &str, text: &str) -> Content {
        let bytes = text.as_bytes().to_vec();
        let path = name.into();
        Content { path, bytes }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_and_never_shown() {
        let made = || rcgen::generate_simple_self_signed(["a".to_owned()]).expect("made");
        let (one, other) = (made(), made());
        let cert = content("cert.pem", &one.cert.pem());
        let key = content("key.pem", &one.signing_key.serialize_pem());
        let (_, ends) = identity(&cert, &key).expect("fits");
        assert!(ends > crate::now());
        let others = content("key.pem", &other.signing_key.serialize_pem());
        let why = identity(&cert, &others).expect_err("does not fit");
        assert_eq!(why.to_string(), "key.pem: is not the key of cert.pem");
        let why = identity(&cert, &content("key.pem", "s3cret")).expect_err("no key");
        assert_eq!(why.to_string(), "key.pem: has no private key in PEM form");
        let why = identity(&content("cert.pem", ""), &key).expect_err("no certificate");
        assert_eq!(why.to_string(), "cert.pem: has no certificate in PEM form");
        assert!(roots(&key).is_err());
    }
}
