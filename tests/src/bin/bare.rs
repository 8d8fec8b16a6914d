//! The least server that can be built of the library that the agent answers with: one route, one body, always the same.
//! The yardstick for reads over HTTP.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::serve::ListenerExt;
use std::path::PathBuf;
use tokio::net::{TcpListener, UnixListener};

/// Bytes of the body; as many as the contexts of the benchmark have.
const BODY: usize = 300;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (port, socket) = (args.next().ok_or("a port")?, args.next().ok_or("a socket")?);
    let body: &'static str = "x".repeat(BODY).leak();
    let answer = move || async move { ([(CONTENT_TYPE, "application/json")], body) };
    let routes = Router::new().route("/v1/contexts/{kind}/{key}", get(answer));
    let tcp = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let tcp = tcp.tap_io(|stream| {
        // Without it answers are only later.
        let _ = stream.set_nodelay(true);
    });
    let unix = UnixListener::bind(PathBuf::from(socket))?;
    let over_unix = tokio::spawn(axum::serve(unix, routes.clone()).into_future());
    axum::serve(tcp, routes).await?;
    over_unix.await??;
    Ok(())
}
