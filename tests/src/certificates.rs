//! Certificates: a set as `publisher certs` makes it, and others of the same CA in the place of some of them.

use crate::Result;
use crate::process::program;
use hubcast_tls::client::{ClientFiles, client};
use hubcast_tls::files::Identity;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use std::process::Command;
use time::{Duration, OffsetDateTime};

/// A CA and what it signed.
#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// A new set in this folder, for agents of these regions that listen on loopback.
    ///
    /// # Errors
    /// If the program cannot be run, or says no.
    pub fn new(dir: &Path, regions: &[&str]) -> Result<Self> {
        let mut command = Command::new(program("publisher")?);
        command.arg("certs").arg("--out").arg(dir);
        for region in regions {
            command.args(["--region", region]);
        }
        let output = command.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        let dir = dir.to_owned();
        Ok(Self { dir })
    }

    /// The file of a certificate (`hub`, `ca`, `agents-eu-west-1`), or of a key, with `-key` behind it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }

    /// The certificate and the key of a name.
    pub fn identity(&self, name: &str) -> Identity {
        Identity {
            cert: self.file(name),
            key: self.file(&format!("{name}-key")),
        }
    }

    /// The keys of an agent's configuration for its push listener, as flags.
    pub fn push_flags(&self, region: &str) -> Vec<String> {
        let Identity { cert, key } = self.identity(&format!("agents-{region}"));
        let files = [
            ("--push-cert", cert),
            ("--push-key", key),
            ("--push-client-ca", self.file("ca")),
        ];
        let words = files.map(|(flag, file)| [flag.to_owned(), file.display().to_string()]);
        words.into_iter().flatten().collect()
    }

    /// The line of `[hub]` with which it trusts agents and shows them its certificate.
    pub fn hub_line(&self) -> String {
        let Identity { cert, key } = self.identity("hub");
        format!(
            "spoke_tls = {{ ca = {:?}, cert = {cert:?}, key = {key:?} }}",
            self.file("ca")
        )
    }

    /// Puts another certificate of this CA in the place of one, with another key, good for so long from now on. One file
    /// after the other: for a moment they do not fit together, as it is when people do it.
    ///
    /// # Errors
    /// If files cannot be read or written.
    pub fn renew(&self, name: &str, good_for: Duration) -> Result<()> {
        let ca_key = KeyPair::from_pem(&std::fs::read_to_string(self.file("ca-key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(self.file("ca"))?, ca_key)?;
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(hosts)?;
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::DAY, now + good_for);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        let Identity {
            cert,
            key: key_file,
        } = self.identity(name);
        std::fs::write(key_file, key.serialize_pem())?;
        std::fs::write(cert, certificate.pem())?;
        Ok(())
    }

    /// A client that trusts this CA, and shows the certificate of a name of `shows`, if there is one.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn client(&self, shows: Option<(&Self, &str)>) -> Result<reqwest::Client> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let files = ClientFiles {
            ca: Some(self.file("ca")),
            identity: shows.map(|(set, name)| set.identity(name)),
        };
        Ok(client(&files, reqwest::Client::builder().no_proxy())?)
    }
}
