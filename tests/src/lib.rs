//! What the system tests and the tour share: a real Postgres, real processes, and ways to wait for a state.
//!
//! Every test has its own database, ports, folder and processes. Nothing here waits for a time to pass; it waits for a
//! condition, with a deadline that says what was waited for.

pub mod browser;
pub mod certificates;
pub mod gateway;
pub mod hub;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod region;
pub mod relay;
pub mod sample;
pub mod server;
pub mod table;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What goes wrong here is for whoever reads the test's output.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Asks `condition` until it has an answer.
///
/// # Errors
/// If it has none within `within`, naming `what` was waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    condition: impl FnMut() -> F,
) -> Result<T> {
    until_every(Duration::from_millis(5), what, within, condition).await
}

/// The same, of a condition that costs something to ask.
///
/// # Errors
/// As [`until`].
pub async fn until_every<T, F: Future<Output = Option<T>>>(
    pause: Duration,
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = condition().await {
                return answer;
            }
            tokio::time::sleep(pause).await;
        }
    };
    let asked = tokio::time::timeout(within, asking).await;
    asked.map_err(|_| format!("waited {within:?} in vain for {what}").into())
}

/// What is asked here has been answered long before, or never will be.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// A client that asks programs of this machine, and gives up one that says nothing for a minute. It needs the limit even
/// where the program is killed: a request that is handed to a connection in the moment in which that ends can be left
/// without an answer or an error (seen with hyper 1 over tokio's channel, whose last values go with the last sender).
///
/// # Errors
/// If it cannot be built.
pub fn client() -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy();
    builder.read_timeout(ANSWERED_WITHIN).build()
}

/// Ports below those that systems give to connections which do not ask for one. Who is killed and started again must not
/// find that a client was given its port meanwhile.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A free port of this machine, which no connection is given by chance.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    // Processes that run at once begin in different places.
    let first = std::process::id().wrapping_mul(64);
    let ports = || {
        PORTS.start + first.wrapping_add(DRAWN.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32
    };
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut drawn = (0..PORTS.len()).filter_map(|_| u16::try_from(ports()).ok());
    drawn.find(free).ok_or_else(|| "no port is free".into())
}
