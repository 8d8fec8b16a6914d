//! A server that speaks the API of DynamoDB, for the tour, for benchmarks and for trying things out.
//!
//! ```sh
//! cargo run --bin dynamodb-server -- 127.0.0.1:8000 [FILE]
//! ```
//!
//! Without a file what it holds is gone when it ends. It lets everybody do everything: it listens on this machine only.

use std::net::SocketAddr;
use std::process::ExitCode;
use system_tests::Result;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let parsed = address.parse::<SocketAddr>();
    let local = parsed.ok().filter(|address| address.ip().is_loopback());
    let file = args.next();
    let (Some(local), None) = (local, args.next()) else {
        eprintln!(
            "dynamodb-server: {address:?} is no address of this machine; usage: dynamodb-server [127.0.0.1:PORT [FILE]]"
        );
        return ExitCode::from(2);
    };
    match serve(local, file).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dynamodb-server: {local}: {e}");
            ExitCode::from(1)
        }
    }
}

async fn serve(address: SocketAddr, file: Option<String>) -> Result<()> {
    let db = match file {
        Some(file) => dynoxide::Database::new(&file)?,
        None => dynoxide::Database::memory()?,
    };
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    let ended = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(dynoxide::server::serve_with_shutdown(listener, db, ended).await?)
}
