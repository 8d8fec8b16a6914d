//! Server-sent events as they arrive.

use reqwest::Response;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: String,
    /// The place in the stream after it, if it has one.
    pub id: Option<String>,
}

/// Longest event: a value of any size that a push can carry, and its names.
const MOST: usize = 600 << 20;

/// A stream of events over HTTP.
pub struct Events {
    response: Response,
    unread: Vec<u8>,
    at: usize,
}

impl Events {
    /// Of this answer.
    pub fn of(response: Response) -> Self {
        Self {
            response,
            unread: Vec::new(),
            at: 0,
        }
    }

    /// The next event; none if the stream ended.
    ///
    /// # Errors
    /// If the connection breaks, or what arrives is no text or has no end.
    pub async fn next(&mut self) -> Result<Option<Event>, String> {
        let mut event = Event::default();
        loop {
            match self.line()? {
                Some(line) if line.is_empty() => {
                    if !event.name.is_empty() || event.id.is_some() {
                        return Ok(Some(event));
                    }
                }
                Some(line) => event.add(&line),
                None => match self.response.chunk().await {
                    Ok(Some(chunk)) => {
                        self.unread.drain(..self.at);
                        self.at = 0;
                        self.unread.extend_from_slice(&chunk);
                        if self.unread.len() > MOST {
                            return Err("an event without an end".into());
                        }
                    }
                    Ok(None) => return Ok(None),
                    Err(error) => return Err(crate::client::chain(&error)),
                },
            }
        }
    }

    /// The next line, without its end; none if it is not all here.
    fn line(&mut self) -> Result<Option<String>, String> {
        let rest = &self.unread[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "a line that is no text")?;
        let line = line.trim_end_matches('\r').to_owned();
        self.at += end + 1;
        Ok(Some(line))
    }
}

impl Event {
    fn add(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => self.data.push_str(value),
            "id" => self.id = Some(value.to_owned()),
            _ => {}
        }
    }
}
