//! What the HTTP clients of this crate have in common. Readers, peers and the command line are clients; the agent's two
//! listeners are not, and must never use this.

use reqwest::{Client, ClientBuilder};

/// A client that goes nowhere but where it is sent.
pub fn builder() -> ClientBuilder {
    // The client wants a TLS provider even for plain HTTP. A second installation only says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy()
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
