//! HTTP clients that trust a private CA and show a certificate.

use crate::files::{BadFile, Content, Identity, always, bad, certificates, identity, read, roots};
use crate::provider;
use crate::reload::Reloading;
use crate::server::ServerFiles;
use reqwest::{Client, ClientBuilder};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whom a client trusts, and as whom it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The CA, and no other; those of the system without it.
    pub ca: Option<PathBuf>,
    /// What is shown to whoever asks for a certificate.
    pub identity: Option<Identity>,
}

impl ClientFiles {
    fn paths(&self) -> Vec<PathBuf> {
        let identity = self.identity.iter().flat_map(|i| [&i.cert, &i.key]);
        identity.chain(&self.ca).cloned().collect()
    }

    /// A client, from what was read of [`ClientFiles::paths`].
    fn make(
        &self,
        read: &[Content],
        builder: ClientBuilder,
    ) -> Result<(Client, Option<i64>), BadFile> {
        let failed = |path: &Path, error: reqwest::Error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(next) = cause.source() {
                cause = next;
            }
            bad(path, cause.to_string())
        };
        let (mut builder, mut ends, mut rest) = (builder, None, read);
        if let (Some(_), [cert, key, others @ ..]) = (&self.identity, read) {
            ends = Some(identity(cert, key)?.1);
            let pem = [&cert.bytes[..], b"\n", &key.bytes].concat();
            let shown = reqwest::Identity::from_pem(&pem);
            builder = builder.identity(shown.map_err(|error| failed(&key.path, error))?);
            rest = others;
        }
        if let Some(ca) = rest.first() {
            roots(ca)?;
            let trusted = reqwest::Certificate::from_pem_bundle(&ca.bytes);
            let trusted = trusted.map_err(|error| failed(&ca.path, error))?;
            builder = builder.tls_certs_only(trusted);
        }
        let place = read.first().map_or(Path::new("TLS"), |file| &file.path);
        let client = builder.build().map_err(|error| failed(place, error))?;
        Ok((client, ends))
    }
}

/// A client with files as they are now.
///
/// # Errors
/// [`BadFile`] if they cannot be used.
pub fn client(files: &ClientFiles, builder: ClientBuilder) -> Result<Client, BadFile> {
    let contents: Result<Vec<_>, _> = files.paths().iter().map(|path| read(path)).collect();
    Ok(files.make(&contents?, builder)?.0)
}

/// A client that is made again when its files change. Connections of the one before are not used any more then.
pub fn reloading(
    name: &str,
    files: &ClientFiles,
    builder: fn() -> ClientBuilder,
) -> Reloading<Client> {
    let of = files.clone();
    let has_certificate = files.identity.is_some();
    Reloading::start(name, files.paths(), has_certificate, move |read| {
        of.make(read, builder())
    })
}

/// A client that trusts the very certificate that is in this file, whatever host names it has: for a command that asks a
/// program on the same machine whose configuration it reads. Where that asks for a certificate, it is shown its own.
///
/// # Errors
/// [`BadFile`] if a file cannot be used.
pub fn pinned(files: &ServerFiles, builder: ClientBuilder) -> Result<Client, BadFile> {
    let cert = files.identity.cert.as_path();
    let file = read(cert)?;
    let certificate = certificates(&file)?.swap_remove(0);
    let provider = provider();
    let only = Only {
        certificate,
        provider: provider.clone(),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(cert, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(only));
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(_) => {
            let shown = identity(&file, &read(&files.identity.key)?)?.0;
            config.with_client_cert_resolver(always(shown))
        }
    };
    let built = builder.tls_backend_preconfigured(config).build();
    built.map_err(|error| bad(cert, error.to_string()))
}

/// Accepts one certificate.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *shown == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
