//! What a failed handshake means. Words stay the same as long as the cause does, with no times and no counts in them, so
//! that whoever logs only news logs it once.

use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
use std::error::Error;
use std::io;

/// What went wrong, as a word for a metric and as a sentence whose subject is the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// A word.
    pub reason: &'static str,
    /// A sentence without a full stop.
    pub text: &'static str,
}

/// All words that [`Trouble`] can have.
pub const REASONS: [&str; 7] = [
    "expired",
    "unknown_ca",
    "no_certificate",
    "wrong_certificate",
    "refused",
    "not_tls",
    "timeout",
];

/// The other side did not end its handshake in time.
pub const SILENT: Trouble = trouble("timeout", "it does not end its handshake");
/// For whatever ends a connection in the middle of a handshake.
pub const BROKE: Trouble = trouble("not_tls", "it broke off the handshake");

const fn trouble(reason: &'static str, text: &'static str) -> Trouble {
    Trouble { reason, text }
}

/// What TLS has to do with an error; none if it has nothing.
pub fn of(error: &(dyn Error + 'static)) -> Option<Trouble> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(tls) = error.downcast_ref::<Tls>() {
            return Some(meaning(tls));
        }
        // An I/O error passes over what it holds when it is asked for its source.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        at = match held {
            Some(held) => Some(held as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn meaning(error: &Tls) -> Trouble {
    match error {
        Tls::InvalidCertificate(bad) => certificate(bad),
        Tls::AlertReceived(alert) => alerted(*alert),
        Tls::NoCertificatesPresented => trouble("no_certificate", "it shows no certificate"),
        Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } => trouble(
            "not_tls",
            "it does not speak TLS; is it http rather than https?",
        ),
        Tls::PeerIncompatible(_) => {
            trouble("not_tls", "it speaks no version of TLS that is known here")
        }
        _ => BROKE,
    }
}

fn certificate(bad: &Bad) -> Trouble {
    match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => {
            trouble("expired", "its certificate has expired")
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => trouble(
            "wrong_certificate",
            "its certificate is not valid yet; are the clocks right?",
        ),
        Bad::UnknownIssuer | Bad::BadSignature => trouble(
            "unknown_ca",
            "its certificate is not from the CA that is trusted here",
        ),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => trouble(
            "wrong_certificate",
            "its certificate is for other hosts than the one of this address",
        ),
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => trouble(
            "wrong_certificate",
            "its certificate is not meant for this side of a connection",
        ),
        Bad::ApplicationVerificationFailure => trouble(
            "wrong_certificate",
            "its certificate is not the one of the configuration; was a new one not taken?",
        ),
        _ => trouble("wrong_certificate", "its certificate is not accepted"),
    }
}

fn alerted(alert: Alert) -> Trouble {
    match alert {
        Alert::CertificateExpired => trouble("refused", "it refuses our certificate as expired"),
        Alert::UnknownCA => trouble(
            "refused",
            "it refuses our certificate, which is not from the CA that it trusts",
        ),
        Alert::CertificateRequired => {
            trouble("refused", "it asks for a certificate, and we have none")
        }
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
            trouble("refused", "it refuses our certificate")
        }
        _ => trouble("refused", "it refuses the handshake"),
    }
}
