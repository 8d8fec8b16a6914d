//! R3: reads over HTTP, by TCP and by Unix socket, beside a server that always answers the same.

use super::push::{KIND, VALUE_BYTES};
use crate::clock;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use system_tests::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

/// How long one side is asked at a time.
const TURN: Duration = Duration::from_millis(500);
/// Turns of each side in a round. Which processor the system gives to whom changes with every connection and moves the
/// rate of a single one several times over, so a round is of many connections, in turns.
const TURNS: u32 = 6;

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// A port of this machine.
    Tcp(u16),
    /// A Unix socket.
    Unix(PathBuf),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Address {
    async fn open(&self) -> Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// Requests for these keys, as they go over the wire.
pub fn requests(keys: &[String]) -> Arc<Vec<Vec<u8>>> {
    let request = |key| format!("GET /v1/contexts/{KIND}/{key} HTTP/1.1\r\nHost: agent\r\n\r\n");
    Arc::new(keys.iter().map(|key| request(key).into_bytes()).collect())
}

/// Answered requests per second over so many connections, each with one request at a time, of the one side and the other.
pub async fn rates(
    sides: [&Address; 2],
    connections: usize,
    requests: &Arc<Vec<Vec<u8>>>,
) -> Result<(f64, f64)> {
    let mut rates = [0.0; 2];
    for turn in 0..TURNS {
        // Who begins changes from turn to turn.
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            rates[side] += rate(sides[side], connections, requests).await? / f64::from(TURNS);
        }
    }
    Ok((rates[0], rates[1]))
}

async fn rate(address: &Address, connections: usize, requests: &Arc<Vec<Vec<u8>>>) -> Result<f64> {
    let answered = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for number in 0..connections {
        let (address, requests, answered) = (address.clone(), requests.clone(), answered.clone());
        tasks.spawn(async move {
            let mut stream = address.open().await?;
            let mut buffer = Vec::with_capacity(4_096);
            let mut at = number * 7_919;
            while begin.elapsed() < TURN {
                clock::go_on()?;
                at = (at + 1) % requests.len();
                stream.write_all(&requests[at]).await?;
                read_answer(&mut stream, &mut buffer).await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(answered.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

/// Reads one answer, which must be a value.
async fn read_answer(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err("a server closed the connection".into());
        }
        let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
            continue;
        };
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return Err(format!("not a value: {}", String::from_utf8_lossy(buffer)).into());
        }
        if buffer.len() >= end + 4 + VALUE_BYTES {
            return Ok(());
        }
    }
}
