//! A way into a network namespace: accepts connections from the listener that is its standard input, which was made
//! outside, and passes them on to a port of the machine inside.

use std::os::fd::AsFd;
use system_tests::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let port: u16 = std::env::args().nth(1).ok_or("which port?")?.parse()?;
    let listener = std::net::TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut outside, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Ok(mut inside) = TcpStream::connect(("127.0.0.1", port)).await {
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}
