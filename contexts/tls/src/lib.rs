//! TLS of both programs: certificates and keys from files, read again when they change.
//!
//! | module | is about |
//! | --- | --- |
//! | [`files`] | what the files say, and what is wrong with them |
//! | [`reload`] | something that is made from files, and made again when they change |
//! | [`server`] | a listener: handshakes beside one another, and connections that end with their certificate |
//! | [`client`] | HTTP clients that trust a private CA and show a certificate |
//! | [`trouble`] | what a failed handshake means, in words that stay the same as long as its cause does |
//!
//! It knows nothing of pushes, contexts or tokens. It must never show a key, never fall back to a connection that is not
//! encrypted, and never end a program because of a file that went bad while it ran: what was good last stays.

pub mod client;
pub mod files;
pub mod reload;
pub mod server;
pub mod trouble;

use rustls::crypto::{CryptoProvider, ring};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The only cryptography that is compiled in.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Seconds since 1970, as certificates count.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}

/// Whether nothing that is sent to this host leaves the machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["0.0.0.0", "10.1.0.7", "localhost.example", "[::]", "agent"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
