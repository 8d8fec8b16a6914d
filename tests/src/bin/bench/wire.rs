//! The cheapest clients there are, so that what is measured is the servers: one kept connection, blocking, one request
//! at a time. Postgres with prepared statements, and HTTP. Both are used alike on both sides of a comparison.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use system_tests::Result;

/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 3 << 16;
/// No answer takes longer, not even to a bulk update.
const PATIENCE: Duration = Duration::from_secs(300);

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A Postgres session of a server that trusts this machine.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Session {
    /// Connects to a database by its address.
    pub fn open(url: &str) -> Result<Self> {
        let url = reqwest::Url::parse(url)?;
        let stream = connect(url.port().unwrap_or(5432))?;
        let mut session = Self {
            stream,
            input: Vec::new(),
        };
        let mut startup = Vec::new();
        startup.extend(PROTOCOL.to_be_bytes());
        for text in [
            "user",
            url.username(),
            "database",
            url.path().trim_start_matches('/'),
        ] {
            startup.extend(text.as_bytes());
            startup.push(0);
        }
        startup.push(0);
        let mut message = length(startup.len())?.to_vec();
        message.extend(startup);
        session.stream.write_all(&message)?;
        session.answer()?;
        Ok(session)
    }

    /// Prepares a statement under a name.
    pub fn prepare(&mut self, name: &str, sql: &str) -> Result<()> {
        let mut parse = Vec::new();
        parse.extend(name.as_bytes());
        parse.push(0);
        parse.extend(sql.as_bytes());
        parse.extend([0, 0, 0]);
        let mut out = Vec::new();
        put(&mut out, b'P', &parse)?;
        put(&mut out, b'S', &[])?;
        self.stream.write_all(&out)?;
        self.answer()?;
        Ok(())
    }

    /// Runs a prepared statement as a transaction of its own; returns the first column of its first row.
    pub fn run(&mut self, name: &str, parameters: &[&str]) -> Result<Option<String>> {
        let mut bind = vec![0];
        bind.extend(name.as_bytes());
        // All parameters are text.
        bind.extend([0, 0, 0]);
        bind.extend(u16::try_from(parameters.len())?.to_be_bytes());
        for parameter in parameters {
            bind.extend(u32::try_from(parameter.len())?.to_be_bytes());
            bind.extend(parameter.as_bytes());
        }
        // So are all columns.
        bind.extend([0, 0]);
        let mut out = Vec::new();
        put(&mut out, b'B', &bind)?;
        put(&mut out, b'E', &[0, 0, 0, 0, 0])?;
        put(&mut out, b'S', &[])?;
        self.stream.write_all(&out)?;
        self.answer()
    }

    /// Runs statements without parameters; returns the first column of the first row.
    pub fn simple(&mut self, sql: &str) -> Result<Option<String>> {
        let mut query = sql.as_bytes().to_vec();
        query.push(0);
        let mut out = Vec::new();
        put(&mut out, b'Q', &query)?;
        self.stream.write_all(&out)?;
        self.answer()
    }

    /// Reads until the server is ready for the next request.
    fn answer(&mut self) -> Result<Option<String>> {
        let (mut value, mut error) = (None, None);
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'Z' => return error.map_or(Ok(value), |e: String| Err(e.into())),
                b'D' if value.is_none() => value = first_column(&body)?,
                b'E' => {
                    error = Some(message_of(&body));
                    // A refused connection ends here.
                    if message_of(&body).starts_with("FATAL") {
                        return Err(message_of(&body).into());
                    }
                }
                b'R' if body.get(..4) != Some(&[0, 0, 0, 0]) => {
                    return Err("Postgres wants a password of a benchmark".into());
                }
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>)> {
        fill(&mut self.stream, &mut self.input, 5)?;
        let mut size = [0; 4];
        size.copy_from_slice(&self.input[1..5]);
        let end = 1 + usize::try_from(u32::from_be_bytes(size))?;
        fill(&mut self.stream, &mut self.input, end)?;
        let rest = self.input.split_off(end);
        let message = std::mem::replace(&mut self.input, rest);
        Ok((message[0], message[5..].to_vec()))
    }
}

fn length(body: usize) -> Result<[u8; 4]> {
    Ok(u32::try_from(body + 4)?.to_be_bytes())
}

fn put(out: &mut Vec<u8>, kind: u8, body: &[u8]) -> Result<()> {
    out.push(kind);
    out.extend(length(body.len())?);
    out.extend(body);
    Ok(())
}

/// Reads until `input` has at least `size` bytes.
fn fill(stream: &mut TcpStream, input: &mut Vec<u8>, size: usize) -> Result<()> {
    let mut buffer = [0; 16 << 10];
    while input.len() < size {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(format!("{} closed the connection", stream.peer_addr()?).into());
        }
        input.extend(&buffer[..n]);
    }
    Ok(())
}

fn first_column(row: &[u8]) -> Result<Option<String>> {
    let size: [u8; 4] = row.get(2..6).ok_or("a row without columns")?.try_into()?;
    match usize::try_from(i32::from_be_bytes(size)) {
        Ok(size) => {
            let text = row.get(6..6 + size).ok_or("a short row")?;
            Ok(Some(String::from_utf8(text.to_vec())?))
        }
        // Minus one is NULL.
        Err(_) => Ok(None),
    }
}

/// `SEVERITY: message` of an error that Postgres sent.
fn message_of(body: &[u8]) -> String {
    let field = |kind: u8| {
        let found = body
            .split(|b| *b == 0)
            .find(|f| f.first() == Some(&kind))
            .unwrap_or_default();
        String::from_utf8_lossy(found.get(1..).unwrap_or_default()).into_owned()
    };
    format!("{}: {}", field(b'V'), field(b'M'))
}

/// A kept connection to an agent's read side.
#[derive(Debug)]
pub struct Http {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Http {
    /// Connects.
    pub fn open(port: u16) -> Result<Self> {
        let stream = connect(port)?;
        Ok(Self {
            stream,
            input: Vec::new(),
        })
    }

    /// `GET path`: the body of an answer 200.
    pub fn get(&mut self, path: &str) -> Result<String> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: agent\r\n\r\n"))
    }

    /// `POST path` with a JSON body: the body of an answer 200.
    pub fn post(&mut self, path: &str, body: &str) -> Result<String> {
        let size = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nhost: agent\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n{body}"
        ))
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        self.stream.write_all(request.as_bytes())?;
        let head_end = loop {
            let size = self.input.len();
            if let Some(at) = self.input.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            fill(&mut self.stream, &mut self.input, size + 1)?;
        };
        let head = String::from_utf8_lossy(&self.input[..head_end]).to_ascii_lowercase();
        let size: usize = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length:"))
            .ok_or_else(|| format!("an answer without a length: {head}"))?
            .trim()
            .parse()?;
        fill(&mut self.stream, &mut self.input, head_end + size)?;
        let rest = self.input.split_off(head_end + size);
        let answer = std::mem::replace(&mut self.input, rest);
        let body = String::from_utf8_lossy(&answer[head_end..]).into_owned();
        if head.starts_with("http/1.1 200") {
            Ok(body)
        } else {
            let status = head.lines().next().unwrap_or_default().to_owned();
            Err(format!("{status}: {body}").into())
        }
    }
}
