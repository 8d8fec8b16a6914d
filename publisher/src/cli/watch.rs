//! `publisher status --watch`: the status again and again, in place on a terminal and one below the other elsewhere.
//!
//! A hub that cannot be reached is no reason to end: whoever watches wants to see it come back.

use super::{Exit, status};
use crate::status::Status;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// Seconds between two looks, unless somebody says otherwise.
pub(super) const DEFAULT: &str = "2";

/// Reads the seconds between two looks.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "write seconds, from 0.1 to 86400".to_owned())
}

/// Looks every so many seconds, until nobody reads it.
pub(super) async fn watch(
    seconds: f64,
    json: bool,
    look: impl AsyncFn() -> Result<Status, String>,
) -> Exit {
    let mut screen = Screen {
        in_place: std::io::stdout().is_terminal() && !json,
        json,
        last: None,
        away_since: None,
    };
    loop {
        let began = Instant::now();
        if !screen.show(look().await) {
            return Exit::Done;
        }
        let rest = Duration::from_secs_f64(seconds).saturating_sub(began.elapsed());
        tokio::time::sleep(rest).await;
    }
}

struct Screen {
    in_place: bool,
    json: bool,
    /// What was seen last, and when.
    last: Option<(String, Instant)>,
    away_since: Option<Instant>,
}

impl Screen {
    /// Shows a look; whether anybody reads it.
    fn show(&mut self, looked: Result<Status, String>) -> bool {
        let now = OffsetDateTime::now_utc();
        let (hour, minute, second) = now.to_hms();
        let time = format!("{hour:02}:{minute:02}:{second:02} UTC");
        let text = match (looked, self.json) {
            (Ok(status), true) => serde_json::to_string(&status).unwrap_or_default(),
            (Err(why), true) => json!({ "error": why }).to_string(),
            (Ok(status), false) => {
                self.away_since = None;
                let text = status::text(&status);
                self.last = Some((text.clone(), Instant::now()));
                format!("{time}\n{text}")
            }
            (Err(why), false) => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                let away = since.elapsed().as_secs();
                let mut text = format!("{time}  no answer for {away} s: {why}\n");
                if let (true, Some((last, at))) = (self.in_place, &self.last) {
                    let ago = at.elapsed().as_secs();
                    text += &format!("what it said {ago} s ago:\n\n{last}");
                }
                text
            }
        };
        let text = match self.in_place {
            true => in_place(&text, size()),
            false => format!("{}\n", text.trim_end()),
        };
        let mut out = std::io::stdout();
        let written = out.write_all(text.as_bytes());
        written.and_then(|()| out.flush()).is_ok()
    }
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let size = size.ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    size.map_or((24, 80), |s| (s.ws_row.into(), s.ws_col.into()))
}

/// Over what stood there, line by line, so that nothing flickers; what has no room is left out.
fn in_place(text: &str, (rows, columns): (usize, usize)) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let mut out = "\x1b[H".to_owned();
    for line in lines.iter().take(room) {
        out.extend(line.chars().take(columns));
        out += "\x1b[K\n";
    }
    if lines.len() > room {
        let left = lines.len() - room;
        out += &format!("... {left} more lines\x1b[K");
    }
    out + "\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a screen that scrolls, wraps, or keeps what stood there before.
    #[test]
    fn a_screen_is_drawn_over_the_one_before() {
        let drawn = in_place("one\nlonger\nthree\nfour", (3, 4));
        assert_eq!(
            drawn,
            "\x1b[Hone\x1b[K\nlong\x1b[K\n... 2 more lines\x1b[K\x1b[J"
        );
        assert_eq!(in_place("one", (24, 80)), "\x1b[Hone\x1b[K\n\x1b[J");
    }

    #[test]
    fn seconds_are_neither_nothing_nor_for_ever() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "1e9", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
