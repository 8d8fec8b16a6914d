//! The hub's configuration: one TOML file, checked whole before anything is opened.
//!
//! What shapes content is only *proposed* here: `migrate` puts it into the database, and builds read it there.

mod env;
mod keys;
mod model;
mod schema;
mod spoke;
mod tls;

pub use model::{
    ApiToken, Config, ContextConfig, HubConfig, Role, SpokeConfig, StoreConfig, Watch,
};

pub use schema::Compiled;

use std::path::{Path, PathBuf};

/// Why a configuration cannot be used. One line, which names the file and the place.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// It is not TOML, or a value has the wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value is wrong.
    #[error("{}: {place}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The key.
        place: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// Something wrong at a key, before the file is named.
#[derive(Debug)]
struct Fault {
    place: String,
    message: String,
}

fn fault(place: impl Into<String>, message: impl Into<String>) -> Fault {
    Fault {
        place: place.into(),
        message: message.into(),
    }
}

/// Reads and checks a configuration. With `insecure` as if it said `hub.insecure = true`.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn load(path: &Path, insecure: bool) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text, &|name| std::env::var(name).ok(), insecure)
}

/// Checks the text of a configuration; `variable` looks up the environment.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn parse(
    path: &Path,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    insecure: bool,
) -> Result<Config, ConfigError> {
    let malformed = |e: &toml::de::Error| ConfigError::Malformed {
        path: path.to_owned(),
        line: e.span().map_or(1, |s| {
            text[..s.start.min(text.len())].matches('\n').count() + 1
        }),
        message: plain(e.message()),
    };
    let wrong = |f: Fault| ConfigError::Wrong {
        path: path.to_owned(),
        place: f.place,
        message: f.message,
    };
    let mut table: toml::Table = text.parse().map_err(|e| malformed(&e))?;
    keys::check(&table).map_err(|f| match keys::line_of(text, &f.place) {
        Some(line) => ConfigError::Malformed {
            path: path.to_owned(),
            line,
            message: f.message,
        },
        None => wrong(f),
    })?;
    // Types first, on the text as written, because only then are lines known.
    let _: model::RawConfig = toml::from_str(text).map_err(|e| malformed(&e))?;
    env::expand(&mut table, path, variable).map_err(wrong)?;
    let raw: model::RawConfig = table.try_into().map_err(|e| malformed(&e))?;
    let mut config = model::check(raw).map_err(wrong)?;
    tls::relative_to(path.parent().unwrap_or(Path::new(".")), &mut config);
    if !(insecure || config.hub.insecure) {
        tls::none_is_plain(&config).map_err(|f| match keys::line_at(text, &f.place) {
            Some(line) => ConfigError::Malformed {
                path: path.to_owned(),
                line,
                message: format!("{}: {}", f.place, f.message),
            },
            None => wrong(f),
        })?;
    }
    for (i, context) in config.contexts.iter_mut().enumerate() {
        let Some(file) = context.schema.take() else {
            continue;
        };
        let place = format!("context[{i}].schema");
        let read = schema::read(place, path, &file);
        let schema = read.map_err(|f| match keys::line_in(text, "context", i, "schema") {
            Some(line) => ConfigError::Malformed {
                path: path.to_owned(),
                line,
                message: format!("{}: {}", f.place, f.message),
            },
            None => wrong(f),
        })?;
        context.schema = Some(schema);
    }
    Ok(config)
}

/// What the parser says, in one line and in the words of TOML rather than of Rust.
fn plain(message: &str) -> String {
    const WORDS: &[(&str, &str)] = &[
        ("\n", "; "),
        ("expected a sequence", "expected a list"),
        ("invalid type: sequence", "invalid type: a list"),
        ("invalid type: map", "invalid type: a table"),
        (
            "expected u64",
            "expected a whole number that is not negative",
        ),
        ("missing field", "missing key"),
    ];
    let words = WORDS.iter();
    words.fold(message.trim().to_owned(), |text, (from, to)| {
        text.replace(from, to)
    })
}

#[cfg(test)]
mod tests;
