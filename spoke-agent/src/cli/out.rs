//! Where results go: stdout, which somebody may close before the end (`| head`).

use std::io::{self, BufWriter, Stdout, StdoutLock, Write};

/// Why nothing more is printed.
#[derive(Debug)]
pub enum Stop {
    /// Whoever reads has enough; nothing is wrong.
    Closed,
    /// One line that says what is wrong.
    Failed(String),
}

impl From<String> for Stop {
    fn from(line: String) -> Self {
        Self::Failed(line)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(format!("the result cannot be printed: {error}")),
        }
    }
}

/// Stdout, gathered into larger writes.
pub fn buffered(stdout: &Stdout) -> BufWriter<StdoutLock<'_>> {
    BufWriter::with_capacity(64 << 10, stdout.lock())
}

/// Prints one line.
///
/// # Errors
/// As writing to stdout fails.
pub fn line(text: &str) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// A name as one word of a line: without tabs, ends of lines, or anything that a terminal would obey.
pub fn word(name: &str) -> String {
    let mut word = String::with_capacity(name.len());
    for c in name.chars() {
        match c.is_control() {
            true => word.extend(c.escape_default()),
            false => word.push(c),
        }
    }
    word
}

/// JSON without the spaces between its parts, digit for digit.
pub fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_text, mut is_escaped) = (false, false);
    for c in json.chars() {
        if in_text {
            in_text = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_text = c == '"';
        }
        match c.is_control() {
            // Only one that JSON allows within text.
            true => compact.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => compact.push(c),
        }
    }
    compact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_digits_and_its_texts() {
        let json = "{ \"a b\": [1.50, \"x\\\" \\\\\" , \n null],\t\"c\":\"\u{9b}\" }";
        let expected = "{\"a b\":[1.50,\"x\\\" \\\\\",null],\"c\":\"\\u009b\"}";
        assert_eq!(compact(json), expected);
    }

    #[test]
    fn names_stay_one_word_that_no_terminal_obeys() {
        assert_eq!(word("a\tb\u{1b}ü c"), "a\\tb\\u{1b}ü c");
    }
}
